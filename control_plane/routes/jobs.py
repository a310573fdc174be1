"""Jobs over REST: submit, plan, list, read, cancel, retry, delete, and the routes of old clients."""

import re
from contextlib import suppress
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, delete, get, patch, post
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Stream

from dihedral.bridge.artifacts.owned import KEPT_SLASHES
from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore
from dihedral.control_plane import body, changing, sweeps
from dihedral.control_plane.access import Access, principal
from dihedral.control_plane.encoded import Encoded
from dihedral.control_plane.identity import Search
from dihedral.control_plane.job_queue import JobQueue, checked, is_id
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.openapi import body as with_body
from dihedral.control_plane.planning.goals.planner import Planner
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.query import header, known_once, moment_ms, refused
from dihedral.control_plane.root import address
from dihedral.control_plane.routes.live import sse_response
from dihedral.schemas.structs.graph import Graph
from dihedral.schemas.structs.job import Job, JobList, JobStatus, JobStatusView, SweepJobs, SweepPlan
from dihedral.schemas.structs.plan import GoalPlan
from dihedral.schemas.structs.request import JobChange, RetryRequest, TrainRequest

Req = Request[Any, Any, State]

MAX_KEY = 255
MAX_QUERY = 500
MAX_SEQ = 2**53
EXAMPLES = {
    "picture": {"bucket": "inputs", "key": "examples/picture.png"},
    "voice": {"bucket": "inputs", "key": "examples/recording.wav"},
}
MOMENT = QueryParameter(schema_extra={"format": "date-time"})
_NUMBER = re.compile("[0-9]{1,16}")


class BatchRequest(msgspec.Struct, forbid_unknown_fields=True):
    jobs: list[msgspec.Raw]


def _queue(request: Req) -> JobQueue:
    return request.app.state.queue  # type: ignore[no-any-return]


def _job(request: Req, job: Job, status: int) -> Response[bytes]:
    return Encoded(msgspec.json.encode(job), status, address(request.scope, f"/api/jobs/{job.job_id}"))


