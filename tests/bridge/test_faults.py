"""What random faults have found (tests/chaos), a story each."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync

from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.connection import check_layout, connect
from dihedral.bridge.fabric.dead_letters import DeadLetters
from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.runs import NodeRun, RunControl
from dihedral.bridge.worker.loop import Worker
from dihedral.control_plane.waiting import waiting_for
from tests.support.outcomes import ended
from tests.support.planes import RUNS, edge, gate, node, planes
from tests.support.polling import at_this_load
from tests.support.servers import start_server


@pytest.fixture
async def house(redis_url: Any, redis: Any) -> AsyncIterator[Any]:
    async with planes(redis_url, redis) as made:
        yield made


def begun(name: str) -> int:
    return RUNS.count(("begin", name))


async def has_begun(house: Any, *names: str) -> None:
    await house.becomes(lambda: all(begun(name) for name in names))


async def test_a_connection_that_closes_while_two_use_it_is_a_lost_connection(redis_url: Any, redis: Any) -> None:
    """uvloop raises RuntimeError for a write on a closed transport, StreamReader for a second reader; the hub died of it."""
    client = connect(redis_url)
    async with client.pubsub() as pubsub:
        await pubsub.subscribe("a")
        await pubsub.get_message(timeout=at_this_load(5))
        reading = asyncio.create_task(pubsub.connection.read_response())
        await asyncio.sleep(0)
        with pytest.raises(redis_sync.ConnectionError):
            await pubsub.connection.read_response()
        await asyncio.wait({reading})
        with pytest.raises(redis_sync.ConnectionError):
            reading.result()
    await client.aclose()


class Says:
    def progress(self, fraction: Any) -> None: ...
    def data(self, name: Any, payload: Any) -> None: ...
    def log(self, level: Any, message: Any) -> None: ...
    def waits(self, reason: Any) -> None: ...


async def test_a_task_that_was_cancelled_before_it_began_never_begins_and_leaves_no_cancel_behind() -> None:
    """`uncancel` does not take back a cancel that was not delivered yet: the commit after it would have been cut off."""
    registry = tasks.collect(["tests.support.planes"], plugins=False)
    cancel = RunControl()
    cancel.cancel()
    run = NodeRun(job_id="j", node_id="never", task="act", attempt=1, nonce="n", params={}, timeout_seconds=10.0)
    RUNS.clear()
    outcome = await ended(run_light(registry, run, None, Says(), cancel))
    assert (outcome.status, outcome.began) == ("cancelled", False)
    assert RUNS == []
    await asyncio.sleep(0)


async def test_a_cancel_that_a_task_never_met_is_not_met_by_its_caller() -> None:
    """The task ends in the very step in which it is cancelled."""
    registry = tasks.collect(["tests.support.planes"], plugins=False)
    cancel = RunControl()

    class Cancels(Says):
        def data(self, name: Any, payload: Any) -> None:
            cancel.cancel()

    params = {"log": 1}
    run = NodeRun(job_id="j", node_id="n", task="act", attempt=1, nonce="n", params=params, timeout_seconds=10.0)
    await ended(run_light(registry, run, None, Cancels(), cancel))
    await asyncio.sleep(0)
    this = asyncio.current_task()
    assert this is not None
    assert this.cancelling() == 0


async def test_a_drain_puts_no_begun_node_back_that_must_not_run_twice(house: Any) -> None:
    worker = await house.start()
    await house.submit([node("pay", task="once", wait="never"), node("fine", wait="never")], job="job")
    await has_begun(house, "pay", "fine")
    await house.stop(worker)
    found = await house.view()
    assert found.records["fine"].status == "ready"
    assert found.records["pay"].status == "failed"
    assert json.loads(found.records["pay"].payload)["error"]["code"] == "worker_lost"
    gate("never").set()
    await house.start()
    assert (await house.ended()).status == "failed"
    assert (begun("pay"), begun("fine")) == (1, 2)


async def test_an_entry_whose_successors_run_is_taken_back_whole(house: Any) -> None:
    """Its own node has ended, so a look at that alone said `stale` and acknowledged what still ran."""
    worker = await house.start()
    nodes = [node("root"), node("a", wait="go"), node("b", wait="go")]
    await house.submit(nodes, [edge("root", "a"), edge("root", "b")])
    await has_begun(house, "a", "b")
    held = dict(worker._held)
    worker._held.clear()  # as after a handler that failed
    (again,) = await worker._taker.recover(0, 0)
    assert again.open == {"a", "b"}
    worker._held.update(held)
    worker.nodes.lose(next(iter(held.values())))
    again.move("releasing")
    worker._accept([again])
    gate("go").set()
    assert (await house.ended()).status == "completed"


async def test_what_was_taken_over_while_the_answer_waited_is_not_started(house: Any) -> None:
    """The loop stood still for longer than a lease, with claims in the socket that nobody renewed."""
    worker = await house.start(slots=0, light=1)
    await house.submit([node("hold", wait="hold")], job="hold")
    await has_begun(house, "hold")
    part = house.jobs.scripts.partitions[0]
    await house.submit([node("a")], job="mine")
    await house.submit([node("b")], job="taken")
    streams = [part.stream("python", "default")]
    claims = await house.jobs.scripts.take(part, worker.worker_id, "n", count=2, light=2, heavy=0, streams=streams)
    lost = next(claim for claim in claims if claim.job_id == "taken")
    await house.client.hset(part.job("taken"), f"c:{lost.entry}@{lost.stream}", "another nonce")
    assert [claim.job_id for claim in await worker._taker._still_ours(part, claims)] == ["mine"]
    await house.client.hset(part.job("taken"), f"c:{lost.entry}@{lost.stream}", f"{worker.worker_id} {lost.nonce}")
    gate("hold").set()
    await house.stop(worker)
    await house.start()
    assert (await house.ended("taken")).status == (await house.ended("mine")).status == "completed"


async def test_a_retry_decides_what_a_handled_failure_skips(house: Any) -> None:
    """The failure ended while the job was cancelling, so its branches were cancelled undecided; nobody decided them again."""
    await house.start()
    await house.submit(
        [node("bad", wait="go", fail=True), node("after"), node("rescue"), node("last")],
        [edge("bad", "after", "on_success"), edge("bad", "rescue", "on_failure"), edge("after", "last"), edge("rescue", "last")],
    )  # fmt: skip
    await has_begun(house, "bad")
    part = house.jobs.scripts.partition("job")
    name = part.job("job")
    # as a cancel of which nobody hears before the node has failed by itself
    silent = functions.make(functions.body().replace("redis.call('PUBLISH', 'cancel', id)", ""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(functions, "library", lambda: silent)
        assert await house.jobs.scripts.cancel(part, "job", ["bad", "after", "rescue", "last"]) == "cancelling"
    gate("go").set()
    ended = await house.ended()
    assert ended.status == "cancelled"
    if ended.records["bad"].status == "cancelled":
        pytest.skip("the renewal was quicker than the failure")
    assert await house.jobs.retry("job") == "ok"
    assert (await house.ended()).status == "completed"
    assert {id: status for id, status in (await house.statuses()).items() if id != "bad"} == {
        "after": "skipped",
        "rescue": "completed",
        "last": "completed",
    }
    assert await house.client.exists(name)


async def test_a_heavy_node_is_not_failed_for_the_deaths_of_workers_that_it_shared(house: Any) -> None:
    """Three deaths failed it, whoever had caused them. Now it waits a little from the third on, and says why."""
    await house.schedule()
    await house.submit([node("a", task="heavy", wait="go")])
    for times in range(1, 5):
        worker = await house.start(slots=1)
        await house.becomes(lambda times=times: begun("a") == times)
        await house.kill(worker)

        async def is_back(times: int = times) -> bool:
            record = (await house.view()).record("a")
            return record.status == "ready" and record.deliveries == times

        await house.becomes(is_back)
        if times >= 3:
            waits = await waiting_for(await house.view(), house.jobs.workers.alive)
            assert waits is not None
            assert waits.message.endswith(f"the workers that ran it were lost {times} times, which may be its doing")
            (part,) = house.jobs.scripts.partitions
            ((nonce, due),) = await house.client.zrange(part.delays, 0, -1, withscores=True)
            seconds, _ = await house.client.time()
            assert 0 < due / 1000 - seconds <= 10 * 2 ** (times - 3) + 1
            await house.client.zadd(part.delays, {nonce: 1})
    gate("go").set()
    await house.start(slots=1)
    found = await house.ended()
    assert (found.status, found.record("a").attempt, begun("a")) == ("completed", 1, 5)


async def test_a_node_whose_stream_was_deleted_under_it_counts_as_lost(house: Any) -> None:
    """What is sent anew was running: a task that must not run twice fails instead."""
    worker = await house.start()
    await house.submit([node("pay", task="once", wait="never"), node("idle", wait="idle")])
    await has_begun(house, "pay", "idle")
    for stream in house.jobs.scripts.partitions[0].streams("python", "default"):
        await house.client.delete(stream)
    await house.kill(worker)
    await house.schedule(sweep_seconds=0.1)
    await house.start()
    gate("idle").set()
    found = await house.ended()
    assert json.loads(found.records["pay"].payload)["error"]["code"] == "worker_lost"
    assert (begun("pay"), begun("idle")) == (1, 2)


async def test_a_cancelled_node_whose_stream_was_deleted_under_it_ends(house: Any) -> None:
    """A server that lost its last second had forgotten an end, whose worker then acknowledged the entry: nobody was left to end the job."""
    worker = await house.start()
    await house.submit([node("a", wait="never"), node("b", wait="never"), node("c")], [edge("a", "c")])
    await has_begun(house, "a", "b")
    for stream in house.jobs.scripts.partitions[0].streams("python", "default"):
        await house.client.delete(stream)
    await house.kill(worker)
    await house.jobs.cancel("job")
    assert (await house.view()).status == "cancelling"
    await house.schedule(sweep_seconds=0.1)
    found = await house.ended()
    assert found.status == "cancelled"
    assert {name: record.status for name, record in found.records.items()} == dict.fromkeys("abc", "cancelled")


async def test_at_the_memory_limit_a_worker_that_starts_takes_over_what_a_dead_one_left(tmp_path: Path) -> None:
    process, url = start_server(tmp_path)
    client = connect(url)
    try:
        async with planes(url, client) as house:
            first = await house.start()
            await house.submit([node("a", wait="go"), node("b")], [edge("a", "b")])
            await has_begun(house, "a")
            await client.config_set("maxmemory", "1")
            await check_layout(client, 1)
            await house.kill(first)
            starting = asyncio.create_task(house.start())
            gate("go").set()
            assert (await house.ended()).status == "completed"
            await client.config_set("maxmemory", "0")
            assert isinstance(await starting, Worker)
    finally:
        await client.aclose()
        process.kill()
        process.wait()


async def test_a_worker_whose_clock_is_wrong_is_listed_while_it_lives_and_no_longer(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Heartbeats carried the worker's own time: 20 s behind it passed for dead, and an hour ahead it outlived itself by an hour."""
    worker = await house.start()
    await house.submit([node("quick")])
    await house.ended()
    exact = time.time
    for wrong in (-3600, -20, 3600):
        with monkeypatch.context() as clock:
            clock.setattr(time, "time", lambda wrong=wrong: exact() + wrong)
            await worker._jobs.workers.announce(
                worker.presence.info(), [task.capability for task in worker.registry.values()]
            )
        assert [each.worker_id for each in await house.jobs.workers.alive()] == [worker.worker_id]
    (score,) = [score for _, score in await house.client.zrange("workers", 0, -1, withscores=True)]
    assert score <= exact() * 1000
    assert (await house.jobs.workers.known_tasks())[0].last_seen_ms <= exact() * 1000


