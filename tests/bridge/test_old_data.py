"""A server's data made by the version before (commit a2e98ce) goes on: what had ended is read, what had not is brought to its end.

The file has the commands of that server's append-only file, without heartbeats and the library of functions. Its worker was
killed while the job `running` was at its second node; no job is that old, since ended ones were kept for fifty years.
"""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.planes import gate, planes

COMMANDS = (Path(__file__).parent / "data_of_a2e98ce.jsonl").read_text().splitlines()


@pytest.fixture
async def house(redis_url: Any, redis: Any) -> AsyncIterator[Any]:
    async with planes(redis_url, redis) as made:
        yield made


async def test_data_of_the_version_before_goes_on(house: Any) -> None:
    for line in COMMANDS:
        await house.client.execute_command(*(word.encode("latin-1") for word in json.loads(line)))
    before = {job: await house.view(job) for job in ("completed", "failed", "cancelled", "running", "queued")}
    assert {job: view.status for job, view in before.items()} == {
        "completed": "completed", "failed": "failed", "cancelled": "cancelled", "running": "running", "queued": "queued",
    }  # fmt: skip
    assert json.loads(before["completed"].record("b").payload) == {"output": {"from": "b"}}
    assert json.loads(before["failed"].error or "")["code"] == "boom"
    assert [json.loads(event)["seq"] for event in before["completed"].events] == [1, 2, 3, 4, 5, 6, 7]
    assert (await house.view("scheduled")).start_at_ms

    for member in await house.client.zrange("delays", 0, -1):
        await house.client.zadd("delays", {member: 1})  # the start that it was given has come
    gate("go").set()
    await house.schedule()  # the control plane moves older layouts to its own
    await house.start()
    for job in ("queued", "running", "scheduled"):
        assert (await house.ended(job)).status == "completed"
    running = await house.view("running")
    assert running.record("b").deliveries == 1, "its first worker was lost"
    assert [json.loads(event)["seq"] for event in running.events] == list(range(1, running.seq + 1))

    assert await house.jobs.retry("failed") == "ok"
    assert (await house.ended("failed")).status == "failed"
    assert await house.jobs.delete("completed") == "ok"
    assert await house.jobs.read("completed") is None
