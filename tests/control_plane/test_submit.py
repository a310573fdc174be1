"""POST /api/jobs: what a submission is answered, and that it then runs."""

import asyncio
import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from dihedral.bridge.artifacts.provenance import REQUEST
from dihedral.control_plane.scheduler import Scheduler
from dihedral.schemas.structs.worker import DeviceInfo
from tests.control_plane.served import edge, new_id, node, pointers, submission, worker_info
from tests.support.planes import RUNS, gate

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIELDS = {
    "jobId", "status", "progress", "pipeline", "created", "startAt", "started", "finished", "attempt", "waitingFor", "error",
    "artifacts", "name", "tags", "task", "params", "given", "rerunOf", "thumbnail", "priority"}  # fmt: skip


async def test_a_submission_is_answered_with_the_job_and_where_it_is(served: Any) -> None:
    answer = await served.http.post("/api/jobs", json=submission(node("a")))
    assert answer.status_code == 201
    job = answer.json()
    assert set(job) == FIELDS
    assert (job["attempt"], job["artifacts"], job["error"], job["pipeline"]) == (1, [], None, None)
    assert datetime.fromisoformat(job["created"]).tzinfo is not None
    assert job["created"].endswith("Z")
    assert len(job["created"]) == len("2026-01-01T00:00:00.000Z")
    assert answer.headers["location"] == f"/api/jobs/{job['jobId']}"
    ended = await served.ended((await served.get(answer.headers["location"]))["jobId"])
    assert (ended["status"], ended["progress"]) == ("completed", 1)
    assert ended["started"] >= ended["created"]
    assert ended["finished"] >= ended["started"]


async def test_a_graph_goes_over_both_planes(served: Any) -> None:
    job = await served.submit(node("light", task="light_node"), node("act"), edges=[edge("light", "act")])
    assert (await served.ended(job))["status"] == "completed"


async def test_a_pipeline_runs_with_its_params_and_says_its_name(served: Any) -> None:
    params = {"picture": {"bucket": "inputs", "key": "none.png"}, "voice": {"bucket": "inputs", "key": "none.wav"}}
    problem = await served.post("/api/jobs", {"pipeline": "talking_picture", "params": params}, expect=422)
    assert set(pointers(problem).values()) == {"unknown_task"}, "no worker here has ever known train_voice"


async def test_start_at_in_the_future_waits_and_then_runs(served: Any) -> None:
    start = datetime.now(UTC) + timedelta(seconds=0.7)
    job = await served.post("/api/jobs", submission(node("a"), startAt=start.isoformat()))
    assert job["status"] == "scheduled"
    assert job["waitingFor"]["type"] == "start_time"
    assert job["startAt"] == start.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    ended = await served.ended(job["jobId"])
    assert ended["status"] == "completed"
    assert ended["started"] >= job["startAt"]


async def test_start_at_in_the_past_runs_now(served: Any) -> None:
    job = await served.post("/api/jobs", submission(node("a"), startAt="2001-02-03T04:05:06+02:00"))
    assert job["status"] != "scheduled"
    assert job["startAt"] == "2001-02-03T02:05:06.000Z"
    assert (await served.ended(job["jobId"]))["status"] == "completed"


@pytest.mark.parametrize(
    "start", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01T00:00:00", "soon", 5]
)
async def test_a_start_that_is_no_moment_is_refused(served: Any, start: Any) -> None:
    problem = await served.post("/api/jobs", submission(node("a"), startAt=start), expect=422)
    assert set(pointers(problem)) == {"/startAt"}


async def test_a_higher_priority_goes_first(served: Any) -> None:
    jobs = {}
    async with served.no_worker():
        for priority in ("low", "normal", "high"):
            jobs[priority] = await served.submit(node(f"of-{priority}"), priority=priority)
        RUNS.clear()
    for job in jobs.values():
        await served.ended(job)
    assert [name for what, name in RUNS if what == "begin"] == ["of-high", "of-normal", "of-low"]


async def test_a_known_task_without_a_worker_is_accepted_and_waits_for_one(served: Any) -> None:
    async with served.no_worker():
        job = await served.submit(node("a"))

        async def waits_for_a_worker() -> Any:
            waiting = (await served.job(job))["waitingFor"] or {}
            return waiting.get("type") == "worker" and "data plane" in waiting["message"]

        await served.becomes(waits_for_a_worker)
    assert (await served.ended(job))["waitingFor"] is None


