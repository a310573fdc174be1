"""The watchdog ends a process whose event loop a task blocks, and no other."""

import asyncio
import time
from typing import Any

import pytest

from dihedral.bridge.fabric.deliveries import Delivery, Plans
from dihedral.bridge.fabric.items import Release
from dihedral.bridge.fabric.keys import GROUP
from dihedral.bridge.fabric.scripts import Report
from dihedral.bridge.fabric.steps import Redispatch
from dihedral.bridge.worker import watchdog
from tests.bridge.world import STREAM, World, batch, ended
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


async def looked_through(redis: Any) -> int:
    """How often a job's fields were listed."""
    return int((await redis.info("commandstats")).get("cmdstat_hkeys", {"calls": 0})["calls"])


def block_until(done: list[int]) -> None:
    """What a bad task does: nothing else runs on the loop, until the process would have ended."""
    deadline = time.monotonic() + at_this_load(30)
    while not done and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("unwritten", [None, "kept", "ending", "resolving"])
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
    elif unwritten == "resolving":
        delivery.states["a"] = ("completed", "")  # written, and what it makes ready is not
    dog = watchdog.Watchdog(house.jobs.scripts, redis_url, list, lambda: [delivery], 0)
    dog.start()
    try:
        block_until(ends)
    finally:
        dog.stop()
        dog.join()
    assert ends
    assert await World(redis).pending() == ([] if unwritten is None else [delivery.entry])


async def test_an_entry_with_a_node_whose_end_was_never_written_stays_with_its_lease(redis: Any) -> None:
    """The worker continued with b, and the report that ended a and began b is still in its queue."""
    world = World(redis)
    await world.submit(nodes=2)
    (claim,) = await world.take()
    release = Release("job", STREAM, claim.entry, f"w1 {claim.nonce}", [batch(["b"], nonce="again")], ["a", "b"])
    reads = await looked_through(redis)
    assert await world.scripts.release(world.part, [release]) == ["left"]
    assert await looked_through(redis) == reads, "a release costs as much as its delivery is large, not its job"
    assert await world.pending() == [claim.entry]
    assert (await world.record("a")).status == "running"


async def test_nodes_that_waited_for_a_place_are_given_back_with_what_ran(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    house = Planes(settings(redis_url), redis)
    await house.submit([node("a"), node("b")])
    scripts = house.jobs.scripts
    (claim,) = await scripts.take(scripts.partition("job"), "w1", "n", count=9, light=1, heavy=9, streams=[STREAM])
    assert claim.waiting == ["b"]
    delivery = Delivery(scripts.partition("job"), claim, "w1", Plans().get(claim.graph, claim.routes, claim.job_id))
    dog = watchdog.Watchdog(scripts, redis_url, list, lambda: [delivery], 0)
    dog.start()
    try:
        block_until(ends)
    finally:
        dog.stop()
        dog.join()
    assert await World(redis).pending() == []
    assert {id: record.status for id, record in (await house.view()).records.items()} == {"a": "ready", "b": "ready"}
    assert all(record.entry != f"{claim.entry}@{STREAM}" for record in (await house.view()).records.values())


async def test_what_an_acknowledged_entry_left_goes_out_again_also_where_it_is_the_last_of_its_stream(
    redis: Any,
) -> None:
    """The group's last entry stays on the stream when it is acknowledged, so that it is there says nothing."""
    world = World(redis)
    await world.submit()
    (claim,) = await world.take()
    name = f"{claim.entry}@{STREAM}"
    lost = Report("job", "", "", "", [Redispatch(name, batch(["a"], nonce="again"))], [], False)
    assert (await world.scripts.report(world.part, [lost]))[0].words == ["taken"], "its owner has it"
    await redis.xack(STREAM, GROUP, claim.entry)
    assert (await world.scripts.report(world.part, [lost]))[0].words == ["ok"]
    record = await world.record("a")
    assert (record.status, record.entry != name) == ("ready", True)
    waiting = Report("job", "", "", "", [Redispatch(record.entry, batch(["a"], nonce="third"))], [], False)
    assert (await world.scripts.report(world.part, [waiting]))[0].words == ["taken"], "no worker has been given it"
