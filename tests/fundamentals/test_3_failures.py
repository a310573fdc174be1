"""What goes wrong: attempts, time-outs, cancels, crashes, killed workers; and how a job is run again."""

from typing import Any

from tests.fundamentals.drawing import ended, graph, node, nodes
from tests.support.polling import becomes


def test_a_retryable_failure_is_tried_again_as_often_as_the_node_says(client: Any) -> None:
    drawn = graph(node("line", "flaky", word="hello", retries={"maxAttempts": 2}))
    job = ended(client, client.submit(graph=drawn))
    assert job["status"] == "completed"
    assert nodes(client, job)["line"]["retries"]["attempt"] == 2


def test_an_error_carries_its_class_and_traceback(client: Any) -> None:
    job = ended(client, client.submit(graph=graph(node("line", "flaky", word="hello"))))
    error = nodes(client, job)["line"]["error"]
    assert error["details"]["class"] == "OSError"
    assert "the line was dead" in error["details"]["traceback"]


def test_a_node_that_takes_too_long_fails(client: Any) -> None:
    drawn = graph(node("slow", steps=1, stepSeconds=60, timeoutSeconds=0.2))
    job = ended(client, client.submit(graph=drawn))
    assert job["error"]["code"] == "timeout"


def test_a_cancelled_job_stops_for_good(client: Any) -> None:
    job = client.submit(
        graph=graph(node("slow", steps=1000, stepSeconds=0.1), node("never"), edges=[("slow", "never")])
    )
    becomes(lambda: nodes(client, job)["slow"]["status"] == "running")
    client.cancel(job["jobId"])
    job = ended(client, job)
    assert job["status"] == "cancelled"
    assert {id: each["status"] for id, each in nodes(client, job).items()} == {
        "slow": "cancelled",
        "never": "cancelled",
    }


def test_a_retry_keeps_what_was_completed(client: Any) -> None:
    drawn = graph(node("good"), node("bad", failAt=0), edges=[("good", "bad")])
    job = ended(client, client.submit(graph=drawn))
    job = client.retry(job["jobId"])
    assert job["attempt"] == 2
    job = ended(client, job)
    begun = [
        e["nodeId"] for e in client.events(job["jobId"])["events"] if e["type"] == "node" and e["status"] == "running"
    ]
    assert begun == ["good", "bad", "bad"]


def test_a_crash_takes_its_slot_along_and_nothing_else(client: Any) -> None:
    drawn = graph(node("crash", "heavy", word="die"), node("beside", steps=5, stepSeconds=0.05))
    job = ended(client, client.submit(graph=drawn))
    found = nodes(client, job)
    assert found["crash"]["error"]["code"] == "slot_crashed"
    assert found["crash"]["error"]["details"]["signal"] == "SIGKILL"
    assert found["beside"]["status"] == "completed"


def test_a_worker_that_is_killed_loses_nothing(house: Any, client: Any) -> None:
    job = client.submit(graph=graph(node("done"), node("long", steps=30, stepSeconds=0.05), edges=[("done", "long")]))
    becomes(lambda: nodes(client, job)["long"]["status"] == "running")
    house.kill(house.workers.pop())
    house.worker("--slots", "2", "--tasks", "words")
    job = ended(client, job)
    assert job["status"] == "completed"
    begun = [
        e["nodeId"] for e in client.events(job["jobId"])["events"] if e["type"] == "node" and e["status"] == "running"
    ]
    assert begun == ["done", "long", "long"]
