"""One round: a rig, a load, faults for a while, then calm, and the question whether everything still holds."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos import invariants
from tests.chaos.drawing import TOLD_TO_FAIL
from tests.chaos.faults import KINDS, Faults
from tests.chaos.load import Load
from tests.chaos.rig import Rig

ERRORS = frozenset({TOLD_TO_FAIL})
CAUSED = {"kill_slot": "slot_crashed", "freeze_worker": "slot_crashed", "suspend": "slot_crashed"}
"""Codes of failures that a fault may cause by itself; any loss of an owner may end in worker_lost."""

MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""An fsync there costs nothing, so the disk of a busy machine is not what is measured."""


@dataclass
class Round:
    seed: str
    faults: Counter[str]
    jobs: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    settled_seconds: float = 0.0
    """From the end of the faults to the end of the last job."""
    again_seconds: list[float] = field(default_factory=list)
    """From the kill of a worker until a node that it ran runs again, or has ended."""
    done_seconds: list[float] = field(default_factory=list)
    """From the kill of a worker until the job of such a node has ended."""
    late_seconds: float = 0.0
    """How late the harness itself was at worst: what it says of others' speed is worth no more."""
    reruns: int = 0
    """Nodes that ran again within an attempt of their job, though they had not failed."""
    resyncs: int = 0
    events: int = 0
    marks: int = 0
    unanswered: dict[int, int] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    story: list[str] = field(default_factory=list)
    directory: Path = Path()


@dataclass(frozen=True)
class Plan:
    seconds: float
    kinds: tuple[str, ...] = tuple(KINDS)
    gap_seconds: float = 0.9
    """Between faults, on the average."""
    controls: int = 1
    workers: int = 2
    lease_ms: int = 1000
    jobs_per_second: float = 10.0
    settle_seconds: float = 40.0
    """Below the minute after which the scheduler heals what stands still: nothing may need that to go on."""


async def play(seed: str, plan: Plan, directory: Path | None = None) -> Round:
    folder = directory or Path(tempfile.mkdtemp(prefix="chaos-", dir=MEMORY))
    rig = Rig(folder, hash_of(seed), lease_ms=plan.lease_ms)
    load = Load(rig, seed, plan.jobs_per_second)
    faults = Faults(rig, load, seed)
    made = Round(seed, faults.counts, story=faults.story, directory=folder)
    lateness = asyncio.create_task(_lateness(rig, made))
    try:
        await rig.start(plan.controls, plan.workers)
        loading = asyncio.create_task(load.run())
        await faults.run(plan.seconds, list(plan.kinds), plan.gap_seconds)
        await rig.calm()
        calm_since = time.monotonic()
        await load.stop()
        await loading
        await _settle(rig, made, plan.settle_seconds)
        made.settled_seconds = time.monotonic() - calm_since
        await _judge(rig, load, faults, made, plan)
        made.broken += await rig.stop()
    except Exception as error:
        made.broken.append(f"the round itself failed: {type(error).__name__}: {error}")
        made.story.append("it failed here")
        if not isinstance(error, TimeoutError | AssertionError | OSError):
            raise
    finally:
        lateness.cancel()
        await load.close()
        await rig.close()
    made.broken += [*faults.broken, *load.broken, *rig.ended_by_itself]
    made.troubles = list(invariants.troubles(folder))
    return made


async def _lateness(rig: Rig, made: Round) -> None:
    """Where this process is late, the others are too, by the machine's load or by their wires, which are in this one."""
    while True:
        begun = time.monotonic()
        await asyncio.sleep(0.02)
        late = time.monotonic() - begun - 0.02
        made.late_seconds = max(made.late_seconds, late)
        if late > rig.lease / 4:
            rig.settle(rig.disturb(rig.places, late + rig.lease))


def hash_of(seed: str) -> int:
    return random.Random(seed).getrandbits(32)


async def _settle(rig: Rig, made: Round, seconds: float) -> None:
    until = time.monotonic() + seconds
    while left := await invariants.alive(rig.redis):
        if time.monotonic() > until:
            made.broken.append(f"after {seconds:g} s {len(left)} jobs have not ended: {left[:10]}")
            made.story += await invariants.stuck(rig.redis, left)
            return
        await asyncio.sleep(0.05)


async def _judge(rig: Rig, load: Load, faults: Faults, made: Round, plan: Plan) -> None:
    errors = ERRORS | {"worker_lost"} | {CAUSED[kind] for kind in plan.kinds if kind in CAUSED}
    kills: list[tuple[float, float, float]] = []
    for entry in load.ledger.values():
        if not entry.acknowledged:
            continue
        made.jobs += 1
        if not await rig.redis.exists(f"job:{entry.job}"):
            made.broken.append(f"{entry.job}: was acknowledged and is lost")
            continue
        document = await load.get(f"/api/jobs/{entry.job}")
        graph = await load.get(f"/api/jobs/{entry.job}/graph")
        events = (await load.get(f"/api/jobs/{entry.job}/events"))["events"]
        marks = invariants.marks_of(rig.runs / entry.job)
        made.statuses[document["status"]] += 1
        made.events += len(events)
        made.marks += len(marks)
        made.reruns += invariants.reruns(events)
        for watcher in entry.watchers:
            made.resyncs += watcher.resyncs
            await watcher.reaches(len(events), 15)
        made.broken += invariants.of_log(entry, document, events)
        made.broken += invariants.of_graph(entry, document, graph, errors)
        made.broken += invariants.of_watchers(entry, events)
        made.broken += invariants.of_work(entry, events, marks, rig.was_disturbed)
        kills += invariants.recoveries(events, faults.kills)
    made.again_seconds = [again - killed for killed, again, _ in kills]
    made.done_seconds = [done - killed for killed, _, done in kills]
    made.unanswered = load.refused
    made.broken += await _drained(rig)


async def _drained(rig: Rig) -> list[str]:
    """Entries that nobody needs any more are acknowledged by whoever meets them, some leases after the last job's end."""
    until = time.monotonic() + max(5.0, 10 * rig.lease)
    while (found := await invariants.of_redis(rig.redis)) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return found
