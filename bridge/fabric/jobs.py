"""Jobs as their callers see them: submit, read, list, cancel, retry, delete.

The scripts know items and words; this module has the objects: a job to submit and a view of a job. Policy (limits, idempotency,
planning) is the control plane's.

Large because every call that its callers know is one short method here.
"""

import asyncio
import logging
import math
from collections.abc import Iterable, Sequence

import msgspec
import redis.asyncio

from dihedral.bridge import graphs
from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client, now_ms
from dihedral.bridge.fabric.dispatch import plan_batches
from dihedral.bridge.fabric.items import JobRead, Limit, Retry, Submission
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.lifecycle import JOB_ENDED
from dihedral.bridge.fabric.scripts import (
    MAX_CALL_BYTES,
    MAX_CALL_ITEMS,
    PENDING,
    Depth,
    NodeRecord,
    Scripts,
    encode_item,
    parse_record,
    parse_state,
)
from dihedral.bridge.fabric.workers import WorkerRegistry
from dihedral.bridge.graphs import Place, Placement, Plan, Topology
from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.graph import Graph
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)

decode_graph = msgspec.json.Decoder(Graph).decode
decode_routes = msgspec.json.Decoder(dict[str, Placement]).decode
_decode_artifacts = msgspec.json.Decoder(list[ArtifactMeta]).decode


class NewJob(msgspec.Struct):
    """A planned job. `graph` is the normalised graph's JSON; `digest` tells a repeat from another job of the same id.

    `created_ms`: the server's time when it was accepted, 0 before. `items`: how submit.lua gets it, by partition, with the id that stands in it.
    """

    job_id: str
    graph: bytes
    digest: str
    plan: Plan
    priority: str = "normal"
    pipeline: str | None = None
    start_at_ms: int | None = None
    owner: str = ""
    metadata: bytes = b"{}"
    traceparent: str = ""
    created_ms: int = 0
    limit: Limit = ()
    webhook: bytes = b""
    about: bytes = b""
    items: dict[int, tuple[bytes, bytes]] | None = None

    def twin(self, job_id: str) -> "NewJob":
        """Returns the same job under another id of the same length. Its own must be random, so that nothing else in it reads like that, and it must start at once."""
        if self.items is None:
            self.items = {}
        graph = self.graph.replace(self.job_id.encode(), job_id.encode())
        return msgspec.structs.replace(self, job_id=job_id, graph=graph)

    def view(self) -> "JobView":
        """Returns the view of a job right after it was accepted."""
        scheduled = self.start_at_ms is not None and self.start_at_ms > self.created_ms
        root = self.plan.topology.roots[0]
        place = self.plan.place(root).label
        return JobView(
            job_id=self.job_id,
            status="scheduled" if scheduled else "queued",
            progress=0.0,
            seq=1,
            trimmed=0,
            attempt=1,
            created_ms=self.created_ms,
            start_at_ms=self.start_at_ms,
            pipeline=self.pipeline,
            owner=self.owner,
            about=self.about.decode(),
            records={root: msgspec.structs.replace(PENDING, status="ready", place=place)},
        )


class JobView(msgspec.Struct):
    """One look at a job, and the events after the seq asked for. Times are server epoch ms; `error` is JobError JSON."""

    job_id: str
    status: str
    progress: float
    seq: int
    trimmed: int
    attempt: int
    created_ms: int = 0
    start_at_ms: int | None = None
    started_ms: int | None = None
    finished_ms: int | None = None
    updated_ms: int = 0
    priority: str = "normal"
    pipeline: str | None = None
    owner: str = ""
    metadata: str = "{}"
    webhook: str = ""
    about: str = ""
    remaining: int = 0
    running: int = 0
    broken: int = 0
    error: str | None = None
    digest: str = ""
    graph: str | None = None
    routes: dict[str, Placement] = {}
    records: dict[str, NodeRecord] = {}
    claims: dict[str, str] = {}
    artifacts: list[ArtifactMeta] = []
    events: list[str] = []

    @property
    def ended(self) -> bool:
        return self.status in JOB_ENDED

    def record(self, node_id: str) -> NodeRecord:
        return self.records.get(node_id, PENDING)

    def states(self) -> dict[str, tuple[str, str]]:
        """Returns status and reason of each node that has a record."""
        return {node: (record.status, record.reason) for node, record in self.records.items()}


