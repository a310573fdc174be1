"""Graphs and capabilities for the tests, in one line each."""

from collections.abc import Iterable
from typing import Any

import msgspec

from dihedral.control_plane.planning.plan import normalise
from dihedral.schemas.structs.capability import Capability, Contracts, Io, Runtime, TaskKind
from dihedral.schemas.structs.graph import Graph, Plane
from dihedral.schemas.structs.submission import GraphSubmission

Link = tuple[str, str] | tuple[str, str, str]


def submission(nodes: Iterable[str | dict[str, Any]], links: Iterable[Link] = (), **more: Any) -> GraphSubmission:
    made = [node if isinstance(node, dict) else {"id": node} for node in nodes]
    edges = [dict(zip(("from", "to", "kind"), link, strict=False)) for link in links]
    document = {
        "schema": "langgraph.v1",
        "nodes": [{"task": "open", "plane": "python", **node} for node in made],
        "edges": edges,
        **more,
    }
    return msgspec.convert(document, GraphSubmission)


def graph(nodes: Iterable[str | dict[str, Any]], links: Iterable[Link] = (), **more: Any) -> Graph:
    return normalise(submission(nodes, links, **more), "job")


def capability(
    id: str, inputs: dict[str, Any] | None = None, output: dict[str, Any] | None = None, *, light: bool = False
) -> Capability:
    return Capability(
        id=id,
        label=id,
        description="",
        version="1",
        plane=Plane.python,
        runtime=Runtime(
            kind=TaskKind.cpu, pool="default", timeout_seconds=60, concurrency=0, memory_mib=0, light=light
        ),
        io=Io(input=inputs if inputs is not None else {"type": "object"}, output=output or {}),
        parameters=[],
        examples=[],
        telemetry={},
        security={},
        contracts=Contracts(idempotent=True, side_effects=[]),
    )


def closed(required: Iterable[str] = (), **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(required),
        "properties": properties,
    }


INTEGER = {"type": "integer", "minimum": 1, "maximum": 10}
CAPABILITIES = {
    each.id: each
    for each in (
        capability("open"),
        capability("typed", closed(["steps"], steps=INTEGER, names={"type": "array", "items": {"type": "string"}})),
        capability("maker", closed(), closed(["steps"], steps={"type": "integer"}), light=True),
    )
}
