"""Small graphs, drawn at random: chains, diamonds, fan-outs, failure paths, and anything without a cycle."""

import random
from itertools import pairwise
from typing import Any

Node = dict[str, Any]
Graph = dict[str, Any]

LIGHT = ("simulate", "stroll", "desk")
TOLD_TO_FAIL = "told_to_fail"
LARGE_KIB = 3072
"""An artifact that does not fit while the disk is full."""


def draw(rng: random.Random, job: str) -> Graph:
    shape = rng.choices((_single, _chain, _diamond, _fan, _failing, _any), (2, 3, 2, 2, 2, 3))[0]
    nodes, edges = shape(rng)
    drawn = [{"from": a, "to": b, "kind": kind} for a, b, kind in edges]
    return {"schema": "langgraph.v1", "workflowId": job, "nodes": nodes, "edges": drawn}


def storing(job: str) -> Graph:
    """Two nodes that store something large, one in a slot and one beside others."""
    params = {"steps": 0, "stores": LARGE_KIB}
    nodes = [{"id": task, "task": task, "plane": "python", "params": params} for task in ("toil", "stroll")]
    return {"schema": "langgraph.v1", "workflowId": job, "nodes": nodes, "edges": []}


def lasting(job: str) -> Graph:
    """One that runs for seconds in a slot and hears nothing."""
    node = {
        "id": "toil",
        "task": "toil",
        "plane": "python",
        "params": {"steps": 100, "stepSeconds": 0.05, "deaf": True},
    }
    return {"schema": "langgraph.v1", "workflowId": job, "nodes": [node], "edges": []}


def _node(rng: random.Random, id: str, task: str = "", **params: Any) -> Node:
    task = task or rng.choices((*LIGHT, "toil", "toil_once", "stroll_once"), (5, 3, 3, 2, 0.7, 0.7))[0]
    params = {"steps": rng.randint(0, 4), "stepSeconds": round(rng.choice((0, 0.01, 0.03, 0.15)), 3), **params}
    made: Node = {"id": id, "task": task, "plane": "node" if task == "desk" else "python"}
    if task in ("stroll", "desk", "toil") and rng.random() < 0.1:
        params["flaky"] = True
    if task in ("toil", "toil_once") and rng.random() < 0.1:
        params["deaf"] = True
    if task != "simulate" and rng.random() < 0.1:
        params["stores"] = rng.choice((1, 100, LARGE_KIB))
    if not task.endswith("_once") and rng.random() < 0.6:
        made["retries"] = {"maxAttempts": rng.randint(2, 3)}
    made["params"] = params
    return made


Drawn = tuple[list[Node], list[tuple[str, str, str]]]


def _single(rng: random.Random) -> Drawn:
    if rng.random() < 0.4:  # long enough to be in the way of what is more urgent
        return [_node(rng, "only", "toil", steps=60, stepSeconds=0.05)], []
    return [_node(rng, "only")], []


def _chain(rng: random.Random) -> Drawn:
    nodes = [_node(rng, f"link{number}") for number in range(rng.randint(2, 6))]
    ids = [node["id"] for node in nodes]
    return nodes, [(a, b, "normal") for a, b in pairwise(ids)]


def _diamond(rng: random.Random) -> Drawn:
    nodes = [_node(rng, id) for id in ("top", "left", "right", "bottom")]
    edges = [("top", "left"), ("top", "right"), ("left", "bottom"), ("right", "bottom")]
    return nodes, [(a, b, "normal") for a, b in edges]


def _fan(rng: random.Random) -> Drawn:
    arms = [_node(rng, f"arm{number}") for number in range(rng.randint(3, 10))]
    edges = [("root", arm["id"], "normal") for arm in arms] + [(arm["id"], "join", "normal") for arm in arms]
    return [_node(rng, "root"), *arms, _node(rng, "join")], edges


def _failing(rng: random.Random) -> Drawn:
    """One that fails for good; half of them have somewhere to go then."""
    nodes = [_node(rng, "first"), _node(rng, "bad", rng.choice(("stroll", "toil", "desk")), fails=True)]
    nodes += [_node(rng, id) for id in ("after", "rescue", "last")]
    edges = [("first", "bad", "normal"), ("bad", "after", "on_success"), ("after", "last", "normal")]
    if rng.random() < 0.5:
        return nodes, [*edges, ("bad", "rescue", "on_failure"), ("rescue", "last", "normal")]
    return nodes, edges


def _any(rng: random.Random) -> Drawn:
    nodes = [_node(rng, f"n{number}") for number in range(rng.randint(3, 9))]
    for node in nodes:
        if node["task"] in ("stroll", "desk") and rng.random() < 0.15:
            node["params"]["fails"] = True
    edges = []
    for index, node in enumerate(nodes):
        for other in nodes[index + 1 :]:
            if rng.random() < 0.3:
                kind = rng.choices(("normal", "on_success", "on_failure"), (6, 1, 1.5))[0]
                edges.append((node["id"], other["id"], kind))
    return nodes, edges
