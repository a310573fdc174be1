"""One round: a rig, a load, faults for a while, then calm, and the question whether everything still holds."""

import asyncio
import random
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from dihedral.bridge.artifacts import open_store
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.schemas.structs.settings import ArtifactsSettings
from tests.artifacts.seaweed import Seaweed
from tests.chaos import invariants
from tests.chaos.drawing import TOLD_TO_FAIL
from tests.chaos.faults import REMOTE_STORE, Faults, kinds
from tests.chaos.load import Entry, Load
from tests.chaos.rig import Rig
from tests.support.polling import at_this_load

ERRORS = frozenset({TOLD_TO_FAIL})
CAUSED = {
    "kill_slot": "slot_crashed", "freeze_worker": "slot_crashed", "suspend": "slot_crashed",
    "full_disk": "artifact_store_full", **dict.fromkeys(REMOTE_STORE, "artifact_store_unavailable"),
}  # fmt: skip
"""Codes of failures that a fault may cause by itself; any loss of an owner may end in worker_lost."""
FORGETS = "lose_power"
PLANES = ("control_plane", "data_plane")
CUTS_OFF = {"kill_worker", "kill_slot", "freeze_worker", "suspend", "cancel_running"}
"""Whoever is killed while it stores something leaves a file in the store's `.tmp`, which the store removes after a day."""
WALL = time.time() - time.monotonic()

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
    forgotten: int = 0
    """Acknowledged jobs that a server lost which was to keep all but its last second."""
    stored: int = 0
    """Artifacts that were read back."""
    reruns: int = 0
    preempted: int = 0
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
    """`seconds` of faults at least, and then until `jobs` have been submitted, where that is not None."""

    seconds: float
    kinds: tuple[str, ...] = kinds(fsync="always", remote_store=False)
    jobs: int | None = None
    fsync: str = "always"
    seaweed: Seaweed | None = None
    gap_seconds: float = 0.9
    """Between faults, on the average."""
    controls: int = 1
    workers: int = 2
    lease_ms: int = 1000
    jobs_per_second: float = 10.0

    @property
    def settle_seconds(self) -> float:
        """Below the minute after which the scheduler heals what stands still: nothing may need that to go on.

        But where a server has forgotten an outcome and then hears the ack that followed it.
        """
        return 150.0 if FORGETS in self.kinds else 40.0


async def play(seed: str, plan: Plan, directory: Path | None = None) -> Round:
    folder = directory or Path(tempfile.mkdtemp(prefix="chaos-", dir=MEMORY))
    rig = Rig(folder, hash_of(seed), lease_ms=plan.lease_ms, fsync=plan.fsync, seaweed=plan.seaweed)
    load = Load(rig, seed, plan.jobs_per_second, most=plan.jobs, forgetful=FORGETS in plan.kinds)
    faults = Faults(rig, load, seed)
    made = Round(seed, faults.counts, story=faults.story, directory=folder)
    lateness = asyncio.create_task(_lateness(rig, made))
    try:
        await rig.start(plan.controls, plan.workers)
        fresh = {
            kind: [invariants.descriptors(place.pid) for place in rig.places if place.kind == kind] for kind in PLANES
        }
        loading = asyncio.create_task(load.run())
        await faults.run(plan.seconds, list(plan.kinds), plan.gap_seconds, lambda: plan.jobs is None or load.is_done)
        await rig.calm()
        calm_since = time.monotonic()
        await load.stop()
        await loading
        await _settle(rig, made, plan.settle_seconds)
        made.settled_seconds = time.monotonic() - calm_since
        await _judge(rig, load, faults, made, plan)
        await load.close()
        made.broken += await _descriptors(rig, fresh)
        made.broken += await rig.stop()
        if not {*plan.kinds} & CUTS_OFF:
            made.broken += [f"left in the store: {path.name}" for path in (folder / "artifacts" / ".tmp").glob("*")]
    except Exception as error:
        made.broken.append(f"the round itself failed: {type(error).__name__}: {error}")
        made.story.append("it failed here")
        if not isinstance(error, TimeoutError | AssertionError | OSError | httpx.HTTPError):
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
            made.story += await invariants.unreclaimable(rig.redis, left)
            return
        await asyncio.sleep(0.05)


