"""POST /api/jobs/batch: many submissions in one request, each on its own."""

import asyncio
import json
from typing import Any

import pytest

from tests.control_plane.served import new_id, node, pointers, submission

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def batch(served: Any, *items: Any, expect: Any = 200) -> Any:
    return await served.post("/api/jobs/batch", {"jobs": list(items)}, expect=expect)


async def test_the_answers_stand_in_the_order_of_the_items(served: Any) -> None:
    ids = [new_id() for _ in range(50)]
    found = await batch(served, *(submission(node("a"), job=job) for job in ids))
    assert [job["jobId"] for job in found["jobs"]] == ids
    for job in ids:
        assert (await served.ended(job))["status"] == "completed"


async def test_a_bad_item_stops_no_other(served: Any) -> None:
    taken = await served.submit(node("a"), job=new_id())
    one, two = new_id(), new_id()
    found = await batch(
        served,
        submission(node("a"), job=one),
        {"graph": 5},
        None,
        submission(node("a", task="none")),
        submission(node("a"), job=taken),
        {"pipeline": "none"},
        submission(node("a"), node("a")),
        submission(node("a"), job=two),
    )
    answers = found["jobs"]
    assert [answers[0]["jobId"], answers[-1]["jobId"]] == [one, two]
    assert [each["status"] for each in answers[1:-1]] == [422, 422, 422, 409, 422, 422]
    assert pointers(answers[3]) == {"/graph/nodes/0/task": "unknown_task"}
    assert answers[4]["code"] == "job_exists"
    assert [each["instance"] for each in answers[1:-1]] == [f"/api/jobs/batch#/jobs/{index}" for index in range(1, 7)]
    assert (await served.ended(two))["status"] == "completed"


async def test_one_id_twice_in_a_batch_is_one_job(served: Any) -> None:
    job = new_id()
    found = await batch(
        served, submission(node("a"), job=job), submission(node("a"), job=job), submission(node("b"), job=job)
    )
    assert found["jobs"][0]["jobId"] == job
    assert [each["code"] for each in found["jobs"][1:]] == ["job_exists", "job_exists"]


async def test_an_empty_batch_is_answered_with_nothing(served: Any) -> None:
    assert await batch(served) == {"jobs": []}


async def test_a_batch_has_at_most_a_thousand_items(served: Any) -> None:
    problem = await batch(served, *([{}] * 1001), expect=422)
    assert problem["code"] == "too_many_jobs"
    found = await batch(served, *([{}] * 1000))
    assert len(found["jobs"]) == 1000


async def test_a_batch_of_another_shape_is_refused(served: Any) -> None:
    documents: list[Any] = [{}, [], {"jobs": {}}, {"jobs": None}, {"jobs": [], "more": 1}]
    for document in documents:
        problem = await served.post("/api/jobs/batch", document, expect=422)
        assert problem["code"] == "invalid_request"


async def test_a_batch_may_be_larger_than_a_submission_but_its_items_may_not(served: Any) -> None:
    limit = served.settings.control.body_limit_bytes
    blank = " " * (limit // 2)
    small = [json.dumps(submission(node(f"n{index}"))) + blank for index in range(3)]
    large = json.dumps(submission(node("large", log=0), metadata={"text": "x" * limit}))
    body = f'{{"jobs":[{",".join([*small, large])}]}}'.encode()
    answers = (await served.raw("/api/jobs/batch", body)).json()["jobs"]
    assert [each.get("code") for each in answers] == [None, None, None, "body_too_large"]
    assert answers[3]["status"] == 413


async def test_a_batch_beyond_its_limit_is_413(served: Any) -> None:
    limit = served.settings.control.batch_limit_bytes
    answer = await served.raw("/api/jobs/batch", b" " * (limit + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "body_too_large")


async def test_a_batch_of_a_thousand_lets_others_in_between(served: Any) -> None:
    items = [submission(node("a", task="light_node")) for _ in range(1000)]
    answered = 0
    async with asyncio.TaskGroup() as group:
        sent = group.create_task(batch(served, *items))
        while not sent.done():
            await served.get("/health/live")
            answered += 1
    jobs = sent.result()["jobs"]
    assert len({job["jobId"] for job in jobs}) == 1000
    assert answered > 4, "planning is cut into pieces"
    for job in jobs:
        await served.ended(job["jobId"])


async def test_what_comes_again_in_a_batch_is_a_job_of_its_own(served: Any) -> None:
    one, other = submission(node("a")), submission(node("b"))
    later = {**submission(node("a")), "startAt": "2090-01-01T00:00:00Z"}
    jobs = (await batch(served, one, other, one, later, later, one))["jobs"]
    ids = [job["jobId"] for job in jobs]
    assert len(set(ids)) == 6
    for job, name in zip(ids, "abaaaa", strict=True):
        graph = await served.get(f"/api/jobs/{job}/graph")
        assert (graph["workflowId"], graph["nodes"][0]["id"]) == (job, name)
    for job in (ids[0], ids[1], ids[2], ids[5]):
        assert (await served.ended(job))["status"] == "completed"
    for job in ids[3:5]:
        assert (await served.get(f"/api/jobs/{job}"))["status"] == "scheduled"
        await served.post(f"/api/jobs/{job}/cancel", {}, expect=202)
