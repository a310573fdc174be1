"""The control plane as an ASGI application: routes, and in its lifespan the hub, the scheduler and the executor.

The loops start after the connection is made and end in this order: the executor drains (so
no light node is cut off), the hub closes its clients (they reconnect elsewhere), the scheduler stops, then store and Redis
close. A control plane starts although Redis is away: it answers 503 and /health/ready gives the reason.
"""

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from litestar import Litestar, Request, Router
from litestar.config.compression import CompressionConfig
from litestar.config.cors import CORSConfig
from litestar.enums import ScopeType
from litestar.exceptions import NotFoundException
from litestar.middleware import DefineMiddleware
from litestar.middleware.compression import CompressionMiddleware
from litestar.openapi import OpenAPIConfig
from litestar.openapi.spec import Server
from litestar.types import ASGIApp, Message, Receive, Scope, Send
from prometheus_client import Counter, Histogram

from dihedral.bridge import metrics, tracing
from dihedral.bridge.artifacts import open_store
from dihedral.bridge.artifacts.agreement import keep_agreeing
from dihedral.bridge.artifacts.counted import note_transfer
from dihedral.bridge.artifacts.measured import MeasuredStore
from dihedral.bridge.errors import LayoutMismatch
from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tracing import Tracing
from dihedral.bridge.version import VERSION
from dihedral.control_plane import executor, problems
from dihedral.control_plane.access import Access, admitted
from dihedral.control_plane.hub import Hub
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.openapi import WithBodies, operation_id
from dihedral.control_plane.overview import Overview
from dihedral.control_plane.planning import pipelines as templates
from dihedral.control_plane.planning.goals.planner import Planner
from dihedral.control_plane.routes.artifacts import artifact_routes
from dihedral.control_plane.routes.console import console_routes
from dihedral.control_plane.routes.jobs import job_routes
from dihedral.control_plane.routes.keys import key_routes
from dihedral.control_plane.routes.live import live_routes
from dihedral.control_plane.routes.mcp import mcp_routes
from dihedral.control_plane.routes.operator import operator_routes
from dihedral.control_plane.routes.presets import preset_routes
from dihedral.control_plane.routes.provenance import provenance_routes
from dihedral.control_plane.routes.reference import reference_routes
from dihedral.control_plane.routes.service import service_routes
from dihedral.control_plane.routes.session import session_routes
from dihedral.control_plane.scheduler import Scheduler
from dihedral.control_plane.second_attempts import SecondAttempts
from dihedral.control_plane.tasks import BUILTIN
from dihedral.control_plane.webhooks import Webhooks
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)

