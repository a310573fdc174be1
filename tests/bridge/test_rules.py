"""The seventeen rules of the protocol (docs/architecture.md), a test or more each, named after the failure that it prevents."""

import asyncio
import contextlib
import json
import random
import shutil
import signal
import tempfile
import threading
from collections import Counter
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import redis as redis_sync

from dihedral.bridge.errors import LayoutMismatch, ServerUnavailable
from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import check_layout, connect
from dihedral.bridge.fabric.dead_letters import DeadLetters
from dihedral.bridge.fabric.deliveries import LOWER_COUNT, Consumer
from dihedral.bridge.fabric.items import Release, Renewal, Retry, Takeover
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.leases import Reclaimer
from dihedral.bridge.fabric.scripts import MAX_CALL_ITEMS, Report, Writer
from dihedral.bridge.fabric.steps import Event
from dihedral.control_plane.hub import Hub
from tests.bridge.world import STREAM, World, batch, ended
from tests.support.planes import LEASE_MS, RUNS, edge, gate, node, planes, settings
from tests.support.ports import free_port
from tests.support.proxy import proxy
from tests.support.servers import start_server

LEASE_SECONDS = LEASE_MS / 1000


@pytest.fixture
async def house(redis_url: Any, redis: Any) -> AsyncIterator[Any]:
    async with planes(redis_url, redis) as made:
        yield made


@pytest.fixture
def world(redis: Any) -> Any:
    return World(redis)


def begun(name: str) -> int:
    return RUNS.count(("begin", name))


async def has_begun(house: Any, name: str, times: int = 1) -> None:
    await house.becomes(lambda: begun(name) == times)


# 1. Fencing ---------------------------------------------------------------------------------------------------------


async def test_rule_1_a_worker_that_was_presumed_dead_cannot_write_over_its_successor(house: Any) -> None:
    first = await house.start()
    await house.submit([node("a", wait="go")])
    await has_begun(house, "a")
    second = await house.start()
    house.freeze(first)
    await has_begun(house, "a", 2)
    gate("go").set()
    view = await house.ended()
    assert view.status == "completed"
    workers = [
        event["worker"]
        for event in map(json.loads, view.events)
        if event.get("status") == "running" and event["type"] == "node"
    ]
    assert workers == [first.worker_id, second.worker_id]
    assert [event["type"] for event in map(json.loads, view.events) if event.get("status") == "completed"] == [
        "node",
        "status",
    ]
    await house.becomes(lambda: not first.held and not second.held)


async def test_rule_1_nothing_that_names_an_old_claim_is_written(world: Any) -> None:
    await world.submit(nodes=3)
    (old,) = await world.take()
    (new,) = await world.take(handed=[(STREAM, old.entry)])
    before = await world.job()
    steps = [ended("a"), ("start", "b", "w1"), ("skip", "b", "broken", 0), ("send", batch(["c"])),
             ("progress", "a", 5, "0.5"), ("event", "data", '"type":"log"', 1)]  # fmt: skip
    for step in steps:
        assert (await world.report(old, [step], ack=True)).word == "stale"
    item = Release("job", STREAM, old.entry, f"w1 {old.nonce}", [batch(["a"])])
    assert await world.scripts.release(world.part, [item]) == ["stale"]
    assert await world.job() == before
    assert await world.pending() == [new.entry]


# 2. Lease by two looks ----------------------------------------------------------------------------------------------


async def test_rule_2_a_server_that_stood_still_for_three_leases_takes_no_running_job_away(own_server: Any) -> None:
    """An idle time is server wall time: with one look by XAUTOCLAIM everything that runs would be taken over here."""
    process, url = own_server
    client = connect(url)
    async with planes(url, client) as house:
        await house.start()
        await house.start()
        await house.schedule()
        await house.submit([node("a", wait="go")])
        await has_begun(house, "a")
        process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(3 * LEASE_SECONDS)
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(3 * LEASE_SECONDS)  # what would be taken over now would be in the next looks
        gate("go").set()
        assert (await house.ended()).status == "completed"
        assert begun("a") == 1
    await client.aclose()


async def test_rule_2_a_server_that_was_killed_and_away_for_three_leases_gives_no_running_job_away(
    tmp_path: Path,
) -> None:
    kept = "--appendonly", "yes", "--appendfsync", "always"
    process, url = start_server(tmp_path, *kept)
    client = connect(url)
    try:
        async with planes(url, client) as house:
            await house.start()
            await house.start()
            await house.schedule()
            await house.submit([node("a", wait="go"), node("b", task="heavy", wait="go")])
            await has_begun(house, "a")
            await has_begun(house, "b")
            process.kill()
            process.wait()
            await asyncio.sleep(3 * LEASE_SECONDS)
            process, _ = await asyncio.to_thread(start_server, tmp_path, *kept)
            await asyncio.sleep(3 * LEASE_SECONDS)  # what would be given away now would be in the next looks
            gate("go").set()
            assert (await house.ended()).status == "completed"
            assert (begun("a"), begun("b")) == (1, 1)
    finally:
        await client.aclose()
        process.kill()
        process.wait()


