"""A master of the cluster is killed under load and its replica promoted: what was acknowledged ends, and everybody goes on.

Replication is asynchronous: what a master acknowledged in its very last moment may never have reached the replica. So
jobs acknowledged within a second before the kill may be lost, and are counted; all others may not.
"""

import asyncio
import contextlib
import itertools
import time
from typing import Any

import pytest

from dihedral.client import AsyncClient, Refused, Unreachable
from tests.cluster.servers import NOT_YET
from tests.fundamentals.drawing import graph, node
from tests.support.polling import at_this_load, becomes

pytestmark = pytest.mark.cluster

LAST_MOMENT_SECONDS = 1.0
AGAIN_SECONDS = 15.0
"""Within these a submission to every partition must be accepted again; node time-out and election take about 3 s of it."""


class Load:
    """Submits one job after the other; `ledger`: job → the moment it was acknowledged."""

    def __init__(self, client: AsyncClient) -> None:
        self.client = client
        self.ledger: dict[str, float] = {}
        self.heard: dict[str, dict[int, Any]] = {}
        self.refusals: list[str] = []
        self.longest_silence = 0.0
        self._names = itertools.count()

    async def run(self, until: asyncio.Event) -> None:
        async with asyncio.TaskGroup() as group:
            while not until.is_set():
                job = await self.submit()
                group.create_task(self.watch(job))
                await asyncio.sleep(0.05)

    async def submit(self) -> str:
        """Until it is accepted, always with the same key and id."""
        drawn = graph(
            node("a", steps=2, stepSeconds=0.02), node("b", steps=1), node("c"), edges=[("a", "b"), ("b", "c")]
        )
        name = f"job-{next(self._names)}-{time.monotonic_ns()}"
        begun = time.monotonic()
        while True:
            try:
                await self.client.submit(graph={**drawn, "workflowId": name}, idempotency_key=name)
            except Refused as refusal:
                if refusal.status not in (429, 503):
                    raise
                self.refusals.append(refusal.code)
                await asyncio.sleep(0.1)
            else:
                self.longest_silence = max(self.longest_silence, time.monotonic() - begun)
                self.ledger[name] = time.monotonic()
                return name

    async def watch(self, job: str) -> None:
        """What a client sees, the later word of a number winning: after a failover numbers may come again."""
        heard = self.heard[job] = {}
        with contextlib.suppress(Refused, Unreachable):  # it is lost, and judged as such
            async for event in self.client.watch(job):
                if event["type"] != "progress":
                    heard[event["seq"]] = event


async def fails_over(cluster: Any, house: Any, number: int, seconds: float) -> dict[str, Any]:
    """One master under load; what there is to tell."""
    over = asyncio.Event()
    async with AsyncClient(house.url) as client:
        load = Load(client)
        running = asyncio.create_task(load.run(over))
        await asyncio.sleep(seconds / 4)
        killed = time.monotonic()
        promoted = await asyncio.to_thread(cluster.fail_over, number)
        await asyncio.sleep(seconds / 2)
        await asyncio.to_thread(cluster.masters[number].start)  # it comes back as a replica of its successor
        cluster.masters[number], cluster.replicas[number] = cluster.replicas[number], cluster.masters[number]
        await asyncio.sleep(seconds / 4)
        over.set()
        async with asyncio.timeout(at_this_load(60)):
            await running
        lost = await judged(client, load, killed)
    await asyncio.to_thread(becomes, cluster.is_whole, despite=NOT_YET)
    assert load.longest_silence < AGAIN_SECONDS
    assert house.control.poll() is None
    assert [worker.poll() for worker in house.workers] == [None] * len(house.workers)
    return {
        "jobs": len(load.ledger), "lost": lost, "promoted after": promoted, "refused": len(load.refusals),
        "longest wait": load.longest_silence,
    }  # fmt: skip


async def judged(client: AsyncClient, load: Load, killed: float) -> int:
    """How many jobs were lost; each other has completed, and its client has seen its log."""
    lost = 0
    for job, acknowledged in load.ledger.items():
        try:
            found = await client.job(job)
        except Refused:
            assert killed - LAST_MOMENT_SECONDS < acknowledged < killed + LAST_MOMENT_SECONDS, (
                "it was acknowledged and is lost"
            )
            lost += 1
            continue
        assert found["status"] == "completed", found
        events = (await client.events(job))["events"]
        assert [event["status"] for event in events if event["type"] == "status"][-1] == "completed"
        assert sum(event["type"] == "status" and event["status"] == "completed" for event in events) == 1
        seen = [load.heard[job].get(event["seq"]) for event in events]
        assert seen == events, f"{job}: its client saw something else"
    return lost


async def test_a_killed_master_is_replaced_and_nothing_that_was_acknowledged_is_lost(
    cluster: Any, house: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    made = await fails_over(cluster, house, 0, seconds=8)
    assert made["jobs"] > 20
    with capsys.disabled():
        print(f"\n  one master killed: {made}")


@pytest.mark.long
@pytest.mark.timeout(900)
async def test_every_master_is_killed_in_turn(cluster: Any, house: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for turn in range(9):
        made = await fails_over(cluster, house, turn % 3, seconds=12)
        with capsys.disabled():
            print(f"\n  turn {turn}: {made}")