async def test_a_need_that_a_worker_seen_lately_can_hold_is_accepted(served: Any) -> None:
    """While the worker with the large device restarted beside a small one, its jobs were refused for good."""
    (heavy,) = [each.capability for each in served.planes.registry.values() if each.capability.id == "heavy"]
    task = new_id("large")
    runtime = msgspec.structs.replace(heavy.runtime, memory_mib=20_000, pool="elsewhere")
    capability = msgspec.structs.replace(heavy, id=task, runtime=runtime)
    small, large = (worker_info(new_id("worker"), task) for _ in range(2))
    small.devices = [DeviceInfo(name="gpu", memory_mib=8192)]
    large.devices = [DeviceInfo(name="gpu", memory_mib=24_576)]
    await served.planes.jobs.workers.announce(small, [capability])

    async def is_refused() -> Any:
        answer = await served.http.post("/api/plans", json=submission(node("a", task=task)))
        return "does_not_fit" in answer.text

    await served.becomes(is_refused)
    await served.planes.jobs.workers.announce(large, [capability])
    await served.planes.jobs.workers.depart(large.worker_id)
    scheduler = Scheduler(served.settings)
    await scheduler.sweep()
    await scheduler._client.aclose()
    await served.post("/api/plans", submission(node("a", task=task)), expect=200)
    assert large.worker_id not in {each.worker_id for each in await served.planes.jobs.workers.alive()}


async def test_a_job_that_waits_for_a_free_place_says_so(served: Any) -> None:
    async with served.no_worker():
        pass  # now there is one place
    first = await served.submit(node("a", wait=(name := new_id())))
    await served.in_status(first, "running")
    second = await served.submit(node("b"))

    async def waits_for_a_slot() -> Any:
        return ((await served.job(second))["waitingFor"] or {}).get("type") == "slot"

    await served.becomes(waits_for_a_slot)
    gate(name).set()
    assert (await served.ended(second))["status"] == "completed"


async def test_what_is_taken_is_an_id_of_one_job_only(served: Any) -> None:
    job = await served.submit(node("a"), job=new_id())
    problem = await served.post("/api/jobs", submission(node("b"), job=job), expect=409)
    assert problem["code"] == "job_exists"
    problem = await served.post("/api/jobs", submission(node("a"), job=job), expect=409)
    assert problem["code"] == "job_exists", "without a key even the same body is another job"


async def test_a_key_makes_a_repeat_answer_the_same_job(served: Any) -> None:
    key, body = new_id("key"), submission(node("a"))
    first = await served.post("/api/jobs", body, idempotency_key=key)
    again = await served.post("/api/jobs", body, expect=200, idempotency_key=key)
    assert again["jobId"] == first["jobId"]
    other = await served.post("/api/jobs", body)
    assert other["jobId"] != first["jobId"]


async def test_a_key_with_another_body_is_refused(served: Any) -> None:
    key = new_id("key")
    await served.post("/api/jobs", submission(node("a")), idempotency_key=key)
    problem = await served.post("/api/jobs", submission(node("b")), expect=409, idempotency_key=key)
    assert problem["code"] == "idempotency_key_reused"