class Jobs:
    def __init__(self, client: Client, settings: Settings) -> None:
        self.client = client
        self.settings = settings
        self.scripts = Scripts(
            client,
            partition_count=settings.redis.partitions,
            ttl_seconds=settings.jobs.ttl_seconds,
            log_length=settings.jobs.event_log_length,
            log_bytes=settings.jobs.event_log_bytes,
            output_bytes=settings.jobs.output_bytes,
        )
        self.workers = WorkerRegistry(client, self.scripts.partitions)
        self._submissions: list[tuple[NewJob, asyncio.Future[str]]] = []
        self._submitting: asyncio.Task[None] | None = None

    async def submit(self, job: NewJob) -> str:
        """Submits a job; returns ok | same | exists | full | quota | rate MS | memory. Jobs that arrive while a call is under way go out together in the next."""
        future: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._submissions.append((job, future))
        if self._submitting is None or self._submitting.done():
            self._submitting = asyncio.create_task(self._submit_gathered())
        return await future

    async def _submit_gathered(self) -> None:
        while self._submissions:
            gathered, self._submissions = self._submissions, []
            try:
                words = await self.submit_many([job for job, _ in gathered])
            except Exception as error:
                for _, future in gathered:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), word in zip(gathered, words, strict=True):
                if not future.done():
                    future.set_result(word)

    async def submit_many(self, jobs: Sequence[NewJob]) -> list[str]:
        """Submits jobs; returns a word for each. Calls are split by bytes and by items. `memory`: the server is at its limit and stored no part of the job."""
        words: list[str] = [""] * len(jobs)
        by_partition: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            by_partition.setdefault(self.scripts.partition(job.job_id).number, []).append(index)
        for number, indexes in by_partition.items():
            part = self.scripts.partitions[number]
            for chunk in _chunks(indexes, jobs):
                try:
                    answers, now = await self.scripts.submit_encoded(
                        part, [self._item(part, jobs[index]) for index in chunk]
                    )
                except redis.exceptions.OutOfMemoryError:
                    answers, now = ["memory"] * len(chunk), 0
                for index, word in zip(chunk, answers, strict=True):
                    words[index] = word
                    jobs[index].created_ms = now
        return words

    def _item(self, part: Partition, job: NewJob) -> bytes:
        known = None if job.items is None else job.items.get(part.number)
        if known is not None:  # a twin of it was rendered
            return known[1].replace(known[0], job.job_id.encode())
        item = encode_item(self._submission(part, job).values())
        if job.items is not None:
            job.items[part.number] = job.job_id.encode(), item
        return item

    def _submission(self, part: Partition, job: NewJob) -> Submission:
        graph = job.graph.decode()
        stored = {
            "graph": graph,
            "routes": msgspec.json.encode(job.plan.routes).decode(),
            "priority": "" if job.priority == "normal" else job.priority,
            "pipeline": job.pipeline,
            "owner": job.owner,
            "metadata": "" if job.metadata == b"{}" else job.metadata.decode(),
            "traceparent": job.traceparent,
            "webhook": "1" if job.webhook else "",
            "about": job.about.decode(),
        }
        fields = [text for name, value in stored.items() if value for text in (name, value)]
        topology = job.plan.topology
        batches = plan_batches(part, job.plan, topology.roots, priority=job.priority, inline_limit=self.inline_limit)
        return Submission(
            job.job_id, job.digest, len(topology.nodes), batches, job.start_at_ms or 0, self._max_queued, job.limit,
            job.webhook.decode() or False, fields,
        )  # fmt: skip

    async def allowance(self, limit: Limit) -> tuple[int, str]:
        """Returns (how many more jobs would be accepted now, the word that refuses the next one), so that a refused job is not planned.

        Takes nothing: submit.lua counts. With several partitions one may refuse earlier.
        """
        left, word, now = 0, "", await now_ms(self.client) if limit else 0
        for part in self.scripts.partitions:
            rooms: list[tuple[int, str]] = []
            if self._max_queued > 0:
                rooms.append((self._max_queued - await self.client.scard(part.alive), "full"))
            if limit:
                rooms += await self._room_of_key(part, limit, now)
            room, refuses = min(rooms, default=(MAX_CALL_ITEMS, ""))
            left, word = left + max(0, room), refuses
        return left, word

    async def _room_of_key(self, part: Partition, limit: tuple[str, int, int], now: int) -> list[tuple[int, str]]:
        """Returns the answer of `over` in _call.lua."""
        name, per_minute, most = limit
        rooms = []
        if most > 0:
            mine = part.alive_of(name)
            count = await self.client.scard(mine)
            if count >= most:  # some of them may have ended
                count = await self.client.sinterstore(mine, [mine, part.alive])
            rooms.append((most - count, "quota"))
        if per_minute > 0:
            step = 60_000 / per_minute
            waits = max(0.0, float(await self.client.get(part.rate_of(name)) or 0) - now)
            rooms.append((int((60_000.5 - waits) / step), f"rate {math.ceil(max(0.0, waits + step - 60_000))}"))
        return rooms

    @property
    def _max_queued(self) -> int:
        """Returns one partition's share of the limit: a script sees its own partition only."""
        return -(-self.settings.jobs.max_queued // len(self.scripts.partitions))

    @property
    def inline_limit(self) -> int:
        return self.settings.jobs.inline_graph_bytes

    async def read(self, job_id: str, after: int | None = None, depth: Depth = Depth.document) -> JobView | None:
        """Reads as much of the job as `depth` asks for and, with `after`, every kept event with a greater seq, in one atomic read; None for an unknown job."""
        reply = await self.scripts.read(
            self.scripts.partition(job_id), [JobRead(job_id, -1 if after is None else after, depth)]
        )
        return view(job_id, reply[0])

    async def read_many(self, job_ids: Sequence[str], depth: Depth = Depth.document) -> list[JobView | None]:
        views: list[JobView | None] = [None] * len(job_ids)
        by_partition: dict[int, list[int]] = {}
        for index, job_id in enumerate(job_ids):
            by_partition.setdefault(self.scripts.partition(job_id).number, []).append(index)
        for number, indexes in by_partition.items():
            for start in range(0, len(indexes), 100):
                chunk = indexes[start : start + 100]
                items = [JobRead(job_ids[index], -1, depth) for index in chunk]
                for index, row in zip(
                    chunk, await self.scripts.read(self.scripts.partitions[number], items), strict=True
                ):
                    views[index] = view(job_ids[index], row)
        return views

    async def left(self, job_id: str, nodes: Sequence[str]) -> dict[str, bytes]:
        """Returns the results of ended nodes by node: `{"output":…}` or `{"error":…}`."""
        if not nodes:
            return {}
        key = self.scripts.partition(job_id).job(job_id)
        texts = await self.client.hmget(key, [f"o:{node}" for node in nodes])
        return {node: text for node, text in zip(nodes, texts, strict=True) if text is not None}

    async def ahead(self, job_id: str, record: NodeRecord) -> int | None:
        """Returns how many entries of its place are ahead of a ready node's entry: 100 means 100 or more. None: it is not queued."""
        entry, _, stream = record.entry.partition("@")
        part = self.scripts.partition(job_id)
        plane, pool = Place.of(record.place)
        streams = part.streams(plane, pool, keys.lane_of(stream))
        if stream not in streams:
            return None
        counts = [
            int(await functions.call(self.client, "ahead", each, "+" if each != stream else entry, part.job("")))
            for each in streams[: streams.index(stream) + 1]
        ]
        return min(100, sum(counts))

    async def page(
        self, before: tuple[int, str] | None, limit: int, *, since_ms: int = 0, until_ms: int | None = None
    ) -> list[tuple[int, str]]:
        """Returns (created ms, job id) of jobs older than `before`, newest first; the index may name jobs that have expired."""
        top = "+inf" if until_ms is None else str(until_ms)
        if before is not None and (until_ms is None or before[0] <= until_ms):
            top = str(before[0])
        rows: list[tuple[int, str]] = []
        for part in self.scripts.partitions:
            offset = 0
            taken = 0
            while taken < limit:
                found = await self.client.zrange(
                    part.index, top, since_ms, desc=True, byscore=True, offset=offset, num=limit, withscores=True
                )
                for job_id, score in found:
                    row = (int(score), job_id.decode())
                    if before is None or row < before:
                        rows.append(row)
                        taken += 1
                if len(found) < limit:
                    break
                offset += len(found)
        rows.sort(reverse=True)
        return rows[:limit]

    async def cancel(self, job_id: str) -> str:
        """Cancels a job; returns cancelled | cancelling | ended | unknown."""
        found = await self.read(job_id, depth=Depth.graph)
        if found is None or found.graph is None:
            return "unknown"
        nodes = [node.id for node in decode_graph(found.graph).nodes]
        return await self.scripts.cancel(self.scripts.partition(job_id), job_id, nodes)

    async def retry(
        self, job_id: str, *, from_start: bool = False, attempt: int | None = None, limit: Limit = ()
    ) -> str:
        """Retries a job; returns ok | conflict (alive, completed, changed meanwhile, or its last attempt is not `attempt`) | unknown | full | quota | rate MS."""
        found = await self.read(job_id, depth=Depth.graph)
        if found is None or found.graph is None:
            return "unknown"
        if found.status not in ("failed", "cancelled") or attempt not in (None, found.attempt):
            return "conflict"
        part = self.scripts.partition(job_id)
        topology = Topology(decode_graph(found.graph))
        reset = graphs.retry_reset(topology, found.states(), from_start)
        states = {node: state for node, state in found.states().items() if node not in reset}
        decided = graphs.resolve(topology, states, [node for node in topology.nodes if node in reset])
        plan = Plan(topology, found.routes, len(found.graph))
        batches = plan_batches(part, plan, decided.ready, priority=found.priority, inline_limit=self.inline_limit)
        skips = [(node, reason, topology.shares[node]) for node, reason in decided.skipped]
        return await self.scripts.retry(
            part,
            Retry(job_id, found.status, found.attempt, sorted(reset), batches, skips, limit, self._max_queued),
        )

    async def delete(self, job_id: str) -> str:
        """Deletes a job; returns ok | alive | unknown."""
        return await self.scripts.delete(self.scripts.partition(job_id), job_id)

    async def epoch(self, job_id: str = "") -> str:
        """Returns the replication id of the server that has the job: a different id means that a seq may have gone back."""
        return str((await functions.call(self.client, "epoch", self.scripts.partition(job_id).index)).decode())

    async def counts(self) -> dict[str, int]:
        """Returns the counters of the scripts, summed over all partitions: jobs by live status, by end and pipeline, and other events."""
        found: dict[str, int] = {}
        for part in self.scripts.partitions:
            for name, number in (await self.client.hgetall(part.counts)).items():
                found[name.decode()] = found.get(name.decode(), 0) + int(number)
        return found


def view(job_id: str, reply: list[list[str]]) -> JobView | None:
    """Builds a JobView from read.lua's answer for one job."""
    if not reply:
        return None
    flat, events = reply
    fields: dict[str, str] = {}
    records: dict[str, NodeRecord] = {}
    claims: dict[str, str] = {}
    artifacts: list[ArtifactMeta] = []
    left: dict[str, str] = {}
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        if name[1:2] != ":":
            fields[name] = value
        elif name[0] == "n":
            records[name[2:]] = parse_record(value)
        elif name[0] == "o":
            left[name[2:]] = value
        elif name[0] == "c":
            claims[name[2:]] = value
        elif name[0] == "a":
            artifacts += _decode_artifacts(value)
    for node, text in left.items():
        records[node] = msgspec.structs.replace(records[node], payload=text)
    number = fields.get
    fields |= parse_state(fields.pop("state"))

    def optional(name: str) -> int | None:
        text = fields.get(name)
        return int(text) if text else None

    return JobView(
        job_id=job_id,
        status=fields["status"],
        progress=int(fields["progress"]) / 1e9,
        seq=int(fields["seq"]),
        trimmed=int(fields["trimmed"]),
        attempt=int(fields["attempt"]),
        created_ms=optional("created") or 0,
        start_at_ms=optional("startAt"),
        started_ms=optional("started"),
        finished_ms=optional("finished"),
        updated_ms=optional("updated") or 0,
        priority=number("priority") or "normal",
        pipeline=number("pipeline") or None,
        owner=number("owner", ""),
        metadata=number("metadata", "{}"),
        webhook=number("webhook", ""),
        about=number("about", ""),
        remaining=optional("remaining") or 0,
        running=optional("running") or 0,
        broken=optional("broken") or 0,
        error=number("error") or None,
        digest=number("digest", ""),
        graph=number("graph"),
        routes=decode_routes(fields["routes"]) if fields.get("routes") else {},
        records=records,
        claims=claims,
        artifacts=artifacts,
        events=events,
    )


def _chunks(indexes: list[int], jobs: Sequence[NewJob]) -> Iterable[list[int]]:
    chunk: list[int] = []
    size = 0
    for index in indexes:
        chunk.append(index)
        size += len(jobs[index].graph)
        if size >= MAX_CALL_BYTES or len(chunk) >= min(100, MAX_CALL_ITEMS):
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
