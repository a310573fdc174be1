"""What operators and owners do to what waits: pause a pool, drain a worker, change a priority, move to the front. No node starts twice."""

from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from dihedral.bridge.fabric import moving
from dihedral.bridge.fabric.items import Change
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.scripts import Depth
from dihedral.bridge.fabric.steps import Dispatch
from dihedral.bridge.worker.loop import Worker
from tests.bridge.world import World, batch
from tests.support.planes import PLACED, RUNS, Planes, edge, gate, node, planes

PLACE = "python/default"
both = pytest.mark.parametrize("partitions", [1, 4])


def begun() -> list[str]:
    return [name for what, name in RUNS if what == "begin"]


async def queued(here: Planes, *jobs: str, **new: Any) -> None:
    for job in jobs:
        assert await here.submit([node(job, task="heavy")], job=job, **new) == "ok"


async def busy(here: Planes, job: str = "held") -> Worker:
    """A worker whose only slot is taken until the gate of `job` opens."""
    worker = await here.start(slots=1)
    await here.submit([node(job, task="heavy", wait=job)], job=job)
    await here.becomes(lambda: job in begun())
    return worker


async def all_ended(here: Planes, *jobs: str) -> None:
    for job in jobs:
        assert (await here.ended(job)).status == "completed"


# Pools ------------------------------------------------------------------------------------------------------------------


@both
async def test_a_paused_pool_starts_nothing_and_ends_what_it_runs(redis_url: str, redis: Any, partitions: int) -> None:
    async with planes(redis_url, redis, partitions=partitions) as here:
        worker = await here.start()
        await here.submit([node("held", wait="held"), node("child")], [edge("held", "child")], job="held")
        await here.becomes(lambda: begun() == ["held"])
        await here.jobs.workers.pause(PLACE, True)
        await here.becomes(lambda: worker.capacity.paused)
        gate("held").set()
        await queued(here, "heavy")
        await here.submit([node("light")], job="light")
        await here.becomes(lambda: ("end", "held") in RUNS)

        async def child_waits() -> bool:
            return (await here.view("held")).record("child").status == "ready"

        await here.becomes(child_waits)
        assert begun() == ["held"]
        await here.jobs.workers.pause(PLACE, False)
        await all_ended(here, "held", "heavy", "light")
        assert sorted(begun()) == ["child", "heavy", "held", "light"]


async def test_a_worker_that_waits_in_a_blocking_read_gives_back_what_it_is_handed(redis_url: str, redis: Any) -> None:
    """The worker is idle, so its read waits on the server when the pause comes; what that read brings is not started."""
    async with planes(redis_url, redis) as here:
        worker = await here.start()
        await here.submit([node("first")], job="first")
        await all_ended(here, "first")
        await here.jobs.workers.pause(PLACE, True)
        await here.becomes(lambda: worker.capacity.paused)
        await queued(here, "a", "b", "c")

        async def all_wait() -> bool:
            views = await here.jobs.read_many(["a", "b", "c"], Depth.records)
            return all(view and view.record(view.job_id).status == "ready" for view in views) and not worker.held

        await here.becomes(all_wait)
        assert begun() == ["first"]
        assert await redis.xlen("stream:process:data+gpu:high") == 0, "later a more urgent job goes first"
        await here.jobs.workers.pause(PLACE, False)
        await all_ended(here, "a", "b", "c")


