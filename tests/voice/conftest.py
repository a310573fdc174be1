"""The array modules that every kernel has to run with, and a place where tasks run as a worker runs them."""

import asyncio
import importlib
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge import artifacts
from bridge.running import NodeOutcome, NodeRun, run_plain
from bridge.tasks import collect
from schemas.structs.settings import ArtifactsSettings


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


class Heard:
    """Emit: keeps what a task says."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.published: list[tuple[str, dict[str, Any]]] = []
        self.lines: list[str] = []

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def data(self, name: str, payload: dict[str, Any]) -> None:
        self.published.append((name, payload))

    def log(self, level: str, message: str) -> None:
        self.lines.append(message)

    def waits(self, reason: str) -> None:
        assert not reason, "nothing here needs device memory"

    def curve(self) -> list[float]:
        """The log-likelihoods, whose iterations have to be counted from 1."""
        said = [payload for name, payload in self.published if name == "logLikelihood"]
        assert [each["iteration"] for each in said] == list(range(1, len(said) + 1))
        return [each["logLikelihood"] for each in said]


class Place:
    """Runs a task in this thread, the store on the loop of another, as a slot does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry = collect(
            (f"data_plane.tasks.{name}" for name in ("train_voice", "compare_voice")), plugins=False
        )
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.store = self.wait(self._open())

    async def _open(self) -> artifacts.ArtifactStore:
        return artifacts.open_store(ArtifactsSettings(directory=str(self.directory)))

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.wait(self.store.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def upload(self, source: Path | bytes, name: str = "", bucket: str = "inputs") -> dict[str, str]:
        key = name or (source.name if isinstance(source, Path) else "file")
        self.wait(self.store.put(bucket, key, source, content_type="x/y", job_id=None, node_id=None))
        return {"bucket": bucket, "key": key}

    def download(self, reference: dict[str, str], to: Path) -> Path:
        self.wait(self.store.fetch(reference["bucket"], reference["key"], to))
        return to

    def run(
        self, task: str, params: dict[str, Any], cancelled: Callable[[], bool] = lambda: False, nonce: str = "n1"
    ) -> tuple[NodeOutcome, Heard]:
        heard = Heard()
        run = NodeRun(
            job_id="job", node_id=task, task=task, attempt=1, nonce=nonce, params=params, timeout_seconds=60.0
        )
        outcome = run_plain(self.registry, run, lambda: self.store, heard, cancelled, loop=lambda: self.loop)
        return outcome, heard

    def output(self, task: str, params: dict[str, Any], nonce: str = "n1") -> tuple[dict[str, Any], Heard]:
        outcome, heard = self.run(task, params, nonce=nonce)
        assert outcome.status == "completed", outcome.error
        assert outcome.output is not None
        assert heard.fractions == sorted(heard.fractions)
        assert heard.fractions[-1] == 1.0
        return json.loads(outcome.output), heard

    def refused(self, task: str, params: dict[str, Any]) -> str:
        outcome, _ = self.run(task, params)
        assert (outcome.status, outcome.retryable, outcome.artifacts) == ("failed", False, [])
        assert outcome.error is not None
        assert outcome.error.code == "invalid_input"
        return outcome.error.message


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path / "store")
    yield opened
    opened.close()
