"""Every problem of a document, where it is and in words."""

import json
from importlib.resources import files

from jsonschema import Draft202012Validator

from dihedral.schemas.documents import problems_of, sources, validator


def test_all_problems_are_found_at_once_with_their_places() -> None:
    node = {"id": "a/", "task": 3, "plane": "gpu", "retries": {"maxAttempts": 0}, "tags": [""]}
    request = {
        "graph": {"schema": "x", "nodes": [node], "edges": 3, "a/b~c": 1},
        "startAt": "tomorrow",
        "params": [],
        "priority": "urgent",
    }
    assert {(pointer, code) for pointer, code, _ in problems_of(request, "request", "JobRequest")} == {
        ("/graph/schema", "not_one_of"),
        ("/graph/nodes/0/id", "bad_pattern"),
        ("/graph/nodes/0/task", "wrong_type"),
        ("/graph/nodes/0/plane", "not_one_of"),
        ("/graph/nodes/0/retries/maxAttempts", "too_small"),
        ("/graph/nodes/0/tags/0", "too_short"),
        ("/graph/edges", "wrong_type"),
        ("/graph/a~1b~0c", "unknown_field"),
        ("/startAt", "bad_format"),
        ("/params", "wrong_type"),
        ("/priority", "not_one_of"),
    }


def test_every_missing_field_is_named() -> None:
    found = problems_of({}, "submission", "NodeSubmission")
    assert found == [("", "missing_field", f"'{name}' is missing") for name in ("id", "task", "plane")]


def test_a_tagged_message_is_judged_by_its_tag() -> None:
    def found(message: object) -> list[tuple[str, str, str]]:
        return problems_of(message, "websocket", "ClientMessage")

    assert found({"action": "subscribe", "jobId": "j", "after": -1}) == [
        ("/after", "too_small", "-1 is less than the minimum of 0")
    ]
    assert found({"action": "unsubscribe", "jobId": "j", "after": 1}) == [
        ("/after", "unknown_field", "there is no field 'after'")
    ]
    assert found({"action": "publish", "jobId": "j"}) == [
        ("/action", "not_one_of", "'publish' is not one of 'subscribe', 'unsubscribe'")
    ]
    assert found([])[0][:2] == ("", "wrong_type")


def test_a_nullable_field_is_judged_by_what_it_holds() -> None:
    event = {"type": "status", "seq": 1, "created": "2026-11-24T04:05:06.789Z", "status": "queued", "progress": 0}
    event |= {"attempt": 1, "error": {"code": "", "message": 5, "details": {}}}
    assert {row[:2] for row in problems_of(event, "events", "Event")} == {
        ("/error", "missing_field"),
        ("/error/code", "too_short"),
        ("/error/message", "wrong_type"),
    }


def test_no_more_than_the_limit_is_said_and_no_value_at_length() -> None:
    edges = [{"from": "x" * 10_000, "to": "b"}] * 150
    graph = {"schema": "langgraph.v1", "nodes": [{"id": "a", "task": "t", "plane": "node"}], "edges": edges}
    found = problems_of(graph, "submission", "GraphSubmission")
    assert len(found) == 100
    assert max(len(detail) for _, _, detail in found) <= 301
    assert len(problems_of(graph, "submission", "GraphSubmission", limit=3)) == 3


def test_deep_nesting_is_a_problem_and_no_crash() -> None:
    deep: object = 1
    for _ in range(100_000):
        deep = [deep]
    assert problems_of({"graph": deep}, "request", "JobRequest")[0][1] in {"wrong_type", "too_deep"}


def test_a_good_document_has_no_problem() -> None:
    assert problems_of({"pipeline": "simulate", "startAt": "2027-01-01T00:00:00+01:00"}, "request", "JobRequest") == []


def test_the_schemas_are_read_from_the_package_and_are_schemas() -> None:
    packed = sorted(
        path.name for folder in files("dihedral.schemas").iterdir() if folder.is_dir() for path in folder.iterdir()
    )
    assert sorted(f"{stem}.schema.json" for stem in sources()) == [
        name for name in packed if name.endswith(".schema.json")
    ]
    for stem, document in sources().items():
        Draft202012Validator.check_schema(document)
        assert document["$id"] == f"dihedral:{stem}"


def test_every_reference_leads_somewhere() -> None:
    for stem, document in sources().items():
        for name in document["$defs"]:
            assert isinstance(validator(stem, name).is_valid(json.loads("[]")), bool)
