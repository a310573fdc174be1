"""Goals over REST: planned for nothing, run where they are certain, refused with their questions where they are not."""

import json
from typing import Any

import pytest

from dihedral.bridge.fabric import keys
from dihedral.schemas.structs.control_plane import LlmKind, LlmSettings
from tests.control_plane.served import Served, graph, new_id, node, pointers
from tests.control_plane.test_access import house  # noqa: F401 - a fixture
from tests.control_plane.test_tasks import endpoint, says

pytestmark = pytest.mark.asyncio(loop_scope="session")

SCRIPT = {"goal": "Write a script about bees with 3 lines"}


async def test_a_goal_is_planned_and_nothing_is_stored(served: Served) -> None:
    before = await served.planes.client.dbsize()
    plan = await served.post("/api/plans", SCRIPT, 200)
    assert [each["task"] for each in plan["graph"]["nodes"]] == ["generate_script"]
    assert plan["graph"]["nodes"][0]["params"] == {"prompt": "bees", "lines": 3}
    assert (plan["certain"], plan["questions"], plan["by"], plan["model"], plan["rounds"]) == (
        True,
        [],
        "matcher",
        None,
        0,
    )
    assert plan["estimate"] | {"seconds": None} == {"nodes": 1, "gpuNodes": 0, "memoryMiB": 0, "seconds": None}
    assert {each["param"] for each in plan["reasons"]} == {None, "prompt", "lines"}
    assert any("a template writes the script" in each for each in plan["assumptions"])
    assert await served.planes.client.dbsize() <= before + 1  # the counter of the limit


async def test_the_graph_of_a_plan_is_a_submission(served: Served) -> None:
    plan = await served.post("/api/plans", SCRIPT, 200)
    again = await served.post("/api/plans", {"graph": plan["graph"]}, 200)
    assert again["nodes"][0]["params"] == plan["graph"]["nodes"][0]["params"]


async def test_a_certain_goal_runs_and_the_job_keeps_how_it_was_planned(served: Served) -> None:
    job = await served.post("/api/jobs", SCRIPT)
    ended = await served.ended(job["jobId"])
    assert ended["status"] == "completed", ended
    kept = (await served.get(f"/api/jobs/{job['jobId']}/graph"))["metadata"]["plan"]
    assert (kept["goal"], kept["by"], kept["rounds"]) == (SCRIPT["goal"], "matcher", 0)
    output = (await served.nodes(job["jobId"]))["generate_script"]["output"]
    assert len(output["script"]["lines"]) == 3


async def test_an_open_goal_is_refused_with_its_questions_and_runs_with_their_answers(served: Served) -> None:
    goal = {"goal": "Write a script"}
    problem = await served.post("/api/jobs", goal, 422)
    assert problem["code"] == "needs_answer"
    assert pointers(problem) == {"/answers/generate_script.prompt": "needs_answer"}
    job = await served.post("/api/jobs", {**goal, "answers": {"generate_script.prompt": "wasps"}})
    assert (await served.nodes(job["jobId"]))["generate_script"]["params"]["prompt"] == "wasps"


async def test_a_goal_that_no_task_meets_is_a_question_and_no_graph(served: Served) -> None:
    plan = await served.post("/api/plans", {"goal": "order a pizza"}, 200)
    assert "graph" not in plan
    assert not plan["certain"]
    assert plan["questions"]
    assert (await served.post("/api/jobs", {"goal": "order a pizza"}, 422))["code"] == "needs_answer"


@pytest.mark.parametrize("beside", [{"pipeline": "held"}, {"graph": graph(node("a"))}, {"params": {}}])
async def test_a_goal_stands_alone(served: Served, beside: dict[str, Any]) -> None:
    for path in ("/api/plans", "/api/jobs"):
        assert pointers(await served.post(path, {**SCRIPT, **beside}, 422)) == {"": "graph_or_pipeline"}


async def test_a_batch_takes_no_goals(served: Served) -> None:
    answer = await served.post("/api/jobs/batch", {"jobs": [SCRIPT, {"pipeline": "held"}]}, 200)
    assert pointers(answer["jobs"][0]) == {"/goal": "goal_in_batch"}
    assert answer["jobs"][1]["status"]


