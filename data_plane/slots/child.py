"""The child's side of a slot: `python -P -m dihedral.data_plane.slots.child SOCKET BEATS PARENT` (two descriptors and a process id).

The task has the main thread, as in a separate program. Other threads: one reads the parent's messages, one waits for beats, one runs the
event loop of the artifact store once it is needed. A thread that finds that the parent is gone kills the whole group.
"""

import asyncio
import faulthandler
import gc
import logging
import math
import os
import queue
import resource
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec

from dihedral.bridge.artifacts.measured import MeasuredStore, Transfer
from dihedral.bridge.errors import DihedralError
from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tasks.calling import run_light, run_plain
from dihedral.bridge.tasks.context import ModelCache, TaskCancelled, printable
from dihedral.bridge.tasks.runs import (
    EVENT_BYTES,
    Cancelled,
    Completed,
    Failed,
    NodeRun,
    Outcome,
    Preempted,
    RunControl,
)
from dihedral.data_plane.device import give_memory_back, memory_held
from dihedral.data_plane.gpu_memory.simulated import SimulatedGpu
from dihedral.data_plane.process_groups import descendants, die_with_parent
from dihedral.data_plane.slots.leftovers import ProcessState, end_children, end_tasks, running
from dihedral.data_plane.slots.messages import (
    Data,
    Done,
    Finish,
    Forget,
    FromChild,
    FromParent,
    Hello,
    Line,
    Pause,
    Progress,
    Ready,
    Start,
    Stop,
    frame,
)
from dihedral.schemas.structs.events import LogLevel
from dihedral.schemas.structs.settings import ArtifactsSettings

STORE_TROUBLE = ("artifact_store_unavailable", "artifact_store_full")
STORE_THREAD = "artifact store"
SMALLEST_PROGRESS = 0.001  # so a run reports at most a thousand fractions, however often the task does
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")


def main() -> None:
    descriptor, beats, parent = (int(argument) for argument in sys.argv[1:4])
    die_with_parent(parent)
    os.set_inheritable(descriptor, False)
    os.set_inheritable(beats, False)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    faulthandler.enable(all_threads=False)  # a SEGV's Python frames are in the stderr tail of its error
    link = _Link(socket.socket(fileno=descriptor))
    hello = link.receive()
    assert isinstance(hello, Hello)
    threading.Thread(target=_watch, args=(beats, hello.lease_seconds), name="beats", daemon=True).start()
    _prepare(hello)
    try:
        registry = tasks.collect(hello.modules, settings=hello.tasks, model_roots=hello.model_roots)
    except DihedralError as error:
        sys.exit(str(error))
    gc.freeze()
    _Child(link, hello, registry, (descriptor, beats)).serve()


def _prepare(hello: Hello) -> None:
    """Before any task module is imported: where modules are found, which GPU, how many threads a library may start."""
    sys.path[:] = hello.path  # in the parent's order, so that both find the same modules
    if hello.memory_mib:
        resource.setrlimit(resource.RLIMIT_DATA, (hello.memory_mib << 20, hello.memory_mib << 20))
    for name in THREADS:
        os.environ.setdefault(name, str(hello.threads))
    if hello.gpu is not None and hello.simulation is None:
        visible = [one for one in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if one]
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[hello.gpu] if hello.gpu < len(visible) else str(hello.gpu)


def _watch(beats: int, lease_seconds: float) -> None:
    """Ends everything after one lease without a beat, or when the parent's end of the pipe is closed."""
    while True:
        readable, _, _ = select.select([beats], [], [], lease_seconds)
        if not readable or not os.read(beats, 4096):
            _end_all()


def _end_all() -> None:
    """Also what has left the group."""
    for pid in descendants(os.getpid()):
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    os.killpg(0, signal.SIGKILL)


