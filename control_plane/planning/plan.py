"""From what was submitted to what can run: a pipeline filled in, a graph normalised, every problem of a plan named. Pure.

All problems are found at once, each with an RFC 6901 pointer into the submitted graph, because the author of the graph wants
to correct it once. Problems that only the run can show are left to the run: whether a source of `$from` will complete, and what stands
in an output whose schema is open.

Large because every problem of a graph is found in one place, so that all of them are reported at once.
"""

from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Final

import msgspec

from dihedral.bridge.fabric.keys import NEEDS_DEVICE, PREFERS_DEVICE
from dihedral.bridge.graphs import Placement, references
from dihedral.bridge.tasks.registry import declared_mib
from dihedral.control_plane.planning.schema_check import Check, is_wild, pointer
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.graph import Edge, EdgeKind, Graph, Node, NodeStatus, Retries
from dihedral.schemas.structs.pipeline import Pipeline
from dihedral.schemas.structs.submission import GraphSubmission, NodeSubmission
from dihedral.schemas.structs.worker import WorkerInfo

MAX_NODES: Final = 2000
MAX_EDGES: Final = 20_000
MAX_NESTING: Final = 64
MAX_PROBLEMS: Final = 100  # a problem document has no more, so a longer search would only cost time
NAMED_IN_A_CYCLE: Final = 20


class Problem(msgspec.Struct, frozen=True):
    """A problem of a plan. `pointer`: relative to the graph, or to `{"params": …}` for the parameters of a pipeline."""

    pointer: str
    code: str
    detail: str


# Normalised -----------------------------------------------------------------------------------------------------------


def normalise(submission: GraphSubmission, workflow_id: str) -> Graph:
    """Returns the graph as it is stored and read: with every default, without any field of an earlier run."""
    return Graph(
        schema="langgraph.v1",
        workflow_id=workflow_id,
        nodes=[_node(node) for node in submission.nodes],
        edges=[
            Edge(
                from_=edge.from_,
                to=edge.to,
                kind=edge.kind if isinstance(edge.kind, EdgeKind) else EdgeKind.normal,
                metadata=edge.metadata if isinstance(edge.metadata, dict) else {},
            )
            for edge in submission.edges
        ],
        context=submission.context if isinstance(submission.context, dict) else {},
        metadata=submission.metadata if isinstance(submission.metadata, dict) else {},
    )


def _node(node: NodeSubmission) -> Node:
    attempts = node.retries.max_attempts if not isinstance(node.retries, msgspec.UnsetType) else 1
    return Node(
        id=node.id,
        task=node.task,
        plane=node.plane,
        status=NodeStatus.pending,
        params=node.params if isinstance(node.params, dict) else {},
        retries=Retries(attempt=0, max_attempts=attempts if isinstance(attempts, int) else 1),
        tags=node.tags if isinstance(node.tags, list) else [],
        progress_weight=1.0 if isinstance(node.progress_weight, msgspec.UnsetType) else node.progress_weight,
        name=node.name,
        input=node.input,
        pool=node.pool,
        timeout_seconds=node.timeout_seconds,
        telemetry=node.telemetry,
    )


def routes(graph: Graph, capabilities: Mapping[str, Capability]) -> dict[str, Placement]:
    """Returns the placement of each node of a graph without problems."""
    known: dict[tuple[str, str], Placement] = {}
    found = {}
    for node in graph.nodes:
        capability = capabilities[node.task]
        pool = _pool(node, capability)
        placed = known.get((node.task, pool))
        if placed is None:
            runtime = capability.runtime
            placed = known[node.task, pool] = Placement(
                pool, runtime.light is True, runtime.timeout_seconds, capability.contracts.idempotent, _lane(capability)
            )
        found[node.id] = placed
    return found


def _pool(node: Node, capability: Capability) -> str:
    return node.pool if isinstance(node.pool, str) else capability.runtime.pool


def _lane(capability: Capability) -> str:
    if capability.runtime.kind != "gpu":
        return ""
    return NEEDS_DEVICE if capability.runtime.needs_device is True else PREFERS_DEVICE


def pool_problems(graph: Graph, pools: Mapping[str, Collection[str]]) -> list[Problem]:
    """Finds nodes that name a pool which no worker has served lately and no task has. `pools`: those known, by plane."""
    found = []
    for index, node in enumerate(graph.nodes):
        known = pools.get(str(node.plane), ())
        if isinstance(node.pool, str) and node.pool not in known:
            detail = f"no worker serves pool {node.pool!r} of plane {node.plane.value!r}; there are: {', '.join(sorted(known))}"
            found.append(Problem(f"/nodes/{index}/pool", "unknown_pool", detail))
    return found[:MAX_PROBLEMS]