async def nothing_to_report(part: Any, report: Any) -> Any:
    raise AssertionError("nothing was lost")


async def test_rule_2_a_clock_that_jumped_takes_no_running_job_away(world: Any) -> None:
    """The entry looks abandoned for an hour, but the owner renews between the looks."""
    await world.submit()
    (claim,) = await world.take()
    await world.redis.xclaim(STREAM, keys.GROUP, "w1", 0, [claim.entry], idle=3_600_000)
    jobs = Jobs(world.redis, settings(""))
    reclaimer = Reclaimer(jobs, "other", nothing_to_report)
    assert await reclaimer.look(world.part, [STREAM]) == 0
    await world.scripts.renew(world.part, [Renewal("job", STREAM, claim.entry, f"w1 {claim.nonce}", "w1")])
    await asyncio.sleep(LEASE_SECONDS * 1.1)
    assert await reclaimer.look(world.part, [STREAM]) == 0, "the renewal moved the stamp, so this is a first look again"


async def test_rule_2_a_task_that_blocks_its_process_keeps_its_lease(house: Any) -> None:
    """Renewal has a thread and a connection of its own; the others look on from a loop that is not blocked."""
    await house.start()
    taken: list[int] = []
    over = threading.Event()

    def look_on() -> None:
        async def looks() -> None:
            client = connect(house.settings.redis.url)
            reclaimer = Reclaimer(Jobs(client, house.settings), "onlooker", nothing_to_report)
            while not over.is_set():
                taken.append(await reclaimer.look(reclaimer.jobs.scripts.partitions[0], [STREAM]))
                await asyncio.sleep(LEASE_SECONDS / 3)
            await client.aclose()

        asyncio.run(looks())

    onlooker = threading.Thread(target=look_on)
    onlooker.start()
    try:
        await house.submit([node("a", block=4 * LEASE_SECONDS)])
        assert (await house.ended()).status == "completed"
    finally:
        over.set()
        onlooker.join()
    assert len(taken) > 6
    assert sum(taken) == 0


async def test_rule_2_a_dead_worker_is_taken_over(house: Any) -> None:
    first = await house.start()
    await house.submit([node("a", wait="go"), node("b")], [edge("a", "b")])
    await has_begun(house, "a")
    await house.kill(first)
    await house.start()
    gate("go").set()
    view = await house.ended()
    assert view.status == "completed"
    assert begun("b") == 1


# 3. Never a bare XCLAIM ---------------------------------------------------------------------------------------------


async def test_rule_3_a_renewal_that_comes_late_steals_nothing_from_the_new_owner(world: Any) -> None:
    await world.submit()
    (old,) = await world.take()
    stamp = await world.stamp(old.entry)
    (new,) = await world.scripts.reclaim(world.part, [Takeover(STREAM, old.entry, "w1", stamp, "w2", "n")])
    assert new.word == "ok"
    assert await world.scripts.renew(world.part, [Renewal("job", STREAM, old.entry, f"w1 {old.nonce}", "w1")]) == [
        "lost"
    ]
    (again,) = await world.take("w1", handed=[(STREAM, old.entry)])
    assert again.word == "not_yours"
    (row,) = await world.redis.xpending_range(STREAM, keys.GROUP, "-", "+", 1)
    assert row["consumer"] == b"w2"


# 4. Answers get lost ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
async def test_rule_4_lost_answers_run_nothing_twice_and_lose_nothing(
    redis_url: Any, redis: Any, tmp_path: Path, seed: Any
) -> None:
    """Every script's answer is lost now and then, take and report among them; what was committed is found again."""
    chance = random.Random(seed)

    def loses(request: bytes) -> bool:
        return b"FCALL" in request and chance.random() < 0.2

    async with (
        proxy(redis_url, tmp_path, loses) as (address, between),
        planes(redis_url, redis, lease_ms=5000) as house,
    ):
        house.settings.redis.url = address
        await house.start(slots=1)
        await house.start(slots=1)
        house.settings.redis.url = redis_url
        names = [f"{kind}{n}" for n in range(4) for kind in ("l", "h")]
        for number in range(4):
            await house.submit(
                [*[node(f"{number}{name}", task="heavy" if name[0] == "h" else "act", log=3) for name in names],
                 node(f"{number}join")],
                [edge(f"{number}{name}", f"{number}join") for name in names], job=f"job{number}",
            )  # fmt: skip
        for number in range(4):
            view = await house.ended(f"job{number}")
            assert view.status == "completed"
            assert [json.loads(event)["seq"] for event in view.events] == list(range(1, view.seq + 1))
            said = [
                (event["nodeId"], event["data"]["number"])
                for event in map(json.loads, view.events)
                if event["type"] == "data"
            ]
            assert sorted(said) == sorted((f"{number}{name}", n) for name in names for n in range(3)), "each once"
        assert between.lost > 0
        assert all(RUNS.count(run) == 1 for run in RUNS), "nothing ran twice"
        for worker in list(house.running):
            await house.stop(worker)


