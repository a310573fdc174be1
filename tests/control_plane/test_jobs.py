"""Looking at jobs and changing them: list, document, graph, events, cancel, retry, delete, and the routes of old clients."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from dihedral.bridge.artifacts import open_store
from tests.control_plane.served import edge, new_id, node, submission
from tests.support.planes import RUNS, gate

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def held(served: Any, *, job: Any = None) -> Any:
    """(a job whose first node stands before a gate and whose second comes after, the gate's name)."""
    name = new_id("gate")
    made = await served.submit(
        node("first", wait=name), node("second"), edges=[edge("first", "second")], job=job or new_id()
    )
    await served.in_status(made, "running")
    return made, name


async def failed(served: Any, **first: Any) -> Any:
    job = await served.submit(
        node("first"),
        node("second", fail=True),
        node("third"),
        edges=[edge("first", "second"), edge("second", "third")],
    )
    await served.in_status(job, "failed")
    return job


async def pages(served: Any, between: Any = None, **filters: Any) -> Any:
    """Every job id of the list, page by page; `between` is awaited after each page."""
    found, cursor = [], None
    while True:
        page = await served.get("/api/jobs", **filters, **({} if cursor is None else {"cursor": cursor}))
        assert set(page) == {"jobs", "next"}
        found += [job["jobId"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            return found
        if between is not None:
            await between()


# The list -------------------------------------------------------------------------------------------------------------


async def test_the_list_has_the_newest_first_and_whole_documents(served: Any) -> None:
    ids = [await served.submit(node("a")) for _ in range(3)]
    ended = [await served.ended(job) for job in ids]
    listed = (await served.get("/api/jobs", limit=3))["jobs"]
    assert listed == ended[::-1]
    created = [job["created"] for job in (await served.get("/api/jobs"))["jobs"]]
    assert created == sorted(created, reverse=True)


async def test_all_pages_together_have_each_job_once_while_jobs_are_added(served: Any) -> None:
    since = datetime.now(UTC).isoformat()
    ids = (await served.post("/api/jobs/batch", {"jobs": [submission(node("a")) for _ in range(23)]}, expect=200))[
        "jobs"
    ]
    before = {job["jobId"] for job in ids}

    async def another() -> None:
        await served.submit(node("a"))

    found = await pages(served, another, limit=5, since=since)
    assert len(found) == len(set(found))
    assert before == set(found)


async def test_fifty_jobs_are_a_page_unless_another_number_is_asked_for(served: Any) -> None:
    answers = await served.post("/api/jobs/batch", {"jobs": [submission(node("a")) for _ in range(60)]}, expect=200)
    assert len((await served.get("/api/jobs"))["jobs"]) == 50
    assert len((await served.get("/api/jobs", limit=55))["jobs"]) == 55
    for job in answers["jobs"]:
        await served.ended(job["jobId"])


async def test_the_list_is_filtered_by_status(served: Any) -> None:
    bad = await failed(served)
    running, name = await held(served)
    good = await served.submit(node("a"))
    await served.ended(good)
    assert bad in await pages(served, status="failed", limit=500)
    assert running in await pages(served, status="running", limit=500)
    both = await pages(served, status="failed,running", limit=500)
    assert {bad, running} <= set(both)
    assert good not in both
    gate(name).set()
    await served.ended(running)
    assert running not in await pages(served, status="running", limit=500)


async def test_the_list_is_filtered_by_pipeline(served: Any) -> None:
    plain = await served.submit(node("a"))
    made = (await served.post("/api/jobs", {"pipeline": "held", "params": {}}))["jobId"]
    assert (await served.job(made))["pipeline"] == "held"
    found = await pages(served, pipeline="held")
    assert made in found
    assert plain not in found
    assert await pages(served, pipeline="talking_picture") == []


async def test_the_list_is_filtered_by_time(served: Any) -> None:
    job = await served.submit(node("a"))
    created = datetime.fromisoformat((await served.job(job))["created"])
    moment, later = created.isoformat(), (created + timedelta(milliseconds=1)).isoformat()
    assert job in await pages(served, since=moment, until=moment)
    assert job not in await pages(served, since=later)
    assert job in await pages(served, until=moment, limit=500)
    assert job not in await pages(served, until=(created - timedelta(milliseconds=1)).isoformat(), limit=500)
    assert await pages(served, until="2001-01-01T00:00:00Z") == []
    assert await pages(served, since="2999-01-01T00:00:00+02:00") == []


async def test_a_rare_status_is_found_behind_thousands_of_others(served: Any) -> None:
    rare = await failed(served)
    since = (await served.job(rare))["created"]
    for _ in range(3):
        items = [submission(node("a"), startAt="2999-01-01T00:00:00Z") for _ in range(750)]
        await served.post("/api/jobs/batch", {"jobs": items}, expect=200)
    first = await served.get("/api/jobs", status="failed", since=since)
    assert first["jobs"] == []
    assert first["next"] is not None, "the rest of the list is left to the next request"
    assert await pages(served, status="failed", since=since) == [rare]
    for part in served.planes.jobs.scripts.partitions:
        for job in [raw.decode() for raw in await served.planes.client.smembers(part.alive)]:
            await served.planes.jobs.cancel(job)


# One job --------------------------------------------------------------------------------------------------------------


async def test_the_graph_says_what_each_node_does_and_made(served: Any) -> None:
    job, name = await held(served)
    document = await served.get(f"/api/jobs/{job}/graph")
    assert {"schema", "workflowId", "nodes", "edges", "context", "metadata"} == set(document)
    assert document["workflowId"] == job
    nodes = await served.nodes(job)
    assert (nodes["first"]["status"], nodes["second"]["status"]) == ("running", "pending")
    assert nodes["first"]["retries"] == {"attempt": 1, "maxAttempts": 1}
    assert "output" not in nodes["first"]
    gate(name).set()
    await served.ended(job)
    nodes = await served.nodes(job)
    assert (nodes["first"]["status"], nodes["second"]["status"]) == ("completed", "completed")
    assert nodes["first"]["output"] == {"from": "first"}


async def test_the_graph_of_a_failed_job_has_the_error_of_its_node(served: Any) -> None:
    nodes = await served.nodes(await failed(served))
    assert {id: each["status"] for id, each in nodes.items()} == {
        "first": "completed",
        "second": "failed",
        "third": "skipped",
    }
    assert nodes["second"]["error"]["code"] == "boom"
    assert nodes["second"]["error"]["message"] == "it broke"


async def test_a_failed_job_says_which_node_and_why(served: Any) -> None:
    job = await served.job(await failed(served))
    assert (job["error"]["code"], job["error"]["nodeId"]) == ("boom", "second")
    assert "it broke" in job["error"]["message"]


async def test_events_are_numbered_and_read_from_any_point(served: Any) -> None:
    job = await served.submit(node("a", log=5))
    await served.ended(job)
    page = await served.get(f"/api/jobs/{job}/events")
    assert set(page) == {"jobId", "epoch", "events"}
    assert page["jobId"] == job
    assert page["epoch"]
    events = page["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["data"]["number"] for event in events if event["type"] == "data"] == list(range(5))
    assert [event["status"] for event in events if event["type"] == "status"] == ["queued", "running", "completed"]
    assert [event["status"] for event in events if event["type"] == "node"] == ["running", "completed"]
    for after in (0, 3, len(events), len(events) + 5):
        assert (await served.get(f"/api/jobs/{job}/events", after=after))["events"] == events[after:]


# Cancel, retry, delete ------------------------------------------------------------------------------------------------


async def test_a_running_job_is_cancelled(served: Any) -> None:
    job, _ = await held(served)
    answer = await served.http.post(f"/api/jobs/{job}/cancel")
    assert answer.status_code == 202
    assert answer.json()["status"] in ("cancelling", "cancelled")
    await served.in_status(job, "cancelled")
    nodes = await served.nodes(job)
    assert {each["status"] for each in nodes.values()} == {"cancelled"}


async def test_cancelling_what_has_ended_changes_nothing(served: Any) -> None:
    job = await served.submit(node("a"))
    ended = await served.ended(job)
    assert await served.post(f"/api/jobs/{job}/cancel", expect=200) == ended
    cancelled, _ = await held(served)
    await served.post(f"/api/jobs/{cancelled}/cancel", expect=202)
    await served.in_status(cancelled, "cancelled")
    assert (await served.post(f"/api/jobs/{cancelled}/cancel", expect=200))["status"] == "cancelled"


async def test_a_scheduled_job_is_cancelled_at_once(served: Any) -> None:
    job = await served.submit(node("a"), startAt="2999-01-01T00:00:00Z")
    found = await served.post(f"/api/jobs/{job}/cancel", expect=202)
    assert found["status"] == "cancelled"
    assert found["finished"]


async def test_a_retry_runs_what_failed_and_keeps_what_completed(served: Any) -> None:
    job = await served.submit(node("first"), node("second", fail=True), edges=[edge("first", "second")])
    await served.in_status(job, "failed")
    RUNS.clear()
    again = await served.post(f"/api/jobs/{job}/retry", expect=200)
    assert (again["jobId"], again["attempt"]) == (job, 2)
    assert again["error"] is None
    assert again["status"] not in ("failed", "cancelled") or again["attempt"] == 2
    await served.in_status(job, "failed")
    assert RUNS == [("begin", "second")]
    seqs = [event["seq"] for event in (await served.get(f"/api/jobs/{job}/events"))["events"]]
    assert seqs == list(range(1, len(seqs) + 1))


async def test_a_retry_from_the_start_runs_everything(served: Any) -> None:
    job = await failed(served)
    RUNS.clear()
    await served.post(f"/api/jobs/{job}/retry", {"from": "start"}, expect=200)
    await served.in_status(job, "failed")
    assert ("begin", "first") in RUNS


async def test_a_cancelled_job_is_retried(served: Any) -> None:
    job, name = await held(served)
    await served.post(f"/api/jobs/{job}/cancel", expect=202)
    await served.in_status(job, "cancelled")
    gate(name).set()
    await served.post(f"/api/jobs/{job}/retry", expect=200)
    assert (await served.ended(job))["status"] == "completed"


async def test_what_is_alive_or_complete_cannot_be_retried(served: Any) -> None:
    job, name = await held(served)
    assert (await served.post(f"/api/jobs/{job}/retry", expect=409))["code"] == "not_retryable"
    gate(name).set()
    await served.ended(job)
    assert (await served.post(f"/api/jobs/{job}/retry", expect=409))["code"] == "not_retryable"


@pytest.mark.parametrize("body", [{"from": "end"}, {"from": 1}, {"begin": "start"}, [], "start"])
async def test_a_retry_from_elsewhere_is_refused(served: Any, body: Any) -> None:
    job = await failed(served)
    await served.post(f"/api/jobs/{job}/retry", body, expect=422)
    assert (await served.job(job))["attempt"] == 1


async def test_two_retries_at_once_are_one(served: Any) -> None:
    job = await failed(served)
    answers = await asyncio.gather(*(served.http.post(f"/api/jobs/{job}/retry") for _ in range(5)))
    assert (await served.job(job))["attempt"] <= 1 + sum(answer.status_code == 200 for answer in answers)
    assert {answer.status_code for answer in answers} <= {200, 409}
    await served.in_status(job, "failed")


async def test_only_an_ended_job_is_forgotten(served: Any) -> None:
    job, name = await held(served)
    assert (await served.delete(f"/api/jobs/{job}", expect=409))["code"] == "job_alive"
    gate(name).set()
    await served.ended(job)
    await served.delete(f"/api/jobs/{job}")
    await served.get(f"/api/jobs/{job}", expect=404)
    await served.get(f"/api/jobs/{job}/events", expect=404)
    await served.delete(f"/api/jobs/{job}", expect=404)
    assert job not in await pages(served, limit=500)
    assert (await served.submit(node("a"), job=job)) == job, "its id is free again"


async def test_a_forgotten_job_leaves_its_artifacts_unless_told_otherwise(served: Any) -> None:
    store = open_store(served.settings.artifacts)
    for asked, left in (({}, 2), ({"artifacts": "false"}, 2), ({"artifacts": "true"}, 0)):
        files = [node(name, task="upload_artifact", name=f"{name}.txt", text="hello") for name in ("a", "b")]
        for each in files:
            each["plane"] = "node"
        job = await served.submit(*files)
        ended = await served.ended(job)
        assert len(ended["artifacts"]) == 2, ended
        await served.delete(f"/api/jobs/{job}", **asked)
        assert len(await store.list(job_id=job)) == left
        for meta in ended["artifacts"]:
            answer = await served.http.get(f"/api/artifacts/{meta['bucket']}/{meta['key']}")
            assert answer.status_code == (200 if left else 404)
    await store.close()


# Plans and old clients ------------------------------------------------------------------------------------------------


async def test_a_plan_is_the_graph_that_would_run_and_leaves_nothing(served: Any) -> None:
    before = await served.planes.client.dbsize()
    job = new_id()
    planned = await served.post(
        "/api/plans", submission(node("a"), node("b"), edges=[edge("a", "b")], job=job), expect=200
    )
    assert planned["workflowId"] == job
    assert planned["edges"] == [{"from": "a", "to": "b", "kind": "normal", "metadata": {}}]
    assert planned["nodes"][0] == {
        "id": "a", "task": "act", "plane": "python", "status": "pending", "params": {}, "retries": {"attempt": 0, "maxAttempts": 1},
        "tags": [], "progressWeight": 1.0,
    }  # fmt: skip
    await served.get(f"/api/jobs/{job}", expect=404)
    assert await served.planes.client.dbsize() == before


async def test_a_plan_of_a_pipeline_has_its_params_filled_in(served: Any) -> None:
    planned = await served.post("/api/plans", {"pipeline": "held", "params": {"wait": "x"}}, expect=200)
    assert planned["nodes"][0]["params"] == {"wait": "x"}


async def test_a_plan_that_was_read_can_be_submitted(served: Any) -> None:
    planned = await served.post("/api/plans", submission(node("a", log=1), metadata={"n": 1}), expect=200)
    job = (await served.post("/api/jobs", {"graph": planned}))["jobId"]
    assert job == planned["workflowId"]
    assert (await served.ended(job))["status"] == "completed"


async def test_old_clients_read_status_and_progress(served: Any) -> None:
    job = await served.submit(node("a"))
    await served.ended(job)
    assert await served.get(f"/api/status/{job}") == {"jobId": job, "status": "completed", "progress": 1.0}


async def test_train_needs_no_example_inputs_and_refuses_what_it_does_not_know(served: Any) -> None:
    """No worker here has the tasks of talking_picture: that is all that stands in its way."""
    problem = await served.post("/api/train", {"prompt": "hello"}, expect=422)
    assert {each["code"] for each in problem["errors"]} == {"unknown_task"}
    assert "speak" in str(problem["errors"])
    bodies: list[Any] = [{"prompt": ""}, {"prompt": 5}, {"promt": "x"}, []]
    for body in bodies:
        await served.post("/api/train", body, expect=422)
