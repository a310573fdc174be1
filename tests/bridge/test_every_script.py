"""What must hold for every Lua file alike: asked twice it commits once, a stale token moves nothing, and only `submit` minds the memory limit."""

from collections.abc import Awaitable, Callable
from importlib.resources import files
from typing import Any

import pytest
import redis as redis_sync

from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.items import Change, JobRead, Release, Renewal, Retry, Takeover
from dihedral.bridge.fabric.steps import Dispatch, Event, Progress, Skip, Start, Step
from tests.bridge.world import ERROR, STREAM, World, batch, ended

Call = Callable[[], Awaitable[Any]]

on_both_servers = pytest.mark.parametrize("redis_url", ["valkey", "redis-server"], indirect=True)


@pytest.fixture
def world(redis: Any) -> Any:
    return World(redis)


async def everything(redis: Any) -> dict[str, Any]:
    """All that is stored, and who has what pending; without idle times and delivery counts."""
    state: dict[str, Any] = {}
    for key in sorted(await redis.keys("*")):
        kind = (await redis.type(key)).decode()
        if kind == "stream":
            found: Any = await redis.xrange(key)
            for group in await redis.xinfo_groups(key):
                rows = await redis.xpending_range(key, group["name"], "-", "+", 100)
                state[f"{key} pending"] = [(row["message_id"], row["consumer"]) for row in rows]
        elif kind == "hash":
            found = {name: value for name, value in (await redis.hgetall(key)).items() if name != b"updated"}
        else:
            found = await {
                "list": lambda key: redis.lrange(key, 0, -1),
                "zset": lambda key: redis.zrange(key, 0, -1, withscores=True),
                "set": lambda key: redis.smembers(key),
                "string": lambda key: redis.get(key),
            }[kind](key)
        state[key.decode()] = found
    return state


async def submit(world: World, token: str) -> Call:
    return lambda: world.submit(nodes=2)


async def take(world: World, token: str) -> Call:
    await world.submit(nodes=2)
    if token == "fresh":
        return lambda: world.take()
    (claim,) = await world.take("owner")
    return lambda: world.take("thief", handed=[(STREAM, claim.entry)])


async def report(world: World, token: str) -> Call:
    await world.submit(nodes=6)
    (claim,) = await world.take()
    steps: list[Step] = [Progress("a", 10, "0.1"), Event("data", '"type":"log","message":"x"', 1), ended("a", share=5),
             Start("b", "w1"), Skip("c", "broken", 3), Dispatch(batch(["d", "e"])), ended("b", "failed", error=ERROR)]  # fmt: skip
    return lambda: world.report(claim, steps, reads=["a"], consumer="w1" if token == "fresh" else "thief")


async def renew(world: World, token: str) -> Call:
    await world.submit()
    (claim,) = await world.take()
    owner = f"w1 {claim.nonce}" if token == "fresh" else "w1 another"
    return lambda: world.scripts.renew(world.part, [Renewal("job", STREAM, claim.entry, owner, "w1")])


async def reclaim(world: World, token: str) -> Call:
    await world.submit()
    (claim,) = await world.take()
    seen = await world.stamp(claim.entry)
    owner = "w1" if token == "fresh" else "w7"
    return lambda: world.scripts.reclaim(world.part, [Takeover(STREAM, claim.entry, owner, seen, "w2", "nonce")])


async def release(world: World, token: str) -> Call:
    await world.submit(nodes=2, batches=[batch(["a", "b"])])
    (claim,) = await world.take(light=1)
    owner = f"w1 {claim.nonce}" if token == "fresh" else "w1 another"
    again = [batch(["a"], stream=f"{STREAM}:high"), batch(["b"], nonce="b2", delay_ms=1000)]
    return lambda: world.scripts.release(world.part, [Release("job", STREAM, claim.entry, owner, again)])


async def cancel(world: World, token: str) -> Call:
    await world.submit(nodes=2)
    await world.take()
    return lambda: world.scripts.cancel(world.part, "job" if token == "fresh" else "unknown", ["a", "b"])


async def retry(world: World, token: str) -> Call:
    await world.submit()
    (claim,) = await world.take()
    await world.report(claim, [ended("a", "failed", error=ERROR)], ack=True)
    attempt = 1 if token == "fresh" else 7
    return lambda: world.scripts.retry(world.part, Retry("job", "failed", attempt, ["a"], [batch(["a"])]))


