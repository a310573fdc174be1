"""How graphs run: order, joins, failures, many workers, both planes. Once with one partition and once with four."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.planes import RUNS, edge, gate, node, planes


@pytest.fixture(params=[1, 4], ids=["one partition", "four partitions"])
async def house(redis_url: Any, redis: Any, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with planes(redis_url, redis, partitions=request.param) as made:
        yield made


async def test_a_node_starts_when_its_own_parents_are_done(house: Any) -> None:
    """Two chains, long then short and short then long: nobody waits for the other chain."""
    await house.start()
    await house.submit(
        [node("long1", wait="long1"), node("short1"), node("short2"), node("long2", wait="long2")],
        [edge("long1", "short1"), edge("short2", "long2")],
    )
    await house.becomes(lambda: ("begin", "long2") in RUNS)
    assert ("end", "long1") not in RUNS
    gate("long2").set()
    gate("long1").set()
    assert (await house.ended()).status == "completed"


async def test_a_join_fires_exactly_once_after_all_its_parents(house: Any) -> None:
    await house.start()
    parents = [node(f"p{n}") for n in range(6)]
    await house.submit([*parents, node("join")], [edge(f"p{n}", "join") for n in range(6)])
    assert (await house.ended()).status == "completed"
    assert RUNS.count(("begin", "join")) == 1
    assert RUNS.index(("begin", "join")) > max(RUNS.index(("end", f"p{n}")) for n in range(6))


async def test_a_join_fires_once_also_after_skipped_parents(house: Any) -> None:
    await house.start()
    await house.submit(
        [node("a"), node("never"), node("join")],
        [edge("a", "never", "on_failure"), edge("a", "join"), edge("never", "join")],
    )
    assert (await house.ended()).status == "completed"
    assert await house.statuses() == {"a": "completed", "never": "skipped", "join": "completed"}
    assert RUNS.count(("begin", "join")) == 1


async def test_on_failure_runs_the_other_way(house: Any) -> None:
    await house.start()
    await house.submit(
        [node("a", fail=True), node("mend"), node("usual")], [edge("a", "mend", "on_failure"), edge("a", "usual")]
    )
    view = await house.ended()
    assert view.status == "completed"
    assert await house.statuses() == {"a": "failed", "mend": "completed", "usual": "skipped"}


async def test_a_failing_node_cancels_no_unrelated_sibling(house: Any) -> None:
    await house.start()
    await house.submit(
        [node("bad", fail=True), node("after"), node("good", wait="good"), node("then")],
        [edge("bad", "after"), edge("good", "then")],
    )
    await house.becomes(lambda: ("begin", "bad") in RUNS and ("begin", "good") in RUNS)
    await house.becomes(lambda: _has(house, "after", "skipped"))
    gate("good").set()
    view = await house.ended()
    assert view.status == "failed"
    assert json.loads(view.error)["nodeId"] == "bad"
    assert await house.statuses() == {"bad": "failed", "after": "skipped", "good": "completed", "then": "completed"}


async def _has(house: Any, name: Any, status: Any) -> Any:
    return (await house.statuses()).get(name) == status


async def test_gpu_nodes_of_one_job_run_on_several_workers(house: Any) -> None:
    for _ in range(3):
        await house.start(slots=1)
    await house.submit([node(f"g{n}", task="heavy", wait="all") for n in range(3)])
    await house.becomes(lambda: sum(what == "begin" for what, _ in RUNS) == 3)
    owners = {one for worker in house.running for one in worker.nodes.running}
    assert len(owners) == 3
    assert all(len(worker.nodes.running) == 1 for worker in house.running)
    gate("all").set()
    assert (await house.ended()).status == "completed"


async def test_both_planes_run_nodes_of_one_job_at_the_same_time(house: Any) -> None:
    await house.start("python")
    await house.start("node")
    await house.submit([node("here", task="light_node", wait="both"), node("there", task="heavy", wait="both")])
    await house.becomes(lambda: {("begin", "here"), ("begin", "there")} <= set(RUNS))
    gate("both").set()
    assert (await house.ended()).status == "completed"


async def test_outputs_reach_their_children_by_name_and_by_reference(house: Any) -> None:
    await house.start()
    await house.submit(
        [
            node("a", output={"output": {"x": [1, 2]}}),
            {**node("b"), "params": {"output": {"$from": "a", "path": "/output/x/1"}}},
            node("c"),
        ],
        [edge("a", "b"), edge("a", "c")],
    )
    assert (await house.ended()).status == "completed"
    view = await house.view()
    assert json.loads(view.records["b"].payload) == {"output": 2}
    assert json.loads(view.records["c"].payload) == {"output": {"x": [1, 2]}}


async def test_a_retryable_failure_is_tried_again_until_attempts_are_spent(house: Any) -> None:
    await house.start()
    await house.schedule()
    await house.submit([node("flaky", flaky=True, attempts=2), node("never", flaky=False, fail=True, attempts=3)])
    view = await house.ended()
    assert view.records["flaky"].status == "completed"
    assert view.records["flaky"].attempt == 2
    assert view.records["never"].attempt == 1, "an error that is not retryable ends the node"


async def test_cancel_stops_what_runs_and_what_waits(house: Any) -> None:
    await house.start()
    await house.submit([node("a", wait="never"), node("b")], [edge("a", "b")])
    await house.becomes(lambda: ("begin", "a") in RUNS)
    assert await house.jobs.cancel("job") == "cancelling"
    view = await house.ended()
    assert view.status == "cancelled"
    assert await house.statuses() == {"a": "cancelled", "b": "cancelled"}


async def test_a_retry_keeps_what_completed(house: Any) -> None:
    await house.start()
    await house.submit([node("a"), node("b", flaky=True), node("c")], [edge("a", "b"), edge("b", "c")])
    assert (await house.ended()).status == "failed"
    RUNS.clear()
    assert await house.jobs.retry("job") == "ok"
    view = await house.ended()
    assert view.attempt == 2
    assert [name for what, name in RUNS if what == "begin"] == ["b"], "b fails in its first attempt again"
    assert [json.loads(event)["seq"] for event in view.events] == list(range(1, view.seq + 1))


async def test_sixty_four_parallel_nodes_over_four_workers(house: Any) -> None:
    for _ in range(4):
        await house.start()
    await house.submit([node("first"), *[node(f"n{n}") for n in range(64)], node("last")],
                       [*[edge("first", f"n{n}") for n in range(64)], *[edge(f"n{n}", "last") for n in range(64)]])  # fmt: skip
    view = await house.ended()
    assert view.status == "completed"
    assert view.progress == 1
    assert all(RUNS.count(("begin", f"n{n}")) == 1 for n in range(64))


async def test_progress_is_one_at_the_end_and_nothing_is_left_behind(house: Any) -> None:
    worker = await house.start()
    await house.submit([node("a", log=5), node("b")], [edge("a", "b")])
    await house.ended()
    await house.becomes(lambda: not worker.held)
    keys = {key.decode().split(":")[0] for key in await house.client.keys("*")}
    assert keys <= {"counts", "job", "jobs", "stream", "worker", "workers", "capabilities", "dihedral"}
    fields = await house.client.hkeys(house.jobs.scripts.partition("job").job("job"))
    assert not [field for field in fields if field[:2] in (b"c:", b"e:")]
    await asyncio.sleep(0)