async def test_files_that_are_not_there_are_planned_by_their_suffix_and_said_so(served: Served) -> None:
    plan = await served.post(
        "/api/plans",
        {"goal": "Check that these files exist", "files": [{"bucket": "inputs", "key": "no/such.png"}]},
        200,
    )
    assert plan["graph"]["nodes"][0]["params"] == {"assets": [{"bucket": "inputs", "key": "no/such.png"}]}
    assert any("not in the store" in each for each in plan["assumptions"])


async def test_the_same_goal_with_an_idempotency_key_is_one_job(served: Served) -> None:
    first = await served.post("/api/jobs", SCRIPT, 201, idempotency_key="goal-1")
    again = await served.post("/api/jobs", SCRIPT, 200, idempotency_key="goal-1")
    assert again["jobId"] == first["jobId"]


async def test_a_job_is_changed_by_a_goal(served: Served) -> None:
    job = await served.post("/api/jobs", SCRIPT)
    plan = await served.post("/api/plans", {"goal": "the same, but with 5 lines", "change": job["jobId"]}, 200)
    assert plan["graph"]["nodes"][0]["params"] == {"prompt": "bees", "lines": 5}
    assert plan["certain"], plan
    changed = await served.post("/api/plans", {"goal": "the same, but about wasps", "change": plan["graph"]}, 200)
    assert changed["graph"]["nodes"][0]["params"] == {"prompt": "wasps", "lines": 5}
    assert (await served.post("/api/plans", {"goal": "slower", "change": "no-such-job"}, 404))["code"] == "unknown_job"


async def test_what_a_job_left_is_not_read_to_change_it(served: Served) -> None:
    outputs = [node(f"n{number}", output="x" * 200_000) for number in range(20)]
    job = await served.submit(*outputs)
    await served.ended(job)
    client = served.planes.client
    before = (await client.info("stats"))["total_net_output_bytes"]
    await served.post("/api/plans", {"goal": "the same, but with 5 lines", "change": job}, 200)
    sent = (await client.info("stats"))["total_net_output_bytes"] - before
    graph = len(await client.hget(f"job:{job}", "graph") or b"")
    assert sent < graph + 2_000_000  # of 4 MB of outputs beside it


async def test_a_change_that_changes_nothing_is_a_question(served: Served) -> None:
    plan = await served.post("/api/plans", {"goal": "the same, but at night", "change": graph(node("a"))}, 200)
    assert not plan["certain"]
    assert plan["questions"]


async def test_a_key_may_have_so_many_goals_planned_in_a_minute_and_submits_all_the_same(served: Served) -> None:
    before = served.settings.planner.per_minute
    served.settings.planner.per_minute = 2
    try:
        for name in await served.planes.client.keys("plans:*"):
            await served.planes.client.delete(name)
        answers = [await served.http.post("/api/plans", json=SCRIPT) for _ in range(4)]
        refused = [each for each in answers if each.status_code == 429]
        assert len(refused) >= 1  # four within two minutes at most
        assert refused[0].json()["code"] == "plans_limited"
        assert 0 < int(refused[0].headers["retry-after"]) <= 60
        await served.post("/api/jobs", {"pipeline": "held"})
        for name in await served.planes.client.keys("plans:*"):
            assert 0 < await served.planes.client.ttl(name) <= 120
    finally:
        served.settings.planner.per_minute = before
    assert keys.plans("k", 5) == "plans:k:5"


async def test_bad_shapes_of_a_goal_are_named(served: Served) -> None:
    assert "/goal" in pointers(await served.post("/api/plans", {"goal": "x" * 4001}, 422))
    assert "/files/0" in " ".join(
        pointers(await served.post("/api/plans", {"goal": "x", "files": [{"bucket": "A"}]}, 422))
    )
    assert "/change" in " ".join(pointers(await served.post("/api/plans", {"goal": "x", "change": 5}, 422)))


async def test_the_file_of_another_owner_is_planned_as_one_that_is_not_there(house: Any) -> None:  # noqa: F811
    put = await house.http.post(
        "/api/artifacts", files={"file": ("secret.txt", b"the secret text", "text/plain")}, headers=house.of("alice")
    )
    assert put.status_code in (200, 201), put.text
    ref = {"bucket": put.json()["bucket"], "key": put.json()["key"]}
    body = {"goal": "Store the text of this file as copy.txt", "files": [ref]}
    mine = (await house.http.post("/api/plans", json=body, headers=house.of("alice"))).json()
    theirs = (await house.http.post("/api/plans", json=body, headers=house.of("bob"))).json()
    assert "the secret text" in str(mine)
    assert "the secret text" not in str(theirs)
    assert any("not in the store" in each for each in theirs["assumptions"])


