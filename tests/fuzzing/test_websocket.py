"""Any text and any bytes on a WebSocket: each is answered or closes that socket with a reason, and the others hear on."""

import asyncio
import json
from typing import Any

import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st

from tests.control_plane.served import new_id, node
from tests.fuzzing.conftest import examples
from tests.support.planes import gate
from tests.support.polling import at_this_load

pytestmark = pytest.mark.asyncio(loop_scope="session")

TEXT = st.text(max_size=20)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3), max_leaves=6,
)  # fmt: skip
WISHES = st.fixed_dictionaries(
    {},
    optional={
        "action": st.sampled_from(["subscribe", "unsubscribe"]) | JSON,
        "jobId": st.sampled_from(["HELD", "HELD", "none", "HELD:events", "a" * 129]) | JSON,
        "after": st.integers(-1, 2**70) | JSON, "epoch": TEXT | JSON, "more": JSON,
    },
)  # fmt: skip
MESSAGES = st.lists(
    (WISHES | JSON).map(lambda document: json.dumps(document).encode("utf-8", "surrogatepass").decode("utf-8", "replace"))
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
    | st.binary(max_size=60),
    max_size=8,
)  # fmt: skip
REASONS = {"unknown_job", "forbidden", "limit", "bad_message"}


@pytest.fixture(scope="module")
def gates() -> Any:
    return new_id()


@examples(120)
@given(messages=MESSAGES)
async def test_each_message_is_answered_and_nobody_else_is_disturbed(served: Any, gates: Any, messages: Any) -> None:
    job = await held(served, gates)
    async with websockets.connect(f"ws://127.0.0.1:{served.port}/ws", open_timeout=60) as socket:
        for message in messages:
            await socket.send(message.replace("HELD", job) if isinstance(message, str) else message)
        await socket.send(json.dumps({"action": "subscribe", "jobId": job}))
        answers = 0
        async with asyncio.timeout(at_this_load(30)):
            while answers <= len(messages):
                said = json.loads(await socket.recv())
                assert said["type"] in ("response", "update", "resync")
                if said["type"] == "response":
                    answers += 1
                    assert said["message"] in ("subscribed", "unsubscribed", "failed")
                    assert (said["message"] == "failed") == ("reason" in said)
                    assert said.get("reason", "limit") in REASONS
        assert (said["message"], said["jobId"]) == ("subscribed", job)


JOBS: list[str] = []


async def held(served: Any, name: str) -> str:
    """One job that runs for the whole module."""
    if not JOBS:
        JOBS.append(await served.submit(node("a", wait=name)))
        await served.in_status(JOBS[0], "running")
    return JOBS[0]


async def test_the_service_is_well_after_all_this(served: Any, gates: Any) -> None:
    job = await held(served, gates)
    gate(gates).set()
    assert (await served.ended(job))["status"] == "completed"
    await served.becomes(lambda: clients(served, 0))


async def clients(served: Any, count: int) -> bool:
    return f"websocket_clients_connected {count}.0" in (await served.http.get("/metrics")).text
