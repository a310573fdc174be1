"""Estimates, statistics and use over time, as clients read them."""

from typing import Any

import pytest

from dihedral.bridge.fabric.durations import DurationNotes
from dihedral.bridge.graphs import Placement
from dihedral.client import AsyncClient
from dihedral.control_plane.watches import Subscription, Watch
from dihedral.schemas.structs.graph import Estimate
from tests.control_plane.served import Served, new_id, node, submission
from tests.support.planes import gate

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def noted(served: Served, task: str, seconds: list[float]) -> None:
    capability = served.planes.registry[task].capability
    for each in seconds:
        notes = DurationNotes()
        notes.note(capability, {}, each, "cpu", Placement("default", True, 60.0, True))
        await notes.write(served.planes.client)


async def test_a_plan_a_job_and_its_nodes_say_how_long_they_will_take(served: Served) -> None:
    first = new_id("gate")
    nodes = [node("a", wait=first), node("b")]
    edges = [{"from": "a", "to": "b", "kind": "normal"}]

    async def planned() -> bool:
        """Other tests run the task for a moment, and what is known is read again every ten seconds only."""
        await noted(served, "act", [20.0, 30.0, 40.0] * 20)
        plan = await served.post("/api/plans", submission(*nodes, edges=edges), expect=200)
        return bool(plan.get("estimate", {}).get("low", 0) >= 20)

    await served.becomes(planned)
    job = await served.submit(*nodes, edges=edges)
    await served.in_status(job, "running")
    document = await served.job(job)
    assert document["priority"] == "normal"
    assert 0 < document["estimate"]["low"] <= document["estimate"]["high"] <= 80
    assert "startsIn" not in document
    live = await served.nodes(job)
    assert live["a"]["telemetry"]["estimate"]["high"] <= 40
    assert live["b"]["telemetry"]["estimate"]["high"] == 40
    (listed,) = [each for each in (await served.get("/api/jobs"))["jobs"] if each["jobId"] == job]
    assert listed["estimate"]["high"] <= 80
    gate(first).set()
    done = await served.ended(job)
    assert "estimate" not in done
    assert "estimate" not in (await served.nodes(job))["a"]["telemetry"]


async def test_a_plan_sent_as_a_job_runs(served: Served) -> None:
    planned = await served.post("/api/plans", submission(node("a")), expect=200)
    planned["estimate"] = {"low": 1, "high": 2}
    planned["workflowId"] = new_id()
    job = (await served.post("/api/jobs", {"graph": planned}))["jobId"]
    assert (await served.ended(job))["status"] == "completed"
    assert "estimate" not in await served.get(f"/api/jobs/{job}/graph")


async def test_statistics_count_what_ended(served: Served) -> None:
    async def of_graphs() -> Any:
        found = {each["pipeline"]: each for each in (await served.get("/api/statistics"))["pipelines"]}
        return found.get(None, {"completed": 0, "failed": 0, "gpuSeconds": 0, "ended": 0})

    before = await of_graphs()
    await served.ended(await served.submit(node("a")))
    await served.ended(await served.submit(node("a", fail=True)))
    await served.ended(await served.submit(node("a", task="heavy")))
    after = await of_graphs()
    assert (after["completed"] - before["completed"], after["failed"] - before["failed"]) == (2, 1)
    assert after["successRate"] == pytest.approx(after["completed"] / (after["completed"] + after["failed"]))
    assert after["medianSeconds"] >= 0
    assert after["gpuSeconds"] >= before["gpuSeconds"]


async def test_a_worker_tells_its_use_of_the_last_hour(served: Served) -> None:
    (worker,) = [each for each in (await served.get("/api/workers"))["workers"] if each["plane"] == "python"][:1]

    async def samples() -> Any:
        return (await served.get(f"/api/workers/{worker['workerId']}/usage"))["samples"]

    (first, *_) = await served.becomes(samples)
    assert first["slots"] == worker["slots"]
    assert first["busy"] <= worker["slots"]
    for unknown in ("nobody", "a*", "worker:places"):
        await served.get(f"/api/workers/{unknown}/usage", expect=404)


async def test_the_jobs_that_wait_are_listed_in_order(served: Served) -> None:
    async with served.no_worker():
        normal, low, high = new_id("normal"), new_id("low"), new_id("high")
        for job, priority in ((normal, "normal"), (low, "low"), (high, "high")):
            await served.submit(node("a", task="heavy"), job=job, priority=priority)
        gone = await served.submit(node("a", task="heavy"))
        await served.post(f"/api/jobs/{gone}/cancel", expect=202)
        found = (await served.get("/api/queues/python/default"))["waiting"]
        assert [(each["position"], each["jobId"], each["priority"], each["lane"]) for each in found] == [
            (1, high, "high", "gpu"), (2, normal, "normal", "gpu"), (3, low, "low", "gpu"),
        ]  # fmt: skip
        await served.get("/api/queues/python/nobody", expect=404)
    for job in (normal, low, high):
        await served.ended(job)


async def test_updates_of_a_watched_job_carry_what_is_left_and_its_last_one_does_not(served: Served) -> None:
    first = new_id("gate")

    async def planned() -> bool:
        await noted(served, "act", [20.0, 30.0, 40.0] * 20)
        plan = await served.post("/api/plans", submission(node("a")), expect=200)
        return bool(plan.get("estimate", {}).get("low", 0) >= 20)

    await served.becomes(planned)
    job = await served.submit(node("a", wait=first))
    found: list[Any] = []
    async with AsyncClient(f"http://127.0.0.1:{served.port}") as client:
        async for event in client.watch(job):
            if event["type"] == "progress":
                found.append(event)
                if event.get("estimate", {}).get("high", 0) > 1:
                    gate(first).set()
    estimated = [each["estimate"] for each in found if "estimate" in each]
    assert 10 < estimated[0]["low"] <= estimated[0]["high"] <= 40
    assert found[-1] == {"type": "progress", "status": "completed", "progress": 1}


async def test_what_is_left_shrinks_between_estimates_and_wakes_only_for_news() -> None:
    watch = Watch("a")
    woken: list[bool] = []
    subscription = Subscription(watch, 10, lambda: woken.append(True))
    watch.subscriptions.add(subscription)
    watch.status = "running"
    watch.expect(Estimate(low=10, high=20), None)
    assert len(woken) == 1
    watch.expect(Estimate(low=9.5, high=20.4), None)
    assert len(woken) == 1, "no client is woken for a tenth"
    watch.estimated_at -= 5
    left, _ = watch.left()
    assert left is not None
    assert (4 < left.low <= 4.5, 15 < left.high <= 15.4) == (True, True)
    watch.expect(Estimate(low=2, high=4), None)
    assert len(woken) == 2
    watch.estimated_at -= 5
    assert watch.left() == (None, None), "what took longer than any run before is unknown"
    watch.status = "completed"
    watch.expect(Estimate(low=30, high=40), None)
    assert len(woken) == 2
