"""When a node runs and what a failure does: the table of the design, and its consequences on any graph."""

import itertools
import random
import time
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dihedral.bridge.errors import InputTooLarge, ReferenceNotFound
from dihedral.bridge.graphs import SHARES, NodeState, Placement, Plan, Topology, group, node_input, resolve, retry_reset
from tests.graphs.making import Link, graph

KINDS = ("normal", "on_success", "on_failure")


@pytest.mark.parametrize(
    ("state", "handled", "forward", "on_failure"),
    [
        (("completed", ""), False, "ready", "not_taken"),
        (("completed", ""), True, "ready", "not_taken"),
        (("failed", ""), True, "not_taken", "ready"),
        (("failed", ""), False, "broken", None),
        (("cancelled", ""), True, "broken", "broken"),
        (("skipped", "broken"), True, "broken", "broken"),
        (("skipped", "not_taken"), True, "not_taken", "not_taken"),
    ],
)
def test_an_edge_says_what_the_table_says(
    state: NodeState, handled: bool, forward: str, on_failure: str | None
) -> None:
    for kind in KINDS:
        expected = on_failure if kind == "on_failure" else forward
        if expected is None:  # an on_failure edge handles the failure, so there is no such row
            continue
        links = [("a", "b", kind)] + ([("a", "c", "on_failure")] if handled else [])
        found = resolve(Topology(graph("abc", links)), {"a": state}, ["b"])
        assert found.ready == (["b"] if expected == "ready" else [])
        assert found.skipped == ([] if expected == "ready" else [("b", expected)])


def test_a_join_waits_for_all_parents_and_names_those_it_knows_nothing_of() -> None:
    topology = Topology(graph("abc", [("a", "c"), ("b", "c")]))
    found = resolve(topology, {"a": ("completed", "")}, ["c"])
    assert (found.ready, found.skipped, found.unknown) == ([], [], ["b"])


def test_a_broken_edge_skips_a_join_at_once_and_everything_behind_it() -> None:
    topology = Topology(graph("abcd", [("a", "c"), ("b", "c"), ("c", "d")]))
    found = resolve(topology, {"a": ("failed", "")}, ["c"])
    assert found.skipped == [("c", "broken"), ("d", "broken")]
    assert found.unknown == []


def test_a_join_after_a_skipped_branch_fires_once() -> None:
    links: list[Link] = [("a", "b"), ("a", "c", "on_failure"), ("b", "d"), ("c", "d")]
    topology = Topology(graph("abcd", links))
    first = resolve(topology, {"a": ("completed", "")}, ["b", "c"])
    assert (first.ready, first.skipped) == (["b"], [("c", "not_taken")])
    states = {"a": ("completed", ""), "b": ("completed", ""), "c": ("skipped", "not_taken")}
    assert resolve(topology, states, ["d", "d"]).ready == ["d"]


# Any graph, any outcomes, any order -----------------------------------------------------------------------------------


def oracle(topology: Topology, outcomes: dict[str, str]) -> dict[str, NodeState]:
    """The table as recursion over a finished job: no increments, no partial knowledge."""

    @cache
    def end(node: str) -> NodeState:
        verdicts = []
        for edge in topology.incoming[node]:
            status, reason = end(edge.from_)
            failure_edge = edge.kind == "on_failure"
            caught = any(other.kind == "on_failure" for other in topology.outgoing[edge.from_])
            if status == "completed":
                verdicts.append("not_taken" if failure_edge else "satisfied")
            elif status == "failed" and caught:
                verdicts.append("satisfied" if failure_edge else "not_taken")
            elif (status, reason) == ("skipped", "not_taken"):
                verdicts.append("not_taken")
            else:
                verdicts.append("broken")
        if "broken" in verdicts:
            return ("skipped", "broken")
        if verdicts and "satisfied" not in verdicts:
            return ("skipped", "not_taken")
        return (outcomes[node], "")

    return {node: end(node) for node in topology.nodes}


