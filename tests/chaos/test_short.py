"""One short seeded round of everything that can go wrong, and one of a single thing: what CI has time for.

The long profile is run by hand: `python -m tests.chaos --seed N --minutes M`.
"""

import shutil
import tempfile
from pathlib import Path

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.rounds import MEMORY, Plan, Round, play


@pytest.fixture
def directory():
    made = Path(tempfile.mkdtemp(prefix="chaos-", dir=MEMORY))
    yield made
    shutil.rmtree(made, ignore_errors=True)


async def _holds(seed: str, plan: Plan, directory) -> Round:
    made = await play(seed, plan, directory)
    assert made.broken == [], "\n".join([f"seed {seed}", *made.story, *made.broken, *made.troubles])
    assert made.jobs > 0
    return made


@pytest.mark.long
@pytest.mark.timeout(150)
async def test_nothing_is_lost_or_done_twice_whatever_breaks(directory):
    made = await _holds("ci", Plan(seconds=1, gap_seconds=0.4, jobs_per_second=4), directory)
    assert set(made.faults) == set(KINDS)


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_a_server_that_is_killed_gives_no_running_job_away(directory):
    plan = Plan(seconds=1, kinds=("restart_server",), workers=1, jobs_per_second=4, lease_ms=1500)
    made = await _holds("server", plan, directory)
    assert made.reruns == 0 or made.late_seconds > 0.5  # the machine itself stood still for a third of a lease