async def test_a_control_plane_whose_clock_is_wrong_knows_who_lives_and_what_stands_still(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour behind, its scheduler never healed a job, for none had been still for long by that clock."""
    worker = await house.start()
    await house.submit([node("a", wait="a")])
    await has_begun(house, "a")
    exact = time.time
    monkeypatch.setattr(time, "time", lambda: exact() + 3600)
    assert [each.worker_id for each in await house.jobs.workers.alive()] == [worker.worker_id]
    assert await house.jobs.workers.capabilities()
    monkeypatch.setattr(time, "time", lambda: exact() - 3600)
    for stream in house.jobs.scripts.partitions[0].streams("python", "default"):
        await house.client.delete(stream)
    await house.kill(worker)
    await house.schedule(sweep_seconds=0.1)
    await house.start()
    gate("a").set()
    assert (await house.ended()).status == "completed"


# What random input has found (tests/fuzzing), a story each --------------------------------------------------------------


@pytest.mark.parametrize(
    "entry",
    [
        {
            "job": "job",
            "nodes": "a," * 30_000,
        },  # more than unpack() takes: the script broke, and with it worker and scheduler
        {"job": "job", "nodes": "a", "needs": "a," * 30_000},
        {"job": "job:events", "nodes": "a"},  # the name of a list
        {"job": "\n", "nodes": "a"},
    ],
    ids=["many nodes", "many needs", "another key", "no id"],
)
async def test_an_entry_that_is_none_of_ours_becomes_a_dead_letter(house: Any, entry: Any) -> None:
    worker = await house.start()
    await house.submit([node("a", wait="go")])
    await has_begun(house, "a")
    await house.client.xadd("stream:process:data", entry)
    await house.becomes(DeadLetters(house.jobs).page)
    gate("go").set()
    assert (await house.ended()).status == "completed"
    assert not house.running[worker].done()


async def test_a_cancel_that_is_no_text_cancels_nothing_and_ends_nobody(house: Any) -> None:
    worker = await house.start()
    await house.submit([node("a", wait="go")])
    await has_begun(house, "a")
    await house.client.publish("cancel", b"\xff\xfe")
    await house.client.publish("cancel", "job")
    await house.becomes(lambda: not worker.held)
    assert not house.running[worker].done()


@pytest.mark.forges_state
async def test_a_job_that_nobody_can_read_does_not_end_the_scheduler(
    house: Any, caplog: pytest.LogCaptureFixture
) -> None:
    await house.submit([node("a", wait="a")])
    await house.client.hset("job:job", "graph", '{"nodes":[]}')
    await house.schedule(sweep_seconds=0.05)
    await house.becomes(lambda: caplog.text.count("cannot be read") > 1)
    assert not house.loops[-1].done()


@pytest.mark.forges_state
async def test_a_worker_of_a_newer_version_is_left_out_and_ends_no_scheduler(
    house: Any, caplog: pytest.LogCaptureFixture
) -> None:
    worker = await house.start()
    await house.becomes(lambda: worker.ready)
    told = json.loads(await house.client.get(f"worker:{worker.worker_id}"))
    capability = await house.client.hget("capabilities", "python:act")
    now = (await house.client.time())[0] * 1000
    await house.client.set("worker:newer", json.dumps(told | {"workerId": "newer", "mood": "good"}))
    await house.client.zadd("workers", {"newer": now})
    await house.client.hset(
        "capabilities", "python:newer", capability.replace(b'"id":"act"', b'"id":"newer","mood":"good"')
    )
    assert [each.worker_id for each in await house.jobs.workers.alive()] == [worker.worker_id]
    found = await house.jobs.workers.capabilities()
    assert "act" in found
    assert "newer" not in found
    assert "contains unknown field `mood`" in caplog.text
    await house.schedule(sweep_seconds=0.05)
    await house.submit([node("a")])
    assert (await house.ended()).status == "completed"
    assert not house.loops[-1].done()
