"""A job is one request: a graph of nodes that runs to an end. This is how one is made, watched and read."""

from typing import Any

import pytest

from dihedral.client import Refused
from tests.fundamentals.drawing import ended, graph, node, nodes


def test_a_job_is_submitted_watched_and_read(client: Any) -> None:
    job = client.submit(graph=graph(node("hello", "shout", word="hello")))
    assert job["status"] in ("queued", "running")
    said = list(client.watch(job["jobId"]))
    assert [event["status"] for event in said if event["type"] == "status"] == ["queued", "running", "completed"]
    assert [event["data"] for event in said if event["type"] == "data"] == [{"word": "hello"}]
    assert [event["message"] for event in said if event["type"] == "log"] == ["somebody said hello"]
    job = client.job(job["jobId"])
    assert (job["status"], job["progress"], job["error"]) == ("completed", 1, None)
    assert nodes(client, job)["hello"]["output"] == {"word": "HELLO!"}


def test_every_event_has_a_number_and_can_be_read_again_from_there(client: Any) -> None:
    job = ended(client, client.submit(graph=graph(node("a", steps=5))))
    events = client.events(job["jobId"])["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert client.events(job["jobId"], after=3)["events"] == events[3:]


def test_a_job_may_have_a_name_of_its_own_once(client: Any) -> None:
    assert client.submit(graph={**graph(node("a")), "workflowId": "monday"})["jobId"] == "monday"
    with pytest.raises(Refused) as refusal:
        client.submit(graph={**graph(node("another")), "workflowId": "monday"})
    assert (refusal.value.status, refusal.value.code) == (409, "job_exists")


def test_a_request_that_is_sent_twice_with_one_key_is_one_job(client: Any) -> None:
    first = client.submit(graph=graph(node("a")), idempotency_key="order-17")
    assert client.submit(graph=graph(node("a")), idempotency_key="order-17")["jobId"] == first["jobId"]


def test_a_job_may_start_later(client: Any) -> None:
    job = client.submit(graph=graph(node("a")), start_at="2999-01-01T00:00:00Z")
    assert job["status"] == "scheduled"
    assert job["waitingFor"]["type"] == "start_time"
    assert client.cancel(job["jobId"])["status"] == "cancelled"


def test_a_job_is_forgotten_when_it_is_deleted(client: Any) -> None:
    job = ended(client, client.submit(graph=graph(node("a"))))
    client.delete(job["jobId"])
    with pytest.raises(Refused) as refusal:
        client.job(job["jobId"])
    assert refusal.value.status == 404


def test_everything_that_is_wrong_is_said_at_once(client: Any) -> None:
    wrong = graph(node("a", "no_such_task"), node("b", steps=-1), edges=[("a", "b"), ("b", "a"), ("a", "nowhere")])
    with pytest.raises(Refused) as refusal:
        client.plan({"graph": wrong})
    found = {error["pointer"]: error["code"] for error in refusal.value.problem["errors"]}
    assert found["/graph/nodes/0/task"] == "unknown_task"
    assert "/graph/nodes/1/params/steps" in found
    assert "/graph/edges/2/to" in found
    assert "cycle" in found.values()
