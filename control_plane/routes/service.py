"""What serves the jobs: capabilities, pipelines, workers, queues, dead letters, health, metrics, schemas."""

import asyncio
from collections.abc import Awaitable
from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.params import FromPath
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from bridge.times import now_rfc3339
from control_plane.job_queue import JobQueue
from control_plane.openapi import answers
from control_plane.problems import ApiProblem
from schemas import documents
from schemas.structs.capability import CapabilityList
from schemas.structs.job import Job
from schemas.structs.pipeline import PipelineList
from schemas.structs.worker import DeadLetterList, QueueList, WorkerList

Req = Request[Any, Any, State]
CHECK_SECONDS = 3.0


def _queue(request: Req) -> JobQueue:
    return request.app.state.queue  # type: ignore[no-any-return]


@get("/api/capabilities", summary="Every task of live and recently seen workers of both planes", responses=answers(503))
async def capabilities(request: Req) -> CapabilityList:
    """`sources`: by plane the ids of the workers that live, and of those that were the last to announce a task."""
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


@get("/api/pipelines", summary="Graph templates with typed parameters")
async def pipelines(request: Req) -> PipelineList:
    found = _queue(request).pipelines
    return PipelineList(pipelines=[found[name] for name in sorted(found)])


@get("/api/workers", summary="Workers that live", responses=answers(503))
async def workers(request: Req) -> WorkerList:
    return WorkerList(workers=await _queue(request).jobs.workers())


@get("/api/queues", summary="What waits, by plane and pool", responses=answers(503))
async def queues(request: Req) -> QueueList:
    return QueueList(queues=await _queue(request).jobs.queues())


@get("/api/dead-letters", summary="Nodes and entries that were given up", responses=answers(503))
async def dead_letters(request: Req) -> DeadLetterList:
    return DeadLetterList(dead_letters=await _queue(request).jobs.dead_letters())


@post(
    "/api/dead-letters/{letter_id:str}/requeue",
    status_code=200,
    summary="Retry a dead letter's job and drop the letter",
    responses=answers(404, 409, _200=Job),
)
async def requeue_dead_letter(request: Req, letter_id: FromPath[str]) -> Job:
    word, job_id = await _queue(request).jobs.requeue_dead(letter_id)
    if word == "unknown":
        raise ApiProblem(404, "unknown_dead_letter", "there is no such dead letter, or its job is gone")
    if word != "ok":
        raise ApiProblem(409, "not_retryable", "its job is alive or completed; drop the letter instead")
    return await _queue(request).document_of(job_id)


@delete("/api/dead-letters/{letter_id:str}", status_code=204, summary="Drop a dead letter", responses=answers(404))
async def drop_dead_letter(request: Req, letter_id: FromPath[str]) -> None:
    if await _queue(request).jobs.drop_dead(letter_id) != "ok":
        raise ApiProblem(404, "unknown_dead_letter", "there is no such dead letter")


@get("/health/live", summary="This process answers", include_in_schema=True)
async def live() -> dict[str, str]:
    return {"status": "ok"}


@get(["/health/ready", "/health"], summary="Redis and the store can be used", responses=answers(503))
async def ready(request: Req) -> dict[str, Any]:
    checks = {
        "redis": _queue(request).jobs.client.ping(),
        "store": request.app.state.store.check(),
    }
    found = await asyncio.gather(*map(_within, checks.values()), return_exceptions=True)
    wrong = {
        name: f"{type(result).__name__}: {result}"
        for name, result in zip(checks, found, strict=True)
        if isinstance(result, BaseException)
    }
    if wrong:
        sentences = "; ".join(f"{name}: {what}" for name, what in wrong.items())
        raise ApiProblem(503, "not_ready", sentences, headers={"Retry-After": "2"})
    return {"status": "ok", "checks": dict.fromkeys(checks, "ok")}


async def _within(check: Awaitable[object]) -> None:
    async with asyncio.timeout(CHECK_SECONDS):
        await check


@get("/metrics", summary="Prometheus metrics", media_type=CONTENT_TYPE_LATEST)
async def metrics() -> Response[bytes]:
    return Response(generate_latest(), headers={"content-type": CONTENT_TYPE_LATEST})


@get("/schemas/{name:str}", summary="A source JSON Schema")
async def schema(name: FromPath[str]) -> Response[bytes]:
    document = documents.sources().get(name.removesuffix(".json"))
    if document is None:
        raise ApiProblem(404, "unknown_schema", f"there are: {', '.join(sorted(documents.sources()))}")
    return Response(msgspec.json.encode(document), media_type="application/schema+json")


service_routes = [
    capabilities, pipelines, workers, queues, dead_letters, requeue_dead_letter, drop_dead_letter, live, ready, metrics,
    schema,
]  # fmt: skip
