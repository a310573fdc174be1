"""Tasks are decorated functions, described by their types; files travel by reference through the artifact store."""

from pathlib import Path
from typing import Any

import pytest

from dihedral.client import Refused
from tests.fundamentals.drawing import ended, graph, node, nodes


def test_a_task_is_described_by_its_types(client: Any) -> None:
    known = {each["id"]: each for each in client.capabilities()["capabilities"]}
    shout = known["shout"]
    assert shout["description"] == "Says it louder."
    assert shout["io"]["input"]["required"] == ["word"]
    assert shout["runtime"]["light"], "an async function runs in the worker"
    assert not known["heavy"]["runtime"]["light"], "a plain one in a slot"


def test_params_are_checked_before_anything_runs(client: Any) -> None:
    with pytest.raises(Refused) as refusal:
        client.submit(graph=graph(node("a", "shout", word=7, volume=11)))
    assert {error["pointer"] for error in refusal.value.problem["errors"]} == {
        "/graph/nodes/0/params/word",
        "/graph/nodes/0/params/volume",
    }


def test_what_a_task_prints_becomes_its_log(client: Any) -> None:
    job = client.submit(graph=graph(node("a", "heavy", word="live")))
    said = [event["message"] for event in client.watch(job["jobId"]) if event["type"] == "log"]
    assert said == ["this was printed"]


def test_a_file_goes_in_and_comes_out(client: Any, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("from outside")
    meta = client.upload(tmp_path / "in.txt")
    assert (meta["bucket"], meta["size_bytes"]) == ("inputs", 12)
    job = ended(client, client.submit(graph=graph(node("a", "count_bytes", word="grüße"))))
    assert nodes(client, job)["a"]["output"] == {"word": "7"}
    (made,) = job["artifacts"]
    assert (made["job_id"], made["node_id"], made["content_type"]) == (job["jobId"], "a", "text/plain")
    assert client.download(made, tmp_path).read_text() == "grüße"
    assert client.download(meta, tmp_path / "again.txt").read_text() == "from outside"


def test_who_serves_the_jobs_is_listed(client: Any) -> None:
    workers = {each["plane"]: each for each in client.workers()["workers"]}
    assert workers["python"]["slots"] == 2
    assert {"plane": "python", "pool": "default"}.items() <= client.queues()["queues"][1].items()
