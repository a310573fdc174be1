"""`dihedral up --simulate-gpus` as its users have it: what is said of the devices, of waiting, and of what can never run."""

import os
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.devices.simulated_stack import GIB, Stack, graph
from tests.front_door.running import SECONDS, dihedral, one_line, up
from tests.support.polling import becomes


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("up")
    with up(
        directory, "--simulate-gpus", "1x24GiB", "--slots", "2", DIHEDRAL_WORKER__MEMORY_CUSHION_MIB="0"
    ) as running:
        yield Stack(running)


def test_the_devices_are_shown_as_what_they_are(house: Stack) -> None:
    (worker,) = [each for each in house.ask("/api/workers")["workers"] if each["plane"] == "python"]
    assert worker["device"] == "simulated GPU, 24 GiB"
    assert worker["devices"] == [{"name": "simulated GPU, 24 GiB", "memoryMiB": 24 * GIB}]
    (task,) = [each for each in house.ask("/api/capabilities")["capabilities"] if each["id"] == "simulate_gpu"]
    assert task["runtime"]["memoryParam"] == "memoryMiB"

    def metrics() -> str | None:
        with urllib.request.urlopen(worker["metricsUrl"], timeout=SECONDS) as answer:
            text: str = answer.read().decode()
        return text if 'dihedral_device_memory_total_bytes{device="simulated0"}' in text else None

    assert becomes(metrics)


def test_a_job_that_waits_for_memory_says_why_and_then_runs(house: Stack) -> None:
    first = house.submit(steps=1000, stepSeconds=0.02, memoryMiB=14 * GIB)
    becomes(lambda: house.events(first, "data"))
    second = house.submit(memoryMiB=14 * GIB)
    becomes(
        lambda: (house.job(second)["waitingFor"] or {}).get("type") == "memory"
    )  # before a worker has it, for a slot
    waiting = house.job(second)["waitingFor"]
    assert waiting["message"].startswith("a needs 14.0 GiB, 10.0 free, 14.0 held by pid ")
    (said,) = house.events(second, "log")
    assert said["message"].startswith("waits for device memory: needs 14.0 GiB, 10.0 free")
    (worker,) = [each for each in house.ask("/api/workers")["workers"] if each["plane"] == "python"]
    assert {run["jobId"]: "waitingFor" in run for run in worker["running"]} == {first: False, second: True}
    house.ask(f"/api/jobs/{first}/cancel", {}, expect=202)
    assert house.ended(first)["status"] == "cancelled"
    (cancelled,) = [each for each in house.events(first, "data") if each["name"] == "cancelled"]
    assert (cancelled["data"]["memoryHeldMiB"], cancelled["data"]["memoryLeftMiB"]) == (14 * GIB, 0)
    assert house.output(second)["memoryMiB"] == 14 * GIB
    assert house.job(second)["waitingFor"] is None


def test_what_can_never_fit_is_refused_when_it_is_planned(house: Stack) -> None:
    for path in ("/api/plans", "/api/jobs"):
        problem = house.ask(path, graph("large", memoryMiB=25 * GIB), expect=422)
        (error,) = problem["errors"]
        assert (error["code"], error["pointer"]) == ("does_not_fit", "/graph/nodes/0/params/memoryMiB")
        assert error["detail"] == "needs 25.0 GiB of device memory; the largest device of pool 'default' has 24.0"
    house.ask("/api/plans", graph("large", memoryMiB=24 * GIB))


def test_what_only_the_run_shows_to_be_too_large_goes_back_and_waits(house: Stack) -> None:
    document = graph("grown", memoryMiB={"$from": "size"})
    document["graph"]["nodes"].append(
        {"id": "size", "task": "simulate", "plane": "python", "params": {"steps": 0, "output": 25 * GIB}}
    )
    document["graph"]["edges"] = [{"from": "size", "to": "a"}]
    house.ask("/api/jobs", document, expect=201)
    becomes(lambda: (house.job("grown")["waitingFor"] or {}).get("type") == "memory")
    (error, *_) = [each["error"] for each in house.events("grown", "node") if each["error"]]
    assert error["message"] == "needs 25.0 GiB, more than any device of this worker has (24.0)"
    house.ask("/api/jobs/grown/cancel", {}, expect=202)
    assert house.ended("grown")["status"] == "cancelled"


