"""Where nodes of kind gpu run: on a device of their pool while a worker with one lives, else on a CPU, or they wait. No entry is stranded."""

import time
from typing import Any

import pytest

from dihedral.bridge.worker.loop import Worker
from dihedral.control_plane.waiting import waiting_for
from tests.support.planes import PLACED, RUNS, Planes, gate, node, planes

GPU = 24576


def places() -> dict[str, set[str]]:
    """The workers of each node."""
    found: dict[str, set[str]] = {}
    for name, worker in PLACED:
        found.setdefault(name, set()).add(worker)
    return found


async def submit(here: Planes, count: int, task: str = "heavy", prefix: str = "n", **new: Any) -> list[str]:
    jobs = [f"{prefix}{number}" for number in range(count)]
    for job in jobs:
        assert await here.submit([node(job, task=task)], job=job, **new) == "ok"
    return jobs


async def all_ended(here: Planes, jobs: list[str]) -> None:
    for job in jobs:
        assert (await here.ended(job)).status == "completed"


async def forget(here: Planes, worker: Worker) -> None:
    """What 15 s without a heartbeat do."""
    for part in here.jobs.scripts.partitions:
        await here.client.zadd(part.devices(worker.pool), {worker.worker_id: 1}, xx=True)


@pytest.mark.parametrize("partitions", [1, 4])
async def test_while_a_worker_with_a_device_lives_gpu_nodes_go_nowhere_else(
    redis_url: str, redis: Any, partitions: int
) -> None:
    async with planes(redis_url, redis, partitions=partitions) as here:
        await here.start(slots=4)
        gpu = await here.start(slots=1, device_mib=GPU)
        jobs = await submit(here, 8)
        await all_ended(here, jobs)
        assert places() == {job: {gpu.worker_id} for job in jobs}


