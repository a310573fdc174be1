"""A task that takes its worker along: an async one, which runs in the worker's own process. No task of ours does that."""

import os
import signal
from pathlib import Path
from typing import Any

from msgspec import Struct

from dihedral.bridge.tasks.registry import TaskContext, task


class Nothing(Struct):
    pass


@task(id="lethal")
async def lethal(params: Nothing, ctx: TaskContext) -> None:
    """Kills the process that it runs in."""
    os.kill(os.getpid(), signal.SIGKILL)


def module_in(directory: Path) -> str:
    """Puts this module where a worker that is started there finds it; its name."""
    (directory / "lethal.py").write_text(Path(__file__).read_text())
    return "lethal"


def submission(job: str | None = None) -> dict[str, Any]:
    graph = {"schema": "langgraph.v1", "nodes": [{"id": "deadly", "task": "lethal", "plane": "python"}], "edges": []}
    return {"graph": graph if job is None else {**graph, "workflowId": job}}
