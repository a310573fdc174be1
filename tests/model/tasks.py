"""Graphs and tasks of the model: a light one and one that takes a slot."""

from typing import Any

import msgspec

from dihedral.bridge.graphs import Placement
from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tasks.registry import TaskContext
from dihedral.schemas.structs.graph import Edge, EdgeKind, Graph, Node, NodeStatus, Plane, Retries


class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass


@tasks.task(id="light", label="light", description="runs in the worker")
async def light(params: Nothing, ctx: TaskContext) -> Nothing:
    return Nothing()


@tasks.task(id="heavy", label="heavy", description="takes a slot")
def heavy(params: Nothing, ctx: TaskContext) -> Nothing:
    return Nothing()


ROUTES = {
    "light": Placement(pool="default", light=True, timeout_seconds=60.0, idempotent=True),
    "heavy": Placement(pool="default", light=False, timeout_seconds=60.0, idempotent=True, lane="gpu"),
}


def registry() -> Any:
    return tasks.collect(["tests.model.tasks"])


def make_graph(count: int, links: list[tuple[int, int, str]], heavy_ones: list[bool]) -> Graph:
    """A DAG over `count` nodes; a link from a later to an earlier node is turned round, one to itself left out."""
    edges = {}
    for a, b, kind in links:
        a, b = sorted((a % count, b % count))
        if a != b:
            edges[a, b] = Edge(from_=f"n{a}", to=f"n{b}", kind=EdgeKind(kind), metadata={})
    nodes = [
        Node(
            id=f"n{i}",
            task="heavy" if heavy_ones[i] else "light",
            plane=Plane.python,
            status=NodeStatus.pending,
            params={},
            retries=Retries(attempt=0, max_attempts=2),
            tags=[],
            progress_weight=1.0,
        )
        for i in range(count)
    ]
    return Graph(
        schema="langgraph.v1", workflow_id="job", nodes=nodes, edges=list(edges.values()), context={}, metadata={}
    )