# Problems -------------------------------------------------------------------------------------------------------------


def problems(graph: Graph, capabilities: Mapping[str, Capability]) -> list[Problem]:
    """Returns the problems that prevent a graph from running, at most MAX_PROBLEMS; without any, `Topology` and `routes` will succeed."""
    found: list[Problem] = []
    for problem in _problems(graph, capabilities):
        found.append(problem)
        if len(found) >= MAX_PROBLEMS:
            break
    return found


def _problems(graph: Graph, capabilities: Mapping[str, Capability]) -> Iterator[Problem]:
    if len(graph.nodes) > MAX_NODES:
        yield Problem("/nodes", "too_many_nodes", f"{len(graph.nodes)} nodes; at most {MAX_NODES} are allowed")
    if len(graph.edges) > MAX_EDGES:
        yield Problem("/edges", "too_many_edges", f"{len(graph.edges)} edges; at most {MAX_EDGES} are allowed")
    for name in ("context", "metadata"):
        if too_deep(getattr(graph, name)):
            yield Problem(f"/{name}", "too_deep", f"nested more than {MAX_NESTING} deep")
    places: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        first = places.setdefault(node.id, index)
        if first != index:
            yield Problem(f"/nodes/{index}/id", "duplicate_id", f"{node.id!r} is already the id of node {first}")
    edges: list[Edge] = []
    if graph.edges:
        yield from _edge_problems(graph, places, edges)
    parents: dict[str, list[str]] = {}
    for edge in edges:
        if edge.kind is not EdgeKind.on_failure:  # who failed has no output
            parents.setdefault(edge.to, []).append(edge.from_)
    upstream: dict[str, int] | None = None
    for index, node in enumerate(graph.nodes):
        yield from _node_problems(f"/nodes/{index}", node, capabilities)
        if too_deep(node.params):
            yield Problem(f"/nodes/{index}/params", "too_deep", f"nested more than {MAX_NESTING} deep")
            continue
        offering = [_capability(graph, capabilities, places, parent) for parent in parents.get(node.id, ())]
        yield from _param_problems(f"/nodes/{index}", node, capabilities.get(node.task), offering)
        for path, reference in _references(node.params):
            if upstream is None:
                upstream = _upstream(places, edges)
            at = f"/nodes/{index}/params{pointer(path)}"
            yield from _reference_problems(at, node.id, reference, graph, places, upstream, capabilities)


def memory_problems(
    graph: Graph, capabilities: Mapping[str, Capability], workers: Sequence[WorkerInfo]
) -> list[Problem]:
    """Finds nodes that need more device memory than any of these workers of their pool has, where that is known.

    A worker without a GPU computes on the CPU and refuses nothing; a need that only the run can tell is left to the run.
    """
    found = []
    fed = {edge.to for edge in graph.edges}
    for index, node in enumerate(graph.nodes):
        runtime = capabilities[node.task].runtime
        if runtime.kind != "gpu":
            continue
        # A parent's output may replace the default.
        params = {str(runtime.memory_param): None} | node.params if node.id in fed or node.input else node.params
        need = declared_mib(capabilities[node.task], params)
        pool = _pool(node, capabilities[node.task])
        there = [each for each in workers if each.pool == pool and node.task in each.tasks]
        if runtime.needs_device is True:
            there = [each for each in there if each.devices]
        if not need or not there or not all(each.devices for each in there):
            continue
        largest = max(device.memory_mib for each in there for device in each.devices)
        if need > largest:
            asked = isinstance(runtime.memory_param, str) and node.params.get(runtime.memory_param) == need
            at = f"/nodes/{index}/params{pointer((str(runtime.memory_param),))}" if asked else f"/nodes/{index}/task"
            detail = f"needs {need / 1024:.1f} GiB of device memory; the largest device of pool {pool!r} has {largest / 1024:.1f}"
            found.append(Problem(at, "does_not_fit", detail))
    return found[:MAX_PROBLEMS]


