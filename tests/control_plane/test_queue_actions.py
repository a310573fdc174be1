"""Pools that pause, workers that drain, and jobs that change after their submission, over REST and with keys."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dihedral.control_plane import identity
from tests.control_plane.locked import Locked, locked_house
from tests.control_plane.served import new_id, node, pointers, submission
from tests.support.leaks import leaks
from tests.support.planes import RUNS, gate

pytestmark = pytest.mark.asyncio(loop_scope="session")

QUEUE = "/api/queues/python/default"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Locked]:
    async with locked_house(tmp_path_factory.mktemp("queues")) as made:
        for name in ("alice", "bob"):
            await made.key(name)
        await made.key("ops", "read,operate", owner="alice")
        await made.key("admin", "admin")

        async def known() -> bool:
            answer = await made.http.get("/api/capabilities", headers=made.of("admin"))
            return answer.status_code == 200 and "act" in {each["id"] for each in answer.json()["capabilities"]}

        await made.served.becomes(known)
        yield made
        for job in (await made.ask("admin", "GET", "/api/jobs?limit=500&status=running,queued,scheduled"))["jobs"]:
            await made.ask("admin", "POST", f"/api/jobs/{job['jobId']}/cancel", 202)
        assert [each for each in await leaks(made.client) if "no such family" not in each] == []


async def paused(house: Locked, on: bool) -> Any:
    found = await house.ask("ops", "POST", f"{QUEUE}/{'pause' if on else 'resume'}")
    (worker,) = house.served.planes.running
    await house.served.becomes(lambda: worker.capacity.paused is on)
    return found


async def held(house: Locked, **more: Any) -> str:
    """A job that has begun and stands before the gate of its node."""
    wait = new_id()
    job = await house.ask("alice", "POST", "/api/jobs", 201, json=submission(node(wait, wait=wait), **more))
    await house.served.becomes(lambda: ("begin", wait) in RUNS)
    return str(job["jobId"])


async def test_a_paused_pool_says_so_everywhere_until_it_is_resumed(house: Locked) -> None:
    found = await paused(house, True)
    assert (found["plane"], found["pool"], found["paused"]) == ("python", "default", True)
    job = await house.submit("alice", node("a"))

    async def says() -> bool:
        waiting = (await house.ask("alice", "GET", f"/api/jobs/{job}"))["waitingFor"]
        return bool(
            waiting == {"type": "paused", "message": "data plane, pool default is paused; a waits until it is resumed"}
        )

    await house.served.becomes(says)
    queues = {
        (each["plane"], each["pool"]): each["paused"]
        for each in (await house.ask("bob", "GET", "/api/queues"))["queues"]
    }
    assert queues["python", "default"] is True
    assert queues["node", "default"] is False
    assert (await house.ask("bob", "GET", QUEUE))["paused"] is True
    assert (await paused(house, False))["paused"] is False
    assert (await house.ended("alice", job))["status"] == "completed"
    assert (await house.ask("bob", "GET", QUEUE))["paused"] is False


async def test_a_drained_worker_is_shown_and_takes_no_more(house: Locked) -> None:
    (worker,) = house.served.planes.running
    path = f"/api/workers/{worker.worker_id}"
    found = await house.ask("admin", "POST", f"{path}/drain")
    assert (found["workerId"], found["draining"]) == (worker.worker_id, True)
    await house.served.becomes(lambda: worker.capacity.paused)
    job = await house.submit("alice", node("a"))

    async def says() -> bool:
        waiting = (await house.ask("alice", "GET", f"/api/jobs/{job}"))["waitingFor"]
        return waiting["type"] == "worker" and "drained" in waiting["message"]

    await house.served.becomes(says)
    assert (await house.ask("ops", "POST", f"{path}/resume"))["draining"] is False
    assert (await house.ended("alice", job))["status"] == "completed"


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/api/queues/python/nowhere/pause", "unknown_queue"),
        ("/api/queues/moon/default/resume", "unknown_queue"),
        ("/api/workers/host-1-none/drain", "unknown_worker"),
        ("/api/workers/python%2Fdefault/resume", "not_found"),
        ("/api/jobs/nothing/front", "unknown_job"),
    ],
)
async def test_what_is_not_there_is_neither_paused_nor_moved(house: Locked, path: str, code: str) -> None:
    assert (await house.ask("admin", "POST", path, 404))["code"] == code


async def test_an_operator_moves_jobs_that_they_see_and_no_others(house: Locked) -> None:
    await paused(house, True)
    jobs = [await house.submit("alice", node("a")) for _ in range(3)]
    theirs = await house.submit("bob", node("a"))
    found = await house.ask("ops", "POST", f"/api/jobs/{jobs[2]}/front")
    assert (found["jobId"], found["priority"]) == (jobs[2], "normal")
    assert (await house.ask("ops", "POST", f"/api/jobs/{theirs}/front", 404))["code"] == "unknown_job"
    rows = (await house.ask("admin", "GET", QUEUE))["waiting"]
    assert [row["jobId"] for row in rows] == [jobs[2], jobs[0], jobs[1], theirs]
    await house.ask("admin", "POST", f"/api/jobs/{theirs}/front")
    rows = (await house.ask("admin", "GET", QUEUE))["waiting"]
    assert [row["jobId"] for row in rows] == [theirs, jobs[2], jobs[0], jobs[1]]
    await paused(house, False)
    for job in jobs:
        await house.ended("alice", job)
    assert (await house.ask("ops", "POST", f"/api/jobs/{jobs[0]}/front", 409))["code"] == "job_ended"
    running = await held(house)
    assert (await house.ask("ops", "POST", f"/api/jobs/{running}/front", 409))["code"] == "not_waiting"


# Changes ----------------------------------------------------------------------------------------------------------------


async def test_name_tags_and_priority_are_changed_and_found(house: Locked) -> None:
    job = await held(house, name="Before", tags=["old"])
    wanted = {"name": "声 nach dem Wechsel", "tags": ["new", "new", "vidéo"], "priority": "low"}
    found = await house.ask("alice", "PATCH", f"/api/jobs/{job}", json=wanted)
    assert (found["name"], found["tags"], found["priority"]) == (wanted["name"], ["new", "vidéo"], "low")
    for query, ids in (("q=wechsel", [job]), ("tag=new,vidéo", [job]), ("q=before", []), ("tag=old", [])):
        listed = (await house.ask("alice", "GET", f"/api/jobs?{query}"))["jobs"]
        assert [each["jobId"] for each in listed] == ids, query
    assert (await house.ask("alice", "PATCH", f"/api/jobs/{job}", json={"tags": []}))["tags"] == []
    assert (await house.ask("alice", "GET", f"/api/jobs/{job}"))["name"] == wanted["name"]


async def test_a_name_that_is_taken_away_is_derived_again(house: Locked) -> None:
    job = await held(house, metadata={"title": "From the title"}, name="Given")
    assert (await house.ask("alice", "PATCH", f"/api/jobs/{job}", json={"name": None}))["name"] == "From the title"


async def test_an_ended_job_is_renamed_and_has_no_priority_any_more(house: Locked) -> None:
    job = await house.submit("alice", node("a"))
    await house.ended("alice", job)
    assert (await house.ask("alice", "PATCH", f"/api/jobs/{job}", json={"name": "Best"}))["name"] == "Best"
    problem = await house.ask("alice", "PATCH", f"/api/jobs/{job}", 409, json={"name": "x", "priority": "high"})
    assert problem["code"] == "job_ended"
    assert (await house.ask("alice", "GET", f"/api/jobs/{job}"))["name"] == "Best"


async def test_changes_at_the_same_time_are_all_kept(house: Locked) -> None:
    job = await held(house)
    changes: list[dict[str, Any]] = [{"name": "Both"}, {"tags": ["kept"]}, {"priority": "high"}]
    await asyncio.gather(*(house.ask("alice", "PATCH", f"/api/jobs/{job}", json=each) for each in changes))
    found = await house.ask("alice", "GET", f"/api/jobs/{job}")
    assert (found["name"], found["tags"], found["priority"]) == ("Both", ["kept"], "high")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, None),
        ({"name": ""}, "/name"),
        ({"name": "a\nb"}, "/name"),
        ({"tags": ["a,b"]}, "/tags/0"),
        ({"tags": None}, "/tags"),
        ({"priority": "urgent"}, "/priority"),
        ({"status": "completed"}, "/status"),
        ([], ""),
    ],
)
async def test_a_change_that_does_not_fit_names_what_is_wrong(house: Locked, body: Any, pointer: str | None) -> None:
    job = await held(house)
    problem = await house.ask("alice", "PATCH", f"/api/jobs/{job}", 422, json=body)
    assert problem["code"] == "nothing_to_change" if pointer is None else pointer in pointers(problem)


async def test_a_name_that_would_cost_a_job_its_params_is_refused(house: Locked) -> None:
    output = "x" * (identity.MAX_BYTES - 150)
    made = await house.ask("alice", "POST", "/api/jobs", 201, json={"task": "act", "params": {"output": output}})
    path = f"/api/jobs/{made['jobId']}"
    for body in ({"name": "n" * 200}, {"tags": [f"{n:050}" for n in range(9)]}):
        (pointer,) = (f"/{name}" for name in body)
        assert pointers(await house.ask("alice", "PATCH", path, 422, json=body)) == {pointer: "too_large"}
    found = await house.ask("alice", "PATCH", path, json={"name": "short"})
    assert (found["name"], found["params"]["output"]) == ("short", output)


async def test_a_job_of_somebody_else_cannot_be_changed(house: Locked) -> None:
    job = await held(house, name="Hers")
    assert (await house.ask("alice", "PATCH", f"/api/jobs/{job[:12]}", 404, json={"name": "x"}))[
        "code"
    ] == "unknown_job"
    for body in ({"name": "Mine"}, {"priority": "low"}, {}):
        assert (await house.ask("bob", "PATCH", f"/api/jobs/{job}", 404, json=body))["code"] == "unknown_job"
    found = await house.ask("alice", "GET", f"/api/jobs/{job}")
    assert (found["name"], found["priority"]) == ("Hers", "normal")


@pytest.fixture(autouse=True)
def _gates_open_at_the_end() -> Any:
    yield
    for name in [name for what, name in RUNS if what == "begin"]:
        gate(name).set()
