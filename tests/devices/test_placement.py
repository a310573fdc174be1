"""Two workers of one pool, one with a simulated device, as compose and Kubernetes start them: real processes, asked over HTTP."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import at_this_load, becomes
from tests.support.stack import Stack


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path)
    try:
        yield made
    finally:
        made.close()


def gpu_job(name: str, **more: Any) -> dict[str, Any]:
    node = {"id": "a", "task": "simulate_gpu", "plane": "python", "params": {"steps": 1, "stepSeconds": 0.05}}
    return {"graph": {"schema": "langgraph.v1", "workflowId": name, "nodes": [node | more]}}


def data_plane(house: Stack) -> list[dict[str, Any]]:
    return [each for each in house.get("/api/workers")["workers"] if each["plane"] == "python"]


def workers_of(house: Stack, jobs: list[str]) -> set[str]:
    """The workers in which the nodes of these jobs began."""
    return {
        event["worker"]
        for job in jobs
        for event in house.events(job)
        if event["type"] == "node" and event["status"] == "running"
    }


def test_gpu_jobs_go_to_the_device_and_to_the_cpu_when_its_worker_is_dead(house: Stack) -> None:
    house.worker("--slots", "2")
    with_device = house.worker("--simulate-gpus", "1x24GiB")
    ids = {each["pid"]: each["workerId"] for each in data_plane(house)}
    jobs = [house.post("/api/jobs", gpu_job(f"with-{number}"))["jobId"] for number in range(8)]
    for job in jobs:
        assert house.ended(job)["status"] == "completed"
    assert workers_of(house, jobs) == {ids[with_device.pid]}

    house.kill(with_device)
    del ids[with_device.pid]
    jobs = [house.post("/api/jobs", gpu_job(f"without-{number}"))["jobId"] for number in range(3)]
    for job in jobs:
        assert house.ended(job, at_this_load(60))["status"] == "completed"
    assert workers_of(house, jobs) == set(ids.values())


def test_a_node_and_a_submission_may_name_their_pool(house: Stack) -> None:
    house.worker("--slots", "1")
    house.worker("--slots", "1", "--pool", "a100")
    ids = {each["pool"]: each["workerId"] for each in data_plane(house)}
    house.post("/api/jobs", gpu_job("plain"))
    house.post("/api/jobs", gpu_job("node", pool="a100"))
    house.post("/api/jobs", gpu_job("all") | {"pool": "a100"})
    house.post("/api/jobs", gpu_job("both", pool="default") | {"pool": "a100"})
    for job, pool in (("plain", "default"), ("node", "a100"), ("all", "a100"), ("both", "default")):
        assert house.ended(job)["status"] == "completed"
        assert workers_of(house, [job]) == {ids[pool]}, job
    assert house.get("/api/jobs/all/graph")["nodes"][0]["pool"] == "a100"


def test_a_pool_that_nobody_serves_is_refused_with_those_that_there_are(house: Stack) -> None:
    house.worker("--slots", "1", "--pool", "a100")
    for job in (gpu_job("x", pool="h100"), gpu_job("x") | {"pool": "h100"}, gpu_job("x", pool="high")):
        answer = house.post("/api/jobs", job, status=422)
        (problem,) = answer["errors"]
        assert problem["pointer"] == "/graph/nodes/0/pool"
        assert problem["code"] == "unknown_pool"
        assert problem["detail"].endswith("of plane 'python'; there are: a100, default")
    waits = house.post("/api/jobs", gpu_job("y"))  # a known pool without a worker waits, and says so
    assert waits["waitingFor"]["message"] == "no worker serves data plane, pool default, where a is to run"


def test_a_worker_may_leave_gpu_tasks_for_one_that_is_still_to_be_started(house: Stack) -> None:
    house.environ["DIHEDRAL_WORKER__GPU_TASKS_ON_CPU"] = "false"
    house.worker("--slots", "1")
    house.post("/api/jobs", gpu_job("x"))
    reason = (
        "a is left for a worker of data plane, pool default with a device, and none is there (worker.gpuTasksOnCpu)"
    )
    becomes(lambda: (house.get("/api/jobs/x")["waitingFor"] or {}).get("message") == reason)
    house.worker("--simulate-gpus", "1x24GiB")
    assert house.ended("x")["status"] == "completed"
