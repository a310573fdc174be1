"""Every problem of a plan at once, each where it stands; nothing said against a plan that may work."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.planning.plan import MAX_PROBLEMS, memory_problems, normalise, problems, routes
from dihedral.control_plane.planning.schema_check import Check
from dihedral.schemas.structs.capability import TaskKind
from dihedral.schemas.structs.graph import Graph, Plane
from dihedral.schemas.structs.worker import DeviceInfo, WorkerInfo
from tests.graphs.making import CAPABILITIES, INTEGER, capability, closed, graph, submission

TYPED = {"task": "typed", "params": {"steps": 3}}


def found(plan: Graph) -> list[tuple[str, str]]:
    return [(problem.pointer, problem.code) for problem in problems(plan, CAPABILITIES)]


def nested(depth: int) -> Any:
    value: Any = {}
    for _ in range(depth - 1):
        value = {"x": value}
    return value


def test_a_sound_plan_has_no_problems() -> None:
    nodes: list[Any] = [{"id": "a", "task": "maker"}, {"id": "b", "task": "typed"}, {"id": "c", **TYPED}]
    assert found(graph(nodes, [("a", "b"), ("a", "c", "on_failure"), ("b", "c")])) == []


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        (graph([{"id": "a", "task": "opne"}]), [("/nodes/0/task", "unknown_task")]),
        (graph([{"id": "a", "plane": "node"}]), [("/nodes/0/plane", "wrong_plane")]),
        (graph([{"id": "a", "timeoutSeconds": 61}]), [("/nodes/0/timeoutSeconds", "timeout_too_long")]),
        (graph(["a", "b", "a"]), [("/nodes/2/id", "duplicate_id")]),
        (graph("ab", [("a", "b"), ("a", "x")]), [("/edges/1/to", "unknown_node")]),
        (graph("ab", [("x", "y")]), [("/edges/0/from", "unknown_node"), ("/edges/0/to", "unknown_node")]),
        (graph("ab", [("a", "a")]), [("/edges/0", "self_edge")]),
        (graph("ab", [("a", "b"), ("a", "b")]), [("/edges/1", "duplicate_edge")]),
        (graph("ab", [("a", "b"), ("a", "b", "on_failure")]), []),
        (graph([{"id": "a", "params": nested(64)}]), []),
        (graph([{"id": "a", "params": nested(66)}]), [("/nodes/0/params", "too_deep")]),
        (graph([{"id": "a", "input": nested(66)}]), [("/nodes/0/input", "too_deep")]),
        (graph("a", context=nested(66), metadata=nested(66)), [("/context", "too_deep"), ("/metadata", "too_deep")]),
    ],
)
def test_what_is_wrong_with_the_graph_is_named(plan: Graph, expected: list[tuple[str, str]]) -> None:
    assert found(plan) == expected


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        ({"params": {"steps": 3}}, []),
        ({"params": {"steps": 3.0}}, []),
        ({"params": {"steps": 11}}, [("/nodes/0/params/steps", "invalid_param")]),
        ({"params": {"steps": True}}, [("/nodes/0/params/steps", "invalid_param")]),
        ({"params": {"steps": 3, "a/b~": 1}}, [("/nodes/0/params/a~1b~0", "unknown_param")]),
        ({"params": {"steps": 3, "names": ["x", 1]}}, [("/nodes/0/params/names/1", "invalid_param")]),
        ({}, [("/nodes/0/params", "missing_param")]),
        ({"input": {"steps": 3, "else": 1}}, []),
        ({"input": {"steps": 0}}, [("/nodes/0/input/steps", "invalid_param")]),
        ({"params": {"steps": 3}, "input": {"steps": 0}}, []),
        (
            {"params": {"steps": 0, "more": 1, "names": 3}},
            [
                ("/nodes/0/params/more", "unknown_param"),
                ("/nodes/0/params/names", "invalid_param"),
                ("/nodes/0/params/steps", "invalid_param"),
            ],
        ),
    ],
)
def test_params_are_held_against_the_task(node: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert sorted(found(graph([{"id": "a", "task": "typed", **node}]))) == expected


def test_what_a_parent_may_supply_is_not_missing_and_what_none_supplies_is() -> None:
    typed = {"id": "b", "task": "typed"}
    assert found(graph(["a", typed], [("a", "b")])) == []
    assert found(graph([{"id": "a", "task": "maker"}, typed], [("a", "b")])) == []
    overlaid = {**typed, "input": {"steps": 0}}
    assert found(graph([{"id": "a", "task": "maker"}, overlaid], [("a", "b")])) == []
    wants = {**CAPABILITIES, "wants": capability("wants", closed(["other"], other={"type": "string"}))}
    plan = graph([{"id": "a", "task": "maker"}, {"id": "b", "task": "wants"}], [("a", "b")])
    assert [(each.pointer, each.code) for each in problems(plan, wants)] == [("/nodes/1/params", "missing_param")]


@pytest.mark.parametrize(
    ("field", "is_misfit"),
    [
        ({"type": "string"}, True), ({"anyOf": [{"type": "object"}, {"type": "null"}]}, True), ({"$ref": "#/$defs/Text"}, True),
        ({"type": "integer"}, False), ({"type": "number"}, False), ({"type": ["string", "integer"]}, False), ({}, False),
        ({"anyOf": [{"type": "string"}, {}]}, False),
    ],
)  # fmt: skip
def test_what_a_parent_would_fill_in_by_name_is_of_the_type_that_the_task_takes(
    field: dict[str, Any], is_misfit: bool
) -> None:
    inputs = {**closed([], steps=field), "$defs": {"Text": {"type": "string"}}}
    known = {**CAPABILITIES, "wants": capability("wants", inputs)}
    nodes: list[str | dict[str, Any]] = [{"id": "a", "task": "maker"}, {"id": "b", "task": "wants"}]
    codes = [(each.pointer, each.code) for each in problems(graph(nodes, [("a", "b")]), known)]
    assert codes == ([("/nodes/1/params", "misfit_param")] if is_misfit else [])
    set_itself = {"id": "b", "task": "wants", "params": {"steps": {"$from": "a", "path": "/steps"}}}
    assert problems(graph([nodes[0], set_itself], [("a", "b")]), known) == []
    assert problems(graph(["a", nodes[1]], [("a", "b")]), known) == []
    assert problems(graph(nodes, [("a", "b", "on_failure")]), known) == []  # who failed has no output


def test_what_may_be_null_on_both_sides_fits_although_nothing_else_does() -> None:
    def either(kind: str) -> dict[str, Any]:
        return {"anyOf": [{"type": kind}, {"type": "null"}]}

    gives = capability("gives", closed([]), closed(["other"], other=either("string")))
    nodes: list[str | dict[str, Any]] = [{"id": "a", "task": "gives"}, {"id": "b", "task": "wants"}]
    for takes, codes in ((either("object"), []), ({"type": "object"}, ["misfit_param"])):
        known = {**CAPABILITIES, "gives": gives, "wants": capability("wants", closed([], other=takes))}
        assert [each.code for each in problems(graph(nodes, [("a", "b")]), known)] == codes


def test_what_only_a_failed_node_could_supply_is_missing() -> None:
    nodes: list[str | dict[str, Any]] = [{"id": "a", "task": "maker"}, {"id": "b", "task": "typed"}]
    assert found(graph(nodes, [("a", "b", "on_failure")])) == [("/nodes/1/params", "missing_param")]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"$from": "a", "path": "/steps"}, []),
        ({"$from": "a", "path": "/step", "default": 1}, []),
        ({"$from": "a", "path": "/step"}, [("/path", "unknown_output")]),
        ({"$from": "a", "path": "steps"}, [("/path", "bad_pointer")]),
        ({"$from": "a", "path": "/~2"}, [("/path", "bad_pointer")]),
        ({"$from": "a", "path": 3}, [("/path", "bad_pointer")]),
        ({"$from": 3}, [("/$from", "bad_reference")]),
        ({"$from": "a", "extra": 3}, [("/extra", "bad_reference")]),
        ({"$from": "a", "path": "/steps", "most": 9}, []),
        ({"$from": "a", "most": 0}, [("/most", "bad_reference")]),
        ({"$from": "a", "most": True}, [("/most", "bad_reference")]),
        ({"$from": "a", "default": {"$from": "a"}}, [("/default", "bad_reference")]),
        ({"$from": "c"}, [("/$from", "not_upstream")]),
        ({"$from": "b"}, [("/$from", "not_upstream")]),
        ({"$from": "x"}, [("/$from", "unknown_node")]),
    ],
)
def test_a_reference_is_checked_as_far_as_a_plan_can_tell(
    value: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    for params, at in (({"steps": value}, "steps"), ({"steps": 1, "names": [value]}, "names/0")):
        nodes: list[Any] = [{"id": "a", "task": "maker"}, {"id": "b", "task": "typed", "params": params}, "c"]
        assert found(graph(nodes, [("a", "b"), ("b", "c")])) == [
            (f"/nodes/1/params/{at}{end}", code) for end, code in expected
        ]


def test_a_source_need_not_be_a_parent_only_upstream() -> None:
    plan = graph(["a", "b", {"id": "c", "params": {"x": {"$from": "a"}}}], [("a", "b"), ("b", "c")])
    assert found(plan) == []


def test_cycles_that_share_no_node_are_each_named_in_the_direction_of_their_edges() -> None:
    plan = graph("abcdex", [("a", "b"), ("b", "c"), ("c", "a"), ("c", "x"), ("d", "e"), ("e", "d")])
    details = [problem.detail for problem in problems(plan, CAPABILITIES)]
    assert [problem.code for problem in problems(plan, CAPABILITIES)] == ["cycle", "cycle"]
    arrows = [detail.split(": ")[1].split(" → ") for detail in details]
    edges = {(edge.from_, edge.to) for edge in plan.edges}
    for names in arrows:
        assert set(itertools.pairwise(names)) <= edges
    assert [set(names) for names in arrows] == [set("abc"), set("de")]


def test_a_cycle_of_2000_nodes_is_found_without_recursion() -> None:
    names = [f"n{i}" for i in range(2000)]
    plan = graph(names, [*itertools.pairwise(names), (names[-1], names[0])])
    assert [problem.code for problem in problems(plan, CAPABILITIES)] == ["cycle"]


def test_all_problems_are_named_at_once_up_to_the_limit() -> None:
    nodes = [{"id": "a", "task": "x"}, {"id": "a", "plane": "node"}, {"id": "b", "task": "typed"}]
    assert found(graph(nodes, [("a", "a"), ("b", "x")])) == [
        ("/nodes/1/id", "duplicate_id"),
        ("/edges/0", "self_edge"),
        ("/edges/1/to", "unknown_node"),
        ("/nodes/0/task", "unknown_task"),
        ("/nodes/1/plane", "wrong_plane"),
        ("/nodes/2/params", "missing_param"),
    ]
    assert len(found(graph([{"id": f"n{i}", "task": "x"} for i in range(500)]))) == MAX_PROBLEMS


def test_too_many_nodes_is_a_problem_of_its_own() -> None:
    plan = graph("a")
    plan.nodes *= planning.MAX_NODES + 1
    assert found(plan)[0] == ("/nodes", "too_many_nodes")


def test_a_normalised_graph_has_every_default_and_nothing_of_an_earlier_run() -> None:
    again = {"id": "a", "status": "pending", "output": 1, "retries": {"attempt": 3, "maxAttempts": 4}}
    loose = submission([again, "b"], [("a", "b")])
    made = msgspec.to_builtins(normalise(loose, "job"))
    common = {"task": "open", "plane": "python", "status": "pending", "params": {}, "tags": [], "progressWeight": 1.0}
    assert made == {
        "schema": "langgraph.v1",
        "workflowId": "job",
        "nodes": [
            {"id": "a", **common, "retries": {"attempt": 0, "maxAttempts": 4}},
            {"id": "b", **common, "retries": {"attempt": 0, "maxAttempts": 1}},
        ],
        "edges": [{"from": "a", "to": "b", "kind": "normal", "metadata": {}}],
        "context": {},
        "metadata": {},
    }


def test_routes_say_what_the_manifest_says() -> None:
    made = routes(graph([{"id": "a", "task": "maker"}, "b"]), CAPABILITIES)
    assert (made["a"].light, made["b"].light, made["a"].pool, made["a"].timeout_seconds) == (True, False, "default", 60)


# Proofs -----------------------------------------------------------------------------------------------------------------

SCHEMA = {
    **closed(
        ["n"],
        n=INTEGER,
        f={"type": "number", "exclusiveMinimum": 0, "maximum": 5},
        e={"type": "integer", "multipleOf": 2},
        s={"type": "string", "minLength": 1, "maxLength": 3, "pattern": "^[ab]"},
        w={"enum": ["x", "y", 1]},
        o={"anyOf": [{"type": "null"}, {"$ref": "#/$defs/Tree"}]},
        t={"not": {"type": "string"}},
    ),
    "$defs": {"Tree": closed(["v"], v={"type": "boolean"}, c={"type": "array", "items": {"$ref": "#/$defs/Tree"}})},
}
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 12) | st.sampled_from([0.5, 3.0, 5.5, "", "a", "bbbb", "x"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["v", "c", "z"]), inner, max_size=3),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(st.sampled_from(["n", "f", "e", "s", "w", "o", "t", "u"]), VALUES, max_size=4)


@settings(max_examples=500, deadline=None)
@given(DOCUMENTS)
def test_a_proof_never_lets_through_what_jsonschema_refuses(document: dict[str, Any]) -> None:
    check = Check(SCHEMA)
    valid = Draft202012Validator({**SCHEMA, "required": []}).is_valid(document)
    assert (check.complaints(document) == ()) == valid


@settings(max_examples=200, deadline=None)
@given(DOCUMENTS, st.sampled_from(["n", "f", "s", "w", "o", "t"]))
def test_a_wild_card_fits_everywhere(document: dict[str, Any], name: str) -> None:
    wild = {**document, name: {"$from": "a"}}
    rest = {key: value for key, value in document.items() if key != name}
    assert {c.path for c in Check(SCHEMA).complaints(wild)} == {c.path for c in Check(SCHEMA).complaints(rest)}


def test_a_wild_card_within_a_choice_is_not_held_against_it() -> None:
    assert Check(SCHEMA).complaints({"o": {"v": True, "c": [{"v": {"$from": "a"}}]}}) == ()


@pytest.mark.parametrize(
    "schema", [{"type": "nothing"}, {"properties": {"n": {"pattern": "("}}}, {"$ref": "http://x.invalid/y"}]
)
def test_a_schema_that_cannot_be_used_is_a_problem_and_no_request(schema: dict[str, Any]) -> None:
    codes = {complaint.code for complaint in Check(schema).complaints({"n": "x"})}
    assert codes == {"bad_schema"}


def test_a_default_is_what_a_node_needs_unless_a_parent_may_supply_another() -> None:
    gpu = capability("gpu", closed(memoryMiB={"type": "integer", "default": 16384}))
    runtime = msgspec.structs.replace(gpu.runtime, kind=TaskKind.gpu, memory_param="memoryMiB")
    tasks = {"gpu": msgspec.structs.replace(gpu, runtime=runtime), "open": capability("open")}
    worker = WorkerInfo(
        worker_id="w", host="h", pid=1, plane=Plane.python, pool="default", slots=1, running=[], device="gpu", metrics_url=None,
        started_at="", last_seen="", version="", protocol=1, tasks=["gpu"], devices=[DeviceInfo(name="gpu", memory_mib=8192)],
    )  # fmt: skip

    def places(plan: Graph) -> list[str]:
        return [problem.pointer for problem in memory_problems(plan, tasks, [worker])]

    assert places(graph([{"id": "a", "task": "gpu"}])) == ["/nodes/0/task"]
    assert places(graph([{"id": "a", "task": "gpu", "params": {"memoryMiB": 8192}}])) == []
    assert places(graph(["first", {"id": "a", "task": "gpu"}], [("first", "a")])) == []
