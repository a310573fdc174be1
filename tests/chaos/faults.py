"""What goes wrong, each kind as one function: it breaks something, waits, and makes it whole again; and the seeded schedule.

A fault takes a place that no other fault has (`busy`); where there is none it does nothing and is not counted.
"""

import asyncio
import random
import resource
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tests.chaos.clock import library
from tests.chaos.drawing import LARGE_KIB, storing
from tests.chaos.load import Load
from tests.chaos.rig import Place, Rig, children, is_slot, processes
from tests.chaos.wire import Wire

Fault = Callable[["Faults"], Awaitable[bool]]


GIVE_UP_SECONDS = 60.0
"""So long a kind that finds nothing to break is tried again after the round's time is over."""

CLOCK_STEPS_SECONDS = (-3600.0, -20.0, 20.0, 3600.0)
SUSPEND_STEPS_SECONDS = (30.0, 600.0)


MEET_SECONDS = 20.0
"""A job that is to meet a fault has so long to end under it."""


@dataclass(frozen=True)
class Cut:
    """The server lost everything that it had written since `since`, and died at `died`; monotonic moments."""

    since: float
    died: float


class Faults:
    def __init__(self, rig: Rig, load: Load, seed: str) -> None:
        self.rig = rig
        self.load = load
        self.rng = random.Random(f"faults {seed}")
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self.kills: list[tuple[float, int]] = []
        """(moment, pid) of every worker that was killed."""
        self.cuts: list[Cut] = []
        self.story: list[str] = []
        self._owed: list[str] = []
        self._begun = time.monotonic()

    async def run(
        self, seconds: float, kinds: list[str], gap_seconds: float, done: Callable[[], bool] = lambda: True
    ) -> None:
        """All kinds in turn, newly shuffled each time; gaps and overlaps at random. Each at least once, `seconds` at least.

        `done`: whether the clients have submitted all that they are to.
        """
        until = time.monotonic() + seconds
        patience = until + GIVE_UP_SECONDS
        running: set[asyncio.Task[None]] = set()
        bag = self.rng.sample(kinds, len(kinds))
        while (goes_on := time.monotonic() < until or not done()) or (
            set(kinds) - set(self.counts) and time.monotonic() < patience
        ):
            bag, self._owed = [*self._owed, *bag], []
            if goes_on:
                patience = time.monotonic() + GIVE_UP_SECONDS
            if not bag and goes_on:
                bag = self.rng.sample(kinds, len(kinds))
            if bag:
                running.add(asyncio.create_task(self._one(bag.pop())))
            await asyncio.sleep(gap_seconds * self.rng.choice((0.1, 0.5, 1.2, 2.2)) * (0.5 + self.rng.random()))
            running = {task for task in running if not task.done() or task.exception()}
        await asyncio.gather(*running)

    async def _one(self, kind: str) -> None:
        begun = time.monotonic() - self._begun
        if await KINDS[kind](self):
            self.counts[kind] += 1
            self.story.append(f"{begun:.2f}-{time.monotonic() - self._begun:.2f} {kind}")
        else:
            self._owed.append(kind)

    @contextmanager
    def one_of(self, places: list[Place]) -> Iterator[Place | None]:
        free = [place for place in places if not place.busy]
        place = self.rng.choice(free) if free else None
        if place is None:
            yield None
            return
        place.busy = True
        try:
            self.rig.look_after(place)
            yield place
        finally:
            place.busy = False

    @contextmanager
    def the_server(self) -> Iterator[bool]:
        """Whether this fault has it; while it is away nobody knows what he owns."""
        if self.rig.server_busy:
            yield False
            return
        self.rig.server_busy = True
        spans = self.rig.disturb(self.rig.places)
        try:
            yield True
        finally:
            self.rig.server_busy = False
            self.rig.settle(spans)

    def leases(self, least: float, most: float) -> float:
        """Seconds."""
        return self.rig.lease * self.rng.uniform(least, most)


# Processes ---------------------------------------------------------------------------------------------------------------


