"""The interface of a running task: progress, events, cancel, files, and the errors that it may raise on purpose.

A task of the worker's own event loop awaits `fetch_async` and `store_async`. A task in a slot runs in the main thread of its process and
may block; the artifact store lives on the event loop of another thread there, which is why a context may name a `loop`.

Large because its members are the whole surface that a task author sees, most of them documentation.
"""

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import CancelledError as FutureCancelled
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import UnsetType

from dihedral.bridge.artifacts import provenance
from dihedral.bridge.artifacts.owned import OwnedStore
from dihedral.bridge.artifacts.store import ArtifactStore, Source
from dihedral.bridge.errors import DihedralError, SettingsError, StoreError
from dihedral.bridge.tasks import models
from dihedral.bridge.tasks.runs import Emit, NodeRun
from dihedral.schemas.structs.artifact import ArtifactMeta, ArtifactRef, ModelRef
from dihedral.schemas.structs.capability import Capability

T = TypeVar("T")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
CANCEL_LOOK_SECONDS = 0.1  # the longest delay after which a blocked transfer notices a cancel


class TaskError(DihedralError):
    """A failure that a task foresaw; `code` is what clients match on."""

    def __init__(
        self, message: str, *, code: str = "task_failed", retryable: bool = False, details: dict[str, Any] | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.details = details or {}


def invalid_input(message: str) -> TaskError:
    """Returns the failure of a task whose input cannot be used, whoever runs it and however often."""
    return TaskError(message, code="invalid_input")


class TaskCancelled(BaseException):
    """Unwinds a task whose job was cancelled or whose time is over."""


class SimulatedDevice(Protocol):
    """The interface of `dihedral.data_plane.gpu_memory.simulated.SimulatedGpu` for tasks, so that a task that uses only the bridge need not import it."""

    @property
    def index(self) -> int: ...

    def allocate(self, size: int) -> AbstractContextManager[object]:
        """Allocates bytes, held until the block or the last reference ends. Raises MemoryError; RuntimeError where the context is poisoned."""

    def compute(self, seconds: float) -> None:
        """Computes for `seconds` at speed 1. Raises RuntimeError where the context is poisoned."""


class ModelCache:
    """The objects that a process keeps from one run to the next: one loaded model, and the simulated GPU if its device is simulated."""

    def __init__(
        self, simulated_gpu: SimulatedDevice | None = None, running: Callable[[], frozenset[Any]] = frozenset
    ) -> None:
        """Makes an empty cache. `running`: the threads and processes that this process has now; those that a model starts while it loads belong to it."""
        self.simulated_gpu = simulated_gpu
        self.key = ""
        self.running: frozenset[Any] = frozenset()
        self._running = running
        self._version = ""
        self._value: Any = None

    def get(self, key: str, version: str, load: Callable[[], T]) -> T:
        """Returns the object that `load` made for this key and version, now or in an earlier run; any other kept object is dropped first."""
        if not key or (self.key, self._version) != (key, version):
            self.drop()
            before = self._running()
            loaded = load()
            if not key:
                return loaded
            self.running = self._running() - before
            self._value, self.key, self._version = loaded, key, version
        found: T = self._value
        return found

    def drop(self) -> None:
        self.key, self._value, self.running = "", None, frozenset()


class TaskContext:
    """Handed to every task as its second argument. `nonce` is new for every claim, so artifact keys never collide."""

    def __init__(
        self,
        run: NodeRun,
        emit: Emit,
        cancelled: Callable[[], bool],
        store: Callable[[], ArtifactStore] | None,
        *,
        capabilities: Callable[[], list[Capability]] = list,
        directory: Path | None = None,
        loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
        kept: ModelCache | None = None,
        warm_key: str = "",
        finishing: Callable[[], bool] = bool,
        settings: "Callable[[type[Any]], Any] | None" = None,
        model_roots: Sequence[str] = (),
    ) -> None:
        """Makes a context. `capabilities`: this worker's. `directory`: made on first use, temporary where None. `loop`: the loop of the store, None = this one.

        `kept`: None where no object outlives the run. `warm_key`: the key of the object that the task may keep. `finishing`: returns whether a user wants the best result so far.
        `settings`: makes a struct of this task's table in the settings file; None: the defaults.
        `model_roots`: where local models lie.
        """
        self.job_id = run.job_id
        self.node_id = run.node_id
        self.attempt = run.attempt
        self.nonce = run.nonce
        self.delivery_count = run.delivery_count
        self.owner = run.owner
        self.timeout_seconds = run.timeout_seconds
        self.artifacts: list[ArtifactMeta] = []
        self.capabilities = capabilities
        self._emit = emit
        self._cancelled = cancelled
        self._store = store
        self._directory = directory
        self._made: Path | None = None
        self._loop = loop
        self._kept = kept
        self._warm_key = warm_key
        self._finishing = finishing
        self._settings = settings
        self._model_roots = model_roots
        self._fetched = 0
        self._run = run
        self._said: bytes | None = None

    def settings(self, kind: type[T]) -> T:
        """Returns the operator's settings for this task as a msgspec struct of this type: the table [tasks.ID] of the settings file.

        Raises:
            TaskError: code `invalid_settings`: the table is not of this type; the message names the path and the reason.
        """
        try:
            return msgspec.convert({}, kind) if self._settings is None else self._settings(kind)
        except (SettingsError, msgspec.ValidationError) as error:
            raise TaskError(str(error), code="invalid_settings") from None

    # Events for the watchers of the job -----------------------------------------------------------------------------

    def progress(self, fraction: float) -> None:
        """Reports the progress of this node, 0..1; a smaller number than before is ignored."""
        self._emit.progress(min(1.0, max(0.0, float(fraction))))

    def data(self, name: str, payload: dict[str, Any]) -> None:
        """Publishes a small JSON object, such as a loss or a preview. NumPy numbers and arrays become lists.

        Raises:
            TypeError: something in it has no JSON form.
            ValueError: the name has not 1 to 128 characters.
        """
        if not 1 <= len(name) <= 128:
            raise ValueError(f"the name of data has 1 to 128 characters, not {len(name)}")
        self._emit.data(name, msgspec.to_builtins(payload, str_keys=True, enc_hook=_as_list))

    def log(self, message: str, level: str = "info") -> None:
        """Adds a line to the job's log. `level`: debug, info, warning or error."""
        if level not in ("debug", "info", "warning", "error"):
            raise ValueError(f"unknown log level {level!r}")
        self._emit.log(level, printable(message))

    def waits(self, reason: str) -> None:
        """Reports that an async task waits for a server of the operator's, with a sentence that `waitingFor` of the job shows; empty: it goes on."""
        self._emit.waits(reason)

    # Cancel ---------------------------------------------------------------------------------------------------------

    @property
    def cancelled(self) -> bool:
        return self._cancelled()

    def check_cancelled(self) -> None:
        """Raises if the task must stop. Call it between steps: a task that stops this way keeps its slot warm; one that never checks is killed.

        Raises:
            TaskCancelled: the job was cancelled or this node's time is over.
        """
        if self._cancelled():
            raise TaskCancelled

    @property
    def finish_early(self) -> bool:
        """Returns whether a user asked this node to end now, as completed, with the best result that it has. Check it between steps."""
        return self._finishing()

    # The device -----------------------------------------------------------------------------------------------------

    def warm(self, load: Callable[[], T], version: str = "") -> T:
        """Returns the object that `load` makes, kept in this process for the next run whose params named by `@task(warm=…)` are the same.

        `version`: the version of the contents behind those params, if they may change. A process keeps one such object, and drops it when another run
        needs the memory; a task must not change it.
        """
        return load() if self._kept is None else self._kept.get(self._warm_key, version, load)

    @property
    def simulated_gpu(self) -> SimulatedDevice | None:
        """The simulated GPU of this slot; None where its device is real or it has no device."""
        return None if self._kept is None else self._kept.simulated_gpu

    # Files ----------------------------------------------------------------------------------------------------------

    @property
    def workdir(self) -> Path:
        """The directory of this run alone; it is removed when the run has ended."""
        if self._made is None:
            if self._directory is None:
                self._made = Path(tempfile.mkdtemp(prefix="dihedral-"))
            else:
                self._directory.mkdir(parents=True, exist_ok=True)
                self._made = self._directory
        return self._made

    def fetch(self, ref: ArtifactRef | ModelRef) -> Path:
        """Copies an artifact into the workdir. Blocks, so only for plain functions.

        A local model is not copied: the path is that of the operator's file or folder, which a task must not change.

        Raises:
            StoreError: it is not there, or the store does not answer.
            TaskError: codes `model_not_found` and `bad_model`, of local models.
        """
        return self._wait(self._fetch(ref))

    def name_of(self, ref: ArtifactRef) -> str:
        """Returns the file's own name, which its key may not hold: keys are ASCII. Blocks.

        Raises:
            StoreError: it is not there, or the store does not answer.
        """
        meta = self._wait(self._artifacts().meta(ref.bucket, ref.key))
        return ref.key.rpartition("/")[2] if isinstance(meta.name, UnsetType) else meta.name

    def store(
        self,
        bucket: str,
        name: str,
        source: Path | bytes,
        content_type: str = "application/octet-stream",
        *,
        as_it_is: bool = False,
    ) -> ArtifactMeta:
        """Puts a file or bytes under `<job>/<node>/<nonce>/<name>`; visible once the node's end is recorded. Blocks.

        A PNG, WAV, MP4 or safetensors file gets into its metadata what made it (`artifacts.provenance`), so the artifact has some bytes more than the file.
        `as_it_is`: stores the same bytes, as is due to a file that the task only passes on.

        Raises:
            StoreError: the store is full or does not answer.
        """
        return self._wait(self._put(bucket, name, source, content_type, as_it_is))

    async def fetch_async(self, ref: ArtifactRef | ModelRef) -> Path:
        return await self._there(self._fetch(ref))

    async def store_async(
        self,
        bucket: str,
        name: str,
        source: Path | bytes,
        content_type: str = "application/octet-stream",
        *,
        as_it_is: bool = False,
    ) -> ArtifactMeta:
        return await self._there(self._put(bucket, name, source, content_type, as_it_is))

    # Checkpoints ----------------------------------------------------------------------------------------------------

    def keep_checkpoint(self, bucket: str, source: Path | bytes) -> None:
        """Stores the state from which a later run of this node continues, in place of the previous checkpoint. Blocks, also while the node is cancelled.

        It is no artifact of the job's result. Its key has no nonce, so an owner that was thought dead may still put an older one
        there: a checkpoint must be valid whichever run wrote it, and must itself record what it belongs to.

        Raises:
            StoreError: the store is full or does not answer.
        """
        self._wait(self._keep(bucket, "checkpoint", source, "application/octet-stream"), heeds_cancel=False)

    def checkpoint(self, bucket: str) -> Path | None:
        """Copies the last checkpoint of any run of this node into the workdir; returns None where there is none. Blocks.

        Raises:
            StoreError: the store does not answer.
        """
        try:
            return self.fetch(ArtifactRef(bucket=bucket, key=self._checkpoint_key))
        except StoreError as error:
            if error.code != "artifact_not_found":
                raise
            return None

    def drop_checkpoint(self, bucket: str) -> None:
        """Deletes the checkpoint once the result is stored. Blocks. If the store does not answer, the checkpoint stays, which does no harm to the result."""
        try:
            self._wait(self._drop(bucket), heeds_cancel=False)
        except StoreError as error:
            self.log(f"the checkpoint stays in the store: {error}", "warning")

    def keep_preview(self, bucket: str, name: str, source: Path | bytes, content_type: str) -> ArtifactRef:
        """Stores a preview of the work so far under `<job>/<node>/<name>`, in place of the previous one. Blocks.

        Like a checkpoint it is no artifact of the result; it remains when the node has ended.

        Raises:
            StoreError: the store is full or does not answer.
        """
        return self._wait(self._keep(bucket, name, source, content_type))

    async def keep_preview_async(self, bucket: str, name: str, source: Path | bytes, content_type: str) -> ArtifactRef:
        return await self._there(self._keep(bucket, name, source, content_type))

    @property
    def _checkpoint_key(self) -> str:
        return self._kept_key("checkpoint")

    def _kept_key(self, name: str) -> str:
        return f"{self.job_id}/{self.node_id}/{name}"

    async def _keep(self, bucket: str, name: str, source: Path | bytes, content_type: str) -> ArtifactRef:
        key = self._kept_key(name)
        await self._artifacts().put(
            bucket, key, source, content_type=content_type, job_id=self.job_id, node_id=self.node_id
        )
        return ArtifactRef(bucket=bucket, key=key)

    async def _drop(self, bucket: str) -> None:
        try:
            await self._artifacts().delete(bucket, self._checkpoint_key)
        except StoreError as error:
            if error.code != "artifact_not_found":
                raise

    def close(self) -> None:
        """Removes the workdir, if it exists; blocks."""
        if self._made is not None:
            shutil.rmtree(self._made, ignore_errors=True)

    @property
    def has_files(self) -> bool:
        return self._made is not None

    async def _fetch(self, ref: ArtifactRef | ModelRef) -> Path:
        try:
            if isinstance(ref, ModelRef) and isinstance(ref.local, str):
                return await asyncio.to_thread(models.find, self._model_roots, ref)
            named = models.artifact_of(ref)
        except models.BadModel as error:
            raise TaskError(str(error), code=error.code) from None
        self._fetched += 1
        target = self.workdir / f"{self._fetched}-{named.key.rsplit('/', 1)[-1]}"
        await self._artifacts().fetch(named.bucket, named.key, target)
        return target

    async def _put(
        self, bucket: str, name: str, source: Path | bytes, content_type: str, as_it_is: bool
    ) -> ArtifactMeta:
        if not NAME.fullmatch(name):
            raise TaskError(f"an artifact cannot be named {name!r}", code="bad_artifact_name")
        key = f"{self.job_id}/{self.node_id}/{self.nonce}/{name}"
        told: Source = source
        if self._run.request is not None and not as_it_is:
            told = await provenance.stamped(source, self._origin)
        meta = await self._artifacts().put(
            bucket, key, told, content_type=content_type, job_id=self.job_id, node_id=self.node_id
        )
        self.artifacts.append(meta)
        return meta

    async def _origin(self) -> bytes:
        """Returns what the files of this run say about their origin: made once, however many it stores."""
        if self._said is not None:
            return self._said
        run, store = self._run, self._artifacts()

        async def known(ref: ArtifactRef) -> dict[str, str]:
            name = {"bucket": ref.bucket, "key": ref.key}
            with suppress(StoreError):
                meta = await store.meta(ref.bucket, ref.key)
                name |= {"sha256": meta.sha256} if meta.sha256 else {}
            return name

        inputs = await asyncio.gather(*map(known, provenance.references(run.params)))
        self._said = provenance.compose(
            run.request or {},
            run.graph,
            job_id=run.job_id,
            node_id=run.node_id,
            task=run.task,
            params=run.params,
            inputs=inputs,
        )
        return self._said

    def _artifacts(self) -> ArtifactStore:
        if self._store is None:
            raise TaskError("this worker has no artifact store", code="no_artifact_store")
        store = self._store()
        return OwnedStore(store, self.owner, self.owner) if self.owner else store

    def _wait(self, work: Coroutine[Any, Any, T], *, heeds_cancel: bool = True) -> T:
        if self._loop is None:
            work.close()
            raise RuntimeError(
                "fetch and store would block the worker: use `await ctx.fetch_async(…)` in an async task"
            )
        future = asyncio.run_coroutine_threadsafe(work, self._loop())
        while True:
            try:
                return future.result(CANCEL_LOOK_SECONDS)
            except FutureCancelled:
                raise TaskCancelled from None
            except TimeoutError:
                if future.done():
                    raise  # the transfer itself was cancelled or failed
                if heeds_cancel and self._cancelled():
                    future.cancel()

    async def _there(self, work: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            return await work
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop()))


def printable(text: str) -> str:
    """Returns the text without lone surrogates, which JSON must not contain."""
    return text.encode("utf-8", "replace").decode()


def _as_list(value: Any) -> Any:
    to_list = getattr(value, "tolist", None)
    if to_list is None:
        raise TypeError(f"{type(value).__name__} has no JSON form")
    return to_list()
