"""What a worker asks of the server while nothing happens: no command in a loop, whatever the number of partitions."""

import asyncio
from typing import Any

import pytest

from tests.support.planes import gate, node, planes

SECONDS = 4
MOST = 5  # a second, with what a heartbeat does inside its functions; a take of 16 partitions alone is 48 calls


async def commands(client: Any) -> int:
    return sum(row["calls"] for name, row in (await client.info("commandstats")).items() if name != "cmdstat_info")


async def asked_a_second(client: Any) -> float:
    before = await commands(client)
    await asyncio.sleep(SECONDS)  # nothing to wait for: what is measured is that nothing happens
    return (await commands(client) - before) / SECONDS


async def least_asked(client: Any) -> float:
    """Of looks until one finds quiet: the first may have the first heartbeat and the first takes, on a busy machine the second too."""
    for _ in range(3):
        if (asked := await asked_a_second(client)) <= MOST:
            break
    return asked


@pytest.mark.parametrize("count", [1, 16])
async def test_an_idle_worker_waits_in_a_read(redis_url: str, redis: Any, count: int) -> None:
    async with planes(redis_url, redis, partitions=count, lease_ms=600_000) as house:
        await house.start()
        assert await least_asked(redis) <= MOST


@pytest.mark.parametrize("count", [1, 16])
async def test_a_worker_with_no_slot_free_asks_for_nothing_until_something_comes(
    redis_url: str, redis: Any, count: int
) -> None:
    async with planes(redis_url, redis, partitions=count, lease_ms=600_000) as house:
        await house.start(slots=1)
        await house.submit([node("full", task="heavy", wait="full")], job="full")
        await house.submit([node("waits", task="heavy")], job="waits")
        await house.becomes(lambda: house.running and next(iter(house.running)).capacity.free()[1] == 0)
        assert await least_asked(redis) <= MOST
        await house.submit([node("light")], job="light")
        await house.ended("light")
        gate("full").set()
        await house.ended("full")
        await house.ended("waits")
