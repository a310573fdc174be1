"""JobQueue: the operations on jobs for users, and their answers. Policy over dihedral.bridge.fabric.jobs, which never validates.

Planning comes first and finds every problem at once; only then is anything written. An Idempotency-Key is tied to a job id and
the digest of the raw body before the job is created, and creating it is idempotent by the same digest, so a crash or a lost
answer between the two is repaired by the client's own retry: a process that finds the key submits under the id that it names. Once
the job was created the key records that, and a repeat never creates it again, also when the job has expired or was deleted.

Large because every operation of a route on jobs is one short method here; the reasons for which a job waits are in waiting.py.
"""

import asyncio
import base64
import hashlib
import re
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from typing import Protocol

import msgspec
from prometheus_client import Counter

from dihedral.bridge import metrics
from dihedral.bridge.artifacts.owned import OWNER, OwnedStore
from dihedral.bridge.artifacts.provenance import REQUEST
from dihedral.bridge.artifacts.prune import names_in, note_use
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.errors import StoreError
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.finding import HEADS_AT_ONCE, Ids, heads
from dihedral.bridge.fabric.items import Limit
from dihedral.bridge.fabric.jobs import Jobs, JobView, NewJob, decode_graph
from dihedral.bridge.fabric.lifecycle import JOB_ENDED
from dihedral.bridge.fabric.scripts import Depth, NodeRecord
from dihedral.bridge.graphs import Placement, Plan, Topology
from dihedral.bridge.outgoing import Forbidden, Guard
from dihedral.bridge.times import rfc3339
from dihedral.bridge.tracing import TRACEPARENT
from dihedral.control_plane import identity
from dihedral.control_plane.access import ANONYMOUS, Principal
from dihedral.control_plane.body import DECODE_ERRORS, refusal, too_large
from dihedral.control_plane.estimates import Estimates
from dihedral.control_plane.identity import About
from dihedral.control_plane.known import Known
from dihedral.control_plane.planning import artifacts
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.planning.mending import MOST_BYTES, Mended
from dihedral.control_plane.planning.wanted import Wanted, again, wanted
from dihedral.control_plane.presets import Presets
from dihedral.control_plane.problems import ApiProblem, details, out_of_memory, refused, unknown_job
from dihedral.control_plane.remedies import origins, remedy_of
from dihedral.control_plane.statistics import Statistics
from dihedral.control_plane.waiting import waiting_for
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.graph import Estimate, Graph, Node, NodeError, NodeStatus, Plane, Remedy
from dihedral.schemas.structs.job import Job, JobError, JobStatus, Priority
from dihedral.schemas.structs.pipeline import Pipeline
from dihedral.schemas.structs.problem import ProblemDetail
from dihedral.schemas.structs.request import JobRequest
from dihedral.schemas.structs.settings import Settings

RESERVED = frozenset({"batch"})
"""Ids that are refused because routes of the same name would hide them."""
PAGE = 100
BLOCK = 100
BLOCK_BYTES = 1 << 20
TWINS, TWIN_BYTES = 64, 16 * 1024
"""How many submissions a batch recognises when they come again, and of what size."""
BREATH_SECONDS = 0.01
MAX_SEEN = 2000
SEARCHED_AT_ONCE = 500
SEARCH_PAUSE_SECONDS = 0.001
MAX_SEARCHED = 10_000
"""Jobs that one request of a search looks at."""
SHORTEST_PREFIX = 4
MAX_CANDIDATES = 1000
NAMED_CANDIDATES = 20
AT_ONCE = 16  # nodes whose outputs are in memory together while a graph is sent
EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(9999, 1, 1, tzinfo=UTC)  # a later time would need a year of five digits in some time zone

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_MADE_ID = re.compile(r"[0-9a-f]{32}")

_decode_request = msgspec.json.Decoder(JobRequest).decode
_decode_left = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_error = msgspec.json.Decoder(JobError).decode


class IdempotencyRecord(msgspec.Struct, frozen=True):
    """The record of an Idempotency-Key. `created`: the job was created; until then a repeat may still have to create it."""

    job_id: str
    created: bool


class GoalPlanner(Protocol):
    async def decided(self, request: JobRequest, principal: Principal) -> JobRequest: ...


class Planned(msgspec.Struct):
    graph: Graph
    topology: Topology
    routes: dict[str, Placement]
    wanted: Wanted
    request: JobRequest
    """The request, with what it takes from the job that it repeats."""
    rerun_of: str = ""