@post(
    "/api/jobs",
    scope="submit",
    summary="Submit a job",
    operation_class=with_body("request", "JobRequest", "A graph, a pipeline with its params, or a goal in words."),
    responses=answers(409, 413, 415, 429, _200=Job | SweepJobs, _201=Job | SweepJobs),
)
async def submit(request: Req) -> Response[bytes]:
    """Submits a job. With `sweep`, a job of each combination of the values in it; none is made where one of them cannot run."""
    key = header(request.scope, b"idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_KEY and key.isprintable() and " " not in key):
        raise ApiProblem(422, "bad_idempotency_key", f"Idempotency-Key: 1 to {MAX_KEY} printable characters, no space")
    raw = await body.read(request, request.app.state.settings.control.body_limit_bytes)
    queue, who = _queue(request), principal(request)
    if b'"sweep"' in raw and sweeps.is_sweep(wish := await queue.decode(raw, who)):
        access: Access = request.app.state.access
        leave = await access.costly_turns.take(who.key.id if who.key else "")
        try:
            made, created = await sweeps.submit(queue, wish, raw, who, key, address(request.scope, "/api/jobs"))
        finally:
            leave()
        location = address(request.scope, f"/api/jobs?tag={made.tag}")
        return Encoded(msgspec.json.encode(made), 201 if created else 200, location)
    job, created = await queue.submit(raw, who, key)
    return _job(request, job, 201 if created else 200)


@post(
    "/api/jobs/batch",
    scope="submit",
    is_costly=True,
    status_code=200,
    summary="Submit up to 1,000 jobs; a bad one stops no other",
    operation_class=with_body("request", "JobRequest", "An object with jobs, a list of submissions."),
    responses=answers(413, 415, _200=dict),
)
async def submit_batch(request: Req) -> Response[bytes]:
    limits = request.app.state.settings.control
    raw = await body.read(request, limits.batch_limit_bytes)
    try:
        items = msgspec.json.decode(raw, type=BatchRequest).jobs
    except body.DECODE_ERRORS as error:
        raise await body.refusal(raw, error) from error
    if len(items) > limits.batch_items:
        raise ApiProblem(422, "too_many_jobs", f"a batch has at most {limits.batch_items} jobs, this one {len(items)}")
    found = []
    for index, answer in enumerate(await _queue(request).submit_batch(items, principal(request))):
        if isinstance(answer, ApiProblem):
            found.append(msgspec.json.encode(answer.document(address(request.scope, f"/api/jobs/batch#/jobs/{index}"))))
        else:
            found.append(msgspec.json.encode(answer))
    return Encoded(b'{"jobs":[' + b",".join(found) + b"]}")


@post(
    "/api/plans",
    scope="submit",
    is_costly=True,
    status_code=200,
    summary="Plan a submission: the graph that would run, or every problem",
    operation_class=with_body("request", "JobRequest", "A submission, or a goal in words; nothing is stored."),
    responses=answers(413, 415, 429, _200=Graph | GoalPlan | SweepPlan),
)
async def plan(request: Req) -> Response[bytes]:
    """Answers a submission with its normalised graph, a sweep with its combinations and the graph of the first. A goal is answered with a plan (/schemas/plan.json): graph, reasons, questions, how sure."""
    raw = await body.read(request, request.app.state.settings.control.body_limit_bytes)
    queue = _queue(request)
    wish = await queue.decode(raw, principal(request))
    if not isinstance(wish.goal, msgspec.UnsetType) and not sweeps.is_sweep(wish):
        planner: Planner = request.app.state.planner
        told = await planner.plan(wish, principal(request))
        return Encoded(msgspec.json.encode(told))
    if sweeps.is_sweep(wish):
        swept = await sweeps.plan(queue, wish, raw, principal(request))
        return Encoded(msgspec.json.encode(swept))
    planned = await queue.plan(wish, principal=principal(request))
    await queue.refuse_missing(planned, principal(request))
    planned.graph.estimate = await queue.estimates.of_plan(planned.graph, planned.routes) or msgspec.UNSET
    return Encoded(msgspec.json.encode(planned.graph))


@get("/api/jobs", is_costly=True, summary="List or search jobs, newest first", responses=answers())
async def list_jobs(
    request: Req,
    status: FromQuery[str | None] = None,
    pipeline: FromQuery[str | None] = None,
    since: Annotated[str | None, MOMENT] = None,
    until: Annotated[str | None, MOMENT] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=500)] = 50,
    cursor: FromQuery[str | None] = None,
    q: Annotated[str | None, QueryParameter(max_length=MAX_QUERY)] = None,
    tag: Annotated[str | None, QueryParameter(max_length=MAX_QUERY)] = None,
) -> JobList:
    """Lists jobs. `status`: one or several, comma separated. `tag`: one or several that a job must all have, comma separated.

    `q`: words that a job must all have, in any case: in its name, a tag, its pipeline or task, the name or value of a given param
    (the first 2,000 characters of each), or as the beginning of its id. A page of a search may be empty and still have a `next`.
    """
    statuses = [] if status is None else status.split(",")
    for word in statuses:
        if word not in set(JobStatus):
            raise refused("status", f"there is no {word!r}; there are {', '.join(JobStatus)}")
    if pipeline is not None and not is_id(pipeline):
        raise refused("pipeline", "this can be no pipeline's id")
    jobs, following = await _queue(request).list(
        statuses=statuses,
        pipeline=pipeline,
        since_ms=moment_ms("since", since) or 0,
        until_ms=moment_ms("until", until),
        limit=limit,
        cursor=cursor,
        visible_owner=principal(request).visible_owner,
        search=None
        if q is None and tag is None
        else Search(q or "", [each for each in (tag or "").split(",") if each]),
    )
    return JobList(jobs=jobs, next=following)


@get("/api/jobs/{job_id:str}", summary="Get a job", responses=answers(404))
async def read_job(request: Req, job_id: FromPath[str]) -> Job:
    return await _queue(request).document_of(job_id, principal(request).visible_owner)


@get(
    "/api/jobs/{job_id:str}/graph",
    is_costly=True,
    summary="Get a job's graph with live status and outputs",
    responses=answers(404, _200=Graph | GoalPlan),
)
async def read_graph(request: Req, job_id: FromPath[str]) -> Stream:
    pieces = await _queue(request).graph_of(job_id, principal(request).visible_owner)
    return Stream(pieces, media_type="application/json")


@get(
    "/api/jobs/{job_id:str}/events",
    is_costly=True,
    summary="Get a job's events, or its stream of Server-Sent Events",
    responses=answers(404),
)
async def read_events(
    request: Req, job_id: FromPath[str], after: Annotated[int, QueryParameter(ge=0, le=MAX_SEQ)] = 0
) -> Response[Any]:
    """Returns a job's events; with `Accept: text/event-stream` a stream that ends with the job, where `Last-Event-ID` overrides `after`."""
    queue = _queue(request)
    if "text/event-stream" in request.headers.get("accept", ""):
        last = request.headers.get("last-event-id", "")
        return await sse_response(request, checked(job_id), int(last) if _NUMBER.fullmatch(last) else after)
    view = await queue.view(job_id, after, visible_owner=principal(request).visible_owner)
    epoch = await queue.jobs.epoch(view.job_id)
    head = msgspec.json.encode({"jobId": view.job_id, "epoch": epoch})[:-1]
    text = head + b',"events":[' + ",".join(view.events).encode() + b"]}"
    return Encoded(text)


@post(
    "/api/jobs/{job_id:str}/cancel",
    scope="cancel",
    status_code=202,
    summary="Cancel a job",
    responses=answers(404, _200=Job, _202=Job),
)
async def cancel(request: Req, job_id: FromPath[str]) -> Response[bytes]:
    job, alive = await _queue(request).cancel(job_id, principal(request).visible_owner)
    return _job(request, job, 202 if alive else 200)