def _edge_problems(graph: Graph, places: dict[str, int], sound: list[Edge]) -> Iterator[Problem]:
    """Collects in `sound` the edges that join two nodes."""
    seen: dict[tuple[str, str, str], int] = {}
    indices: list[int] = []
    for index, edge in enumerate(graph.edges):
        unknown = [(name, end) for name, end in (("from", edge.from_), ("to", edge.to)) if end not in places]
        for name, end in unknown:
            yield Problem(f"/edges/{index}/{name}", "unknown_node", f"there is no node {end!r}{meant(end, places)}")
        if edge.metadata and too_deep(edge.metadata):
            yield Problem(f"/edges/{index}/metadata", "too_deep", f"nested more than {MAX_NESTING} deep")
        if unknown:
            continue
        if edge.from_ == edge.to:
            yield Problem(f"/edges/{index}", "self_edge", f"{edge.to!r} would wait for itself")
            continue
        first = seen.setdefault((edge.from_, edge.to, edge.kind), index)
        if first != index:
            yield Problem(
                f"/edges/{index}", "duplicate_edge", f"the same as edge {first}: {edge.from_!r} to {edge.to!r}"
            )
            continue
        sound.append(edge)
        indices.append(index)
    for position, cycle in _cycles(places, sound):
        shown = cycle if len(cycle) <= NAMED_IN_A_CYCLE else [*cycle[:NAMED_IN_A_CYCLE], "…"]
        names = " → ".join([*shown, cycle[0]])
        yield Problem(f"/edges/{indices[position]}", "cycle", f"these nodes wait for each other: {names}")


def _cycles(places: Mapping[str, int], edges: list[Edge]) -> Iterator[tuple[int, list[str]]]:
    """Returns cycles that share no node, each with the position of an edge that closes it."""
    incoming: dict[str, list[int]] = {node: [] for node in places}
    for position, edge in enumerate(edges):
        incoming[edge.to].append(position)
    left = set(places)
    while True:
        left -= set(_ordered(left, edges))
        if not left:
            return
        # Each node that is left has a parent that is left: walking back must come by some node twice.
        node = min(left, key=lambda name: places[name])
        walked: dict[str, int] = {}
        while node not in walked:
            walked[node] = next(position for position in incoming[node] if edges[position].from_ in left)
            node = edges[walked[node]].from_
        names = list(walked)
        cycle = names[names.index(node) :][::-1]
        # walked backwards: the edge into the node where the walk closed comes from the last one walked before it
        yield walked[cycle[0]], cycle
        left -= set(cycle)


def _ordered(nodes: set[str] | Mapping[str, int], edges: list[Edge]) -> list[str]:
    """Returns the nodes that are on no cycle and behind none, parents first."""
    open_parents = dict.fromkeys(nodes, 0)
    children: dict[str, list[str]] = {node: [] for node in nodes}
    for edge in edges:
        if edge.from_ in children and edge.to in children:
            open_parents[edge.to] += 1
            children[edge.from_].append(edge.to)
    queue = deque(node for node, count in open_parents.items() if count == 0)
    ordered = []
    while queue:
        node = queue.popleft()
        ordered.append(node)
        for child in children[node]:
            open_parents[child] -= 1
            if open_parents[child] == 0:
                queue.append(child)
    return ordered


def _upstream(places: Mapping[str, int], edges: list[Edge]) -> dict[str, int]:
    """Returns the ancestors of each node as a set of bits; nodes on or behind a cycle are left out, since theirs are undefined."""
    parents: dict[str, list[str]] = {node: [] for node in places}
    for edge in edges:
        parents[edge.to].append(edge.from_)
    found: dict[str, int] = {}
    for node in _ordered(places, edges):
        bits = 0
        for parent in parents[node]:
            bits |= found[parent] | 1 << places[parent]
        found[node] = bits
    return found


def _node_problems(at: str, node: Node, capabilities: Mapping[str, Capability]) -> Iterator[Problem]:
    capability = capabilities.get(node.task)
    if capability is None:
        yield Problem(f"{at}/task", "unknown_task", f"there is no task {node.task!r}{meant(node.task, capabilities)}")
    else:
        if capability.plane != node.plane:
            detail = f"{node.task!r} runs on plane {capability.plane.value!r}, not on {node.plane.value!r}"
            yield Problem(f"{at}/plane", "wrong_plane", detail)
        within, asked = capability.runtime.timeout_seconds, node.timeout_seconds
        if not isinstance(asked, msgspec.UnsetType) and asked > within:
            detail = f"{asked:g} s; {node.task!r} allows at most {within:g} s"
            yield Problem(f"{at}/timeoutSeconds", "timeout_too_long", detail)
    for name in ("input", "telemetry"):
        value = getattr(node, name)
        if isinstance(value, dict) and too_deep(value):
            yield Problem(f"{at}/{name}", "too_deep", f"nested more than {MAX_NESTING} deep")