class JobQueue:
    """Makes the queue. `own`: the capabilities of the control plane itself, known before any worker has announced them."""

    def __init__(
        self,
        jobs: Jobs,
        settings: Settings,
        pipelines: Mapping[str, Pipeline],
        own: Mapping[str, Capability],
        store: ArtifactStore | None = None,
    ) -> None:
        self.jobs = jobs
        self.settings = settings
        self.pipelines = dict(pipelines)
        self._known = known = Known(jobs.workers, own)
        self.capabilities, self.known_tasks, self.workers = known.capabilities, known.tasks, known.alive
        self.paused, self.forget_paused = known.paused, known.forget_paused
        self._store = store
        self._defaults = identity.Defaults(jobs.client)
        self.presets = Presets(jobs.client)
        self._ids = Ids(jobs)
        self._searching = asyncio.Lock()
        self.estimates = Estimates(jobs, self.capabilities, self.workers)
        self.statistics = Statistics(jobs, self.estimates)
        self.planner: GoalPlanner | None = None
        self._guard = Guard(settings.outgoing.allow)
        self._breathed = 0.0
        self._submitted: dict[tuple[str | None, str], Counter] = {}

    # Planning -------------------------------------------------------------------------------------------------------

    async def decode(self, body: bytes | memoryview, principal: Principal = ANONYMOUS) -> JobRequest:
        """Decodes a body. Raises ApiProblem: 400 not JSON, 422 with every problem of its shape and those of the plan that can be told all the same."""
        try:
            return _decode_request(body)
        except DECODE_ERRORS as error:
            problem = await refusal(body, error, "request", "JobRequest")
            if problem.status == 422 and len(body) <= MOST_BYTES:
                problem.add(await self._behind(body, problem.errors, principal))
            raise problem from error

    async def _behind(
        self, body: bytes | memoryview, wrong: Sequence[ProblemDetail], principal: Principal
    ) -> list[ProblemDetail]:
        """Returns the problems that a submission would have if its shape were right."""
        try:
            mended = Mended(msgspec.json.decode(body), wrong)
            if "goal" not in (mended.document or {}):
                await self.plan(msgspec.convert(mended.document, JobRequest), principal=principal)
        except ApiProblem as problem:
            return [each for each in problem.errors if mended.shows(each.pointer, each.detail)]
        except DECODE_ERRORS:  # it cannot be made to fit
            pass
        return []

    async def plan(self, request: JobRequest, job_id: str | None = None, principal: Principal = ANONYMOUS) -> Planned:
        """Returns the plan of a job. Raises ApiProblem with every problem of the plan, and of the fields beside it."""
        beside = _beside(request, self._guard)
        try:
            planned = await self._plan(request, job_id, principal)
        except ApiProblem as problem:
            if problem.status == 422:
                problem.add(details(beside))
            raise
        if beside:
            raise refused(beside[0].detail, beside)
        return planned

    async def _plan(self, request: JobRequest, job_id: str | None, principal: Principal) -> Planned:
        owner = principal.name
        request, rerun_of = await self.completed(request, principal)
        capabilities = await self.capabilities() if isinstance(request.task, str) else {}
        if isinstance(request.task, str) and request.task not in capabilities and self._known.look_again():
            capabilities = await self.capabilities()  # a worker may just have announced it
        what = wanted(request, self.pipelines, capabilities)
        submission = what.submission
        if isinstance(submission.workflow_id, str):
            job_id = submission.workflow_id
        graph = planning.normalise(submission, job_id or secrets.token_hex(16))
        if isinstance(request.metadata, dict):
            graph.metadata = {**graph.metadata, **request.metadata}
        for name in (OWNER, REQUEST):
            graph.metadata.pop(name, None)
        if owner:
            graph.metadata[OWNER] = owner
        if self.settings.artifacts.provenance and (made := what.made()):
            graph.metadata = {**graph.metadata, REQUEST: made}
        if traceparent := TRACEPARENT.get():
            graph.metadata = {**graph.metadata, "traceparent": traceparent}
        if isinstance(request.pool, str):
            for node in graph.nodes:
                if node.plane is Plane.python and not isinstance(node.pool, str):
                    node.pool = request.pool
        capabilities = await self.capabilities()
        found = planning.problems(graph, capabilities)
        if any(problem.code == "unknown_task" for problem in found) and self._known.look_again():
            capabilities = await self.capabilities()  # a worker may just have announced it
            found = planning.problems(graph, capabilities)
        if not found and any(capabilities[node.task].runtime.kind == "gpu" for node in graph.nodes):
            found = planning.memory_problems(graph, capabilities, await self.workers())
            if found:  # a worker that is only restarting may have the device
                found = planning.memory_problems(graph, capabilities, await self.jobs.workers.recent())
        if any(isinstance(node.pool, str) for node in graph.nodes):
            pools: dict[str, list[str]] = {}
            for plane, pool in await self._known.places():
                pools.setdefault(plane, []).append(pool)
            found += planning.pool_problems(graph, pools)
        if graph.workflow_id in RESERVED:
            detail = f"{graph.workflow_id!r} is the name of a route"
            found.insert(0, planning.Problem("/workflowId", "reserved_id", detail))
        if found:
            found = [msgspec.structs.replace(each, pointer=what.pointer(each.pointer)) for each in found]
            raise refused(f"the graph cannot run: {len(found)} problem{'s' if len(found) > 1 else ''}", found)
        return Planned(graph, Topology(graph), planning.routes(graph, capabilities), what, request, rerun_of)

    async def completed(self, request: JobRequest, principal: Principal) -> tuple[JobRequest, str]:
        """Returns the request, with what it takes from the job that it repeats and from a preset, and the id of that job. Raises ApiProblem."""
        rerun_of = ""
        if isinstance(request.rerun_of, str):
            request, rerun_of = await self._again(request, request.rerun_of, principal)
        return await self.presets.applied(request, principal.name), rerun_of

    # Submitting -----------------------------------------------------------------------------------------------------

    async def submit(self, body: bytes, principal: Principal = ANONYMOUS, key: str | None = None) -> tuple[Job, bool]:
        """Submits a job; returns (job, whether it is new). Raises ApiProblem."""
        request = await self.decode(body, principal)
        owner = principal.name
        digest = digest_of(body, owner)
        kept = await self.lookup(owner, key, digest)
        if kept is not None and kept.created:
            return await self.repeated(kept.job_id, owner), False
        if kept is None and (key is not None or self.limit_of(principal)):
            await self._check_allowance(principal)
        if not isinstance(request.goal, msgspec.UnsetType) and self.planner is not None:
            request = await self.planner.decided(request, principal)
        planned = await self.plan(request, kept.job_id if kept is not None else None, principal)
        if key is not None and kept is None:
            kept = await self.reserve(owner, key, digest, planned.graph.workflow_id)
            if kept is not None:
                planned.graph.workflow_id = (
                    kept.job_id
                )  # another client was first with the same request: one job for both
        job_id = planned.graph.workflow_id
        new = await self.new(planned, request, digest, principal)
        try:
            if going := await note_use(self.jobs.client, _named(new)):
                raise _going(going)
            await self.refuse_missing(planned, principal)  # behind the note: no prune takes what was seen here
        except ApiProblem:
            if key is not None and kept is None:
                await self.jobs.client.delete(keys.idempotency(owner, key))
            raise
        word = await self.jobs.submit(new)
        self._count(planned.wanted.pipeline, word)
        if word == "ok" or (word == "same" and key is not None):
            if key is not None:
                name = keys.idempotency(owner, key)
                await self.jobs.client.set(name, f"{job_id} {digest} created", xx=True, keepttl=True)
            return await (self.document(new.view()) if word == "ok" else self.repeated(job_id, owner)), word == "ok"
        if key is not None and word == "exists":  # a repeat could not succeed, but the same key with another id can
            await self.jobs.client.delete(keys.idempotency(owner, key))
        raise self.not_accepted(word, job_id)

    async def refuse_missing(self, planned: Planned, principal: Principal) -> None:
        """Raises ApiProblem, 422, where the job names artifacts that are not there for the caller."""
        if self._store is None:
            return
        names = artifacts.named(planned.graph.nodes, await self.capabilities())
        if not names:
            return
        lost = await artifacts.missing(OwnedStore(self._store, principal.visible_owner, principal.name), names)
        found: dict[planning.Problem, None] = {}
        params = planned.request.params if planned.wanted.pipeline else {}
        at: dict[tuple[str, str], list[str]] = {}
        for each in lost:
            name = each.bucket, each.key
            if name not in at:  # the same file may be named thousands of times
                at[name] = list(islice(artifacts.places(params, *name), planning.MAX_PROBLEMS))
            for where in at[name] or [planned.wanted.pointer(each.pointer)]:
                found[artifacts.problem(where, each)] = None
            if len(found) >= planning.MAX_PROBLEMS:
                break
        if found:
            raise refused("the job names artifacts that are not there", list(found)[: planning.MAX_PROBLEMS])

    async def _check_allowance(self, principal: Principal) -> None:
        """Checks the limits before any planning or storing. Raises 429."""
        left, word = await self.jobs.allowance(self.limit_of(principal))
        if not left:
            self._count(None, word)
            raise self.not_accepted(word, "")

    async def repeated(self, job_id: str, owner: str) -> Job:
        """Returns the job that an Idempotency-Key created. A job of the same id that another owner has made since is a different job."""
        found = await self.jobs.read(job_id)
        if found is None or found.owner != owner:
            raise ApiProblem(409, "job_gone", f"this Idempotency-Key made the job {job_id!r}, which is gone")
        return await self.document(found)

    async def submit_batch(
        self, items: Sequence[bytes | msgspec.Raw], principal: Principal = ANONYMOUS
    ) -> list[Job | ApiProblem]:
        """Submits each item independently: a bad one stops no other. Items that the key's or the queue's limits refuse are not even decoded.

        Items are read in place, a block at a time, so that a batch costs its own bytes and little more. What comes again is not planned again.
        """
        twins: dict[bytes, tuple[NewJob, Planned]] = {}
        answers: list[Job | ApiProblem | None] = [None] * len(items)
        sent: asyncio.Task[None] | None = None
        left, word = await self.jobs.allowance(self.limit_of(principal))
        index = 0
        while index < len(items):  # one block is planned while the one before is stored
            new: list[tuple[int, NewJob, Planned]] = []
            size = 0
            while index < len(items) and len(new) < min(BLOCK, left) and size < BLOCK_BYTES:
                item = memoryview(items[index])
                size += item.nbytes
                try:
                    new.append((index, *await self._planned_item(item, principal, twins)))
                except ApiProblem as problem:
                    answers[index] = problem
                index += 1
                await self.breathe()
            left -= len(new)
            if sent is not None:
                await sent
            sent = asyncio.create_task(self.submit_block(new, answers, principal))
            await asyncio.sleep(0)  # planning never waits by itself, so this lets the block be sent
            if left <= 0 and index < len(items):
                await sent
                left, word = await self.jobs.allowance(self.limit_of(principal))
                if left <= 0:
                    break
        if sent is not None:
            await sent
        for each in range(index, len(items)):
            self._count(None, word)
            answers[each] = self.not_accepted(word, "")
        return [answer for answer in answers if answer is not None]

    async def _planned_item(
        self, item: memoryview, principal: Principal, twins: dict[bytes, tuple[NewJob, Planned]]
    ) -> tuple[NewJob, Planned]:
        """Plans an item. `twins`: those of the same batch that the same bytes may make again, under another id."""
        if item.nbytes > self.settings.control.body_limit_bytes:
            raise too_large(self.settings.control.body_limit_bytes)
        body = bytes(item) if item.nbytes <= TWIN_BYTES else b""
        if body in twins:
            job, planned = twins[body]
            return job.twin(secrets.token_hex(16)), planned
        request = await self.decode(item, principal)
        planned = await self.plan(request, principal=principal)
        job = await self.new(planned, request, digest_of(item, principal.name), principal)
        if body and job.start_at_ms is None and not isinstance(planned.wanted.submission.workflow_id, str):
            if len(twins) >= TWINS:
                twins.clear()
            twins[body] = job, planned
        return job, planned

    async def breathe(self) -> None:
        """Lets other requests in between, where planning has taken long enough."""
        if time.monotonic() - self._breathed > BREATH_SECONDS:
            await asyncio.sleep(0)
            self._breathed = time.monotonic()

    async def submit_block(
        self, new: list[tuple[int, NewJob, Planned]], answers: list[Job | ApiProblem | None], principal: Principal
    ) -> None:
        names = {index: _named(job) for index, job, _ in new}
        going = set(await note_use(self.jobs.client, sorted({name for each in names.values() for name in each})))
        for index, _, planned in new:
            if lost := going.intersection(names[index]):
                answers[index] = _going(sorted(lost))
            elif names[index]:
                try:
                    await self.refuse_missing(planned, principal)
                except ApiProblem as problem:
                    answers[index] = problem
        accepted = [(index, job) for index, job, _ in new if answers[index] is None]
        words = await self.jobs.submit_many([job for _, job in accepted])
        documents: dict[tuple[int, int], Job] = {}  # of twins created at the same time
        for (index, job), word in zip(accepted, words, strict=True):
            self._count(job.pipeline, word)
            if word != "ok":
                answers[index] = self.not_accepted(word, job.job_id)
                continue
            like = id(job.plan), job.created_ms
            known = documents.get(like)
            if known is None:
                known = documents[like] = await self.document(job.view())
            answers[index] = msgspec.structs.replace(known, job_id=job.job_id)

    def _count(self, pipeline: str | None, word: str) -> None:
        word = word.partition(" ")[0]
        counter = self._submitted.get((pipeline, word))
        if counter is None:
            counter = metrics.jobs_submitted_total.labels(pipeline or "graph", word)
            self._submitted[pipeline, word] = counter
        counter.inc()

    async def new(self, planned: Planned, request: JobRequest, digest: str, principal: Principal) -> NewJob:
        start, webhook = request.start_at, request.webhook
        graph = msgspec.json.encode(planned.graph)
        return NewJob(
            job_id=planned.graph.workflow_id,
            graph=graph,
            digest=digest,
            plan=Plan(planned.topology, planned.routes, len(graph)),
            priority="normal" if isinstance(request.priority, msgspec.UnsetType) else str(request.priority),
            pipeline=planned.wanted.pipeline,
            start_at_ms=None if isinstance(start, msgspec.UnsetType) else int(start.timestamp() * 1000),
            owner=principal.name,
            limit=self.limit_of(principal),
            webhook=b"" if isinstance(webhook, msgspec.UnsetType) else msgspec.json.encode(webhook),
            metadata=msgspec.json.encode(request.metadata) if isinstance(request.metadata, dict) else b"{}",
            traceparent=TRACEPARENT.get(),
            about=identity.encode(await self._about(planned, principal)),
        )

    async def _about(self, planned: Planned, principal: Principal) -> About:
        what, request = planned.wanted, planned.request
        name = request.name if isinstance(request.name, str) else ""
        return About(
            name=name,
            tags=list(dict.fromkeys(request.tags)) if isinstance(request.tags, list) else [],
            task=what.task,
            given=what.given,
            defaults=await self._defaults.keep(what.defaults, what.given),
            rerun_of=planned.rerun_of,
            pool=request.pool if isinstance(request.pool, str) else "",
            derived="" if name else await self._derived(planned, principal),
        )

    async def _derived(self, planned: Planned, principal: Principal) -> str:
        """Returns the name that has to be stored: that of a graph, and that of a file whose key is another one."""
        what = planned.wanted
        if line := identity.titled(planned.graph.metadata):
            return line
        if not what.given:
            return identity.named_by_nodes(planned.graph)
        file = identity.first_file(what.given)
        if file is None or self._store is None or identity.named_by(what.given):
            return ""
        try:
            meta = await OwnedStore(self._store, principal.visible_owner, principal.name).meta(*file)
        except StoreError:
            return ""
        return "" if isinstance(meta.name, msgspec.UnsetType) else meta.name[: identity.MAX_DERIVED]

    def limit_of(self, principal: Principal) -> Limit:
        """Returns a key's limits as one partition counts them; exact with one, else each partition has its share, rounded up."""
        key, count = principal.key, self.settings.redis.partitions
        if key is None or not (key.jobs_per_minute or key.max_alive):
            return ()
        return key.id, -(-key.jobs_per_minute // count), -(-key.max_alive // count)

    async def lookup(self, owner: str, key: str | None, digest: str) -> IdempotencyRecord | None:
        """Reads the record of an Idempotency-Key. Raises 409 where it was used with another body."""
        if key is None:
            return None
        raw = await self.jobs.client.get(keys.idempotency(owner, key))
        if raw is None:
            return None
        job_id, before, *created = raw.decode().split(" ")
        if before != digest:
            raise ApiProblem(409, "idempotency_key_reused", "this Idempotency-Key came with another body before")
        return IdempotencyRecord(job_id, bool(created))

    async def reserve(self, owner: str, key: str, digest: str, job_id: str) -> IdempotencyRecord | None:
        """Ties an Idempotency-Key to a job; returns the existing record where another request was first."""
        name = keys.idempotency(owner, key)
        seconds = self.settings.control.idempotency_seconds
        if await self.jobs.client.set(name, f"{job_id} {digest}", nx=True, ex=seconds):
            return None
        return await self.lookup(owner, key, digest)

    def not_accepted(self, word: str, job_id: str) -> ApiProblem:
        if word == "memory":
            return out_of_memory()
        if word == "full":
            limit = self.settings.jobs.max_queued
            return ApiProblem(
                429, "queue_full", f"{limit} jobs are alive already (jobs.maxQueued)", headers={"Retry-After": "5"}
            )
        if word == "quota":
            detail = "this key has as many jobs alive as it may have"
            return ApiProblem(429, "quota_reached", detail, headers={"Retry-After": "5"})
        if word.startswith("rate "):
            seconds = str(-(-int(word.removeprefix("rate ")) // 1000))
            detail = "this key submits more jobs in a minute than it may"
            return ApiProblem(429, "rate_limited", detail, headers={"Retry-After": seconds})
        return ApiProblem(409, "job_exists", f"there is a job {job_id!r} already")

    # Documents ------------------------------------------------------------------------------------------------------

    # `sees`: the owner whose jobs may be read (Principal.visible_owner); jobs of other owners are hidden. None: all jobs.

    async def document_of(self, job_id: str, visible_owner: str | None) -> Job:
        return await self.document(await self.view(job_id, visible_owner=visible_owner), position=True)

    async def view(
        self,
        job_id: str,
        after: int | None = None,
        *,
        depth: Depth = Depth.document,
        visible_owner: str | None,
    ) -> JobView:
        found = await self.jobs.read(checked(job_id), after, depth)
        if found is None or visible_owner not in (None, found.owner):
            job_id = await self.full_id(job_id, visible_owner)
            found = await self.jobs.read(job_id, after, depth)
            if found is None:  # it was deleted meanwhile
                raise unknown_job(job_id)
        return found

    async def full_id(self, prefix: str, visible_owner: str | None) -> str:
        """Returns the one id that begins so. Raises ApiProblem: 404 where there is none, 409 where there are several.

        An id that the control plane made, of a job that is gone, is whole already.
        """
        if len(checked(prefix)) < SHORTEST_PREFIX or _MADE_ID.fullmatch(prefix):
            raise unknown_job(prefix)
        begun, are_all = await self._ids.beginning(prefix, MAX_CANDIDATES)
        found = [job_id for job_id, head in begun if visible_owner in (None, head.owner)]
        if not found:
            raise unknown_job(prefix)
        if len(found) == 1 and are_all:
            return found[0]
        errors = [ProblemDetail(pointer="", code="candidate", detail=each) for each in found[:NAMED_CANDIDATES]]
        raise ApiProblem(409, "ambiguous_id", f"{len(found)} jobs begin with {prefix!r}", errors)

    async def _again(self, request: JobRequest, rerun_of: str, principal: Principal) -> tuple[JobRequest, str]:
        """Returns the request, complete where it only names the job to repeat, and the id of that job. Raises 403: the answer shows what that job was given."""
        principal.check_scope("read", "rerunOf")
        try:
            view = await self.view(rerun_of, depth=Depth.graph, visible_owner=principal.visible_owner)
        except ApiProblem as problem:
            raise refused(
                "the job to repeat is not known", [planning.Problem("/rerunOf", problem.code, problem.detail)]
            ) from problem
        if all(isinstance(each, msgspec.UnsetType) for each in (request.graph, request.pipeline, request.task)):
            request = again(request, identity.decode(view.about), view.pipeline, view.graph or "{}", self.pipelines)
        return request, view.job_id

    async def document(self, view: JobView, *, position: bool = False, row: bool = False) -> Job:
        """Makes a job's document. `position`: whether to count its place in the queue, which a long list does not. `row`: without large params."""
        about = identity.decode(view.about)
        params = None
        if about.task or view.pipeline:
            params = {**await self._defaults.of(about.defaults), **about.given}
        waiting = await waiting_for(view, self.workers, self.jobs.ahead if position else None, self.paused)
        estimate, starts_in = await self.estimates.of_job(view, waiting, listed=not position)
        return Job(
            job_id=view.job_id,
            status=JobStatus(view.status),
            progress=min(1.0, max(0.0, view.progress)),
            pipeline=view.pipeline,
            created=rfc3339(view.created_ms),
            start_at=_stamp(view.start_at_ms),
            started=_stamp(view.started_ms),
            finished=_stamp(view.finished_ms),
            attempt=view.attempt,
            waiting_for=waiting,
            error=self._error(view, params) if view.error else None,
            artifacts=view.artifacts,
            name=identity.name_of(about) or None,
            tags=about.tags,
            task=about.task or None,
            params=identity.shortened(params) if row and params else params,
            given=list(about.given),
            rerun_of=about.rerun_of or None,
            thumbnail=identity.thumbnail(view.artifacts, about.given),
            priority=Priority(view.priority),
            estimate=estimate or msgspec.UNSET,
            starts_in=starts_in or msgspec.UNSET,
        )

    def _error(self, view: JobView, params: Mapping[str, object] | None) -> JobError:
        """Decodes the error of a job, with its remedy. `params`: of its request; None for a graph."""
        error = _decode_error(view.error or "")
        error.remedy = remedy_of(error, params or {}, self._origins(view, error.node_id))
        return error

    def _origins(self, view: JobView, node_id: str | None) -> dict[str, str]:
        pipeline = self.pipelines.get(view.pipeline or "")
        return origins(pipeline.graph if pipeline is not None else None, node_id)

    def _remedy(self, view: JobView, node: Node, error: NodeError) -> Remedy:
        """Returns what can be done about a node's error: the param that it names is one of the request, or of the node where a graph was submitted."""
        if view.pipeline:
            return remedy_of(error, identity.decode(view.about).given, self._origins(view, node.id))
        return remedy_of(error, node.params, {})

    async def graph_of(self, job_id: str, visible_owner: str | None) -> AsyncGenerator[bytes, None]:
        """Returns the normalised graph with each node's live status, attempt, output, error, and in `telemetry` progress and times.

        The result is JSON in pieces: the outputs of all nodes may be many times larger than the memory that a request may use.
        """
        view, text = await self._graph(job_id, visible_owner)
        graph = decode_graph(text)
        return self._pieces(view, graph, await self.estimates.of_nodes(view, graph))

    async def submitted_graph(self, job_id: str, visible_owner: str | None) -> str:
        """Returns the JSON of the normalised graph as it was submitted, without anything that its nodes left."""
        return (await self._graph(job_id, visible_owner))[1]

    async def _graph(self, job_id: str, visible_owner: str | None) -> tuple[JobView, str]:
        view = await self.view(job_id, depth=Depth.graph, visible_owner=visible_owner)
        if view.graph is None:
            raise unknown_job(job_id)
        return view, view.graph

    async def _pieces(
        self, view: JobView, graph: Graph, estimates: Mapping[str, Estimate]
    ) -> AsyncGenerator[bytes, None]:
        shares = Topology(graph).shares
        rest = {
            name: getattr(graph, attribute)
            for attribute, name in zip(graph.__struct_fields__, graph.__struct_encode_fields__, strict=True)
            if attribute not in ("nodes", "estimate")
        }
        yield msgspec.json.encode(rest)[:-1] + b',"nodes":['
        between = b""
        for start in range(0, len(graph.nodes), AT_ONCE):
            nodes = graph.nodes[start : start + AT_ONCE]
            ended = [node.id for node in nodes if view.record(node.id).status in ("completed", "failed")]
            left = await self.jobs.left(view.job_id, ended)
            yield between + b",".join(
                _live(
                    node,
                    view.record(node.id),
                    shares,
                    left.get(node.id),
                    estimates.get(node.id),
                    partial(self._remedy, view, node),
                )
                for node in nodes
            )
            between = b","
        yield b"]}"

    async def list(
        self,
        *,
        statuses: Iterable[str],
        pipeline: str | None,
        since_ms: int,
        until_ms: int | None,
        limit: int,
        cursor: str | None,
        visible_owner: str | None = None,
        search: identity.Search | None = None,
    ) -> tuple[list[Job], str | None]:
        """Lists jobs, newest first; returns them with the cursor of the next page, or None at the end.

        A page may have fewer jobs than `limit` and still have a next one: a rare status in a long list is looked for
        over several requests instead of one that delays all clients.
        """
        among = frozenset(statuses)
        before = None if cursor is None else _cursor(cursor)
        size, most = (PAGE, MAX_SEEN) if search is None else (SEARCHED_AT_ONCE, MAX_SEARCHED)
        found: list[Job] = []
        seen = 0
        while True:
            rows = await self.jobs.page(before, size, since_ms=since_ms, until_ms=until_ms)
            fitting = rows if search is None else await self._fitting(rows, search, visible_owner)
            for start in range(0, len(fitting), PAGE):
                some = fitting[start : start + PAGE]
                views = await self.jobs.read_many([job_id for _, job_id in some])
                await self.estimates.know_listed([view for view in views if view is not None])
                for row, view in zip(some, views, strict=True):
                    if (
                        view is None
                        or visible_owner not in (None, view.owner)
                        or (among and view.status not in among)
                        or (pipeline and view.pipeline != pipeline)
                    ):
                        continue
                    found.append(await self.document(view, row=True))
                    if len(found) == limit:
                        return found, _cursor_of(row)
            if len(rows) < size:
                return found, None
            before = rows[-1]
            seen += len(rows)
            if seen >= most:
                return found, _cursor_of(before)

    async def _fitting(
        self, rows: Sequence[tuple[int, str]], search: identity.Search, visible_owner: str | None
    ) -> Sequence[tuple[int, str]]:
        """Returns the rows whose jobs the search finds."""
        fitting: list[tuple[int, str]] = []
        for start in range(0, len(rows), HEADS_AT_ONCE):
            some = rows[start : start + HEADS_AT_ONCE]
            async with (
                self._searching
            ):  # of all searches one has its turn, so that together they leave the loop to others for half of the time
                found = await heads(self.jobs, [job_id for _, job_id in some])
                fitting += [
                    row
                    for row, head in zip(some, found, strict=True)
                    if head is not None
                    and visible_owner in (None, head.owner)
                    and search.may_fit(row[1], head.about, head.pipeline)
                    and search.fits(row[1], identity.decode(head.about), head.pipeline)
                ]
                await asyncio.sleep(SEARCH_PAUSE_SECONDS)
        return fitting

    # Changing -------------------------------------------------------------------------------------------------------

    # Every change wants the whole id: a shortened one, sent again, would mean another job once its own is gone.

    async def exact(self, job_id: str, visible_owner: str | None) -> JobView:
        """Returns the job of exactly this id. Raises ApiProblem, 404."""
        found = await self.jobs.read(checked(job_id))
        if found is None or visible_owner not in (None, found.owner):
            raise unknown_job(job_id, changes=True)
        return found

    async def cancel(self, job_id: str, visible_owner: str | None) -> tuple[Job, bool]:
        """Cancels a job; returns (job, whether it was alive)."""
        if visible_owner is not None:
            await self.exact(job_id, visible_owner)
        word = await self.jobs.cancel(checked(job_id))
        return await self._changed(job_id, visible_owner), word not in ("ended", "unknown")

    async def _changed(self, job_id: str, visible_owner: str | None) -> Job:
        return await self.document(await self.exact(job_id, visible_owner), position=True)

    async def finish(self, job_id: str, node_id: str, visible_owner: str | None) -> Job:
        """Asks a running node to end now with the best result that it has. Only the worker that runs it receives the request, once."""
        view = await self.exact(job_id, visible_owner)
        if view.record(node_id).status != "running":
            raise ApiProblem(409, "node_not_running", f"{node_id!r} does not run, so there is nothing to end early")
        await self.jobs.client.publish(keys.CANCEL_CHANNEL, f"{view.job_id} {node_id}")
        return await self.document(view)

    async def retry(self, job_id: str, *, from_start: bool, principal: Principal) -> Job:
        if principal.visible_owner is not None:
            await self.exact(job_id, principal.visible_owner)
        word = await self.jobs.retry(checked(job_id), from_start=from_start, limit=self.limit_of(principal))
        if word == "unknown":
            raise unknown_job(job_id, changes=True)
        if word == "conflict":
            raise ApiProblem(409, "not_retryable", "only a failed or cancelled job can be retried")
        if word != "ok":
            raise self.not_accepted(word, job_id)
        return await self._changed(job_id, principal.visible_owner)

    async def delete(self, job_id: str, visible_owner: str | None) -> JobView:
        """Deletes an ended job and returns its last document."""
        view = await self.exact(job_id, visible_owner)
        if view.status not in JOB_ENDED or await self.jobs.delete(view.job_id) != "ok":
            raise ApiProblem(409, "job_alive", "a job that has not ended cannot be deleted; cancel it first")
        return view


def digest_of(body: bytes | memoryview, owner: str) -> str:
    """Computes the digest that tells a repeat from another request; the same bytes of another owner are another request. 128 bits, since every job stores it."""
    return hashlib.blake2b(body, digest_size=16, key=owner.encode()).hexdigest()


def _named(job: NewJob) -> list[str]:
    """Returns the artifacts that a graph names; searches only where there can be one."""
    return sorted(set(names_in(msgspec.json.decode(job.graph)))) if b'"bucket"' in job.graph else []


def _going(names: Sequence[str]) -> ApiProblem:
    found = [planning.Problem("", "unknown_artifact", f"{name} is just being deleted") for name in names]
    return refused("an artifact that the job names is just being deleted", found)


def is_id(text: str) -> bool:
    return _ID.fullmatch(text) is not None


def checked(job_id: str) -> str:
    """Checks a job id. Raises 404 for a text that cannot be one, and so must not become part of a key."""
    if not is_id(job_id):
        raise unknown_job(job_id)
    return job_id


def _beside(request: JobRequest, guard: Guard) -> list[planning.Problem]:
    """Returns the problems of the fields beside graph and pipeline."""
    found = []
    if not isinstance(request.metadata, msgspec.UnsetType) and planning.too_deep(request.metadata):
        found.append(planning.Problem("/metadata", "too_deep", f"nested more than {planning.MAX_NESTING} deep"))
    start = request.start_at
    if not isinstance(start, msgspec.UnsetType) and not EARLIEST <= start <= LATEST:
        found.append(planning.Problem("/startAt", "out_of_range", f"{EARLIEST:%Y} to {LATEST:%Y}"))
    if not isinstance(request.webhook, msgspec.UnsetType):
        try:
            guard.check_url(request.webhook.url)
        except Forbidden as error:
            found.append(planning.Problem("/webhook/url", "forbidden_url", str(error)))
    nodes = [] if isinstance(request.graph, msgspec.UnsetType) else request.graph.nodes
    for index, node in enumerate(nodes):  # fields of an earlier run are dropped, so the planner never sees them
        details = None if isinstance(node.error, msgspec.UnsetType) else node.error.details
        for name, value in (("output", node.output), ("error", details)):
            if isinstance(value, dict | list) and planning.too_deep(value):
                found.append(planning.Problem(f"/graph/nodes/{index}/{name}", "too_deep", "nested too deep"))
    return found


def _live(
    node: Node,
    record: NodeRecord,
    shares: dict[str, int],
    left: bytes | None,
    estimate: Estimate | None,
    remedy: Callable[[NodeError], Remedy],
) -> bytes:
    node.status = NodeStatus(record.status)
    if record.status not in ("pending", "ready"):
        node.retries.attempt = record.attempt
    known = {} if isinstance(node.telemetry, msgspec.UnsetType) else node.telemetry
    node.telemetry = known | {
        "progress": 1.0 if record.status == "completed" else _of(record.share, shares[node.id]),
        "started": _stamp(record.started_ms),
        "finished": _stamp(record.ended_ms),
    }
    if estimate is not None:
        node.telemetry["estimate"] = {"low": estimate.low, "high": estimate.high}
    payload = _decode_left(left) if left else {}
    if "output" in payload:
        node.output = payload["output"]
    if "error" in payload:
        node.error = msgspec.json.decode(payload["error"], type=NodeError)
        node.error.remedy = remedy(node.error)
    return msgspec.json.encode(node)


def _of(done: int, share: int) -> float:
    """Returns a node's own progress from its part of the job's; a node without weight shows none."""
    return min(1.0, max(0, done) / share) if share else 0.0


def _stamp(ms: int | None) -> str | None:
    return None if ms is None else rfc3339(ms)


def _cursor_of(row: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(f"{row[0]}:{row[1]}".encode()).decode()


def _cursor(text: str) -> tuple[int, str]:
    try:
        ms, _, job_id = base64.urlsafe_b64decode(text).decode().partition(":")
        if not is_id(job_id):
            raise ValueError(job_id)
        return int(ms), job_id
    except ValueError as error:
        raise ApiProblem(422, "invalid_parameter", "cursor: not a cursor of this list") from error