async def kill_worker(faults: Faults) -> bool:
    with faults.one_of(faults.rig.workers) as place:
        if place is None:
            return False
        faults.kills.append((time.monotonic(), place.pid))
        faults.rig.settle(faults.rig.disturb([place]))
        await faults.rig.kill(place)
        await asyncio.sleep(faults.rng.random())
        faults.rig.launch(place)
        return True


async def kill_slot(faults: Faults) -> bool:
    with faults.one_of(faults.rig.workers) as place:
        slots = [pid for pid in children(place.pid) if is_slot(pid)] if place is not None else []
        if not slots:
            return False
        faults.rig.signal([faults.rng.choice(slots)], signal.SIGKILL)
        return True


async def kill_control(faults: Faults) -> bool:
    with faults.one_of(faults.rig.controls) as place:
        if place is None:
            return False
        faults.rig.settle(faults.rig.disturb([place]))
        await faults.rig.kill(place)
        await asyncio.sleep(faults.rng.random() * 0.5)
        faults.rig.launch(place)
        return True


async def _freeze(faults: Faults, places: list[Place], seconds: float, *, slots: bool) -> bool:
    with faults.one_of(places) as place:
        if place is None:
            return False
        pids = processes(place) if slots else [place.pid]
        spans = faults.rig.disturb([place])
        faults.rig.signal(pids, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        faults.rig.signal(pids, signal.SIGCONT)
        faults.rig.settle(spans)
        return True


async def freeze_worker(faults: Faults) -> bool:
    return await _freeze(faults, faults.rig.workers, faults.leases(2.5, 3.5), slots=faults.rng.random() < 0.5)


async def freeze_control(faults: Faults) -> bool:
    return await _freeze(faults, faults.rig.controls, faults.leases(1.5, 3.5), slots=False)


async def drain_worker(faults: Faults) -> bool:
    return await _drain(faults, faults.rig.workers)


async def drain_control(faults: Faults) -> bool:
    return await _drain(faults, faults.rig.controls)


async def _drain(faults: Faults, places: list[Place]) -> bool:
    """SIGTERM to one that is up, while its wire works; a new one starts when it has gone."""
    with faults.one_of(places) as place:
        if place is None or faults.rig.server_busy or not await faults.rig.is_up(place):
            return False
        faults.rig.signal([place.pid], signal.SIGTERM)
        faults.broken += await faults.rig.gone(place, 20)
        faults.rig.launch(place)
        return True


# The machine and the server ----------------------------------------------------------------------------------------------


async def suspend(faults: Faults) -> bool:
    """Everything stands still at once and goes on as if nothing had been, but every wall clock has moved much further."""
    rig = faults.rig
    with faults.the_server() as ours:
        if not ours or rig.server is None:
            return False
        pids = [rig.server.pid]
        for place in rig.places:
            if place.runs:
                pids += processes(place)
        rig.signal(pids, signal.SIGSTOP)
        await asyncio.sleep(faults.leases(2.5, 3.5))
        seconds, now = faults.rng.choice(SUSPEND_STEPS_SECONDS), time.monotonic()
        for clock in [rig.clock, *(place.clock for place in rig.places)]:
            clock.step(seconds, now)
        rig.signal(faults.rng.sample(pids, len(pids)), signal.SIGCONT)
        return True


async def restart_server(faults: Faults) -> bool:
    with faults.the_server() as ours:
        if not ours:
            return False
        await faults.rig.kill_server()
        await asyncio.sleep(faults.leases(0, 3))
        await faults.rig.start_server()
        return True


async def lose_power(faults: Faults) -> bool:
    """The server's machine goes down, and what was appended to the file in its last second never reached the disk."""
    with faults.the_server() as ours:
        if not ours:
            return False
        since = await faults.rig.lose_power()
        faults.cuts.append(Cut(since, time.monotonic()))
        await asyncio.sleep(faults.leases(0, 2))
        await faults.rig.start_server()
        return True


async def freeze_server(faults: Faults) -> bool:
    with faults.the_server() as ours:
        if not ours or faults.rig.server is None:
            return False
        faults.rig.signal([faults.rig.server.pid], signal.SIGSTOP)
        await asyncio.sleep(faults.leases(2.5, 3.5))
        faults.rig.signal([faults.rig.server.pid], signal.SIGCONT)
        return True


async def full_server(faults: Faults) -> bool:
    """The memory limit: submissions are refused, what runs goes on, so nobody counts as disturbed."""
    if faults.rig.server_busy:
        return False
    faults.rig.server_busy = True
    await faults.rig.redis.config_set("maxmemory", "1")
    await asyncio.sleep(faults.leases(1, 3))
    await faults.rig.redis.config_set("maxmemory", "0")
    faults.rig.server_busy = False
    return True


async def poison(faults: Faults) -> bool:
    """Entries that nobody of ours wrote; they end among the dead letters or are dropped, and hurt nothing."""
    if faults.rig.server_busy:
        return False
    job = faults.rng.choice(list(faults.load.ledger) or ["nobody"])
    bad: list[dict[str, str]] = [
        {"what": "is this"},
        {"job": "nobody", "nodes": "a,b", "created": "0", "v": "1"},
        {"job": job, "nodes": "there.is.no.such.node", "created": "x", "v": "y", "graph": "{", "routes": "["},
        {"job": job, "nodes": ",".join(f"n{number}" for number in range(50)), "heavy": "1"},
        {"job": "", "nodes": ""},
    ]
    stream = faults.rng.choice(("stream:process:data", "stream:process:control")) + faults.rng.choice(("", ":high"))
    await faults.rig.redis.xadd(stream, faults.rng.choice(bad))  # type: ignore[arg-type]
    return True


# Clocks: nobody counts as disturbed, because a wall clock must not matter -------------------------------------------------


async def jump_clock(faults: Faults) -> bool:
    """The wall clock of one process jumps, either way, and mostly comes back."""
    with faults.one_of(faults.rig.places) as place:
        if place is None:
            return False
        seconds = faults.rng.choice(CLOCK_STEPS_SECONDS)
        place.clock.step(seconds, time.monotonic())
        await asyncio.sleep(faults.leases(1, 3))
        if faults.rng.random() < 0.7:
            place.clock.step(-seconds, time.monotonic())
        return True


async def jump_server_clock(faults: Faults) -> bool:
    """Forwards only: Redis's own stream ids do not go back either."""
    if faults.rig.server_busy:
        return False
    faults.rig.clock.step(faults.rng.choice(SUSPEND_STEPS_SECONDS), time.monotonic())
    return True


# The artifact store: a job that stores something is there to meet each of these ------------------------------------------


async def full_disk(faults: Faults) -> bool:
    """No file of a worker can grow beyond a size that artifacts have: the kernel refuses, as it does on a full disk."""
    rig = faults.rig
    if rig.disk_busy or rig.server_busy:
        return False
    rig.disk_busy = True
    _limit_files(rig.workers, LARGE_KIB * 1024 // 2)
    status = await faults.load.meet("full", storing, MEET_SECONDS)
    _limit_files(rig.workers, resource.RLIM_INFINITY)
    rig.disk_busy = False
    return status == "failed"


def _limit_files(places: list[Place], size_bytes: int) -> None:
    """The workers first: what they start from then on inherits it."""
    for place in places:
        if place.runs:
            for pids in ([place.pid], children(place.pid)):
                for pid in pids:
                    with suppress(ProcessLookupError):
                        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, hard))


