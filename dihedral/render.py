"""A job while it runs: a table of nodes with bars on a terminal, plain lines when piped."""

import math
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from dihedral.bridge.plain import plain_line

Document = Mapping[str, Any]
BAR_COLUMNS = 64
"""A narrower terminal has no room for a bar."""

SIGNS = {
    "pending": "·", "ready": "·", "running": "▶", "completed": "✔", "failed": "✘", "skipped": "–", "cancelled": "■",
}  # fmt: skip


class Show(Protocol):
    def event(self, event: Document) -> None: ...
    def close(self) -> None: ...


class Lines:
    """Prints one line per change; progress in tenths."""

    def __init__(self) -> None:
        self._tenth = -1

    def event(self, event: Document) -> None:
        text = describe(event)
        if event["type"] == "progress":
            tenth = int(event["progress"] * 10)
            rest = left(event)
            text = f"progress {event['progress']:.0%}{rest and f', {rest}'}" if tenth != self._tenth else None
            self._tenth = tenth
        if text:
            print(plain_line(text), flush=True)

    def close(self) -> None:
        return None


class Tree:
    """A live view on a terminal: one row per node, the job on top."""

    def __init__(self, graph: Document) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.table import Table

        self._table = Table
        self._job = graph["workflowId"]
        self._nodes: dict[str, dict[str, Any]] = {
            node["id"]: {"status": node["status"], "task": node["task"], "note": ""} for node in graph["nodes"]
        }
        self._status, self._progress = "queued", 0.0
        self._moved: tuple[Document, float] = ({}, 0.0)
        self._console = Console()
        self._live = Live(get_renderable=self._drawn, console=self._console, refresh_per_second=8)
        self._live.start()

    def event(self, event: Document) -> None:
        node = self._nodes.get(event.get("nodeId", ""))
        match event["type"]:
            case "progress" | "status":
                self._status, self._progress = event["status"], event["progress"]
                if event["type"] == "progress":
                    self._moved = event, time.monotonic()
            case "node" if node is not None:
                node["status"] = event["status"]
                if event.get("error"):
                    node["note"] = event["error"]["message"]
            case "data" if node is not None:
                node["note"] = ", ".join(f"{name} {_short(value)}" for name, value in list(event["data"].items())[:3])
            case "log" if node is not None:
                node["note"] = event["message"].strip()[:80]

    def close(self) -> None:
        self._live.stop()

    def _drawn(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.progress_bar import ProgressBar

        event, since = self._moved
        rest = left(event, time.monotonic() - since)
        name = self._job[:12] if len(self._job) == 32 else self._job
        head = self._table.grid(padding=(0, 2))
        cells: list[Any] = [f"[bold]{escape(plain_line(name))}[/]  {self._status}", f"{self._progress:.0%}", rest]
        if self._console.width >= BAR_COLUMNS:
            cells.insert(1, ProgressBar(total=1, completed=self._progress, width=16))
        for _ in cells:
            head.add_column(no_wrap=True, overflow="ellipsis")
        head.add_row(*cells)
        table = self._table.grid(padding=(0, 2))
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        for name, node in self._nodes.items():
            colour = {"completed": "green", "failed": "red", "running": "cyan"}.get(node["status"], "dim")
            table.add_row(
                f"[{colour}]{SIGNS[node['status']]} {escape(plain_line(name))}[/]",
                f"[{colour}]{node['status']}[/]",
                escape(plain_line(node["note"])),
            )
        return Group(head, table)


def describe(event: Document) -> str | None:
    """An event as a line; None for what is not worth one."""
    match event["type"]:
        case "status":
            error = event.get("error")
            return f"job {event['status']}" + (f": {error['message']}" if error else "")
        case "node":
            text = f"{SIGNS[event['status']]} {event['nodeId']} {event['status']}"
            if event["attempt"] > 1:
                text += f" (attempt {event['attempt']})"
            return text + (f": {event['error']['message']}" if event.get("error") else "")
        case "log":
            return f"  {event['nodeId']} | {event['message'].rstrip()}"
    return None


def left(job: Document, age: float = 0.0) -> str:
    """Returns what is estimated of a job document or a progress: `about 2 to 3 min left`, `starts in about 40 s`; empty while it is unknown.

    `age`: the seconds since it was received.
    """
    name = "startsIn" if "startsIn" in job else "estimate"
    if name not in job or job[name]["high"] < age:
        return ""
    span = seconds_range({"low": job[name]["low"] - age, "high": job[name]["high"] - age})
    if name == "startsIn":
        return f"starts in about {span}"
    return f"about {span} left" if job["status"] == "running" else f"takes about {span}"


def seconds_range(estimate: Mapping[str, float]) -> str:
    """Returns a range in the unit that fits its upper end, rounded outwards."""
    high = estimate["high"]
    unit, name = (1, "s") if high < 100 else (60, "min") if high < 6000 else (3600, "h")
    least = max(0 if unit == 1 else 1, math.floor(estimate["low"] / unit))
    most = max(1, math.ceil(high / unit))
    return f"{most} {name}" if least >= most else f"{least} to {most} {name}"


def waits(job: Document, now: datetime | None = None) -> str:
    """Returns what a job waits for; a start in the time of this place, and how long it is until then."""
    reason = job["waitingFor"]
    if reason["type"] != "start_time" or not job["startAt"]:
        return str(reason["message"])
    start = datetime.fromisoformat(job["startAt"]).astimezone()
    now = (now or datetime.now(UTC)).astimezone()
    left = max(0, math.ceil((start - now).total_seconds()))
    days, hours, minutes, seconds = left // 86_400, left // 3600 % 24, left // 60 % 60, left % 60
    parts = [
        f"{count} {unit}" for count, unit in ((days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")) if count
    ]
    day = "" if start.date() == now.date() else f"{start:%a} {start.day} {start:%b %Y} "
    return f"starts {day}{start:%H:%M:%S %Z}, in {' '.join(parts[:2]) or '0 s'}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)[:40]


def show(graph: Document) -> Show:
    return Tree(graph) if sys.stdout.isatty() else Lines()
