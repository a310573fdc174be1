"""Slots: child processes, each of which runs one heavy node at a time, and everything that the parent says to them.

A slot is a session and process group of its own, spoken to over a socket pair with the messages below; its standard output and
error are pipes and become log events. It dies when that socket closes, when the kernel sees the parent die, and after one
lease without a beat: what a frozen worker started must not go on when another worker takes its node over. Beats have a pipe and
a thread of their own, so that a busy event loop is not taken for a frozen worker.

A node's crash is its own: the outcome says which signal or exit code, and a new process takes the slot. A stop (cancel or time-out)
escalates: a message (the task looks at `ctx.cancelled`), after the grace period SIGTERM (raises TaskCancelled in the task), half a second
later SIGKILL to the group. The outcome is told only when the group is gone, unless the task ended by the
message alone; then the warm process is used again. A process that cannot use its device any more (`poisoned`), or does not give its memory
back after a cancel, is replaced too.

Rejected: multiprocessing (its children share descriptors with each other, and a grandchild keeps its queues open), and forking from a
warm template (CUDA does not survive a fork).
"""

import asyncio
import logging
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Coroutine, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

from dihedral.bridge import metrics
from dihedral.bridge.artifacts.measured import Transfer
from dihedral.bridge.errors import DihedralError
from dihedral.bridge.tasks.calling import CancelToken, Emit, NodeOutcome, NodeRun, Wished, failed, timed_out
from dihedral.bridge.tasks.registry import Registry, Task
from dihedral.data_plane.gpu_memory.ledger import Reservation
from dihedral.data_plane.gpu_memory.readings import Read, Reading
from dihedral.data_plane.gpu_memory.reservations import SharedReservations
from dihedral.data_plane.gpu_memory.simulated import Simulation
from dihedral.data_plane.gpu_memory.usage_history import MemoryUsageHistory
from dihedral.data_plane.process_groups import descendants, kill_group, members, signal_group
from dihedral.data_plane.slots.output import Budget, OutputCapture
from dihedral.data_plane.slots.seats import Assignment, DoesNotFit, ResourceRequest, SlotHandle, SlotScheduler
from dihedral.schemas.structs.settings import ArtifactsSettings, Settings

log = logging.getLogger(__name__)

FRAME_BYTES = 256 * 1024 * 1024  # far above any graph; more is garbage
START_SECONDS = 120  # importing CUDA libraries from a cold disk
START_DELAYS = (0.1, 0.5)  # between attempts to start a slot, before a node is told
BEATS_PER_LEASE = 4
MEMORY_BACK_SECONDS = 2.0  # until the memory of a cancelled node, or of a model, must be free again
MIB = 2**20
LIBRARY_BYTES = (
    2**30
)  # a context, modules, workspaces: what the first use of a device leaves in a process, with some room
UNWIND_SECONDS = 0.5  # for `finally` blocks, when a task has not looked for the whole grace period


# Messages -----------------------------------------------------------------------------------------------------------


class Hello(msgspec.Struct, tag="hello", kw_only=True):
    """First to the child. `path`: entries that the parent searches for modules; `gpu`: index among the visible ones.

    `simulation`: of the GPUs, whose state lies in `gpu_directory`; None where they are real. `tasks`: settings of
    tasks, which may hold secrets and so travel by the socket alone.
    """

    lease_seconds: float
    modules: list[str]
    path: list[str]
    artifacts: ArtifactsSettings
    output_bytes: int
    gpu: int | None
    threads: int
    simulation: Simulation | None = None
    gpu_directory: str = ""
    tasks: dict[str, dict[str, Any]] = {}


class Start(msgspec.Struct, tag="start", kw_only=True):
    """`directory` is the run's alone; the child makes and removes it, the parent removes what a crash left."""

    number: int
    run: NodeRun
    directory: str


class Stop(msgspec.Struct, tag="stop", kw_only=True):
    """Asks the task of this number to end by itself."""

    number: int


class Finish(msgspec.Struct, tag="finish", kw_only=True):
    """Asks the task of this number for the best result that it has."""

    number: int


class Forget(msgspec.Struct, tag="forget", kw_only=True):
    """Between runs: drops the model that it keeps."""


