"""Edges say when a node runs; what it is given comes from its params, from `$from`, and by name from its parents."""

from typing import Any

from tests.fundamentals.drawing import ended, graph, node, nodes


def test_a_child_runs_after_its_parents_and_is_given_their_outputs_by_name(client: Any) -> None:
    drawn = graph(node("first", "shout", word="go"), node("second", "shout"), edges=[("first", "second")])
    job = ended(client, client.submit(graph=drawn))
    assert nodes(client, job)["second"]["output"] == {"word": "GO!!"}


def test_a_param_may_point_into_the_output_of_any_node_upstream(client: Any) -> None:
    drawn = graph(
        node("source", output={"list": [{"name": "first"}, {"name": "second"}]}),
        node("between"),
        node("taker", "shout", word={"$from": "source", "path": "/list/1/name"}),
        edges=[("source", "between"), ("between", "taker")],
    )
    job = ended(client, client.submit(graph=drawn))
    assert nodes(client, job)["taker"]["output"] == {"word": "SECOND!"}


def test_a_failure_goes_along_on_failure_and_the_job_is_well(client: Any) -> None:
    drawn = graph(
        node("risky", failAt=0), node("fine"), node("mend"), node("after", "shout", word="x"),
        edges=[("risky", "fine", "on_success"), ("risky", "mend", "on_failure"), ("fine", "after"), ("mend", "after")],
    )  # fmt: skip
    job = ended(client, client.submit(graph=drawn))
    assert job["status"] == "completed"
    assert {id: each["status"] for id, each in nodes(client, job).items()} == {
        "risky": "failed",
        "fine": "skipped",
        "mend": "completed",
        "after": "completed",
    }


def test_a_failure_that_nobody_handles_fails_the_job_and_skips_only_what_is_behind_it(client: Any) -> None:
    drawn = graph(node("bad", failAt=0), node("behind"), node("beside"), edges=[("bad", "behind")])
    job = ended(client, client.submit(graph=drawn))
    assert job["status"] == "failed"
    assert (job["error"]["code"], job["error"]["nodeId"]) == ("simulated_failure", "bad")
    found = {id: each["status"] for id, each in nodes(client, job).items()}
    assert found == {"bad": "failed", "behind": "skipped", "beside": "completed"}


def test_one_job_runs_on_both_planes(client: Any) -> None:
    drawn = graph(
        node("script", "generate_script", plane="node", prompt="A walk by the sea", lines=2),
        node("loud", "shout", word={"$from": "script", "path": "/script/title"}),
        edges=[("script", "loud")],
    )
    job = ended(client, client.submit(graph=drawn))
    assert nodes(client, job)["loud"]["output"]["word"].endswith("!")


def test_progress_is_weighted_and_one_at_the_end(client: Any) -> None:
    drawn = graph(node("short", progressWeight=1), node("long", progressWeight=3, steps=4), edges=[("short", "long")])
    job = client.submit(graph=drawn)
    seen = [event["progress"] for event in client.watch(job["jobId"]) if event["type"] == "progress"]
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_a_pipeline_is_a_graph_with_parameters(client: Any) -> None:
    known = {each["id"]: each for each in client.pipelines()["pipelines"]}
    assert "steps" in known["simulate"]["params"]["properties"]
    job = ended(client, client.submit(pipeline="simulate", params={"steps": 2}))
    assert (job["status"], job["pipeline"]) == ("completed", "simulate")
