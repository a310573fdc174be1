"""Small documents as tables for a terminal: the outputs of nodes, which are mostly a few names and numbers."""

import json
import shutil
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

LARGEST_BYTES = 4000
MOST_ROWS = 20
WIDEST = 60
SHORTEST = 8
"""Columns of the shortest cell that a list is cut to."""


def output_lines(output: Any) -> list[str]:
    """Returns the lines of a node's output: names and values, rows of a list of objects; a large one is only counted."""
    size = len(json.dumps(output))
    if size > LARGEST_BYTES:
        return [f"{size} bytes of JSON (dihedral show --json)"]
    if isinstance(output, Mapping):
        return table([[name, cell(value)] for name, value in output.items()]) if output else []
    if isinstance(output, list) and output and all(isinstance(each, Mapping) for each in output):
        names = list(dict.fromkeys(name for each in output for name in each))
        rows = [[cell(each.get(name, "")) for name in names] for each in output[:MOST_ROWS]]
        left = [f"… {len(output) - MOST_ROWS} more"] if len(output) > MOST_ROWS else []
        return table([names, *rows]) + left
    return [cell(output)]


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns rows with their columns one below the other."""
    count = max(len(row) for row in rows)
    widths = [max(width(row[column]) for row in rows if column < len(row)) for column in range(count)]
    lines = []
    for row in rows:
        cells = [text + " " * (widths[column] - width(text)) for column, text in enumerate(row[:-1])]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def listing(header: Sequence[str], rows: Sequence[Sequence[str]], *, flexible: Sequence[int] = ()) -> list[str]:
    """Returns a list as lines: in a pipe as it is, on a terminal under a header and fitted to its width.

    `flexible`: the columns that are cut, in this order; where that is not enough, the last of the others are left out, never the first.
    """
    if not rows or not sys.stdout.isatty():
        return table(rows) if rows else []
    most = shutil.get_terminal_size().columns
    shown = [[" ".join(cell.split()) for cell in row] for row in (header, *rows)]
    kept = [column for column in range(len(header)) if any(row[column] for row in shown[1:])]
    for column in flexible:
        over = _width(shown, kept) - most
        if over > 0 and column in kept:
            room = max(SHORTEST, max(width(row[column]) for row in shown) - over)
            for row in shown:
                row[column] = cut(row[column], room)
    others = [column for column in kept[1:] if column not in flexible]
    for column in [*reversed(others), *(each for each in flexible if each in kept[1:])]:
        if _width(shown, kept) > most:
            kept.remove(column)
    return table([[row[column] for column in kept] for row in shown])


def _width(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> int:
    return max(map(width, table([[row[column] for column in columns] for row in rows])))


def cut(text: str, columns: int) -> str:
    """Returns a text that takes no more than so many columns, with … where something was left out."""
    if width(text) <= columns:
        return text
    kept = text
    while kept and width(kept) >= columns:
        kept = kept[:-1]
    return kept.rstrip() + "…"


def cell(value: Any) -> str:
    """Returns a value on one line: artifacts by their place, numbers in a readable length, everything else as JSON."""
    if isinstance(value, Mapping) and value.keys() == {"bucket", "key"}:
        text = f"{value['bucket']}/{value['key']}"
    elif isinstance(value, float):
        text = f"{value:.6g}"
    elif isinstance(value, str):
        text = " ".join(value.split())
    elif isinstance(value, list) and len(value) <= 8 and all(isinstance(each, int | float | str) for each in value):
        text = ", ".join(cell(each) for each in value)
    else:
        text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 2 * WIDEST else text[: 2 * WIDEST - 1] + "…"


def width(text: str) -> int:
    """Returns the columns that a terminal uses: two for wide characters, none for marks on others."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