class Ready(msgspec.Struct, tag="ready", kw_only=True):
    """First from the child, when its modules are loaded."""

    tasks: list[str]


class Progress(msgspec.Struct, tag="progress", kw_only=True):
    number: int
    fraction: float


class Data(msgspec.Struct, tag="data", kw_only=True):
    number: int
    name: str
    payload: dict[str, Any]


class Line(msgspec.Struct, tag="line", kw_only=True):
    number: int
    level: str
    message: str


class Done(msgspec.Struct, tag="done", kw_only=True):
    """`transfers`: what the store did for this run, for the parent's metrics. `peak`: bytes of device memory, 0 where not known.

    `warm_key`: of the model that the process keeps; `held`: bytes of the device that it still holds for itself; `smaller`: whether it was the
    smaller variant that ended; `replace`: whether the task has left the process in a state that no other node should find.
    """

    number: int
    outcome: NodeOutcome
    transfers: list[Transfer] = []
    peak: int = 0
    warm_key: str = ""
    held: int = 0
    smaller: bool = False
    replace: bool = False


FromParent: TypeAlias = Hello | Start | Stop | Finish | Forget
FromChild: TypeAlias = Ready | Progress | Data | Line | Done


def frame(message: FromParent | FromChild) -> bytes:
    """Four bytes of length, big-endian, then MessagePack."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body


# The pool -----------------------------------------------------------------------------------------------------------


class SlotStartFailed(DihedralError):
    """A slot process ended before it was ready; the text says what it printed."""


class SlotPool:
    """`slots` processes, all started at once and kept warm: `async with SlotPool(…) as pool: await pool.run(…)`."""

    def __init__(
        self,
        *,
        slots: int,
        registry: Registry,
        modules: Sequence[str],
        settings: Settings,
        gpus: int = 0,
        cpus: int = 1,
        read: Read | None = None,
        peaks: MemoryUsageHistory | None = None,
        simulation: Simulation | None = None,
        gpu_directory: str = "",
        shared: SharedReservations | None = None,
    ) -> None:
        """`modules`: where the children find the tasks; `gpus`: how many there are, slots take them in turn.

        `read` None: no node waits for device memory. `peaks` None: what runs have used is not remembered. `shared` None: what other workers
        promise of these GPUs is not known.
        """
        self._registry = registry
        self._grace_seconds = settings.worker.cancel_grace_ms / 1000
        self._hello = Hello(
            lease_seconds=settings.jobs.lease_ms / 1000,
            modules=list(modules),
            path=[entry or os.getcwd() for entry in sys.path],
            artifacts=settings.artifacts,
            output_bytes=settings.jobs.node_output_bytes,
            gpu=None,
            threads=max(1, cpus // max(1, slots)),
            simulation=simulation,
            gpu_directory=gpu_directory,
            tasks=settings.tasks,
        )
        self._all = [SlotHandle(number, number % gpus if gpus else None) for number in range(slots)]
        self._seats = SlotScheduler(self._all, self._restart, read, settings.worker.memory_cushion_mib * MIB, shared)
        self._counts_memory = read is not None
        self._peaks = peaks or MemoryUsageHistory()
        self._background: set[asyncio.Task[None]] = set()
        self._beats = Beats(settings.jobs.lease_ms / 1000 / BEATS_PER_LEASE)
        self._root = Path()
        self._runs = 0
        self._closing = False

    async def __aenter__(self) -> "SlotPool":
        self._root = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="dihedral-slots-"))
        self._beats.start()
        for seat in self._all:
            self._restart(seat)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Kills every group at once, running nodes included."""
        self._closing = True
        self._seats.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await asyncio.gather(*(seat.slot.end() for seat in self._all if seat.slot is not None))
        self._seats.leave()
        self._beats.stop()
        await asyncio.to_thread(shutil.rmtree, self._root, ignore_errors=True)

    def problems(self) -> list[str]:
        """Why slots do not start, and that the devices do not answer, a sentence each."""
        failures = dict.fromkeys(seat.failure for seat in self._all if seat.failure)
        return [*failures, *filter(None, [self._seats.problem()])]

    def pids(self) -> list[int]:
        """Of the slots that live, each the leader of a process group."""
        return [seat.slot.pid for seat in self._all if seat.slot is not None and seat.slot.alive]

    async def run(self, run: NodeRun, emit: Emit, cancel: CancelToken) -> NodeOutcome:
        """Runs a node in the next free slot and answers when nothing of it runs any more."""
        task = self._registry.get(run.task)
        if task is None:
            return failed("unknown_task", f"this worker has no task {run.task!r}")
        try:
            taken = await self._seats.take(self._wish(task, run), cancel, emit.waits)
        except DoesNotFit as error:
            return NodeOutcome(status="cancelled", began=False, elsewhere=str(error))
        if taken is None:
            return NodeOutcome(status="cancelled", began=False)
        begun = time.monotonic()
        try:
            return await self._run(taken, task, run, emit, cancel)
        finally:
            held = metrics.device_seconds_total.labels(run.task, _device(task, taken.seat))
            held.inc(time.monotonic() - begun)

    def _wish(self, task: Task, run: NodeRun) -> ResourceRequest:
        if task.capability.runtime.kind != "gpu":
            return ResourceRequest()
        need = self._peaks.need_bytes(task, run.params) if self._counts_memory else None
        return ResourceRequest(need, task.warm_key(run.params))

    async def _run(self, taken: Assignment, task: Task, run: NodeRun, emit: Emit, cancel: CancelToken) -> NodeOutcome:
        seat = taken.seat
        slot = seat.slot
        if slot is None:
            self._seats.release(taken)
            self._restart(seat)
            return failed("slot_start_failed", seat.failure, retryable=True)
        self._runs += 1
        directory = self._root / str(self._runs)
        stopping = _Stopping(self._seats, taken)
        cancel.listen(stopping.begin)
        try:
            outcome = await slot.run(task, run, emit, cancel, self._grace_seconds, directory)
            if outcome.status == "cancelled" and cancel.cancelled:
                await stopping.verify(slot, emit)
            elif outcome.status == "completed" and taken.reservation is not None and not slot.ran_smaller:
                self._remember(task, run, slot.peak, taken.reservation)
        except BaseException:
            slot.spent = True
            raise
        finally:
            cancel.forget(stopping.begin)
            self._seats.release(taken)
            if slot.spent:
                self._restart(seat)
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            else:
                self._seats.put(seat)
        return outcome

    def _remember(self, task: Task, run: NodeRun, told: int, reservation: Reservation) -> None:
        """What looks alone have seen may have missed the peak, so it does not undercut what was declared."""
        declared = task.memory_mib(run.params) * MIB
        peak = max(told, reservation.peak) if told else max(declared, reservation.peak)
        self._beside(self._peaks.note(task, run.params, peak), f"remember {run.task}")

    def _restart(self, seat: SlotHandle) -> None:
        self._beside(self._start(seat), f"start slot {seat.number}")

    def _beside(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Does what no node has to wait for; it is cancelled with the pool, and a pool that closes begins no more."""
        if self._closing:
            work.close()
            return
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _start(self, seat: SlotHandle) -> None:
        """Puts the seat back with a new process, or without one and the reason after a few attempts."""
        if seat.slot is not None:
            await seat.slot.end()
            seat.slot = None
        for delay in (*START_DELAYS, None):
            try:
                seat.slot = await Slot.start(msgspec.structs.replace(self._hello, gpu=seat.gpu), self._beats)
                seat.failure = ""
                break
            except (SlotStartFailed, OSError) as error:
                seat.failure = f"slot {seat.number} does not start: {error}"
                log.warning("%s", seat.failure)
                if delay is not None:
                    await asyncio.sleep(delay)
        self._seats.put(seat)


def _device(task: Task, seat: SlotHandle) -> str:
    return "gpu" if seat.gpu is not None and task.capability.runtime.kind == "gpu" else "cpu"


class _Stopping:
    """How a cancelled node ended: how long it took, and whether its device memory came back, as measured; nothing of what was not."""

    def __init__(self, seats: SlotScheduler, taken: Assignment) -> None:
        self._seats = seats
        self._taken = taken
        self._before = taken.reservation.peak if taken.reservation is not None else 0
        self._poll: asyncio.Future[list[Reading]] | None = None
        self._begun = 0.0

    def begin(self) -> None:
        self._begun = time.monotonic()
        if self._taken.reservation is not None:
            self._poll = self._seats.poll()

    async def verify(self, slot: "Slot", emit: Emit) -> None:
        """Says it as the event `cancelled`; a process that keeps more than it began with, and than libraries do, is spent."""
        rest = 0 if slot.spent else self._before + LIBRARY_BYTES
        held = await self._seen(self._poll, MEMORY_BACK_SECONDS) if self._poll is not None else 0
        left = await self._left(rest) if held is not None else None
        seconds = time.monotonic() - self._begun
        metrics.cancel_seconds.observe(seconds)
        said: dict[str, Any] = {"seconds": round(seconds, 3), "slotReplaced": slot.spent}
        if held and left is not None:
            said |= {"memoryHeldMiB": held // MIB, "memoryLeftMiB": left // MIB}
        if left is not None and left > rest:
            metrics.cancel_memory_kept_total.inc()
            said["slotReplaced"] = slot.spent = True
        emit.data("cancelled", said)

    async def _left(self, rest: int) -> int | None:
        """Bytes that its process still holds, as soon as these are no more than `rest`, or after MEMORY_BACK_SECONDS; None: nobody tells."""
        if self._taken.reservation is None:
            return 0
        deadline, left = time.monotonic() + MEMORY_BACK_SECONDS, None
        await self._seen(self._seats.poll(), MEMORY_BACK_SECONDS)  # it may have begun before the end of the node
        while time.monotonic() < deadline:
            left = await self._seen(self._seats.poll(), MEMORY_BACK_SECONDS)
            if left is None or left <= rest:
                break
            await asyncio.sleep(0.02)
        return left

    async def _seen(self, poll: "asyncio.Future[list[Reading]]", seconds: float) -> int | None:
        """Bytes that its process held then, 0 also where the driver does not name it; None where no answer comes in that time."""
        await asyncio.wait({poll}, timeout=max(0.0, seconds))
        reservation = self._taken.reservation
        if reservation is None or not poll.done() or poll.exception() is not None:
            return None
        return poll.result()[reservation.device].holders.get(reservation.pid, 0)


class Beats:
    """The thread that tells every slot that this worker is not frozen."""

    def __init__(self, interval_seconds: float) -> None:
        self._interval_seconds = interval_seconds
        self._pipes: set[int] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="slot beats", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def add(self, pipe: int) -> None:
        os.set_blocking(pipe, False)
        with self._lock:
            self._pipes.add(pipe)

    def remove(self, pipe: int) -> None:
        """Closes it too."""
        with self._lock:
            self._pipes.discard(pipe)
            os.close(pipe)

    def _beat(self) -> None:
        while not self._over.wait(self._interval_seconds):
            with self._lock:
                for pipe in self._pipes:
                    with suppress(BlockingIOError, BrokenPipeError):
                        os.write(pipe, b".")


# One process --------------------------------------------------------------------------------------------------------


class Slot:
    """One child process, from its start to the end of its group."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, beat: int,
        beats: Beats, out: OutputCapture, err: OutputCapture,
    ) -> None:  # fmt: skip
        self.spent = False
        self.warm_key = ""  # of the model that it keeps
        self.peak = 0  # of the last run, bytes of device memory
        self.held = 0  # between runs, as it says itself
        self.ran_smaller = False
        self._forgets_until = 0.0
        self._process = process
        self._reader = reader
        self._writer = writer
        self._beat = beat
        self._beats = beats
        self._out = out
        self._err = err
        self._number = 0
        self._emit: Emit | None = None
        self._ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._done: asyncio.Future[NodeOutcome] = asyncio.get_running_loop().create_future()
        self._garbage = ""
        self._exit = asyncio.ensure_future(process.wait())
        self._reading = asyncio.ensure_future(self._reads())
        self._ended: asyncio.Future[None] | None = None

    @classmethod
    async def start(cls, hello: Hello, beats: Beats) -> "Slot":
        """Raises: SlotStartFailed: it ended, or was not ready in time."""
        opening = asyncio.ensure_future(cls._open(beats))
        try:
            slot = await asyncio.shield(opening)
        except asyncio.CancelledError:  # a process half started would be nobody's
            await (await opening).end()
            raise
        try:
            await slot._greet(hello)
        except BaseException:
            await slot.end()
            raise
        return slot

    @classmethod
    async def _open(cls, beats: Beats) -> "Slot":
        with ExitStack() as theirs, ExitStack() as ours:
            here, there = socket.socketpair()
            ours.callback(here.close)
            theirs.callback(there.close)
            ends = [os.pipe() for _ in range(3)]
            (beat_in, beat), (out_in, out), (err_in, err) = ends
            for descriptor in (beat_in, out, err):
                theirs.callback(os.close, descriptor)
            for descriptor in (beat, out_in, err_in):
                ours.callback(os.close, descriptor)
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "dihedral.data_plane.slots.child",
                str(there.fileno()), str(beat_in), str(os.getpid()),
                stdin=asyncio.subprocess.DEVNULL, stdout=out, stderr=err, pass_fds=(there.fileno(), beat_in),
                start_new_session=True,
            )  # fmt: skip
            theirs.close()  # so that the end of the child is the end of the pipes
            here.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=here)
            ours.pop_all()
        beats.add(beat)
        return cls(
            process, reader, writer, beat, beats, OutputCapture(out_in, "stdout"), OutputCapture(err_in, "stderr")
        )

    async def _greet(self, hello: Hello) -> None:
        self._writer.write(frame(hello))
        await _first(self._ready, self._exit, timeout=START_SECONDS)
        if not self._ready.done():
            self._err.detach()
            why = self._err.tail.splitlines()[-1:] or [f"not ready after {START_SECONDS} s"]
            raise SlotStartFailed(why[0])

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def used(self) -> bool:
        """Whether a node has begun in it."""
        return self._number > 0

    @property
    def alive(self) -> bool:
        return not (self.spent or self._exit.done() or self._garbage)

    async def run(
        self, task: Task, run: NodeRun, emit: Emit, cancel: CancelToken, grace_seconds: float, directory: Path
    ) -> NodeOutcome:
        """Runs one node; afterwards `spent` says that this process cannot run another. Its group is gone then."""
        loop = asyncio.get_running_loop()
        self._number += 1
        self._done = loop.create_future()
        self._emit = emit
        budget = Budget(loop.time())
        self._out.attach(emit, budget)
        self._err.attach(emit, budget)
        stopped: asyncio.Future[str] = loop.create_future()

        def stop(reason: str) -> None:
            if not stopped.done():
                stopped.set_result(reason)

        def cancelled() -> None:
            stop("cancelled")

        def wished(wish: Wished) -> None:
            self._send(Finish(number=number) if wish == "finish" else Stop(number=number))

        number = self._number
        cancel.listen(cancelled)
        timer = loop.call_later(run.timeout_seconds, stop, "timeout")
        try:
            unlimited = msgspec.structs.replace(run, timeout_seconds=math.inf)
            self._send(Start(number=number, run=unlimited, directory=str(directory)))
            cancel.listen_to_wishes(wished)
            await _first(self._done, self._exit, stopped)
            if not (self._done.done() or self._exit.done()):
                await self._stop(grace_seconds)
            await self._settle()
        except BaseException:
            await self.end()
            raise
        finally:
            cancel.forget(cancelled)
            cancel.forget_wishes(wished)
            timer.cancel()
            self._emit = None
            self._out.detach()
            self._err.detach()
            if budget.left_out:
                emit.log("warning", f"{budget.left_out} more lines were printed; they are left out")
        return self._outcome(task, run, stopped.result() if stopped.done() else "")

    async def _stop(self, grace_seconds: float) -> None:
        """Message, SIGTERM, SIGKILL; returns when the task or the process has ended."""
        self._send(Stop(number=self._number))
        if await self._ends_within(grace_seconds):
            return
        self.spent = True
        signal_group(self._process.pid, signal.SIGTERM)
        if await self._ends_within(UNWIND_SECONDS):
            return
        await self.end()

    async def _ends_within(self, seconds: float) -> bool:
        await _first(self._done, self._exit, timeout=seconds)
        return self._done.done() or self._exit.done()

    async def _settle(self) -> None:
        """After the task's or the process's end: the last words are read, and whatever may still run of it is killed."""
        if self._exit.done():
            await asyncio.wait({self._reading})  # a Done may lie in the socket
        completed = self._done.done() and self._done.result().status == "completed"
        if not completed and members(self._process.pid) != [self._process.pid]:
            self.spent = True  # a failed or cancelled task left processes behind
        if self._done.done() and self._done.result().poisoned:
            self.spent = True
        if not self.alive:
            await self.end()

    def _outcome(self, task: Task, run: NodeRun, stopped: str) -> NodeOutcome:
        outcome = self._done.result() if self._done.done() else None
        if stopped == "timeout":
            return timed_out(task, run.timeout_seconds)
        if stopped == "cancelled" and (outcome is None or outcome.status != "completed"):
            return NodeOutcome(status="cancelled", artifacts=outcome.artifacts if outcome else [])
        if outcome is None:
            outcome = self._crashed(task)
        if outcome.error is not None and self._err.tail:
            outcome.error.details["stderr"] = self._err.tail
        return outcome

    def _crashed(self, task: Task) -> NodeOutcome:
        """Another attempt may fare better (memory, a driver), but only if a half-done first one does no harm."""
        code = self._process.returncode
        details: dict[str, Any] = {}
        if self._garbage:
            what = f"sent what is no message: {self._garbage}"
        elif code is not None and code < 0:
            name = _signal_name(-code)
            details["signal"] = name
            what = f"was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        else:
            details["exitCode"] = code
            what = f"ended by itself with exit code {code}"
        message = f"the process of {task.capability.id} {what}"
        return failed("slot_crashed", message, details, retryable=task.capability.contracts.idempotent)

    def forget_model(self) -> None:
        """Between runs: gives the memory of the model back that it keeps."""
        if self.warm_key:
            self.warm_key, self.held = "", 0
            self._forgets_until = time.monotonic() + MEMORY_BACK_SECONDS
            self._send(Forget())

    @property
    def forgetting(self) -> bool:
        """Whether memory that it was asked for may still be on its way back."""
        return time.monotonic() < self._forgets_until

    async def end(self) -> None:
        """Kills the group and waits until it is gone; may be called twice."""
        if self._ended is None:
            self._ended = asyncio.ensure_future(self._end())
        await asyncio.shield(self._ended)

    async def _end(self) -> None:
        self.spent = True
        daemons = descendants(self._process.pid)  # also those that have left the group
        signal_group(self._process.pid, signal.SIGKILL)
        for pid in daemons:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        await asyncio.wait({self._exit})
        await kill_group(self._process.pid)
        await asyncio.wait({self._reading})
        self._writer.close()
        self._out.detach()
        self._err.detach()
        self._out.close()
        self._err.close()
        self._beats.remove(self._beat)

    def _send(self, message: FromParent) -> None:
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def _reads(self) -> None:
        decoder = msgspec.msgpack.Decoder(FromChild)
        try:
            while True:
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > FRAME_BYTES:
                    raise msgspec.DecodeError(f"a message of {size} bytes")
                self._hear(decoder.decode(await self._reader.readexactly(size)))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the process has ended or is about to: a slot without its socket is of no use
        except msgspec.DecodeError as error:
            self._garbage = str(error)
        signal_group(self._process.pid, signal.SIGKILL)

    def _hear(self, message: FromChild) -> None:
        if isinstance(message, Ready):
            if not self._ready.done():
                self._ready.set_result(None)
        elif message.number != self._number or self._emit is None:
            return  # a thread that outlived its task
        elif isinstance(message, Progress):
            self._emit.progress(message.fraction)
        elif isinstance(message, Data):
            self._emit.data(message.name, message.payload)
        elif isinstance(message, Line):
            self._emit.log(message.level, message.message)
        elif not self._done.done():
            for transfer in message.transfers:
                metrics.note_transfer(transfer)
            self.peak, self.warm_key, self.held = message.peak, message.warm_key, message.held
            self.ran_smaller = message.smaller
            self.spent = self.spent or message.replace
            self._done.set_result(message.outcome)


async def _first(*futures: asyncio.Future[Any], timeout: float | None = None) -> None:  # noqa: ASYNC109
    await asyncio.wait(futures, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