def _param_problems(
    at: str, node: Node, capability: Capability | None, parents: list[Capability | None]
) -> Iterator[Problem]:
    """Checks params and submitted input against the task's schema; a field that a parent may still supply is neither missing nor final."""
    if capability is None:
        return
    check = check_of(capability)
    document = node.params
    submitted = node.input
    filled: set[str] = set()
    if isinstance(submitted, dict) and submitted and not too_deep(submitted):
        filled = {
            name
            for name in submitted
            if name not in document
            and name in check.properties
            and not any(_offers(parent, name) for parent in parents)
        }
        document = {**document, **{name: submitted[name] for name in filled}}
        offered: Mapping[str, Any] = submitted
    else:
        offered = {}
    for name in check.required:
        if name not in document and name not in offered and not any(_offers(parent, name) for parent in parents):
            detail = f"{node.task!r} needs {name!r}, and neither params, input nor a parent's output has it"
            yield Problem(f"{at}/params", "missing_param", detail)
    if parents:
        yield from _misfits(at, node, check, document, offered, parents)
    for complaint in check.complaints(document):
        part = "input" if complaint.path and complaint.path[0] in filled else "params"
        yield Problem(f"{at}/{part}{pointer(complaint.path)}", complaint.code, complaint.detail)


def _misfits(
    at: str,
    node: Node,
    check: Check,
    document: Mapping[str, Any],
    offered: Mapping[str, Any],
    parents: list[Capability | None],
) -> Iterator[Problem]:
    """Finds what would be filled in by its name although it is of another type: the `voice` of a speech is a text, that of a film a file."""
    outputs = [_entry(parent)[2] if parent is not None else None for parent in parents]
    if any(each is None or each.names is None for each in outputs):
        return  # what stands in an open output is seen when it runs
    known = [each for each in outputs if each is not None]
    for name in sorted({name for each in known for name in each.properties & check.properties} - document.keys()):
        takes = check.types[name]
        gives = [each.types[name] for each in known if name in each.properties]
        if takes and all(gives) and not any(takes & each for each in gives) and name not in offered:
            detail = (
                f"{name!r} would be filled in by the output of a node before it, which has {_either(gives)} under this name; "
                f"{node.task!r} takes {_either([takes])}: set it in params"
            )
            yield Problem(f"{at}/params", "misfit_param", detail)


def _either(types: list[frozenset[str]]) -> str:
    return " or ".join(sorted({kind for each in types for kind in each} - {"integer", "null"})) or "null"


def _offers(parent: Capability | None, name: str) -> bool:
    """Returns whether a parent's output may have a member of that name."""
    if parent is None:
        return True
    names = _output_names(parent)
    return names is None or name in names


def _reference_problems(
    at: str,
    node: str,
    reference: dict[str, Any],
    graph: Graph,
    places: Mapping[str, int],
    upstream: Mapping[str, int],
    capabilities: Mapping[str, Capability],
) -> Iterator[Problem]:
    source, path = reference["$from"], reference.get("path", "")
    for name in reference.keys() - {"$from", "path", "default", "most"}:
        detail = "a reference has $from, path, default and most, and nothing else"
        yield Problem(f"{at}{pointer((name,))}", "bad_reference", detail)
    if type(reference.get("most", 1)) is not int or reference.get("most", 1) < 1:
        yield Problem(
            f"{at}/most", "bad_reference", "most is a number of bytes, from 1: a larger value counts as absent"
        )
    if any(True for _ in references(reference.get("default"))):
        yield Problem(f"{at}/default", "bad_reference", "a default is taken as it stands: it cannot be a reference")
    if not _is_pointer(path):
        yield Problem(f"{at}/path", "bad_pointer", f"{path!r} is not a JSON pointer: it is empty or begins with '/'")
        path = ""
    if not isinstance(source, str):
        yield Problem(f"{at}/$from", "bad_reference", "$from is the id of a node")
        return
    if source not in places:
        yield Problem(f"{at}/$from", "unknown_node", f"there is no node {source!r}{meant(source, places)}")
        return
    if node in upstream and not upstream[node] >> places[source] & 1:
        detail = f"{source!r} is not upstream of {node!r}: no path of edges leads from it here"
        yield Problem(f"{at}/$from", "not_upstream", detail)
        return
    producer = _capability(graph, capabilities, places, source)
    names = _output_names(producer) if producer is not None else None
    if path and names is not None and "default" not in reference:
        first = path.split("/")[1].replace("~1", "/").replace("~0", "~")
        if first not in names:
            detail = (
                f"the output of {source!r} ({graph.nodes[places[source]].task}) has no {first!r}{meant(first, names)}"
            )
            yield Problem(f"{at}/path", "unknown_output", detail)


