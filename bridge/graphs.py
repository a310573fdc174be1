"""Graphs, purely: which nodes are ready, which are skipped, what a node's input is, where it goes. No I/O, no clock.

Edge resolution. A failure is *handled* when the node has an outgoing `on_failure` edge. For a source that has ended:

| source                                                 | normal, on_success | on_failure |
|--------------------------------------------------------|--------------------|------------|
| completed                                              | satisfied          | not taken  |
| failed, handled                                        | not taken          | satisfied  |
| failed, unhandled; cancelled; skipped because of broken | broken             | broken     |
| skipped because not taken                              | not taken          | not taken  |

A node with a broken edge is skipped at once (broken). Otherwise, when none is open: at least one satisfied → ready, none →
skipped (not taken). Everything is iterative: a chain of 2,000 nodes must not meet the recursion limit.
"""

import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import msgspec

from dihedral.bridge.errors import InputTooLarge, ReferenceNotFound
from dihedral.schemas.structs.graph import Edge, EdgeKind, Graph, Node

SHARES = 10**9
LIGHT_BATCH = 8
INDEX = re.compile("0|[1-9][0-9]{0,8}")

NodeState = tuple[str, str]
"""The status of a node, and the reason of a skip ("broken", "not_taken") or ""."""


class Place(NamedTuple):
    """Where a node runs: one of the two planes by its wire value, and a pool of its workers."""

    plane: str
    pool: str

    @classmethod
    def of(cls, label: str) -> "Place":
        """Reads what records say, `plane/pool`."""
        plane, _, pool = label.partition("/")
        return cls(plane, pool)

    @property
    def label(self) -> str:
        return f"{self.plane}/{self.pool}"

    @property
    def title(self) -> str:
        """The place in words."""
        return f"{'control' if self.plane == 'node' else 'data'} plane, pool {self.pool}"


class Placement(msgspec.Struct, array_like=True, frozen=True):
    """The place of a node as its plan fixes it; stored with the graph.

    `light`: runs in the worker itself (async, cpu) instead of a slot. `timeout_seconds`: the capability's. `lane`: of nodes that
    prefer or need a device (keys.py), else empty.
    """

    pool: str
    light: bool
    timeout_seconds: float
    idempotent: bool
    lane: str = ""


class Group(msgspec.Struct, frozen=True):
    """Nodes that one entry carries to a place."""

    place: Place
    nodes: list[str]


class Resolution(msgspec.Struct, frozen=True):
    """The decided nodes. `unknown`: parents whose end would decide a node and whose records were not given."""

    ready: list[str]
    skipped: list[tuple[str, str]]
    unknown: list[str]


class Topology:
    """A graph with its edges by node, computed once."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.nodes: dict[str, Node] = {node.id: node for node in graph.nodes}
        self.incoming: dict[str, list[Edge]] = {node: [] for node in self.nodes}
        self.outgoing: dict[str, list[Edge]] = {node: [] for node in self.nodes}
        self._handled: set[str] = set()
        self._sources: dict[str, list[str]] = {}
        for edge in graph.edges:
            self.incoming[edge.to].append(edge)
            self.outgoing[edge.from_].append(edge)
            if edge.kind is EdgeKind.on_failure:
                self._handled.add(edge.from_)

    @cached_property
    def shares(self) -> dict[str, int]:
        """Returns each node's part of 10⁹ by progressWeight; equal parts where all weights are 0. The sum is exact."""
        if len(self.nodes) == 1:
            return dict.fromkeys(self.nodes, SHARES)
        weights = {node.id: node.progress_weight for node in self.graph.nodes}
        total = sum(weights.values())
        if total <= 0:
            weights, total = dict.fromkeys(weights, 1.0), float(len(weights))
        shares: dict[str, int] = {}
        summed, given = 0.0, 0
        for node, weight in weights.items():
            summed += weight
            upto = round(SHARES * min(1.0, summed / total))
            shares[node] = upto - given
            given = upto
        last = next(reversed(shares))
        shares[last] += SHARES - given
        return shares

    @cached_property
    def plain(self) -> frozenset[str]:
        """The nodes whose input is their params as they stand, which have no arrays or objects: nothing is referred to and nothing fed."""
        return frozenset(
            node.id
            for node in self.graph.nodes
            if not (self.incoming[node.id] or node.input)
            and all(value is None or isinstance(value, str | int | float) for value in node.params.values())
        )

    @property
    def roots(self) -> list[str]:
        """Returns the nodes that are ready before any node has ended."""
        return [node for node, edges in self.incoming.items() if not edges]

    def handled(self, node: str) -> bool:
        """Returns whether the node has an outgoing `on_failure` edge."""
        return node in self._handled

    def sources(self, node: str) -> list[str]:
        """Returns the nodes whose records the input of `node` needs: its parents in edge order, then the sources of `$from`."""
        known = self._sources.get(node)
        if known is None:
            found = {edge.from_: None for edge in self.incoming[node]}
            for source in references(self.nodes[node].params):
                found[source] = None
            known = self._sources[node] = list(found)
        return known


