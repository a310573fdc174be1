"""GET …/events with Accept: text/event-stream: a job's events as Server-Sent Events, to its end."""

import asyncio
import contextlib
import json
import random
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from dihedral.bridge.worker import outbox
from dihedral.control_plane.routes.live import server_sent
from tests.control_plane.hubs import world
from tests.control_plane.served import new_id
from tests.control_plane.watching import SECONDS, lasting, live
from tests.support.polling import at_this_load
from tests.support.servers import start_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

ACCEPT = {"accept": "text/event-stream"}
KEPT = ("--appendonly", "yes", "--appendfsync", "always")
MESSAGE = re.compile(r"event: ([a-z]+)\n(?:id: ([0-9]+)\n)?data: ([^\n]*)\n\n")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    limits = {"update_interval_ms": 0, "queue_length": 20}
    async with live(
        tmp_path_factory.mktemp("sse"), websocket=limits, event_log_length=200, event_log_bytes=1 << 30
    ) as made:
        yield made


class Stream:
    """Messages as (event, id, data), each of which must look as this server writes them."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.status = answer.status_code
        self.text = ""
        self._pieces = answer.aiter_text()

    async def next(self) -> Any:
        async with asyncio.timeout(at_this_load(SECONDS)):
            while "\n\n" not in self.text:
                self.text += await anext(self._pieces)
        found = MESSAGE.match(self.text)
        assert found, self.text[:200]
        self.text = self.text[found.end() :]
        event, number, data = found.groups()
        document = json.loads(data)
        assert (event, number) == (document["type"], None if event in ("progress", "resync") and not number else number)
        return event, number and int(number), document

    async def until(self, what: Any) -> Any:
        messages = [await self.next()]
        while not what(*messages[-1]):
            messages.append(await self.next())
        return messages

    async def rest(self) -> Any:
        """Up to the end of the stream."""
        messages = []
        with contextlib.suppress(StopAsyncIteration):
            while True:
                messages.append(await self.next())
        assert self.text == ""
        return messages


@contextlib.asynccontextmanager
async def streaming(served: Any, job: Any, after: Any = None, **headers: Any) -> AsyncIterator[Any]:
    params = {} if after is None else {"after": after}
    headers = {name.replace("_", "-"): value for name, value in headers.items()}
    async with served.http.stream(
        "GET", f"/api/jobs/{job}/events", params=params, headers={**ACCEPT, **headers}
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-cache"
        yield Stream(answer)


def logged(messages: Any) -> Any:
    return [document for event, number, document in messages if number is not None and event != "resync"]


def is_said(number: Any) -> Any:
    return lambda event, _, document: event == "data" and document["data"] == {"n": number}


async def test_every_event_comes_once_and_in_order_and_the_stream_ends_with_the_job(served: Any) -> None:
    job = await served.puppet()
    async with streaming(served, job.job) as stream:
        messages = [await stream.next()]
        for number in range(10):
            job.data(n=number, text="two\nlines\r\nand \N{LINE SEPARATOR} more")
        job.end()
        messages += await stream.rest()
    log = await served.log(job.job)
    assert logged(messages) == log
    assert [number for _, number, _ in messages if number is not None] == [event["seq"] for event in log]


async def test_the_data_are_the_bytes_of_the_log(served: Any) -> None:
    job = await served.puppet()
    job.data(text="Zoë", number=1e300, empty=[], nothing=None)
    job.end()
    await served.ended(job.job)
    text = (await served.http.get(f"/api/jobs/{job.job}/events", headers=ACCEPT)).text
    kept = (await served.planes.jobs.read(job.job, 0)).events
    assert [data for _, _, data in MESSAGE.findall(text)] == kept


async def test_progress_comes_without_an_id_so_that_a_client_resumes_at_an_event(served: Any) -> None:
    job = await served.puppet()
    async with streaming(served, job.job) as stream:
        job.progress(0.25)
        messages = await stream.until(lambda event, _, document: event == "progress" and document["progress"] == 0.25)
        event, number, document = messages[-1]
        assert (event, number) == ("progress", None)
        assert document == {"type": "progress", "seq": document["seq"], "status": "running", "progress": 0.25}
        job.progress(0.5)
        await stream.until(lambda event, _, document: event == "progress" and document["progress"] == 0.5)
        job.end()
        rest = await stream.rest()
        assert rest[-1][2]["status"] == "completed", "the end is an event, and the last word"


async def test_an_ended_job_gives_all_its_events_and_closes(served: Any) -> None:
    job = await served.puppet()
    job.data(n=1)
    job.fail()
    await served.ended(job.job)
    async with streaming(served, job.job) as stream:
        messages = await stream.rest()
    assert logged(messages) == await served.log(job.job)
    assert messages[-1][2]["status"] == "failed"
    async with streaming(served, job.job, after=messages[-1][1]) as stream:
        assert logged(await stream.rest()) == []


async def test_last_event_id_goes_before_after(served: Any) -> None:
    job = await served.puppet()
    job.end()
    await served.ended(job.job)
    log = await served.log(job.job)
    for headers, after, first in (
        ({}, 2, 2),
        ({"last_event_id": "3"}, None, 3),
        ({"last_event_id": "3"}, 1, 3),
        ({"last_event_id": "0"}, 2, 0),
        ({"last_event_id": "none of ours"}, 2, 2),
        ({"last_event_id": ""}, 2, 2),
    ):
        async with streaming(served, job.job, after=after, **headers) as stream:
            assert logged(await stream.rest()) == log[first:]


@pytest.mark.parametrize("why", ["trimmed", "beyond"])
async def test_a_last_event_id_that_the_log_does_not_have_is_a_resync(served: Any, why: Any) -> None:
    job = await served.puppet()
    for number in range(250):
        job.data(n=number)

    async def all_are_said() -> Any:
        return (await served.log(job.job))[-1].get("data") == {"n": 249}

    await served.becomes(all_are_said)
    seq = (await served.log(job.job))[-1]["seq"]
    async with streaming(served, job.job, last_event_id={"trimmed": "7", "beyond": str(seq + 1)}[why]) as stream:
        event, number, document = await stream.next()
        assert (event, number) == ("resync", seq)
        assert lasting(document["snapshot"]["job"]) == lasting(await served.job(job.job))
        job.end()
        assert [number for _, number, _ in await stream.rest() if number] == [seq + 1, seq + 2]


async def test_an_unknown_job_is_a_problem_and_no_stream(served: Any) -> None:
    nobody = new_id("nobody")
    answer = await served.http.get(f"/api/jobs/{nobody}/events", headers=ACCEPT)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert answer.json()["code"] == "unknown_job"
    assert await served.listeners(nobody) == 0


async def test_without_that_accept_the_events_are_a_page(served: Any) -> None:
    job = await served.puppet()
    answer = await served.http.get(f"/api/jobs/{job.job}/events", headers={"accept": "application/json"})
    assert answer.json()["jobId"] == job.job


async def test_a_comment_keeps_a_quiet_stream_open(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        stream = server_sent(made.hub, job.job, 0, comment_seconds=0.02)
        pieces: list[bytes] = []
        while pieces.count(b": still here\n\n") < 3:
            pieces.append(await anext(stream))
        assert pieces[-3:] == [b": still here\n\n"] * 3, "nothing but comments while nothing happens"
        job.end()
        rest = [piece async for piece in stream]
        assert rest[-1].endswith(b"\n\n")
        assert b'"completed"' in rest[-1]


async def test_a_job_that_is_deleted_ends_the_stream(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        stream = server_sent(made.hub, job.job, 0)
        first = await anext(stream)
        job.end()
        await served.ended(job.job)
        await served.delete(f"/api/jobs/{job.job}")
        pieces = [first] + [piece async for piece in stream]
        assert b'"completed"' in pieces[-1]
        assert [piece async for piece in server_sent(made.hub, job.job, 0)] == []


async def test_a_control_plane_that_goes_away_ends_its_streams(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made:
        stream = server_sent(made.hub, job.job, 0)
        await anext(stream)
        reading = asyncio.create_task(read(stream))
        await made.hub.close()
        await asyncio.wait_for(reading, at_this_load(SECONDS))
        assert not reading.result()[-1].startswith(b"event: status\nid")


async def read(stream: Any) -> Any:
    return [piece async for piece in stream]


async def test_a_client_that_vanishes_leaves_nothing_behind(served: Any) -> None:
    job = await served.puppet()
    for _ in range(5):
        async with streaming(served, job.job) as stream:
            await stream.next()
            assert await served.listeners(job.job) == 1
    head = f"GET /api/jobs/{job.job}/events HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n"
    for _ in range(5):
        _, writer = await asyncio.open_connection("127.0.0.1", served.port)
        writer.write(head.encode())
        writer.transport.abort()

    async def nobody_listens() -> Any:
        return await served.listeners(job.job) == 0

    await served.becomes(nobody_listens)


async def test_a_client_that_does_not_read_slows_nobody_and_finds_everything_when_it_does(
    served: Any, monkeypatch: Any
) -> None:
    """What it has not taken is not kept for it, but read from the log when it comes back."""
    monkeypatch.setattr(outbox, "BURST_BYTES", 1 << 30)
    job = await served.puppet()
    head = f"GET /api/jobs/{job.job}/events HTTP/1.1\r\nHost: here\r\nAccept: text/event-stream\r\n\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=1024)
    writer.write(head.encode())
    async with streaming(served, job.job) as stream:
        await stream.next()
        for number in range(150):  # 7 MB are more than the sockets hold
            job.data(n=number, ballast="x" * 50_000)
        job.end()
        messages = await stream.rest()
    assert messages[-1][2]["status"] == "completed"
    text = b""
    async with asyncio.timeout(at_this_load(SECONDS)):
        while not text.endswith(b"\r\n0\r\n\r\n"):
            text += await reader.read(1 << 20)
    writer.close()
    assert [int(number) for number in re.findall(rb"\nid: ([0-9]+)\n", text)] == [
        event["seq"] for event in await served.log(job.job)
    ]


def is_the_end(event: Any) -> Any:
    return event["type"] == "status" and event["status"] == "completed"


@pytest.mark.parametrize("seed", range(2))
async def test_a_client_that_is_cut_off_at_any_point_resumes_and_misses_nothing(served: Any, seed: Any) -> None:
    dice = random.Random(seed)
    job = await served.puppet()
    last, number = 0, 0
    events: list[Any] = []
    while not any(is_the_end(event) for event in events[-1:]):
        async with streaming(served, job.job, last_event_id=str(last)) as stream:
            with contextlib.suppress(StopAsyncIteration):
                for _ in range(dice.randrange(1, 12)):
                    number += 1
                    if number < 60:
                        job.progress(number / 100)
                        job.data(n=number)
                    elif number == 60:
                        job.end()
                    event, seq, document = await stream.next()
                    assert event != "resync"
                    if seq is not None:
                        last = seq
                        events.append(document)
    assert events == await served.log(job.job)


async def test_a_redis_that_is_killed_and_comes_back_costs_no_event(tmp_path: Path) -> None:
    async with live(tmp_path, *KEPT) as served:
        job = await served.puppet()
        async with streaming(served, job.job) as stream:
            job.data(n=0)
            messages = await stream.until(is_said(0))
            served.servers[0].kill()
            served.servers[0].wait()
            job.data(n=1)
            served.servers[0], _ = start_server(tmp_path, *KEPT)
            job.data(n=2)
            job.end()
            messages += await stream.rest()
        log = await served.log(job.job)
        resync = next(number for event, number, _ in messages if event == "resync")
        told = logged(messages)
        assert told == sorted(told, key=lambda event: event["seq"])
        assert [event for event in told if event["seq"] > resync] == [event for event in log if event["seq"] > resync]
        assert all(event in log for event in told)
        assert [event["data"]["n"] for event in log if event["type"] == "data"] == [0, 1, 2]