async def change(world: World, token: str) -> Call:
    await world.submit()
    entry = (await world.redis.xrange(STREAM))[0][0].decode()
    item = Change("job" if token == "fresh" else "unknown", "high", [(f"{entry}@{STREAM}", f"{STREAM}:high", "")])
    return lambda: world.scripts.change(world.part, [item])


async def delete(world: World, token: str) -> Call:
    await world.submit()
    if token == "fresh":
        await world.scripts.cancel(world.part, "job", ["a"])
    return lambda: world.scripts.delete(world.part, "job")


async def due(world: World, token: str) -> Call:
    seconds, _ = await world.redis.time()
    await world.submit(start_at=(seconds + 3600) * 1000)
    if token == "fresh":
        await world.redis.zadd("delays", {(await world.redis.zrange("delays", 0, 0))[0]: 1})
    return lambda: world.scripts.due(world.part)


async def drop_consumer(world: World, token: str) -> Call:
    await world.submit()
    (claim,) = await world.take()
    if token == "fresh":
        await world.report(claim, [ended("a")], ack=True)
    return lambda: world.scripts.drop_consumer(world.part, STREAM, "w1")


async def room(world: World, token: str) -> Call:
    stream = f"{STREAM}:high"
    await world.submit(batches=[batch(["a"], stream=stream, heavy=True, declined=token != "fresh")])
    return lambda: world.scripts.room(world.part, [stream, STREAM], 1, 0)


async def webhooks(world: World, token: str) -> Call:
    await world.submit(webhook=True)
    await world.scripts.cancel(world.part, "job", ["a"])
    item = ("take", 10, 60_000) if token == "fresh" else ("done", "job", "17")
    return lambda: world.scripts.call("webhooks", world.part, [item])


async def heads(world: World, token: str) -> Call:
    await world.submit(nodes=2)
    return lambda: world.scripts.heads(world.part, ["job" if token == "fresh" else "unknown"])


async def read(world: World, token: str) -> Call:
    await world.submit()
    return lambda: world.scripts.read(world.part, [JobRead("job" if token == "fresh" else "unknown", 0, 2)])


async def upgrade(world: World, token: str) -> Call:
    await world.submit()
    (claim,) = await world.take()
    await world.report(claim, [ended("a")], ack=True)
    if token == "fresh":  # as layout 3 had it
        record, left = await world.redis.hmget("job:job", "n:a", "o:a")
        await world.redis.hset("job:job", "n:a", record + b"\n" + left)
        await world.redis.hdel("job:job", "o:a")
    return lambda: world.scripts.upgrade(world.part)


SCRIPTS = [
    submit,
    take,
    report,
    renew,
    reclaim,
    release,
    cancel,
    retry,
    change,
    delete,
    due,
    drop_consumer,
    room,
    webhooks,
    read,
    heads,
    upgrade,
]
SILENT = {"heads", "read", "renew", "drop_consumer"}
"""Change no job and no entry even when they succeed."""
every_script = pytest.mark.parametrize("prepare", SCRIPTS, ids=lambda prepare: prepare.__name__)


def test_no_lua_file_is_left_out() -> None:
    stems = {
        path.name.removesuffix(".lua")
        for path in (files("dihedral.bridge.fabric") / "lua").iterdir()
        if path.name.endswith(".lua")
    }
    assert stems - {*functions.SHARED, "_plain"} == {prepare.__name__ for prepare in SCRIPTS}


@on_both_servers
@every_script
async def test_asked_twice_it_commits_once(world: Any, prepare: Any) -> None:
    call = await prepare(world, "fresh")
    before = await everything(world.redis)
    await call()
    once = await everything(world.redis)
    assert (once != before) == (prepare.__name__ not in SILENT)
    await call()
    assert await everything(world.redis) == once


@on_both_servers
@every_script
async def test_a_stale_token_changes_nothing(world: Any, prepare: Any) -> None:
    if prepare is submit:
        pytest.skip("carries no token: its digest is tested in test_scripts.py")
    call = await prepare(world, "stale")
    before = await everything(world.redis)
    await call()
    assert await everything(world.redis) == before


@on_both_servers
@every_script
async def test_at_the_memory_limit_only_submit_is_refused_and_nothing_is_half_written(world: Any, prepare: Any) -> None:
    call = await prepare(world, "fresh")
    before = await everything(world.redis)
    await world.redis.config_set("maxmemory", "1")
    try:
        if prepare is submit:
            with pytest.raises(redis_sync.ResponseError):
                await call()
            assert await everything(world.redis) == before
        else:
            await call()
            assert (await everything(world.redis) != before) == (prepare.__name__ not in SILENT)
    finally:
        await world.redis.config_set("maxmemory", "0")
