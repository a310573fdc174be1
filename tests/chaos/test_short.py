"""One short seeded round of everything that can go wrong, which CI has time for; longer ones of single things, by hand.

The long profile is a command: `python -m tests.chaos --seeds 10 --jobs 10000`.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.fabric.items import Submission, Takeover
from dihedral.bridge.fabric.scripts import Claim, Reply, Report
from dihedral.bridge.fabric.steps import End
from tests.artifacts.seaweed import Seaweed, of_session
from tests.bridge.world import STREAM, World, batch
from tests.chaos.clock import Clock
from tests.chaos.faults import CLOCKS, REMOTE_STORE, kinds
from tests.chaos.invariants import Mark, of_claims, of_work
from tests.chaos.load import Entry
from tests.chaos.rounds import MEMORY, Plan, Round, play
from tests.support.servers import skip, start_server


@pytest.fixture
def directory() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="chaos-", dir=MEMORY))
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture
def seaweed(request: pytest.FixtureRequest) -> Seaweed:
    return of_session(request.config)


async def _holds(seed: str, plan: Plan, directory: Path) -> Round:
    made = await play(seed, plan, directory)
    assert made.broken == [], "\n".join([f"seed {seed}", *made.story, *made.broken, *made.troubles])
    assert made.jobs > 0
    return made


@pytest.mark.parametrize(
    ("task", "status", "late_seconds", "allowed"),
    [
        ("stroll", "cancelled", 0.5, True), ("stroll", "cancelled", 3, False), ("stroll", "completed", 0.5, False),
        ("stroll_once", "cancelled", 0.5, False), ("toil", "cancelled", 0.5, False),
    ],
)  # fmt: skip
def test_only_a_node_that_begins_before_redis_is_told_may_go_on_after_a_cancel(
    task: str, status: str, late_seconds: float, allowed: bool
) -> None:
    entry = Entry("job", {"nodes": [{"id": "a", "task": task}], "edges": []})
    end = {"type": "node", "nodeId": "a", "status": status, "attempt": 1, "moment": 100.0}
    mark = Mark(100 + late_seconds, "begin", "a", 1, "nonce", 7)
    assert (not list(of_work(entry, [end], [mark], lambda _pid, _moment: False))) == allowed


async def test_nothing_is_lost_or_done_twice_whatever_breaks(directory: Path) -> None:
    """One kind of each family: what others do to a process, the machine, the server, a wire, a clock, the disk, the clients."""
    wanted = {
        "kill_worker", "kill_slot", "freeze_worker", "suspend", "restart_server", "cut_wire", "silence_wire", "jump_clock",
        "full_disk", "poison", "submit_twice", "cancel_running", "retry",
    }  # fmt: skip
    chosen = tuple(kind for kind in kinds(fsync="always", remote_store=False) if kind in wanted)
    plan = Plan(seconds=1, kinds=chosen, gap_seconds=0.15, jobs_per_second=3, lease_ms=600)
    made = await _holds("ci", plan, directory)
    assert set(made.faults) == {*chosen} >= wanted - {*CLOCKS}


@pytest.mark.long
async def test_nothing_is_lost_or_done_twice_when_every_kind_comes_once(directory: Path) -> None:
    made = await _holds("all", Plan(seconds=1, gap_seconds=0.4, jobs_per_second=4), directory)
    assert set(made.faults) == set(kinds(fsync="always", remote_store=False))
    assert made.stored > 0


def test_a_process_has_a_wall_clock_of_its_own_that_steps(tmp_path: Path) -> None:
    clock = Clock(tmp_path / "clock", time.monotonic())
    if not clock.environ:
        skip("cc", "there is no C compiler, so no wall clock is stepped")
    clock.step(-3600, time.monotonic())
    told = "import datetime, time; print(time.time(), datetime.datetime.now().timestamp(), time.monotonic())"
    done = subprocess.run(
        [sys.executable, "-c", told], env={**os.environ, **clock.environ}, capture_output=True, check=True
    )
    wall, date, monotonic = map(float, done.stdout.split())
    assert max(abs(each + 3600 - time.time()) for each in (wall, date)) < 60
    assert abs(monotonic - time.monotonic()) < 60
    assert abs(clock.moment(wall, time.time() - time.monotonic()) - monotonic) < 1
    clock.close()


@pytest.mark.long
async def test_an_artifact_store_that_refuses_stalls_and_cuts_loses_no_job(directory: Path, seaweed: Seaweed) -> None:
    plan = Plan(seconds=1, kinds=(*REMOTE_STORE, "full_disk", "kill_worker"), jobs_per_second=4, seaweed=seaweed)
    made = await _holds("store", plan, directory)
    assert made.stored > 0


@pytest.mark.long
async def test_a_server_that_syncs_every_second_loses_that_second_and_no_more(directory: Path) -> None:
    plan = Plan(seconds=8, kinds=("lose_power",), jobs_per_second=8, fsync="everysec")
    await _holds("power", plan, directory)


@pytest.mark.long
async def test_a_server_that_is_killed_gives_no_running_job_away(directory: Path) -> None:
    plan = Plan(seconds=1, kinds=("restart_server",), workers=1, jobs_per_second=4, lease_ms=1500)
    made = await _holds("server", plan, directory)
    assert made.reruns == 0 or made.late_seconds > 0.5  # the machine itself stood still for a third of a lease


def test_a_write_of_a_superseded_owner_would_be_found() -> None:
    """The judge itself: an owner writes, then one that another had superseded."""
    record = ("HSET", "job:j", "n:a", "completed 1-0@s 1 0 1 2 - p 5", "o:a", '{"output":{"nonce":"first-1"}}')
    first, second = (("HSET", "job:j", "c:1-0@s", f"{claim}.1") for claim in ("w1 first", "w2 second"))
    assert list(of_claims(_log(first, record))) == []
    (found,) = of_claims(_log(first, second, record))
    assert "was written under first-1" in found
    taken, acked = ("XCLAIM", "s", "workers", "w1", "0", "1-0", "TIME", "1"), ("XACK", "s", "workers", "1-0")
    assert list(of_claims(_log(taken, record, acked))) == []
    (found,) = of_claims(_log(taken, acked, record))
    assert "is pending for no consumer" in found


def _log(*commands: tuple[str, ...]) -> bytes:
    written = b""
    for words in commands:
        written += b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
    return written


MUTATIONS = {
    "as it is": (),
    "a report of any claim passes": (("if entry ~= '' and owned ~= claimed then", "if false then"),),
    "a held entry begins whoever has it": (
        ("if not r or r.deliveries > 0 or not JOB_STARTS[J.status] then return false end", "if true then return true end"),
        ("if owned or not begun then return", "if not begun then return"),
        ("if r.status ~= S.running or r.entry ~= entry or r.attempt ~= attempt then return 'stale' end", "r.status, r.entry = S.running, entry"),
    ),
    "an ended node ends again": (
        ("if not r or r.deliveries > 0 or not JOB_STARTS[J.status] then return false end", "if true then return true end"),
        ("if NODE_ENDED[r.status] and r.entry == entry and r.attempt == attempt then return 'already' end", ""),
        ("if r.status ~= S.running or r.entry ~= entry or r.attempt ~= attempt then return 'stale' end", "r.status = S.running"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("mutation", MUTATIONS)
async def test_the_judge_finds_what_broken_transitions_let_pass(
    mutation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutants of the Lua on a real server: an entry that is held without a claim, taken over, ended, or ended twice."""
    text = functions.body()
    for before, after in MUTATIONS[mutation]:
        assert before in text
        text = text.replace(before, after)
    monkeypatch.setattr(functions, "library", lambda: functions.make(text))
    process, url = start_server(tmp_path, "--appendonly", "yes", "--auto-aof-rewrite-percentage", "0")
    client = connect(url)
    try:
        world = World(client)
        doubled = mutation == "an ended node ends again"
        claim = await _held(world)
        if not doubled:
            stamp = await world.stamp(claim.entry)
            await world.scripts.reclaim(world.part, [Takeover(STREAM, claim.entry, "w1", stamp, "w2", "second")])
        reports = [
            await _end(world, claim, nonce) for nonce in ("third.1", claim.nonce) if doubled or nonce == claim.nonce
        ]
        assert [each.word for each in reports] == (["ok"] * len(reports) if MUTATIONS[mutation] else ["stale"])
    finally:
        await client.aclose()
        process.terminate()
        process.wait(10)
    (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
    assert bool(list(of_claims(log.read_bytes()))) == bool(MUTATIONS[mutation])


async def _held(world: World) -> Claim:
    fields = ["graph", '{"nodes":[]}', "routes", '{"a":["default",true,60,true]}']
    await world.scripts.submit(world.part, [Submission("job", "d", 2, [batch(["a"])], 0, 0, (), False, fields)])
    (claim,) = await world.scripts.take(
        world.part, "w1", "first", count=9, light=9, heavy=9, streams=[STREAM], holding=True
    )
    assert claim.held_at
    return claim


async def _end(world: World, claim: Claim, nonce: str) -> Reply:
    payload = json.dumps({"output": {"nonce": nonce.replace(".", "-")}})
    end = End("a", 1, "completed", "", payload, 10**9, False, "", "")
    item = Report("job", claim.stream, claim.entry, f"w1 {nonce}", [end], [], True, ("a", "w1", claim.held_at))
    return (await world.scripts.report(world.part, [item]))[0]