@post(
    "/api/jobs/{job_id:str}/nodes/{node_id:str}/finish",
    scope="cancel",
    status_code=202,
    summary="Finish a running node now with its best result, as completed",
    responses=answers(404, 409, _202=Job),
)
async def finish(request: Req, job_id: FromPath[str], node_id: FromPath[str]) -> Response[bytes]:
    """Asks a node to end early. Tasks that train check for it between steps; others go on. A node that moves to another worker must be asked again."""
    return _job(request, await _queue(request).finish(job_id, node_id, principal(request).visible_owner), 202)


@post(
    "/api/jobs/{job_id:str}/retry",
    scope="submit",
    status_code=200,
    summary="Retry a failed or cancelled job, keeping what completed",
    operation_class=with_body("request", "RetryRequest", 'Empty, or {"from":"start"}.'),
    responses=answers(404, 409, 413, 415, 429, _200=Job),
)
async def retry(request: Req, job_id: FromPath[str]) -> Response[bytes]:
    wish = await _optional(request, RetryRequest)
    return _job(
        request,
        await _queue(request).retry(job_id, from_start=wish.from_ == "start", principal=principal(request)),
        200,
    )


@patch(
    "/api/jobs/{job_id:str}",
    scope="submit",
    summary="Change a job's name, tags or priority",
    operation_class=with_body("request", "JobChange", "At least one of name, tags and priority."),
    responses=answers(404, 409, 413, 415),
)
async def change_job(request: Req, job_id: FromPath[str]) -> Job:
    """Changes a job. The priority holds for what no worker has been given yet, and for what becomes ready later; a job that has ended has none."""
    visible_owner = principal(request).visible_owner
    view = await _queue(request).exact(job_id, visible_owner)
    return await changing.change(_queue(request), view, await _optional(request, JobChange), visible_owner)


@delete(
    "/api/jobs/{job_id:str}",
    scope="cancel",
    status_code=204,
    summary="Delete an ended job",
    responses=answers(404, 409),
)
async def delete_job(request: Req, job_id: FromPath[str], artifacts: FromQuery[bool] = False) -> None:
    """Deletes a job. Its artifacts stay unless `artifacts=true`; its checkpoints and previews, which no job names any more, are deleted with it."""
    view = await _queue(request).delete(job_id, principal(request).visible_owner)
    store: ArtifactStore = request.app.state.store
    for meta in await store.list(job_id=view.job_id, limit=1_000_000):
        owner = "" if isinstance(meta.owner, msgspec.UnsetType) else meta.owner
        if owner == view.owner and (artifacts or meta.key.count("/") == KEPT_SLASHES):
            with suppress(ArtifactNotFound):
                await store.delete(meta.bucket, meta.key)


@post(
    "/api/train",
    scope="submit",
    summary="For old clients: run talking_picture with defaults",
    operation_class=with_body("request", "TrainRequest", 'Empty, or {"prompt":"…"}.'),
    responses=answers(413, 415, 429, _201=Job),
)
async def train(request: Req) -> Response[bytes]:
    wish = await _optional(request, TrainRequest)
    store: ArtifactStore = request.app.state.store
    params: dict[str, Any] = {}
    for name, reference in EXAMPLES.items():
        with suppress(ArtifactNotFound):  # the pipeline has a storyteller, a picture and a voice of its own
            await store.meta(reference["bucket"], reference["key"])
            params[name] = reference
    if isinstance(wish.prompt, str):
        params["prompt"] = wish.prompt
    wanted = msgspec.json.encode({"pipeline": "talking_picture", "params": params})
    job, _ = await _queue(request).submit(wanted, principal(request))
    return _job(request, job, 201)


@get("/api/status/{job_id:str}", summary="For old clients: status and progress", responses=answers(404))
async def read_status(request: Req, job_id: FromPath[str]) -> JobStatusView:
    job = await _queue(request).document_of(job_id, principal(request).visible_owner)
    return JobStatusView(job_id=job.job_id, status=job.status, progress=job.progress)


async def _optional(request: Req, struct: Any) -> Any:
    """Returns the body as `struct`, or `struct()` where there is none."""
    raw = await body.read(request, request.app.state.settings.control.body_limit_bytes, optional=True)
    if not raw:
        return struct()
    try:
        return msgspec.json.decode(raw, type=struct)
    except body.DECODE_ERRORS as error:
        raise await body.refusal(raw, error, "request", struct.__name__) from error


job_routes = Router(
    "/",
    before_request=known_once,
    route_handlers=[
        submit, submit_batch, plan, list_jobs, read_job, read_graph, read_events, cancel, finish, retry, change_job,
        delete_job, train, read_status,
    ],
)  # fmt: skip
