"""A node that waits for device memory stays with its worker, is no work, and goes when the worker does."""

import asyncio
from typing import Any

from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.runs import Cancelled, Emit, NodeRun, Outcome, RunControl
from dihedral.bridge.worker.loop import Worker
from dihedral.control_plane.waiting import waiting_for
from dihedral.schemas.structs.job import WaitingFor, WaitingReason
from dihedral.schemas.structs.worker import DeviceInfo, WaitingType
from tests.support.planes import RUNS, Planes, gate, node, planes

DEVICES = [DeviceInfo(name="gpu", memory_mib=24576)]


async def start(here: Planes, *, full: bool, waits_seconds: float = 0.0) -> Worker:
    """A worker with one slot and a device; full, a node waits for ever."""

    async def run_node(run: NodeRun, emit: Emit, cancel: RunControl) -> Outcome:
        if run.task != "heavy":
            return await run_light(here.registry, run, None, emit, cancel)
        if full:
            emit.waits("needs 14.0 GiB, 9.8 free, 6.1 held by pid 812")
            await cancel.wait()
            emit.waits("")
            return Cancelled(began=False)
        if waits_seconds:
            emit.waits("needs 14.0 GiB, 9.8 free")
            await asyncio.sleep(waits_seconds)
            emit.waits("")
        return await run_light(here.registry, run, None, emit, cancel)

    registry = {id: task for id, task in here.registry.items() if task.capability.plane == "python"}
    worker = Worker(
        settings=here.settings, plane="python", registry=registry, run_node=run_node, slots=1, light=4, devices=DEVICES
    )
    here.running[worker] = asyncio.create_task(worker.run())
    await here.becomes(lambda: worker.ready)
    return worker


async def test_a_worker_keeps_the_node_that_waits(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        worker = await start(here, full=True)
        await here.submit([node("a", task="heavy")])
        await here.becomes(lambda: [run.waiting_for for run in worker.nodes.running])
        assert (await here.statuses()) == {"a": "running"}
        assert await here.jobs.cancel("job") == "cancelling"
        assert (await here.ended()).status == "cancelled"


async def test_a_node_that_waits_holds_up_no_drain(redis_url: str, redis: Any) -> None:
    """A drain waited all its seconds for a node that had not begun; what runs beside it may still end."""
    async with planes(redis_url, redis, drain_seconds=60) as here:
        full = await start(here, full=True)
        await here.submit([node("a", task="heavy"), node("b", wait="go")])
        await here.becomes(lambda: len(full.nodes.running) == 2)
        await here.becomes(lambda: any(run.waiting_for for run in full.nodes.running))
        full.stop()
        await here.becomes(lambda: len(full.nodes.running) == 1)
        assert (await here.statuses()) == {"a": "ready", "b": "running"}
        await start(here, full=False)
        await here.becomes(lambda: ("end", "a") in RUNS)
        assert not here.running[full].done()
        gate("go").set()
        view = await here.ended()
        assert view.status == "completed"
        assert view.record("a").attempt == 1


async def test_waiting_counts_as_no_work(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        worker = await start(here, full=True)
        observed: list[Any] = []
        worker.nodes.observe = lambda *seen: observed.append(seen)
        await here.submit([node("a", task="heavy")])
        await here.becomes(lambda: [run.waiting_for for run in worker.nodes.running])
        for family in worker.measured():
            if family.name in ("worker_active_tasks", "dihedral_worker_slots_busy"):
                assert [sample.value for sample in family.samples if sample.value] == []
        await here.jobs.cancel("job")
        await here.ended()
        assert observed == []


async def test_the_duration_of_a_node_is_without_its_waiting(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        worker = await start(here, full=False, waits_seconds=0.5)
        observed: list[Any] = []
        worker.nodes.observe = lambda *seen: observed.append(seen)
        await here.submit([node("a", task="heavy")])
        await here.ended()
        ((task, outcome, seconds),) = observed
        assert (task, outcome) == ("heavy", "completed")
        assert 0 <= seconds < 0.4


async def test_a_heartbeat_is_hurried_when_waiting_begins_or_ends_alone(redis_url: str, redis: Any) -> None:
    told: list[str] = []
    async with planes(redis_url, redis) as here:
        worker = await start(here, full=True)
        await here.submit([node("a", task="heavy")])
        await here.becomes(lambda: [run.waiting_for for run in worker.nodes.running])
        (running,) = worker.nodes.running
        running._notify = lambda: told.append(running.waiting_for)
        running.waits("needs 14.0 GiB, 9.7 free")
        assert told == []
        running.waits("")
        running.waits("")
        assert told == [""]
        await here.jobs.cancel("job")
        await here.ended()


async def test_a_light_node_that_waits_for_a_server_is_told_and_stays(redis_url: str, redis: Any) -> None:
    """It has begun, so a drain lets it go on, and it takes no slot from anyone."""
    async with planes(redis_url, redis) as here:
        back = asyncio.Event()

        async def run_node(run: NodeRun, emit: Emit, cancel: RunControl) -> Outcome:
            emit.waits("waits for ComfyUI: connection refused")
            await back.wait()
            emit.waits("")
            return await run_light(here.registry, run, None, emit, cancel)

        registry = {id: task for id, task in here.registry.items() if task.capability.plane == "python"}
        worker = Worker(settings=here.settings, plane="python", registry=registry, run_node=run_node, slots=1, light=4)
        here.running[worker] = asyncio.create_task(worker.run())
        await here.becomes(lambda: worker.ready)
        await here.submit([node("a")])
        await here.becomes(lambda: [run.waiting_for for run in worker.nodes.running])
        [running] = worker.nodes.running
        assert running.light
        running.give_up_waiting()
        assert not running.control.cancelled
        [told] = worker.presence.info().running
        assert told.waiting_type is WaitingType.service
        await here.jobs.workers.announce(worker.presence.info(), [])
        waits = await waiting_for(await here.view(), here.jobs.workers.alive)
        assert waits == WaitingFor(type=WaitingReason.service, message="a waits for ComfyUI: connection refused")
        back.set()
        assert (await here.ended()).status == "completed"
        assert RUNS
