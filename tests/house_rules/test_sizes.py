"""No class and no module is large without a reason in its header."""

import ast
import re

from tests.house_rules.test_imports import modules

CLASS_LINES, MODULE_LINES = 250, 450
LARGE = re.compile(r"\bLarge because\b")
"""What a header says where a module, or a class in it, is larger."""


def too_large(path: str, text: str) -> list[str]:
    tree = ast.parse(text)
    if LARGE.search(ast.get_docstring(tree) or ""):
        return []
    lines = text.count("\n")
    found = [f"{path}: {lines} lines"] if lines > MODULE_LINES else []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and (size := (node.end_lineno or 0) - node.lineno + 1) > CLASS_LINES:
            found.append(f"{path}: class {node.name} has {size} lines")
    return found


def test_nothing_is_large_without_a_reason_in_its_header() -> None:
    found = modules()
    assert [each for path, text in found.items() if "structs/" not in path for each in too_large(path, text)] == []


def test_what_is_large_is_found() -> None:
    body = "class A:\n" + "    x = 1\n" * 460
    assert len(too_large("bridge/a.py", body)) == 2
    assert too_large("bridge/a.py", '"""A. Large because it is one idea."""\n' + body) == []
