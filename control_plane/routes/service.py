"""Routes of the service itself: capabilities, pipelines, workers, queues, dead letters, health, metrics, schemas."""

import asyncio
import re
from collections.abc import Awaitable
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, delete, get, post
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.types import ControllerRouterHandler
from prometheus_client import CONTENT_TYPE_LATEST

from dihedral.bridge.artifacts.store import StoreFull
from dihedral.bridge.errors import ServerUnavailable
from dihedral.bridge.fabric.dead_letters import DeadLetters
from dihedral.bridge.metrics import exposition
from dihedral.bridge.times import now_rfc3339
from dihedral.control_plane.access import principal
from dihedral.control_plane.connections import QuietLog
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.query import known_once, refused
from dihedral.control_plane.waiting_list import waiting_list
from dihedral.schemas import documents
from dihedral.schemas.structs.capability import CapabilityList
from dihedral.schemas.structs.job import Job
from dihedral.schemas.structs.pipeline import PipelineList, StatisticsList
from dihedral.schemas.structs.worker import DeadLetter, DeadLetterList, QueueList, WaitingList, WorkerList, WorkerUsage

Req = Request[Any, Any, State]
CHECK_SECONDS = 3.0
WORKER_ID = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
quiet = QuietLog()


def _queue(request: Req) -> JobQueue:
    return request.app.state.queue  # type: ignore[no-any-return]


@get(
    "/api/capabilities", summary="List every task of live and recently seen workers of both planes", responses=answers()
)
async def capabilities(request: Req) -> CapabilityList:
    """Lists the capabilities. `sources`: by plane the ids of the live workers, and of those that announced a task last."""
    queue = _queue(request)
    known = await queue.capabilities()
    sources: dict[str, set[str]] = {"node": set(), "python": set()}
    for each in (await queue.known_tasks()).values():
        sources[str(each.capability.plane)].add(each.worker_id)
    for worker in await queue.workers():
        sources[str(worker.plane)].add(worker.worker_id)
    return CapabilityList(
        capabilities=[known[task] for task in sorted(known)],
        sources={plane: sorted(ids) for plane, ids in sources.items()},
        generated_at=now_rfc3339(),
    )


@get("/api/pipelines", summary="List pipelines with their typed parameters")
async def pipelines(request: Req) -> PipelineList:
    found = _queue(request).pipelines
    return PipelineList(pipelines=[found[name] for name in sorted(found)])


@get("/api/workers", summary="List workers that live", responses=answers())
async def workers(request: Req) -> WorkerList:
    found = await _queue(request).jobs.workers.alive()
    if principal(request).visible_owner is not None:
        for worker in found:
            worker.running = []  # the owners of these jobs are not known here
    return WorkerList(workers=found)


@get(
    "/api/workers/{worker_id:str}/usage",
    summary="Get a worker's slots and memory over the last hour",
    responses=answers(404),
)
async def worker_usage(request: Req, worker_id: FromPath[str]) -> WorkerUsage:
    if not WORKER_ID.fullmatch(worker_id):
        raise unknown_worker(worker_id)
    samples = await _queue(request).jobs.workers.usage(worker_id)
    if not samples and all(each.worker_id != worker_id for each in await _queue(request).workers()):
        raise unknown_worker(worker_id)
    return WorkerUsage(worker_id=worker_id, samples=samples)


def unknown_worker(worker_id: str) -> ApiProblem:
    return ApiProblem(404, "unknown_worker", f"no worker {worker_id!r} was seen in the last hour")


@get("/api/statistics", is_costly=True, summary="Get what the latest jobs of each pipeline took", responses=answers())
async def statistics(request: Req) -> StatisticsList:
    """Counts the jobs that the caller may see among the latest 500."""
    return await _queue(request).statistics.answer(principal(request).visible_owner)


@get("/api/queues", summary="List queues: what waits, by plane and pool", responses=answers())
async def queues(request: Req) -> QueueList:
    return QueueList(queues=await _queue(request).jobs.workers.queues())


@get(
    "/api/queues/{plane:str}/{pool:str}",
    is_costly=True,
    summary="List the jobs that wait in a pool, the next first",
    responses=answers(404),
)
async def waiting_jobs(request: Req, plane: FromPath[str], pool: FromPath[str]) -> WaitingList:
    """Lists at most 500. Jobs of other owners are counted and not named."""
    if (plane, pool) not in await _queue(request).jobs.workers.places():
        raise ApiProblem(404, "unknown_queue", f"no worker serves pool {pool!r} of plane {plane!r}")
    return await waiting_list(_queue(request).jobs, plane, pool, principal(request).visible_owner)


@get(
    "/api/dead-letters",
    scope="admin",
    summary="List failed deliveries, newest first",
    responses=answers(),
)
async def dead_letters(
    request: Req,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 50,
    cursor: FromQuery[str | None] = None,
) -> DeadLetterList:
    """Lists dead letters. `cursor`: the `next` of the previous page, which is the id of its last letter."""
    try:
        found = await _letters(request).page(cursor, limit)
    except ValueError as error:
        raise refused("cursor", "not a cursor of this list") from error
    return DeadLetterList(dead_letters=found, next=found[-1].id if len(found) == limit else None)


