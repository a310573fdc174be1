"""`/ws`: what a client is told, in which order, and what becomes of clients that misbehave."""

import asyncio
import contextlib
import itertools
import json
import random
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from dihedral.bridge.worker import outbox
from tests.control_plane.hubs import listening, world
from tests.control_plane.served import new_id
from tests.control_plane.watching import SECONDS, Story, ended, lasting, live, response, said, watching
from tests.support.polling import at_this_load
from tests.support.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")

BAD = response("failed", None, "bad_message")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    """Progress comes at once; a log of 40 events; few subscriptions and short messages."""
    limits = {"update_interval_ms": 0, "max_subscriptions": 4, "max_message_bytes": 4000}
    async with live(tmp_path_factory.mktemp("ws"), websocket=limits, event_log_length=40) as made:
        yield made


# What is told -----------------------------------------------------------------------------------------------------------


async def test_a_subscription_is_answered_then_comes_a_snapshot_then_every_event_once_and_in_order(served: Any) -> None:
    job = await served.puppet()
    job.data(n=0)
    async with served.watcher() as client:
        story = Story(served, job.job)
        first = await client.subscribe(job.job)
        assert (first["type"], first["status"], first["progress"]) == ("update", "running", 0)
        assert first["events"][0]["seq"] == 1
        await story.hear(first)
        for number in range(1, 20):
            job.data(n=number)
        job.end()
        for message in await client.until(job.job, ended):
            await story.hear(message)
        assert (story.status, story.progress) == ("completed", 1)
        assert [event["data"] for event in story.events if event["type"] == "data"] == [{"n": n} for n in range(20)]
        await story.whole()
        assert await client.silent()