async def test_without_a_device_they_run_on_the_cpu(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        cpu = await here.start()
        await all_ended(here, await submit(here, 3))
        assert set.union(*places().values()) == {cpu.worker_id}


@pytest.mark.parametrize("partitions", [1, 4])
async def test_what_waits_for_a_dead_worker_runs_on_the_cpu(redis_url: str, redis: Any, partitions: int) -> None:
    async with planes(redis_url, redis, partitions=partitions) as here:
        gpu = await here.start(slots=1, device_mib=GPU)
        await here.submit([node("held", task="heavy", wait="held")], job="held")
        await here.becomes(lambda: ("begin", "held") in RUNS)
        jobs = await submit(here, 5)
        cpu = await here.start(slots=1)
        await here.kill(gpu)
        await forget(here, gpu)
        gate("held").set()
        await all_ended(here, [*jobs, "held"])
        assert all(workers == {cpu.worker_id} for job, workers in places().items() if job != "held")


async def test_a_worker_with_a_device_that_joins_has_the_next_one(redis_url: str, redis: Any) -> None:
    """The CPU worker waits in a blocking read of the lane when the other one joins, and may be given the entry first."""
    async with planes(redis_url, redis) as here:
        cpu = await here.start(slots=4)
        await all_ended(here, await submit(here, 1, prefix="before"))
        assert places() == {"before0": {cpu.worker_id}}
        gpu = await here.start(slots=2, device_mib=GPU)
        jobs = await submit(here, 4, prefix="after")
        await all_ended(here, jobs)
        assert {job: places()[job] for job in jobs} == {job: {gpu.worker_id} for job in jobs}
        assert (await here.view("after0")).record("after0").attempt == 1


async def test_a_drained_worker_leaves_its_lane_at_once(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        gpu = await here.start(slots=1, device_mib=GPU)
        cpu = await here.start(slots=1)
        await here.stop(gpu)
        await all_ended(here, await submit(here, 2))
        assert set.union(*places().values()) == {cpu.worker_id}


async def test_a_task_that_needs_a_device_waits_for_one_and_says_so(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.start()
        await here.submit([node("a", task="strict")])
        await all_ended(here, await submit(here, 1))  # the worker has looked meanwhile
        waits = await waiting_for(await here.view(), here.jobs.workers.alive, here.jobs.ahead)
        assert waits is not None
        assert waits.message == "a needs a device, and no worker of data plane, pool default has one"
        gpu = await here.start(device_mib=GPU)
        await all_ended(here, ["job"])
        assert places()["a"] == {gpu.worker_id}


async def test_what_waits_for_a_busy_device_says_so(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.start(slots=4)
        await here.start(slots=1, device_mib=GPU)
        await here.submit([node("held", task="heavy", wait="held")], job="held")
        await here.becomes(lambda: ("begin", "held") in RUNS)
        await here.submit([node("a", task="heavy")])

        async def message() -> bool:
            waits = await waiting_for(await here.view(), here.jobs.workers.alive, here.jobs.ahead)
            expected = "a waits for a slot of a device of data plane, pool default; a is next in its queue"
            return waits is not None and waits.message == expected

        await here.becomes(message)
        gate("held").set()
        await all_ended(here, ["job", "held"])


async def test_what_fits_no_device_of_the_pool_runs_on_the_cpu(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.schedule()  # a declined entry is delayed
        await here.start(device_mib=8192)
        cpu = await here.start()
        await here.submit([node("a", task="heavy", memoryMiB=16384)])
        await all_ended(here, ["job"])
        assert places()["a"] == {cpu.worker_id}


async def test_what_fits_another_device_goes_there(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.schedule()  # a declined entry is delayed
        await here.start(device_mib=8192)
        await here.start()
        large = await here.start(device_mib=GPU, slots=1)
        jobs = [f"n{number}" for number in range(4)]
        for job in jobs:
            await here.submit([node(job, task="heavy", memoryMiB=16384)], job=job)
        await all_ended(here, jobs)
        assert places() == {job: {large.worker_id} for job in jobs}


async def test_a_task_that_only_a_cpu_worker_knows_is_not_kept_for_the_device(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.schedule()  # a declined entry is delayed
        await here.start(device_mib=GPU, without=("heavy",))
        cpu = await here.start()
        await here.submit([node("a", task="heavy")])
        await all_ended(here, ["job"])
        assert places()["a"] == {cpu.worker_id}


async def test_a_child_on_a_cpu_worker_goes_to_the_device(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        cpu = await here.start(without=("heavy",))
        gpu = await here.start(device_mib=GPU, without=("act",))
        await here.submit([node("a"), node("b", task="heavy")], [{"from": "a", "to": "b", "kind": "normal"}])
        await all_ended(here, ["job"])
        assert places() == {"a": {cpu.worker_id}, "b": {gpu.worker_id}}


async def test_the_urgent_pass_those_that_wait_in_the_lane(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.start(slots=1, device_mib=GPU)
        await here.submit([node("held", task="heavy", wait="held")], job="held")
        await here.becomes(lambda: ("begin", "held") in RUNS)
        low = await submit(here, 1, prefix="low", priority="low")
        normal = await submit(here, 1, prefix="normal")
        high = await submit(here, 1, prefix="high", priority="high")
        gate("held").set()
        await all_ended(here, low + normal + high)
        assert [name for name, _ in PLACED] == ["held", "high0", "normal0", "low0"]


async def test_nodes_of_other_kinds_do_not_starve_behind_the_lane(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.start(slots=1, device_mib=GPU)
        await here.submit([node("held", task="heavy", wait="held")], job="held")
        await here.becomes(lambda: ("begin", "held") in RUNS)
        jobs = await submit(here, 8)
        other = await submit(here, 4, task="cpu_heavy", prefix="cpu")
        gate("held").set()
        await all_ended(here, jobs + other)
        order = [name for name, _ in PLACED[1:]]
        assert max(order.index(job) for job in other) < 9


async def test_light_nodes_cost_no_look_at_the_lanes(redis_url: str, redis: Any) -> None:
    """A worker that is busy with light nodes asks for the lanes a hundred times a second, not with each of its reads."""
    async with planes(redis_url, redis) as here:
        worker = await here.start()
        takes: list[bool] = []
        take = worker._scripts.take

        async def counted(*arguments: Any, **named: Any) -> Any:
            takes.append(any("+" in stream for stream in named["streams"]))
            return await take(*arguments, **named)

        worker._taker._scripts.take = counted  # type: ignore[method-assign]
        begun = time.monotonic()
        jobs = await submit(here, 60, task="act")
        await all_ended(here, jobs)
        assert sum(takes) <= 2 + (time.monotonic() - begun) / 0.01
