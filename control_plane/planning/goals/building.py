"""A draft becomes a submission: nodes, edges, references; pipelines are expanded by the planner of pipelines."""

from collections.abc import Iterator, Mapping
from typing import Any

from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.planning.goals.drafting import Draft, Link, Use
from dihedral.control_plane.planning.goals.offers import Slot
from dihedral.schemas.documents import problems_of
from dihedral.schemas.structs.capability import Capability

Object = dict[str, Any]


class Built:
    """graph: a submission. nodes: by the number of the use."""

    def __init__(self) -> None:
        self.graph: Object = {"schema": "langgraph.v1", "nodes": [], "edges": []}
        self.nodes: list[dict[str, str]] = []  # by use: the template's node id → the id here; a task's is ""
        self.params: dict[
            int, dict[str, str]
        ] = {}  # by use: which node of the template takes a parameter of its pipeline

    def node_of(self, use: int, slot: Slot | None = None) -> str:
        """Returns the node that a use's parameter belongs to; of a pipeline's own parameters the last one."""
        names = self.nodes[use]
        if slot is not None and slot.node in names:
            return names[slot.node]
        if slot is not None and use in self.params and slot.field in self.params[use]:
            return names[self.params[use][slot.field]]
        return next(reversed(names.values()))


def build(draft: Draft, capabilities: Mapping[str, Capability]) -> Built:
    made = Built()
    own: list[tuple[str, str]] = []  # edges of the templates
    taken: set[str] = set()
    for use in draft.uses:
        values = {
            slot.field: use.values[slot.name] for slot in use.offer.slots if slot.name in use.values and not slot.node
        }
        resolved = _resolved(values, made.nodes)
        nodes, edges = _of_pipeline(use, resolved, made) if use.offer.pipeline is not None else _of_task(use, resolved)
        names = {}
        for node in nodes:
            names[node["id"]] = _free(node["id"] or use.offer.tasks[0], taken)
        if use.offer.pipeline is None:
            names = {"": next(iter(names.values()))}
        made.nodes.append(names)
        for node in nodes:
            inner = names.get(node["id"]) or names[""]
            inside = {
                slot.field: use.values[slot.name]
                for slot in use.offer.slots
                if slot.node == node["id"] and slot.node and slot.name in use.values
            }
            node["params"] |= _resolved(inside, made.nodes)
            for name in use.dropped:
                owner, _, member = name.rpartition(".")
                if owner == node["id"]:
                    node["params"] = _without(node["params"], member)
            node["params"] = _renamed(node["params"], {old: new for old, new in names.items() if old})
            node["id"] = inner
            made.graph["nodes"].append(node)
        own += [(names[edge["from"]], names[edge["to"]]) for edge in edges]
    made.graph["edges"] = [{"from": source, "to": target} for source, target in dict.fromkeys(own)]
    for node in made.graph["nodes"]:
        for source in dict.fromkeys(_sources(node["params"])):
            if source not in _ancestors(made.graph, node["id"]):
                made.graph["edges"].append({"from": source, "to": node["id"]})
                _keep_apart(made.graph, source, node, capabilities)
    return made


def _ancestors(graph: Object, target: str) -> set[str]:
    found: set[str] = set()
    ahead = [target]
    while ahead:
        here = ahead.pop()
        for edge in graph["edges"]:
            if edge["to"] == here and edge["from"] not in found:
                found.add(edge["from"])
                ahead.append(edge["from"])
    return found


def _keep_apart(graph: Object, source: str, node: Object, capabilities: Mapping[str, Capability]) -> None:
    """Sets the defaults of parameters that the source's output would fill in by name: the `voice` of a speech is no voice of a film."""
    maker = next(each for each in graph["nodes"] if each["id"] == source)
    given = capabilities[maker["task"]].io.output.get("properties", {})
    for name, schema in capabilities[node["task"]].io.input.get("properties", {}).items():
        if name in given and name not in node["params"] and "default" in schema:
            node["params"][name] = schema["default"]


def _of_task(use: Use, values: Object) -> tuple[list[Object], list[Object]]:
    assert use.offer.capability is not None
    node = {
        "id": "",
        "task": use.offer.capability.id,
        "plane": str(use.offer.capability.plane),
        "params": {**use.offer.preset, **values},
    }
    return [node], []


def _of_pipeline(use: Use, values: Object, made: Built) -> tuple[list[Object], list[Object]]:
    """Returns the template's nodes. Open parameters are left out; a reference of ours keeps its mark until names are settled."""
    pipeline = use.offer.pipeline
    assert pipeline is not None
    made.params[len(made.nodes)] = {
        name: node["id"] for node in reversed(pipeline.graph["nodes"]) for name in _params_of(node.get("params") or {})
    }
    template = planning.fill_in(pipeline.graph, _defaults(pipeline.params) | values)
    nodes = [
        {key: value for key, value in node.items() if key in ("id", "task", "plane", "params", "progressWeight")}
        | {"params": node.get("params", {})}
        for node in template["nodes"]
    ]
    return nodes, template.get("edges", [])


def _params_of(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$param" in value:
            yield value["$param"]
        else:
            for each in value.values():
                yield from _params_of(each)
    elif isinstance(value, list):
        for each in value:
            yield from _params_of(each)


def _defaults(params: Object) -> Object:
    return {
        name: each["default"]
        for name, each in params.get("properties", {}).items()
        if isinstance(each, dict) and "default" in each
    }


class _Ref(dict[str, Any]):
    """A reference whose node has its final id."""


def _resolved(value: Any, nodes: list[dict[str, str]]) -> Any:
    if isinstance(value, Link):
        return _Ref({"$from": nodes[value.use][value.product.node], "path": value.product.path})
    if isinstance(value, dict):
        return {name: _resolved(each, nodes) for name, each in value.items()}
    return [_resolved(each, nodes) for each in value] if isinstance(value, list) else value


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, _Ref):
        return dict(value)
    if isinstance(value, dict):
        if "$from" in value and value["$from"] in names:
            return {**value, "$from": names[value["$from"]]}
        return {name: _renamed(each, names) for name, each in value.items()}
    return [_renamed(each, names) for each in value] if isinstance(value, list) else value


def _without(value: Any, member: str) -> Any:
    if isinstance(value, dict) and "$from" not in value:
        return {name: _without(each, member) for name, each in value.items() if name != member}
    return [_without(each, member) for each in value] if isinstance(value, list) else value


def _sources(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(value.get("$from"), str):
            yield value["$from"]
        else:
            for each in value.values():
                yield from _sources(each)
    elif isinstance(value, list):
        for each in value:
            yield from _sources(each)


def _free(name: str, taken: set[str]) -> str:
    found, number = name, 2
    while found in taken:
        found, number = f"{name}_{number}", number + 1
    taken.add(found)
    return found


def shape_problems(graph: Object) -> list[tuple[str, str, str]]:
    """Returns what of the graph has not the shape of a submission."""
    return list(problems_of(graph, "submission", "GraphSubmission"))


def as_submission(graph: Object) -> Object:
    """Returns a job's graph as one to submit: without what the job has made of it."""
    kept = (
        "id", "task", "plane", "params", "progressWeight", "timeoutSeconds", "tags", "name", "input", "pool", "retries",
    )  # fmt: skip
    nodes = [{name: node[name] for name in kept if name in node} for node in graph["nodes"]]
    members = ("from", "to", "kind", "metadata")
    edges = [{name: edge[name] for name in members if name in edge} for edge in graph.get("edges", [])]
    made = {"schema": "langgraph.v1", "nodes": nodes, "edges": edges}
    return {**made, "context": graph["context"]} if graph.get("context") else made