class _Link:
    """The socket to the parent: one thread reads, any thread writes."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        self._decoder: msgspec.msgpack.Decoder[FromParent] = msgspec.msgpack.Decoder(FromParent)

    def receive(self) -> FromParent:
        size = int.from_bytes(self._read(4), "big")
        return self._decoder.decode(self._read(size))

    def send(self, message: FromChild) -> None:
        data = frame(message)
        try:
            with self._lock:
                self._connection.sendall(data)
        except OSError:
            _end_all()

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            chunk = self._connection.recv(min(size - len(data), 1 << 20))
            if not chunk:
                _end_all()
            data += chunk
        return bytes(data)


MESSAGES_PER_SECOND, BURST_MESSAGES = 2000.0, 2000
"""Beyond these a task waits before it goes on: the worker drops what exceeds a lower limit, and must not spend its time on reading it."""


class _Said:
    """The `Emit` of a task: sends what it reports to the parent."""

    def __init__(self, link: _Link, number: int) -> None:
        self._link = link
        self._number = number
        self._fraction = 0.0
        self._allowed, self._at = float(BURST_MESSAGES), time.monotonic()

    def progress(self, fraction: float) -> None:
        if fraction - self._fraction >= SMALLEST_PROGRESS or fraction >= 1 > self._fraction:
            self._fraction = fraction
            self._link.send(Progress(number=self._number, fraction=fraction))

    def data(self, name: str, payload: dict[str, Any]) -> None:
        size = len(msgspec.json.encode(payload))
        if size > EVENT_BYTES:
            self.log("warning", f"an event of {size} bytes was dropped; the limit is {EVENT_BYTES}")
            return
        self._pace()
        self._link.send(Data(number=self._number, name=name, payload=payload))

    def log(self, level: str, message: str) -> None:
        self._pace()
        self._link.send(Line(number=self._number, level=LogLevel(level), message=message[:EVENT_BYTES]))

    def _pace(self) -> None:
        now = time.monotonic()
        self._allowed = min(BURST_MESSAGES, self._allowed + (now - self._at) * MESSAGES_PER_SECOND) - 1
        self._at = now
        if self._allowed < 0:
            time.sleep(-self._allowed / MESSAGES_PER_SECOND)

    def waits(self, reason: str) -> None:
        """Returns no process id: a waiting node has no process yet."""


class _LogLines(logging.Handler):
    """Turns log records of a task into log events of its node, with their levels."""

    def __init__(self, child: "_Child") -> None:
        super().__init__(logging.INFO)
        self._child = child

    def emit(self, record: logging.LogRecord) -> None:
        said = self._child.said
        if said is not None:
            level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
            said.log(level, printable(self.format(record)))


class _Child:
    def __init__(self, link: _Link, hello: Hello, registry: tasks.Registry, descriptors: Sequence[int]) -> None:
        """`descriptors`: to the parent."""
        self._descriptors = descriptors
        self.said: _Said | None = None
        self._link = link
        self._hello = hello
        self._registry = registry
        self._starts: queue.SimpleQueue[Start | Forget] = queue.SimpleQueue()
        self._number = 0
        self._stopped = False
        self._pausing = False
        self._finishing = False
        self._gpu: SimulatedGpu | None = None
        if hello.gpu is not None and hello.simulation is not None:
            self._gpu = SimulatedGpu(Path(hello.gpu_directory), hello.gpu, hello.simulation)
        self._kept = ModelCache(self._gpu, running)
        self._inside = False
        self._terminated = False
        self._control: tuple[asyncio.AbstractEventLoop, RunControl] | None = None
        self._store_thread = _StoreThread(hello.artifacts)
        self._runner: asyncio.Runner | None = None

    def serve(self) -> None:
        """Runs what the parent sends, until a signal or the parent's end."""
        signal.signal(signal.SIGTERM, self._on_term)
        logging.getLogger().addHandler(_LogLines(self))
        logging.getLogger().setLevel(logging.INFO)
        threading.Thread(target=self._listen, name="parent", daemon=True).start()
        self._state = ProcessState(self._descriptors, self._store_thread.runs)
        self._link.send(Ready(tasks=sorted(self._registry)))
        while not self._terminated:
            start = self._starts.get()
            if isinstance(start, Forget):
                self._make_room()
                continue
            self.said = _Said(self._link, start.number)
            outcome, peak, smaller = self._run_with_device(_run_of(start), Path(start.directory), self.said)
            left = [*self._end_tasks(), *self._state.put_back(self._kept.running)]
            if left:
                self.said.log("info", printable(f"the slot's process is replaced: {'; '.join(left)}"))
            self.said = None
            self._link.send(
                Done(
                    number=start.number,
                    outcome=outcome,
                    transfers=self._store_thread.told(),
                    peak=peak,
                    warm_key=self._kept.key,
                    held=self._gpu.held_bytes if self._gpu is not None else memory_held(),
                    smaller=smaller,
                    replace=bool(left),
                )
            )

    def _listen(self) -> None:
        while True:
            message = self._link.receive()
            if isinstance(message, Start):
                self._number = message.number
                self._stopped = self._pausing = self._finishing = False
                self._starts.put(message)
            elif isinstance(message, Forget):
                self._starts.put(message)
            elif isinstance(message, Finish) and message.number == self._number:
                self._finishing = True
                if self._control is not None:
                    loop, control = self._control
                    loop.call_soon_threadsafe(control.request, "finish")
            elif isinstance(message, Pause) and message.number == self._number:
                self._stopped = self._pausing = True  # only plain functions can pause
            elif isinstance(message, Stop) and message.number == self._number:
                self._stopped, self._pausing = True, False
                if self._control is not None:
                    loop, control = self._control
                    loop.call_soon_threadsafe(control.cancel)

    def _on_term(self, signum: int, frame: FrameType | None) -> None:
        self._terminated = self._stopped = True
        if self._inside:
            raise TaskCancelled
        if self.said is None:
            os._exit(128 + signum)

    def _run_with_device(self, run: NodeRun, directory: Path, said: _Said) -> tuple[Outcome, int, bool]:
        """The outcome, the peak of device memory, and whether it was the smaller variant that ran: out of memory, that runs once.

        Afterwards only a model that the task asked to keep is held: what lies idle here is missing in another slot.
        """
        task = self._registry.get(run.task)
        if task is None or task.capability.runtime.kind != "gpu":
            return self._run(run, directory, said), 0, False
        if self._kept.key != task.warm_key(run.params):
            self._make_room()
        if self._gpu is not None:
            self._gpu.reset_peak()
        outcome = self._run(run, directory, said)
        out_of_memory = isinstance(outcome, Failed) and outcome.error.code == "out_of_memory"
        smaller = _smaller(task, run.params, said) if out_of_memory and not self._stopped else None
        if smaller is not None:
            self._make_room()
            outcome = self._run(msgspec.structs.replace(run, params=smaller), directory, said)
        peak = self._gpu.peak_bytes if self._gpu is not None else memory_held()
        if not isinstance(outcome, Completed):
            self._kept.drop()  # whatever is wrong with it is not kept for the next run
        self._give_memory_back()
        return outcome, peak, smaller is not None

    def _make_room(self) -> None:
        if self._kept.running:
            self._kept.drop()
            end_children()
        self._kept.drop()
        self._give_memory_back()

    def _give_memory_back(self) -> None:
        gc.collect()
        give_memory_back()
        if self._gpu is not None:
            self._gpu.give_memory_back()

    def _run(self, run: NodeRun, directory: Path, said: _Said) -> Outcome:
        try:
            self._inside = True
            task = self._registry.get(run.task)
            if task is not None and asyncio.iscoroutinefunction(task.function):
                return self._run_async(run, directory, said)
            outcome = run_plain(
                self._registry,
                run,
                self._store_thread.store,
                said,
                lambda: self._stopped,
                output_bytes=self._hello.output_bytes,
                directory=directory,
                loop=self._store_thread,
                kept=self._kept,
                finishing=lambda: self._finishing,
            )
            return Preempted() if self._pausing and _has_stopped(outcome) else outcome
        except TaskCancelled:  # SIGTERM, at a moment when the task itself could not catch it
            return Cancelled()
        finally:
            self._inside = False

    def _run_async(self, run: NodeRun, directory: Path, said: _Said) -> Outcome:
        if self._runner is None:
            self._runner = asyncio.Runner()
        threads = ThreadPoolExecutor(thread_name_prefix="to_thread")
        self._runner.get_loop().set_default_executor(threads)
        control = RunControl()
        self._control = self._runner.get_loop(), control
        if self._stopped:
            control.cancel()
        if self._finishing:
            control.request("finish")
        try:
            return self._runner.run(
                run_light(
                    self._registry,
                    run,
                    self._store_thread.store,
                    said,
                    control,
                    output_bytes=self._hello.output_bytes,
                    directory=directory,
                    loop=self._store_thread,
                    kept=self._kept,
                )
            )
        finally:
            self._control = None
            threads.shutdown(
                wait=False, cancel_futures=True
            )  # those that run on are left over, as threads of a plain task are

    def _end_tasks(self) -> list[str]:
        return self._runner.run(end_tasks()) if self._runner is not None else []


