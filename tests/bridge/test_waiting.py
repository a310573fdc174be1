"""A node that waits for device memory in one worker goes to another that has room."""

import asyncio
from typing import Any

import pytest

from bridge.running import CancelToken, Emit, NodeOutcome, NodeRun, run_light
from bridge.worker import Worker
from schemas.structs.worker import DeviceInfo
from tests.planes import Planes, node, planes

DEVICES = [DeviceInfo(name="gpu", memory_mib=24576)]


async def start(here: Planes, *, full: bool) -> Worker:
    """A worker with one slot and a device, full or not."""

    async def run_node(run: NodeRun, emit: Emit, cancel: CancelToken) -> NodeOutcome:
        if full:
            emit.waits("needs 14.0 GiB, 9.8 free, 6.1 held by pid 812")
            await cancel.wait()
            return NodeOutcome(status="cancelled", began=False)
        return await run_light(here.registry, run, None, emit, cancel)

    registry = {id: task for id, task in here.registry.items() if task.capability.plane == "python"}
    worker = Worker(
        settings=here.settings, plane="python", registry=registry, run_node=run_node, slots=1, light=4, devices=DEVICES
    )
    here.running[worker] = asyncio.create_task(worker.run())
    await here.becomes(lambda: worker.ready)
    return worker


async def test_a_node_that_waits_too_long_for_memory_is_offered_to_another_worker(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.worker.HAND_ON_SECONDS", 0.1)
    monkeypatch.setattr("bridge.worker.NO_TASK_DELAY_MS", 50)
    async with planes(redis_url, redis) as here:
        await here.schedule()
        full = await start(here, full=True)
        await here.submit([node("a", task="heavy")])

        async def waits() -> bool:
            return any(run.waiting_for for worker in await here.jobs.workers() for run in worker.running)

        await here.becomes(waits)
        assert (await here.statuses()) == {"a": "running"}
        await start(here, full=False)
        view = await here.ended()
        assert view.status == "completed"
        assert view.record("a").attempt == 1
        assert not full._running


async def test_alone_a_worker_keeps_the_node_that_waits(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.worker.HAND_ON_SECONDS", 0.0)
    async with planes(redis_url, redis) as here:
        worker = await start(here, full=True)
        await here.submit([node("a", task="heavy")])
        await here.becomes(lambda: worker._running)
        await worker._offers_waiting_nodes()
        assert (await here.statuses()) == {"a": "running"}
        assert await here.jobs.cancel("job") == "cancelling"
        assert (await here.ended()).status == "cancelled"