async def refuse_store(faults: Faults) -> bool:
    """503 to everything."""
    return await _store(faults, lambda wire: setattr(wire, "refusal", SLOW_DOWN), (0.5, 3))


async def stall_store(faults: Faults) -> bool:
    return await _store(faults, lambda wire: wire.silence(), (2, 4))


async def cut_store(faults: Faults) -> bool:
    return await _store(faults, lambda wire: wire.cut(), (0.5, 1))


async def _store(faults: Faults, breaks: Callable[[Wire], None], leases: tuple[float, float]) -> bool:
    wire = faults.rig.store_wire
    if wire is None or faults.rig.disk_busy or faults.rig.server_busy:
        return False
    faults.rig.disk_busy = True
    breaks(wire)
    await faults.load.meet("store", storing, faults.leases(*leases))
    wire.mend()
    faults.rig.disk_busy = False
    return True


SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\ncontent-type: application/xml\r\nconnection: close\r\ncontent-length: 55\r\n\r\n"
    b"<Error><Code>SlowDown</Code><Message/></Error>" + b" " * 9
)


# Clients: what Load does at random anyway, here at a chosen moment --------------------------------------------------------


async def submit_twice(faults: Faults) -> bool:
    """The same submission three times at once."""
    return await faults.load.submit_at_once(3)


