"""Sweeps and presets: one submission with several values of some params, and named params of a pipeline or a task."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.control_plane import presets
from dihedral.control_plane.problems import ApiProblem
from tests.control_plane.locked import Locked, locked_house
from tests.control_plane.served import new_id, node, pointers
from tests.control_plane.test_identity import TALE

pytestmark = pytest.mark.asyncio(loop_scope="session")

SWEEP = {"steps": [4, 8, 16], "pace": [0.25, 1]}
OF_TALE = "/api/presets/pipelines/tale"


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Locked]:
    directory = tmp_path_factory.mktemp("sweeps")
    (directory / "pipelines").mkdir()
    (directory / "pipelines" / "tale.json").write_text(json.dumps(TALE))
    async with locked_house(directory, sweep_jobs=20) as made:
        for name in ("alice", "bob"):
            await made.key(name)
        await made.key("admin", "admin")
        await made.key("few", owner="few", max_alive=3)

        async def known() -> bool:
            answer = await made.http.get("/api/capabilities", headers=made.of("admin"))
            return answer.status_code == 200 and "act" in {each["id"] for each in answer.json()["capabilities"]}

        await made.served.becomes(known)
        yield made


def swept(**more: Any) -> dict[str, Any]:
    return {"pipeline": "tale", "params": {"prompt": "Dusk", "steps": 1}, "sweep": SWEEP, **more}


async def refused(house: Locked, body: Any, name: str = "alice", path: str = "/api/jobs") -> dict[str, str]:
    return pointers(await house.ask(name, "POST", path, 422, json=body))


# Sweeps -----------------------------------------------------------------------------------------------------------------


async def test_a_sweep_makes_a_job_of_each_combination(house: Locked) -> None:
    made = await house.ask("alice", "POST", "/api/jobs", 201, json=swept(tags=["mine"]))
    wanted = [{"steps": steps, "pace": pace} for steps in (4, 8, 16) for pace in (0.25, 1)]
    assert made["combinations"] == wanted
    assert made["tag"] == f"sweep-{made['sweep']}"
    for job, combination in zip(made["jobs"], wanted, strict=True):
        assert job["params"] == {"prompt": "Dusk", **combination}
        assert job["tags"] == ["mine", made["tag"]]
        ended = await house.ended("alice", job["jobId"])
        assert ended["status"] == "completed"
        nodes = (await house.ask("alice", "GET", f"/api/jobs/{job['jobId']}/graph"))["nodes"]
        assert nodes[0]["output"] == ["Dusk", combination["steps"]]
    assert made["jobs"][0]["name"] == "Dusk · steps 4, pace 0.25"
    assert made["jobs"][5]["name"] == "Dusk · steps 16, pace 1"
    listed = (await house.ask("alice", "GET", f"/api/jobs?tag={made['tag']}"))["jobs"]
    assert {each["jobId"] for each in listed} == {each["jobId"] for each in made["jobs"]}
    assert len({each["jobId"][:4] for each in listed}) > 1, "ids that begin alike could not be shortened"
    assert (await house.ask("bob", "GET", f"/api/jobs?tag={made['tag']}"))["jobs"] == []


async def test_a_plan_tells_how_many_jobs_and_stores_none(house: Locked) -> None:
    before = len((await house.ask("alice", "GET", "/api/jobs?limit=500"))["jobs"])
    plan = await house.ask("alice", "POST", "/api/plans", json=swept())
    assert (plan["jobs"], len(plan["combinations"])) == (6, 6)
    assert plan["graph"]["nodes"][0]["params"] == {"output": ["Dusk", 4]}
    assert len((await house.ask("alice", "GET", "/api/jobs?limit=500"))["jobs"]) == before


async def test_a_task_and_a_job_that_is_repeated_are_swept_too(house: Locked) -> None:
    made = await house.ask("alice", "POST", "/api/jobs", 201, json={"task": "act", "sweep": {"output": [1, {"a": 2}]}})
    assert [each["params"]["output"] for each in made["jobs"]] == [1, {"a": 2}]
    assert made["jobs"][1]["name"] == 'act · output {"a":2}'
    first = made["jobs"][0]["jobId"]
    again = {"rerunOf": first, "sweep": {"output": ["x" * 400, 7]}}
    repeated = (await house.ask("alice", "POST", "/api/jobs", 201, json=again))["jobs"]
    assert [each["rerunOf"] for each in repeated] == [first, first]
    assert repeated[0]["params"]["output"] == "x" * 400
    assert len(repeated[0]["name"]) < 200


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (swept(sweep={"setps": [1]}), {"/sweep/setps": "unknown_param"}),
        (swept(sweep={"steps": [1, "two", 3], "pace": ["slow"]}), {"/sweep/steps/1": "invalid_param", "/sweep/pace/0": "invalid_param"}),
        (swept(sweep={"steps": list(range(21))}), {"/sweep": "too_many_jobs"}),
        (swept(sweep={"steps": []}), {"/sweep/steps": "too_few"}),
        (swept(sweep={"steps": 3}), {"/sweep/steps": "wrong_type"}),
        (swept(sweep={}), {"/sweep": "invalid"}),
        ({"graph": {"schema": "langgraph.v1", "nodes": [node("a")], "edges": []}, "sweep": SWEEP}, {"/sweep": "nothing_to_sweep"}),
        ({"goal": "Speak 'hello'", "sweep": SWEEP}, {"/sweep": "nothing_to_sweep"}),
        (swept(pipeline="tael"), {"/pipeline": "unknown_pipeline"}),
    ],
    ids=str,
)  # fmt: skip
async def test_a_sweep_that_cannot_run_names_the_values_and_makes_nothing(
    house: Locked, body: Any, wanted: dict[str, str]
) -> None:
    before = len((await house.ask("alice", "GET", "/api/jobs?limit=500"))["jobs"])
    for path in ("/api/jobs", "/api/plans"):
        found = await refused(house, body, path=path)
        assert found == wanted
    assert len((await house.ask("alice", "GET", "/api/jobs?limit=500"))["jobs"]) == before


async def test_a_sweep_in_a_batch_is_refused_and_stops_no_other(house: Locked) -> None:
    items = [swept(), {"pipeline": "tale", "params": {"prompt": "one"}}]
    bad, good = (await house.ask("alice", "POST", "/api/jobs/batch", json={"jobs": items}))["jobs"]
    assert pointers(bad) == {"/sweep": "sweep_in_batch"}
    assert good["jobId"]


async def test_a_repeat_with_the_same_key_is_the_same_sweep(house: Locked) -> None:
    key = {"Idempotency-Key": new_id("key")}
    first = await house.ask("alice", "POST", "/api/jobs", 201, json=swept(), headers=key)
    again = await house.ask("alice", "POST", "/api/jobs", 200, json=swept(), headers=key)
    assert [each["jobId"] for each in again["jobs"]] == [each["jobId"] for each in first["jobs"]]
    assert (again["sweep"], again["combinations"]) == (first["sweep"], first["combinations"])
    problem = await house.ask("alice", "POST", "/api/jobs", 409, json=swept(tags=["b"]), headers=key)
    assert problem["code"] == "idempotency_key_reused"
    assert (await house.ask("bob", "POST", "/api/jobs", 201, json=swept(), headers=key))["sweep"] != first["sweep"]


async def test_a_sweep_that_was_cut_off_is_completed_by_its_repeat(house: Locked) -> None:
    """As if the process had died after the first jobs: the key is reserved and not yet marked."""
    name = new_id("key")
    key = {"Idempotency-Key": name}
    first = await house.ask("alice", "POST", "/api/jobs", 201, json=swept(), headers=key)
    stored = keys.idempotency("alice", name)
    value = (await house.client.get(stored)).decode()
    await house.client.set(stored, value.removesuffix(" created"), keepttl=True)
    lost = first["jobs"][3]["jobId"]
    await house.ended("alice", lost)
    await house.ask("alice", "DELETE", f"/api/jobs/{lost}", 204)
    again = await house.ask("alice", "POST", "/api/jobs", 201, json=swept(), headers=key)
    assert [each["jobId"] for each in again["jobs"]] == [each["jobId"] for each in first["jobs"]]
    assert (await house.ended("alice", lost))["status"] == "completed"


async def test_two_at_once_with_one_key_make_one_sweep(house: Locked) -> None:
    key = {"Idempotency-Key": new_id("key"), **house.of("alice")}
    answers = await asyncio.gather(*(house.http.post("/api/jobs", json=swept(), headers=key) for _ in range(2)))
    assert {answer.status_code for answer in answers} <= {200, 201}
    assert len({answer.json()["sweep"] for answer in answers}) == 1
    assert len({each["jobId"] for answer in answers for each in answer.json()["jobs"]}) == 6


async def test_a_sweep_beyond_the_limit_of_its_key_is_refused_before_it_is_planned(house: Locked) -> None:
    problem = await house.ask("few", "POST", "/api/jobs", 429, json=swept(sweep={"steps": ["wrong"] * 4}))
    assert problem["code"] == "quota_reached"
    assert "4 jobs" in problem["detail"]
    assert len((await house.ask("few", "POST", "/api/jobs", 201, json=swept(sweep={"steps": [1, 2, 3]})))["jobs"]) == 3


async def test_a_sweep_that_would_store_more_than_a_batch_may_hold_is_refused(house: Locked) -> None:
    """Each job stores the whole request, so a body that is allowed may come to hundreds of times its size."""
    body = swept(sweep={"steps": list(range(1, 21))}, metadata={"text": "x" * 3_500_000})
    for path in ("/api/jobs", "/api/plans"):
        assert await refused(house, body, path=path) == {"/sweep": "too_large"}


async def test_the_jobs_of_a_large_sweep_are_stored_a_few_at_a_time(
    house: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks: list[int] = []
    submit_many = Jobs.submit_many

    async def noted(self: Jobs, jobs: Any) -> Any:
        blocks.append(len(jobs))
        return await submit_many(self, jobs)

    monkeypatch.setattr(Jobs, "submit_many", noted)
    await house.ask("alice", "POST", "/api/jobs", 201, json=swept(metadata={"text": "x" * 600_000}))
    assert blocks == [2, 2, 2]


async def test_a_sweep_takes_one_of_the_few_turns_of_costly_requests(house: Locked) -> None:
    turns, key = house.served.state.access.costly_turns, house.ids["alice"]
    given = [await turns.take(key) for _ in range(max(1, house.served.settings.control.requests_per_key // 8))]
    async with asyncio.TaskGroup() as group:
        sent = group.create_task(house.ask("alice", "POST", "/api/jobs", 201, json=swept()))
        for _ in range(8):  # long enough for a sweep that waits for nothing
            await house.ask("alice", "POST", "/api/jobs", 201, json={"pipeline": "tale", "params": {"prompt": "one"}})
        assert not sent.done()
        for give_back in given:
            give_back()
    assert len(sent.result()["jobs"]) == 6


# Presets ----------------------------------------------------------------------------------------------------------------


async def test_a_preset_is_kept_used_replaced_and_deleted(house: Locked) -> None:
    name = "Schnell & gut 速い"
    made = await house.ask("alice", "PUT", f"{OF_TALE}/{name}", 201, json={"params": {"prompt": "Dawn", "steps": 9}})
    assert (made["name"], made["pipeline"], made["task"]) == (name, "tale", None)
    assert await house.ask("alice", "GET", f"{OF_TALE}/{name}") == made
    job = await house.ask(
        "alice", "POST", "/api/jobs", 201, json={"pipeline": "tale", "preset": name, "params": {"pace": 2}}
    )
    assert job["params"] == {"prompt": "Dawn", "steps": 9, "pace": 2}
    assert job["given"] == ["prompt", "steps", "pace"]
    again = await house.ask("alice", "PUT", f"{OF_TALE}/{name}", 200, json={"params": {"prompt": "Noon"}})
    assert (again["params"], again["created"]) == ({"prompt": "Noon"}, made["created"])
    await house.ask("alice", "PUT", "/api/presets/tasks/act/one", 201, json={"params": {"output": 1}})
    for query, names in (("", {name, "one"}), ("?pipeline=tale", {name}), ("?task=act", {"one"}), ("?task=x", set())):
        found = (await house.ask("alice", "GET", f"/api/presets{query}"))["presets"]
        assert {each["name"] for each in found} == names, query
    swept_job = {"task": "act", "preset": "one", "sweep": {"log": [1, 2]}}
    jobs = (await house.ask("alice", "POST", "/api/jobs", 201, json=swept_job))["jobs"]
    assert [each["params"]["output"] for each in jobs] == [1, 1]
    await house.ask("alice", "DELETE", f"{OF_TALE}/{name}", 204)
    assert (await house.ask("alice", "GET", f"{OF_TALE}/{name}", 404))["code"] == "unknown_preset"


async def test_presets_of_others_are_not_there(house: Locked) -> None:
    await house.ask("alice", "PUT", f"{OF_TALE}/hers", 201, json={"params": {"prompt": "secret"}})
    assert (await house.ask("bob", "GET", f"{OF_TALE}/hers", 404))["code"] == "unknown_preset"
    assert (await house.ask("bob", "DELETE", f"{OF_TALE}/hers", 404))["code"] == "unknown_preset"
    assert (await house.ask("bob", "GET", "/api/presets"))["presets"] == []
    assert await refused(house, {"pipeline": "tale", "preset": "hers"}, "bob") == {"/preset": "unknown_preset"}
    await house.ask("bob", "PUT", f"{OF_TALE}/hers", 201, json={"params": {"prompt": "his"}})
    assert (await house.ask("alice", "GET", f"{OF_TALE}/hers"))["params"] == {"prompt": "secret"}


async def test_a_preset_is_checked_when_it_is_used(house: Locked) -> None:
    await house.ask("alice", "PUT", f"{OF_TALE}/old", 201, json={"params": {"prompt": "x", "gone": 1, "steps": "two"}})
    assert (await refused(house, {"pipeline": "tale", "preset": "old"})).keys() == {"/params/gone", "/params/steps"}
    assert await refused(house, {"graph": {"schema": "langgraph.v1", "nodes": [node("a")], "edges": []}, "preset": "old"}) == {"/preset": "no_pipeline"}  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        (f"{OF_TALE}/x", {}, 422, "invalid_request"),
        (f"{OF_TALE}/x", {"params": []}, 422, "invalid_request"),
        (f"{OF_TALE}/%0a", {"params": {}}, 422, "bad_name"),
        (f"{OF_TALE}/%e2%80%ae", {"params": {}}, 422, "bad_name"),
        (f"{OF_TALE}/{'x' * 101}", {"params": {}}, 422, "bad_name"),
        ("/api/presets/moons/tale/x", {"params": {}}, 404, "unknown_preset"),
        ("/api/presets/pipelines/a:b/x", {"params": {}}, 404, "unknown_preset"),
        (f"{OF_TALE}/x", {"params": {"prompt": "x" * 66_000}}, 413, "preset_too_large"),
    ],
    ids=lambda value: str(value)[:60],
)
async def test_a_preset_that_cannot_be_one_is_refused(
    house: Locked, path: str, body: Any, status: int, code: str
) -> None:
    assert (await house.ask("alice", "PUT", path, status, json=body))["code"] == code


async def test_the_kinds_of_presets_are_named_where_another_is_given(house: Locked) -> None:
    found = await house.ask("alice", "PUT", "/api/presets/pipeline/tale/x", 404, json={"params": {}})
    assert found["detail"] == "presets are those of 'pipelines' and 'tasks', and not of 'pipeline'"


async def test_presets_that_come_together_are_no_more_than_an_owner_may_have(
    house: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(presets, "MOST", 2)
    kept = presets.Presets(house.client)
    puts = (kept.put("crowd", "tasks", "t", str(number), {}) for number in range(12))
    words = await asyncio.gather(*puts, return_exceptions=True)
    assert sum(isinstance(word, ApiProblem) for word in words) == 10
    assert len(await kept.all("crowd")) == 2


async def test_an_owner_has_a_bounded_number_of_presets(house: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "MOST", 2)
    for number in range(2):
        await house.ask("few", "PUT", f"{OF_TALE}/{number}", 201, json={"params": {}})
    assert (await house.ask("few", "PUT", f"{OF_TALE}/2", 409, json={"params": {}}))["code"] == "too_many_presets"
    await house.ask("few", "PUT", f"{OF_TALE}/1", 200, json={"params": {"steps": 2}})
