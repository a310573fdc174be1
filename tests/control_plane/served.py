"""The real application on a real socket, with workers of the data plane beside it, all in the test's event loop."""

import asyncio
import contextlib
import json
import signal
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.hosts import listen
from dihedral.bridge.times import now_rfc3339
from dihedral.bridge.tracing import Tracing
from dihedral.control_plane import connections
from dihedral.control_plane.app import create_app
from dihedral.schemas.structs.graph import Plane
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.worker import WorkerInfo
from tests.support.planes import Planes, edge, node, settings

ENDED = ("completed", "failed", "cancelled")
PROBLEM = "application/problem+json"
HELD: dict[str, Any] = {
    "id": "held",
    "label": "Held",
    "description": "One node that may stand before a gate.",
    "params": {"type": "object", "additionalProperties": False, "properties": {"wait": {"type": "string"}}},
    "graph": {
        "schema": "langgraph.v1",
        "nodes": [{"id": "a", "task": "act", "plane": "python", "params": {"wait": {"$param": "wait"}}}],
        "edges": [],
    },
}


class Server(uvicorn.Server):
    """Signals stay pytest's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Served:
    """`get` and `post` want the status that they are told; `planes` starts workers and waits."""

    def __init__(self, made: Settings, planes: Planes, port: int) -> None:
        self.settings = made
        self.planes = planes
        self.becomes = planes.becomes
        self.port = port
        self.state: Any = None
        """That of the application."""
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=120)

    async def get(self, path: str, expect: int = 200, **params: Any) -> Any:
        answer = await self.http.get(path, params=params)
        assert answer.status_code == expect, answer.text
        return checked(answer)

    async def post(self, path: str, document: Any = None, expect: int = 201, **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = await self.http.post(path, json=document, headers=named)
        assert answer.status_code == expect, answer.text
        return checked(answer)

    async def raw(self, path: str, content: bytes, kind: str | None = "application/json") -> httpx.Response:
        """A body as it is."""
        answer = await self.http.post(path, content=content, headers={} if kind is None else {"content-type": kind})
        if answer.status_code >= 400:
            checked(answer)
        return answer

    async def delete(self, path: str, expect: int = 204, **params: Any) -> Any:
        answer = await self.http.delete(path, params=params)
        assert answer.status_code == expect, answer.text
        return checked(answer) if expect >= 400 else None

    async def submit(self, *nodes: dict[str, Any], edges: list[dict[str, Any]] = [], **more: Any) -> str:  # noqa: B006
        return str((await self.post("/api/jobs", submission(*nodes, edges=edges, **more)))["jobId"])

    async def job(self, job_id: str) -> Any:
        return await self.get(f"/api/jobs/{job_id}")

    async def ended(self, job_id: str) -> Any:
        return await self.in_status(job_id, *ENDED)

    async def in_status(self, job_id: str, *statuses: str) -> Any:
        async def found() -> Any:
            job = await self.job(job_id)
            return job if job["status"] in statuses else None

        return await self.becomes(found)

    @asynccontextmanager
    async def no_worker(self) -> AsyncIterator[None]:
        """Without the data plane's workers, and then with one that runs one node after the other."""
        for worker in list(self.planes.running):
            await self.planes.stop(worker)
        try:
            yield
        finally:
            await self.planes.start("python", slots=1, light=1)

    async def nodes(self, job_id: str) -> dict[str, Any]:
        return {each["id"]: each for each in (await self.get(f"/api/jobs/{job_id}/graph"))["nodes"]}


def checked(answer: httpx.Response) -> Any:
    """The document; where it is an error, it must be a whole problem that tells nothing of the inside."""
    document = answer.json()
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == PROBLEM, answer.headers
        assert set(document) == {"type", "title", "status", "detail", "instance", "code", "errors"}
        assert document["status"] == answer.status_code
        assert document["instance"] == answer.request.url.path
        assert document["type"] == f"urn:dihedral:problem:{document['code']}"
        assert all(set(each) == {"pointer", "code", "detail"} for each in document["errors"])
        assert len(document["errors"]) <= 100
        assert "Traceback" not in answer.text
        assert ".py" not in answer.text
    return document


def graph(*nodes: dict[str, Any], edges: list[dict[str, Any]] = [], job: str | None = None) -> dict[str, Any]:  # noqa: B006
    made: dict[str, Any] = {"schema": "langgraph.v1", "nodes": list(nodes), "edges": list(edges)}
    return made if job is None else {**made, "workflowId": job}


def submission(
    *nodes: dict[str, Any],
    edges: list[dict[str, Any]] = [],  # noqa: B006
    job: str | None = None,
    **more: Any,
) -> dict[str, Any]:
    return {"graph": graph(*nodes, edges=edges, job=job), **more}


def new_id(prefix: str = "job") -> str:
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def pointers(problem: Any) -> dict[str, str]:
    """Pointer → code of each error."""
    return {each["pointer"]: each["code"] for each in problem["errors"]}


def worker_info(worker_id: str, *tasks: str) -> WorkerInfo:
    """What a worker in another pool, on another machine, says of itself."""
    now = now_rfc3339()
    return WorkerInfo(
        worker_id=worker_id, host="elsewhere", pid=1, plane=Plane.python, pool="elsewhere", slots=1, running=[], device="cpu",
        metrics_url=None, started_at=now, last_seen=now, version="0", protocol=keys.PROTOCOL, tasks=list(tasks),
    )  # fmt: skip


def made_settings(url: str, directory: Path) -> Settings:
    made = settings(url)
    made.jobs.lease_ms = 1000  # a look that takes a third of a lease starts anew: both planes share this busy process
    made.artifacts.directory = str(directory / "artifacts")
    made.worker.tasks = ["tests.support.planes"]
    made.pipelines.dir = str(directory / "pipelines")
    (directory / "pipelines").mkdir(exist_ok=True)
    (directory / "pipelines" / "held.json").write_text(json.dumps(HELD))
    return made


@asynccontextmanager
async def serve(made: Settings, spans: Tracing | None = None) -> AsyncIterator[Served]:
    """Runs the application until the end of the block; Redis need not be there."""
    app = create_app(made, spans)
    client = connect(made.redis.url)
    planes = Planes(made, client)
    with listen("127.0.0.1", 0) as listening:
        # Else both ends give up an idle connection after 5 s, and one of them while the other uses it.
        config = connections.config(app, made, timeout_graceful_shutdown=1, timeout_keep_alive=600)
        server = Server(config)
        running = asyncio.create_task(server.serve(sockets=[listening]))
        served = Served(made, planes, listening.getsockname()[1])
        served.state = app.state
        ended_itself: list[int] = []
        before = signal.signal(signal.SIGTERM, lambda number, _: ended_itself.append(number))
        try:
            await planes.becomes(lambda: server.started or running.done())
            yield served
        finally:
            await served.http.aclose()
            await planes.close()
            await client.aclose()
            server.should_exit = True
            await running
            signal.signal(signal.SIGTERM, before)
        assert not ended_itself, "a loop of the control plane has failed: it ends itself"


__all__ = [
    "checked",
    "edge",
    "graph",
    "made_settings",
    "new_id",
    "node",
    "pointers",
    "serve",
    "submission",
    "worker_info",
]
