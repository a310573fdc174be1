"""What operators do over REST: pause and resume a pool, drain a worker, move a job to the front. It needs the scope `operate`."""

from typing import Any

from litestar import Request, Router, post
from litestar.datastructures import State
from litestar.params import FromPath

from dihedral.control_plane import changing
from dihedral.control_plane.access import principal
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.query import known_once
from dihedral.control_plane.routes.service import unknown_worker
from dihedral.schemas.structs.job import Job
from dihedral.schemas.structs.worker import QueueInfo, WorkerInfo

Req = Request[Any, Any, State]


def _queue(request: Req) -> JobQueue:
    return request.app.state.queue  # type: ignore[no-any-return]


@post(
    "/api/queues/{plane:str}/{pool:str}/pause",
    scope="operate",
    status_code=200,
    summary="Pause a pool: its workers take no nodes, what runs goes on",
    responses=answers(404),
)
async def pause_queue(request: Req, plane: FromPath[str], pool: FromPath[str]) -> QueueInfo:
    """Pauses a pool until it is resumed, also over restarts. Jobs are accepted and wait."""
    return await _set_paused(request, plane, pool, True)


@post("/api/queues/{plane:str}/{pool:str}/resume", scope="operate", status_code=200, summary="Resume a pool", responses=answers(404))  # fmt: skip
async def resume_queue(request: Req, plane: FromPath[str], pool: FromPath[str]) -> QueueInfo:
    return await _set_paused(request, plane, pool, False)


async def _set_paused(request: Req, plane: str, pool: str, on: bool) -> QueueInfo:
    workers = _queue(request).jobs.workers
    if (plane, pool) not in await workers.places():
        raise ApiProblem(404, "unknown_queue", f"no worker serves pool {pool[:100]!r} of plane {plane[:100]!r}")
    await workers.pause(f"{plane}/{pool}", on)
    _queue(request).forget_paused()
    return await workers.queue(plane, pool)


@post(
    "/api/workers/{worker_id:str}/drain",
    scope="operate",
    status_code=200,
    summary="Drain a worker: it takes no more nodes, what it runs goes on",
    responses=answers(404),
)
async def drain_worker(request: Req, worker_id: FromPath[str]) -> WorkerInfo:
    """Drains a worker until it is resumed or has gone. Once its `running` is empty it can be stopped without any loss."""
    return await _set_drained(request, worker_id, True)


@post("/api/workers/{worker_id:str}/resume", scope="operate", status_code=200, summary="Resume a drained worker", responses=answers(404))  # fmt: skip
async def resume_worker(request: Req, worker_id: FromPath[str]) -> WorkerInfo:
    return await _set_drained(request, worker_id, False)


async def _set_drained(request: Req, worker_id: str, on: bool) -> WorkerInfo:
    workers = _queue(request).jobs.workers
    found = next((each for each in await workers.alive() if each.worker_id == worker_id), None)
    if found is None:
        raise unknown_worker(worker_id)
    await workers.pause(worker_id, on)
    found.draining = on
    if principal(request).visible_owner is not None:
        found.running = []  # as in the list of workers
    return found


@post(
    "/api/jobs/{job_id:str}/front",
    scope="operate",
    status_code=200,
    summary="Move what waits of a job to the front",
    responses=answers(404, 409),
)
async def move_to_front(request: Req, job_id: FromPath[str]) -> Job:
    """Moves a job before the most urgent of its places; its priority stays. Nodes that a worker has been given already are not affected."""
    return await changing.to_front(_queue(request), job_id, principal(request).visible_owner)


operator_routes = Router(
    "/",
    before_request=known_once,
    route_handlers=[pause_queue, resume_queue, drain_worker, resume_worker, move_to_front],
)