async def _judge(rig: Rig, load: Load, faults: Faults, made: Round, plan: Plan) -> None:
    errors = ERRORS | {"worker_lost"} | {CAUSED[kind] for kind in plan.kinds if kind in CAUSED}
    if plan.seaweed is not None:  # whose requests carry the time: it refuses those of a clock that went wrong
        errors |= {"artifact_store_unavailable"}
    settings = ArtifactsSettings(directory=str(rig.directory / "artifacts"))
    store = open_store(settings if plan.seaweed is None else plan.seaweed.settings())
    try:
        for entry in load.ledger.values():
            if entry.acknowledged is not None:
                await _judge_job(entry, rig, load, faults, made, errors, store)
    finally:
        await store.close()
    made.broken += invariants.of_claims(rig.log.read_bytes())
    made.unanswered = load.refused
    made.broken += await _drained(rig)


async def _judge_job(
    entry: Entry, rig: Rig, load: Load, faults: Faults, made: Round, errors: frozenset[str], store: ArtifactStore
) -> None:
    assert entry.acknowledged is not None
    asked, told = entry.acknowledged
    made.jobs += 1
    entry.forgotten = any(entry.asked <= cut.died for cut in faults.cuts)
    if not await rig.redis.exists(f"job:{entry.job}"):
        if any(asked <= cut.died and cut.since <= told for cut in faults.cuts):
            made.forgotten += 1
        else:
            made.broken.append(f"{entry.job}: was acknowledged and is lost")
        return
    document = await load.get(f"/api/jobs/{entry.job}")
    graph = await load.get(f"/api/jobs/{entry.job}/graph")
    events = (await load.get(f"/api/jobs/{entry.job}/events"))["events"]
    marks = invariants.marks_of(rig.runs / entry.job)
    made.statuses[document["status"]] += 1
    made.events += len(events)
    made.marks += len(marks)
    made.stored += len(document["artifacts"])
    made.reruns += invariants.reruns(events)
    made.preempted += invariants.preemptions(events)
    for watcher in entry.watchers:
        if entry.forgotten:  # whoever saw the end and left has not heard that it was undone
            await watcher.again(15)
        made.resyncs += watcher.resyncs
        await watcher.reaches(len(events), 15)
    made.broken += invariants.of_watchers(entry, events)
    events = invariants.dated(events, rig.clock, WALL)
    made.broken += invariants.of_log(entry, document, events)
    made.broken += invariants.of_graph(entry, document, graph, errors)
    made.broken += invariants.of_work(entry, events, marks, rig.was_disturbed)
    made.broken += await invariants.of_artifacts(entry.job, document, store)
    for killed, again, done in invariants.recoveries(events, faults.kills):
        made.again_seconds.append(again - killed)
        made.done_seconds.append(done - killed)


async def _descriptors(rig: Rig, fresh: dict[str, list[Counter[str]]]) -> list[str]:
    """Connections of clients that have gone are closed a little later."""
    until = time.monotonic() + at_this_load(5)
    while True:
        found = [
            line
            for place in rig.places
            for line in invariants.of_descriptors(str(place), invariants.descriptors(place.pid), fresh[place.kind])
        ]
        if not found or time.monotonic() > until:
            return found
        await asyncio.sleep(0.1)


async def _drained(rig: Rig) -> list[str]:
    """Entries that nobody needs any more are acknowledged by whoever meets them, some leases after the last job's end."""
    until = time.monotonic() + at_this_load(max(5.0, 10 * rig.lease))
    while (found := await invariants.of_redis(rig.redis)) and time.monotonic() < until:  # noqa: ASYNC110
        await asyncio.sleep(0.1)
    return found
