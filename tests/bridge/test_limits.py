"""What submit.lua and retry.lua count for a key, what a job may keep, and what webhooks.lua hands out: exact, whoever asks at the same time."""

import asyncio
from typing import Any

import pytest

from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.fabric.items import JobRead, Retry
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.steps import End, Event, Progress, Skip
from dihedral.schemas.structs.settings import Settings
from tests.bridge.world import World, batch, ended

both = pytest.mark.parametrize("redis_url", ["valkey", "redis-server"], indirect=True)


@pytest.fixture
def world(redis: Any) -> Any:
    return World(redis)


async def now_ms(redis: Any) -> int:
    seconds, micros = await redis.time()
    return int(seconds * 1000 + micros // 1000)


@both
async def test_a_rate_lets_exactly_so_many_through_whoever_asks_at_once(redis: Any, redis_url: Any) -> None:
    """Four connections, as of four processes, submit 25 jobs each at once; 40 a minute are allowed."""
    clients = [connect(redis_url) for _ in range(4)]
    worlds = [World(client) for client in clients]
    words = await asyncio.gather(
        *(each.submit(f"{at}-{n}", limit=("key", 40, 0)) for at, each in enumerate(worlds) for n in range(25))
    )
    assert words.count("ok") == 40 or words.count("ok") == 41  # the 41st fits when the minute has moved on by 1.5 s
    refused = [word for word in words if word != "ok"]
    assert all(word.startswith("rate ") and 0 < int(word.split()[1]) <= 1500 for word in refused)
    assert await redis.scard("jobs:alive") == words.count("ok")
    assert 0 < await redis.pttl("rate:key") <= 60_001
    for client in clients:
        await client.aclose()


@both
async def test_a_rate_gives_way_as_time_passes_and_others_are_not_touched(world: Any, redis: Any) -> None:
    assert await world.submit("j1", limit=("key", 1, 0)) == "ok"
    word = await world.submit("j2", limit=("key", 1, 0))
    assert 59_000 < int(word.removeprefix("rate ")) <= 60_000
    assert await world.submit("j3", limit=("other", 1, 0)) == "ok"
    assert await world.submit("j4") == "ok"
    await redis.set("rate:key", (await now_ms(redis)) - 1, px=60_000)  # as if the minute were over
    assert await world.submit("j2", limit=("key", 1, 0)) == "ok"


@both
async def test_a_quota_counts_what_is_alive(world: Any, redis: Any) -> None:
    limit = ("key", 0, 2)
    assert [await world.submit(f"j{n}", limit=limit) for n in range(3)] == ["ok", "ok", "quota"]
    assert await world.submit("j9", limit=("other", 0, 1)) == "ok"
    await world.scripts.cancel(world.part, "j0", ["a"])
    assert [await world.submit(f"j{n}", limit=limit) for n in (3, 4)] == ["ok", "quota"]
    assert await redis.smembers("alive:key") == {b"j1", b"j3"}


@both
async def test_a_retry_counts_as_a_submission_does(world: Any, redis: Any) -> None:
    def retry(job: str, attempt: int = 1, limit: Any = ("key", 0, 1)) -> Any:
        return world.scripts.retry(
            world.part, Retry(job, "cancelled", attempt, ["a"], [batch(["a"], nonce="r")], limit=limit)
        )

    for job in ("j0", "j1"):
        assert await world.submit(job, limit=("key", 0, 1)) == "ok"
        await world.scripts.cancel(world.part, job, ["a"])
    before = await redis.hgetall("job:j1")
    assert [await retry(job) for job in ("j0", "j1", "j1")] == ["ok", "quota", "quota"]
    assert await redis.hgetall("job:j1") == before, "a refusal writes nothing"
    assert await world.submit("j2", limit=("key", 0, 1)) == "quota", "what runs again is counted"
    assert await retry("j1", limit=("other", 0, 1)) == "ok"
    assert await redis.smembers("alive:other") == {b"j1"}
    await world.scripts.cancel(world.part, "j1", ["a"])
    assert await retry("j1", attempt=2, limit=("slow", 1, 0)) == "ok"
    await world.scripts.cancel(world.part, "j1", ["a"])
    assert (await retry("j1", attempt=3, limit=("slow", 1, 0))).startswith("rate ")
    assert await retry("j1", attempt=3, limit=()) == "ok", "a key without limits has none"


@both
async def test_a_repeat_and_a_refusal_cost_nothing(world: Any, redis: Any) -> None:
    limit = ("key", 2, 1)
    assert await world.submit("j1", limit=limit) == "ok"
    assert [await world.submit("j1", limit=limit) for _ in range(5)] == ["same"] * 5
    assert await world.submit("j1", digest="e", limit=limit) == "exists"
    assert [await world.submit("j2", limit=limit) for _ in range(5)] == ["quota"] * 5
    await world.scripts.cancel(world.part, "j1", ["a"])
    assert await world.submit("j2", limit=limit) == "ok"  # the second of this minute's two


# What a job may keep ----------------------------------------------------------------------------------------------------


def left(node: str, size: int, status: str = "completed", artifacts: str = "") -> End:
    return End(node, 1, status, "", "x" * size, 10**9, False, "", artifacts)


async def running(world: Any, count: int) -> Any:
    nodes = [f"n{number}" for number in range(count)]
    await world.submit(nodes=count, batches=[batch(nodes)])
    (claim,) = await world.take()
    return claim


@both
async def test_what_the_nodes_of_a_job_leave_is_bounded_and_the_one_too_many_is_not_written(redis: Any) -> None:
    world = World(redis, output_bytes=10_000)
    claim = await running(world, 4)
    assert (await world.report(claim, [left("n0", 6000), Progress("n1", 1, "0")])).words == ["ok", "ok"]
    reply = await world.report(claim, [left("n1", 3000, artifacts="y" * 1001), Skip("n9", "broken", 1)], ack=True)
    assert reply.words == ["too_large", "refused"]
    assert (await world.record("n1")).status == "running"
    assert await world.record("n9") is None
    assert await world.pending(), "and the entry is still held"
    assert (await world.report(claim, [left("n1", 1024)])).words == ["ok"], "an error of a sentence always fits"
    assert (await world.report(claim, [left("n2", 2976)])).words == ["ok"]
    assert (await world.job())["outputs"] == "10000"
    assert (await world.report(claim, [left("n3", 1025)])).words == ["too_large"]
    assert (await world.report(claim, [left("n3", 0, "failed")], ack=True)).words == ["ok"]


@both
async def test_a_retry_gives_back_what_it_forgets(redis: Any) -> None:
    world = World(redis, output_bytes=10_000)
    claim = await running(world, 2)
    await world.report(claim, [left("n0", 6000, artifacts="[]"), left("n1", 3000, "failed", artifacts="[1]")], ack=True)
    assert (await world.job())["outputs"] == "9005"
    assert (await world.job())["stored"] == "n0,n1"
    assert await world.scripts.retry(world.part, Retry("job", "failed", 1, ["n1"], [batch(["n1"], nonce="c")])) == "ok"
    assert (await world.job())["outputs"] == "6002"
    assert (await world.job())["stored"] == "n0"


@both
async def test_the_log_is_bounded_by_bytes_and_keeps_its_places(redis: Any) -> None:
    world = World(redis, log_bytes=70_000)
    claim = await running(world, 1)
    for number in range(1, 101):
        await world.report(claim, [Event("data", f'"type":"data","pad":"{"x" * 5000}"', number)])
    job = await world.job()
    events = await redis.lrange("job:job:events", 0, -1)
    assert sum(map(len, events)) == int(job["logged"]) <= 70_000
    assert len(events) >= 13
    assert len(events) == int(job["seq"]) - int(job["trimmed"])
    assert events[0].startswith(b'{"seq":%d,' % (int(job["trimmed"]) + 1))


@both
async def test_a_look_at_a_job_costs_what_it_asks_for(redis: Any) -> None:
    """A list, a document and a stranger's 404 read the state; before, they read every output (HGETALL)."""
    world = World(redis)
    claim = await running(world, 10)
    await world.report(claim, [left(f"n{number}", 1_000_000) for number in range(10)], ack=True)
    sizes = []
    for depth in (0, 1, 2, 3):
        ((flat, _),) = await world.scripts.read(world.part, [JobRead("job", -1, depth)])
        sizes.append(sum(map(len, flat)))
    assert sizes[0] < 300
    assert sizes[1] < 2000
    assert sizes[2] < 2500
    assert sizes[3] > 10_000_000


@both
async def test_a_list_reads_the_same_bytes_with_ten_bytes_and_with_ten_mebibytes_of_outputs(redis: Any) -> None:
    jobs = Jobs(redis, Settings())
    sent, looked = [], []
    for size in (1, 1 << 20):
        await redis.flushdb()
        world = World(redis)
        claim = await running(world, 10)
        await world.report(claim, [left(f"n{number}", size) for number in range(10)], ack=True)
        assert await redis.hstrlen("job:job", "o:n0") == size
        await redis.config_resetstat()
        before = (await redis.info("stats"))["total_net_output_bytes"]
        (view,) = await jobs.read_many([job for _, job in await jobs.page(None, 100)])
        after = (await redis.info("stats"))["total_net_output_bytes"]
        assert view is not None
        assert view.status == "completed"
        sent.append(after - before)
        looked.append({name: row["calls"] for name, row in (await redis.info("commandstats")).items()})
    assert abs(sent[1] - sent[0]) < 100, f"{sent}: only numbers of another length"
    assert looked[0] == looked[1]
    assert not {"cmdstat_hgetall", "cmdstat_hvals"} & set(looked[1]), "nothing is read whole inside the server either"


# Webhooks ---------------------------------------------------------------------------------------------------------------


async def act(world: Any, *item: Any) -> Any:
    words = [each.decode() if isinstance(each, bytes) else each for each in item]
    return (await world.scripts.call("webhooks", world.part, [words]))[0]


@both
async def test_who_is_to_be_told_is_due_when_the_job_has_ended_and_not_before(world: Any) -> None:
    await world.submit(webhook=True)
    await world.submit("silent")
    (claim, _) = sorted(await world.take(), key=lambda each: each.job_id)
    assert await act(world, "take", 10, 60_000) == []
    await world.report(claim, [ended("a")], ack=True)
    await world.scripts.cancel(world.part, "silent", ["a"])
    ((job, tries, due),) = await act(world, "take", 10, 60_000)
    assert (job, tries) == (b"job", b"0")
    assert await act(world, "take", 10, 60_000) == [], "nobody else is given it meanwhile"
    assert await act(world, "done", "job", due) == b"ok"
    assert await act(world, "done", "job", due) == b"stale"


@both
async def test_what_was_taken_and_never_settled_is_due_again(world: Any) -> None:
    await world.submit(webhook=True)
    await world.scripts.cancel(world.part, "job", ["a"])
    ((_, _, lost),) = await act(world, "take", 10, 0)
    ((_, tries, due),) = await act(world, "take", 10, 60_000)
    assert tries == b"1"
    assert await act(world, "done", "job", lost) == b"stale", "who was taken for dead must not settle it"
    assert await act(world, "again", "job", due, 60_000) == b"ok"
    assert await act(world, "take", 10, 60_000) == []


@both
async def test_a_retry_that_comes_between_taking_and_settling_is_told_again(world: Any, redis: Any) -> None:
    await world.submit(webhook=True)
    await world.scripts.cancel(world.part, "job", ["a"])
    ((_, _, due),) = await act(world, "take", 10, 60_000)
    await redis.zadd("webhooks", {"job": 0})
    assert await act(world, "done", "job", due) == b"stale"
    assert len(await act(world, "take", 10, 60_000)) == 1