ANSWER_SECONDS = 4.0
"""Seconds that a request waits for Redis; no command blocks on this connection, so a longer silence is an outage."""
SUBMISSIONS = frozenset({"/api/jobs", "/api/jobs/batch", "/api/train"})
ABOUT = """Durable jobs of media and machine learning: submit a graph, a pipeline or a task, follow it live, read what it made.

    curl -X POST SERVER/api/jobs -H 'Authorization: Bearer KEY' -H 'Content-Type: application/json' -d '{"pipeline": "simulate", "params": {"steps": 3}}'
    curl SERVER/api/jobs/JOB_ID

- Without the header where the server asks for no key. Under *Authentication* a key is typed once; a tab that has signed in to the console has it already.
- A refusal is a problem document (RFC 9457) with a stable `code` and every problem in `errors`, each with its place.
- Live: Server-Sent Events at `/api/jobs/{job_id}/events`, or the WebSocket at `/ws`.
- The JSON Schemas of all documents are at `/schemas/{name}.json`.
"""
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def create_app(settings: Settings, spans: Tracing | None = None) -> Litestar:
    """Builds the application without contacting any server. `spans`: replaces the tracing of the settings.

    Raises InvalidTask and SettingsError where tasks or pipelines cannot be loaded.
    """
    modules = [*BUILTIN, *settings.worker.tasks]
    registry = tasks.collect(
        modules, plane="node", directory=Path.cwd(), settings=settings.tasks, model_roots=settings.models.roots
    )
    own = {name: task.capability for name, task in registry.items()}
    pipelines = templates.load(settings.pipelines.dir)
    traced = tracing.start(settings, "node") if spans is None else spans
    store = MeasuredStore(open_store(settings.artifacts), note_transfer)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        client = connect(settings.redis.url, timeout_seconds=ANSWER_SECONDS)
        jobs = Jobs(client, settings)
        queue = JobQueue(jobs, settings, pipelines, own, store)
        planner = queue.planner = Planner(queue, store, settings, client)
        hub = Hub(settings, jobs, partial(queue.document, position=True), queue.estimates.now)
        access = Access(settings, client)
        worker = executor.make(settings, registry, store, traced, SecondAttempts(queue).submit)
        app.state.update(
            {
                "settings": settings,
                "store": store,
                "queue": queue,
                "planner": planner,
                "hub": hub,
                "access": access,
                "worker": worker,
                "overview": Overview(jobs, pipelines),
            }
        )
        loops = {
            "executor": asyncio.create_task(worker.run(), name="executor"),
            "hub": asyncio.create_task(hub.run(), name="hub"),
            "scheduler": asyncio.create_task(Scheduler(settings).run(), name="scheduler"),
            "webhooks": asyncio.create_task(Webhooks(settings, jobs, queue.document).run(), name="webhooks"),
            "store": asyncio.create_task(keep_agreeing(client, settings.artifacts), name="store"),
            "planner": asyncio.create_task(planner.prepare(), name="planner"),
            "loop watch": asyncio.create_task(metrics.watch_loop(), name="loop watch"),
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
            if traced is not None:
                await asyncio.to_thread(traced.close)

    pages, not_found = console_routes(settings.artifacts, settings.control.root_path)
    return Litestar(
        route_handlers=[
            job_routes,
            *artifact_routes,
            *live_routes,
            *service_routes,
            operator_routes,
            preset_routes,
            provenance_routes,
            *session_routes,
            *mcp_routes,
            *pages,
            *reference_routes(settings.control.root_path),
            *key_routes,
        ],
        lifespan=[lifespan],
        cors_config=_cors(settings),
        exception_handlers={Exception: problems.handle, NotFoundException: not_found},
        middleware=[_measured, admitted] if traced is None else [_measured, admitted, _traced(traced)],
        openapi_config=OpenAPIConfig(
            title="Dihedral",
            version=VERSION,
            description=ABOUT,
            path="/schema",
            servers=[Server(url=settings.control.root_path or "/")],
            render_plugins=[WithBodies(path=["/", "/openapi.json"])],
            operation_id_creator=operation_id,
            openapi_router=Router(
                "/schema",
                route_handlers=[],
                include_in_schema=False,
                before_request=_no_other_page,
                middleware=[DefineMiddleware(CompressionMiddleware, config=CompressionConfig(backend="gzip"))],
            ),
        ),
        request_max_body_size=None,
        logging_config=None,
    )


async def _no_other_page(request: Request[Any, Any, Any]) -> None:
    """Raises 404 in place of Litestar's own page in HTML, whose route alone has a parameter."""
    if request.path_params:
        raise problems.ApiProblem(404, "not_found", "there is no such page of the schema; /schema has all of it")


def _cors(settings: Settings) -> CORSConfig | None:
    """Returns the CORS configuration; None: pages of other origins may read no answer."""
    if not settings.control.allowed_origins:
        return None
    return CORSConfig(
        allow_origins=settings.control.allowed_origins,
        allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "Last-Event-ID"],
        expose_headers=["Location", "Retry-After"],
        allow_credentials=True,
    )


def _watch(done: "asyncio.Task[None]", name: str) -> None:
    """Ends the process when a loop ends by itself, which is a bug or a refusal: the process must not continue without it."""
    if done.cancelled() or done.exception() is None:
        return
    error = done.exception()
    if isinstance(error, LayoutMismatch):
        log.critical("%s", error)
    else:
        log.critical("the %s has failed; the control plane stops", name, exc_info=error)
    os.kill(os.getpid(), signal.SIGTERM)


def _measured(app: ASGIApp) -> ASGIApp:
    """Counts API requests by route template; other requests pass unchanged."""
    counters: dict[tuple[str, str, int], Counter] = {}
    durations: dict[str, Histogram] = {}

    def note(method: str, route: str, status: int, seconds: float) -> None:
        key = (method, route, status)
        if key not in counters:
            counters[key] = metrics.http_requests_total.labels(method if method in METHODS else "other", route, status)
            durations[route] = metrics.http_request_duration_seconds.labels(route)
        counters[key].inc()
        durations[route].observe(seconds)

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or not scope["path"].startswith("/api/"):
            await app(scope, receive, send)
            return
        begun = time.perf_counter()
        status, seconds = 500, None

        async def noted(message: Message) -> None:
            nonlocal status, seconds
            if message["type"] == "http.response.start":
                status, seconds = message["status"], time.perf_counter() - begun
            await send(message)

        try:
            await app(scope, receive, noted)
        except asyncio.CancelledError:
            # uvicorn ends what outlasts a stop by five seconds, and would answer it with 500 in plain text.
            if seconds is not None:
                raise
            await problems.refuse(scope, problems.STOPPING, noted)
        finally:
            route = scope.get("path_template") or "unknown"
            note(str(scope["method"]), route, status, time.perf_counter() - begun if seconds is None else seconds)

    return middleware


def _traced(spans: Tracing) -> Callable[..., ASGIApp]:
    """Opens a span around every submission."""

    def wrap(app: ASGIApp) -> ASGIApp:
        async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP or scope["method"] != "POST" or scope["path"] not in SUBMISSIONS:
                await app(scope, receive, send)
                return
            traceparent = next((value for name, value in scope["headers"] if name == b"traceparent"), b"")
            with spans.request(f"POST {scope['path']}", traceparent.decode("latin-1")):
                await app(scope, receive, send)

        return middleware

    return wrap
