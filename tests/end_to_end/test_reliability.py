"""What docs/reliability.md promises with a number, measured on real processes: frozen workers, and cancels that nobody hears."""

import json
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral.data_plane.process_groups import members
from dihedral.schemas.structs.settings import Settings
from tests.chaos.invariants import Mark, marks_of, pid_of
from tests.chaos.rig import WORK, children
from tests.support.polling import becomes
from tests.support.stack import Stack

LEASE_SECONDS = 0.6
GRACE_SECONDS = Settings().worker.cancel_grace_ms / 1000


@pytest.fixture
def house() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        shutil.copy(WORK, folder)
        made = Stack(
            Path(folder),
            CHAOS_RUNS=folder,
            DIHEDRAL_WORKER__TASKS="work",
            DIHEDRAL_JOBS__LEASE_MS=str(int(LEASE_SECONDS * 1000)),
        )
        yield made
        made.close()


def graph(job: str, **tasks: dict[str, Any]) -> dict[str, Any]:
    """Nodes beside each other, named after their tasks."""
    nodes = [{"id": task, "task": task, "plane": "python", "params": params} for task, params in tasks.items()]
    return {"graph": {"schema": "langgraph.v1", "workflowId": job, "nodes": nodes, "edges": []}}


def marks(house: Stack, job: str) -> list[Mark]:
    return marks_of(house.directory / job)


def owners(house: Stack, job: str, node: str) -> list[int | None]:
    """The processes that were given the node, in order."""
    events = [event for event in house.events(job) if event["type"] == "node" and event["nodeId"] == node]
    return [pid_of(event["worker"]) for event in events if event["status"] == "running"]


@pytest.mark.parametrize("with_slots", [False, True], ids=["worker", "worker-and-slots"])
def test_a_frozen_worker_that_wakes_up_stops_its_work_within_a_second_and_takes_new_jobs(
    house: Stack, with_slots: bool
) -> None:
    first = house.worker("--slots", "1")
    steps = {"steps": 10_000, "stepSeconds": 0.02}
    house.post("/api/jobs", graph("job", stroll=steps, toil=steps))
    becomes(lambda: {mark.node for mark in marks(house, "job")} == {"stroll", "toil"})
    second = house.worker("--slots", "1")

    frozen = [first.pid, *(children(first.pid) if with_slots else ())]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(3 * LEASE_SECONDS)
    becomes(lambda: all(owners(house, "job", node) == [first.pid, second.pid] for node in ("stroll", "toil")))
    woken = time.monotonic()
    for pid in frozen:
        os.kill(pid, signal.SIGCONT)
    becomes(lambda: time.monotonic() > woken + 2)  # what it still did would be seen by now

    late = [mark.moment - woken for mark in marks(house, "job") if mark.worker == first.pid]
    assert max(late) < 1.0, "it went on working"
    assert all(owners(house, "job", node) == [first.pid, second.pid] for node in ("stroll", "toil"))

    house.post("/api/jobs/job/cancel", status=202)
    house.ended("job")
    second.terminate()
    second.wait()
    house.post("/api/jobs", graph("next", stroll={"steps": 1}, toil={"steps": 1}))
    assert house.ended("next")["status"] == "completed"
    assert {mark.worker for mark in marks(house, "next")} == {first.pid}


def test_a_cancel_that_a_slot_ignores_ends_with_its_group_killed_and_then_only_is_the_job_cancelled(
    house: Stack,
) -> None:
    worker = house.worker("--slots", "1")
    house.post("/api/jobs", graph("job", toil={"steps": 10_000, "stepSeconds": 0.02, "deaf": True}))
    becomes(lambda: marks(house, "job"))
    (slot,) = children(worker.pid)
    house.post("/api/jobs/job/cancel", status=202)
    asked = time.monotonic()
    seen = []
    while members(slot):
        seen.append(house.get("/api/jobs/job")["status"])
        gone = time.monotonic() - asked
    assert set(seen) == {"cancelling"}
    assert gone <= GRACE_SECONDS + 1
    assert house.ended("job")["status"] == "cancelled"
    last = max(mark.moment for mark in marks(house, "job"))
    assert last >= asked + GRACE_SECONDS * 0.9, "it had been killed before its grace was over"


def test_a_request_that_outlasts_a_stop_is_told_to_ask_again(house: Stack) -> None:
    """Its body does not come. uvicorn would answer it with 500 in plain text."""
    with socket.create_connection(("127.0.0.1", house.port), timeout=20) as asking:
        asking.sendall(b"POST /api/jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.5)  # until it stands in the control plane, which nothing tells from outside
        house.control.terminate()
        answer = b""
        while part := asking.recv(65536):
            answer += part
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 503")
    assert b"\r\nretry-after: 2" in head.lower()
    assert json.loads(body)["code"] == "stopping"
    assert house.control.wait() == 0
