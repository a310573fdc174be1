"""Where tests run the built-in tasks as a worker runs them: through the registry, with a real store, hearing what they say."""

import asyncio
import importlib
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

from dihedral.bridge import artifacts
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.tasks.calling import run_plain
from dihedral.bridge.tasks.registry import collect
from dihedral.bridge.tasks.runs import NodeRun
from dihedral.data_plane.tasks import BUILTIN
from dihedral.schemas.structs.settings import ArtifactsSettings
from tests.support.outcomes import Seen, seen


class RecordedEvents:
    """An Emit that remembers, and can be waited for."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.lines: list[tuple[str, str]] = []
        self.reasons: list[str] = []
        self._changed = asyncio.Event()

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def data(self, name: str, payload: dict[str, Any]) -> None:
        self.events.append((name, payload))
        self._changed.set()

    def log(self, level: str, message: str) -> None:
        self.lines.append((level, message))

    def waits(self, reason: str) -> None:
        if reason and reason not in self.reasons:
            self.reasons.append(reason)
            self._changed.set()

    async def began(self) -> dict[str, Any]:
        while not self.events:
            self._changed.clear()
            await self._changed.wait()
        return self.events[0][1]

    def told(self, name: str) -> list[dict[str, Any]]:
        """The events of that name."""
        return [payload for called, payload in self.events if called == name]


class TaskRunner:
    """Runs tasks in this thread, the store on the loop of another, as a slot does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry = collect(BUILTIN, plugins=False)
        self.refusals = 0
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.store = self.wait(self._open())

    async def _open(self) -> ArtifactStore:
        return artifacts.open_store(ArtifactsSettings(directory=str(self.directory)))

    @classmethod
    @contextmanager
    def opened(cls, directory: Path) -> Iterator[Self]:
        place = cls(directory)
        try:
            yield place
        finally:
            place.wait(place.store.close())
            place.loop.call_soon_threadsafe(place.loop.stop)
            place.thread.join()
            place.loop.close()

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def upload(self, source: Path | bytes, name: str = "", bucket: str = "inputs") -> dict[str, str]:
        key = name or (source.name if isinstance(source, Path) else "file")
        self.wait(self.store.put(bucket, key, source, content_type="x/y", job_id=None, node_id=None))
        return {"bucket": bucket, "key": key}

    def download(self, reference: dict[str, str], to: Path) -> Path:
        self.wait(self.store.fetch(reference["bucket"], reference["key"], to))
        return to

    def content(self, reference: dict[str, str]) -> bytes:
        return self.download(reference, self.directory.with_name("downloaded")).read_bytes()

    def run(
        self,
        task: str,
        params: dict[str, Any],
        cancelled: Callable[[], bool] = lambda: False,
        *,
        nonce: str = "n1",
        job: str = "job",
        heard: RecordedEvents | None = None,
        **more: Any,
    ) -> tuple[Seen, RecordedEvents]:
        """`more`: for run_plain."""
        heard = heard or RecordedEvents()
        run = NodeRun(job_id=job, node_id=task, task=task, attempt=1, nonce=nonce, params=params, timeout_seconds=60.0)
        outcome = seen(
            run_plain(self.registry, run, lambda: self.store, heard, cancelled, loop=lambda: self.loop, **more)
        )
        return outcome, heard

    def output(self, task: str, params: dict[str, Any], **more: Any) -> tuple[dict[str, Any], RecordedEvents]:
        """Of a run that ends well, and warns of nothing."""
        outcome, heard = self.run(task, params, **more)
        assert outcome.status == "completed", outcome.error
        assert outcome.output is not None
        assert {level for level, _ in heard.lines} <= {"info"}, heard.lines
        assert heard.fractions == sorted(heard.fractions)
        assert heard.fractions[-1] == 1.0
        assert {meta.job_id for meta in outcome.artifacts} <= {more.get("job", "job")}
        return json.loads(outcome.output), heard

    def refusal(self, task: str, params: dict[str, Any]) -> tuple[str, str]:
        """(code, message); what is refused leaves nothing behind."""
        outcome, _ = self.run(task, params)
        self.refusals += 1
        assert (outcome.status, outcome.retryable, outcome.artifacts) == ("failed", False, [])
        assert outcome.error is not None
        return outcome.error.code, outcome.error.message

    def refused(self, task: str, params: dict[str, Any]) -> str:
        """The message of a refusal because of the input."""
        code, message = self.refusal(task, params)
        assert code == "invalid_input"
        return message


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """The array modules that every kernel has to run with."""
    return importlib.import_module(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[TaskRunner]:
    with TaskRunner.opened(tmp_path / "store") as opened:
        yield opened
