"""ComfyUI workflows as jobs: what `dihedral submit workflow.json` makes of a file."""

from collections.abc import Mapping
from typing import Any

HOW_TO_EXPORT = (
    "this is a workflow as ComfyUI's editor saves it; export it with Workflow → Export (API), or Save (API Format)"
)


def is_workflow(document: Mapping[str, Any]) -> bool:
    """Returns True when the document has ComfyUI's API format: nodes by id, and nothing else."""
    return bool(document) and all(
        isinstance(node, dict) and isinstance(node.get("class_type"), str) and isinstance(node.get("inputs"), dict)
        for node in document.values()
    )


def is_of_the_editor(document: Mapping[str, Any]) -> bool:
    """Returns True when it is a workflow with the places of its nodes, which no server runs. A graph has neither `links` nor this `nodes` alone."""
    return isinstance(document.get("nodes"), list) and isinstance(document.get("links"), list)


def as_graph(
    workflow: Mapping[str, Any], server: str, values: Mapping[str, Any], files: Mapping[str, Any]
) -> dict[str, Any]:
    params: dict[str, Any] = {"workflow": workflow}
    if server:
        params["server"] = server
    if values:
        params["values"] = values
    if files:
        params["files"] = files
    node = {"id": "comfyui", "task": "run_comfyui", "plane": "python", "params": params}
    return {"schema": "langgraph.v1", "nodes": [node], "edges": []}
