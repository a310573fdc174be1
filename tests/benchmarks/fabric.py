"""Dihedral driven like a peer: `python -m tests.benchmarks.fabric ACT URL N …` prints one JSON line.

`submit` goes through dihedral.bridge.fabric.jobs with planned jobs, as a control plane does after planning; `queue` goes through JobQueue
with the raw bytes of each request. Both run on uvloop and with the control plane's settings of the garbage collector.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import Callable, Coroutine
from hashlib import sha256
from typing import Any

import msgspec
import uvloop

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.fabric.jobs import Jobs, NewJob
from dihedral.bridge.graphs import Plan, Topology
from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.worker.branches import Executor
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.tasks import BUILTIN
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.submission import GraphSubmission

Document = dict[str, Any]
BLOCK = 1000
ENDED = ("completed", "failed", "cancelled")

REGISTRY = tasks.collect(["dihedral.data_plane.tasks.simulate"], plugins=False)
REGISTRY |= tasks.collect(BUILTIN, plugins=False, plane="node")
CAPABILITIES = {name: task.capability for name, task in REGISTRY.items()}


def noop(number: int) -> Document:
    return {"id": f"n{number}", "task": "simulate", "plane": "python", "params": {"steps": 0}}


def noop_node(number: int) -> Document:
    """A no-op of the other plane."""
    return {"id": f"n{number}", "task": "merge_capabilities", "plane": "node", "params": {"lists": []}}


def line(count: int) -> list[Document]:
    return [edge(number, number + 1) for number in range(count - 1)]


def edge(before: int, after: int) -> Document:
    return {"from": f"n{before}", "to": f"n{after}"}


def graph(shape: str, nodes: int) -> Document:
    """noop: one node; chain; diamond: one, all but two, one; planes: a chain that alternates planes; wide: no edges."""
    numbers = range(1 if shape == "noop" else nodes)
    made = [noop_node(number) if shape == "planes" and number % 2 else noop(number) for number in numbers]
    edges = line(nodes) if shape in ("chain", "planes") else []
    if shape == "diamond":
        edges = [each for middle in range(1, nodes - 1) for each in (edge(0, middle), edge(middle, nodes - 1))]
    return {"schema": "langgraph.v1", "nodes": made, "edges": edges}


def request(shape: str = "noop", nodes: int = 1) -> bytes:
    """The body of a submission."""
    return json.dumps({"graph": graph(shape, nodes)}).encode()


def planned(job_id: str, submission: GraphSubmission) -> NewJob:
    whole = planning.normalise(submission, job_id)
    routes = planning.routes(whole, CAPABILITIES)
    text = msgspec.json.encode(whole)
    digest = sha256(text).hexdigest()
    return NewJob(job_id=job_id, graph=text, digest=digest, plan=Plan(Topology(whole), routes, len(text)))


def jobs_at(url: str) -> Jobs:
    settings = Settings()
    settings.redis.url = url
    return Jobs(connect(url), settings)


async def submit(url: str, count: int, shape: str, nodes: int, prefix: str = "job") -> Document:
    """`count` jobs in blocks; only the submission is timed, not the planning."""
    jobs, seconds, graph_bytes, planning_seconds = jobs_at(url), 0.0, 0, 0.0
    submission = msgspec.convert(graph(shape, nodes), GraphSubmission)
    for start in range(0, count, BLOCK):
        begun = time.perf_counter()
        block = [planned(f"{prefix}-{number}", submission) for number in range(start, min(count, start + BLOCK))]
        between = time.perf_counter()
        words = await jobs.submit_many(block)
        seconds += time.perf_counter() - between
        planning_seconds += between - begun
        graph_bytes += sum(len(job.graph) for job in block)
        assert set(words) == {"ok"}, set(words)
    return {
        "perSecond": count / seconds,
        "planMicroseconds": planning_seconds / count * 1e6,
        "graphBytes": graph_bytes / count,
    }


async def queue(url: str, count: int) -> Document:
    """`count` submissions in blocks through JobQueue.submit_batch: decoded, planned, stored, answered."""
    jobs, seconds, cpu = jobs_at(url), 0.0, time.process_time()
    queue = JobQueue(jobs, jobs.settings, {}, CAPABILITIES)
    body = request()
    for start in range(0, count, BLOCK):
        block = [body] * min(BLOCK, count - start)
        begun = time.perf_counter()
        answers = await queue.submit_batch(block)
        seconds += time.perf_counter() - begun
        assert all(getattr(answer, "status", None) == "queued" for answer in answers), answers[0]
    return {"perSecond": count / seconds, "cpuMicroseconds": (time.process_time() - cpu) / count * 1e6}


async def latency(url: str, count: int) -> Document:
    """One job after the other: from submit to the terminal event on Pub/Sub."""
    jobs = jobs_at(url)
    submission = msgspec.convert(graph("noop", 1), GraphSubmission)
    new = [planned(f"job-{number}", submission) for number in range(count)]
    listener = connect(url, timeout_seconds=60)
    milliseconds = []
    async with listener.pubsub(ignore_subscribe_messages=True) as pubsub:
        await pubsub.subscribe(*(keys.status_channel(job.job_id) for job in new))
        for job in new:
            begun = time.perf_counter()
            await jobs.submit(job)
            while True:
                message = await pubsub.get_message(timeout=30)
                if message is not None and message["channel"].decode().endswith(f":{job.job_id}"):
                    event = msgspec.json.decode(message["data"])
                    if event["type"] == "status" and event["status"] in ENDED:
                        break
            milliseconds.append((time.perf_counter() - begun) * 1e3)
            assert event["status"] == "completed", event
    return {"ms": milliseconds}


async def lists(url: str, count: int, rows: int = 100) -> Document:
    """The newest `rows` jobs, as a list of the API reads them, `count` times."""
    jobs = jobs_at(url)
    for _ in range(count):
        found = await jobs.page(None, rows)
        views = await jobs.read_many([job_id for _, job_id in found])
        assert [view for view in views if view is None] == []
    return {}


async def floor(url: str, count: int) -> Document:
    """What Redis's own commands allow: XADD, XREADGROUP, XACK and SET of `count` texts, in pipelines of 100."""
    client, block, body = connect(url), 100, request()
    await client.xgroup_create("floor", "g", id="0", mkstream=True)
    begun = time.perf_counter()
    for start in range(0, count, block):
        pipe = client.pipeline(transaction=False)
        for _ in range(block):
            pipe.xadd("floor", {"graph": body})
        entries = await pipe.execute()
        await client.xreadgroup("g", "one", {"floor": ">"}, count=block)
        pipe = client.pipeline(transaction=False)
        for number, entry in enumerate(entries, start):
            pipe.xack("floor", "g", entry)
            pipe.set(f"floor:{number}", b"{}")
        await pipe.execute()
    return {"perSecond": count / (time.perf_counter() - begun)}