# Evaluation ------------------------------------------------------------------------------------------------------------

LINES = {"node": "a", "param": "lines", "value": 4, "factor": 0.5, "whole": True}
RULE = {"node": "a", "id": "lines", "label": "short", "value": {"$from": "a", "path": "/script/lines"}, "most": 2}


def evaluated(**repair: Any) -> dict[str, Any]:
    writes = node("a", task="generate_script", plane="node", prompt="bees", lines=4)
    checks = node("e", task="evaluate_results", plane="node", checks=[{**RULE, "repair": {**LINES, **repair}}])
    return {"graph": graph(writes, checks, edges=[{"from": "a", "to": "e"}])}


async def test_a_goal_with_evaluate_has_a_node_that_holds_its_results_against_it(served: Served) -> None:
    assert len((await served.post("/api/plans", {**SCRIPT, "evaluate": False}, 200))["graph"]["nodes"]) == 1
    job = await served.post("/api/jobs", {**SCRIPT, "evaluate": True})
    assert (await served.ended(job["jobId"]))["status"] == "completed"
    output = (await served.nodes(job["jobId"]))["evaluate"]["output"]
    assert (output["passed"], output["nextAttempt"]) == (True, None)
    assert [(each["value"], each["most"]) for each in output["findings"]] == [(3, 3)]


async def test_what_is_not_as_asked_is_tried_once_more_with_its_reason_and_not_a_third_time(served: Served) -> None:
    job = await served.post("/api/jobs", evaluated(factor=0.75))
    await served.ended(job["jobId"])
    output = (await served.nodes(job["jobId"]))["e"]["output"]
    again = await served.ended(output["nextAttempt"])
    assert (again["jobId"], again["rerunOf"]) == (f"{job['jobId']}-2", job["jobId"])
    nodes = await served.nodes(again["jobId"])
    assert nodes["a"]["params"] == {"prompt": "bees", "lines": 3}
    assert "output" in nodes["e"], nodes["e"]
    assert (nodes["e"]["output"]["passed"], nodes["e"]["output"]["nextAttempt"]) == (False, None)
    told = (await served.get(f"/api/jobs/{again['jobId']}/graph"))["metadata"]["plan"]
    assert (told["attempt"], told["of"], told["changed"]) == (2, job["jobId"], {"a": {"lines": 3}})
    assert told["reason"] == output["reason"]
    assert (await served.get(f"/api/jobs/{job['jobId']}-2-2", 404))["code"]


async def test_the_second_attempt_is_asked_for_as_the_first_was(served: Served) -> None:
    wanted = evaluated()
    wanted["graph"]["nodes"][0] |= {"pool": "default", "retries": {"maxAttempts": 4}}
    wanted["graph"]["edges"][0]["metadata"] = {"line": "dashed"}
    wanted["graph"]["context"] = {"house": "of bees"}
    secret = "whsec_" + "A" * 32
    webhook = {"url": "https://hooks.invalid/ended", "secret": secret}
    more = {"priority": "high", "tags": ["mine"], "metadata": {"ticket": 7}, "webhook": webhook}
    job = await served.post("/api/jobs", {**wanted, **more})
    await served.ended(job["jobId"])
    again = await served.ended(f"{job['jobId']}-2")
    assert (again["priority"], again["tags"]) == ("high", ["mine"])
    made = await served.get(f"/api/jobs/{again['jobId']}/graph")
    assert (made["nodes"][0]["pool"], made["nodes"][0]["retries"]["maxAttempts"]) == ("default", 4)
    assert (made["edges"][0]["metadata"], made["context"]) == ({"line": "dashed"}, {"house": "of bees"})
    assert made["metadata"]["ticket"] == 7
    assert await served.planes.client.get(f"webhooks:job:{again['jobId']}") is not None


async def test_a_job_that_has_the_id_of_the_second_attempt_is_not_taken_for_it(house: Any) -> None:  # noqa: F811
    job = new_id()
    other = {"graph": graph(node("x", task="generate_script", plane="node", prompt="hers", lines=1))}
    other["graph"]["workflowId"] = f"{job}-2"
    first = evaluated()
    first["graph"]["workflowId"] = job
    for body, name in ((other, "bob"), (first, "alice")):
        answer = await house.http.post("/api/jobs", json=body, headers=house.of(name))
        assert answer.status_code == 201, answer.text
    await house.ended("alice", job)
    nodes = (await house.http.get(f"/api/jobs/{job}/graph", headers=house.of("alice"))).json()["nodes"]
    assert nodes[1]["output"]["nextAttempt"] == f"{job}-3"
    assert (await house.ended("alice", f"{job}-3"))["rerunOf"] == job


