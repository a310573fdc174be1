"""The console in Chromium, without a GPU: how soon it is drawn and how smoothly it moves with 10,000 jobs, 5,000 files and a graph of 1,000 nodes.

First draw is from the start of the navigation until the first row or node has been painted, in a new browser profile (cold) and
once more in the same one (warm). Frames a second are counted while every frame scrolls the list or drags the graph. CPU is what the
page's main thread spent until the first draw, for a frame, and in its longest task of both: what a busy machine changes least.
"""

import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Row, Table
from tests.console.browser import Tab, chromium
from tests.console.large import (
    first_draw_ms,
    frames,
    large_graph,
    longest_task_ms,
    start_tracing,
    store_many,
    submit_many,
)
from tests.support.stack import Stack

JOBS = 10_000
NODES = 1_000
FILES = 5_000
VIEWS = {
    "10,000 jobs": ("/", ".rows .job-row", "scroll"),
    "gallery of 5,000 files": ("/console/artifacts", ".tile img", "scroll"),
    "graph of 1,000 nodes": ("/console/jobs/large", ".node", "drag"),
}


def run(jobs: int, rounds: int) -> tuple[list[Table], list[Row]]:
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    house = Stack(directory)
    raw: list[Row] = []
    try:
        house.worker("--slots", "1")
        house.post("/api/jobs", large_graph(NODES, "large"))
        house.ended("large", 90)
        submit_many(house, jobs)
        store_many(directory / "artifacts", FILES)
        with chromium() as browser:
            for turn in range(rounds):
                for view, (address, awaited, act) in VIEWS.items():
                    raw.append({"view": view, "round": turn, **_measured(browser, house, address, awaited, act)})
    finally:
        house.close()
        shutil.rmtree(directory, ignore_errors=True)
    rows = [
        {
            "view": view,
            **{name: round(statistics.median(each[name] for each in raw if each["view"] == view)) for name in NAMES},
        }
        for view in VIEWS
    ]
    return [Table("The console: first draw and frames, medians", rows)], raw


NAMES = (
    "cold ms",
    "warm ms",
    "CPU ms until drawn",
    "frames/s",
    "95 % of frames below ms",
    "CPU ms a frame",
    "longest task CPU ms",
)
SECONDS = 2.0


def _measured(browser: Any, house: Stack, address: str, awaited: str, act: str) -> Row:
    tab = Tab(browser, house.url)
    try:
        devtools = tab.context.new_cdp_session(tab.page)
        devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

        def spent_ms() -> float:
            found = devtools.send("Performance.getMetrics")["metrics"]
            return 1000 * next(float(each["value"]) for each in found if each["name"] == "TaskDuration")

        start_tracing(browser, tab.page)
        cold = first_draw_ms(tab.page, address, awaited)
        until_drawn = spent_ms()
        warm = first_draw_ms(tab.page, address, awaited)
        before = spent_ms()
        moved = frames(tab.page, act, SECONDS)
        a_frame = (spent_ms() - before) / max(1, moved["frames"] * SECONDS)
        longest = longest_task_ms(browser)
        found = (cold, warm, until_drawn, moved["frames"], moved["slowest"], a_frame, longest)
        return dict(zip(NAMES, found, strict=True))
    finally:
        tab.close()
