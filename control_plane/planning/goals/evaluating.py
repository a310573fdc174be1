"""Adds to a planned graph the node that holds its results against the goal, by the rules that its tasks declare (`checks`), and by a model where one is set.

It names the other ways to do the same: a task that takes and makes the same, another voice of the same language.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec

from dihedral.control_plane.planning.goals.offers import not_null
from dihedral.control_plane.planning.goals.reading import Reading, read
from dihedral.schemas.structs.capability import Capability, Check

TASK: Final = "evaluate_results"
MOST_VARIANTS: Final = 12
MOST_RULES: Final = 200
MOST_RESULTS: Final = 100
SHARE_BYTES: Final = 512 * 1024
"""What all rules together may take of results, and what the model may: both fit into jobs.nodeInputBytes, so that large results fail no job."""
SHOWN_BYTES: Final = 8 * 1024
VARIANTS_OF_NODE: Final = 3
PLAIN: Final = ("string", "number", "integer", "boolean", "object")
"""Types of members that a model is shown; lists may be long."""

Object = dict[str, Any]


def with_checks(graph: Object, goal: str, capabilities: Mapping[str, Capability], *, is_judged: bool = False) -> Object:
    """Returns the graph with one more node at its end; as it is where no rule of its tasks has a bound in this job, and no model judges."""
    if TASK not in capabilities or any(node["task"] == TASK for node in graph["nodes"]):
        return graph
    reading = read(goal)
    rules: list[Object] = []
    for node in graph["nodes"]:
        capability = capabilities[node["task"]]
        checks = [] if isinstance(capability.checks, msgspec.UnsetType) else capability.checks
        rules += [rule for check in checks if (rule := _rule(check, node, capability, reading)) is not None]
    if not rules and not is_judged:
        return graph
    # All of them are set, also where nothing is said: an output with a member of that name would fill it in.
    params: Object = {"checks": rules[:MOST_RULES], "judge": None, "attempt": 1}
    watched = {rule["node"] for rule in params["checks"]}
    if is_judged:
        judged = graph["nodes"][-MOST_RESULTS:]
        watched |= {node["id"] for node in judged}
        results = [_result(node, capabilities[node["task"]]) for node in judged]
        params["judge"] = {"goal": goal[:4000], "results": results}
    _bound_sizes(params["checks"], SHARE_BYTES)
    _bound_sizes(params["judge"], SHOWN_BYTES)
    nodes = [node for node in graph["nodes"] if node["id"] in watched]
    params["variants"] = [each for node in nodes for each in _variants(node, capabilities)][:MOST_VARIANTS]
    taken = {node["id"] for node in graph["nodes"]}
    name = next(each for each in ("evaluate", *(f"evaluate_{n}" for n in range(2, 3000))) if each not in taken)
    node = {"id": name, "task": TASK, "plane": "node", "params": params, "progressWeight": 0}
    edges = [{"from": each["id"], "to": name} for each in nodes]
    return {**graph, "nodes": [*graph["nodes"], node], "edges": [*graph.get("edges", []), *edges]}


def _result(node: Object, capability: Capability) -> Object:
    """Returns what the model sees of a node: the plain members of its output, and what they are called."""
    plain = {
        name: {"$from": node["id"], "path": f"/{name}", "default": None}
        for name, about in (capability.io.output.get("properties") or {}).items()
        if isinstance(about, dict) and not_null(about).get("type") in PLAIN
    }
    return {"node": node["id"], "task": capability.label, "output": plain}


def _bound_sizes(value: Any, most: int) -> None:
    """Gives, in place, every reference its share of SHARE_BYTES, at most `most`: a larger value does not tell."""
    found = list(_references(value))
    for each in found:
        each["most"] = max(1, min(most, SHARE_BYTES // len(found)))


def _references(value: Any) -> Iterator[Object]:
    if isinstance(value, dict) and "$from" in value:
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _references(each)


def _variants(node: Object, capabilities: Mapping[str, Capability]) -> list[Object]:
    """Returns other ways to do what a node does: another task of the same shape and a keyword of this one, which changes nothing elsewhere, then another voice."""
    mine = capabilities[node["task"]]
    found: list[Object] = [
        {"node": node["id"], "label": each.label[:200], "task": each.id}
        for each in capabilities.values()
        if each.id != mine.id
        and each.plane == mine.plane
        and _shape(each.io.input) == _shape(mine.io.input)
        and _shape(each.io.output) == _shape(mine.io.output)
        and _shape(mine.io.output)[0]
        and not each.contracts.side_effects
        and _keywords(each) & _keywords(mine)
    ]
    voices = [] if isinstance(mine.voices, msgspec.UnsetType) else mine.voices
    if voices and "voice" in (mine.io.input.get("properties") or {}):
        wished = (node.get("params") or {}).get("voice") or voices[0].id
        language = next((each.language for each in voices if each.id == wished), voices[0].language)
        others = [each for each in voices if each.id != wished and each.language == language]
        found += [
            {"node": node["id"], "label": f"the voice {each.label}"[:200], "params": {"voice": each.id}}
            for each in others
        ]
    return found[:VARIANTS_OF_NODE]


def _keywords(capability: Capability) -> set[str]:
    words = [] if isinstance(capability.keywords, msgspec.UnsetType) else capability.keywords
    return {each.casefold() for each in words}


def _shape(schema: Object) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Returns the names and types of a schema's members, and those that are required."""
    members = schema.get("properties") or {}
    typed = ((name, str(not_null(each).get("type", ""))) for name, each in members.items() if isinstance(each, dict))
    return tuple(sorted(typed)), tuple(sorted(schema.get("required", ())))


def _rule(check: Check, node: Object, capability: Capability, reading: Reading) -> Object | None:
    bounds = {name: _bound(getattr(check, name), node, reading) for name in ("least", "most")}
    bounds = {name: value for name, value in bounds.items() if value is not None}
    if not bounds:
        return None
    rule: Object = {"node": node["id"], "id": check.id, "label": check.label, **bounds}
    rule["value"] = {"$from": node["id"], "path": check.value, "default": None}
    if not isinstance(check.tolerance, msgspec.UnsetType):
        rule["tolerance"] = check.tolerance
    if repair := _repair(check, node, capability):
        rule["repair"] = repair
    return rule


def _bound(bound: Any, node: Object, reading: Reading) -> Any:
    """Returns a bound's value, or a reference to it; None where this job does not have it."""
    if not isinstance(bound, str):
        return None if isinstance(bound, msgspec.UnsetType) else bound
    where, _, name = bound.partition("/")
    if where == "output":
        return {"$from": node["id"], "path": f"/{name}", "default": None}
    if where == "params":
        return (node.get("params") or {}).get(name)
    seconds = [each.value for each in reading.quantities if each.unit == "second" and not each.is_share]
    if name == "seconds":
        return seconds[0] if len(seconds) == 1 else None
    return None if reading.size is None else {"width": reading.size[0], "height": reading.size[1]}.get(name)


def _repair(check: Check, node: Object, capability: Capability) -> Object | None:
    if isinstance(check.repair, msgspec.UnsetType):
        return None
    schema = (capability.io.input.get("properties") or {}).get(check.repair.param, {})
    value = (node.get("params") or {}).get(check.repair.param, schema.get("default"))
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    made = {"node": node["id"], "param": check.repair.param, "value": value, "whole": schema.get("type") == "integer"}
    if not isinstance(check.repair.factor, msgspec.UnsetType):
        made["factor"] = check.repair.factor
    return made | {name: schema[name] for name in ("minimum", "maximum") if name in schema}
