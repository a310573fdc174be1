"""The pool of slots: starts the processes, gives each node the next free one, and replaces a process that is spent.

A process that cannot use its device any more (`poisoned`), or does not give its memory back after a cancel, is replaced; process.py
describes how one process is started, controlled and stopped, seats.py decides which node gets which slot next.
"""

import asyncio
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import IO, Any

import msgspec

from dihedral.bridge import metrics
from dihedral.bridge.artifacts.owned import OwnedStore
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.errors import StoreError
from dihedral.bridge.tasks.calling import failed
from dihedral.bridge.tasks.registry import MIB, Registry, Task
from dihedral.bridge.tasks.runs import Cancelled, Completed, Declined, Emit, NodeRun, Outcome, Preempted, RunControl
from dihedral.data_plane.gpu_memory.ledger import Reservation
from dihedral.data_plane.gpu_memory.readings import Read, Reading
from dihedral.data_plane.gpu_memory.reservations import SharedReservations
from dihedral.data_plane.gpu_memory.simulated import Simulation
from dihedral.data_plane.gpu_memory.usage_history import MemoryUsageHistory
from dihedral.data_plane.slots.messages import Hello
from dihedral.data_plane.slots.process import MEMORY_BACK_SECONDS, Beats, Slot, SlotStartFailed
from dihedral.data_plane.slots.seats import Assignment, DoesNotFit, ResourceRequest, SlotHandle, SlotScheduler
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)
START_DELAYS = (0.1, 0.5)  # between attempts to start a slot, before a node learns of the failure
BEATS_PER_LEASE = 4
OUTPUT_NAME = "output.txt"
STORE_SECONDS = 60  # for a text of at most 64 MiB, while the node's end waits
LIBRARY_BYTES = (
    2**30
)  # a context, modules, workspaces: what the first use of a device leaves in a process, with some room


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
        store: ArtifactStore | None = None,
    ) -> None:
        """`modules`: where the children find the tasks; `gpus`: how many there are, slots take them in turn.

        `read` None: no node waits for device memory. `peaks` None: what runs have used is not remembered. `shared` None: what other workers
        reserve of these GPUs is not known. `store` None: of output that is too much for the log the rest is lost.
        """
        self._registry = registry
        self._store = store
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
            model_roots=settings.models.roots,
            memory_mib=settings.worker.slot_memory_mib,
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
        """Returns why slots do not start, and that the devices do not answer, a sentence each."""
        failures = dict.fromkeys(seat.failure for seat in self._all if seat.failure)
        return [*failures, *filter(None, [self._seats.problem()])]

    def pids(self) -> list[int]:
        """Process ids of the slots that live, each the leader of a process group."""
        return [seat.slot.pid for seat in self._all if seat.slot is not None and seat.slot.alive]

    async def run(self, run: NodeRun, emit: Emit, control: RunControl) -> Outcome:
        """Runs a node in the next free slot and answers when nothing of it runs any more."""
        task = self._registry.get(run.task)
        if task is None:
            return failed("unknown_task", f"this worker has no task {run.task!r}")
        try:
            taken = await self._seats.take(self._wish(task, run), control, emit.waits)
        except DoesNotFit as error:
            return Declined(reason=str(error))
        if taken is None:
            return Cancelled(began=False)
        begun = time.monotonic()
        try:
            return await self._run(taken, task, run, emit, control)
        finally:
            held = metrics.device_seconds_total.labels(run.task, _device(task, taken.seat))
            held.inc(time.monotonic() - begun)

    def _wish(self, task: Task, run: NodeRun) -> ResourceRequest:
        if task.capability.runtime.kind != "gpu":
            return ResourceRequest()
        need = self._peaks.need_bytes(task, run.params) if self._counts_memory else None
        return ResourceRequest(need, task.warm_key(run.params))

    async def _run(self, taken: Assignment, task: Task, run: NodeRun, emit: Emit, control: RunControl) -> Outcome:
        seat = taken.seat
        slot = seat.slot
        if slot is None:
            self._seats.release(taken)
            self._restart(seat)
            return failed("slot_start_failed", seat.failure, retryable=True)
        self._runs += 1
        directory = self._root / str(self._runs)
        stopping = _Stopping(self._seats, taken)
        control.on_cancel(stopping.begin)
        try:
            outcome = await slot.run(task, run, emit, control, self._grace_seconds, directory)
            if isinstance(outcome, Cancelled) and control.cancelled:
                await stopping.verify(slot, emit)
            elif isinstance(outcome, Completed) and taken.reservation is not None and not slot.ran_smaller:
                self._remember(task, run, slot.peak, taken.reservation)
            outcome = await self._with_output(run, outcome, slot, emit, directory.with_suffix(".output"))
        except BaseException:
            slot.spent = True
            raise
        finally:
            control.remove(stopping.begin)
            self._seats.release(taken)
            if slot.spent:
                self._restart(seat)
                await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)
            else:
                self._seats.put(seat)
        return outcome

    def _remember(self, task: Task, run: NodeRun, told: int, reservation: Reservation) -> None:
        """Notes the peak. Looks alone may have missed the peak, so it does not fall below the declared need."""
        declared = task.memory_mib(run.params) * MIB
        peak = max(told, reservation.peak) if told else max(declared, reservation.peak)
        self._beside(self._peaks.note(task, run.params, peak), f"remember {run.task}")

    async def _with_output(self, run: NodeRun, outcome: Outcome, slot: Slot, emit: Emit, path: Path) -> Outcome:
        """Returns the outcome with all that the run printed as one artifact more, where its log holds only part of it."""
        printed = slot.output
        if printed is None or isinstance(outcome, Declined | Preempted):
            return outcome
        with printed.whole as whole:
            if not printed.left_out or self._store is None:
                return outcome
            try:
                await asyncio.to_thread(_write, whole, path)
                store = OwnedStore(self._store, run.owner, run.owner) if run.owner else self._store
                key = f"{run.job_id}/{run.node_id}/{run.nonce}/{OUTPUT_NAME}"
                kind = "text/plain; charset=utf-8"
                async with asyncio.timeout(STORE_SECONDS):
                    meta = await store.put("inputs", key, path, kind, job_id=run.job_id, node_id=run.node_id)
            except (StoreError, OSError, TimeoutError) as error:
                emit.log("warning", f"the whole output could not be stored: {error or type(error).__name__}")
                return outcome
            finally:
                await asyncio.to_thread(path.unlink, missing_ok=True)
        return msgspec.structs.replace(outcome, artifacts=[*outcome.artifacts, meta])

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
        """Puts the place back with a new process, or without one and the reason after a few attempts."""
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


def _write(whole: IO[bytes], path: Path) -> None:
    whole.seek(0)
    with path.open("wb") as file:
        shutil.copyfileobj(whole, file)


def _device(task: Task, seat: SlotHandle) -> str:
    return "gpu" if seat.gpu is not None and task.capability.runtime.kind == "gpu" else "cpu"


class _Stopping:
    """The end of a cancelled node: how long it took, and whether its device memory came back, as measured; fields that were not measured are left out."""

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
        """Emits the event `cancelled`; a process that keeps more than it began with, and than libraries do, is spent."""
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
        """Returns the bytes that its process still holds, as soon as these are no more than `rest`, or after MEMORY_BACK_SECONDS; None: the driver does not report them."""
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
