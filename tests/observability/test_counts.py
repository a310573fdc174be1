"""What the scripts count of all jobs: exact, whoever did it and however often it was said. `tests/leaks.py` compares it after every test."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from dihedral.control_plane.overview import Overview
from tests.bridge.world import World, batch, ended
from tests.support.planes import gate, node, planes


@pytest.fixture(params=[1, 4], ids=["one partition", "four partitions"])
async def house(redis_url: Any, redis: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with planes(redis_url, redis, partitions=request.param) as made:
        yield made


async def test_jobs_are_counted_by_status_and_by_end_and_pipeline(house: Any) -> None:
    await house.start()
    await house.submit([node("a")], job="plain")
    await house.submit([node("a", fail=True)], job="fails", pipeline="voices")
    await house.submit([node("a", wait="go")], job="cancelled")
    await house.submit([node("a", wait="go")], job="runs")
    await house.submit([node("a")], job="later", start_at_ms=4102444800000)
    await house.becomes(lambda: _is(house, {"running": 2, "queued": 0, "scheduled": 1}))
    assert await house.jobs.cancel("cancelled") == "cancelling"
    for job in ("plain", "fails", "cancelled"):
        await house.ended(job)
    assert await house.jobs.retry("fails") == "ok"
    await house.ended("fails")
    counts = await house.jobs.counts()
    assert {name: number for name, number in counts.items() if number} == {
        "running": 1, "scheduled": 1, "completed graph": 1, "failed voices": 2, "cancelled graph": 1,
    }  # fmt: skip
    gate("go").set()
    await house.ended("runs")
    assert (await house.jobs.counts())["completed graph"] == 2


async def _is(house: Any, expected: Any) -> Any:
    counts = await house.jobs.counts()
    return all(counts.get(name, 0) == number for name, number in expected.items())


async def test_what_is_said_twice_is_counted_once(redis: Any) -> None:
    world = World(redis)
    await world.submit(batches=[batch(["a"])])
    await world.submit(batches=[batch(["a"])])
    (claim,) = await world.take("w1")
    await world.report(claim, [ended("a")], ack=True)
    await world.report(claim, [ended("a")], ack=True)
    assert {name: int(number) for name, number in (await redis.hgetall("counts")).items()} == {
        b"queued": 0, b"running": 0, b"completed graph": 1,
    }  # fmt: skip


async def test_takeovers_and_dead_letters_are_counted(house: Any) -> None:
    dies = await house.start()
    await house.submit([node("a", task="once", wait="go")])
    await house.becomes(lambda: _is(house, {"running": 1}))
    await house.kill(dies)
    await house.start()
    assert (await house.ended()).status == "failed"
    counts = await house.jobs.counts()
    assert counts["redelivered"] == 1
    assert counts["dead worker_lost"] == 1
    families = {family.name: family for family in await Overview(house.jobs, []).families()}
    assert [(s.labels, s.value) for s in families["dihedral_dead_letters"].samples] == [
        ({"reason": "malformed_entry"}, 0), ({"reason": "worker_lost"}, 1)
    ]  # fmt: skip
    assert families["dihedral_dead_letters_kept"].samples[0].value == 1
    assert families["dihedral_redeliveries"].samples[0].value == 1
    workers = {tuple(s.labels.values()): s.value for s in families["dihedral_workers"].samples}
    assert workers["python", "default"] >= 1
    assert workers["node", "default"] == 0
