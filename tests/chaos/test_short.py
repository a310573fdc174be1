"""One short seeded round of everything that can go wrong, which CI has time for; longer ones of single things, by hand.

The long profile is a command: `python -m tests.chaos --seeds 10 --jobs 10000`.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.artifacts.seaweed import Seaweed, of_session
from tests.chaos.clock import Clock
from tests.chaos.faults import CLOCKS, REMOTE_STORE, kinds
from tests.chaos.invariants import of_claims
from tests.chaos.rounds import MEMORY, Plan, Round, play
from tests.support.servers import skip


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
    record = "n:a", "completed 1-0@s 1 0 1 2 - p 5", "o:a", '{"output":{"nonce":"first-1"}}'
    first, second = ("c:1-0@s", "w1 first.1"), ("c:1-0@s", "w2 second.1")
    assert list(of_claims(_log(first, record))) == []
    (found,) = of_claims(_log(first, second, record))
    assert "was written under first-1" in found


def _log(*fields: tuple[str, ...]) -> bytes:
    written = b""
    for field in fields:
        words = ["HSET", "job:j", *field]
        written += b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word.encode()) for word in words)
    return written