def _references(params: dict[str, Any]) -> list[tuple[tuple[str | int, ...], dict[str, Any]]]:
    """Yields every object with `$from`, and its position, in the order of the document."""
    found: list[tuple[tuple[str | int, ...], dict[str, Any]]] = []
    stack: list[tuple[tuple[str | int, ...], Any]] = [((), params)] if params else []
    while stack:
        path, value = stack.pop()
        if is_wild(value):
            found.append((path, value))
        elif type(value) is dict:
            stack.extend(((*path, name), each) for name, each in reversed(value.items()) if type(each) in (dict, list))
        elif type(value) is list:
            stack.extend(
                ((*path, i), value[i]) for i in range(len(value) - 1, -1, -1) if type(value[i]) in (dict, list)
            )
    return found


def _is_pointer(path: Any) -> bool:
    if not isinstance(path, str) or (path and not path.startswith("/")):
        return False
    return "~" not in path.replace("~0", "").replace("~1", "")


def too_deep(value: Any) -> bool:
    """Returns whether a value has more than MAX_NESTING levels of objects and arrays."""
    level = [value] if value else []
    for _ in range(MAX_NESTING + 1):
        if not level:
            return False
        level = [
            member
            for each in level
            if type(each) in (dict, list)
            for member in (each.values() if type(each) is dict else each)
            if type(member) in (dict, list)
        ]
    return bool(level)


def _capability(
    graph: Graph, capabilities: Mapping[str, Capability], places: Mapping[str, int], node: str
) -> Capability | None:
    return capabilities.get(graph.nodes[places[node]].task)


def meant(name: str, known: Any) -> str:
    """Returns a suggestion for a mistyped name; empty where no known name is like it."""
    close = get_close_matches(name, list(known)[:MAX_NODES], n=1, cutoff=0.75) if len(known) <= 200 else []
    return f"; did you mean {close[0]!r}?" if close else ""


# Capabilities are looked up by identity: a live manifest is the same object until it changes. The entry keeps it alive,
# so that no other object can come to have its address.
_compiled: dict[int, tuple[Capability, Check, Check]] = {}


def check_of(capability: Capability) -> Check:
    return _entry(capability)[1]


def _output_names(capability: Capability) -> frozenset[str] | None:
    return _entry(capability)[2].names


def _entry(capability: Capability) -> tuple[Capability, Check, Check]:
    found = _compiled.get(id(capability))
    if found is None:
        if len(_compiled) >= 1024:
            _compiled.clear()
        inputs = _compile(msgspec.json.encode(capability.io.input))
        found = (capability, inputs, _compile(msgspec.json.encode(capability.io.output)))
        _compiled[id(capability)] = found
    return found


@lru_cache(maxsize=1024)
def _compile(schema: bytes) -> Check:
    return Check(msgspec.json.decode(schema))


# Pipelines ------------------------------------------------------------------------------------------------------------

_LEFT_OUT: Final = object()


def expand(pipeline: Pipeline, params: dict[str, Any]) -> tuple[GraphSubmission | None, list[Problem]]:
    """Returns the pipeline's graph with its parameters filled in; pointers of the problems begin with `/params`.

    A parameter that is neither given nor has a default is removed together with the member that names it: an optional setting of a
    task stays out of its params.
    """
    if too_deep(params):
        return None, [Problem("/params", "too_deep", f"nested more than {MAX_NESTING} deep")]
    check = _compile(msgspec.json.encode(pipeline.params))
    values: dict[str, Any] = {
        name: each["default"]
        for name, each in pipeline.params.get("properties", {}).items()
        if isinstance(each, dict) and "default" in each
    }
    values.update(params)
    found = [
        Problem("/params", "missing_param", f"pipeline {pipeline.id!r} needs {name!r}")
        for name in check.required
        if name not in values
    ]
    found += [Problem(f"/params{pointer(each.path)}", each.code, each.detail) for each in check.complaints(values)]
    if found:
        return None, found[:MAX_PROBLEMS]
    try:
        return msgspec.convert(fill_in(pipeline.graph, values), GraphSubmission), []
    except msgspec.ValidationError as error:
        return None, [Problem("/pipeline", "bad_pipeline", f"pipeline {pipeline.id!r} makes no graph: {error}")]


def fill_in(template: Any, values: Mapping[str, Any]) -> Any:
    """Fills in a value. Recursive: a template is an operator's file, and its depth is checked with the graph that it makes."""
    if isinstance(template, list):
        return [each for each in (fill_in(item, values) for item in template) if each is not _LEFT_OUT]
    if not isinstance(template, dict):
        return template
    if template.keys() == {"$param"}:
        return values.get(template["$param"], _LEFT_OUT)
    filled = {name: fill_in(each, values) for name, each in template.items()}
    return {name: each for name, each in filled.items() if each is not _LEFT_OUT}
