"""Entries that are held without a claim: what fences them, what a death under them counts, and what their first report says."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from dihedral.bridge.fabric.items import Release, Renewal, Submission, Takeover
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.leases import Renewer
from dihedral.bridge.fabric.scripts import Claim, Reply, Report
from dihedral.bridge.fabric.steps import Event, Start, Step
from dihedral.bridge.worker import nodes
from tests.bridge.world import STREAM, World, batch, ended
from tests.support.planes import RUNS, edge, gate, node, planes, settings
from tests.support.polling import at_this_load, becomes_async

on_both_servers = pytest.mark.parametrize("redis_url", ["valkey", "redis-server"], indirect=True)
ROUTES = '{"a":["default",true,60,true],"b":["default",true,60,true]}'


@pytest.fixture
def world(redis: Any) -> World:
    return World(redis)


async def held(world: World, routes: str = ROUTES, names: tuple[str, ...] = ("a",)) -> Claim:
    """Submits a job of two nodes, and takes its entry as a worker does."""
    fields = ["graph", '{"nodes":[]}', "routes", routes]
    item = Submission("job", "d", 2, [batch(list(names))], 0, 0, (), False, fields)
    await world.scripts.submit(world.part, [item])
    (claim,) = await world.scripts.take(
        world.part, "w1", "n", count=9, light=9, heavy=9, streams=[STREAM], holding=True
    )
    assert claim.held_at
    return claim


async def report(world: World, claim: Claim, steps: list[Step], *, ack: bool = False) -> Reply:
    begun = (",".join(node for node, _, _ in claim.started), "w1", claim.held_at)
    item = Report(claim.job_id, claim.stream, claim.entry, f"w1 {claim.nonce}", steps, [], ack, begun)
    return (await world.scripts.report(world.part, [item]))[0]


async def reclaimed(world: World, claim: Claim) -> Claim:
    stamp = await world.stamp(claim.entry)
    return (await world.scripts.reclaim(world.part, [Takeover(STREAM, claim.entry, "w1", stamp, "w2", "m")]))[0]


@on_both_servers
async def test_a_take_that_holds_writes_nothing_into_the_job(world: World, redis: Any) -> None:
    claim = await held(world)
    job = await world.job()
    assert (job["status"], job["running"], (await world.record("a")).status) == ("queued", "0", "ready")
    assert not [name for name in job if name.startswith("c:")]
    assert claim.started == [("a", 1, 0)]
    assert await world.pending() == [claim.entry]


@on_both_servers
async def test_an_answer_with_many_entries_of_a_job_has_its_graph_once(world: World) -> None:
    graph = json.dumps({"nodes": ["x" * 300_000]})
    for job in ("one", "two"):
        fields = ["graph", graph, "routes", ROUTES]
        item = Submission(
            job,
            "d",
            4,
            [msgspec.structs.replace(batch([name]), inline=False) for name in ("a", "b", "c", "d")],
            0,
            0,
            (),
            False,
            fields,
        )
        await world.scripts.submit(world.part, [item])
    asked: dict[str, Any] = {"count": 9, "light": 9, "heavy": 9, "streams": [STREAM], "holding": True}
    claims = await world.scripts.take(world.part, "w1", "n", **asked)
    assert [(claim.job_id, claim.started[0][0]) for claim in claims] == [
        (job, name) for job in ("one", "two") for name in "abcd"
    ]
    assert {claim.graph for claim in claims} == {graph}
    assert {claim.routes for claim in claims} == {ROUTES}


@on_both_servers
async def test_the_first_report_begins_the_node_and_ends_it_with_its_events_in_order(world: World) -> None:
    claim = await held(world)
    reply = await report(world, claim, [ended("a", share=1)])
    assert (reply.word, reply.words) == ("ok", ["ok"])
    events = [json.loads(text) for text in await world.events()]
    assert [(e["seq"], e["type"], e["status"]) for e in events] == [
        (1, "status", "queued"), (2, "status", "running"), (3, "node", "running"), (4, "node", "completed"),
    ]  # fmt: skip
    assert events[2]["worker"] == "w1"
    assert (await world.record("a")).started_ms == int(claim.held_at)
    assert (await report(world, claim, [ended("a", share=1)])).words == ["already"]  # its answer was lost


@on_both_servers
async def test_an_entry_that_was_taken_over_refuses_the_report_of_its_former_holder(world: World) -> None:
    claim = await held(world)
    other = await reclaimed(world, claim)
    assert other.word == "ok"
    assert (await report(world, claim, [ended("a")], ack=True)).word == "stale"
    assert (await world.record("a")).status == "running"
    assert await world.pending() == [claim.entry], "the entry is the other's"
    release = Release("job", STREAM, claim.entry, f"w2 {other.nonce}", [batch(["a"], nonce="again")])
    assert await world.scripts.release(world.part, [release]) == ["ok"]
    assert (await report(world, claim, [ended("a"), Start("b", "w1")], ack=True)).word == "stale"
    assert (await world.record("a")).status == "ready"
    assert await world.record("b") is None


@on_both_servers
async def test_a_death_with_a_held_entry_counts_a_delivery_of_what_may_have_begun(world: World) -> None:
    other = await reclaimed(world, await held(world))
    assert other.started == [("a", 1, 1)]
    assert (await world.record("a")).deliveries == 1


@on_both_servers
async def test_an_entry_of_several_nodes_is_held_as_one(world: World) -> None:
    claim = await held(world, names=("a", "b"))
    assert claim.started == [("a", 1, 0), ("b", 1, 0)]
    assert not [name for name in await world.job() if name.startswith("c:")]
    assert (await report(world, claim, [ended("a")])).words == ["ok"]
    assert [(await world.record(node)).status for node in "ab"] == ["completed", "running"]
    assert (await report(world, claim, [ended("b")], ack=True)).words == ["ok"]
    assert (await world.job())["status"] == "completed"
    assert await world.pending() == []


@on_both_servers
async def test_a_death_with_several_held_nodes_counts_a_delivery_of_each(world: World) -> None:
    other = await reclaimed(world, await held(world, names=("a", "b")))
    assert sorted(other.started) == [("a", 1, 1), ("b", 1, 1)]


@on_both_servers
async def test_several_nodes_are_claimed_where_not_all_of_them_may_start(world: World) -> None:
    fields = ["graph", '{"nodes":[]}', "routes", ROUTES]
    item = Submission("job", "d", 2, [batch(["a", "b"])], 0, 0, (), False, fields)
    await world.scripts.submit(world.part, [item])
    (claim,) = await world.scripts.take(
        world.part, "w1", "n", count=9, light=1, heavy=9, streams=[STREAM], holding=True
    )
    assert (claim.held_at, claim.started, claim.waiting) == ("", [("a", 1, 0)], ["b"])


@on_both_servers
async def test_a_death_with_a_held_entry_whose_node_must_not_run_twice_counts_none(world: World) -> None:
    """Its worker begins such a node only when Redis has confirmed it, and it was not confirmed."""
    other = await reclaimed(world, await held(world, '{"a":["default",true,60,false]}'))
    assert (other.started, other.waiting) == ([], ["a"])
    assert (await world.record("a")).deliveries == 0


@on_both_servers
async def test_a_job_cancelled_before_the_first_report_takes_nothing_and_leaves_nothing(world: World) -> None:
    claim = await held(world)
    assert await world.scripts.cancel(world.part, "job", ["a", "b"]) == "cancelled"
    assert (await report(world, claim, [ended("a")], ack=True)).word == "stale"
    assert (await world.job())["status"] == "cancelled"
    assert await world.pending() == []


@on_both_servers
async def test_a_held_entry_is_renewed_by_its_holder_alone(world: World) -> None:
    claim = await held(world)
    mine, others = (Renewal("job", STREAM, claim.entry, f"w1 {claim.nonce}", consumer) for consumer in ("w1", "w2"))
    assert await world.scripts.renew(world.part, [mine, others]) == ["ok", "lost"]
    await reclaimed(world, claim)
    assert await world.scripts.renew(world.part, [mine]) == ["lost"]


@on_both_servers
async def test_a_cancelled_job_is_not_handed_out(world: World) -> None:
    await world.submit(batches=[batch(["a"])])
    await world.scripts.cancel(world.part, "job", ["a"])
    (claim,) = await world.scripts.take(
        world.part, "w1", "n", count=9, light=9, heavy=9, streams=[STREAM], holding=True
    )
    assert claim.word == "stale"


@on_both_servers
async def test_an_event_has_the_same_bytes_for_who_listens_and_for_who_reads(world: World, redis: Any) -> None:
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("status:job")
        await pubsub.get_message(timeout=at_this_load(5))
        claim = await held(world)
        await report(world, claim, [ended("a", share=1)])
        heard = [(await pubsub.get_message(timeout=at_this_load(5)))["data"].decode() for _ in range(4)]
    assert heard == await world.events()


@on_both_servers
async def test_events_of_a_long_log_have_the_same_bytes_for_all_and_are_in_order(world: World, redis: Any) -> None:
    """A short log is lines, a long one a list of JSON; in between it changes from one to the other."""
    async with redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("status:job", "data:job")
        await pubsub.get_message(timeout=1)
        await pubsub.get_message(timeout=1)
        claim = await held(world)
        for first in range(1, 61, 20):
            words = [f'"type":"log","message":"{"x" * 60}{number}"' for number in range(first, first + 20)]
            await report(world, claim, [Event("data", word, first + k) for k, word in enumerate(words)])
        await report(world, claim, [ended("a", share=1)])
        heard = [(await pubsub.get_message(timeout=5))["data"].decode() for _ in range(64)]
    assert await redis.exists("job:job:events")
    assert heard == await world.events()
    assert [json.loads(text)["seq"] for text in heard] == list(range(1, 65))


async def test_a_straight_run_is_reported_at_once(redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async with planes(redis_url, redis) as house:
        calls: list[int] = []
        worker = await house.start()
        send = worker._scripts.call_encoded

        async def counted(name: str, *rest: Any) -> Any:
            calls.append(1) if name == "report" else None
            return await send(name, *rest)

        monkeypatch.setattr(worker._scripts, "call_encoded", counted)
        await house.submit([node(name) for name in "abcde"], [edge(a, b) for a, b in zip("abcd", "bcde", strict=True)])
        job = await house.ended()
        assert job.status == "completed"
        assert len(calls) == 1
        assert [record.status for record in job.records.values()] == ["completed"] * 5


async def test_a_node_that_must_not_run_twice_begins_only_when_redis_has_confirmed_it(
    redis_url: str, redis: Any
) -> None:
    async with planes(redis_url, redis) as house:
        await house.start()
        RUNS.clear()
        await house.submit([node("a", task="once", wait="go")])
        await house.becomes(lambda: ("begin", "a") in RUNS)
        job = await house.jobs.read("job")
        assert job is not None
        assert job.status == "running"
        gate("go").set()
        assert (await house.ended()).status == "completed"


async def test_a_node_that_waits_is_soon_reported_as_running(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as house:
        await house.start()
        await house.submit([node("a", wait="open")])

        async def runs() -> bool:
            job = await house.jobs.read("job")
            return job is not None and job.status == "running"

        await house.becomes(runs)
        gate("open").set()
        assert (await house.ended()).status == "completed"


async def test_a_long_run_of_nodes_that_never_wait_lets_the_loop_turn(redis_url: str, redis: Any) -> None:
    """A chain of 300 is one step of the loop otherwise, in which nothing else of the process goes on."""
    async with planes(redis_url, redis, lease_ms=60_000) as house:
        await house.start()
        longest, over = 0.0, asyncio.Event()

        async def turning() -> None:
            nonlocal longest
            while not over.is_set():
                before = time.monotonic()
                await asyncio.sleep(0)
                longest = max(longest, time.monotonic() - before)

        names = [f"n{number}" for number in range(300)]
        watch = asyncio.create_task(turning())
        await house.submit([node(name, block=0.005) for name in names], [edge(a, b) for a, b in pairwise(names)])
        await house.ended()
        over.set()
        await watch
        assert longest < at_this_load(0.3)  # of 1.5 s in all


async def test_a_run_that_completes_is_noted_for_estimates(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as house:
        await house.start()
        await house.submit([node("a")])
        await house.ended()
        await house.becomes(lambda: next(iter(house.running)).presence.durations._notes or noted(redis))


async def noted(redis: Any) -> list[bytes]:
    return [key async for key in redis.scan_iter("worker:seconds:*")]


def before_the_next_report(worker: Any, job: str, act: Callable[[], Awaitable[Any]]) -> None:
    """Has `act` happen when the worker's next report of a job is on its way, as something that came first at the server."""
    scripts = worker._scripts
    send = scripts.call_encoded

    async def late(name: str, part: Any, items: Any) -> Any:
        if name == "report" and any(job.encode() in item for item in items):
            scripts.call_encoded = send
            await act()
        return await send(name, part, items)

    scripts.call_encoded = late


