"""Jobs as whoever asks about them sees them: submit, read, list, cancel, retry, delete, and what serves them.

The scripts know items and words; here are the things: a job to submit, a view of a job, the queues, the workers that live,
the tasks they know. Policy (limits, idempotency, planning) is the control plane's.
"""

import asyncio
import logging
import math
import random
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
import redis.asyncio

from dihedral.bridge import graphs
from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client
from dihedral.bridge.fabric.keys import PRIORITIES, Partition
from dihedral.bridge.fabric.lifecycle import JOB_ENDED
from dihedral.bridge.fabric.scripts import (
    MAX_CALL_BYTES,
    MAX_CALL_ITEMS,
    PENDING,
    Depth,
    EntrySpec,
    NodeRecord,
    Scripts,
    parse_record,
    parse_state,
)
from dihedral.bridge.graphs import Placement, Topology
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.graph import Graph
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.worker import DeadLetter, QueueInfo, WorkerInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_SECONDS = 5
LIVE_SECONDS = 15
RECENT_SECONDS = 7 * 24 * 3600

decode_graph = msgspec.json.Decoder(Graph).decode
decode_routes = msgspec.json.Decoder(dict[str, Placement]).decode
_decode_artifacts = msgspec.json.Decoder(list[ArtifactMeta]).decode
_LETTER = re.compile(r"([0-9]{1,3})-([0-9]{1,20})-([0-9]{1,20})")
_decode_worker = msgspec.json.Decoder(WorkerInfo).decode


class KnownTask(msgspec.Struct):
    """A capability as its last worker announced it."""

    capability: Capability
    worker_id: str
    last_seen_ms: int


_decode_known = msgspec.json.Decoder(KnownTask).decode


def _understood(decode: Callable[[bytes], T], text: bytes, what: str) -> T | None:
    """None, said once, for what a worker of a newer version tells otherwise; it must not end an older control plane."""
    try:
        return decode(text)
    except msgspec.MsgspecError as error:
        _not_understood(what, str(error))
        return None


@cache
def _not_understood(what: str, why: str) -> None:
    log.warning(
        "the %s of a worker cannot be read and is left out, as if it were not there: %s (another version?)", what, why
    )


