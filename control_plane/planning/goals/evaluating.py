"""Adds to a planned graph the node that holds its results against the goal, by the rules that its tasks declare (`checks`)."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from dihedral.control_plane.planning.goals.reading import Reading, read
from dihedral.schemas.structs.capability import Capability, Check

TASK: Final = "evaluate_results"

Object = dict[str, Any]


def with_checks(graph: Object, goal: str, capabilities: Mapping[str, Capability]) -> Object:
    """Returns the graph with one more node at its end; as it is where no rule of its tasks has a bound in this job."""
    if TASK not in capabilities or any(node["task"] == TASK for node in graph["nodes"]):
        return graph
    reading = read(goal)
    rules: list[Object] = []
    for node in graph["nodes"]:
        capability = capabilities[node["task"]]
        checks = [] if isinstance(capability.checks, msgspec.UnsetType) else capability.checks
        rules += [rule for check in checks if (rule := _rule(check, node, capability, reading)) is not None]
    if not rules:
        return graph
    taken = {node["id"] for node in graph["nodes"]}
    name = next(each for each in ("evaluate", *(f"evaluate_{n}" for n in range(2, 3000))) if each not in taken)
    node = {"id": name, "task": TASK, "plane": "node", "params": {"checks": rules}, "progressWeight": 0}
    edges = [{"from": source, "to": name} for source in dict.fromkeys(rule["node"] for rule in rules)]
    return {**graph, "nodes": [*graph["nodes"], node], "edges": [*graph.get("edges", []), *edges]}


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