def test_a_running_node_can_be_asked_for_its_best(house: Stack, tmp_path: Path) -> None:
    job = house.submit(steps=100_000, stepSeconds=0.01, memoryMiB=GIB)
    becomes(lambda: house.events(job, "data"))
    assert house.ask(f"/api/jobs/{job}/nodes/b/finish", {}, expect=409)["code"] == "node_not_running"
    said = dihedral("finish", job, "a", "--url", house.running.url, cwd=tmp_path).stdout
    assert "best" in said
    output = house.output(job)
    assert output["early"]
    assert 0 < output["steps"] < 100_000
    assert house.ask(f"/api/jobs/{job}/nodes/a/finish", {}, expect=409)["code"] == "node_not_running"


def test_a_light_node_can_be_asked_too(house: Stack) -> None:
    node = {"id": "a", "task": "simulate", "plane": "python", "params": {"steps": 100_000, "stepSeconds": 0.01}}
    document = {"schema": "langgraph.v1", "workflowId": "light", "nodes": [node], "edges": []}
    house.ask("/api/jobs", {"graph": document}, expect=201)
    becomes(lambda: house.events("light", "data"))
    house.ask("/api/jobs/light/nodes/a/finish", {}, expect=202)
    assert 0 < house.output("light")["steps"] < 100_000


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_a_node_whose_worker_goes_goes_on_from_its_checkpoint(house: Stack, number: signal.Signals) -> None:
    """In the worker that follows, as the same attempt."""
    job = house.submit(steps=800, stepSeconds=0.02, memoryMiB=GIB, checkpointEvery=5)
    becomes(lambda: len(house.events(job, "data")) > 20)

    def owners() -> list[int]:
        """As the heartbeats tell it, which come every few seconds."""
        workers = house.ask("/api/workers")["workers"]
        return [each["pid"] for each in workers if job in [run["jobId"] for run in each["running"]]]

    os.kill(becomes(owners)[0], number)
    output = house.output(job)
    assert output["steps"] == 800
    assert output["resumedAt"] >= 15
    steps = [each["data"]["step"] for each in house.events(job, "data") if each["name"] == "step"]
    lost = set(range(1, 801)) - set(steps)
    if number == signal.SIGTERM:
        assert steps == sorted(set(steps)), "nothing that was done was done again"
        assert not lost
    else:
        said = "a killed worker takes along what it had not sent yet of the steps before the checkpoint"
        assert lost == set(range(min(lost, default=output["resumedAt"] + 1), output["resumedAt"] + 1)), said
    assert house.ask(f"/api/jobs/{job}/graph")["nodes"][0]["retries"]["attempt"] == 1


def test_a_job_is_paused_by_cancel_and_resumed_by_retry(house: Stack) -> None:
    job = house.submit(steps=300, stepSeconds=0.02, memoryMiB=GIB, checkpointEvery=5)
    becomes(lambda: len(house.events(job, "data")) > 20)
    house.ask(f"/api/jobs/{job}/cancel", {}, expect=202)
    assert house.ended(job)["status"] == "cancelled"
    house.ask(f"/api/jobs/{job}/retry", {})
    output = house.output(job)
    assert (output["steps"], output["resumedAt"] >= 15) == (300, True)


def test_a_poisoned_device_costs_an_attempt_and_no_more(tmp_path: Path) -> None:
    with up(tmp_path, "--simulate-gpus", "1x24GiB,poison@1") as running:
        house = Stack(running)
        house.ask("/api/jobs", graph("poison", attempts=2, memoryMiB=GIB), expect=201)
        assert house.output("poison")["memoryMiB"] == GIB
        failures = [each["error"]["code"] for each in house.events("poison", "node") if each["error"]]
        assert failures == ["device_poisoned"]


def test_a_text_that_makes_no_devices_is_refused_in_one_line(tmp_path: Path) -> None:
    said = one_line(dihedral("up", "--simulate-gpus", "24GiB", cwd=tmp_path, code=2).stderr)
    assert "simulateGpus" in said or "simulate_gpus" in said