def references(value: Any) -> Iterable[str]:
    """Returns the node ids of every `$from` in a value."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("$from"), str):
                yield item["$from"]
            else:
                stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def edge_verdict(topology: Topology, edge: Edge, state: NodeState) -> str:
    """Returns satisfied | not_taken | broken for an edge whose source has ended."""
    status, reason = state
    if status == "completed":
        return "not_taken" if edge.kind == EdgeKind.on_failure else "satisfied"
    if status == "failed" and topology.handled(edge.from_):
        return "satisfied" if edge.kind == EdgeKind.on_failure else "not_taken"
    if status == "skipped" and reason == "not_taken":
        return "not_taken"
    return "broken"


def resolve(topology: Topology, states: Mapping[str, NodeState], candidates: Iterable[str]) -> Resolution:
    """Decides pending `candidates`, given the states of the nodes known to have ended.

    A skip decides its children within the call. A candidate that waits for parents of unknown state names
    them in `unknown`, unless a broken edge has decided it already.
    """
    known = dict(states)
    ready: dict[str, None] = {}
    skipped: dict[str, str] = {}
    unknown: dict[str, None] = {}
    queue = deque(dict.fromkeys(candidates))
    queued = set(queue)  # a join of many parents is checked once for all its skipped parents, not once for each
    while queue:
        node = queue.popleft()
        queued.discard(node)
        if node in known or node in ready:
            continue
        verdicts = set()
        missing = []
        for edge in topology.incoming[node]:
            state = known.get(edge.from_)
            if state is None:
                missing.append(edge.from_)
            else:
                verdicts.add(edge_verdict(topology, edge, state))
        if "broken" in verdicts:
            reason = "broken"
        elif missing:
            unknown.update(dict.fromkeys(missing))
            continue
        elif "satisfied" in verdicts or not verdicts:
            ready[node] = None
            continue
        else:
            reason = "not_taken"
        skipped[node] = reason
        known[node] = ("skipped", reason)
        children = dict.fromkeys(edge.to for edge in topology.outgoing[node] if edge.to not in queued)
        queue.extend(children)
        queued.update(children)
    return Resolution(list(ready), list(skipped.items()), [node for node in unknown if node not in known])


class Plan:
    """A graph, and where its nodes run. `graph_bytes`: the size of its JSON; 0 where no entry will contain it."""

    __slots__ = ("graph_bytes", "routes", "topology")

    def __init__(self, topology: Topology, routes: Mapping[str, Placement], graph_bytes: int = 0) -> None:
        self.topology = topology
        self.routes = routes
        self.graph_bytes = graph_bytes

    def place(self, node: str) -> Place:
        return Place(str(self.topology.nodes[node].plane), self.routes[node].pool)


def group(plan: Plan, ready: Iterable[str]) -> list[Group]:
    """Groups ready nodes into entries: each node for a slot alone, light nodes of one place at most 8 together."""
    groups: list[Group] = []
    light: dict[Place, list[str]] = {}
    for node in ready:
        if plan.routes[node].light:
            light.setdefault(plan.place(node), []).append(node)
        else:
            groups.append(Group(plan.place(node), [node]))
    for place, nodes in light.items():
        groups += [Group(place, nodes[start : start + LIGHT_BATCH]) for start in range(0, len(nodes), LIGHT_BATCH)]
    return groups


def retry_reset(topology: Topology, states: Mapping[str, NodeState], from_start: bool) -> set[str]:
    """Returns the nodes that a retry runs again: unhandled failures, cancelled nodes, broken skips, and all their descendants."""
    if from_start:
        return set(topology.nodes)
    queue = deque(
        node
        for node in topology.nodes
        if states.get(node, ("pending", ""))[0] not in ("completed", "failed", "skipped")
        or (states[node][0] == "failed" and not topology.handled(node))
        or states[node] == ("skipped", "broken")
    )
    reset: set[str] = set()
    while queue:
        node = queue.popleft()
        if node not in reset:
            reset.add(node)
            queue.extend(edge.to for edge in topology.outgoing[node])
    return reset


_ABSENT = object()


def node_input(
    topology: Topology, node_id: str, outputs: Mapping[str, Any], fields: Collection[str] | None = None, limit: int = 0
) -> dict[str, Any]:
    """Returns the params with every `$from` resolved; fields still missing are then filled by name from the node's input.

    That is the submitted input overlaid by the outputs of the parents in edge order; only names in `fields` are filled.
    `outputs` has the completed nodes whose records are known.

    Raises:
        InputTooLarge: together they would be larger than `limit` bytes of JSON; 0: no limit. A `$from` with `most` counts as absent beyond its own bytes.
        ReferenceNotFound: a `$from` without default names a node that did not complete, or a path that is not there.
    """
    node = topology.nodes[node_id]
    room = _Room(limit)
    params: dict[str, Any] = _resolved(node.params, outputs, room)
    offered = dict(node.input) if isinstance(node.input, dict) else {}
    for edge in topology.incoming[node_id]:
        output = outputs.get(edge.from_)
        if isinstance(output, dict):
            offered.update(output)
    for name, value in offered.items():
        if name not in params and (fields is None or name in fields):
            room.take(value)
            params[name] = value
    return params


class _Room:
    """Counts the bytes put into params. A value costs every time it is named: a few kilobytes of `$from` can name one value a million times."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._taken = 0
        self._sizes: dict[int, int] = {}  # by identity: the outputs outlive this

    def size(self, value: Any) -> int:
        size = self._sizes.get(id(value))
        if size is None:
            size = self._sizes[id(value)] = len(msgspec.json.encode(value))
        return size

    def take(self, value: Any) -> None:
        self._taken += self.size(value)
        if 0 < self._limit < self._taken:
            raise InputTooLarge(
                f"the outputs that it names would add more than {self._limit} bytes (jobs.nodeInputBytes)"
            )


