"""Graphs as the manual writes them: nodes by their ids, edges as pairs."""

from typing import Any


def node(id: str, task: str = "simulate", **more: Any) -> dict[str, Any]:
    """`more`: params, and the other fields of a node by their own names."""
    fields: dict[str, Any] = {
        name: more.pop(name) for name in ("retries", "timeoutSeconds", "input", "progressWeight") if name in more
    }
    return {"id": id, "task": task, "plane": more.pop("plane", "python"), "params": more, **fields}


def graph(*nodes: dict[str, Any], edges: list[tuple[str, ...]] = []) -> dict[str, Any]:  # noqa: B006
    """An edge is (from, to) or (from, to, kind)."""
    drawn = [{"from": edge[0], "to": edge[1], "kind": (*edge, "normal")[2]} for edge in edges]
    return {"schema": "langgraph.v1", "nodes": list(nodes), "edges": drawn}


def ended(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    """Watches a job to its end; its document."""
    for _ in client.watch(job["jobId"]):
        pass
    return client.job(job["jobId"])


def nodes(client: Any, job: dict[str, Any]) -> dict[str, Any]:
    return {each["id"]: each for each in client.graph(job["jobId"])["nodes"]}
