"""Where the media tasks run in tests: as a worker runs them, through the registry, with a real store, saying what they do."""

import asyncio
import json
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

from bridge import artifacts
from bridge.running import NodeOutcome, NodeRun, run_plain
from bridge.tasks import Registry, collect


class Heard:
    """Emit: keeps what a task says."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.logged: list[tuple[str, str]] = []

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def data(self, name: str, payload: dict[str, Any]) -> None:
        self.published.append((name, payload))

    def log(self, level: str, message: str) -> None:
        self.logged.append((level, message))


class Place:
    """Runs tasks in this thread, the store on the loop of another, as a slot does."""

    def __init__(self, store: artifacts.ArtifactStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store, self.loop = store, loop
        self.registry: Registry = collect(
            f"data_plane.tasks.{name}" for name in ("train_image_lora", "train_voice", "render_video")
        )

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def upload(self, path: Path) -> dict[str, str]:
        self.wait(self.store.put("inputs", path.name, path, content_type="x/y", job_id=None, node_id=None))
        return {"bucket": "inputs", "key": path.name}

    def download(self, reference: dict[str, str], to: Path) -> Path:
        self.wait(self.store.fetch(reference["bucket"], reference["key"], to))
        return to

    def run(
        self, task: str, params: dict[str, Any], cancelled: Callable[[], bool] = lambda: False
    ) -> tuple[NodeOutcome, Heard]:
        heard = Heard()
        run = NodeRun(job_id="job", node_id=task, task=task, attempt=1, nonce="n1", params=params, timeout_seconds=60.0)
        outcome = run_plain(self.registry, run, lambda: self.store, heard, cancelled, loop=lambda: self.loop)
        return outcome, heard

    def output(self, task: str, params: dict[str, Any]) -> tuple[dict[str, Any], Heard]:
        outcome, heard = self.run(task, params)
        assert outcome.status == "completed", outcome.error
        assert heard.logged == []
        assert outcome.output is not None
        assert all(later >= earlier for earlier, later in pairwise(heard.fractions))
        assert heard.fractions[-1] == 1.0
        assert [meta.job_id for meta in outcome.artifacts] == ["job"]
        return json.loads(outcome.output), heard

    def refused(self, task: str, params: dict[str, Any]) -> str:
        outcome, _ = self.run(task, params)
        assert (outcome.status, outcome.retryable, outcome.artifacts) == ("failed", False, [])
        assert outcome.error is not None
        assert outcome.error.code == "invalid_input"
        return outcome.error.message