@get("/api/dead-letters/{letter_id:str}", scope="admin", summary="Get a failed delivery", responses=answers(404))
async def read_dead_letter(request: Req, letter_id: FromPath[str]) -> DeadLetter:
    return await _dead_letter(request, letter_id)


@post(
    "/api/dead-letters/{letter_id:str}/requeue",
    status_code=200,
    summary="Retry the job of a failed delivery, and drop its failed deliveries",
    responses=answers(404, 409, 429, _200=Job),
)
async def requeue_dead_letter(request: Req, letter_id: FromPath[str]) -> Job:
    """Requeues as POST /api/jobs/{jobId}/retry does, if the job's last attempt is that of the letter."""
    letter = await _dead_letter(request, letter_id)
    queue = _queue(request)
    word = await _letters(request).requeue(letter, queue.limit_of(principal(request)))
    if word == "unknown":
        raise ApiProblem(409, "job_gone", "it has no job, or that has expired or was deleted; drop the letter instead")
    if word == "conflict":
        detail = f"its job is alive, has completed or is beyond attempt {letter.attempt}; drop the letter instead"
        raise ApiProblem(409, "not_retryable", detail)
    if word != "ok":
        raise queue.not_accepted(word, letter.job_id)
    return await queue.document_of(letter.job_id, principal(request).visible_owner)


@delete("/api/dead-letters/{letter_id:str}", status_code=204, summary="Drop a failed delivery", responses=answers(404))
async def drop_dead_letter(request: Req, letter_id: FromPath[str]) -> None:
    if await _letters(request).drop(letter_id) != "ok":
        raise _unknown_letter(letter_id)


async def _dead_letter(request: Req, letter_id: str) -> DeadLetter:
    found = await _letters(request).get(letter_id)
    if found is None:
        raise _unknown_letter(letter_id)
    return found


def _letters(request: Req) -> DeadLetters:
    return DeadLetters(_queue(request).jobs)


def _unknown_letter(letter_id: str) -> ApiProblem:
    return ApiProblem(404, "unknown_dead_letter", f"there is no dead letter {letter_id[:200]!r}")


@get("/health/live", summary="Is this process alive", include_in_schema=True)
async def live() -> dict[str, str]:
    return {"status": "ok"}


@get(["/health/ready", "/health"], summary="Is it ready: Redis and the store can be used", responses=answers())
async def ready(request: Req) -> dict[str, Any]:
    checks = {
        "redis": _queue(request).jobs.client.ping(),
        "store": request.app.state.store.check(),
    }
    found = await asyncio.gather(*map(_within, checks.values()), return_exceptions=True)
    wrong = {name: result for name, result in zip(checks, found, strict=True) if isinstance(result, BaseException)}
    if wrong:
        for (
            name,
            error,
        ) in wrong.items():  # only to the log: the text names paths and addresses, and this route requires no key
            quiet.warn(name, f"not ready: {name}: {type(error).__name__}: {error}")
        sentences = "; ".join(f"{name}: {_public(error)}" for name, error in wrong.items())
        raise ApiProblem(503, "not_ready", f"{sentences}; the log says more", headers={"Retry-After": "2"})
    return {"status": "ok", "checks": dict.fromkeys(checks, "ok")}


def _public(error: BaseException) -> str:
    match error:
        case StoreFull():
            return "full"
        case TimeoutError():
            return "no answer"
        case ServerUnavailable():
            return "unfit"
    return "cannot be used"


async def _within(check: Awaitable[object]) -> None:
    async with asyncio.timeout(CHECK_SECONDS):
        await check


@get("/metrics", summary="Get metrics for Prometheus", media_type=CONTENT_TYPE_LATEST)
async def metrics(request: Req) -> Response[bytes]:
    state = request.app.state
    families = [*await state.overview.families(), *state.worker.measured(), *state.hub.measured()]
    return Response(exposition(families), headers={"content-type": CONTENT_TYPE_LATEST})


SCHEMA = ResponseSpec(data_container=dict, media_type="application/schema+json", generate_examples=False)


@get("/schemas/{name:str}", summary="Get a source JSON Schema", responses={**answers(404), 200: SCHEMA})
async def schema(name: FromPath[str]) -> Response[bytes]:
    document = documents.sources().get(name.removesuffix(".json"))
    if document is None:
        raise ApiProblem(404, "unknown_schema", f"there are: {', '.join(sorted(documents.sources()))}")
    return Response(msgspec.json.encode(document), media_type="application/schema+json")


dead_letter_routes = Router(
    "/",
    before_request=known_once,
    route_handlers=[dead_letters, read_dead_letter, requeue_dead_letter, drop_dead_letter],
)
service_routes: list[ControllerRouterHandler] = [
    capabilities, pipelines, workers, worker_usage, statistics, queues, waiting_jobs, dead_letter_routes, live, ready, metrics, schema,
]  # fmt: skip