def _has_stopped(outcome: Outcome) -> bool:
    """Returns whether a run that was asked to pause has; one that could not store its checkpoint has too, and is continued from the previous one."""
    return isinstance(outcome, Cancelled) or (isinstance(outcome, Failed) and outcome.error.code in STORE_TROUBLE)


def _run_of(start: Start) -> NodeRun:
    """Returns the run without its time limit, which the parent keeps."""
    return msgspec.structs.replace(msgspec.json.decode(start.run, type=NodeRun), timeout_seconds=math.inf)


def _smaller(task: tasks.Task, params: dict[str, Any], said: _Said) -> dict[str, Any] | None:
    """Returns the params of the smaller variant, and logs what they change; None where there is none, or the task cannot make it."""
    try:
        given = msgspec.to_builtins(task.params(params))
        smaller = task.smaller(params)
    except Exception as error:
        said.log("warning", f"out of memory, and no smaller variant: {printable(f'{type(error).__name__}: {error}')}")
        return None
    if smaller is not None:
        changed = {name: value for name, value in smaller.items() if given.get(name) != value}
        said.log("warning", f"out of memory; once more with less: {msgspec.json.encode(changed).decode()}")
    return smaller


class _StoreThread:
    """The artifact store's event loop, started with the first transfer: most of what a store imports is not small."""

    def __init__(self, settings: ArtifactsSettings) -> None:
        self._settings = settings
        self._loop: asyncio.AbstractEventLoop | None = None
        self._store: Any = None
        self._transfers: list[Transfer] = []

    def __call__(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._loop.set_default_executor(ThreadPoolExecutor(thread_name_prefix=STORE_THREAD))
            threading.Thread(target=self._loop.run_forever, name=STORE_THREAD, daemon=True).start()
        return self._loop

    @staticmethod
    def runs(thread: threading.Thread) -> bool:
        return thread.name.startswith(STORE_THREAD)

    def store(self) -> Any:
        """Called on the loop."""
        if self._store is None:
            from dihedral.bridge.artifacts import open_store

            self._store = MeasuredStore(open_store(self._settings), self._transfers.append)
        return self._store

    def told(self) -> list[Transfer]:
        """Returns the transfers since the last call."""
        told = self._transfers[:]
        del self._transfers[: len(told)]
        return told


if __name__ == "__main__":
    main()