def _resolved(value: Any, outputs: Mapping[str, Any], room: _Room) -> Any:
    if isinstance(value, list):
        return [_resolved(item, outputs, room) for item in value]
    if not isinstance(value, dict):
        return value
    source = value.get("$from")
    if not isinstance(source, str):
        return {name: _resolved(item, outputs, room) for name, item in value.items()}
    path = value.get("path", "")
    found = at_pointer(outputs[source], path) if source in outputs else _ABSENT
    most = value.get("most")
    is_too_large = found is not _ABSENT and isinstance(most, int) and room.size(found) > most
    if found is not _ABSENT and not is_too_large:
        room.take(found)
        return found
    if "default" in value:
        return value["default"]
    why = f"it has nothing at {path!r}" if source in outputs else "it did not complete"
    why = f"what it has at {path!r} is larger than {most} bytes" if is_too_large else why
    raise ReferenceNotFound(f"$from {source!r}: {why}, and there is no default")


def at_pointer(document: Any, pointer: str) -> Any:
    """Returns the value at an RFC 6901 pointer, or a marker that `is` never a value."""
    for raw in pointer.split("/")[1:]:
        name = raw.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and name in document:
            document = document[name]
        elif isinstance(document, list) and INDEX.fullmatch(name) and int(name) < len(document):
            document = document[int(name)]
        else:
            return _ABSENT
    return document
