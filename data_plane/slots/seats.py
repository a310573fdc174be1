"""The scheduler of slots: decides which node gets which slot next. A place is where a slot process runs, bound to a device where there are any.

A node of kind gpu needs a free place and, on its device, memory (ledger.py). Among free places the one whose process keeps the node's model
loaded comes first, then one that keeps nothing, each with the device that has most room; so a model is dropped only where nothing else
is free. Waiting nodes are served by priority, then in order, but a younger node may use memory that the older one cannot (`Ledger.leaves_room`).
Where nodes of lower priority have the memory that one waits for, as many of them are requested to pause as it takes, or none.

Nothing here waits or costs more than a few comparisons where a place is free and no device memory is requested. Devices are looked at when a
node requests memory or has ended, four times a second while one waits for memory, and once while any runs, for its peak.

A look is made in a thread, since a driver may not answer; a node that needs no memory does not wait for it longer than a moment. Decisions
are made here, on the loop, when a look has come back: the ledger is right with a reading of any age for processes of this worker, and what a
stranger has taken meanwhile is bounded by SILENT_SECONDS. Nothing is admitted on an older reading.

Large because who is served next depends on all of its state at once.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from dihedral.bridge.errors import DihedralError
from dihedral.bridge.tasks.runs import RunControl
from dihedral.data_plane.gpu_memory.ledger import Ledger, Reservation
from dihedral.data_plane.gpu_memory.readings import SILENT_SECONDS, DeviceProbe, Read, Reading
from dihedral.data_plane.gpu_memory.reservations import SharedReservations
from dihedral.data_plane.process_groups import ancestor
from dihedral.data_plane.slots.process import Slot

log = logging.getLogger(__name__)

LOOK_SECONDS, IDLE_LOOK_SECONDS = 0.25, 1.0
PATIENCE_SECONDS, ROOM_SECONDS = 1.0, 30.0  # before nodes are requested to pause, and before more are
BUSY_SECONDS = 0.02  # until another worker has decided, which takes it less than a millisecond


class SlotHandle:
    """A place for a slot process, which comes and goes. gpu: index among the visible ones, None where there is none."""

    def __init__(self, number: int, gpu: int | None) -> None:
        self.number = number
        self.gpu = gpu
        self.slot: Slot | None = None
        self.failure = ""

    @property
    def pid(self) -> int:
        return self.slot.pid if self.slot is not None else 0

    @property
    def warm_key(self) -> str:
        return self.slot.warm_key if self.slot is not None else ""

    @property
    def used(self) -> bool:
        """True when its process has run a node, and so may hold memory that the driver does not name."""
        return self.slot is not None and self.slot.used

    @property
    def unreclaimable(self) -> int:
        """Bytes that its idle process holds and no model: the next node cannot have them."""
        return self.slot.held if self.slot is not None and not self.slot.warm_key else 0


class ResourceRequest(msgspec.Struct, frozen=True):
    """The needs of a node. need: bytes of device memory, None: no device. warm_key: of the model that it would load."""

    need: int | None = None
    warm_key: str = ""


class Assignment(msgspec.Struct, frozen=True):
    """A place, and the memory that goes with it; None where none was requested."""

    seat: SlotHandle
    reservation: Reservation | None
    control: RunControl


class _Waiting(msgspec.Struct, eq=False):
    """since: when its wait for memory began. asked: when other nodes were last requested to pause for it."""

    wish: ResourceRequest
    order: int
    waits: Callable[[str], None]
    control: RunControl
    taken: asyncio.Future[Assignment | None]
    since: float | None = None
    asked: float = float("-inf")


class DoesNotFit(DihedralError):
    """No device of this worker has as much memory; the text contains the amount."""


class SlotScheduler:
    def __init__(
        self,
        seats: Sequence[SlotHandle],
        restart: Callable[[SlotHandle], None],
        read: Read | None,
        headroom: int,
        shared: SharedReservations | None = None,
    ) -> None:
        """`restart` starts a new process for a place and puts the place back; `read` None: there is no device whose memory could be counted.

        `shared` None: reservations of other workers are not known.
        The first look is made here and now: before it nothing runs that could be kept waiting.
        """
        self._restart = restart
        self._probe = DeviceProbe(read) if read is not None else None
        self._ledger = Ledger(headroom, read()) if read is not None else None
        self._shared = shared
        self._free: list[SlotHandle] = []
        self._ours = list(seats)
        self._names_ours = False  # whether the driver has named any of our processes
        self._waiting: list[_Waiting] = []
        self._promised: list[Assignment] = []  # to what runs, the latest last
        self._order = 0
        self._looking: asyncio.Task[None] | None = None
        self._asked = asyncio.Event()  # for a look, sooner than the next one is due
        self._answers = True  # whether the last look came back in time and without an error
        self._owed_since: float | None = None  # since when the driver has not answered, errors included
        self._error = ""
        self._busy_since: float | None = None  # since when another worker has had the lock of the reservations
        self._closed = False

    async def take(self, wish: ResourceRequest, control: RunControl, waits: Callable[[str], None]) -> Assignment | None:
        """Returns None when the node was cancelled while it waited. `waits` receives the reason while the node waits for memory.

        Raises:
            DoesNotFit: it would wait for ever.
        """
        if control.cancelled:
            return None
        self._check(wish)
        self._order += 1
        one = _Waiting(wish, self._order, waits, control, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        self._waiting.sort(key=lambda each: (each.control.rank, each.order))
        self._serve()
        if one.taken.done():
            return one.taken.result()

        def cancelled() -> None:
            if not one.taken.done():
                self._waiting.remove(one)
                one.taken.set_result(None)

        control.on_cancel(cancelled)
        try:
            return await one.taken
        except asyncio.CancelledError:
            if one in self._waiting:
                self._waiting.remove(one)
            elif (served := one.taken.result()) is not None:  # assigned in the moment in which the caller was cancelled
                self.put_back(served)
            raise
        finally:
            control.remove(cancelled)
            waits("")
            self._serve()

    def put(self, seat: SlotHandle) -> None:
        """Accepts a free place: with a process that lives, or without one and the reason."""
        self._free.append(seat)
        self._serve()

    def put_back(self, taken: Assignment) -> None:
        self.release(taken)
        self.put(taken.seat)

    def release(self, taken: Assignment) -> None:
        """Releases the memory for others; the place goes back with `put`, when it can be used again."""
        if taken.reservation is not None and self._ledger is not None:
            self._promised = [each for each in self._promised if each is not taken]
            self._ledger.release(taken.reservation, time.monotonic())
            self._ask()

    def poll(self) -> asyncio.Future[list[Reading]]:
        """Returns the look under way, or a new one; the ledger has its reading before the callers that wait for it continue.

        Only where there are devices (`read`).
        """
        assert self._probe is not None
        begins = not self._probe.under_way
        answer = self._probe.poll()
        if begins:
            if self._owed_since is None:
                self._owed_since = self._probe.begun
            idle = [(seat.gpu, seat.pid, seat.slot.held) for seat in self._free if seat.slot is not None]
            answer.add_done_callback(functools.partial(self._take_in, self._probe.begun, idle))
        return answer

    def problem(self) -> str:
        """Returns what does not answer; empty while the devices answer, and other workers decide in time."""
        silent, busy = _seconds_since(self._owed_since), _seconds_since(self._busy_since)
        if silent > SILENT_SECONDS:
            return f"the device does not answer ({silent:.0f} s)" + (f": {self._error}" if self._error else "")
        return (
            f"another worker keeps the reservations of this device locked ({busy:.0f} s)"
            if busy > SILENT_SECONDS
            else ""
        )

    def close(self) -> None:
        self._closed = True
        if self._looking is not None:
            self._looking.cancel()

    def leave(self) -> None:
        """Drops the reservations of this worker; called after `close`, when no slot process runs any more."""
        if self._shared is not None:
            self._shared.leave()

    def _pids(self) -> list[int]:
        return [seat.pid for seat in self._ours if seat.pid]

    # Serving ----------------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        """Assigns free places to the nodes that may have them, the oldest first."""
        if not self._waiting:
            return
        self._serve_all(looked=False)
        if self._wants_memory():
            self._ask()

    def _serve_all(self, looked: bool) -> None:
        """Serves all waiting nodes. looked: a look has just been made; without one no node gets device memory."""
        for seat in [each for each in self._free if each.slot is not None and not each.slot.alive]:
            self._free.remove(seat)
            self._restart(seat)  # it died idle
        kept_from: dict[int, _Waiting] = {}  # device → the oldest that waits for its memory
        for one in [each for each in self._waiting if not each.taken.done()]:
            if self._counted(one) and not looked:
                problem = self.problem()
                if self._answers and not problem:
                    break  # the reading comes in a moment: until then the place is kept for this node
                if problem:  # otherwise its reported reason stays
                    one.waits(problem)
                continue
            taken = self._seated(one, kept_from)
            if taken is not None:
                self._waiting.remove(one)
                self._free.remove(taken.seat)
                if taken.reservation is not None:
                    self._promised.append(taken)
                one.waits("")
                one.taken.set_result(taken)

    def _counted(self, one: _Waiting) -> bool:
        return one.wish.need is not None and self._ledger is not None

    def _wants_memory(self) -> bool:
        """Returns True when a look could get any node a place."""
        return bool(self._free) and any(self._counted(one) for one in self._waiting)

    def _seated(self, one: _Waiting, kept_from: dict[int, _Waiting]) -> Assignment | None:
        wish, ledger = one.wish, self._ledger
        for seat in self._best_first(one):
            if wish.need is None or ledger is None or seat.gpu is None or seat.slot is None:
                return Assignment(seat, None, one.control)
            older = kept_from.get(seat.gpu)
            need = ledger.need_here(seat.gpu, wish.need) + seat.unreclaimable
            if older is not None and not ledger.leaves_room(
                seat.gpu, need, older.wish.need or 0, older.order, self._pids()
            ):
                continue
            alone = not any(other.used for other in self._ours if other.gpu == seat.gpu and other is not seat)
            reservation = ledger.reservation(
                seat.gpu, seat.pid, wish.need, one.order, unreclaimable=seat.unreclaimable, alone=alone
            )
            if reservation is not None:
                return Assignment(seat, reservation, one.control)
        if wish.need is not None and ledger is not None and self._free:  # without a free place it waits for that
            self._wait_for_memory(one, wish.need, ledger, kept_from)
        return None

    def _best_first(self, one: _Waiting) -> list[SlotHandle]:
        key = one.wish.warm_key

        def rank(seat: SlotHandle) -> tuple[bool, bool, int]:
            room = 0
            if one.wish.need is not None and self._ledger is not None and seat.gpu is not None:
                room = self._ledger.room(seat.gpu, seat.pid, one.wish.need) - seat.unreclaimable
            return not (key and seat.warm_key == key), bool(seat.warm_key), -room

        return sorted(reversed(self._free), key=rank)  # among equals the last one used: its caches are warm

    def _wait_for_memory(self, one: _Waiting, need: int, ledger: Ledger, kept_from: dict[int, _Waiting]) -> None:
        """Reports why the node waits, evicts idle memory that is in its way, and keeps the memory of one device for it."""
        # (room, device, process) of each place it could have; memory of a busy process cannot be taken.
        places = [
            (ledger.room(seat.gpu, pid, need) - (seat.unreclaimable if pid else 0), seat.gpu, pid)
            for seat in self._ours
            if seat.gpu is not None and ledger.could_fit(seat.gpu, need)
            for pid in (seat.pid if seat in self._free else 0,)
        ]
        room, gpu, pid = max((each for each in places if each[1] not in kept_from), default=max(places))
        older = kept_from.setdefault(gpu, one)
        if room < ledger.need_here(gpu, need):
            one.waits(ledger.why(gpu, pid, need))
            one.since = one.since or time.monotonic()
            if older is one:
                missing = ledger.need_here(gpu, need) - room
                if not self._make_room(gpu, pid, missing, ledger):
                    self._ask_to_pause(one, gpu, missing)
        elif older is not one:
            one.waits(ledger.kept_for(need, older.wish.need or 0))

    def _make_room(self, gpu: int, pid: int, missing: int, ledger: Ledger) -> bool:
        """Takes memory back from idle processes, if that is enough, which it answers: their models first, then what they hold besides, with them.

        Other memory in use may be theirs where the driver does not name them (in a container it knows other ids): they all go, if nothing runs there.
        """
        if any(seat.slot is not None and seat.slot.forgetting for seat in self._free if seat.gpu == gpu):
            return True  # it may be enough
        idle = [
            seat
            for seat in self._free
            if seat.gpu == gpu and (seat.pid != pid or seat.unreclaimable) and ledger.held(gpu, seat.pid)
        ]
        found = sum(ledger.held(gpu, seat.pid) for seat in idle)
        if found < missing:
            hidden = ledger.unnamed(gpu) if self._names_ours else ledger.foreign(gpu, self._pids())
            if ledger.is_promised(gpu) or found + hidden < missing:
                return False
            idle = [seat for seat in self._free if seat.gpu == gpu and seat.used]
        for seat in [each for each in idle if each.warm_key] or idle:
            if seat.slot is not None and seat.warm_key:
                seat.slot.forget_model()
            elif seat.slot is not None:
                self._free.remove(seat)
                seat.slot.spent = True
                self._restart(seat)
        return True

    def _ask_to_pause(self, one: _Waiting, gpu: int, missing: int) -> None:
        """Requests a pause of nodes of lower priority that may pause, the lowest first, of equals the one that began last; of none, where that would not be enough."""
        now = time.monotonic()
        if now - (one.since or now) < PATIENCE_SECONDS or now - one.asked < ROOM_SECONDS:
            return
        lower = [each for each in self._promised if each.seat.gpu == gpu and each.control.rank > one.control.rank]
        chosen: list[Assignment] = []
        for each in sorted(reversed(lower), key=lambda each: -each.control.rank):
            if missing > 0 and each.control.may_pause() and each.reservation is not None:
                chosen.append(each)
                missing -= each.reservation.need
        if missing <= 0:
            one.asked = now
            for each in chosen:
                each.control.request("pause")

    def _check(self, wish: ResourceRequest) -> None:
        if wish.need is None or self._ledger is None:
            return
        gpus = {seat.gpu for seat in self._ours if seat.gpu is not None}
        if gpus and not any(self._ledger.could_fit(gpu, wish.need) for gpu in gpus):
            raise DoesNotFit(self._ledger.never(wish.need, max(self._ledger.capacity(gpu) for gpu in gpus)))

    # Looking ----------------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        """Requests a look at the devices now."""
        self._asked.set()
        if not self._closed and (self._looking is None or self._looking.done()):
            self._looking = asyncio.get_running_loop().create_task(self._keep_looking(), name="device memory")

    async def _keep_looking(self) -> None:
        decided = True
        while self._ledger is not None and (self._wants_memory() or self._ledger.reservations or not decided):
            self._asked.clear()
            answer = self.poll()
            while not answer.done():
                await asyncio.wait({answer}, timeout=LOOK_SECONDS)
                if not answer.done():
                    self._answers = False
                    self._serve_all(looked=False)
            decided = self._decide(self._ledger)
            if not decided:
                await asyncio.sleep(BUSY_SECONDS)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS if self._wants_memory() else IDLE_LOOK_SECONDS):
                    await self._asked.wait()
        self._owed_since, self._answers = None, True  # no node waits for a look any more

    def _decide(self, ledger: Ledger) -> bool:
        """Decides after a look. False: another worker decides at this moment, which is not waited for."""
        if self._shared is None:
            self._serve_all(looked=self._answers)
            return True
        with self._shared.deciding(ledger) as may:
            self._busy_since = None if may else self._busy_since or time.monotonic()
            self._serve_all(looked=self._answers and may)
        return may

    def _take_in(
        self, begun: float, idle: list[tuple[int | None, int, int]], answer: asyncio.Future[list[Reading]]
    ) -> None:
        """Stores the reading. idle: what idle processes reported to hold when the look began, (device, process, bytes)."""
        if (error := answer.exception()) is not None:
            if not self._error:
                log.warning("device memory cannot be read: %s", error)
            self._error, self._answers = f"{type(error).__name__}: {error}", False
            return
        assert self._ledger is not None
        readings = answer.result()
        self._names_ours |= any(pid in reading.holders for pid in self._pids() for reading in readings)
        ours = frozenset(self._pids())
        readings = [_with_tools(reading, ours) for reading in readings]
        self._ledger.poll([_with_idle(gpu, reading, idle) for gpu, reading in enumerate(readings)], begun)
        self._error = ""
        self._answers = time.monotonic() - begun <= SILENT_SECONDS
        if self._answers:
            self._owed_since = None


def _seconds_since(moment: float | None) -> float:
    return time.monotonic() - moment if moment is not None else 0.0


def _with_tools(reading: Reading, ours: frozenset[int]) -> Reading:
    """Counts what a slot's children hold as the slot's: a tool that it runs takes the memory that was reserved for the node."""
    owners = {pid: owner for pid in reading.holders if pid not in ours and (owner := ancestor(pid, ours)) is not None}
    if not owners:
        return reading
    holders = {pid: held for pid, held in reading.holders.items() if pid not in owners}
    for pid, owner in owners.items():
        holders[owner] = holders.get(owner, 0) + reading.holders[pid]
    return msgspec.structs.replace(reading, holders=holders)


def _with_idle(gpu: int, reading: Reading, idle: Sequence[tuple[int | None, int, int]]) -> Reading:
    """Adds what idle processes report to hold, where the driver does not name them: in a container it knows other ids."""
    told = {pid: held for its, pid, held in idle if its == gpu and held and pid not in reading.holders}
    return msgspec.structs.replace(reading, holders=reading.holders | told) if told else reading