async def test_the_second_attempt_belongs_to_the_owner_of_the_first(house: Any) -> None:  # noqa: F811
    job = (await house.http.post("/api/jobs", json=evaluated(), headers=house.of("alice"))).json()

    async def found() -> Any:
        answer = await house.http.get(f"/api/jobs/{job['jobId']}-2", headers=house.of("alice"))
        return answer.json() if answer.status_code == 200 else None

    assert (await house.served.becomes(found))["rerunOf"] == job["jobId"]
    assert (await house.http.get(f"/api/jobs/{job['jobId']}-2", headers=house.of("bob"))).status_code == 404


async def test_a_plan_tells_how_long_such_jobs_took(served: Served) -> None:
    async def known() -> Any:  # runs that follow one another closely are not all noted
        await served.ended((await served.post("/api/jobs", SCRIPT))["jobId"])
        return (await served.post("/api/plans", SCRIPT, 200))["estimate"]["seconds"] is not None

    before, served.settings.planner.per_minute = (
        served.settings.planner.per_minute,
        0,
    )  # durations are read anew after ten seconds
    try:
        await served.becomes(known)
    finally:
        served.settings.planner.per_minute = before
    late = await served.post("/api/plans", {**SCRIPT, "budgetSeconds": 0.0001}, 200)
    assert late["estimate"]["seconds"] >= 0
    assert (await served.post("/api/plans", {**SCRIPT, "budgetSeconds": 3600}, 200))["certain"]


async def test_what_no_parameter_mends_is_tried_in_another_way(served: Served) -> None:
    wanted = evaluated()
    params = wanted["graph"]["nodes"][1]["params"]
    del params["checks"][0]["repair"]
    params["variants"] = [{"node": "a", "label": "five lines", "params": {"lines": 5}}]
    job = await served.post("/api/jobs", wanted)
    await served.ended(job["jobId"])
    again = await served.ended(f"{job['jobId']}-2")
    assert (await served.nodes(again["jobId"]))["a"]["params"]["lines"] == 5
    told = (await served.get(f"/api/jobs/{again['jobId']}/graph"))["metadata"]["plan"]
    assert told["reason"].endswith("; a is done by five lines")


async def test_a_node_that_becomes_an_evaluation_starts_no_third_attempt(served: Served) -> None:
    params: dict[str, Any] = {"checks": [{**RULE, "value": 3, "node": "b"}]}
    params["variants"] = [{"node": "b", "label": "more", "task": "evaluate_results", "params": {"checks": []}}]
    merge, checks = (
        node("b", task="merge_capabilities", plane="node"),
        node("e", task="evaluate_results", plane="node", **params),
    )
    job = await served.post("/api/jobs", {"graph": graph(merge, checks)})
    await served.ended(job["jobId"])
    again = await served.ended(f"{job['jobId']}-2")
    found = await served.nodes(again["jobId"])
    assert [(found[name]["task"], found[name]["params"]["attempt"]) for name in "be"] == [("evaluate_results", 2)] * 2


async def test_a_goal_is_judged_by_the_model_that_is_set(served: Served) -> None:
    """The results as they were stored, over the wire; what it says of them is the last finding."""
    text = json.dumps({"verdict": "not met", "reason": "it says farewell", "variant": -1})
    before = served.settings.llm
    async with endpoint(says(text, "openai")) as other:
        served.settings.llm = LlmSettings(endpoint=other.url, kind=LlmKind.openai, model="scripted", timeout_seconds=30)
        try:
            goal = {"goal": "Store the text 'goodbye' as greeting.txt", "evaluate": True}
            job = await served.post("/api/jobs", goal)
            await served.ended(job["jobId"])
        finally:
            served.settings.llm = before
    found = (await served.nodes(job["jobId"]))["evaluate"]["output"]
    assert (found["passed"], found["nextAttempt"]) == (False, None)
    assert found["findings"][-1]["label"] == "as the language model sees it: it says farewell"
    (request,) = other.asked
    told = json.loads(request.document["messages"][1]["content"])
    assert told["goal"] == goal["goal"]
    assert json.loads(told["results"][0]["output"])["sizeBytes"] == len("goodbye")
