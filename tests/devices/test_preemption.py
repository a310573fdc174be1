"""Jobs of higher priority find room where resumable ones of lower priority run: through `dihedral up`, with real slots."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.devices.simulated_stack import GIB, Stack, graph
from tests.front_door.running import up
from tests.support.polling import becomes

PLAIN = """
import time
from pathlib import Path
from msgspec import Struct
from dihedral import TaskContext, task

class Sleep(Struct):
    seconds: float

@task(kind="gpu")
def sleeps(params: Sleep, ctx: TaskContext) -> Sleep:
    ctx.data("begun", {})
    time.sleep(params.seconds)
    return params

class Gate(Struct):
    gate: str

@task(kind="gpu", resumable=True)
def lingers(params: Gate, ctx: TaskContext) -> Gate:
    ctx.data("begun", {})
    ctx.progress(0.1)
    while not ctx.cancelled:
        time.sleep(0.01)
    ctx.data("heard", {})
    while not Path(params.gate).exists():
        time.sleep(0.01)
    ctx.check_cancelled()
    raise AssertionError("it was not stopped")
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Of four partitions: who waits and who gives way are as a rule in different ones."""
    directory = tmp_path_factory.mktemp("up")
    (directory / "plain.py").write_text(PLAIN)
    with up(
        directory, "--simulate-gpus", "1x24GiB", "--slots", "2", "--tasks", "plain", DIHEDRAL_REDIS__PARTITIONS="4",
        DIHEDRAL_WORKER__MEMORY_CUSHION_MIB="0", DIHEDRAL_WORKER__PREEMPT_AFTER_MS="500", DIHEDRAL_JOBS__LEASE_MS="1500",
    ) as running:  # fmt: skip
        yield Stack(running)


@pytest.fixture(autouse=True)
def _nothing_runs_afterwards(house: Stack) -> Iterator[None]:
    """So that a test that fails takes no other along."""
    yield
    for status in ("queued", "running", "cancelling"):
        alive = [job["jobId"] for job in house.ask(f"/api/jobs?status={status}")["jobs"]]
        if status != "cancelling":
            ends(house, *alive)
        else:
            for job in alive:
                house.ended(job)


def submit(house: Stack, job: str, priority: str, **params: Any) -> str:
    house.ask("/api/jobs", graph(job, **params) | {"priority": priority}, expect=201)
    return job


def begun(house: Stack, *jobs: str) -> None:
    for job in jobs:
        becomes(partial(house.events, job, "data"))


def preemptions(house: Stack, job: str) -> int:
    return sum(1 for each in house.events(job, "node") if each["error"] and each["error"]["code"] == "preempted")


def ends(house: Stack, *jobs: str) -> None:
    for job in jobs:
        house.ask(f"/api/jobs/{job}/cancel", {}, expect=202)
    for job in jobs:
        house.ended(job)


def test_a_job_of_lower_priority_gives_its_slot_and_goes_on_where_it_was(house: Stack) -> None:
    """The lowest first; it loses no step."""
    submit(house, "normal", "normal", steps=100_000, stepSeconds=0.02, memoryMiB=GIB)
    submit(house, "low", "low", steps=400, stepSeconds=0.02, memoryMiB=GIB)
    begun(house, "normal", "low")
    submit(house, "urgent", "high", steps=100_000, stepSeconds=0.02, memoryMiB=GIB)
    begun(house, "urgent")
    becomes(lambda: (house.job("low")["waitingFor"] or {}).get("type") == "slot")
    assert house.job("low")["progress"] > 0.05, "it will go on, so nothing is taken back"
    ends(house, "urgent")
    output = house.output("low")
    assert output["steps"] == 400
    assert output["resumedAt"] > 0
    steps = [each["data"]["step"] for each in house.events("low", "data") if each["name"] == "step"]
    assert steps == list(range(1, 401)), "no step was computed twice or left out"
    assert preemptions(house, "low") == 1
    assert preemptions(house, "normal") == 0
    assert house.ask("/api/jobs/low/graph")["nodes"][0]["retries"]["attempt"] == 1
    assert began_at(house, "urgent")[0] < began_at(house, "low")[1]
    ends(house, "normal")


def test_a_job_of_lower_priority_gives_its_device_memory(house: Stack) -> None:
    """There is a slot for the urgent job, but no memory beside what runs."""
    submit(house, "large", "normal", steps=300, stepSeconds=0.02, memoryMiB=20 * GIB)
    begun(house, "large")
    submit(house, "second", "high", steps=20, stepSeconds=0.02, memoryMiB=20 * GIB)
    house.output("second")
    assert preemptions(house, "large") == 1
    assert house.output("large")["resumedAt"] > 0


def test_equals_wait_for_each_other(house: Stack) -> None:
    for job in ("one", "two"):
        submit(house, job, "high", steps=100, stepSeconds=0.02, memoryMiB=GIB)
    begun(house, "one", "two")
    submit(house, "three", "high", memoryMiB=GIB)
    house.output("three")
    assert [preemptions(house, job) for job in ("one", "two")] == [0, 0]


def test_what_cannot_go_on_is_left_alone(house: Stack) -> None:
    found = {each["id"]: each["contracts"] for each in house.ask("/api/capabilities")["capabilities"]}
    resumable = {id for id, contracts in found.items() if contracts.get("resumable")}
    assert resumable == {"train_lora", "train_diffusion_lora", "run_tool", "simulate_gpu", "lingers"}
    for job in ("plain", "plainer"):
        begun_with(house, job, "sleeps", seconds=4)
    submit(house, "patient", "high", memoryMiB=GIB)
    house.output("patient")
    for job in ("plain", "plainer"):
        house.output(job)
        states = [each["status"] for each in house.events(job, "node")]
        assert states == ["running", "completed"]


def test_a_cancel_of_a_job_that_gives_way_cancels_it(house: Stack, tmp_path: Path) -> None:
    """Both were asked to end, the pause first; between the two it keeps its checkpoint."""
    gate = tmp_path / "gate"
    for job in ("lingers-1", "lingers-2"):
        begun_with(house, job, "lingers", gate=str(gate))
    submit(house, "urgent-too", "high", memoryMiB=GIB)
    (heard,) = becomes(lambda: [job for job in ("lingers-1", "lingers-2") if told(house, job, "heard")])
    house.ask(f"/api/jobs/{heard}/cancel", {}, expect=202)
    gate.touch()
    assert house.ended(heard)["status"] == "cancelled"
    assert preemptions(house, heard) == 0
    house.output("urgent-too")
    ends(house, *{"lingers-1", "lingers-2"} - {heard})


def test_what_gave_way_lets_the_urgent_pass_that_come_later(house: Stack) -> None:
    begun_with(house, "holds", "sleeps", "high", seconds=60)
    submit(house, "gives", "low", steps=400, stepSeconds=0.02, memoryMiB=GIB)
    begun(house, "gives")
    for job in ("one-now", "one-later"):
        submit(house, job, "high", steps=60, stepSeconds=0.02, memoryMiB=GIB)
    house.output("gives")
    first, *_, last = began_at(house, "gives")
    assert all(first < began_at(house, job)[0] < last for job in ("one-now", "one-later"))
    assert preemptions(house, "gives") in (1, 2), "one take in ten goes the other way round"
    ends(house, "holds")


def begun_with(house: Stack, job: str, task: str, priority: str = "low", **params: Any) -> None:
    document = graph(job, **params)
    document["graph"]["nodes"][0]["task"] = task
    house.ask("/api/jobs", document | {"priority": priority}, expect=201)
    begun(house, job)


def told(house: Stack, job: str, name: str) -> list[Any]:
    return [each for each in house.events(job, "data") if each["name"] == name]


def began_at(house: Stack, job: str) -> list[str]:
    return [each["created"] for each in house.events(job, "node") if each["status"] == "running"]