async def test_progress_is_told_without_events_and_the_end_is_exactly_one(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        seq = (await client.subscribe(job.job))["seq"]
        for progress in (0.25, 0.5, 1 / 3, 0.75):
            job.progress(progress)
            if progress != 1 / 3:  # progress never falls
                found = (await client.until(job.job, lambda message: message["progress"] > 0))[-1]
                assert (found["progress"], found["events"], found["seq"]) == (progress, [], seq)
        job.end()
        last = (await client.until(job.job, ended))[-1]
        assert (last["status"], last["progress"]) == ("completed", 1)


async def test_a_failed_job_is_told_with_its_error(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        await client.subscribe(job.job)
        job.fail()
        last = (await client.until(job.job, ended))[-1]
        assert last["status"] == "failed"
        assert last["events"][-1]["error"]["code"] == "boom"


async def test_an_ended_job_is_told_whole_in_one_update(served: Any) -> None:
    job = await served.puppet()
    job.end()
    await served.ended(job.job)
    async with served.watcher() as client:
        story = Story(served, job.job)
        await story.hear(await client.subscribe(job.job))
        await story.whole()
        assert (story.status, story.progress) == ("completed", 1)
        assert await client.silent()


async def test_a_retry_of_an_ended_job_goes_on_in_the_same_subscription(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        story = Story(served, job.job)
        await story.hear(await client.subscribe(job.job))
        job.fail()
        for message in await client.until(job.job, ended):
            await story.hear(message)
        await served.post(f"/api/jobs/{job.job}/retry", expect=200)
        job.end()
        for message in await client.until(job.job, ended):
            await story.hear(message)
        assert story.status == "completed"
        await story.whole()


async def test_after_goes_on_where_it_was_left(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        for number in range(3):
            job.data(n=number)
        first = await client.subscribe(job.job)
        left = (await client.until(job.job, lambda message: said(message)[-1:] == [{"n": 2}], first))[-1]["seq"]
    for number in range(3, 6):
        job.data(n=number)
    job.end()
    await served.ended(job.job)
    async with served.watcher() as client:
        found = await client.subscribe(job.job, after=left)
        assert said(found) == [{"n": n} for n in range(3, 6)]
        assert found["events"][0]["seq"] == left + 1
        again = await client.subscribe(job.job, after=found["seq"], epoch=found["epoch"])
        assert (again["events"], again["seq"], again["status"]) == ([], found["seq"], "completed")


@pytest.mark.parametrize("why", ["beyond what is stored", "no longer in the log", "of another epoch"])
async def test_after_is_a_resync_when_it_is(served: Any, why: Any) -> None:
    """...and from the snapshot on every event comes once and in order."""
    job = await served.puppet()
    for number in range(45):
        job.data(n=number)
    async with served.watcher() as other, served.watcher() as client:
        first = await other.subscribe(job.job)
        await other.until(job.job, lambda message: said(message)[-1:] == [{"n": 44}], first)
        seq = (await served.log(job.job))[-1]["seq"]
        assert seq > 45
        wish = {
            "beyond what is stored": {"after": seq + 1},
            "no longer in the log": {"after": seq - 41},
            "of another epoch": {"after": seq - 1, "epoch": "another"},
        }[why]
        found = await client.subscribe(job.job, **wish)
        assert found["type"] == "resync"
        snapshot = found["snapshot"]
        assert (snapshot["seq"], snapshot["status"], snapshot["progress"]) == (seq, "running", 0)
        assert lasting(snapshot["job"]) == lasting(await served.job(job.job))
        job.data(n=45)
        job.end()
        events = [event for message in await client.until(job.job, ended) for event in message["events"]]
        assert [event["seq"] for event in events] == list(range(seq + 1, seq + 4))
        resyncs = [message for message in await other.until(job.job, ended) if message["type"] == "resync"]
        assert resyncs == [], "that is between the server and one client"
        assert snapshot["epoch"] == (await served.get(f"/api/jobs/{job.job}/events"))["epoch"]


async def test_the_oldest_after_that_is_still_in_the_log_is_no_resync(served: Any) -> None:
    job = await served.puppet()
    for number in range(60):
        job.data(n=number)
    job.end()
    await served.ended(job.job)
    log = await served.log(job.job)
    assert len(log) == 40
    async with served.watcher() as client:
        found = await client.subscribe(job.job, after=log[0]["seq"] - 1)
        assert found["events"] == log
        assert (await client.subscribe(job.job, after=log[0]["seq"] - 2))["type"] == "resync"
        assert (await client.subscribe(job.job))["events"] == log, "without after: whatever is kept"


async def test_an_unknown_job_disturbs_no_other_subscription(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        story = Story(served, job.job)
        await story.hear(await client.subscribe(job.job))
        nobody = new_id("nobody")
        for _ in range(10):
            await client.say({"action": "subscribe", "jobId": nobody})
            job.data(n=0)
            assert await client.response() == response("failed", nobody, "unknown_job")
        job.end()
        for message in await client.until(job.job, ended):
            await story.hear(message)
        await story.whole()
    await served.becomes(lambda: nobody_listens(served, nobody))


async def nobody_listens(served: Any, job: Any) -> Any:
    return await served.listeners(job) == 0


async def test_after_unsubscribed_there_is_silence(served: Any) -> None:
    job, other = await served.puppet(), await served.puppet()
    async with served.watcher() as client, served.watcher() as witness:
        await client.subscribe(job.job)
        await client.subscribe(other.job)
        await witness.subscribe(job.job)
        await client.unsubscribe(job.job)
        job.progress(0.5)
        job.data(n=1)
        job.end()
        await witness.until(job.job, ended)
        assert await client.silent()
        other.end()
        assert (await client.until(other.job, ended))[-1]["status"] == "completed"
        await client.unsubscribe(new_id("never-subscribed"))
    await served.becomes(lambda: nobody_listens(served, job.job))


async def test_subscribing_again_begins_again_and_nothing_comes_twice(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        await client.subscribe(job.job)
        job.data(n=0)
        await client.until(job.job, said)
        again = await client.subscribe(job.job)
        assert said(again) == [{"n": 0}]
        story = Story(served, job.job)
        await story.hear(again)
        job.data(n=1)
        job.end()
        for message in await client.until(job.job, ended):
            await story.hear(message)
        await story.whole()
        assert await client.silent()


async def test_a_job_that_is_deleted_while_watched_becomes_unknown_and_leaves_the_rest_alone(served: Any) -> None:
    job, other = await served.puppet(), await served.puppet()
    async with served.watcher() as client:
        await client.subscribe(job.job)
        await client.subscribe(other.job)
        job.end()
        assert (await client.until(job.job, ended))[-1]["status"] == "completed"
        await served.delete(f"/api/jobs/{job.job}")
        assert await client.of(job.job) == response("failed", job.job, "unknown_job")
        other.end()
        assert (await client.until(other.job, ended))[-1]["status"] == "completed"
    await served.becomes(lambda: nobody_listens(served, job.job))


async def test_a_job_that_is_made_anew_under_its_id_is_another_job(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        await client.subscribe(job.job)
        job.data(n=0)
        job.end()
        await client.until(job.job, ended)
        await served.delete(f"/api/jobs/{job.job}")
        assert await client.of(job.job) == response("failed", job.job, "unknown_job")
        anew = await served.puppet(job.job)
        story = Story(served, job.job)
        await story.hear(await client.subscribe(job.job))
        anew.end()
        for message in await client.until(job.job, ended):
            await story.hear(message)
        await story.whole()
        assert [event for event in story.events if event["type"] == "data"] == []


async def test_more_subscriptions_than_the_limit_are_refused_and_one_less_makes_room(served: Any) -> None:
    jobs = [await served.puppet() for _ in range(5)]
    async with served.watcher() as client:
        for job in jobs[:4]:
            await client.subscribe(job.job)
        await client.say({"action": "subscribe", "jobId": jobs[4].job})
        assert await client.response() == response("failed", jobs[4].job, "limit")
        assert (await client.subscribe(jobs[0].job))["seq"] > 0, "it has that one already"
        await client.unsubscribe(jobs[1].job)
        await client.subscribe(jobs[4].job)
        for job in jobs:
            job.end()
        for job in (jobs[0], jobs[2], jobs[3], jobs[4]):
            await client.until(job.job, ended)


# Bad messages -----------------------------------------------------------------------------------------------------------

SUBSCRIBE = {"action": "subscribe", "jobId": "a"}
GARBAGE = {
    "nothing": "",
    "no JSON": "{",
    "half a message": json.dumps(SUBSCRIBE)[:-1],
    "two messages": json.dumps(SUBSCRIBE) * 2,
    "a number": "1",
    "null": "null",
    "a list": json.dumps([SUBSCRIBE]),
    "an empty object": "{}",
    "no action": '{"jobId":"a"}',
    "another action": '{"action":"publish","jobId":"a"}',
    "an action of another type": '{"action":1,"jobId":"a"}',
    "no job": '{"action":"subscribe"}',
    "a job of another type": '{"action":"subscribe","jobId":1}',
    "a job that can be none": '{"action":"subscribe","jobId":"../etc"}',
    "a job that ends in a line": '{"action":"subscribe","jobId":"a\\n"}',
    "an empty job": '{"action":"subscribe","jobId":""}',
    "a long job": json.dumps({**SUBSCRIBE, "jobId": "a" * 129}),
    "half a character": '{"action":"subscribe","jobId":"\\ud800"}',
    "a negative after": json.dumps({**SUBSCRIBE, "after": -1}),
    "after as text": json.dumps({**SUBSCRIBE, "after": "1"}),
    "after as a fraction": json.dumps({**SUBSCRIBE, "after": 1.5}),
    "after as null": json.dumps({**SUBSCRIBE, "after": None}),
    "an epoch of another type": json.dumps({**SUBSCRIBE, "epoch": 1}),
    "a long epoch": json.dumps({**SUBSCRIBE, "epoch": "e" * 129}),
    "an unknown field": json.dumps({**SUBSCRIBE, "since": 1}),
    "after for unsubscribe": json.dumps({"action": "unsubscribe", "jobId": "a", "after": 1}),
    "deep nesting": '{"x":' + "[" * 1900 + "]" * 1900 + "}",
    "nesting without an end": "[" * 4000,
    "too many bytes": json.dumps(SUBSCRIBE).ljust(4001),
    "few characters of too many bytes": json.dumps(
        {**SUBSCRIBE, "epoch": "\N{GRINNING FACE}" * 100}, ensure_ascii=False
    ).ljust(3900),
    "a binary frame": json.dumps(SUBSCRIBE).encode(),
    "a binary frame of no text": b"\xff\xfe\x00",
}


@pytest.fixture(scope="module", params=GARBAGE)
def garbage(request: pytest.FixtureRequest) -> Any:
    return GARBAGE[request.param]


async def test_a_bad_message_is_refused_and_the_socket_lives_on(served: Any, garbage: Any) -> None:
    async with served.watcher() as client:
        await client.say(garbage)
        assert await client.response() == BAD
        assert await client.silent()


async def test_an_after_beyond_any_number_is_beyond_what_is_stored(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client:
        for after in (2**53, 2**64 - 1, 2**64, 10**40):
            assert (await client.subscribe(job.job, after=after))["type"] == "resync"


async def test_thousands_of_bad_messages_are_each_refused_and_subscriptions_live_on(served: Any) -> None:
    """They come in one piece, so that the server has them all before it has answered one."""
    job = await served.puppet()
    errors = await served.metric("websocket_errors_total")
    async with served.watcher() as client:
        story = Story(served, job.job)
        await story.hear(await client.subscribe(job.job))
        frames = []
        for _ in range(3000):
            client.socket.protocol.send_text(b"garbage")
            frames += client.socket.protocol.data_to_send()
        client.socket.transport.write(b"".join(frames))
        job.end()
        for _ in range(3000):
            assert await client.response() == BAD
        while not story.ended:
            await story.hear(await client.of(job.job))
        await story.whole()
        assert await client.silent()
    assert await served.metric("websocket_errors_total") == errors + 3001


async def test_what_is_no_websocket_message_ends_one_socket_only(served: Any) -> None:
    job = await served.puppet()
    async with served.watcher() as client, served.watcher() as other:
        await client.subscribe(job.job)
        await other.subscribe(job.job)
        other.socket.protocol.send_text(b"\xff\xfe")
        other.socket.transport.write(b"".join(other.socket.protocol.data_to_send()))
        await other.socket.wait_closed()
        assert other.socket.close_code == 1007
        job.end()
        await client.until(job.job, ended)


# Progress ---------------------------------------------------------------------------------------------------------------


async def test_progress_waits_for_its_interval_and_events_never_do(tmp_path: Path) -> None:
    async with live(tmp_path, websocket={"update_interval_ms": 60_000}) as served:
        job = await served.puppet()
        async with served.watcher() as client:
            await client.subscribe(job.job)
            for progress in (0.1, 0.2, 0.3, 0.59):
                job.progress(progress)
                await served.becomes(lambda: has_progress(served, job.job, progress))  # noqa: B023
            assert await client.silent()
            job.data(n=1)
            found = await client.of(job.job)
            assert (found["progress"], said(found)) == (0.59, [{"n": 1}])
            job.progress(0.7)
            await served.becomes(lambda: has_progress(served, job.job, 0.7))
            assert await client.silent()
            job.end()
            last = (await client.until(job.job, ended))[-1]
            assert last["progress"] == 1


async def has_progress(served: Any, job: Any, progress: Any) -> Any:
    return (await served.job(job))["progress"] == progress


async def test_progress_is_told_once_per_interval(tmp_path: Path) -> None:
    async with live(tmp_path, websocket={"update_interval_ms": 200}) as served:
        job = await served.puppet()
        clock = asyncio.get_running_loop().time
        async with served.watcher() as client, served.planes.client.pubsub() as published:
            await published.subscribe(f"progress:{job.job}")
            begun = clock()
            await client.subscribe(job.job)

            async def moves() -> None:
                for step in range(1, 51):
                    job.progress(step / 100)
                    while (await published.get_message(timeout=SECONDS))["type"] != "message":
                        pass

            moving = asyncio.create_task(moves())
            told = [m["progress"] for m in await client.until(job.job, lambda m: m["progress"] == 0.5)]
            elapsed = clock() - begun
            await moving
        assert told == sorted(set(told))
        assert 2 <= len(told) <= elapsed / 0.2 + 1
        assert len(told) < 45


async def test_nothing_is_sent_when_nothing_changes(tmp_path: Path) -> None:
    async with live(tmp_path, websocket={"update_interval_ms": 20}) as served:
        still, moves = await served.puppet(), await served.puppet()
        async with served.watcher() as client, served.watcher() as clock:
            await client.subscribe(still.job)
            still.progress(0.5)
            await client.until(still.job, lambda message: message["progress"] == 0.5)
            still.progress(0.5)
            still.progress(0.25)
            await clock.subscribe(moves.job)
            for step in range(1, 11):
                moves.progress(step / 20)
                await clock.until(moves.job, lambda message: message["progress"] == step / 20)  # noqa: B023
            await client.silent()
            # What a job still takes is guessed anew while time passes, and then it is sent.
            guessed = [None, *(message.get("estimate") for message in client.heard)]
            assert all(before != after for before, after in itertools.pairwise(guessed)), client.heard
            assert {message["progress"] for message in client.heard} <= {0.5}


# Many, slow and lost clients --------------------------------------------------------------------------------------------


async def test_all_clients_of_a_job_get_the_bytes_of_its_log(served: Any) -> None:
    job = await served.puppet()
    clients = 200
    async with asyncio.TaskGroup() as group:
        ready = asyncio.Barrier(clients + 1)

        async def watch() -> Any:
            async with served.watcher() as client:
                await client.subscribe(job.job)
                await ready.wait()
                found, last = [], False
                while not last:
                    async with asyncio.timeout(at_this_load(SECONDS)):
                        text = await client.socket.recv()
                    message = json.loads(text)
                    last = ended(message)
                    events = text[text.index('"events":[') + len('"events":[') : -2]
                    found += [events] if events else []
                return ",".join(found)

        watching = [group.create_task(watch()) for _ in range(clients)]
        await ready.wait()
        before = (await served.log(job.job))[-1]["seq"]
        assert await served.metric("websocket_clients_connected") >= clients
        assert await served.listeners(job.job) == 1, "one subscription for all"
        for number in range(15):
            job.data(n=number)
        job.end()
    kept = (await served.planes.jobs.read(job.job, before)).events
    assert len(kept) == 17
    assert {task.result() for task in watching} == {",".join(kept)}
    await served.becomes(lambda: nobody_listens(served, job.job))


class Mute:
    """A client that reads nothing and answers no ping until it is told to."""

    def __init__(self, reader: Any, writer: Any, protocol: Any) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = protocol

    @classmethod
    async def connect(cls, port: Any) -> Any:
        protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/ws"), max_size=None)
        end = socket.socket()
        end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        end.connect(("127.0.0.1", port))
        reader, writer = await asyncio.open_connection(sock=end, limit=1024)
        made = cls(reader, writer, protocol)
        protocol.send_request(protocol.connect())
        made.flush()
        while not protocol.events_received():
            protocol.receive_data(await reader.read(1024))
        return made

    def flush(self) -> None:
        self.writer.write(b"".join(self.protocol.data_to_send()))

    def say(self, document: Any) -> None:
        self.protocol.send_text(json.dumps(document).encode())
        self.flush()

    async def read_to_the_end(self) -> Any:
        """(close code, reason); still no ping is answered."""
        with contextlib.suppress(ConnectionResetError):  # it hung up before it had our goodbye
            async with asyncio.timeout(at_this_load(SECONDS)):
                while data := await self.reader.read(1 << 20):
                    self.protocol.receive_data(data)
                    if self.protocol.close_rcvd:
                        self.flush()
        self.writer.close()
        self.protocol.receive_eof()
        return self.protocol.close_code, self.protocol.close_reason


@pytest.mark.parametrize(
    "limits",
    [{"queue_length": 100_000, "send_timeout_seconds": 0.5}, {"queue_length": 20, "send_timeout_seconds": 600}],
)
async def test_a_client_that_does_not_read_is_closed_with_a_reason_and_slows_nobody(
    tmp_path: Path, limits: Any, monkeypatch: Any
) -> None:
    # One job is to fill sockets that a hundred would fill otherwise.
    monkeypatch.setattr(outbox, "BURST_BYTES", 1 << 30)
    async with live(tmp_path, websocket=limits, event_log_bytes=1 << 30) as served:
        job = await served.puppet()
        errors = await served.metric("websocket_errors_total")
        dropped = await served.metric('dihedral_hub_drops_total{reason="slow_client"}')
        mute = await Mute.connect(served.port)
        mute.say({"action": "subscribe", "jobId": job.job})
        async with served.watcher() as client:
            story = Story(served, job.job)
            await story.hear(await client.subscribe(job.job))
            number = 0
            while await served.metric("websocket_errors_total") == errors:
                for _ in range(20):  # more than sockets hold, until it shows
                    job.data(n=number, ballast="x" * 50_000)
                    number += 1
                while len(said({"events": story.events})) < number:
                    await story.hear(await client.of(job.job))
            job.end()
            while not story.ended:
                await story.hear(await client.of(job.job))
            await story.whole()
        code, reason = await mute.read_to_the_end()
        assert (code, "resume with after" in reason) == (1013, True)
        assert await served.metric('dihedral_hub_drops_total{reason="slow_client"}') == dropped + 1
        await served.becomes(lambda: nobody_is_connected(served))


async def test_a_client_that_asks_and_takes_no_answer_is_listened_to_no_longer(served: Any) -> None:
    """What it asks stays in its own buffers, however much that is."""
    before = await served.metric("websocket_messages_received_total")
    mute = await Mute.connect(served.port)
    for _ in range(50):
        mute.protocol.send_text(json.dumps({"action": "unsubscribe", "jobId": "j" * 128}).encode())
    messages = mute.protocol.data_to_send() * 1000
    mute.writer.write(b"".join(messages))
    received = [-1.0]

    async def stands_still() -> Any:
        received.append(await served.metric("websocket_messages_received_total") - before)
        return received[-1] > 0 and received[-10:] == [received[-1]] * 10

    await served.becomes(stands_still)
    mute.writer.transport.abort()
    assert received[-1] < len(messages)


async def nobody_is_connected(served: Any) -> Any:
    return await served.metric("websocket_clients_connected") == 0


@pytest.mark.parametrize("seed", range(3))
async def test_a_client_that_is_cut_off_at_any_point_resumes_and_misses_nothing(served: Any, seed: Any) -> None:
    """Several jobs on one socket, each of which says something at any time."""
    dice = random.Random(seed)
    jobs = [await served.puppet() for _ in range(4)]
    stories = {job.job: Story(served, job.job) for job in jobs}
    acting = list(jobs)
    number = 0
    connections = 0

    def act() -> None:
        nonlocal number
        if acting:
            number += 1
            job = dice.choice(acting)
            if number > 60:
                acting.remove(job)
                job.end()
            elif dice.random() < 0.3:
                job.progress(number / 100)
            else:
                job.data(n=number)

    while not all(story.ended for story in stories.values()):
        connections += 1
        async with served.watcher() as client:
            for story in stories.values():
                await client.say(story.wish)
                act()
            messages = dice.randrange(25)
            while messages and not all(story.ended for story in stories.values()):
                messages -= 1
                act()
                message = await client.next()
                if message["type"] == "response":
                    assert message["message"] == "subscribed"
                else:
                    await stories[message["jobId"]].hear(message)
            client.socket.transport.abort()
    for story in stories.values():
        assert story.resyncs == 0
        await story.whole()
    assert connections > 3


async def test_a_client_that_vanishes_leaves_nothing_behind(served: Any) -> None:
    jobs = [await served.puppet() for _ in range(3)]
    await served.becomes(lambda: nobody_is_connected(served))
    lifetimes = await served.metric("websocket_client_lifetime_seconds_count")
    for _ in range(10):
        async with served.watcher() as client:
            for job in jobs:
                await client.say({"action": "subscribe", "jobId": job.job})
            client.socket.transport.abort()

    async def all_gone() -> Any:
        return await served.metric("websocket_client_lifetime_seconds_count") == lifetimes + 10

    await served.becomes(all_gone)
    assert await nobody_is_connected(served)
    for job in jobs:
        await served.becomes(lambda: nobody_listens(served, job.job))  # noqa: B023


async def test_the_metrics_of_sockets_move(served: Any) -> None:
    names = ["connections_total", "messages_received_total", "messages_sent_total", "clients_connected"]
    job = await served.puppet()
    await served.becomes(lambda: nobody_is_connected(served))
    before = [await served.metric(f"websocket_{name}") for name in names]
    async with served.watcher() as client:
        await client.subscribe(job.job)
        after = [await served.metric(f"websocket_{name}") for name in names]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 2, 1]


# The end of a connection ----------------------------------------------------------------------------------------------------


@pytest_asyncio.fixture(loop_scope="session")
async def own(served: Any) -> AsyncIterator[Any]:
    """(a hub of its own, the port of its `/ws`)"""
    async with world(served) as made, listening(made) as port:
        yield made, port


async def test_a_hub_that_closes_says_goodbye_to_every_client(served: Any, own: Any) -> None:
    """1001 and a reason; also to one that has subscribed to nothing, and to one that comes too late."""
    made, port = own
    job = await served.puppet()
    async with watching(served, port) as idle, watching(served, port) as client:
        await client.subscribe(job.job)
        assert await idle.silent()
        await made.hub.close()
        async with watching(served, port) as late:
            for each in (idle, client, late):
                await each.socket.wait_closed()
                assert each.socket.close_code == 1001
                assert each.socket.close_reason == "the control plane goes away; connect again"


async def test_a_job_store_that_is_lost_closes_who_asks_of_it_and_not_who_watches(served: Any, own: Any) -> None:
    made, port = own
    job, other = await served.puppet(), await served.puppet()
    async with watching(served, port) as client, watching(served, port) as asking:
        await client.subscribe(job.job)
        made.reads.refuse()
        await asking.say({"action": "subscribe", "jobId": other.job})
        await asking.socket.wait_closed()
        assert asking.socket.close_code == 1013
        assert asking.socket.close_reason == "the job store cannot be reached now"
        job.end()
        await client.until(job.job, ended)


async def test_a_peer_that_answers_no_ping_is_found_dead(served: Any) -> None:
    job = await served.puppet()
    async with world(served) as made, listening(made, ws_ping_interval=0.1, ws_ping_timeout=0.1) as port:
        await served.becomes(lambda: nobody_is_connected(served))
        async with watching(served, port) as client:
            dead = [await Mute.connect(port) for _ in range(3)]
            dead[0].say({"action": "subscribe", "jobId": job.job})
            await client.subscribe(job.job)

            async def only_one_is_left() -> Any:
                return await served.metric("websocket_clients_connected") == 1

            await served.becomes(only_one_is_left)
            job.end()
            await client.until(job.job, ended)
        for each in dead:
            assert (await each.read_to_the_end())[0] == 1011
        await served.becomes(lambda: nobody_listens(served, job.job))


@pytest.fixture(scope="module")
def house() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        made = Stack(
            Path(folder), DIHEDRAL_WEBSOCKET__PING_SECONDS="0.2", DIHEDRAL_WORKER__TASKS="tests.support.held_imports"
        )
        yield made
        made.close()


async def test_the_real_control_plane_pings_and_tells_its_clients_when_it_is_stopped(house: Any) -> None:
    """It ends although a thread of it holds the lock of all imports (bridge/process_end.py)."""
    dead = await Mute.connect(house.port)
    async with connect(f"ws://127.0.0.1:{house.port}/ws", proxy=None, open_timeout=at_this_load(30)) as client:
        assert (await dead.read_to_the_end())[0] == 1011
        house.control.terminate()
        async with asyncio.timeout(at_this_load(SECONDS)):
            await client.wait_closed()
        assert (client.close_code, client.close_reason) == (1001, "the control plane goes away; connect again")
    assert await asyncio.to_thread(house.control.wait, SECONDS) == 0