class NewJob(msgspec.Struct):
    """A planned job. `graph` is the normalised graph's JSON; `digest` tells a repeat from another job with the same id.

    `created_ms`: the server's time when it was accepted, 0 before.
    """

    job_id: str
    graph: bytes
    digest: str
    topology: Topology
    routes: dict[str, Placement]
    priority: str = "normal"
    pipeline: str | None = None
    start_at_ms: int | None = None
    owner: str = ""
    metadata: bytes = b"{}"
    traceparent: str = ""
    created_ms: int = 0
    limit: tuple[str, int, int] | tuple[()] = ()
    """(name, jobs per minute, most alive), counted under that name within a partition; 0 means none."""
    webhook: bytes = b""

    def view(self) -> "JobView":
        """What a look at it shows right after it was accepted."""
        scheduled = self.start_at_ms is not None and self.start_at_ms > self.created_ms
        root = self.topology.roots[0]
        place = f"{self.topology.nodes[root].plane}/{self.routes[root].pool}"
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
        """Status and reason of each node that has a record."""
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
        self._submissions: list[tuple[NewJob, asyncio.Future[str]]] = []
        self._submitting: asyncio.Task[None] | None = None

    async def submit(self, job: NewJob) -> str:
        """ok | same | exists | full | quota | rate MS | memory. What comes while a call is on its way goes out together in the next."""
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
        """A word per job; calls are cut by bytes and by items. `memory`: the server is at its limit and kept nothing of it."""
        words: list[str] = [""] * len(jobs)
        by_partition: dict[int, list[int]] = {}
        for index, job in enumerate(jobs):
            by_partition.setdefault(self.scripts.partition(job.job_id).number, []).append(index)
        for number, indexes in by_partition.items():
            part = self.scripts.partitions[number]
            for chunk in _chunks(indexes, jobs):
                try:
                    answers, now = await self.scripts.submit(part, [self._item(part, jobs[index]) for index in chunk])
                except redis.exceptions.OutOfMemoryError:
                    answers, now = ["memory"] * len(chunk), 0
                for index, word in zip(chunk, answers, strict=True):
                    words[index] = word
                    jobs[index].created_ms = now
        return words

    def _item(self, part: Partition, job: NewJob) -> tuple[Any, ...]:
        graph = job.graph.decode()
        stored = {
            "graph": graph,
            "routes": msgspec.json.encode(job.routes).decode(),
            "priority": "" if job.priority == "normal" else job.priority,
            "pipeline": job.pipeline,
            "owner": job.owner,
            "metadata": "" if job.metadata == b"{}" else job.metadata.decode(),
            "traceparent": job.traceparent,
            "webhook": job.webhook.decode(),
        }
        fields = [text for name, value in stored.items() if value for text in (name, value)]
        batches = plan_batches(
            part,
            job.topology,
            job.routes,
            job.topology.roots,
            priority=job.priority,
            inline_limit=self.inline_limit,
            graph_size=len(graph),
        )
        return (
            job.job_id, job.digest, len(job.topology.nodes), batches, job.start_at_ms or 0, self._max_queued, job.limit,
            bool(job.webhook), *fields,
        )  # fmt: skip

    async def allowance(self, limit: tuple[str, int, int] | tuple[()]) -> tuple[int, str]:
        """(how many more jobs would be accepted now, the word that refuses the next one), so that what cannot be accepted is not planned.

        `limit` as in NewJob. Takes nothing: submit.lua counts. With several partitions one may refuse earlier.
        """
        left, word, now = 0, "", await self.now_ms() if limit else 0
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
        """What `over` in submit.lua would answer."""
        name, per_minute, most = limit
        rooms = []
        if most > 0:
            mine = f"alive:{name}{part.suffix}"
            count = await self.client.scard(mine)
            if count >= most:  # some of them may have ended
                count = await self.client.sinterstore(mine, [mine, part.alive])
            rooms.append((most - count, "quota"))
        if per_minute > 0:
            step = 60_000 / per_minute
            waits = max(0.0, float(await self.client.get(f"rate:{name}{part.suffix}") or 0) - now)
            rooms.append((int((60_000.5 - waits) / step), f"rate {math.ceil(max(0.0, waits + step - 60_000))}"))
        return rooms

    @property
    def _max_queued(self) -> int:
        """A script sees its own partition only, so each has its share of the limit."""
        return -(-self.settings.jobs.max_queued // len(self.scripts.partitions))

    @property
    def inline_limit(self) -> int:
        return self.settings.jobs.inline_graph_bytes

    async def read(self, job_id: str, after: int | None = None, depth: Depth = Depth.document) -> JobView | None:
        """As much of the job as `depth` says and, with `after`, every kept event with a greater seq, in one atomic look; None for an unknown job."""
        reply = await self.scripts.read(
            self.scripts.partition(job_id), [(job_id, -1 if after is None else after, depth)]
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
                items = [(job_ids[index], -1, depth) for index in chunk]
                for index, row in zip(
                    chunk, await self.scripts.read(self.scripts.partitions[number], items), strict=True
                ):
                    views[index] = view(job_ids[index], row)
        return views

    async def left(self, job_id: str, nodes: Sequence[str]) -> dict[str, bytes]:
        """What ended nodes have left: `{"output":…}` or `{"error":…}`, by node."""
        if not nodes:
            return {}
        key = self.scripts.partition(job_id).job(job_id)
        texts = await self.client.hmget(key, [f"o:{node}" for node in nodes])
        return {node: text for node, text in zip(nodes, texts, strict=True) if text is not None}

    async def page(
        self, before: tuple[int, str] | None, limit: int, *, since_ms: int = 0, until_ms: int | None = None
    ) -> list[tuple[int, str]]:
        """(created ms, job id) newest first, older than `before`; the index may name jobs that have expired."""
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
        """cancelled | cancelling | ended | unknown."""
        found = await self.read(job_id, depth=Depth.graph)
        if found is None or found.graph is None:
            return "unknown"
        nodes = [node.id for node in decode_graph(found.graph).nodes]
        return await self.scripts.cancel(self.scripts.partition(job_id), job_id, nodes)

    async def retry(self, job_id: str, *, from_start: bool = False, attempt: int | None = None) -> str:
        """ok | conflict (alive, completed, changed meanwhile, or its last attempt is not `attempt`) | unknown."""
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
        batches = plan_batches(
            part, topology, found.routes, decided.ready, priority=found.priority, inline_limit=self.inline_limit,
            graph_size=len(found.graph),
        )  # fmt: skip
        skips = [(node, reason, topology.shares[node]) for node, reason in decided.skipped]
        return await self.scripts.retry(part, job_id, found.status, found.attempt, sorted(reset), batches, skips)

    async def delete(self, job_id: str) -> str:
        """ok | alive | unknown."""
        return await self.scripts.delete(self.scripts.partition(job_id), job_id)

    async def epoch(self, job_id: str = "") -> str:
        """The replication id of the server that has the job: another one means that a seq may have gone back."""
        return str((await functions.call(self.client, "epoch", self.scripts.partition(job_id).index)).decode())

    async def now_ms(self) -> int:
        """The server's time: who is alive and what is old must not depend on whose clock is right."""
        seconds, micros = await self.client.time()
        return int(seconds) * 1000 + int(micros) // 1000

    # What serves the jobs -------------------------------------------------------------------------------------------

    async def announce(self, info: WorkerInfo, capabilities: Iterable[Capability]) -> None:
        """A worker's heartbeat: itself for LIVE_SECONDS, its tasks for a week after it was last seen."""
        now = await self.now_ms()
        known: list[str | bytes] = []
        for each in capabilities:
            known += [f"{each.plane}:{each.id}", msgspec.json.encode(KnownTask(each, info.worker_id, now))]
        await self._put("SET", keys.worker(info.worker_id), msgspec.json.encode(info), "EX", RECENT_SECONDS)
        await self._put("ZADD", keys.WORKERS, now, info.worker_id)
        for first in range(0, len(known), 1000):
            await self._put("HSET", keys.CAPABILITIES, *known[first : first + 1000])

    async def depart(self, worker_id: str) -> None:
        """It lives no more, and stays among those seen lately."""
        await self._put("ZADD", keys.WORKERS, await self.now_ms() - LIVE_SECONDS * 1000 - 1, worker_id)

    async def _put(self, command: str, key: str, *arguments: Any) -> None:
        await functions.call(self.client, "put", key, command, *arguments)

    async def workers(self, *, recent: bool = False) -> list[WorkerInfo]:
        """Workers with a heartbeat in the last 15 s; with `recent` also those seen in the last week."""
        horizon = await self.now_ms() - (RECENT_SECONDS if recent else LIVE_SECONDS) * 1000
        ids = await self.client.zrange(keys.WORKERS, 0 if recent else horizon, "+inf", byscore=True)
        if not ids:
            return []
        pipe = self.client.pipeline(transaction=False)
        for worker_id in ids:
            pipe.get(keys.worker(worker_id.decode()))
        raw = await pipe.execute()
        return [found for text in raw if text and (found := _understood(_decode_worker, text, "heartbeat"))]

    async def known_tasks(self) -> list[KnownTask]:
        """Every task of live and recently seen workers, stable order."""
        horizon = await self.now_ms() - RECENT_SECONDS * 1000
        rows = await self.client.hgetall(keys.CAPABILITIES)
        known = [_understood(_decode_known, row, "capability") for _, row in sorted(rows.items())]
        return [task for task in known if task is not None and task.last_seen_ms >= horizon]

    async def capabilities(self) -> dict[str, Capability]:
        return {known.capability.id: known.capability for known in await self.known_tasks()}

    async def queues(self) -> list[QueueInfo]:
        """Depth (not delivered), pending (delivered, not acked) and age of the oldest waiting entry, per place."""
        places = {("node", "default"), ("python", "default")}
        for known in await self.known_tasks():
            places.add((str(known.capability.plane), known.capability.runtime.pool))
        for worker in await self.workers():
            places.add((str(worker.plane), worker.pool))
        return [await self._queue(plane, pool) for plane, pool in sorted(places)]

    async def _queue(self, plane: str, pool: str) -> QueueInfo:
        depth = pending = 0
        oldest: float | None = None
        for part in self.scripts.partitions:
            for stream in part.streams(plane, pool):
                waiting, held, age = await self._stream(stream)
                depth, pending = depth + waiting, pending + held
                if age is not None:
                    oldest = age if oldest is None else max(oldest, age)
        return QueueInfo(plane=plane, pool=pool, depth=depth, pending=pending, oldest_seconds=oldest)  # type: ignore[arg-type]

    async def _stream(self, stream: str) -> tuple[int, int, float | None]:
        try:
            groups = await self.client.xinfo_groups(stream)
        except redis.ResponseError:
            return 0, 0, None
        group = next((row for row in groups if row["name"] in (keys.GROUP, keys.GROUP.encode())), None)
        last = group["last-delivered-id"] if group else "0-0"
        held = int(group["pending"]) if group else 0
        start = f"({last.decode() if isinstance(last, bytes) else last}"
        first = await self.client.xrange(stream, min=start, count=1)
        if not first:
            return 0, held, None
        lag = group.get("lag") if group else None
        waiting = int(lag) if lag is not None else int(await self.client.xlen(stream)) - held
        age_ms = await self.now_ms() - int(first[0][0].split(b"-")[0])
        return max(1, waiting), held, max(0.0, age_ms / 1000)

    async def counts(self) -> dict[str, int]:
        """What the scripts have counted, over all partitions: jobs by live status, by end and pipeline, and what happened."""
        found: dict[str, int] = {}
        for part in self.scripts.partitions:
            for name, number in (await self.client.hgetall(part.counts)).items():
                found[name.decode()] = found.get(name.decode(), 0) + int(number)
        return found

    # Dead letters ---------------------------------------------------------------------------------------------------

    async def dead_letter_count(self) -> int:
        """Letters that nobody has requeued or dropped yet."""
        return sum([int(await self.client.xlen(part.dead)) for part in self.scripts.partitions])

    async def dead_letters(self, before: str | None = None, limit: int = 500) -> list[DeadLetter]:
        """Newest first, those older than the letter `before`. Raises ValueError where that can be no letter's id."""
        last = None if before is None else self._letter(before)
        found = []
        for part in self.scripts.partitions:
            top = "+" if last is None else last[1] if part.number < last[0].number else f"({last[1]}"
            for entry, fields in await self.client.xrevrange(part.dead, max=top, count=limit):
                found.append((_entry_order(entry), part.number, _dead_letter(part, entry, fields)))
        return [letter for *_, letter in sorted(found, key=lambda row: row[:2], reverse=True)[:limit]]

    async def dead_letter(self, letter_id: str) -> DeadLetter | None:
        try:
            part, entry = self._letter(letter_id)
        except ValueError:
            return None
        rows = await self.client.xrange(part.dead, min=entry, max=entry)
        return _dead_letter(part, *rows[0]) if rows else None

    async def requeue_dead(self, letter: DeadLetter) -> str:
        """Retries the job, if its last attempt is the letter's, and drops all its letters; ok | conflict | unknown."""
        word = await self.retry(letter.job_id, attempt=letter.attempt) if letter.job_id else "unknown"
        if word == "ok":
            await self._drop_letters_of(letter.job_id)
        return word

    async def drop_dead(self, letter_id: str) -> str:
        """ok | unknown."""
        try:
            part, entry = self._letter(letter_id)
        except ValueError:
            return "unknown"
        return "ok" if await self.client.xdel(part.dead, entry) else "unknown"

    async def _drop_letters_of(self, job_id: str) -> None:
        """Each failed node of a job has one; the stream is bounded, so it is read through."""
        part, start = self.scripts.partition(job_id), "-"
        while rows := await self.client.xrange(part.dead, min=start, count=1000):
            mine = [entry for entry, fields in rows if fields.get(b"job") == job_id.encode()]
            if mine:
                await self.client.xdel(part.dead, *mine)
            start = f"({rows[-1][0].decode()}"

    def _letter(self, letter_id: str) -> tuple[Partition, str]:
        """Partition and entry. Raises ValueError."""
        found = _LETTER.fullmatch(letter_id)
        if found is None:
            raise ValueError(letter_id)
        number, ms, nth = (int(digits) for digits in found.groups())
        if number >= len(self.scripts.partitions) or max(ms, nth) >= 2**64 or ms == nth == 0:  # no entry has these
            raise ValueError(letter_id)
        return self.scripts.partitions[number], f"{ms}-{nth}"


def plan_batches(
    part: Partition,
    topology: Topology,
    routes: dict[str, Placement],
    ready: list[str],
    *,
    priority: str,
    inline_limit: int,
    graph_size: int,
    delay_ms: int = 0,
    reason: str = "-",
    front: bool = False,
    declined: bool = False,
) -> list[EntrySpec]:
    """The entries that carry `ready` to their places. The graph is inside while graph × entries stays below the limit.

    `front`: on the most urgent stream, where they keep their priority. `declined`: a worker could not run them, so nobody makes room for them.
    """
    stands = PRIORITIES[0] if front else priority
    groups = graphs.group(topology, ready, routes)
    inline = graph_size * len(groups) <= inline_limit
    batches = []
    for group in groups:
        needs: dict[str, None] = {}
        for node in group.nodes:
            needs.update(dict.fromkeys(topology.sources(node)))
        batches.append(
            EntrySpec(
                stream=part.stream(group.plane, group.pool, stands),
                place=f"{group.plane}/{group.pool}",
                nodes=group.nodes,
                needs=list(needs),
                inline=inline,
                nonce=f"{random.getrandbits(128):032x}",  # tells entries apart, no secret
                delay_ms=delay_ms,
                reason=reason,
                heavy=not routes[group.nodes[0]].light,
                priority=priority if front else "",
                declined=declined,
            )
        )
    return batches


def _entry_order(entry: bytes) -> tuple[int, int]:
    ms, _, nth = entry.partition(b"-")
    return int(ms), int(nth)


def _dead_letter(part: Partition, entry: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    text = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
    return DeadLetter(
        id=f"{part.number}-{entry.decode()}",
        job_id=text.get("job", ""),
        node_id=text.get("node", ""),
        attempt=int(text.get("attempt", "0")),
        reason=text.get("reason", ""),
        detail=text.get("detail", ""),
        created=rfc3339(int(text.get("created", "0"))),
    )


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
