"""Whatever stands on the streams and the channels, workers, scheduler and hub go on; and a job beside it completes."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import websockets
from hypothesis import given
from hypothesis import strategies as st

from tests.control_plane.served import new_id, node
from tests.fuzzing.conftest import examples
from tests.support.planes import gate
from tests.support.polling import at_this_load

pytestmark = pytest.mark.asyncio(loop_scope="session")

STREAMS = [f"stream:process:{place}{priority}" for place in ("data", "control") for priority in ("", ":high", ":low")]
TEXT = st.text(max_size=20).map(lambda text: text.encode("utf-8", "surrogatepass"))
ANYTHING = TEXT | st.binary(max_size=20)
HELD = b"HELD"
"""Stands for the id of a job that runs."""

JOBS = st.sampled_from([HELD, HELD + b":events", b"", b":", b"alive", b"x" * 5000]) | ANYTHING
NODES = st.sampled_from([b"a", b"a,a", b"b", b",", b"a,b,c", b"a," * 30_000, b"a\n,b", b"a b"]) | ANYTHING
ENTRIES = st.one_of(
    st.dictionaries(ANYTHING, ANYTHING, min_size=1, max_size=4),
    st.fixed_dictionaries(
        {b"job": JOBS, b"nodes": NODES},
        optional={
            b"needs": NODES, b"graph": ANYTHING | st.just(b"{"), b"routes": ANYTHING | st.just(b"["), b"heavy": st.just(b"1") | ANYTHING,
            b"created": ANYTHING, b"v": ANYTHING, b"traceparent": ANYTHING,
        },
    ),
)  # fmt: skip


def of_job(fields: dict[bytes, bytes], job: str) -> dict[bytes, bytes]:
    return {name: value.replace(HELD, job.encode()) for name, value in fields.items()}


async def all_is_well(served: Any) -> None:
    """A job goes through both planes, nothing is left on a stream, nobody has died."""
    job = await served.submit(node("a"), node("b", task="light_node"), edges=[{"from": "a", "to": "b"}])
    assert (await served.ended(job))["status"] == "completed"

    async def drained() -> Any:
        return all((each["depth"], each["pending"]) == (0, 0) for each in (await served.get("/api/queues"))["queues"])

    await served.becomes(drained)
    assert not any(task.done() for task in served.planes.running.values()), "a worker has died"
    for each in (await served.get("/api/dead-letters"))["deadLetters"]:
        await served.delete(f"/api/dead-letters/{each['id']}")


@pytest_asyncio.fixture(loop_scope="session")
async def held(served: Any) -> AsyncIterator[Any]:
    """A job that runs as long as the test does, and completes after it."""
    job = await served.submit(node("a", wait=(name := new_id())), node("b"), edges=[{"from": "a", "to": "b"}])
    await served.in_status(job, "running")
    yield job
    gate(name).set()
    assert (await served.ended(job))["status"] == "completed"
    await all_is_well(served)


@examples(60)
@given(entry=ENTRIES, stream=st.sampled_from(STREAMS))
async def test_no_entry_ends_a_worker_or_stands_in_the_way(served: Any, held: Any, entry: Any, stream: Any) -> None:
    await served.planes.client.xadd(stream, of_job(entry, held))
    job = await served.submit(node("a", task="light_node" if "control" in stream else "act"))
    assert (await served.ended(job))["status"] == "completed"


MESSAGES = st.one_of(
    ANYTHING,
    st.sampled_from([b"{", b"[]", b"null", b'{"type":"deleted"', b"[" * 5000]),
    st.builds(
        lambda kind, seq, rest: b'{"type":"%s","seq":%d,"status":"running","progress":0.5,"message":"%s"}' % (kind, seq, rest),
        st.sampled_from([b"log", b"data", b"status", b"progress", b"node", b""]), st.integers(-1, 20), ANYTHING,
    ),
)  # fmt: skip


@pytest_asyncio.fixture(loop_scope="session")
async def watched(served: Any, held: Any) -> AsyncIterator[Any]:
    """The held job, which a client watches; the hub then still knows what to tell of it."""
    async with websockets.connect(f"ws://127.0.0.1:{served.port}/ws", open_timeout=60) as socket:
        await subscribed(socket, held)
        yield held
        await subscribed(socket, held)


async def subscribed(socket: Any, job: Any) -> None:
    """Asks for a job; returns with its snapshot."""
    await socket.send(json.dumps({"action": "subscribe", "jobId": job}))
    async with asyncio.timeout(at_this_load(30)):
        while (said := json.loads(await socket.recv()))["type"] != "response":
            assert said["type"] in ("update", "resync")
        assert said["message"] == "subscribed"
        assert json.loads(await socket.recv())["events"][0]["seq"] == 1


@examples(100)
@given(message=MESSAGES, channel=st.sampled_from(["status", "progress", "data", "cancel", "hub"]))
async def test_no_message_ends_the_hub_or_a_worker(served: Any, watched: Any, message: Any, channel: Any) -> None:
    name = channel if channel in ("cancel", "hub") else f"{channel}:{watched}"
    await served.planes.client.publish(name, message)