@st.composite
def dags(draw: st.DrawFn) -> Topology:
    names = [f"n{i}" for i in range(draw(st.integers(1, 12)))]
    pairs = st.tuples(st.integers(0, 11), st.integers(0, 11), st.sampled_from(KINDS))
    links = {
        (names[min(a, b)], names[max(a, b)], kind)
        for a, b, kind in draw(st.lists(pairs, max_size=24))
        if a != b and max(a, b) < len(names)
    }
    return Topology(graph(draw(st.permutations(names)), sorted(links)))


@settings(max_examples=300, deadline=None)
@given(dags(), st.randoms(use_true_random=False))
def test_any_order_of_ends_with_partial_knowledge_comes_to_the_same_end(
    topology: Topology, chance: random.Random
) -> None:
    outcomes = {node: chance.choice(["completed", "completed", "failed", "cancelled"]) for node in topology.nodes}
    expected = oracle(topology, outcomes)
    ended: dict[str, NodeState] = {}  # what the job's records say
    running = resolve(topology, {}, topology.nodes).ready
    assert set(running) == {node for node in topology.nodes if not topology.incoming[node]}
    while running:
        node = running.pop(chance.randrange(len(running)))
        assert node not in ended
        ended[node] = (outcomes[node], "")
        # Like a worker: it knows its own node, and reads only the parents that resolve asks for.
        known = {node: ended[node]}
        candidates = [edge.to for edge in topology.outgoing[node]]
        while True:
            found = resolve(topology, known, candidates)
            for other, reason in found.skipped:
                assert ended.setdefault(other, ("skipped", reason)) == ("skipped", reason)
                known[other] = ("skipped", reason)
                candidates += [edge.to for edge in topology.outgoing[other]]
            for other in found.ready:
                assert all(edge.from_ in ended for edge in topology.incoming[other])
                if other not in running and other not in ended:
                    running.append(other)
            learned = {other: ended[other] for other in found.unknown if other in ended}
            if not learned:
                break
            known |= learned
    assert ended == expected


@settings(max_examples=200, deadline=None)
@given(dags(), st.lists(st.floats(0, 1e6), min_size=12, max_size=12))
def test_shares_sum_exactly_to_the_whole(topology: Topology, weights: list[float]) -> None:
    for node, weight in zip(topology.graph.nodes, weights, strict=False):
        node.progress_weight = weight
    assert sum(topology.shares.values()) == SHARES
    assert min(topology.shares.values()) >= 0


@settings(max_examples=100, deadline=None)
@given(dags(), st.randoms(use_true_random=False))
def test_a_retry_keeps_only_what_does_not_depend_on_what_it_runs_again(
    topology: Topology, chance: random.Random
) -> None:
    states = oracle(topology, {node: chance.choice(["completed", "failed", "cancelled"]) for node in topology.nodes})
    again = retry_reset(topology, states, from_start=False)
    assert retry_reset(topology, states, from_start=True) == set(topology.nodes)
    for node, (status, reason) in states.items():
        unhandled = status == "failed" and not topology.handled(node)
        if unhandled or status == "cancelled" or reason == "broken":
            assert node in again
        if node in again:
            assert again.issuperset(edge.to for edge in topology.outgoing[node])


# Large graphs ---------------------------------------------------------------------------------------------------------


def timed_chain(length: int) -> float:
    names = [f"n{i}" for i in range(length)]
    topology = Topology(graph(names, itertools.pairwise(names)))
    began = time.process_time()
    found = resolve(topology, {"n0": ("failed", "")}, names[1:])
    assert len(found.skipped) == length - 1
    states: dict[str, NodeState] = {}
    for name in names:
        assert resolve(topology, states, [name]).ready == [name]
        states = {name: ("completed", "")}
    return time.process_time() - began


def test_a_chain_of_2000_nodes_resolves_in_linear_time() -> None:
    timed_chain(200)
    assert timed_chain(2000) < 0.5  # 10 ms here; a quadratic cascade takes seconds


def test_a_join_of_1998_skipped_parents_is_looked_at_once() -> None:
    middle = [f"m{i}" for i in range(1998)]
    links = [("a", node) for node in middle] + [(node, "z") for node in middle]
    topology = Topology(graph(["a", *middle, "z"], links))
    began = time.process_time()
    assert len(resolve(topology, {"a": ("cancelled", "")}, middle).skipped) == 1999
    assert time.process_time() - began < 0.5


# Input and grouping ---------------------------------------------------------------------------------------------------


