"""A job while it runs: a table of nodes with bars on a terminal, plain lines when piped."""

import math
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from dihedral.bridge.plain import plain_line

Document = Mapping[str, Any]

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
            text = f"progress {event['progress']:.0%}" if tenth != self._tenth else None
            self._tenth = tenth
        if text:
            print(plain_line(text), flush=True)

    def close(self) -> None:
        return None


class Tree:
    """A live view on a terminal: one row per node, the job on top."""

    def __init__(self, graph: Document) -> None:
        from rich.live import Live
        from rich.table import Table

        self._table = Table
        self._job = graph["workflowId"]
        self._nodes: dict[str, dict[str, Any]] = {
            node["id"]: {"status": node["status"], "task": node["task"], "note": ""} for node in graph["nodes"]
        }
        self._status, self._progress = "queued", 0.0
        self._live = Live(self._drawn(), refresh_per_second=8)
        self._live.start()

    def event(self, event: Document) -> None:
        node = self._nodes.get(event.get("nodeId", ""))
        match event["type"]:
            case "progress" | "status":
                self._status, self._progress = event["status"], event["progress"]
            case "node" if node is not None:
                node["status"] = event["status"]
                if event.get("error"):
                    node["note"] = event["error"]["message"]
            case "data" if node is not None:
                node["note"] = ", ".join(f"{name} {_short(value)}" for name, value in list(event["data"].items())[:3])
            case "log" if node is not None:
                node["note"] = event["message"].strip()[:80]
        self._live.update(self._drawn())

    def close(self) -> None:
        self._live.stop()

    def _drawn(self) -> Any:
        from rich.markup import escape
        from rich.progress_bar import ProgressBar

        table = self._table(box=None, pad_edge=False)
        table.add_column(f"{self._job}  {self._status}", no_wrap=True)
        table.add_column(ProgressBar(total=1, completed=self._progress, width=30))
        table.add_column(f"{self._progress:.0%}")
        for name, node in self._nodes.items():
            colour = {"completed": "green", "failed": "red", "running": "cyan"}.get(node["status"], "dim")
            table.add_row(
                f"[{colour}]{SIGNS[node['status']]} {escape(plain_line(name))}[/]",
                f"[{colour}]{node['status']}[/]",
                escape(plain_line(node["note"])),
            )
        return table


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
