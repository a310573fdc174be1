"""Workers of both planes in this process, on a real server, with tasks that a test can hold and let go."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import redis.asyncio

from dihedral.bridge.fabric.jobs import Jobs, JobView, NewJob
from dihedral.bridge.fabric.lifecycle import JOB_ENDED
from dihedral.bridge.fabric.scripts import Depth
from dihedral.bridge.graphs import Plan, Topology
from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.registry import TaskContext, TaskError
from dihedral.bridge.tasks.runs import Completed, Declined, Emit, NodeRun, Outcome, RunControl
from dihedral.bridge.tracing import Tracing
from dihedral.bridge.worker.loop import Worker
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.scheduler import Scheduler
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.submission import GraphSubmission
from dihedral.schemas.structs.worker import DeviceInfo
from tests.support.polling import becomes_async

LEASE_MS = 300


class Act(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """`wait`: the gate that the test opens; `fail` and `flaky`: an error, always or once; `block`: seconds that nothing else runs."""

    wait: str = ""
    fail: bool = False
    flaky: bool = False
    output: Any = None
    log: int = 0
    memory_mib: int = msgspec.field(name="memoryMiB", default=0)
    block: float = 0


GATES: dict[str, asyncio.Event] = {}
RUNS: list[tuple[str, str]] = []
"""(what, node) in the order it happened: begin, end."""
PLACED: list[tuple[str, str]] = []
"""(node, worker) of every run."""


def gate(name: str) -> asyncio.Event:
    return GATES.setdefault(name, asyncio.Event())


async def _act(params: Act, ctx: TaskContext) -> Any:
    RUNS.append(("begin", ctx.node_id))
    for number in range(params.log):
        ctx.data("n", {"number": number})
    if params.block:
        time.sleep(params.block)  # noqa: ASYNC251 - it is what a bad task does
    if params.wait:
        await gate(params.wait).wait()
    if params.fail or (params.flaky and ctx.attempt == 1):
        raise TaskError("it broke", code="boom", retryable=params.flaky)
    RUNS.append(("end", ctx.node_id))
    return params.output if params.output is not None else {"from": ctx.node_id}


@tasks.task(id="act", label="act", description="does what the test says", timeout_seconds=600)
async def act(params: Act, ctx: TaskContext) -> Any:
    return await _act(params, ctx)


@tasks.task(id="once", label="once", description="must not run twice", timeout_seconds=600, idempotent=False)
async def once(params: Act, ctx: TaskContext) -> Any:
    return await _act(params, ctx)


@tasks.task(id="heavy", label="heavy", description="takes a slot", timeout_seconds=600, kind="gpu")
async def heavy(params: Act, ctx: TaskContext) -> Any:
    return await _act(params, ctx)


@tasks.task(id="cpu_heavy", label="cpu", description="takes a slot and no device", timeout_seconds=600)
def cpu_heavy(params: Act, ctx: TaskContext) -> Any:
    raise NotImplementedError("there are no slots here")


@tasks.task(
    id="strict", label="strict", description="needs a device", timeout_seconds=600, kind="gpu", needs_device=True
)
async def strict(params: Act, ctx: TaskContext) -> Any:
    return await _act(params, ctx)


@tasks.task(id="light_node", label="light", description="on the other plane", timeout_seconds=600, plane="node")
async def light_node(params: Act, ctx: TaskContext) -> Any:
    return await _act(params, ctx)


def settings(url: str, **jobs: Any) -> Settings:
    made = Settings()
    made.redis.url = url
    made.jobs.lease_ms = LEASE_MS
    made.jobs.drain_seconds = 0.0
    for name, value in jobs.items():
        if name == "partitions":
            made.redis.partitions = value
        else:
            setattr(made.jobs, name, value)
    return made


def node(id: str, *, task: str = "act", plane: str | None = None, attempts: int = 1, **params: Any) -> dict[str, Any]:
    plane = plane or ("node" if task == "light_node" else "python")
    return {"id": id, "task": task, "plane": plane, "params": params, "retries": {"maxAttempts": attempts}}


def edge(a: str, b: str, kind: str = "normal") -> dict[str, Any]:
    return {"from": a, "to": b, "kind": kind}


class Planes:
    """`start` a worker of a plane, `submit` a graph, wait until something `becomes` true."""

    def __init__(self, made: Settings, client: redis.asyncio.Redis) -> None:
        self.settings = made
        self.client = client
        self.jobs = Jobs(client, made)
        self.registry = tasks.collect(["tests.support.planes"], plugins=False)
        self.running: dict[Worker, asyncio.Task[None]] = {}
        self.loops: list[asyncio.Task[None]] = []
        self.tracing: Tracing | None = None

    async def start(
        self,
        plane: str = "python",
        *,
        slots: int = 2,
        light: int = 8,
        pool: str = "default",
        without: tuple[str, ...] = (),
        device_mib: int = 0,
    ) -> Worker:
        """`device_mib`: the memory of its only device; 0: it has none."""
        registry = {
            id: task for id, task in self.registry.items() if task.capability.plane == plane and id not in without
        }

        async def run_node(run: NodeRun, emit: Emit, cancel: RunControl) -> Outcome:
            need = run.params.get("memoryMiB", 0)
            if device_mib and need > device_mib:
                return Declined(reason=f"needs {need} MiB")
            PLACED.append((run.node_id, worker.worker_id))
            if run.task == "cpu_heavy":
                return Completed(output=b"{}")
            return await run_light(registry, run, None, emit, cancel)

        worker = Worker(
            settings=self.settings, plane=plane, pool=pool, registry=registry, run_node=run_node,
            slots=slots if plane == "python" else 0, light=light, tracing=self.tracing,
            devices=[DeviceInfo(name="gpu", memory_mib=device_mib)] if device_mib else [],
        )  # fmt: skip
        self.running[worker] = asyncio.create_task(worker.run())
        await self.becomes(lambda: worker.ready)
        return worker

    async def schedule(self, sweep_seconds: float = 0.2) -> None:
        self.loops.append(asyncio.create_task(Scheduler(self.settings, sweep_seconds=sweep_seconds).run()))

    async def kill(self, worker: Worker) -> None:
        """As SIGKILL does it: nothing is said, nothing renewed."""

        async def silence(*_: Any) -> None:
            await asyncio.Event().wait()

        task = self.running.pop(worker)
        worker._scripts.call_encoded = silence  # type: ignore[method-assign, assignment]
        worker._client.connection_pool.connection_kwargs["path"] = "/nowhere"
        worker._held.clear()
        task.cancel()
        with contextlib.suppress(BaseException):
            await task

    def freeze(self, worker: Worker) -> None:
        """Its leases are renewed no more and it takes nothing new, but what it runs goes on, as after a long stop."""
        worker.capacity._free = {"light": -1000, "heavy": -1000}
        assert worker._renewer is not None
        worker._renewer.stop()
        worker._renewer.join()

    async def stop(self, worker: Worker) -> None:
        worker.stop()
        await self.running.pop(worker)

    async def submit(
        self, nodes: list[dict[str, Any]], edges: Sequence[dict[str, Any]] = (), *, job: str = "job", **new: Any
    ) -> str:
        document = {"schema": "langgraph.v1", "workflowId": job, "nodes": nodes, "edges": list(edges)}
        graph = planning.normalise(msgspec.convert(document, GraphSubmission), job)
        capabilities = {id: task.capability for id, task in self.registry.items()}
        assert not planning.problems(graph, capabilities)
        text = msgspec.json.encode(graph)
        made = NewJob(
            job_id=job, graph=text, digest="d", plan=Plan(Topology(graph), planning.routes(graph, capabilities), len(text)), **new,
        )  # fmt: skip
        return await self.jobs.submit(made)

    async def view(self, job: str = "job") -> JobView:
        found = await self.jobs.read(job, 0, Depth.outputs)
        assert found is not None
        return found

    async def ended(self, job: str = "job") -> JobView:
        name = self.jobs.scripts.partition(job).job(job)

        async def has_ended() -> JobView | None:
            state: Any = await self.client.hget(name, "state")
            return await self.view(job) if state and state.decode().split(" ")[0] in JOB_ENDED else None

        return await self.becomes(has_ended)

    async def statuses(self, job: str = "job") -> dict[str, str]:
        return {id: record.status for id, record in (await self.view(job)).records.items()}

    async def becomes(self, what: Callable[[], Any], seconds: float = 45) -> Any:
        """Waits for a condition, sync or async; its value."""
        return await becomes_async(what, seconds)

    async def close(self) -> None:
        for event in GATES.values():
            event.set()
        for worker in list(self.running):
            await self.stop(worker)
        for loop in self.loops:
            loop.cancel()
        await asyncio.gather(*self.loops, return_exceptions=True)


@contextlib.asynccontextmanager
async def planes(url: str, client: redis.asyncio.Redis, **options: Any) -> AsyncIterator[Planes]:
    GATES.clear()
    RUNS.clear()
    PLACED.clear()
    made = Planes(settings(url, **options), client)
    try:
        yield made
    finally:
        await made.close()
