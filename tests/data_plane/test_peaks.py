"""What runs have used is learnt, bounded, kept over a restart, and never waited for."""

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.tasks.registry import MIB, collect
from dihedral.data_plane.gpu_memory.usage_history import ENOUGH, KEPT, MemoryUsageHistory, percentile
from tests.support.polling import at_this_load

TASKS = collect(["dihedral.data_plane.tasks.simulate_gpu", "dihedral.data_plane.tasks.train_lora"], plugins=False)
TASK = TASKS["train_lora"]
DECLARED = 2048 * MIB


def params(tokens: int) -> dict[str, Any]:
    """Of a run with so many tokens to a batch."""
    return {"weights": [{"bucket": "inputs", "key": "base"}], "batch": 4, "sequenceLength": tokens / 4}


@given(st.lists(st.integers(1, 2**40), min_size=1, max_size=KEPT))
def test_at_most_one_in_twenty_has_used_more(peaks: list[int]) -> None:
    found = percentile(peaks)
    assert found in peaks
    assert sum(peak > found for peak in peaks) <= len(peaks) * 0.05


async def test_a_need_is_learnt_for_each_size_from_enough_runs() -> None:
    peaks = MemoryUsageHistory()
    for number in range(ENOUGH):
        assert peaks.need_bytes(TASK, params(4000)) == DECLARED
        await peaks.note(TASK, params(4000), 1000 + number)
    assert peaks.need_bytes(TASK, params(4000)) == 1000 + ENOUGH - 1
    assert peaks.need_bytes(TASK, params(4100)) == 1000 + ENOUGH - 1  # about the same size
    assert peaks.need_bytes(TASK, params(5200)) == DECLARED
    assert peaks.need_bytes(TASK, params(4000) | {"weights": []}) == DECLARED
    await peaks.note(TASK, params(9000), 0)  # not measured
    assert peaks.need_bytes(TASK, params(9000)) == DECLARED


async def test_what_a_parameter_asks_for_is_not_undercut() -> None:
    peaks, task = MemoryUsageHistory(), TASKS["simulate_gpu"]
    for _ in range(ENOUGH):
        await peaks.note(task, {"memoryMiB": 4000}, 3900 * MIB)
    assert peaks.need_bytes(task, {"memoryMiB": 4050}) == 4050 * MIB
    assert peaks.need_bytes(task, {"memoryMiB": 3850}) == 3900 * MIB


async def test_a_restart_forgets_nothing(redis_url: str, redis: Any) -> None:
    client = connect(redis_url)
    try:
        first = MemoryUsageHistory(client)
        for _ in range(KEPT + 10):
            await first.note(TASK, params(4000), 7 * MIB)
        second = MemoryUsageHistory(client)
        await second.load()
        assert second.need_bytes(TASK, params(4000)) == 7 * MIB
        (kind,) = await redis.zrange(keys.MEMORY_KINDS, 0, -1)
        assert kind.decode() == TASK.size_bucket(params(4000))
        assert await redis.llen(keys.memory_peaks(kind.decode())) == KEPT
        for key in (keys.MEMORY_KINDS, keys.memory_peaks(kind.decode())):
            assert await redis.pttl(key) > 0
    finally:
        await client.aclose()


async def test_workers_do_not_write_over_what_the_others_have_learnt(redis_url: str, redis: Any) -> None:
    client = connect(redis_url)
    try:
        first, second, third = MemoryUsageHistory(client), MemoryUsageHistory(client), MemoryUsageHistory(client)
        await second.load()
        for _ in range(ENOUGH):
            await first.note(TASK, params(4000), 7 * MIB)
        await second.note(TASK, params(4000), 6 * MIB)
        await third.load()
        assert [peaks.need_bytes(TASK, params(4000)) for peaks in (first, second, third)] == [7 * MIB] * 3
    finally:
        await client.aclose()


async def test_peaks_that_workers_note_at_once_are_all_kept(redis_url: str, redis: Any) -> None:
    """Each read all of them and wrote all of them: one of two was lost."""
    clients = [connect(redis_url) for _ in range(4)]
    try:
        workers = [MemoryUsageHistory(client) for client in clients]
        for round_ in range(5):
            await asyncio.gather(
                *(each.note(TASK, params(4000), 100 * round_ + number) for number, each in enumerate(workers, 1))
            )
        again = MemoryUsageHistory(clients[0])
        await again.load()
        assert sorted(again._seen[TASK.size_bucket(params(4000))]) == sorted(
            100 * round_ + number for round_ in range(5) for number in range(1, 5)
        )
    finally:
        for client in clients:
            await client.aclose()


async def test_what_an_earlier_version_has_learnt_does_no_harm_and_goes(redis_url: str, redis: Any) -> None:
    client = connect(redis_url)
    try:
        await redis.hset(keys.OLD_MEMORY_PEAKS, TASK.size_bucket(params(4000)), b"\x91\x07")
        peaks = MemoryUsageHistory(client)
        await peaks.load()
        await peaks.note(TASK, params(4000), 5)
        assert peaks.need_bytes(TASK, params(4000)) == DECLARED
        assert await redis.pttl(keys.OLD_MEMORY_PEAKS) > 0
    finally:
        await client.aclose()


async def test_only_so_many_kinds_are_kept(redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dihedral.data_plane.gpu_memory.usage_history.KINDS", 3)
    client = connect(redis_url)
    try:
        peaks = MemoryUsageHistory(client)
        for mib in (1, 10, 100, 1000, 10_000):
            await peaks.note(TASK, params(mib), mib)
        assert await redis.zcard(keys.MEMORY_KINDS) == 3
        assert len(await redis.keys("worker:memory:*")) == 3 + 1
    finally:
        await client.aclose()


async def test_a_server_that_is_gone_costs_the_memory_alone() -> None:
    client = connect("unix:///nowhere/redis.sock", timeout_seconds=0.2)
    try:
        peaks = MemoryUsageHistory(client)
        async with asyncio.timeout(at_this_load(20)):
            await peaks.load()
            for _ in range(ENOUGH):
                await peaks.note(TASK, params(4000), 5)
        assert peaks.need_bytes(TASK, params(4000)) == 5
    finally:
        await client.aclose()
