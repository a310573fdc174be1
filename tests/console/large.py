"""Ten thousand jobs and a graph of a thousand nodes, and how to tell whether a page that shows them is quick: first draw, frames a second."""

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import msgspec
from playwright.sync_api import Browser, Page

from dihedral.bridge.artifacts.index import Index
from dihedral.schemas.structs.artifact import ArtifactMeta
from tests.console.filming import png
from tests.support.stack import Stack

FAR = "2099-01-01T00:00:00Z"
BATCH = 1000
PICTURE = png(1)

NOTE_FIRST_DRAW = """
  new MutationObserver((_, observer) => {
    if (!document.querySelector(window.awaited)) return;
    observer.disconnect();
    requestAnimationFrame(() => setTimeout(() => (window.drawn = performance.now())));
  }).observe(document, { childList: true, subtree: true });
"""

COUNT_FRAMES = """
  async ([act, seconds]) => {
    const acts = {
      scroll(frame) {
        const rows = document.querySelector(".rows");
        rows.scrollTop = (frame * 170) % Math.max(1, rows.scrollHeight - rows.clientHeight);
      },
      drag(frame) {
        const graph = document.querySelector(".graph");
        const at = graph.getBoundingClientRect();
        const point = { bubbles: true, pointerId: 1, button: 0, buttons: 1, clientX: at.x + 200 + 150 * Math.sin(frame / 15), clientY: at.y + 150 + 100 * Math.cos(frame / 20) };
        if (frame === 0) {
          graph.setPointerCapture = () => {};
          graph.dispatchEvent(new PointerEvent("pointerdown", point));
        }
        graph.dispatchEvent(new PointerEvent("pointermove", point));
      },
    };
    const times = [];
    const until = performance.now() + seconds * 1000;
    for (let frame = 0; performance.now() < until; frame += 1) {
      acts[act](frame);
      times.push(await new Promise(requestAnimationFrame));
    }
    document.querySelector(".graph")?.dispatchEvent(new PointerEvent("pointerup", { bubbles: true, pointerId: 1 }));
    const gaps = times.slice(1).map((time, index) => time - times[index]).sort((a, b) => a - b);
    return { frames: times.length / seconds, slowest: gaps[Math.floor(gaps.length * 0.95)] };
  }
"""


def submit_many(house: Stack, count: int) -> None:
    """Jobs of the far future: they are there and cost nothing."""
    graph = {"schema": "langgraph.v1", "nodes": [{"id": "a", "task": "simulate", "plane": "python"}], "edges": []}
    for start in range(0, count, BATCH):
        jobs = [
            {"graph": {**graph, "workflowId": f"many-{index:05}"}, "startAt": FAR}
            for index in range(start, min(count, start + BATCH))
        ]
        house.post("/api/jobs/batch", {"jobs": jobs}, status=200)


def store_many(artifacts: Path, count: int) -> None:
    """Pictures in a local store, from one that came long ago to the newest, written as the store would; nothing waits for a disk."""
    index = Index(artifacts)
    digest = hashlib.sha256(PICTURE).hexdigest()
    for number in range(count):
        key = f"many/{number:05}/picture-{number:05}.png"
        created = f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}.000Z"
        meta = ArtifactMeta(
            bucket="inputs", key=key, size_bytes=len(PICTURE), content_type="image/png", sha256=digest, created_at=created,
            job_id=None, node_id=None,
        )  # fmt: skip
        for path, content in (
            (artifacts / "inputs" / key, PICTURE),
            (artifacts / ".meta" / "inputs" / f"{key}.json", msgspec.json.encode(meta)),
        ):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        index.add(meta)


def large_graph(count: int, job: str) -> dict[str, Any]:
    """Layers of up to forty nodes, each with one to three parents in the layers before."""
    chance = random.Random(1)
    nodes: list[dict[str, str]] = []
    edges: list[dict[str, str]] = []
    layers: list[list[str]] = []
    while len(nodes) < count:
        layer = [f"n{len(nodes) + index}" for index in range(min(chance.randint(5, 40), count - len(nodes)))]
        nodes += [{"id": id, "task": "simulate", "plane": "python"} for id in layer]
        for id in layer if layers else []:
            parents = {
                chance.choice(layers[-1]),
                *(chance.choice(chance.choice(layers[-4:])) for _ in range(chance.randint(0, 2))),
            }
            edges += [{"from": parent, "to": id} for parent in sorted(parents)]
        layers.append(layer)
    return {"graph": {"schema": "langgraph.v1", "workflowId": job, "nodes": nodes, "edges": edges}}


TRACED = ["disabled-by-default-devtools.timeline", "devtools.timeline", "toplevel"]


def start_tracing(browser: Browser, page: Page) -> None:
    browser.start_tracing(page=page, categories=TRACED)


def longest_task_ms(browser: Browser) -> float:
    """What the longest task of a page's main thread cost since `start_tracing`, in ms of CPU: a busy machine changes it least."""
    events = json.loads(browser.stop_tracing())["traceEvents"]
    main = {
        (each["pid"], each["tid"])
        for each in events
        if each["name"] == "thread_name" and each["args"]["name"] == "CrRendererMain"
    }
    tasks = [
        each["tdur"]
        for each in events
        if each["name"] == "RunTask" and "tdur" in each and (each["pid"], each["tid"]) in main
    ]
    return float(max(tasks, default=0)) / 1000


def first_draw_ms(page: Page, address: str, awaited: str) -> float:
    """From the start of the navigation until `awaited` (a CSS selector) has been painted; the browser's cache is warm or cold as it is."""
    page.add_init_script(f"window.awaited = {awaited!r};{NOTE_FIRST_DRAW}")
    page.goto(address)
    page.wait_for_selector(awaited)
    while (drawn := page.evaluate("window.drawn")) is None:
        page.wait_for_timeout(5)
    return float(drawn)


def frames(page: Page, act: str, seconds: float = 2.0) -> dict[str, float]:
    """`act`: scroll (the rows) or drag (the graph), once in every frame. Frames a second, and in ms what 95 % of them stay below."""
    found: dict[str, float] = page.evaluate(COUNT_FRAMES, [act, seconds])
    return found
