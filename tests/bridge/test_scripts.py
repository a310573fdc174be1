"""Every transition by itself, on a real server: what it commits, what it refuses, what a second call changes (nothing)."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from dihedral.bridge.fabric.deliveries import Delivery
from dihedral.bridge.fabric.dispatch import Manner, plan_batches
from dihedral.bridge.fabric.items import JobRead, Release, Renewal, Retry, Takeover
from dihedral.bridge.fabric.lifecycle import JOB_ENDED, JOB_MOVES
from dihedral.bridge.fabric.steps import EntrySpec, Event, Step
from dihedral.bridge.graphs import Placement, Plan, Topology
from dihedral.control_plane.planning import plan as planning
from dihedral.schemas.structs.submission import GraphSubmission
from tests.bridge.world import ERROR, STREAM, World, batch, ended
from tests.support.polling import at_this_load

pytestmark = pytest.mark.parametrize("redis_url", ["valkey", "redis-server"], indirect=True)


@pytest.fixture
def world(redis: Any) -> Any:
    return World(redis)


async def events(world: Any, job: Any = "job") -> Any:
    return [json.loads(row) for row in await world.events(job)]


async def test_submit_creates_a_job_with_its_first_entry_and_event(world: Any) -> None:
    assert await world.submit() == "ok"
    job = await world.job()
    assert (job["status"], job["remaining"], job["running"]) == ("queued", "1", "0")
    assert (await world.record("a")).status == "ready"
    assert await world.redis.xlen(STREAM) == 1
    assert [(e["seq"], e["type"], e["status"]) for e in await events(world)] == [(1, "status", "queued")]


async def test_submit_twice_answers_same_and_another_submission_exists(world: Any) -> None:
    await world.submit()
    assert await world.submit() == "same"
    assert await world.submit(digest="other") == "exists"
    assert await world.redis.xlen(STREAM) == 1


async def test_submit_beyond_the_queue_limit_is_full(world: Any) -> None:
    assert await world.submit("j1", max_queued=1) == "ok"
    assert await world.submit("j2", max_queued=1) == "full"


async def test_submit_at_the_memory_limit_writes_nothing_and_running_jobs_go_on(world: Any) -> None:
    import redis

    await world.submit()
    (claim,) = await world.take()
    await world.redis.config_set("maxmemory", "1")
    try:
        with pytest.raises(redis.ResponseError, match=r"OOM|maxmemory"):
            await world.submit("other")
        assert (await world.report(claim, [ended("a")], ack=True)).words == ["ok"]
    finally:
        await world.redis.config_set("maxmemory", "0")
    assert (await world.job())["status"] == "completed"
    assert not await world.redis.exists("job:other")


async def test_take_claims_and_starts(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    assert (claim.word, claim.job_id, claim.started, claim.waiting) == ("ok", "job", [("a", 1, 0)], [])
    job = await world.job()
    assert (job["status"], job["running"], job[f"c:{claim.entry}@{STREAM}"]) == ("running", "1", f"w1 {claim.nonce}")


async def test_take_starts_no_more_than_is_free(world: Any) -> None:
    await world.submit(nodes=3, batches=[batch(["a", "b", "c"])])
    (claim,) = await world.take(light=2)
    assert [node for node, *_ in claim.started] == ["a", "b"]
    assert claim.waiting == ["c"]


async def test_take_leaves_a_slot_node_to_others_while_no_slot_is_free(world: Any) -> None:
    await world.submit("job", batches=[batch(["a"], heavy=True)])
    assert await world.take(light=5, heavy=0) == []
    assert [claim.word for claim in await world.take("w2", light=0, heavy=1)] == ["ok"]


async def test_room_is_made_once_for_each_entry_that_waits_for_a_slot(world: Any) -> None:
    high = f"{STREAM}:high"
    for job, more in (
        ("one", {"heavy": True}), ("two", {"heavy": True}), ("light", {}), ("back", {"heavy": True, "priority": "normal"}),
        ("declined", {"heavy": True, "declined": True}), ("urgent", {"heavy": True, "priority": "high"}),
    ):  # fmt: skip
        await world.submit(job, batches=[batch(["a"], stream=high, **more)])

    async def room(patience_ms: Any = 0, rank: Any = 1) -> Any:
        return await world.scripts.room(world.part, [high, STREAM, f"{STREAM}:low"], rank, patience_ms)

    assert not await room(patience_ms=60_000), "they have not waited for so long"
    assert not await room(rank=0), "nothing is more urgent than high"
    assert [await room() for _ in range(4)] == [True, True, True, False], "one, two and urgent"
    marks = await world.redis.keys(f"{high}:room:*")
    assert len(marks) == 3
    for mark in marks:
        assert 20_000 < await world.redis.pttl(mark) <= 30_000, "who was told may die, so another is told then"
        await world.redis.delete(mark)
    await world.scripts.take(world.part, "w1", "n", count=1, light=1, heavy=1, streams=[high])
    found = [await room(rank=2) for _ in range(4)]
    assert found == [True, True, True, False], "one was taken, and what was given back is more urgent than low"


async def test_what_goes_on_elsewhere_keeps_its_progress_which_does_not_fall_then(world: Any) -> None:
    await world.submit(nodes=1)
    (claim,) = await world.take()
    again = ("again", "a", 1, 1, ERROR, batch(["a"], nonce="x"))
    assert (await world.report(claim, [("progress", "a", 500, "0.5"), again], ack=True)).words == ["ok", "ok"]
    assert ((await world.job())["progress"], (await world.record("a")).status) == ("500", "ready")
    (claim,) = await world.take("w2")
    said = [("progress", "a", 400, "0.4"), ("progress", "a", 600, "0.6")]
    assert (await world.report(claim, said, consumer="w2")).words == ["behind", "ok"]
    assert (await world.job())["progress"] == "600"
    retried = ("again", "a", 1, 2, ERROR, batch(["a"], nonce="y"))
    await world.report(claim, [retried], ack=True, consumer="w2")
    assert (await world.job())["progress"] == "0"


async def test_an_urgent_entry_is_seen_behind_many_that_are_not(world: Any) -> None:
    high = f"{STREAM}:high"
    for number in range(40):
        await world.submit(f"job{number}", batches=[batch(["a"], stream=high, heavy=True, priority="low")])
    await world.submit("urgent", batches=[batch(["a"], stream=high, heavy=True)])
    assert await world.scripts.room(world.part, [high, STREAM, f"{STREAM}:low"], 2, 0)


@pytest.mark.parametrize(
    ("front", "stream", "priority"), [(True, f"{STREAM}:high", "low"), (False, f"{STREAM}:low", "")]
)
async def test_what_goes_to_the_front_keeps_its_priority(world: Any, front: Any, stream: Any, priority: Any) -> None:
    nodes = [{"id": "a", "task": "t", "plane": "python"}]
    submission = msgspec.convert({"schema": "langgraph.v1", "nodes": nodes, "edges": []}, GraphSubmission)
    topology = Topology(planning.normalise(submission, "job"))
    plan = Plan(topology, {"a": Placement("default", False, 60.0, True)})
    (made,) = plan_batches(world.part, plan, ["a"], priority="low", manner=Manner(front=front))
    assert (made.stream, made.priority) == (stream, priority)


async def test_what_is_given_back_keeps_its_priority(world: Any) -> None:
    """Also behind a delay, and to its next owner."""
    back = batch(["a"], stream=f"{STREAM}:high", priority="low", declined=True, delay_ms=1)
    await world.submit(batches=[back])
    claims: list[Any] = []
    nothing: Any = SimpleNamespace(topology=None, routes={})
    while not claims:
        await world.scripts.due(world.part)
        claims = await world.scripts.take(world.part, "w1", "n", count=1, light=1, heavy=1, streams=[f"{STREAM}:high"])
    assert [claim.priority for claim in claims] == ["low"]
    ((_, fields),) = await world.redis.xrange(f"{STREAM}:high")
    assert fields[b"declined"] == b"1"
    assert Delivery(world.part, claims[0], "w1", nothing).priority == "low"
    later = msgspec.structs.replace(claims[0], priority="of a later version")
    assert Delivery(world.part, later, "w1", nothing).priority == "high", "that of its stream"


async def test_take_stops_when_the_records_that_inputs_need_are_large(world: Any) -> None:
    for number in range(4):
        job = f"job{number}"
        await world.submit(job, nodes=2, batches=[batch(["a"])])
    large = "x" * 600_000
    for claim in await world.take():
        step = ("end", "a", 1, "completed", "", large, 0, False, "", "")
        needs = EntrySpec(STREAM, "python/default", ["b"], ["a"], True, "n")
        assert (await world.report(claim, [step, ("send", needs)], ack=True)).words == ["ok", "ok"]
    taken = [len(await world.take()) for _ in range(3)]
    assert sum(taken) == 4
    assert max(taken) == 2, "a reply may exceed 1 MiB by one entry"


async def test_take_twice_of_the_same_entry_answers_the_same_nodes(world: Any) -> None:
    await world.submit()
    (first,) = await world.take()
    (second,) = await world.take(handed=[(STREAM, first.entry)])
    assert second.started == first.started
    assert (await world.report(first, [ended("a")])).word == "stale"
    assert (await world.report(second, [ended("a")], ack=True)).word == "ok"


async def test_take_refuses_an_entry_that_another_consumer_holds(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    (other,) = await world.take("w2", handed=[(STREAM, claim.entry)])
    assert other.word == "not_yours"


async def test_take_puts_garbage_among_the_dead_letters(world: Any) -> None:
    await world.redis.xadd(STREAM, {"hello": "world", b"\xff\xfe": b"\x00"})
    await world.submit()
    words = [claim.word for claim in await world.take()]
    assert words == ["malformed", "ok"]
    (letter,) = await world.redis.xrange("stream:dead")
    assert letter[1][b"reason"] == b"malformed_entry"
    assert len(await world.pending()) == 1


@pytest.mark.forges_state
async def test_take_acks_the_entry_of_a_job_that_is_gone(world: Any) -> None:
    await world.submit()
    await world.redis.delete("job:job")
    assert [claim.word for claim in await world.take()] == ["gone"]
    assert await world.pending() == []


async def test_an_outcome_ends_the_job_and_counts_once(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    assert (await world.report(claim, [ended("a")], ack=True)).words == ["ok"]
    job = await world.job()
    assert (job["status"], job["remaining"], job["running"], job["progress"]) == ("completed", "0", "0", "1000000000")
    assert await world.pending() == []
    assert not [name for name in job if name.startswith("c:")]
    assert [e["status"] for e in await events(world)] == ["queued", "running", "running", "completed", "completed"]
    assert await world.redis.pttl("job:job") > 0
    assert await world.redis.scard("jobs:alive") == 0


async def test_an_outcome_sent_twice_is_already_there(world: Any) -> None:
    await world.submit(nodes=2)
    (claim,) = await world.take()
    assert (await world.report(claim, [ended("a")])).words == ["ok"]
    assert (await world.report(claim, [ended("a")])).words == ["already"]
    assert (await world.job())["remaining"] == "1"


async def test_a_node_that_ends_or_is_skipped_moves_the_progress_that_clients_see(world: Any) -> None:
    await world.submit(nodes=3)
    (claim,) = await world.take()
    async with world.redis.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe("progress:job")
        await pubsub.get_message(timeout=at_this_load(5))
        await world.report(claim, [ended("a", share=250_000_000), ("skip", "b", "not_taken", 250_000_000)])
        said = [json.loads((await pubsub.get_message(timeout=at_this_load(5)))["data"]) for _ in range(2)]
    assert [(each["nodeId"], each["progress"], each["nodeProgress"]) for each in said] == [
        ("a", 0.25, 1),
        ("b", 0.5, 1),
    ]
    assert said[-1]["seq"] == int((await world.job())["seq"]), "it comes after the events that it belongs to"


async def test_a_stale_token_writes_nothing(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    before = await world.job()
    reply = await world.report(claim, [ended("a"), ("event", "data", '"type":"log"', 1)], consumer="thief", ack=True)
    assert (reply.word, reply.words) == ("stale", [])
    assert await world.job() == before
    assert await world.pending() == [claim.entry]


async def test_an_event_sent_twice_is_logged_once(world: Any) -> None:
    await world.submit(nodes=2)
    (claim,) = await world.take()
    step = ("event", "data", '"type":"log","message":"x"', 1)
    assert (await world.report(claim, [step])).words == ["ok"]
    assert (await world.report(claim, [step])).words == ["already"]
    assert len([e for e in await events(world) if e["type"] == "log"]) == 1


async def test_start_skip_and_send_pass_only_for_a_pending_node(world: Any) -> None:
    await world.submit(nodes=4)
    (claim,) = await world.take()
    steps = [("start", "b", "w1"), ("skip", "c", "broken", 0), ("send", batch(["d"], nonce="x"))]
    assert (await world.report(claim, steps)).words == ["ok", "ok", "ok"]
    assert (await world.report(claim, [("skip", "b", "broken", 0), ("send", batch(["b", "c"])), ("start", "d", "w1")])).words == [
        "taken", "taken", "taken",
    ]  # fmt: skip
    assert (await world.report(claim, [("start", "b", "w1"), ("skip", "c", "broken", 0)])).words == [
        "already",
        "already",
    ]


async def test_reads_see_the_writes_of_their_own_report(world: Any) -> None:
    await world.submit(nodes=2)
    (claim,) = await world.take()
    reply = await world.report(claim, [ended("a")], reads=["a", "zzz"])
    assert reply.records[0][1].startswith("completed ")
    assert reply.records[1] == ("zzz", "")


async def test_a_retryable_failure_goes_back_later_as_the_next_attempt(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    step = ("again", "a", 1, 2, ERROR, batch(["a"], nonce="later", delay_ms=1, reason="retry"))
    assert (await world.report(claim, [step], ack=True)).words == ["ok"]
    record = await world.record("a")
    assert (record.status, record.attempt, record.entry, record.reason) == ("ready", 2, "delay:later", "retry")
    while (await world.scripts.due(world.part))[0] == 0:
        pass
    (claim,) = await world.take()
    assert claim.started == [("a", 2, 0)]


async def test_a_failure_without_a_handler_fails_the_job_with_its_error(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    await world.report(claim, [ended("a", "failed", error=ERROR)], ack=True)
    job = await world.job()
    assert job["status"] == "failed"
    assert json.loads(job["error"]) == {"code": "boom", "message": "it broke", "details": {}, "nodeId": "a"}


async def test_a_handled_failure_does_not_fail_the_job(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    await world.report(claim, [ended("a", "failed", error=ERROR, handled=True)], ack=True)
    assert (await world.job())["status"] == "completed"


async def test_renew_keeps_the_owner_and_tells_of_a_lost_claim(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    token = f"w1 {claim.nonce}"
    item = Renewal("job", STREAM, claim.entry, token, "w1")
    assert await world.scripts.renew(world.part, [item]) == ["ok"]
    assert await world.scripts.renew(world.part, [Renewal("job", STREAM, claim.entry, "w1 other", "w1")]) == ["lost"]
    assert await world.scripts.renew(world.part, [Renewal("job", STREAM, claim.entry, token, "w2")]) == ["lost"]
    await world.scripts.cancel(world.part, "job", ["a"])
    assert await world.scripts.renew(world.part, [item]) == ["cancelling"]


async def test_reclaim_takes_over_only_what_did_not_move(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    seen = await world.stamp(claim.entry)
    (moved,) = await world.scripts.reclaim(world.part, [Takeover(STREAM, claim.entry, "w1", seen - 1000, "w2", "n")])
    assert moved.word == "moved"
    (taken,) = await world.scripts.reclaim(world.part, [Takeover(STREAM, claim.entry, "w1", seen, "w2", "n")])
    assert (taken.word, taken.started) == ("ok", [("a", 1, 1)])
    assert (await world.report(claim, [ended("a")])).word == "stale"
    assert (await world.report(taken, [ended("a")], ack=True, consumer="w2")).word == "ok"
    assert (await world.job())["running"] == "0"


async def test_reclaim_ends_the_nodes_of_a_cancelling_job(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    assert await world.scripts.cancel(world.part, "job", ["a"]) == "cancelling"
    await world.scripts.reclaim(world.part, [[STREAM, claim.entry, "w1", await world.stamp(claim.entry), "w2", "n"]])
    assert (await world.job())["status"] == "cancelled"
    assert await world.pending() == []


async def test_release_gives_the_nodes_back_under_a_new_entry(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    high = f"{STREAM}:high"
    item = Release("job", STREAM, claim.entry, f"w1 {claim.nonce}", [batch(["a"], stream=high)])
    assert await world.scripts.release(world.part, [item]) == ["ok"]
    assert await world.scripts.release(world.part, [item]) == ["stale"]
    record = await world.record("a")
    assert (record.status, (await world.job())["running"]) == ("ready", "0")
    assert await world.redis.xlen(high) == 1
    assert await world.pending() == []


async def test_cancel_ends_a_queued_job_at_once(world: Any) -> None:
    await world.submit(nodes=2)
    assert await world.scripts.cancel(world.part, "job", ["a", "b"]) == "cancelled"
    assert await world.scripts.cancel(world.part, "job", ["a", "b"]) == "ended"
    assert await world.scripts.cancel(world.part, "nope", []) == "unknown"
    assert [claim.word for claim in await world.take()] == ["stale"]
    assert await world.pending() == []


async def test_cancel_waits_for_the_owner_and_keeps_a_late_output(world: Any) -> None:
    await world.submit(nodes=2)
    (claim,) = await world.take()
    assert await world.scripts.cancel(world.part, "job", ["a", "b"]) == "cancelling"
    reply = await world.report(claim, [ended("a"), ("start", "b", "w1")], ack=True)
    assert reply.words == ["ok", "taken"]
    assert (await world.job())["status"] == "cancelled"
    assert (await world.record("a")).status == "completed"


async def test_retry_resets_what_it_is_told_and_clears_every_claim(world: Any) -> None:
    await world.submit(nodes=2)
    (claim,) = await world.take()
    await world.report(claim, [ended("a", share=5 * 10**8), ("start", "b", "w1")])
    await world.report(claim, [ended("b", "failed", error=ERROR)], ack=True)
    assert (await world.job())["status"] == "failed"
    assert await world.scripts.retry(world.part, Retry("job", "failed", 2, ["b"], [batch(["b"])])) == "conflict"
    assert await world.scripts.retry(world.part, Retry("job", "failed", 1, ["b"], [batch(["b"])])) == "ok"
    assert await world.scripts.retry(world.part, Retry("job", "failed", 1, ["b"], [batch(["b"])])) == "conflict"
    job = await world.job()
    assert (job["status"], job["attempt"], job["remaining"], job["broken"], job["progress"]) == (
        "queued", "2", "1", "0", "500000000",
    )  # fmt: skip
    assert await world.redis.pttl("job:job") == -1
    assert (await world.report(claim, [ended("b")])).word == "stale"
    (claim,) = await world.take()
    await world.report(claim, [ended("b", share=5 * 10**8)], ack=True)
    assert (await world.job())["status"] == "completed"


async def test_delete_forgets_only_what_has_ended(world: Any) -> None:
    await world.submit()
    assert (await world.scripts.delete(world.part, "job")) == "alive"
    await world.scripts.cancel(world.part, "job", ["a"])
    assert (await world.scripts.delete(world.part, "job")) == "ok"
    assert (await world.scripts.delete(world.part, "job")) == "unknown"
    assert await world.redis.zcard("jobs") == 0


async def test_a_scheduled_job_starts_when_it_is_due(world: Any) -> None:
    seconds, _ = await world.redis.time()
    assert await world.submit(start_at=(seconds + 3600) * 1000) == "ok"
    assert (await world.job())["status"] == "scheduled"
    moved, dropped, wait = await world.scripts.due(world.part)
    assert (moved, dropped) == (0, 0)
    assert 3_500_000 < wait <= 3_600_000
    await world.redis.zadd("delays", {(await world.redis.zrange("delays", 0, 0))[0]: 1})
    assert (await world.scripts.due(world.part))[0] == 1
    assert (await world.job())["status"] == "queued"
    assert [claim.word for claim in await world.take()] == ["ok"]


async def test_a_cancel_takes_back_what_was_to_start_later(world: Any) -> None:
    seconds, _ = await world.redis.time()
    await world.submit(start_at=(seconds + 3600) * 1000)
    await world.scripts.cancel(world.part, "job", ["a"])
    assert await world.redis.exists("delays", "delays:entries") == 0


async def test_due_drops_what_no_record_names(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    step = ("again", "a", 1, 2, ERROR, batch(["a"], nonce="later", delay_ms=1, reason="retry"))
    await world.report(claim, [step], ack=True)
    await world.redis.hdel("job:job", "n:a")  # nobody names the delayed entry any more
    while (await world.scripts.due(world.part))[1] == 0:
        pass
    assert await world.redis.exists("delays", "delays:entries") == 0
    assert await world.redis.xlen(STREAM) == 1, "the acked one, which keeps the lag known"


async def test_the_last_delivered_entry_stays_so_that_lag_is_known(world: Any) -> None:
    for number in range(3):
        await world.submit(f"job{number}")
    for claim in await world.take():
        await world.report(claim, [ended("a")], ack=True)
    (group,) = await world.redis.xinfo_groups(STREAM)
    assert group["lag"] == 0
    assert await world.redis.xlen(STREAM) == 1
    await world.submit("job4")
    (group,) = await world.redis.xinfo_groups(STREAM)
    assert group["lag"] == 1


async def test_drop_consumer_keeps_one_that_holds_entries(world: Any) -> None:
    await world.submit()
    (claim,) = await world.take()
    assert await world.scripts.drop_consumer(world.part, STREAM, "w1") == "holds"
    await world.report(claim, [ended("a")], ack=True)
    assert await world.scripts.drop_consumer(world.part, STREAM, "w1") == "ok"


async def test_read_gives_header_and_log_in_one_look(world: Any) -> None:
    await world.submit()
    ((flat, found),) = await world.scripts.read(world.part, [("job", 0, 0)])
    assert "graph" not in flat[::2]
    assert [json.loads(row)["seq"] for row in found] == [1]
    ((_, found),) = await world.scripts.read(world.part, [("job", 1, 0)])
    assert found == []
    assert await world.scripts.read(world.part, [("nope", 0, 2)]) == [[]]


async def test_the_log_is_bounded_and_says_what_was_trimmed(redis: Any) -> None:
    world = World(redis, log_length=3)
    await world.submit(nodes=2)
    (claim,) = await world.take()
    steps: list[Step] = [Event("data", f'"type":"log","message":"{n}"', n) for n in range(1, 6)]
    await world.report(claim, steps)
    job = await world.job()
    assert int(job["seq"]) - int(job["trimmed"]) == 3
    ((_, found),) = await world.scripts.read(world.part, [JobRead("job", int(job["seq"]) - 1, 0)])
    assert [json.loads(row)["message"] for row in found] == ["5"]


@pytest.mark.forges_state
@pytest.mark.parametrize("status", sorted(JOB_ENDED))
async def test_nothing_moves_a_job_that_has_ended(world: Any, status: Any) -> None:
    await world.submit(nodes=2)
    (claim,) = await world.take()
    state = (await world.redis.hget("job:job", "state")).decode()
    await world.redis.hset("job:job", "state", state.replace("running", status))
    for steps in ([("start", "b", "w1")], [("send", batch(["b"]))], [("skip", "b", "broken", 0)]):
        assert (await world.report(claim, steps)).words == ["taken"]
    assert (await world.job())["status"] == status
    assert await world.scripts.cancel(world.part, "job", ["a", "b"]) == "ended"
    expected = "ok" if "queued" in JOB_MOVES[status] else "conflict"
    assert await world.scripts.retry(world.part, Retry("job", status, 1, ["b"], [])) == expected


async def test_user_text_goes_through_untouched(world: Any) -> None:
    text = '{"empty":[],"big":12345678901234567890,"é":"\\u0000","nested":{}}'
    await world.submit(nodes=2)
    (claim,) = await world.take()
    await world.report(claim, [("end", "a", 1, "completed", "", text, 0, False, "", "")])
    assert (await world.record("a")).payload == text
