"""The library of functions: it comes back wherever it has gone, versions do not meet, and a call that failed leaves nothing behind."""

import asyncio
import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis as redis_sync

from dihedral.bridge.errors import LayoutMismatch
from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.connection import check_layout, connect, connect_blocking
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.scripts import is_transient
from dihedral.bridge.fabric.steps import Dispatch
from dihedral.bridge.times import rfc3339
from tests.bridge.world import STREAM, World, batch, ended
from tests.support.planes import settings
from tests.support.servers import skip, start_server

on_both_servers = pytest.mark.parametrize("redis_url", ["valkey", "redis-server"], indirect=True)


async def libraries(client: Any) -> list[str]:
    rows = await client.function_list("dihedral_*")
    return sorted(dict(zip(row[::2], row[1::2], strict=True))[b"library_name"].decode() for row in rows)


@on_both_servers
async def test_a_flush_in_flight_stops_nothing(redis: Any, redis_url: Any) -> None:
    world = World(redis)
    blocking = connect_blocking(redis_url, timeout_seconds=5)
    await world.submit()
    await redis.function_flush()
    (claim,) = await world.take()
    await redis.function_flush()
    item = ["job", STREAM, claim.entry, f"w1 {claim.nonce}", "w1"]
    assert await asyncio.to_thread(world.scripts.call_blocking, blocking, "renew", world.part, [item]) == [b"ok"]
    await redis.function_flush()
    await world.report(claim, [ended("a")], ack=True)
    assert (await world.job())["status"] == "completed"
    await redis.function_flush()
    assert await Jobs(redis, settings(redis_url)).epoch()
    assert len(await libraries(redis)) == 1
    blocking.close()


async def test_a_server_that_comes_back_empty_is_given_the_library(own_server: Any, tmp_path: Path) -> None:
    process, url = own_server
    client = connect(url)
    world = World(client)
    assert await world.submit() == "ok"
    process.kill()
    process.wait()
    again, _ = start_server(tmp_path)
    try:
        with contextlib.suppress(redis_sync.ConnectionError):
            await client.ping()
        assert await world.submit() == "ok"
        assert [claim.word for claim in await world.take()] == ["ok"]
    finally:
        await client.aclose()
        again.kill()
        again.wait()


