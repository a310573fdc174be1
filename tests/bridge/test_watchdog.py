"""The watchdog ends a process whose event loop a task blocks, and no other."""

import asyncio
import time
from typing import Any

import pytest

from dihedral.bridge.fabric.deliveries import Delivery, Plans
from dihedral.bridge.worker import watchdog
from tests.bridge.world import STREAM, World, ended
from tests.support.planes import Planes, node, settings
from tests.support.polling import at_this_load


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watchdog, "BLOCKED_SECONDS", 0.04)
    monkeypatch.setattr(watchdog, "MOST_BLOCKED_SECONDS", 0.1)


def test_a_loop_that_has_ended_is_not_taken_for_a_blocked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    unused: Any = None
    loop = asyncio.new_event_loop()

    async def begin() -> watchdog.Watchdog:
        dog = watchdog.Watchdog(unused, "", list, list, 0)
        dog.start()
        return dog

    dog = loop.run_until_complete(begin())
    dog.join(0.5)  # the loop stands still without a task in it, longer than a blocked one may
    assert dog.is_alive()
    assert ends == []
    loop.close()
    dog.join()
    assert not dog.is_alive()
    assert ends == []


async def taken(house: Planes) -> Delivery:
    """The delivery of a node that runs here."""
    await house.submit([node("a")])
    scripts = house.jobs.scripts
    (claim,) = await scripts.take(scripts.partition("job"), "w1", "n", count=9, light=9, heavy=9, streams=[STREAM])
    return Delivery(scripts.partition("job"), claim, "w1", Plans().get(claim.graph, claim.routes, claim.job_id))


def block_until(done: list[int]) -> None:
    """What a bad task does: nothing else runs on the loop, until the process would have ended."""
    deadline = time.monotonic() + at_this_load(30)
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("unwritten", [None, "kept", "ending"])
async def test_what_the_watchdog_gives_back_has_no_report_to_be_written(
    unwritten: str | None, redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node with an end that was not written would be run again elsewhere, though it has ended; its lease tells."""
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    house = Planes(settings(redis_url), redis)
    delivery = await taken(house)
    if unwritten == "kept":
        delivery.kept = [ended("a")]
    elif unwritten == "ending":
        delivery.report([ended("a")], ack=True)  # on its way
    dog = watchdog.Watchdog(house.jobs.scripts, redis_url, list, lambda: [delivery], 0)
    dog.start()
    try:
        block_until(ends)
    finally:
        dog.stop()
        dog.join()
    assert ends
    assert await World(redis).pending() == ([] if unwritten is None else [delivery.entry])