async def test_many_at_once_with_one_key_make_one_job(served: Any) -> None:
    key, body = new_id("key"), submission(node("a"))
    headers = {"idempotency-key": key}
    answers = await asyncio.gather(*(served.http.post("/api/jobs", json=body, headers=headers) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [200] * 19 + [201]
    assert len({answer.json()["jobId"] for answer in answers}) == 1


async def test_a_key_whose_job_is_gone_never_makes_it_again(served: Any) -> None:
    key, body = new_id("key"), submission(node("a"), job=new_id())
    job = (await served.post("/api/jobs", body, idempotency_key=key))["jobId"]
    await served.ended(job)
    await served.delete(f"/api/jobs/{job}")
    problem = await served.post("/api/jobs", body, expect=409, idempotency_key=key)
    assert problem["code"] == "job_gone"
    await served.get(f"/api/jobs/{job}", expect=404)


async def test_a_key_that_was_kept_before_a_crash_makes_its_job_after_it(served: Any) -> None:
    """Between the key and the job the control plane may die: the client's repeat repairs it, under the id of the key."""
    key, body = (
        new_id("key"),
        b'{"graph":{"schema":"langgraph.v1","nodes":[{"id":"a","task":"act","plane":"python"}],"edges":[]}}',
    )
    await served.planes.client.set(
        f"idempotency::{key}", f"abc {hashlib.blake2b(body, digest_size=16).hexdigest()}", ex=60
    )
    answer = await served.http.post(
        "/api/jobs", content=body, headers={"idempotency-key": key, "content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["jobId"]) == (201, "abc")
    answer = await served.http.post(
        "/api/jobs", content=body, headers={"idempotency-key": key, "content-type": "application/json"}
    )
    assert (answer.status_code, answer.json()["jobId"]) == (200, "abc")


@pytest.mark.parametrize("key", ["", "two words", "k" * 256, "a\u00a0b"])
async def test_a_key_that_is_none_is_refused(served: Any, key: Any) -> None:
    answer = await served.http.post(
        "/api/jobs", json=submission(node("a")), headers=[(b"idempotency-key", key.encode("latin-1"))]
    )
    assert answer.status_code == 422
    assert answer.json()["code"] == "bad_idempotency_key"


async def test_an_id_that_hides_behind_a_route_is_refused(served: Any) -> None:
    """GET /api/jobs/batch could never answer that job."""
    problem = await served.post("/api/jobs", submission(node("a"), job="batch"), expect=422)
    assert pointers(problem) == {"/graph/workflowId": "reserved_id"}


async def test_a_task_is_known_as_soon_as_a_worker_has_announced_it(served: Any) -> None:
    """What is known is kept for a second; a submission right behind a new worker must not be refused for that."""
    capability = served.planes.registry["once"].capability
    fresh = msgspec.structs.replace(capability, id=new_id("task"))
    await served.get("/api/capabilities")
    await served.planes.jobs.workers.announce(worker_info("a-new-worker", fresh.id), [fresh])

    async def accepted() -> Any:
        answer = await served.http.post("/api/plans", json=submission(node("a", task=fresh.id)))
        return answer.status_code == 200

    await served.planes.becomes(accepted, seconds=0.5)


async def test_metadata_is_read_with_the_graph(served: Any) -> None:
    body = submission(node("a"), metadata={"ticket": 7, "who": {"name": "Zoë"}})
    body["graph"]["metadata"] = {"ticket": 1, "kept": True}
    job = (await served.post("/api/jobs", body))["jobId"]
    found = await served.get(f"/api/jobs/{job}/graph")
    assert found["metadata"] == {"ticket": 7, "who": {"name": "Zoë"}, "kept": True}


async def test_a_graph_of_one_node_needs_no_edges(served: Any) -> None:
    document = await served.post("/api/jobs", {"graph": {"schema": "langgraph.v1", "nodes": [node("a")]}})
    assert (await served.ended(document["jobId"]))["status"] == "completed"


async def test_what_a_job_waits_for_is_true(served: Any) -> None:
    """On an idle system nothing is busy; behind others the place is counted. Before, everything was "next in its queue"."""
    async with served.no_worker():
        pass
    job = await served.submit(node("a", task="heavy"))
    await served.ended(job)
    name = new_id()
    first = await served.submit(node("a", task="heavy", wait=name))
    await served.in_status(first, "running")
    waiting = [await served.submit(node("a", task="heavy")) for _ in range(3)]
    urgent = await served.submit(node("a", task="heavy"), priority="high")

    async def said(job: str) -> str:
        return str(((await served.job(job))["waitingFor"] or {}).get("message"))

    async def announced() -> bool:
        return "about to take" not in await said(urgent)

    await served.becomes(announced)
    assert "next in its queue" in await said(urgent)
    assert [(await said(each)).rpartition("a is ")[2] for each in waiting] == [
        "about number 2 in its queue", "about number 3 in its queue", "about number 4 in its queue",
    ]  # fmt: skip
    gate(name).set()
    for each in (*waiting, urgent):
        assert (await served.ended(each))["waitingFor"] is None


async def test_only_the_server_says_for_files_what_was_asked_for(served: Any) -> None:
    """The request stands in the graph's metadata, from where workers write it into files; none where that is off, or where a user writes it."""
    asked = {"pipeline": "held", "params": {"wait": "open"}}
    assert (await served.post("/api/plans", asked, 200))["metadata"][REQUEST] == asked
    graph = submission(node("a"))["graph"] | {"metadata": {REQUEST: asked, "kept": 1}}
    assert (await served.post("/api/plans", {"graph": graph}, 200))["metadata"] == {"kept": 1}
    served.settings.artifacts.provenance = False
    try:
        assert REQUEST not in (await served.post("/api/plans", asked, 200))["metadata"]
    finally:
        served.settings.artifacts.provenance = True
