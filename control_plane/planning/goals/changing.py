"""`The same, but slower and without captions`: a goal that changes a graph. Only values change; the nodes stay as they are.

A value is changed for the same reasons as one is filled in: a number with its unit, a word of `x-words`, a quoted text, a file, `without …`.
What the words ask beyond that becomes a question, and with a model its task.
"""

import copy
from typing import Any, Final

import msgspec

from dihedral.control_plane.planning.goals import filling
from dihedral.control_plane.planning.goals.drafting import Draft, Search, Use
from dihedral.control_plane.planning.goals.files import File
from dihedral.control_plane.planning.goals.offers import Catalogue
from dihedral.control_plane.planning.goals.reading import read
from dihedral.control_plane.planning.goals.words import KINDS, stem
from dihedral.schemas.structs.plan import Choice, Question, Reason

SAME: Final = frozenset(
    map(
        stem,
        [
            "same",
            "but",
            "instead",
            "change",
            "only",
            "now",
            "keep",
            "rest",
            "everything",
            "again",
            "more",
            "version",
            "other",
        ],
    )
)

Object = dict[str, Any]


class Changed(msgspec.Struct):
    graph: Object
    reasons: list[Reason]
    assumptions: list[str]
    unmet: list[str]
    questions: list[Question]
    confidence: float


def change(goal: str, files: list[File], known: Catalogue, base: Object) -> Changed:
    """Returns the graph with the values that the goal changes."""
    reading = read(goal, [file.name for file in files], known.vocabulary, known.naming, known.choices)
    graph = copy.deepcopy(base)
    graph.pop("workflowId", None)
    nodes = [node for node in graph["nodes"] if node["task"] in known.offers]
    draft = Draft([Use(known.offers[node["task"]], {}, {}, set()) for node in nodes], set(), set(), False, [])
    search = Search(reading, files, known, {}, {})
    search.prepare()
    filled = filling.fill(draft, reading)
    _texts(draft, nodes, reading.quotes, reading.topic)
    search.adopt(draft)
    reasons, changed = [], set()
    for use, node in zip(draft.uses, nodes, strict=True):
        params = node.setdefault("params", {})
        for slot in use.offer.slots:
            if slot.name in use.values:
                for other in use.offer.slots:
                    if slot.group and other.group == slot.group and other.field != slot.field:
                        params.pop(other.field, None)
                params[slot.field] = use.values[slot.name]
                changed |= {*slot.own}
                reasons.append(
                    Reason(
                        node_id=node["id"],
                        param=slot.field,
                        text=f"{slot.field}: {use.why.get(slot.name, 'the goal says so')}.",
                    )
                )
        for token in reading.negated:
            for slot in use.offer.slots:
                is_meant = token.stem in slot.own or KINDS.get(token.stem, "") in slot.kinds
                if is_meant and not slot.required and slot.field in params and slot.name not in use.values:
                    del params[slot.field]
                    changed.add(token.stem)
                    reasons.append(
                        Reason(node_id=node["id"], param=slot.field, text=f"{slot.field}: left out, as the goal says.")
                    )
    unknown = [
        each.written for each in search.tokens() if each.start not in filled.used and each.stem not in changed | SAME
    ]
    unmet = [*filled.unmet, *(f"this changes nothing here: {word!r}" for word in unknown)]
    unmet += [
        f"{token.written!r} is nothing that this graph could leave out"
        for token in reading.negated
        if token.stem not in changed
    ]
    unmet += [f"no node takes {file.name!r}" for file in files if file.index not in draft.files]
    questions = [
        Question(id=f"{nodes[place]['id']}.{slot.field}", text=f"{slot.field}: {why}", choices=[])
        for place, slot, why in filled.wrong
    ]
    if not reasons:
        questions.append(
            Question(id="change", text="What shall change? A number, a text, a file, or what to leave out.", choices=[])
        )
    elif unmet:
        text = f"This much cannot be changed without more: {'; '.join(unmet)[:300]}. Go on without it?"
        questions.append(Question(id="unmet", text=text, choices=[Choice(label="go on without it", value=True)]))
    share = len(reasons) / max(1, len(reasons) + len(unknown))
    return Changed(graph, reasons, filled.assumptions, unmet, questions, round(share, 2))


def _texts(draft: Draft, nodes: list[Object], quotes: list[Any], topic: str) -> None:
    """Puts a quoted text, or a new subject, where the graph has one already."""
    left = [quote.text for quote in quotes]
    for use, node in zip(draft.uses, nodes, strict=True):
        for slot in use.offer.slots:
            group = {each.field for each in use.offer.slots if slot.group and each.group == slot.group} | {slot.field}
            if not slot.is_text or not group & set(node.get("params", {})):
                continue
            if "text" in slot.kinds and left:
                use.values[slot.name] = left.pop(0)
                use.why[slot.name] = "the quoted text"
            elif "topic" in slot.kinds and topic:
                use.values[slot.name] = topic
                use.why[slot.name] = "what the goal says it is about"