async def retry(faults: Faults) -> bool:
    return await faults.load.retry_one()


async def cancel_waiting(faults: Faults) -> bool:
    """Before it starts: `cancelled` at once."""
    return await faults.load.cancel_waiting()


async def cancel_running(faults: Faults) -> bool:
    """In the middle of a task that hears nothing: `cancelling`, until its process group has been killed."""
    return await faults.load.cancel_running()


async def cancel_ended(faults: Faults) -> bool:
    return await faults.load.cancel_ended()


# The wires ---------------------------------------------------------------------------------------------------------------


@contextmanager
def _wire(faults: Faults) -> Iterator[Place | None]:
    with faults.one_of(faults.rig.places) as place:
        spans = faults.rig.disturb([place] if place is not None else [])
        try:
            yield place
        finally:
            if place is not None:
                place.wire.mend()
            faults.rig.settle(spans)


async def cut_wire(faults: Faults) -> bool:
    with _wire(faults) as place:
        if place is None:
            return False
        for _ in range(faults.rng.randint(1, 5)):
            place.wire.cut()
            await asyncio.sleep(faults.rng.random() * 0.1)
        return True


async def silence_wire(faults: Faults) -> bool:
    """A black hole; what it swallowed arrives late, or never."""
    with _wire(faults) as place:
        if place is None:
            return False
        place.wire.silence()
        await asyncio.sleep(faults.leases(0.3, 4))
        if faults.rng.random() < 0.5:
            place.wire.cut()
        return True


async def lose_answers(faults: Faults) -> bool:
    with _wire(faults) as place:
        if place is None:
            return False
        place.wire.loses_share = faults.rng.choice((0.05, 0.2, 0.5))
        await asyncio.sleep(faults.leases(1, 3))
        return True


async def slow_wire(faults: Faults) -> bool:
    with _wire(faults) as place:
        if place is None:
            return False
        place.wire.delay_seconds = faults.rng.choice((0.02, 0.1, 0.2))
        await asyncio.sleep(faults.leases(2, 5))
        return True


def _named(*faults: Fault) -> dict[str, Fault]:
    return {fault.__name__: fault for fault in faults}


CLOCKS = _named(jump_clock, jump_server_clock)
"""Possible where clocks can be stepped; without that `suspend` stops everything and steps nothing."""
REMOTE_STORE = _named(refuse_store, stall_store, cut_store)
"""Possible with an S3 store."""
KINDS = {
    **_named(
        kill_worker, kill_slot, kill_control, freeze_worker, freeze_control, drain_worker, drain_control, restart_server,
        freeze_server, full_server, lose_power, poison, cut_wire, silence_wire, lose_answers, slow_wire, full_disk,
        suspend, submit_twice, retry, cancel_waiting, cancel_running, cancel_ended,
    ),
    **CLOCKS,
    **REMOTE_STORE,
}  # fmt: skip


def kinds(*, fsync: str, remote_store: bool) -> tuple[str, ...]:
    """What can be injected here, into a server that syncs `always` or `everysec`."""
    left_out = set() if library() else {*CLOCKS}
    left_out |= set() if remote_store else {*REMOTE_STORE}
    left_out |= {"lose_power"} if fsync == "always" else set()
    return tuple(kind for kind in KINDS if kind not in left_out)
