"""`dihedral ask "…"`: a goal in words becomes a graph, shown as a tree with its reasons; what is open is asked on a terminal, and it runs once confirmed.

Without a terminal nothing is asked: open questions are printed and the exit code is that of a refusal, so a script notices.
"""

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dihedral.bridge.plain import plain_line

Document = Mapping[str, Any]
MOST_ROUNDS = 10  # of questions; a plan that still has some then is not asked about any more


@contextmanager
def uploads_of(client: Any) -> Iterator[list[Document]]:
    """Gives a list for what is uploaded. What stands in it at the end is deleted again, so one who makes use of it empties the list."""
    uploaded: list[Document] = []
    try:
        yield uploaded
    finally:
        client.discard(uploaded)


def plan_of(
    client: Any,
    goal: str,
    paths: Sequence[str],
    uploaded: list[Document],
    *,
    is_asking: bool,
    ask: Callable[[str], str] = input,
    evaluate: bool = False,
) -> tuple[Document, Document]:
    """Uploads the files and plans; asks what is open where that is possible. Returns (the request, its plan). `uploaded`: gets every upload, also those that answer a question."""
    request: dict[str, Any] = {
        "goal": goal,
        "files": [_uploaded(client, path, uploaded) for path in paths],
        "answers": {},
        **({"evaluate": True} if evaluate else {}),
    }
    plan = client.plan_goal(**request)
    for _ in range(MOST_ROUNDS if is_asking else 0):
        if not plan["questions"]:
            break
        for question in plan["questions"]:
            answered = answer_of(question, client, ask, uploaded)
            if answered is None:
                return request, plan
            request["answers"][question["id"]] = answered
        plan = client.plan_goal(**request)
    return request, plan


def _uploaded(client: Any, path: str, uploaded: list[Document]) -> Document:
    meta = client.upload(Path(path))
    uploaded.append({"bucket": meta["bucket"], "key": meta["key"]})
    return uploaded[-1]


def answer_of(question: Document, client: Any, ask: Callable[[str], str], uploaded: list[Document]) -> Any:
    """Asks one question. Returns the answer as the plan takes it; None where there was none."""
    print(plain_line(question["text"]))
    for number, choice in enumerate(question["choices"], 1):
        print(f"  {number}  {plain_line(choice['label'])}")
    try:
        text = ask("> ").strip()
    except EOFError:
        return None
    if text.isdigit() and 0 < int(text) <= len(question["choices"]):
        return question["choices"][int(text) - 1]["value"]
    if not text:
        return None
    schema = question.get("schema", {})
    items = schema.get("items", {}) if schema.get("type") == "array" else {}
    if schema.get("x-artifact") or items.get("x-artifact"):
        refs = [_uploaded(client, path, uploaded) for path in text.split()]
        return refs if items else refs[0]
    if schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def tree(plan: Document) -> list[str]:
    """Returns the plan as lines: the graph from its ends down to what they need, with the reason of each node and value."""
    if "graph" not in plan:
        return [*(f"cannot: {plain_line(each)}" for each in plan["unmet"])] or ["there is no graph for it"]
    graph = plan["graph"]
    parents: dict[str, list[str]] = {}
    for edge in graph.get("edges", []):
        parents.setdefault(edge["to"], []).append(edge["from"])
    sources = {edge["from"] for edge in graph.get("edges", [])}
    nodes = {node["id"]: node for node in graph["nodes"]}
    lines: list[str] = []
    shown: set[str] = set()

    def draw(name: str, before: str, last: bool, top: bool) -> None:
        node = nodes[name]
        sign = "" if top else "└─ " if last else "├─ "
        task = "" if node["task"] == name else f" ({node['task']})"
        again = "  …" if name in shown else ""
        lines.append(plain_line(f"{before}{sign}{name}{task}{again}"))
        if name in shown:
            return
        shown.add(name)
        inner = before + ("" if top else "   " if last else "│  ")
        for reason in plan["reasons"]:
            if reason["nodeId"] == name:
                lines.append(plain_line(f"{inner}   · {reason['text']}"))
        needed = parents.get(name, [])
        for index, each in enumerate(needed):
            draw(each, inner, index == len(needed) - 1, False)

    for name in nodes:
        if name not in sources:
            draw(name, "", True, True)
    estimate = plan.get("estimate")
    if estimate:
        nodes_word = "node" if estimate["nodes"] == 1 else "nodes"
        device = f", {estimate['gpuNodes']} for a GPU with {estimate['memoryMiB']} MiB" if estimate["gpuNodes"] else ""
        time = f", at most {estimate['seconds']:.0f} s as a rule" if estimate.get("seconds") is not None else ""
        lines.append(f"{estimate['nodes']} {nodes_word}{device}{time}")
    lines += [plain_line(f"assumed: {each}") for each in plan["assumptions"]]
    lines += [plain_line(f"not done: {each}") for each in plan["unmet"]]
    lines.append(
        f"sure: {plan['confidence']:.0%}"
        + (f", by {plan['model']} in {plan['rounds']} rounds" if plan["model"] else "")
    )
    return lines


def next_attempt(graph: Document) -> str | None:
    """Returns the job that tries again what the evaluation of this one did not find as the goal asks."""
    outputs = [node.get("output") or {} for node in graph["nodes"] if node["task"] == "evaluate_results"]
    return next((each["nextAttempt"] for each in outputs if each.get("nextAttempt")), None)


def is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()