async def test_a_worker_that_begins_while_its_pool_is_paused_waits(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.jobs.workers.pause(PLACE, True)
        await queued(here, "a")
        worker = await here.start()
        assert worker.capacity.paused
        await here.jobs.workers.pause(PLACE, False)
        await all_ended(here, "a")


async def test_a_lost_message_is_repaired_by_the_next_heartbeat(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        worker = await here.start()
        await redis.hset("worker:paused", PLACE, 1)
        await here.becomes(lambda: worker.capacity.paused)


async def test_another_pool_goes_on(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.jobs.workers.pause("python/other", True)
        worker = await here.start()
        await queued(here, "a")
        await all_ended(here, "a")
        assert not worker.capacity.paused


# Workers ----------------------------------------------------------------------------------------------------------------


async def test_a_drained_worker_ends_what_it_runs_and_others_take_the_rest(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        first = await busy(here)
        await here.jobs.workers.pause(first.worker_id, True)
        await here.becomes(lambda: first.capacity.paused)
        second = await here.start(slots=1)
        await queued(here, "a", "b")
        await all_ended(here, "a", "b")
        assert {worker for name, worker in PLACED if name in ("a", "b")} == {second.worker_id}

        async def announced() -> bool:
            return {each.worker_id: each.draining for each in await here.jobs.workers.alive()} == {
                first.worker_id: True,
                second.worker_id: False,
            }

        await here.becomes(announced)
        gate("held").set()
        await all_ended(here, "held")
        assert first.held == {}


async def test_a_drained_worker_with_the_only_device_leaves_its_lane_to_others(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        gpu = await here.start(slots=1, device_mib=24576)
        cpu = await here.start(slots=1)
        await here.jobs.workers.pause(gpu.worker_id, True)
        await here.becomes(lambda: gpu.capacity.paused)
        await queued(here, "a")
        await all_ended(here, "a")
        assert {worker for _, worker in PLACED} == {cpu.worker_id}
        before = msgspec.structs.replace(gpu.presence.info(), draining=False)
        await here.jobs.workers.announce(before, [])  # the heartbeat that was under way as the drain came
        await here.jobs.workers.announce(gpu.presence.info(), [])
        assert await redis.zcard("stream:process:data+gpu:devices") == 0
        await here.jobs.workers.pause(gpu.worker_id, False)
        await here.becomes(lambda: not gpu.capacity.paused)


async def test_a_worker_that_has_gone_is_drained_no_more(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await here.jobs.workers.pause("host-1-gone", True)
        await here.jobs.workers.pause(PLACE, True)
        assert await here.jobs.workers.paused() == {PLACE}
        assert await redis.hkeys("worker:paused") == [PLACE.encode()]


# Priority ---------------------------------------------------------------------------------------------------------------


@both
async def test_a_job_of_a_higher_priority_overtakes(redis_url: str, redis: Any, partitions: int) -> None:
    async with planes(redis_url, redis, partitions=partitions) as here:
        await busy(here)
        await queued(here, "a", "b", "c")
        assert await moving.set_priority(here.jobs, "c", "high") == "ok"
        assert (await here.view("c")).priority == "high"
        gate("held").set()
        await all_ended(here, "a", "b", "c")
        assert begun()[:2] == ["held", "c"]
        assert sorted(begun()) == ["a", "b", "c", "held"]


async def test_a_job_of_a_lower_priority_stands_back(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await busy(here)
        await queued(here, "a", "b")
        assert await moving.set_priority(here.jobs, "a", "low") == "ok"
        gate("held").set()
        await all_ended(here, "a", "b")
        assert begun() == ["held", "b", "a"]


async def test_what_a_running_node_makes_ready_has_the_new_priority(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        worker = await here.start(slots=1)
        nodes = [node("a", task="heavy", wait="a"), node("b", task="heavy")]
        await here.submit(nodes, [edge("a", "b")], job="chain")
        await here.becomes(lambda: begun() == ["a"])
        await queued(here, "other")
        assert await moving.set_priority(here.jobs, "chain", "low") == "ok"
        await here.becomes(lambda: {each.priority for each in worker.held.values()} == {"low"})
        assert [each.control.rank for each in worker.nodes.running] == [2]
        gate("a").set()
        await all_ended(here, "chain", "other")
        assert begun() == ["a", "other", "b"]


async def test_a_node_that_becomes_ready_during_the_change_moves_too(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with planes(redis_url, redis) as here:
        await here.start(slots=1)
        nodes = [node("a", wait="a"), node("b", task="light_node")]
        await here.submit(nodes, [edge("a", "b")], job="chain")
        await here.becomes(lambda: begun() == ["a"])
        change = here.jobs.scripts.change

        async def b_is_ready() -> bool:
            return (await here.view("chain")).record("b").status == "ready"

        async def late(part: Partition, items: Sequence[Change]) -> list[str]:
            gate("a").set()
            await here.becomes(b_is_ready)
            return await change(part, items)

        monkeypatch.setattr(here.jobs.scripts, "change", late)
        assert await moving.set_priority(here.jobs, "chain", "high") == "ok"
        assert (await here.view("chain")).record("b").entry.endswith("@stream:process:control:high")


@pytest.mark.parametrize("options", [{}, {"partition_count": 2}], ids=["whole", "partitioned"])
async def test_what_a_worker_sends_before_it_knows_of_the_change_stands_in_the_new_line(
    redis: Any, options: dict[str, int]
) -> None:
    world = World(redis, **options)
    stream = world.part.stream("python", "default")
    await world.submit(nodes=3, batches=[batch(["a"], stream=stream)])
    (claim,) = await world.scripts.take(world.part, "w1", "n", count=9, light=9, heavy=9, streams=[stream], handed=[])
    assert await world.scripts.change(world.part, [Change("job", "low")]) == ["ok"]
    front = batch(["c"], nonce="c", stream=world.part.stream("python", "default", "high"), priority="normal")
    await world.report(claim, [Dispatch(batch(["b"], nonce="b", stream=stream)), Dispatch(front)])
    low, high = [world.part.stream("python", "default", priority) for priority in ("low", "high")]
    assert (await world.record("b")).entry.endswith(f"@{low}")
    ((_, given_back),) = await redis.xrange(high)
    assert (given_back[b"nodes"], given_back[b"priority"]) == (b"c", b"low")


async def test_a_worker_that_missed_the_message_learns_the_priority_with_its_renewal(
    redis_url: str, redis: Any
) -> None:
    async with planes(redis_url, redis) as here:
        worker = await busy(here)
        await redis.hset("job:held", mapping={"priority": "low", "changes": 1})
        await here.becomes(lambda: [each.control.rank for each in worker.nodes.running] == [2])
        assert [each.priority for each in worker.held.values()] == ["low"]


async def test_a_scheduled_job_starts_with_its_new_priority(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        seconds, _ = await redis.time()
        await queued(here, "later", start_at_ms=(seconds + 3600) * 1000)
        assert await moving.set_priority(here.jobs, "later", "high") == "ok"
        ((nonce, _),) = await redis.zrange("delays", 0, -1, withscores=True)
        await redis.zadd("delays", {nonce: 1})
        assert await here.jobs.scripts.due(here.jobs.scripts.partitions[0]) == (1, 0, -1)
        assert (await here.view("later")).record("later").entry.endswith("+gpu:high")


async def test_what_a_worker_has_does_not_move(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await busy(here)
        before = (await here.view("held")).record("held")
        assert await moving.set_priority(here.jobs, "held", "high") == "ok"
        assert await moving.move_to_front(here.jobs, "held") == "idle"
        assert (await here.view("held")).record("held") == before
        gate("held").set()
        await all_ended(here, "held")
        assert begun() == ["held"]
        assert await moving.set_priority(here.jobs, "held", "low") == "ended"
        assert await moving.set_priority(here.jobs, "nothing", "low") == "unknown"


async def test_the_number_of_changes_is_bounded(redis_url: str, redis: Any) -> None:
    """Each leaves an entry behind, which nothing takes while no worker serves the place."""
    async with planes(redis_url, redis) as here:
        await queued(here, "a")
        words = [await moving.set_priority(here.jobs, "a", ("high", "low")[turn % 2]) for turn in range(22)]
        assert words == ["ok"] * 20 + ["often", "ok"], "low is what it has"
        assert sum([await redis.xlen(f"stream:process:data+gpu{each}") for each in (":high", "", ":low")]) == 21
        await here.start()
        await all_ended(here, "a")
        assert begun() == ["a"]


async def test_the_same_priority_again_keeps_the_place(redis_url: str, redis: Any) -> None:
    """A client repeats a request whose answer is lost."""
    async with planes(redis_url, redis) as here:
        await busy(here)
        await queued(here, "a", "b", priority="high")
        await queued(here, "c", "d")
        for _ in range(30):
            for job, priority in (("a", "high"), ("c", "normal")):
                assert await moving.set_priority(here.jobs, job, priority) == "ok"
        assert await redis.xlen("stream:process:data+gpu:high") == 2
        gate("held").set()
        await all_ended(here, "a", "b", "c", "d")
        assert begun() == ["held", "a", "b", "c", "d"]


async def test_the_priority_that_a_job_has_takes_it_back_from_the_front_and_counts(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as here:
        await queued(here, "a", "b")
        words = []
        for _ in range(21):
            assert await moving.move_to_front(here.jobs, "b") == "ok"
            words.append(await moving.set_priority(here.jobs, "b", "normal"))
        assert words == ["ok"] * 20 + ["often"]
        assert (await here.view("b")).record("b").entry.endswith("+gpu:high")


# To the front -----------------------------------------------------------------------------------------------------------


@both
async def test_a_job_moves_before_all_others_also_of_high_priority(redis_url: str, redis: Any, partitions: int) -> None:
    async with planes(redis_url, redis, partitions=partitions) as here:
        await busy(here)
        part = here.jobs.scripts.partition("last")
        names = [name for number in range(80) if here.jobs.scripts.partition(name := f"n{number}") is part]
        await queued(here, *names[:3], priority="high")
        await queued(here, names[3], "last")
        assert await moving.move_to_front(here.jobs, "last") == "ok"
        view = await here.view("last")
        assert view.priority == "normal"
        assert await here.jobs.ahead("last", view.record("last")) == 0
        position = (await here.view(names[1])).record(names[1])
        assert await here.jobs.ahead(names[1], position) == 2
        gate("held").set()
        await all_ended(here, *names[:4], "last")
        assert begun() == ["held", "last", *names[:4]]


async def test_behind_a_long_line_of_high_priority_a_job_stands_last_of_it(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "MOST_AHEAD", 2)
    async with planes(redis_url, redis) as here:
        await busy(here)
        await queued(here, "a", "b", "c", priority="high")
        await queued(here, "d", "e")
        assert await moving.move_to_front(here.jobs, "e") == "ok"
        assert await moving.move_to_front(here.jobs, "b") == "far"
        gate("held").set()
        await all_ended(here, "a", "b", "c", "d", "e")
        assert begun() == ["held", "a", "b", "c", "e", "d"]


async def test_what_is_left_of_other_jobs_keeps_no_job_from_the_front(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "MOST_AHEAD", 2)
    async with planes(redis_url, redis) as here:
        await queued(here, "a", "b", "c", "d", "e", priority="high")
        stream = await stream_of(here, "e")
        for job in ("a", "b", "c"):
            assert await here.jobs.cancel(job) == "cancelled"
        await redis.xadd(stream, {"job": b"\xff", "nodes": "a"})
        for _ in range(3):
            assert await moving.move_to_front(here.jobs, "e") == "ok"
        assert await redis.xlen(stream) == 8, "the first moves two entries, the next ones none"
        await here.start(slots=1)
        await all_ended(here, "d", "e")
        assert begun() == ["e", "d"]


async def test_what_has_moved_asks_for_one_slot_and_not_for_two(redis_url: str, redis: Any) -> None:
    """The entry that a moved one left behind is undelivered too, as long as every slot is taken."""
    async with planes(redis_url, redis) as here:
        await queued(here, "moved")
        part = here.jobs.scripts.partition("moved")
        normal = await stream_of(here, "moved")
        assert await moving.set_priority(here.jobs, "moved", "high") == "ok"
        assert await redis.xlen(normal) == 1, "the entry that it left"
        streams = [await stream_of(here, "moved"), normal, normal]
        assert [await here.jobs.scripts.room(part, streams, 2, 0) for _ in range(3)] == [1, 0, 0]


async def stream_of(here: Planes, job: str) -> str:
    """The stream on which the entry of a job with one node stands, which has the job's id."""
    stream: str = (await here.view(job)).record(job).entry.partition("@")[2]
    return stream
