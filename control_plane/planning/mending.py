"""A submission whose shape is wrong, made to fit as far as it can be, so that the problems behind its shape are found in the same request.

What is wrong is taken out, or replaced by a placeholder where it is required; a problem that may come from that is dropped again, since a problem
that is not there costs its reader more than one that is found at the second try.
"""

import re
from collections.abc import Sequence
from typing import Any, Final

from dihedral.schemas.structs.problem import ProblemDetail

MOST_BYTES: Final = 256 * 1024
"""The size of a submission that is planned although it is refused."""
REQUIRED: Final = {"schema": "langgraph.v1", "plane": "python", "task": "unnamed"}
WHOLE: Final = frozenset({"", "/graph", "/pipeline", "/graph/nodes", "/graph/edges"})
JOINTS: Final = re.compile(r"/graph/(?:nodes/\d+|edges/\d+|edges/\d+/(?:from|to))")
"""Where these are wrong nothing can be said of the rest."""


class Mended:
    """`document`: a copy that fits, or None. `shows(pointer, detail)`: whether a problem of it is one of the submission too."""

    def __init__(self, document: Any, wrong: Sequence[ProblemDetail]) -> None:
        self._wrong = {each.pointer for each in wrong}
        self._ids: list[str] = []
        self.document: dict[str, Any] | None = None
        missing = {each.pointer for each in wrong if each.code == "missing_field"}
        self._is_nameless = False
        if not isinstance(document, dict) or self._wrong & WHOLE or any(map(JOINTS.fullmatch, self._wrong - missing)):
            return
        if any(at.startswith("/graph/edges") for at in missing):
            return
        self._document = document
        for at in sorted(self._wrong - missing, key=len, reverse=True):
            self._take_out([part.replace("~1", "/").replace("~0", "~") for part in at.split("/")[1:]])
        for index, node in enumerate(_nodes(document)):
            self._is_nameless |= "id" not in node
            for name, value in {**REQUIRED, "id": f"unnamed-{index}"}.items():
                if name != "schema":
                    node.setdefault(name, value)
        self.document = document

    def _take_out(self, parts: list[str]) -> None:
        *above, last = parts
        holder: Any = self._document
        for part in above:
            holder = holder[int(part)] if isinstance(holder, list) else holder.get(part)
            if not isinstance(holder, dict | list):
                return  # it was taken out with what is around it
        if isinstance(holder, list):
            holder[int(last)] = {}
            return
        value = holder.pop(last, None)
        if last == "id":
            self._ids.append(repr(value))
        elif last in REQUIRED:
            holder[last] = REQUIRED[last]

    def shows(self, pointer: str, detail: str) -> bool:
        around = [pointer[:end] for end in range(len(pointer) + 1) if end == len(pointer) or pointer[end] == "/"]
        is_about_a_name = any(name in detail for name in self._ids) or (self._is_nameless and "no node" in detail)
        return not self._wrong & set(around) and not is_about_a_name


def _nodes(document: dict[str, Any]) -> list[dict[str, Any]]:
    graph = document.get("graph")
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    return [node for node in nodes if isinstance(node, dict)] if isinstance(nodes, list) else []
