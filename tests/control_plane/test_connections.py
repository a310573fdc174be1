"""What a client may cost before it has said who it is: raw sockets against a real server with small limits."""

import asyncio
import json
import resource
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio

from dihedral.control_plane.access import Turns
from dihedral.control_plane.connections import HEAD_BYTES, LINES_PER_MINUTE, PIPELINED, Limits, QuietLog
from dihedral.control_plane.problems import ApiProblem
from dihedral.schemas.structs.settings import Settings
from tests.control_plane.served import made_settings, serve
from tests.support.polling import at_this_load
from tests.support.servers import start_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

MOST, HEAD_SECONDS, STALL_SECONDS = 40, at_this_load(1.0), at_this_load(2.0)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    directory = tmp_path_factory.mktemp("small")
    process, url = start_server(directory)
    made = made_settings(url, directory)
    made.control.max_connections, made.control.head_seconds, made.control.stall_seconds = (
        MOST,
        HEAD_SECONDS,
        STALL_SECONDS,
    )
    made.control.bodies_bytes = 4 << 20
    made.artifacts.max_upload_bytes = 64 << 20
    try:
        async with serve(made) as served:
            yield served
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def raw(served: Any, address: Any = "127.0.0.1") -> AsyncIterator[Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, local_addr=(address, 0))
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def until_closed(reader: Any, seconds: Any = 10) -> Any:
    """All that was said, also where the last of it was a reset: what drips after the end meets one."""
    said = b""
    async with asyncio.timeout(at_this_load(seconds)):
        with suppress(ConnectionError):
            while piece := await reader.read(1 << 16):
                said += piece
    return said


async def alive(served: Any) -> None:
    """Another client's request is answered within a second."""
    begun = time.monotonic()
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{served.port}", timeout=at_this_load(5)) as other:
        assert (await other.get("/health/live")).status_code == 200
    assert time.monotonic() - begun < at_this_load(1)


