"""Python and Lua spell the same names: what the scripts create is what keys.py says, with one partition and with four."""

from typing import Any

import pytest

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.scripts import Scripts
from dihedral.bridge.fabric.steps import Event
from tests.bridge.world import World, batch, ended


@pytest.mark.parametrize("count", [1, 4])
async def test_the_scripts_create_the_keys_that_python_looks_for(redis: Any, count: Any) -> None:
    world = World(redis, partition_count=count)
    part = world.part
    stream = part.stream("python", "default")
    await world.submit(batches=[batch(["a"], stream=stream)])
    seconds, _ = await redis.time()
    await world.submit("later", batches=[batch(["a"], stream=stream)], start_at=(seconds + 60) * 1000)
    await redis.xadd(stream, {"not": "an entry"})
    for claim in await world.scripts.take(part, "w1", "n", count=9, light=9, heavy=9, streams=[stream]):
        if claim.word == "ok":
            log = Event("data", f'"type":"log","message":"{"x" * 3000}"', 1)  # a long log has a key of its own
            await world.report(claim, [log, ended("a")], ack=True)
    assert {name.decode() for name in await redis.keys("*")} == {
        part.job("job"), part.events("job"), part.job("later"), part.index, part.alive, part.delays,
        part.delay_entries, part.dead, part.counts, stream, f"{stream}:delivered", f"{stream}:kept",
    }  # fmt: skip


def test_a_partition_is_named_in_braces_only_where_there_are_several() -> None:
    (only,) = keys.partitions(1)
    assert (only.job("j"), only.stream("node", "default")) == ("job:j", "stream:process:control")
    assert only.stream("python", "a100", "high") == "stream:process:data:a100:high"
    assert keys.partitions(4)[2].job("j") == "job:{2}:j"
    assert keys.partitions(4)[2].stream("python", "default") == "stream:process:data:{2}"


def test_jobs_spread_over_all_partitions() -> None:
    scripts = Scripts(None, partition_count=4)
    numbers = [scripts.partition(f"job-{n}").number for n in range(400)]
    assert all(60 < numbers.count(number) < 140 for number in range(4))
