"""The control plane as an ASGI application: routes, and in its lifespan the hub, the scheduler and the executor.

One task group owns the three loops. They start after the connection is made and end in this order: the executor drains (so
no light node is cut off), the hub closes its clients (they reconnect elsewhere), the scheduler stops, then store and Redis
close. A control plane starts although Redis is away: it answers 503 and /health/ready says why.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from litestar import Litestar
from litestar.enums import ScopeType
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from bridge import metrics, tasks
from bridge.artifacts import open_store
from bridge.connection import connect
from bridge.errors import LayoutMismatch
from bridge.jobs import Jobs
from bridge.version import VERSION
from control_plane import executor, problems, templates
from control_plane.hub import Hub
from control_plane.job_queue import JobQueue
from control_plane.routes.artifacts import artifact_routes
from control_plane.routes.console import console_routes
from control_plane.routes.jobs import job_routes
from control_plane.routes.live import live_routes
from control_plane.routes.service import service_routes
from control_plane.scheduler import Scheduler
from schemas.structs.settings import Settings

log = logging.getLogger(__name__)

TASK_MODULES = ("control_plane.tasks",)
ANSWER_SECONDS = 4.0
"""How long a request waits for Redis; nothing blocks on this connection, so a longer silence is an outage."""


def create_app(settings: Settings) -> Litestar:
    """Raises InvalidTask and SettingsError where tasks or pipelines cannot be loaded; contacts nothing."""
    registry = tasks.collect([*TASK_MODULES, *settings.worker.tasks], plane="node", directory=Path.cwd())
    own = {name: task.capability for name, task in registry.items()}
    pipelines = templates.load(settings.pipelines.dir)
    store = open_store(settings.artifacts)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        client = connect(settings.redis.url, timeout_seconds=ANSWER_SECONDS)
        jobs = Jobs(client, settings)
        queue = JobQueue(jobs, settings, pipelines, own)
        hub = Hub(settings, jobs, queue.document)
        app.state.update({"settings": settings, "store": store, "queue": queue, "hub": hub})
        worker = executor.make(settings, registry, store)
        loops = {
            "executor": asyncio.create_task(worker.run(), name="executor"),
            "hub": asyncio.create_task(hub.run(), name="hub"),
            "scheduler": asyncio.create_task(Scheduler(settings).run(), name="scheduler"),
        }
        for name, loop in loops.items():
            loop.add_done_callback(lambda done, name=name: _watch(done, name))  # type: ignore[misc]
        try:
            yield
        finally:
            worker.stop()
            with suppress(asyncio.CancelledError, Exception):
                await loops["executor"]
            await hub.close()
            for loop in loops.values():
                loop.cancel()
            await asyncio.gather(*loops.values(), return_exceptions=True)
            await store.close()
            await client.aclose()

    return Litestar(
        route_handlers=[
            job_routes,
            *artifact_routes,
            *live_routes,
            *service_routes,
            *console_routes(settings.artifacts),
        ],
        lifespan=[lifespan],
        exception_handlers={Exception: problems.handle},
        middleware=[_measured],
        openapi_config=OpenAPIConfig(
            title="Dihedral",
            version=VERSION,
            description="Durable GPU media jobs. The source schemas are at /schemas/{name}.json.",
            path="/schema",
            render_plugins=[JsonRenderPlugin(path=["/", "/openapi.json"])],
        ),
        request_max_body_size=None,
        logging_config=None,
    )


def _watch(done: "asyncio.Task[None]", name: str) -> None:
    """A loop that ends by itself is a bug or a refusal; the process must not go on as if it were whole."""
    if done.cancelled() or done.exception() is None:
        return
    error = done.exception()
    if isinstance(error, LayoutMismatch):
        log.critical("%s", error)
    else:
        log.critical("the %s has failed; the control plane stops", name, exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)


def _measured(app: ASGIApp) -> ASGIApp:
    """Counts API requests by route template; everything else passes untouched."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or not scope["path"].startswith("/api/"):
            await app(scope, receive, send)
            return
        begun = time.perf_counter()
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await app(scope, receive, noted)
        finally:
            route = scope.get("path_template") or "unknown"
            metrics.http_requests_total.labels(str(scope["method"]), route, status).inc()
            metrics.http_request_duration_seconds.labels(route).observe(time.perf_counter() - begun)

    return middleware