ENDLESS = {
    "one header": (b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-A: ", b"a"),
    "many headers": (b"GET /health/live HTTP/1.1\r\nHost: a\r\n", b"X-A: a\r\n"),
    "an address": (b"GET /", b"a"),
    "a method": (b"", b"G"),
    "a chunk's extension": (b"POST /api/plans HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=", b"a"),
    "trailers": (b"POST /api/plans HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: a\r\n"),
}


@pytest.mark.parametrize("what", ENDLESS)
async def test_a_head_without_end_is_cut_off_after_some_kilobytes(small: Any, what: Any) -> None:
    start, more = ENDLESS[what]
    piece = more * (4096 // len(more))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with raw(small) as (reader, writer):
        closing = asyncio.ensure_future(until_closed(reader, 30))
        sent = 0
        with suppress(ConnectionError):
            writer.write(start)
            while not closing.done() and sent < 64 << 20:
                writer.write(piece)
                sent += len(piece)
                await writer.drain()
                await asyncio.sleep(0)
        await closing
    assert sent < 16 << 20, "what the kernel's buffers take, and not what the server took"
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 << 10
    await alive(small)


async def test_a_head_of_ordinary_size_with_a_long_token_is_taken(small: Any) -> None:
    answer = await small.http.get("/health/live", headers={"x-a": "a" * (HEAD_BYTES - 4096)})
    assert answer.status_code == 200


async def test_half_a_head_is_waited_for_no_longer_than_the_limit(small: Any) -> None:
    for start in (b"", b"GET / HTTP/1.1\r\nHo", b"GET / HTTP/1.1\r\nHost: a\r\n"):
        begun = time.monotonic()
        async with raw(small) as (reader, writer):
            writer.write(start)
            said = await until_closed(reader)
        assert said.startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun < at_this_load(8 * HEAD_SECONDS)


async def test_a_head_that_drips_is_no_sooner_done(small: Any) -> None:
    begun = time.monotonic()
    async with raw(small) as (reader, writer):
        closing = asyncio.ensure_future(until_closed(reader))
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX-A: ")
        while not closing.done():
            writer.write(b"a")
            await asyncio.wait({closing}, timeout=0.1)
        assert (await closing).startswith(b"HTTP/1.1 408")
    assert time.monotonic() - begun < at_this_load(8 * HEAD_SECONDS)


async def test_a_body_that_stands_still_or_drips_ends_its_connection(small: Any) -> None:
    for drip in (b"", b"a"):
        begun = time.monotonic()
        async with raw(small) as (reader, writer):
            closing = asyncio.ensure_future(until_closed(reader))
            head = b"POST /api/plans HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{"
            writer.write(head)
            while not closing.done():
                writer.write(drip)
                await asyncio.wait({closing}, timeout=0.1)
            assert (await closing).startswith(b"HTTP/1.1 408")
        assert time.monotonic() - begun < at_this_load(8 * STALL_SECONDS)


async def test_a_slow_body_that_moves_is_taken(small: Any) -> None:
    body = json.dumps(
        {
            "graph": {
                "schema": "langgraph.v1",
                "nodes": [],
                "edges": [],
                "metadata": {"a": "b" * int(10_000 * STALL_SECONDS)},
            }
        }
    )
    async with raw(small) as (reader, writer):
        head = "POST /api/plans HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n"
        writer.write(head.format(len(body)).encode())
        begun = time.monotonic()
        for at in range(0, len(body), 1000):
            writer.write(body[at : at + 1000].encode())
            await asyncio.sleep(1.5 * STALL_SECONDS / (len(body) / 1000))
        assert time.monotonic() - begun > STALL_SECONDS
        assert (await reader.readline()).startswith(b"HTTP/1.1 422")


async def test_connections_that_say_nothing_give_way_to_those_that_ask(small: Any) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(3 * MOST):
            await stack.enter_async_context(raw(small))
        await alive(small)


async def test_busy_connections_are_not_ended_for_others_which_are_refused(small: Any) -> None:
    head = b"POST /api/plans HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n"
    async with AsyncExitStack() as stack:
        busy = []
        for _ in range(MOST):
            busy.append(await stack.enter_async_context(raw(small)))
            busy[-1][1].write(head)
        await asyncio.sleep(0.2)
        async with raw(small) as (reader, _):
            assert (await until_closed(reader)).startswith(b"HTTP/1.1 503")
        busy[0][1].write(b"123456789")
        assert (await busy[0][0].readline()).startswith(b"HTTP/1.1 422")


async def test_a_websocket_counts_until_it_ends(small: Any) -> None:
    head = b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    for _ in range(3):  # if they were not given back, the third time would find no room
        async with AsyncExitStack() as stack:
            for _ in range(MOST - 1):
                reader, writer = await stack.enter_async_context(raw(small))
                writer.write(head)
                assert (await reader.readline()).startswith(b"HTTP/1.1 101")
            await alive(small)
        await small.becomes(lambda: small.http.get("/health/live"))


async def test_requests_behind_an_unanswered_one_are_few(small: Any) -> None:
    async with raw(small) as (reader, writer):
        first = b"POST /api/plans HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        writer.write(first + b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n" * 2000)
        said = await until_closed(reader)
    assert said.count(b"HTTP/1.1 200") <= PIPELINED + 1


async def test_a_download_that_is_not_taken_ends(small: Any) -> None:
    content = b"a" * (48 << 20)
    made = await small.http.post("/api/artifacts", files={"file": ("a.bin", content)}, timeout=at_this_load(60))
    meta = made.json()
    async with raw(small) as (reader, writer):
        writer.transport.pause_reading()
        writer.write(f"GET /api/artifacts/{meta['bucket']}/{meta['key']} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        await asyncio.sleep(3 * STALL_SECONDS)
        writer.transport.resume_reading()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            async with asyncio.timeout(at_this_load(10)):
                await reader.readexactly(len(content))
    await small.http.delete(f"/api/artifacts/{meta['bucket']}/{meta['key']}")


async def test_unfinished_bodies_hold_no_more_than_the_limit_together(small: Any) -> None:
    size = 3 << 20
    head = f"POST /api/plans HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
    async with AsyncExitStack() as stack:
        said = []
        for _ in range(4):
            reader, writer = await stack.enter_async_context(raw(small))
            writer.write(head.encode() + b" " * (size - 1))
            said.append(asyncio.ensure_future(reader.readline()))
        async with asyncio.timeout(at_this_load(10)):
            await asyncio.wait(said, return_when=asyncio.FIRST_COMPLETED)
            answers = [each.result() for each in said if each.done()]
        assert answers
        assert all(answer.startswith(b"HTTP/1.1 503") for answer in answers)
        await alive(small)
        for each in said:
            each.cancel()
    problem = await small.post("/api/plans", {}, expect=422)
    assert problem["code"] == "invalid_request", "what was held is given back"


async def test_what_is_no_http_writes_few_lines_into_the_log(small: Any, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(5 * LINES_PER_MINUTE):
        async with raw(small, "127.0.0.9") as (reader, writer):
            writer.write(b"\x16\x03\x01 no http\r\n\r\n")
            await until_closed(reader)
    lines = [record for record in caplog.records if record.name.endswith("connections")]
    assert 1 <= len(lines) <= LINES_PER_MINUTE


async def test_an_address_has_no_more_connections_than_it_may_and_a_proxy_as_many_as_there_are() -> None:
    made = Settings()
    made.control.max_connections_per_address, made.control.proxies = 2, ["192.0.2.0/24"]
    limits = Limits(made)
    one, two, three = object(), object(), object()
    assert limits.admit(one, "203.0.113.1")
    assert limits.admit(two, "203.0.113.1")
    assert not limits.admit(three, "203.0.113.1")
    assert limits.admit(three, "203.0.113.2")
    limits.left(one, "203.0.113.1")
    assert limits.admit(one, "203.0.113.1")
    assert all(limits.admit(object(), "192.0.2.7") for _ in range(10))


async def test_the_log_says_how_much_it_has_left_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet, clock = QuietLog(), [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    for _ in range(100):
        quiet.warn("203.0.113.1", "bad")
    quiet.warn("203.0.113.2", "bad")
    clock[0] += 61
    quiet.warn("203.0.113.1", "bad")
    assert len(caplog.records) == LINES_PER_MINUTE + 2
    assert vars(caplog.records[-1])["omitted"] == 100 - LINES_PER_MINUTE


async def test_a_burst_of_one_key_waits_in_its_own_line() -> None:
    turns = Turns(2)
    taken = [await turns.take("a") for _ in range(2)]
    third = asyncio.ensure_future(turns.take("a"))
    await asyncio.sleep(0)
    assert not third.done()
    (await turns.take("b"))()
    taken[0]()
    (await third)()
    taken[1]()
    waiting = [asyncio.ensure_future(turns.take("a")) for _ in range(1002)]
    await asyncio.sleep(0)
    with pytest.raises(ApiProblem) as refused:
        await turns.take("a")
    assert refused.value.status == 429
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
