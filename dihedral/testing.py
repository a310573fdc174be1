"""Runs one task by itself, for its test: without Redis, worker or slot, but with the real context and a real artifact store.

    run = testing.run(count_words, {"text": "one two"})
    assert run.output == {"words": 2}

Params and output are checked as a worker checks them. A plain function runs in the calling thread, an async one on an event loop in a
separate thread, so both can be called from any test. What a slot adds (a process that can be killed, a GPU) is not here.
"""

import asyncio
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any
from uuid import uuid4
from weakref import finalize

import msgspec

from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.tasks.calling import run_light, run_plain
from dihedral.bridge.tasks.context import ModelCache
from dihedral.bridge.tasks.registry import task_of
from dihedral.bridge.tasks.runs import Completed, EndedOutcome, Failed, NodeRun, RunControl
from dihedral.schemas.structs.artifact import ArtifactMeta

File = Path | str


class TaskFailed(AssertionError):
    """`code`, `details`: of the error that the job would have. The message ends with the traceback of the task."""

    def __init__(self, run: "Run", code: str, message: str, details: dict[str, Any]) -> None:
        super().__init__(f"{message} ({code})\n{details.get('traceback', '')}".rstrip())
        self.run = run
        self.code = code
        self.details = details


class Artifact(msgspec.Struct, kw_only=True, frozen=True):
    """A file that a task stored. `path`: a copy that lives as long as its Run."""

    name: str
    bucket: str
    key: str
    content_type: str
    path: Path

    def read(self) -> bytes:
        return self.path.read_bytes()


class Run:
    """The result of a task. `status`: completed, failed or cancelled. `events`: as a watch shows them, in order."""

    def __init__(self) -> None:
        self.status = "running"
        self.output: Any = None
        self.artifacts: list[Artifact] = []
        self.events: list[dict[str, Any]] = []
        self.progress = 0.0

    def data(self, name: str) -> list[dict[str, Any]]:
        """Returns what `ctx.data(name, …)` published, in order."""
        return [event["data"] for event in self.events if event["type"] == "data" and event["name"] == name]

    def log(self) -> list[str]:
        """The messages of `ctx.log`, in order."""
        return [event["message"] for event in self.events if event["type"] == "log"]

    def artifact(self, name: str) -> Artifact:
        """The only artifact of this name. Raises KeyError."""
        found = [artifact for artifact in self.artifacts if artifact.name == name]
        if len(found) != 1:
            raise KeyError(
                f"{len(found)} artifacts are named {name!r}; there are {[each.name for each in self.artifacts]}"
            )
        return found[0]


def run(
    task: Callable[..., Any],
    params: Mapping[str, Any] | msgspec.Struct,
    *,
    files: Mapping[str, File | Sequence[File]] | None = None,
    folder: Path | None = None,
    cancel_at: float | None = None,
    finish_at: float | None = None,
    settings: Mapping[str, Any] | None = None,
    model_roots: Sequence[File] = (),
    timeout_seconds: float = 3600,
) -> Run:
    """Runs a function marked with @task to its end.

    `files`: params whose value is an artifact, or a list of them, from local files. `folder`: where artifacts and checkpoints are kept; given twice,
    the second run finds the checkpoint of the first. `cancel_at`, `finish_at`: the progress at which the job is cancelled, or requested to end
    with its best result. `settings`: the task's table of the settings file. `model_roots`: where local models lie. `timeout_seconds`: of an async task; nothing can stop a plain function here.

    Raises:
        TaskFailed: the task raised, or returned what it did not declare. A task that ended because of `cancel_at` returns normally.
        InvalidTask: the function cannot be a task.
    """
    made = task_of(task)
    made.configure(settings or {})
    made.model_roots = [str(root) for root in model_roots]
    result = Run()
    if folder is None:
        folder = Path(mkdtemp(prefix="dihedral-test-"))
        finalize(result, rmtree, folder, ignore_errors=True)
    store = LocalStore(folder / "artifacts")
    registry = {made.capability.id: made}
    control = RunControl()
    with _loop() as loop:

        def there(work: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(work, loop).result()

        values = dict(msgspec.to_builtins(params)) | _stored(files or {}, lambda path: there(_put(store, path)))
        node = NodeRun(
            job_id="test", node_id=made.capability.id, task=made.capability.id, attempt=1, nonce="test", params=values,
            timeout_seconds=timeout_seconds,
        )  # fmt: skip
        emit = _Emit(result, control, cancel_at, finish_at)
        if made.light:
            outcome = there(run_light(registry, node, store, emit, control, kept=ModelCache()))
        else:
            outcome = run_plain(
                registry, node, lambda: store, emit, lambda: control.cancelled, loop=lambda: loop, kept=ModelCache(),
                finishing=lambda: "finish" in control.requests,
            )  # fmt: skip
        for meta in outcome.artifacts:
            result.artifacts.append(there(_fetched(store, meta, folder / "results" / str(len(result.artifacts)))))
        there(store.close())
    return _ended(result, outcome)


def _ended(result: Run, outcome: EndedOutcome) -> Run:
    result.status = outcome.status
    if isinstance(outcome, Completed):
        result.output = msgspec.json.decode(outcome.output)
    if isinstance(outcome, Failed):
        raise TaskFailed(result, outcome.error.code, outcome.error.message, outcome.error.details)
    return result


class _Emit:
    """Collects what a task emits, and stops the task where the test requires it."""

    def __init__(self, result: Run, control: RunControl, cancel_at: float | None, finish_at: float | None) -> None:
        self._result = result
        self._control = control
        self._cancel_at = cancel_at
        self._finish_at = finish_at

    def progress(self, fraction: float) -> None:
        self._result.progress = max(self._result.progress, fraction)
        self._result.events.append({"type": "progress", "progress": self._result.progress})
        if self._finish_at is not None and fraction >= self._finish_at:
            self._control.request("finish")
        if self._cancel_at is not None and fraction >= self._cancel_at:
            self._control.cancel()

    def data(self, name: str, payload: dict[str, Any]) -> None:
        self._result.events.append({"type": "data", "name": name, "data": payload})

    def log(self, level: str, message: str) -> None:
        self._result.events.append({"type": "log", "level": level, "message": message})

    def waits(self, reason: str) -> None:
        return None


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a separate thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="dihedral testing", daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _stored(files: Mapping[str, File | Sequence[File]], store: Callable[[Path], dict[str, str]]) -> dict[str, Any]:
    return {
        name: store(Path(given)) if isinstance(given, str | Path) else [store(Path(path)) for path in given]
        for name, given in files.items()
    }


async def _put(store: ArtifactStore, path: Path) -> dict[str, str]:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name).lstrip(".-")
    key = f"test/{uuid4().hex}/{name or 'file'}"
    meta = await store.put("inputs", key, path, content_type="application/octet-stream")
    return {"bucket": meta.bucket, "key": meta.key}


async def _fetched(store: ArtifactStore, meta: ArtifactMeta, folder: Path) -> Artifact:
    name = meta.key.rsplit("/", 1)[-1]
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    await store.fetch(meta.bucket, meta.key, folder / name)
    return Artifact(name=name, bucket=meta.bucket, key=meta.key, content_type=meta.content_type, path=folder / name)
