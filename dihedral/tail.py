"""`dihedral logs`: the ends of the log files, and what is added to them."""

import json
import os
import sys
import time
from datetime import datetime
from pathlib import Path

from dihedral.bridge.plain import plain_line

BLOCK_BYTES = 1 << 16
KNOWN = frozenset({"time", "level", "plane", "logger", "message"})
"""Fields of a logged line that are shown in its sentence, or that the file's name says already."""
OTHER_NAMES = {"redis": "server", "valkey": "server", "worker": "worker-1"}


def tail(directory: Path, name: str | None, *, follow: bool, lines: int) -> int:
    """Returns 0; 3 when there is no such log. With `follow` runs until Ctrl-C."""
    wanted = OTHER_NAMES.get(name, name) if name else "*"
    files = sorted(directory.glob(f"{wanted}.log"))
    if not files:
        there = ", ".join(sorted(path.stem for path in directory.glob("*.log")))
        known = f"there are {there}" if there else "is this the data directory of `dihedral up`?"
        named = f"log {plain_line(name)}" if name else "log"
        print(f"dihedral: no {named} in {directory}; {known}", file=sys.stderr)
        return 3
    places = {}
    for path in files:
        found, places[path] = _end(path, lines)
        for line in found:
            _print(path, line)
    while follow:
        for path, place in places.items():
            places[path] = _more(path, place)
        time.sleep(0.2)
    return 0


def _print(path: Path, line: bytes) -> None:
    print(f"{path.stem:10} {plain_line(_told(line.decode(errors='replace').rstrip()))}", flush=True)


def _told(line: str) -> str:
    """Returns a line of JSON, as the planes log, as a sentence with its time in this place; any other line as it is."""
    try:
        found = json.loads(line)
        at = datetime.fromisoformat(found["time"]).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        told = f"{at} {found['level']:7} {found['message']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return line
    more = [f"{name}={value}" for name, value in found.items() if name not in KNOWN]
    return " ".join([told, *more])


def _end(path: Path, lines: int) -> tuple[list[bytes], int]:
    """The last lines, and the size up to which the file was read; as much is read as they need."""
    with path.open("rb") as file:
        size = place = file.seek(0, os.SEEK_END)
        text = b""
        while place > 0 and text.count(b"\n") <= lines:
            step = min(BLOCK_BYTES, place)
            place -= step
            file.seek(place)
            text = file.read(step) + text
    return (text.splitlines()[-lines:] if lines > 0 else []), size


def _more(path: Path, place: int) -> int:
    """Prints what was added; a file that has become smaller was rotated, and is read from its start."""
    try:
        with path.open("rb") as file:
            if file.seek(0, os.SEEK_END) < place:
                place = 0
            file.seek(place)
            for line in file:
                _print(path, line)
            return file.tell()
    except FileNotFoundError:
        return 0
