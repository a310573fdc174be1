"""What async tasks print and log is in their own log, whoever runs beside them."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.printed import TOTAL_LINES, routed
from dihedral.bridge.tasks.registry import TaskContext
from dihedral.bridge.tasks.runs import Completed, NodeRun, RunControl
from tests.support.in_process import RecordedEvents
from tests.support.stack import Stack


class Words(msgspec.Struct):
    words: list[str] = []
    lines: int = 0


@tasks.task(id="chatter", label="chatter", description="prints and logs")
async def chatter(params: Words, ctx: TaskContext) -> Any:
    for word in params.words:
        print(word, end="")
        await asyncio.sleep(0)
        print(f" of {ctx.node_id}")
        print(word, "again", file=sys.stderr)
        logging.getLogger("a.library").warning("%s\nin two lines", word)
    for number in range(params.lines):
        print("line", number)
    await asyncio.create_task(child())
    print("no end", end="")
    return {}


async def child() -> None:
    print("from a child")


REGISTRY = tasks.collect(["tests.bridge.test_printed"], plugins=False)


async def run(node: str, **params: Any) -> list[tuple[str, str]]:
    heard = RecordedEvents()
    one = NodeRun(
        job_id="job", node_id=node, task="chatter", attempt=1, nonce="x", params=params, timeout_seconds=60
    )  # fmt: skip
    assert isinstance(await run_light(REGISTRY, one, None, heard, RunControl()), Completed)
    return heard.lines


async def test_what_two_tasks_print_and_log_at_once_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with routed():
        one, two = await asyncio.gather(run("one", words=["a"]), run("two", words=["b"]))
        print("of nobody")
    for lines, word, node in ((one, "a", "one"), (two, "b", "two")):
        assert lines == [
            ("stdout", f"{word} of {node}"),
            ("stderr", f"{word} again"),
            ("warning", word),
            ("warning", "in two lines"),
            ("stdout", "from a child"),
            ("stdout", "no end"),
        ]
    assert capsys.readouterr().out == "of nobody\n"


async def test_what_a_run_prints_is_bounded_and_the_rest_counted() -> None:
    with routed():
        lines = await run("one", lines=TOTAL_LINES + 500)
    assert len(lines) == TOTAL_LINES + 1
    assert lines[-1] == ("warning", "502 lines of output were left out")


MODULE = """
import logging
import msgspec
from dihedral import TaskContext, task

class Nothing(msgspec.Struct):
    pass

class Said(msgspec.Struct):
    ok: bool

@task(description="prints and logs")
async def chatters(params: Nothing, ctx: TaskContext) -> Said:
    print("printed")
    logging.getLogger("a.library").warning("logged")
    return Said(True)
"""


def test_a_workers_async_tasks_print_into_their_log(tmp_path: Path) -> None:
    (tmp_path / "talks.py").write_text(MODULE)
    house = Stack(tmp_path)
    try:
        house.worker("--tasks", "talks")
        node = {"id": "a", "task": "chatters", "plane": "python"}
        job = house.post("/api/jobs", {"graph": {"schema": "langgraph.v1", "nodes": [node]}})["jobId"]
        assert house.ended(job)["status"] == "completed"
        lines = [(each["level"], each["message"]) for each in house.events(job) if each["type"] == "log"]
        assert lines == [("stdout", "printed"), ("warning", "logged")]
    finally:
        house.close()