async def fork(_: str, seconds: int = 3) -> Document:
    """How late, at most, a loop that ticks every 5 ms comes while nothing happens, and while the first branch that waits has LangGraph imported."""

    async def ticks(over: Callable[[], bool]) -> float:
        late, least = 0.0, time.perf_counter() + seconds
        while time.perf_counter() < least or not over():
            asked = time.perf_counter()
            await asyncio.sleep(0.005)
            late = max(late, time.perf_counter() - asked - 0.005)
        return late * 1e3

    async def run(node: str) -> list[str]:
        await asyncio.sleep(0.01)
        return []

    quiet = await ticks(lambda: True)
    forked = asyncio.create_task(Executor().execute(["a", "b"], run))
    during = await ticks(lambda: "langgraph.func" in sys.modules)
    await forked
    return {"quiet": quiet, "first fork": during}


async def langgraph(_: str, shape: str, nodes: int, repeats: int = 10) -> Document:
    """CPU µs per job of dihedral.bridge.worker.branches on diamonds or on parallel nodes, where a node itself costs nothing; 32 at a time."""
    first = [f"w{number}" for number in range(nodes)] if shape == "wide" else ["n0"]
    names = [f"m{number}" for number in range(nodes - 2)]
    executor = Executor()

    async def job() -> None:
        left = len(names)

        async def run(node: str) -> list[str]:
            nonlocal left
            await asyncio.sleep(0)  # as a node does that reports its end
            if node == "n0":
                return names
            if node in names:
                left -= 1
                return [] if left else ["last"]
            return []

        await executor.execute(first, run)

    await asyncio.gather(*(job() for _ in range(32)))
    begun = time.process_time()
    for _turn in range(repeats):
        await asyncio.gather(*(job() for _ in range(32)))
    return {"microseconds": (time.process_time() - begun) / repeats / 32 * 1e6}


ACTS: dict[str, Callable[..., Coroutine[Any, Any, Document]]] = {
    "submit": submit,
    "queue": queue,
    "latency": latency,
    "langgraph": langgraph,
    "lists": lists,
    "floor": floor,
    "fork": fork,
}


def main(act: str, url: str, *more: str) -> None:
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    arguments = [int(each) if each.isdigit() else each for each in more]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(ACTS[act](url, *arguments))))


if __name__ == "__main__":
    main(*sys.argv[1:])