async def test_a_node_whose_start_came_too_late_is_stopped(
    redis_url: str, redis: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its start was kept for the report of its events, and the job was cancelled before that, by a message that was lost; no renewal comes in time."""
    caplog.set_level("INFO")
    monkeypatch.setattr(nodes, "FLUSH_SECONDS", 3.0)  # so that its start and its events go out together
    async with planes(redis_url, redis, lease_ms=3_600_000) as house:
        worker = await house.start()
        await house.submit([node("a", wait="a"), node("b", wait="b", log=1)], [edge("a", "b")])

        async def is_running() -> bool:
            return (await house.statuses()).get("a") == "running"

        await house.becomes(is_running)

        async def cancel() -> None:
            await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await house.jobs.cancel("job")

        before_the_next_report(worker, "job", cancel)
        gate("a").set()
        await house.becomes(lambda: ("begin", "b") in RUNS)
        await house.becomes(lambda: not worker.nodes.running)
        assert "a node failed" not in caplog.text  # it was stopped, and did not run into its time-out
        assert (await house.ended()).status == "cancelled"


async def test_a_refused_begin_takes_no_place_from_the_nodes_behind_it(redis_url: str, redis: Any) -> None:
    async with planes(redis_url, redis) as house:
        worker = await house.start(slots=0, light=1)
        await house.submit([node("first", wait="go")], job="first")
        await house.becomes(lambda: ("begin", "first") in RUNS)
        # Read without a claim once the place is free: what a blocking read brings is claimed at once.
        await house.submit([node("refused", task="once")], job="refused")
        before_the_next_report(worker, "refused", lambda: house.jobs.cancel("refused"))
        gate("go").set()
        assert (await house.ended("refused")).status == "cancelled"
        await house.submit([node("behind")], job="behind")
        assert (await house.ended("behind")).status == "completed"
        assert ("begin", "refused") not in RUNS


async def test_an_end_is_posted_by_its_bytes_and_none_that_may_be_refused(redis_url: str, redis: Any) -> None:
    """An end of 700 characters and 2,100 bytes: more than every node may store, so it may be refused, and its answer has to be waited for."""
    async with planes(redis_url, redis, output_bytes=1500, lease_ms=3_600_000) as house:
        await house.start()
        await house.submit([node("a", output="日" * 700)])
        job = await house.ended()
        assert job.status == "failed"
        assert json.loads(job.error or "")["code"] == "job_output_too_large"


async def test_no_exception_ends_the_renewal_of_leases(world: World, redis: Any, redis_url: str) -> None:
    """Its thread tells a loop that may have closed; were it to end, every lease of the worker would end in silence."""
    claim = await held(world)
    row = world.part, claim.job_id, claim.stream, claim.entry
    mine, others = (*row, f"w1 {claim.nonce}"), (*row[:3], "1-1", "w1 lost")
    looks: list[int] = []
    closed = asyncio.new_event_loop()
    closed.close()

    def rows() -> Any:
        looks.append(1)
        return [others, mine]

    def notify(*_: object) -> None:
        closed.call_soon_threadsafe(print)

    renewer = Renewer(Jobs(redis, settings(redis_url)), redis_url, "w1", rows, notify)
    before = await world.stamp(claim.entry)
    renewer.start()
    try:
        await becomes_async(lambda: len(looks) > 2)
        assert renewer.is_alive()
        assert await world.stamp(claim.entry) > before
    finally:
        renewer.stop()
        renewer.join()