def test_params_win_over_parents_which_win_over_the_submitted_input_and_later_parents_over_earlier() -> None:
    nodes: list[Any] = ["a", "b", {"id": "c", "params": {"p": 1}, "input": {"p": 2, "i": 2, "q": 2, "r": 2}}]
    topology = Topology(graph(nodes, [("b", "c"), ("a", "c")]))
    outputs = {"a": {"p": "a", "q": "a", "r": "a"}, "b": {"q": "b", "r": "b", "s": "b", "t": "b"}}
    assert node_input(topology, "c", outputs) == {"p": 1, "i": 2, "q": "a", "r": "a", "s": "b", "t": "b"}
    assert node_input(topology, "c", outputs, {"p", "q"}) == {"p": 1, "q": "a"}


def reference(times: int = 1, **parts: object) -> Topology:
    named = [{"y": {"$from": "a", **parts}}] * times
    return Topology(graph(["a", {"id": "b", "params": {"x": named}}], [("a", "b")]))


@pytest.mark.parametrize(
    ("path", "value"),
    [("", {"k": [5, {"a/b": 6, "m~n": 7}]}), ("/k/0", 5), ("/k/1/a~1b", 6), ("/k/1/m~0n", 7)],
)
def test_a_reference_is_replaced_by_what_its_pointer_finds(path: str, value: object) -> None:
    found = node_input(reference(path=path), "b", {"a": {"k": [5, {"a/b": 6, "m~n": 7}]}}, ["x"])
    assert found == {"x": [{"y": value}]}


@pytest.mark.parametrize("path", ["/none", "/k/9", "/k/01", "/k/-", "/k/²", "/k/" + "9" * 5000, "/k/0/0"])
def test_an_absent_path_takes_the_default_or_fails(path: str) -> None:
    outputs = {"a": {"k": [5]}}
    assert node_input(reference(path=path, default=None), "b", outputs) == {"x": [{"y": None}], "k": [5]}
    with pytest.raises(ReferenceNotFound, match="'a'"):
        node_input(reference(path=path), "b", outputs)


def test_what_is_larger_than_a_reference_takes_counts_as_absent() -> None:
    outputs = {"a": {"words": "four"}}
    assert node_input(reference(path="/words", most=6), "b", outputs) == {"x": [{"y": "four"}], "words": "four"}
    assert node_input(reference(path="/words", most=5, default=None), "b", outputs, []) == {"x": [{"y": None}]}
    with pytest.raises(ReferenceNotFound, match="larger than 5 bytes"):
        node_input(reference(path="/words", most=5), "b", outputs)


def test_a_source_that_did_not_complete_takes_the_default_or_fails() -> None:
    assert node_input(reference(default=3), "b", {}) == {"x": [{"y": 3}]}
    with pytest.raises(ReferenceNotFound, match="did not complete"):
        node_input(reference(), "b", {})


def test_sources_are_parents_in_edge_order_then_references() -> None:
    nodes: list[Any] = ["a", "b", "c", {"id": "d", "params": {"x": {"$from": "a"}, "y": {"$from": "c"}}}]
    assert Topology(graph(nodes, [("c", "d"), ("b", "d"), ("a", "b")])).sources("d") == ["c", "b", "a"]


def test_slot_nodes_travel_alone_and_light_ones_by_eight() -> None:
    names = [f"n{i}" for i in range(20)]
    routes = {name: Placement("p", i >= 2, 1.0, True) for i, name in enumerate(names)}
    groups = group(Plan(Topology(graph(names)), routes), names)
    assert [len(each.nodes) for each in groups] == [1, 1, 8, 8, 2]
    assert sorted(node for each in groups for node in each.nodes) == sorted(names)


def test_what_references_add_to_the_params_is_bounded_however_often_they_name_it() -> None:
    """A few kilobytes of `$from` can name a megabyte a thousand times."""
    topology = reference(times=1000, path="")
    with pytest.raises(InputTooLarge, match="nodeInputBytes"):
        node_input(topology, "b", {"a": "x" * 100_000}, limit=4 << 20)
    assert len(node_input(topology, "b", {"a": "x" * 1000}, limit=4 << 20)["x"]) == 1000