async def test_rule_4_a_take_that_is_lost_in_a_drain_is_given_back_unrun(house: Any) -> None:
    """Its nodes are running in Redis; run here now they would be cut off, and one that must not run twice would be lost."""
    worker = await house.start(slots=0, light=1)
    house.settings.jobs.drain_seconds = 30
    await house.submit([node("hold", wait="go")], job="hold")
    await has_begun(house, "hold")
    await house.submit([node("once", task="once"), node("after")], [edge("once", "after")])
    part = house.jobs.scripts.partitions[0]
    (claim,) = await house.jobs.scripts.take(
        part, worker.worker_id, "lost", count=1, light=1, heavy=0, streams=[part.stream("python", "default")]
    )
    assert claim.started
    gate("go").set()
    await house.stop(worker)
    assert begun("once") == 0
    assert (await house.view()).records["once"].status == "ready"
    await house.start()
    assert (await house.ended()).status == "completed"
    assert begun("once") == 1


async def test_rule_4_a_give_back_whose_answer_is_lost_is_asked_again(
    redis_url: Any, redis: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    release = functions.library().function("release").encode()
    losses = iter((True, True))

    def loses(request: bytes) -> bool:
        return release in request and next(losses, False)

    async with proxy(redis_url, tmp_path, loses) as (address, between), planes(redis_url, redis) as house:
        house.settings.redis.url = address
        worker = await house.start()
        await house.submit([node("a", wait="never")])
        await has_begun(house, "a")
        await house.stop(worker)
        assert (await house.view()).records["a"].status == "ready"
        assert between.lost == 2
    assert "a delivery failed" not in caplog.text


# 5. The memory limit ------------------------------------------------------------------------------------------------


async def test_rule_5_at_the_memory_limit_nothing_new_is_taken_in_and_what_runs_ends(own_server: Any) -> None:
    _, url = own_server
    client = connect(url)
    async with planes(url, client) as house:
        await house.start()
        await house.submit(
            [node("a", wait="go"), node("b", log=2), node("c", task="heavy")], [edge("a", "b"), edge("b", "c")]
        )
        await has_begun(house, "a")
        await client.config_set("maxmemory", "1")
        assert await house.submit([node("x")], job="other") == "memory"
        gate("go").set()
        assert (await house.ended()).status == "completed"
        await client.config_set("maxmemory", "0")
        assert await house.jobs.read("other") is None
        assert await house.submit([node("x")], job="other") == "ok"
        assert (await house.ended("other")).status == "completed"
    await client.aclose()


# 6. Acks keep the lag known -----------------------------------------------------------------------------------------


async def lag(world: Any) -> Any:
    (group,) = await world.redis.xinfo_groups(STREAM)
    return group["lag"]


async def test_rule_6_autoscalers_see_the_lag_whatever_order_entries_end_in(world: Any) -> None:
    for number in range(4):
        await world.submit(f"job{number}")
    claims = {claim.job_id: claim for claim in await world.take()}
    for done, name in enumerate(["job2", "job3", "job0", "job1"]):
        await world.report(claims[name], [ended("a")], ack=True)
        assert await lag(world) == done
        await world.submit(f"more{done}")
        assert await lag(world) == done + 1
    assert await world.redis.xlen(STREAM) <= 6


async def test_rule_6_an_older_entry_that_is_handed_over_late_does_not_blind_autoscalers(world: Any) -> None:
    """One worker's blocking read brought an entry; before it claims that, another has taken and ended the next one."""
    await world.redis.xgroup_create(STREAM, keys.GROUP, id="0", mkstream=True)
    await world.submit("slow")
    await world.submit("quick")
    ((_, [(entry, _)]),) = await world.redis.xreadgroup(keys.GROUP, "w1", {STREAM: ">"}, count=1)
    (quick,) = await world.take("w2")
    (slow,) = await world.take("w1", handed=[(STREAM, entry.decode())])
    await world.report(quick, [ended("a")], ack=True, consumer="w2")
    await world.report(slow, [ended("a")], ack=True)
    await world.submit("next")
    assert await lag(world) == 1


# 7. Consumers -------------------------------------------------------------------------------------------------------


async def test_rule_7_dropping_the_consumer_of_a_dead_worker_loses_no_entry(house: Any) -> None:
    first = await house.start()
    await house.submit([node("a", wait="go")])
    await has_begun(house, "a")
    await house.kill(first)
    part = house.jobs.scripts.partitions[0]
    assert await house.jobs.scripts.drop_consumer(part, STREAM, first.worker_id) == "holds"
    await house.start()
    gate("go").set()
    assert (await house.ended()).status == "completed"


async def test_rule_7_consumers_do_not_pile_up(house: Any) -> None:
    """Names are unique per start, so each restart would leave one behind."""
    first, second = await house.start(), await house.start()
    assert first.worker_id != second.worker_id
    await house.submit([node("a")])
    await house.ended()
    await house.stop(first)
    await house.kill(second)
    await house.client.zadd(keys.WORKERS, {second.worker_id: 0})  # as after 15 s without a heartbeat
    await house.schedule(sweep_seconds=0.05)
    for stream in house.jobs.scripts.partitions[0].streams("python", "default"):
        await house.becomes(lambda stream=stream: _no_consumers(house, stream))


async def _no_consumers(house: Any, stream: Any) -> bool:
    return await house.client.xinfo_consumers(stream, keys.GROUP) == []


# 8. Claimed is not started ------------------------------------------------------------------------------------------


async def test_rule_8_a_node_that_only_waited_when_its_owner_died_counts_no_death(world: Any) -> None:
    await world.submit(nodes=3, batches=[batch(["a", "b", "c"])])
    (claim,) = await world.take(light=1)
    stamp = await world.stamp(claim.entry)
    (taken,) = await world.scripts.reclaim(world.part, [Takeover(STREAM, claim.entry, "w1", stamp, "w2", "n")])
    assert taken.started == [("a", 1, 1)]
    assert sorted(taken.waiting) == ["b", "c"]
    assert [(await world.record(name)).deliveries for name in "bc"] == [0, 0]


async def test_rule_8_a_node_that_kills_its_workers_takes_no_neighbour_with_it(house: Any) -> None:
    """All of them ran when the first worker died; from then on each runs alone, and those that wait for it count no death."""
    names = ["a_poison", *(f"neighbour{n}" for n in range(5))]
    await house.submit([node(name, wait=name) for name in names])
    await house.schedule()

    async def all_are_back() -> bool:
        return set((await house.statuses()).values()) == {"ready"}

    for death in (1, 2, 3):
        worker = await house.start()
        await has_begun(house, "a_poison", death)
        if death == 1:
            for name in names:
                await has_begun(house, name)
        else:
            assert [len(worker.held), len([one for one in RUNS if one[1] != "a_poison"])] == [
                len(names),
                len(names) - 1,
            ]
        await house.kill(worker)
        if death < 3:
            await house.becomes(all_are_back)
    for name in names[1:]:
        gate(name).set()
    await house.start()
    view = await house.ended()
    assert view.status == "failed"
    assert [name for name in names if view.records[name].status != "completed"] == ["a_poison"]
    assert json.loads(view.records["a_poison"].payload)["error"]["code"] == "worker_lost"
    (letter,) = await DeadLetters(house.jobs).page()
    assert (letter.job_id, letter.node_id, letter.reason) == ("job", "a_poison", "worker_lost")


async def test_rule_8_after_a_death_a_node_runs_with_no_other_beside_it(house: Any) -> None:
    first = await house.start()
    await house.submit([node("suspect", wait="go")])
    await has_begun(house, "suspect")
    await house.kill(first)
    second = await house.start()
    await house.submit([node("other", wait="other")], job="job2")
    await has_begun(house, "other")
    await house.becomes(lambda: any(one.node_id == "suspect" for one in second.nodes.running))
    assert begun("suspect") == 1, "it waits until the other has ended"
    gate("other").set()
    await has_begun(house, "suspect", 2)
    await house.submit([node("third")], job="job3")
    assert begun("third") == 0
    gate("go").set()
    assert (await house.ended()).status == "completed"
    assert (await house.ended("job3")).status == "completed"
    assert RUNS.index(("end", "suspect")) < RUNS.index(("begin", "third"))


async def test_rule_8_a_task_that_must_not_run_twice_does_not(house: Any) -> None:
    first = await house.start()
    await house.submit([node("pay", task="once", wait="never")])
    await has_begun(house, "pay")
    await house.kill(first)
    await house.start()
    view = await house.ended()
    assert view.status == "failed"
    assert json.loads(view.error)["code"] == "worker_lost"
    assert begun("pay") == 1


# 9. One writer ------------------------------------------------------------------------------------------------------


async def test_rule_9_reports_of_a_process_never_overtake_each_other(house: Any) -> None:
    await house.start()
    await house.submit([node("a", log=300), node("b", log=300)])
    view = await house.ended()
    events = [json.loads(event) for event in view.events]
    for name in ("a", "b"):
        mine = [event for event in events if event.get("nodeId") == name]
        assert [event["data"]["number"] for event in mine if event["type"] == "data"] == list(range(300))
        assert mine[-1]["status"] == "completed"


async def test_rule_9_calls_of_one_writer_are_cut_and_keep_their_order(world: Any) -> None:
    await world.submit(nodes=2)
    (claim,) = await world.take()
    writer = Writer(world.scripts, world.part)
    running = asyncio.create_task(writer.run())
    count = 2 * MAX_CALL_ITEMS + 7
    futures = [
        writer.put(Report("job", STREAM, claim.entry, f"w1 {claim.nonce}", [Event("data", f'"type":"log","n":{n}', n)], [], False))
        for n in range(1, count + 1)
    ]  # fmt: skip
    assert {(await future).words[0] for future in futures} == {"ok"}
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
    rows = await world.events()
    said = [event["n"] for event in map(json.loads, rows) if event["type"] == "log"]
    assert said == list(range(1, count + 1))


# 10. Retry and cancel -----------------------------------------------------------------------------------------------


async def test_rule_10_a_retry_runs_again_what_was_built_on_a_failure(house: Any) -> None:
    """`both` completed after `mend` did, which ran because `bad` was handled; only what failed unhandled starts anew."""
    await house.start()
    await house.submit(
        [node("fine"), node("bad", fail=True), node("mend"), node("wreck", fail=True), node("last")],
        [edge("bad", "mend", "on_failure"), edge("fine", "wreck"), edge("wreck", "last")],
    )
    assert (await house.ended()).status == "failed"
    RUNS.clear()
    assert await house.jobs.retry("job") == "ok"
    view = await house.ended()
    assert {name for what, name in RUNS if what == "begin"} == {"wreck"}
    assert view.records["mend"].status == "completed"
    assert await house.jobs.retry("job", from_start=True) == "ok"
    await house.ended()
    assert begun("fine") == 1


async def test_rule_10_two_retries_at_once_are_one(house: Any) -> None:
    worker = await house.start()
    await house.submit([node("a", fail=True)])
    await house.ended()
    await house.stop(worker)
    words = await asyncio.gather(*[house.jobs.retry("job") for _ in range(8)])
    assert sorted(words) == ["conflict"] * 7 + ["ok"]
    await house.start()
    assert (await house.ended()).attempt == 2


async def test_rule_10_the_owner_of_an_earlier_attempt_writes_nothing_into_the_next(world: Any) -> None:
    await world.submit(nodes=2)
    (old,) = await world.take()
    await world.report(
        old, [ended("a", "failed", error='{"code":"x","message":"x","details":{}}'), ("skip", "b", "broken", 0)]
    )
    assert await world.scripts.retry(world.part, Retry("job", "failed", 1, ["a", "b"], [batch(["a"])])) == "ok"
    assert (await world.report(old, [("start", "b", "w1")], ack=True)).word == "stale"
    assert (await world.job())["remaining"] == "2"


async def test_rule_10_a_cancel_is_confirmed_only_when_nothing_runs_any_more(house: Any) -> None:
    worker = await house.start()
    house.settings.jobs.drain_seconds = 0
    await house.submit([node("a", wait="go"), node("b", task="heavy", wait="go")])
    await has_begun(house, "a")
    await has_begun(house, "b")
    word = await house.jobs.cancel("job")
    assert word == "cancelling"
    view = await house.ended()
    assert (view.status, view.running) == ("cancelled", 0)
    await house.becomes(lambda: not worker.nodes.running)


@pytest.mark.forges_state
async def test_rule_10_a_lost_cancel_message_is_told_by_the_next_renewal(house: Any) -> None:
    await house.start()
    await house.submit([node("a", wait="never")])
    await has_begun(house, "a")
    part = house.jobs.scripts.partitions[0]
    state = (await house.client.hget(part.job("job"), "state")).decode()
    await house.client.hset(part.job("job"), "state", state.replace("running", "cancelling"))  # but nobody is told
    assert (await house.ended()).status == "cancelled"


# 11. Live events ----------------------------------------------------------------------------------------------------


async def test_rule_11_a_message_that_pubsub_lost_is_read_from_the_log(house: Any) -> None:
    await house.start()

    async def no_resync(view: Any) -> Any:
        raise AssertionError("nothing was lost, so nobody gets a new snapshot")

    hub = Hub(house.settings, house.jobs, no_resync)
    serving = asyncio.create_task(hub.run())
    seen: list[int] = []
    try:
        await house.submit([node("a", wait="go", log=1), node("b", log=5)], [edge("a", "b")])
        await has_begun(house, "a")
        woken = asyncio.Event()
        subscription = await hub.subscribe("job", 0, None, woken.set)

        def collected() -> bool:
            if subscription.due(0) != 0:
                return False
            chunk = subscription.collect()
            seen.extend(json.loads(text)["seq"] for text in chunk.events)
            return chunk.last

        await house.becomes(lambda: collected() or seen)
        await house.client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        gate("go").set()
        await house.becomes(collected)
        assert seen == list(range(1, (await house.view()).seq + 1))
    finally:
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving


# 12. No more than fits ----------------------------------------------------------------------------------------------


async def test_rule_12_a_busy_worker_keeps_no_work_from_an_idle_one(house: Any) -> None:
    await house.start(slots=1)
    for number in range(3):
        await house.submit([node(f"n{number}", task="heavy", wait="go")], job=f"job{number}")
    await house.becomes(lambda: len(RUNS) == 1)
    await house.start(slots=1)
    await house.start(slots=1)
    await house.becomes(lambda: len(RUNS) == 3)
    gate("go").set()
    for number in range(3):
        assert (await house.ended(f"job{number}")).status == "completed"


async def test_rule_12_low_priority_does_not_starve_and_high_goes_first(house: Any) -> None:
    await house.submit([node("hold", task="heavy", wait="go")], job="hold")
    await house.start(slots=1)
    await has_begun(house, "hold")
    for number in range(20):
        await house.submit([node(f"high{number}", task="heavy")], job=f"high{number}", priority="high")
    await house.submit([node("low", task="heavy")], job="low", priority="low")
    gate("go").set()
    await house.ended("low")
    for number in range(20):
        await house.ended(f"high{number}")
    order = [name for what, name in RUNS if what == "begin" and name != "hold"]
    assert order[0].startswith("high")
    assert order.index("low") < 20, "one take in ten goes the other way round"


@pytest.mark.parametrize("count", [1, 2, 5])
async def test_rule_12_one_turn_in_ten_is_for_the_lower_priorities_in_every_partition(
    redis_url: Any, redis: Any, count: int
) -> None:
    """While all priorities have a backlog in all partitions: of 100 turns 90 are of high, 5 of normal, 5 of low, equal parts of every partition."""
    names = []
    for priority, most in (("high", 120), ("normal", 40), ("low", 40)):
        candidates: dict[int, list[str]] = {number: [] for number in range(count)}
        for number in range(2000):
            candidates[keys.partition_number(f"{priority}{number}", count)].append(f"{priority}{number}")
        names += [(name, priority) for each in candidates.values() for name in each[: most // count]]
    assert len(names) == 200
    async with planes(redis_url, redis, partitions=count) as house:
        await house.submit([node("hold", task="heavy", wait="go")], job="hold")
        await house.start(slots=1)
        await has_begun(house, "hold")
        for name, priority in names:
            await house.submit([node(name, task="heavy")], job=name, priority=priority)
        gate("go").set()
        await house.becomes(lambda: len(RUNS) == 2 * 201, seconds=120)
    order = [name for what, name in RUNS if what == "begin" and name != "hold"]
    priority_of = dict(names)
    assert sorted(order) == sorted(priority_of), "each ran once"
    turns = Counter(priority_of[name] for name in order[:100])
    assert turns == {"high": 90, "normal": 5, "low": 5}
    lower = [place for place, name in enumerate(order[:100]) if priority_of[name] != "high"]
    assert {after - before for before, after in pairwise(lower)} == {10}
    for priority in ("high", "normal", "low"):
        parts = Counter(keys.partition_number(name, count) for name in order[:100] if priority_of[name] == priority)
        assert len(parts) == count, (priority, parts)
        assert max(parts.values()) - min(parts.values()) <= 1, (priority, parts)


async def test_rule_12_a_turn_of_the_lower_priorities_holds_few_places_since_light_nodes_are_not_preempted(
    redis_url: Any, redis: Any
) -> None:
    async with planes(redis_url, redis, lease_ms=600_000) as house:
        for number in range(100):
            for priority in ("high", "low"):
                await house.submit([node("n", task="light_node")], job=f"{priority}{number}", priority=priority)
        task = house.registry["light_node"].capability
        consumer = Consumer(house.jobs, redis_url, "w", task.plane, "default", ())
        try:
            await consumer.make_groups()
            turns = [await consumer.take(5, 0) for _ in range(9)]
            assert {delivery.job_id[:4] for _, deliveries in turns for delivery in deliveries} == {"high"}
            _, lower = await consumer.take(200, 0)
            assert [delivery.job_id[:3] for delivery in lower] == ["low"] * LOWER_COUNT
            _, rest = await consumer.take(200, 0)
            assert Counter(delivery.job_id[:3] for delivery in rest) == {"hig": 55, "low": 128 - 55}
        finally:
            await consumer.aclose()


async def test_rule_12_partitions_take_turns_and_the_urgent_go_first_whatever_theirs(
    redis_url: Any, redis: Any
) -> None:
    jobs: dict[int, list[str]] = {number: [] for number in range(4)}
    for number in range(200):
        jobs[keys.partition_number(f"job{number}", 4)].append(f"job{number}")
    async with planes(redis_url, redis, partitions=4) as house:
        await house.submit([node("hold", task="heavy", wait="go")], job="hold")
        await house.start(slots=1)
        await has_begun(house, "hold")
        order = [
            f"job{number}"
            for number in range(200)
            if f"job{number}" in jobs[0][:6] + jobs[1][:1] + jobs[2][:1] + jobs[3][:1]
        ]
        for job in order:
            await house.submit([node(job, task="heavy")], job=job)
        urgent = jobs[3][1]
        await house.submit([node(urgent, task="heavy")], job=urgent, priority="high")
        gate("go").set()
        for job in (*order, urgent):
            await house.ended(job)
    begun = [name for what, name in RUNS if what == "begin" and name != "hold"]
    assert begun[0] == urgent
    assert {keys.partition_number(job, 4) for job in begun[1:6]} == {0, 1, 2, 3}, (
        "six of partition 0 come before nobody"
    )


async def test_rule_12_a_graph_of_two_thousand_nodes_goes_through_every_script(house: Any) -> None:
    """Lua's unpack fails at 8,000 values; calls are cut, and lists travel as one value."""
    await house.start(light=64)
    count = 1000
    await house.submit(
        [node("first"), *[node(f"n{n}") for n in range(count)]], [edge("first", f"n{n}") for n in range(count)]
    )
    view = await house.ended()
    assert view.status == "completed"
    assert sum(record.status == "completed" for record in view.records.values()) == count + 1


async def test_rule_12_a_failure_that_skips_two_thousand_nodes_is_written_whole(house: Any) -> None:
    await house.start()
    names = [f"n{n}" for n in range(1999)]
    await house.submit([node("first", fail=True), *map(node, names)], [edge("first", name) for name in names])
    view = await house.ended()
    assert view.status == "failed"
    assert [view.records[name].status for name in names] == ["skipped"] * 1999
    assert view.seq == len(view.events) == 2 + 2 + 1999 + 1


# 13. A task that nobody knows ---------------------------------------------------------------------------------------


async def test_rule_13_a_task_that_no_worker_knows_yet_waits_and_does_not_fail_or_spin(house: Any) -> None:
    await house.start(without=("act",))
    await house.schedule()
    await house.submit([node("a")])

    async def waits() -> bool:
        return (await house.view()).record("a").reason == "worker"

    await house.becomes(waits)
    view = await house.view()
    assert view.record("a").attempt == 1
    assert len(view.events) < 8
    assert RUNS == []
    await house.start()
    assert (await house.ended()).status == "completed"


async def test_rule_13_an_output_too_large_fails_its_node_and_says_so(redis_url: Any, redis: Any) -> None:
    async with planes(redis_url, redis, node_output_bytes=1000) as house:
        await house.start()
        await house.submit([node("a", output={"text": "x" * 2000}), node("b")])
        view = await house.ended()
        assert view.error is not None
        assert json.loads(view.error)["code"] == "output_too_large"
        assert view.records["b"].status == "completed"


# 14. Partitions and idempotency -------------------------------------------------------------------------------------


async def test_rule_14_another_number_of_partitions_refuses_to_start(redis: Any) -> None:
    await check_layout(redis, 4)
    with pytest.raises(LayoutMismatch, match=r"4 partitions.*redis.partitions is 1"):
        await check_layout(redis, 1)


@pytest.mark.forges_state
async def test_rule_14_jobs_that_another_version_has_laid_out_refuse_to_start(redis: Any) -> None:
    await redis.set(keys.LAYOUT, "4")  # as before the layout had a version
    with pytest.raises(LayoutMismatch, match="another version"):
        await check_layout(redis, 4)


@pytest.mark.forges_state
async def test_rule_14_only_the_control_plane_moves_an_older_layout_and_a_worker_waits_for_it(redis: Any) -> None:
    await redis.set(keys.LAYOUT, "3:4")
    with pytest.raises(ServerUnavailable, match="upgrade the control plane"):
        await check_layout(redis, 4)
    moved = []

    async def upgrade() -> None:
        moved.append(await redis.get(keys.LAYOUT))

    with pytest.raises(LayoutMismatch):  # another number of partitions is no upgrade
        await check_layout(redis, 1, upgrade)
    assert await redis.get(keys.LAYOUT) == b"3:4"
    await check_layout(redis, 4, upgrade)
    assert moved == [b"3:4"], "the jobs are moved before anybody relies on it"
    assert await redis.get(keys.LAYOUT) == f"{keys.LAYOUT_VERSION}:4".encode()
    await check_layout(redis, 4)


async def test_rule_14_all_keys_of_a_job_and_its_streams_share_a_slot(redis_url: Any, redis: Any) -> None:
    from redis.crc import key_slot

    async with planes(redis_url, redis, partitions=4) as house:
        await house.start()
        for number in range(8):
            await house.submit([node("a", log=1)], job=f"job{number}")
            await house.ended(f"job{number}")
        for number in range(8):
            part = house.jobs.scripts.partition(f"job{number}")
            names = [
                part.job(f"job{number}"),
                part.events(f"job{number}"),
                part.index,
                part.alive,
                part.dead,
                *part.streams("python", "a100"),
            ]
            assert len({key_slot(name.encode()) for name in names}) == 1
            assert await redis.exists(part.job(f"job{number}"))


# 15. The index ------------------------------------------------------------------------------------------------------


@pytest.mark.forges_state
async def test_rule_15_the_index_forgets_expired_jobs_and_a_retry_keeps_its_job(house: Any) -> None:
    await house.start()
    await house.submit([node("a")], job="old")
    await house.submit([node("a", fail=True)], job="again")
    await house.ended("old")
    await house.ended("again")
    part = house.jobs.scripts.partitions[0]
    assert await house.client.pttl(part.job("again")) > 0
    await house.jobs.retry("again")
    await house.client.delete(part.job("old"))  # as its expiry does it
    await house.schedule(sweep_seconds=0.05)

    async def forgotten() -> bool:
        return await house.client.zrange(part.index, 0, -1) == [b"again"]

    await house.becomes(forgotten)
    await house.ended("again")
    assert await house.client.pttl(part.job("again")) > 0


async def test_rule_15_a_live_job_never_expires(house: Any) -> None:
    await house.submit([node("a", fail=True)])
    part = house.jobs.scripts.partitions[0]
    assert await house.client.pttl(part.job("job")) == -1
    await house.start()
    await house.ended()
    await house.stop(next(iter(house.running)))
    await house.jobs.retry("job")
    assert await house.client.pttl(part.job("job")) == -1
    assert await house.client.pttl(part.events("job")) < 0  # -2: the log is short and lies in the job


# 16. What vanishes comes back ---------------------------------------------------------------------------------------


async def test_rule_16_a_stream_that_somebody_deleted_loses_no_job(house: Any) -> None:
    await house.schedule()
    await house.submit([node("a"), node("b", task="heavy")])
    for stream in house.jobs.scripts.partitions[0].streams("python", "default"):
        await house.client.delete(stream)
    await house.start()
    assert (await house.ended()).status == "completed"


async def test_rule_16_a_group_that_vanishes_in_flight_is_made_anew(house: Any) -> None:
    await house.start()
    await house.submit([node("a")])
    await house.ended()
    for stream in house.jobs.scripts.partitions[0].streams("python", "default"):
        await house.client.xgroup_destroy(stream, keys.GROUP)
    await house.submit([node("a")], job="next")
    assert (await house.ended("next")).status == "completed"


# 17. Failover -------------------------------------------------------------------------------------------------------


async def test_rule_17_after_a_failover_clients_do_not_trust_a_seq_that_went_back(own_server: Any) -> None:
    """A replica that has not seen the last events becomes the master: its epoch is another one."""
    _, url = own_server
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    replica_process, replica_url = start_server(directory)
    client, replica = connect(url), connect(replica_url)
    try:
        await client.config_set("port", str(free_port()))
        port = (await client.config_get("port"))["port"]
        await replica.execute_command("REPLICAOF", "127.0.0.1", port)
        async with planes(url, client) as house:
            await house.submit([node("a")])
            before = await house.jobs.epoch()
            await house.becomes(lambda: _same_seq(client, replica))
        copied = Jobs(replica, settings(replica_url))
        assert await copied.epoch() == before, "a replica speaks of the same history"
        await replica.execute_command("REPLICAOF", "NO", "ONE")
        assert await copied.epoch() != before
    finally:
        await client.aclose()
        await replica.aclose()
        replica_process.kill()
        replica_process.wait()
        shutil.rmtree(directory)


async def _same_seq(client: Any, replica: Any) -> bool:
    with contextlib.suppress(redis_sync.ResponseError):
        copied = await replica.hget("job:job", "state")
        return bool(copied) and copied == await client.hget("job:job", "state")
    return False