@on_both_servers
async def test_two_versions_work_side_by_side(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(redis)
    await redis.function_flush()
    ours, other = functions.library(), functions.make(functions.body() + "-- another version\n")
    for version in (ours, other):
        monkeypatch.setattr(functions, "library", lambda version=version: version)
        assert await world.submit(version.version) == "ok"
    (first, second) = await world.take()
    monkeypatch.setattr(functions, "library", lambda: ours)
    await world.report(second, [ended("a")], ack=True)
    assert (await world.job(second.job_id))["status"] == "completed"
    monkeypatch.setattr(functions, "library", lambda: other)
    await world.report(first, [ended("a")], ack=True)
    assert (await world.job(first.job_id))["status"] == "completed"
    assert await libraries(redis) == sorted(f"dihedral_{each.version}" for each in (ours, other))
    await redis.function_delete(f"dihedral_{other.version}")
    assert await world.submit("next") == "ok", "one that is deleted in use comes back"


@on_both_servers
async def test_a_call_that_failed_leaves_nothing_to_the_next(redis: Any) -> None:
    """What a call has in memory is set anew by the next: jobs, counts, acks, and whose partition it is."""
    world = World(redis)
    await world.submit("there", nodes=2)
    (claim,) = await world.take()
    before, counts = await world.job("there"), await redis.hgetall(world.part.counts)
    good = ["there", STREAM, claim.entry, f"w1 {claim.nonce}", [ended("a")], [], True]
    with pytest.raises(redis_sync.ResponseError, match="user_function"):
        await world.scripts.call(
            "report", world.part, [good, ["there", STREAM, claim.entry, f"w1 {claim.nonce}", [["nonsense"]], [], False]]
        )
    assert await world.job("there") == before
    other = World(redis, partition_count=4)
    assert await other.scripts.cancel(other.part, "nobody", []) == "unknown"
    assert await world.scripts.cancel(world.part, "nobody", []) == "unknown"
    assert (await world.job("there"), await redis.hgetall(world.part.counts)) == (before, counts)
    assert await world.pending() == [claim.entry]
    assert (await world.report(claim, [ended("a"), Dispatch(batch(["b"]))], ack=True)).words == ["ok", "ok"]


@on_both_servers
@pytest.mark.parametrize(
    "header", [[[], ":evil", "1", 1, "others", 1], ["", [], 1, 1, "workers", 1], [None], [], "text"], ids=str
)
async def test_a_header_that_cannot_be_read_leaves_nothing_to_the_next(redis: Any, header: Any) -> None:
    """A worker's user can send any: of it nothing may count for the control plane, whose header is the one before."""
    world = World(redis, ttl_seconds=1000)
    await world.submit()
    (claim,) = await world.take()
    with contextlib.suppress(redis_sync.ResponseError):
        name = functions.library().function("cancel")
        item = msgspec.msgpack.encode("nobody") + msgspec.msgpack.encode([])
        await redis.execute_command("FCALL", name, 1, world.part.index, msgspec.msgpack.encode(header), item)
    await world.submit("another")
    assert await redis.zcard(world.part.index) == 2
    await world.report(claim, [ended("a")], ack=True)
    assert (await world.job())["status"] == "completed"
    assert 900_000 < await redis.pttl(world.part.job("job")) <= 1_000_000


@on_both_servers
async def test_an_event_has_the_time_of_its_call_though_a_date_is_spelled_once_a_second(redis: Any) -> None:
    world = World(redis)
    for number in range(3):
        await world.submit(f"job{number}")
        (event,) = await world.events(f"job{number}")
        created = int((await world.job(f"job{number}"))["created"])
        assert json.loads(event)["created"] == rfc3339(created)
        seconds, micros = await redis.time()
        assert 0 <= seconds * 1000 + micros // 1000 - created < 30_000
        await asyncio.sleep(0.6)  # what is tested is that time passes


# Who may load -------------------------------------------------------------------------------------------------------


async def test_who_may_not_load_waits_for_who_may(own_server: Any) -> None:
    """A worker's user: what it could load would run with the rights of the control plane."""
    _, url = own_server
    admin = connect(url)
    await admin.execute_command("ACL", "SETUSER", "worker", "on", "nopass", "~*", "&*", "+@all", "-function")
    address = url.replace("unix://", "unix://worker:x@")
    client, blocking = connect(address), connect_blocking(address, timeout_seconds=5)
    await check_layout(client, 1)
    for call in (
        lambda: World(client).submit(),
        lambda: asyncio.to_thread(functions.call_blocking, blocking, "epoch", "jobs"),
    ):
        with pytest.raises(redis_sync.ResponseError, match="control plane of this version") as refusal:
            await call()
        assert is_transient(refusal.value)
    assert await World(admin).submit("other") == "ok"
    assert await World(client).submit() == "ok"
    blocking.close()
    await client.aclose()
    await admin.aclose()


async def test_a_user_that_may_call_no_function_is_refused_in_one_line(own_server: Any) -> None:
    _, url = own_server
    admin = connect(url)
    await admin.execute_command("ACL", "SETUSER", "old", "on", "nopass", "~*", "&*", "+@all", "-fcall")
    client = connect(url.replace("unix://", "unix://old:x@"))
    with pytest.raises(LayoutMismatch, match=r"needs \+fcall"):
        await check_layout(client, 1)
    await client.aclose()
    await admin.aclose()


async def test_a_server_without_functions_is_refused_in_one_line(tmp_path: Path) -> None:
    binary = shutil.which("redis-server")
    if binary is None:
        skip("redis", "there is no redis-server on this machine")
    process, url = start_server(tmp_path, "--rename-command", "FCALL", "", binary=binary)
    client = connect(url)
    try:
        with pytest.raises(LayoutMismatch, match="no functions"):
            await check_layout(client, 1)
    finally:
        await client.aclose()
        process.kill()
        process.wait()
