"""The one typed face of the Lua: every change of a job's state goes through a method here.

A script takes many items and answers a word for each; items of one call share a partition. Nothing here validates what it is
given (control_plane/job_queue.py does, before), and nothing is retried here but a function that the server does not know
(bridge/fabric/functions.py). User JSON is opaque text on both sides.
"""

import asyncio
import enum
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import redis.asyncio
from redis.exceptions import ClusterDownError, OutOfMemoryError, ReadOnlyError, ResponseError, TryAgainError

from dihedral.bridge.errors import ServerUnavailable
from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, UNKNOWN_FUNCTION, Client
from dihedral.bridge.fabric.items import Cancel, Change, JobRead, Release, Renewal, Retry, Submission, Take, Takeover
from dihedral.bridge.fabric.keys import GROUP, PROTOCOL, Partition, partition_number, partitions
from dihedral.bridge.fabric.steps import Step
from dihedral.bridge.metrics import redis_script_seconds

MAX_CALL_BYTES = 1 << 20
MAX_CALL_ITEMS = 900
MAX_CALL_STEPS = 2000  # about 20 ms of a server that serves others in between

_array = msgspec.msgpack.Encoder().encode


def encode_item(item: Any) -> bytes:
    """Packs the values of an item (less than 65,536), one after the other, without the one or three bytes of an array header."""
    array = _array(item)
    return array[3:] if array[0] == 0xDC else array[1:]


class Claim(msgspec.Struct, frozen=True):
    """The answer of take and reclaim for an entry; only `word` = ok carries more than stream and entry.

    `started`: (node, attempt, deliveries lost with it running); `suspects` has the same form, for nodes still to be started, each alone;
    `priority`: the entry's priority where it differs from its stream's, else empty; `records`: (node, raw record); `held_at`: the server's
    time where nothing has been written yet, and the first report begins the nodes, else empty.
    """

    word: str
    stream: str
    entry: str
    job_id: str = ""
    nonce: str = ""
    started: list[tuple[str, int, int]] = []
    waiting: list[str] = []
    quarantined: list[tuple[str, int, int]] = []
    graph: str = ""
    routes: str = ""
    traceparent: str = ""
    created_ms: str = "0"
    priority: str = ""
    records: list[tuple[str, str]] = []
    held_at: str = ""


def _claim(row: list[bytes], nonce: str = "", sent: dict[str, tuple[str, str]] | None = None) -> Claim:
    """Reads an answer of take or reclaim. `sent`: graph and routes of the jobs before it; a held entry of one of them comes without."""
    words = [word.decode() for word in row]
    if len(words) == 3:
        return Claim(words[0], words[1], words[2])
    if words[0] == "held":
        _, stream, entry, job_id, nodes, attempts, now, created, graph, routes, traceparent = words
        if sent is not None:
            graph, routes = sent.setdefault(job_id, (graph, routes))
        began = [(node, int(attempt), 0) for node, attempt in zip(nodes.split(","), attempts.split(","), strict=True)]
        return Claim(
            "ok", stream, entry, job_id, nonce, began, [], [], graph, routes, traceparent, created, "", [], now
        )
    (
        word,
        stream,
        entry,
        job_id,
        nonce,
        started,
        waiting,
        quarantined,
        graph,
        routes,
        traceparent,
        created,
        priority,
        *records,
    ) = words
    return Claim(
        word, stream, entry, job_id, nonce, _begun(started), waiting.split(",") if waiting else [], _begun(quarantined), graph, routes,
        traceparent, created, priority, _pairs(records),
    )  # fmt: skip


def _begun(text: str) -> list[tuple[str, int, int]]:
    if not text:
        return []
    rows = [each.split(" ") for each in text.split(",")]
    return [(node, int(attempt), int(deliveries)) for node, attempt, deliveries in rows]


def _pairs(words: list[str]) -> list[tuple[str, str]]:
    return list(zip(words[::2], words[1::2], strict=True)) if words else []


class Report(msgspec.Struct, array_like=True, frozen=True):
    """One item of report.lua; `entry` and `claim` are empty when it has no owner (the scheduler's repair).

    `begun`: nodes (joined by commas), worker and time with which a held entry begins, in its first report.
    """

    job_id: str
    stream: str
    entry: str
    claim: str
    steps: list[Step]
    reads: list[str]
    ack: bool
    begun: tuple[str, str, str] | None = None


class Reply(msgspec.Struct, frozen=True):
    """The answer of report for an item: its word, a word for each step, and the requested records."""

    word: str
    words: list[str] = []
    records: list[tuple[str, str]] = []


def _reply(row: bytes | list[bytes]) -> Reply:
    if isinstance(row, bytes):
        word, _, *words = row.decode().split(" ")  # the second word is the job's status
        return Reply(word, words)
    text, *records = [each.decode() for each in row]
    word, _, *words = text.split(" ")
    return Reply(word, words, _pairs(records))


class NodeRecord(msgspec.Struct, frozen=True):
    """A node's line in the job hash. `reason` is why it was skipped or is delayed; times are server epoch ms; `share` is of 10⁹."""

    status: str
    entry: str
    attempt: int
    deliveries: int
    started_ms: int | None
    ended_ms: int | None
    reason: str
    place: str
    share: int
    payload: str


def parse_record(raw: str) -> NodeRecord:
    header, _, payload = raw.partition("\n")
    status, entry, attempt, deliveries, started, ended, reason, place, share = header.split(" ")
    return NodeRecord(
        status,
        entry,
        int(attempt),
        int(deliveries),
        None if started == "-" else int(started),
        None if ended == "-" else int(ended),
        "" if reason == "-" else reason,
        "" if place == "-" else place,
        int(share),
        payload,
    )


STATE = (
    "status", "seq", "trimmed", "remaining", "running", "broken", "progress", "attempt", "started", "finished", "created",
    "updated", "outputs", "logged",
)  # fmt: skip


def parse_state(raw: str) -> dict[str, str]:
    """Returns the words of a job's `state` by name, without times that have not come yet."""
    return {name: word for name, word in zip(STATE, raw.split(" "), strict=False) if word != "-"}


class Depth(enum.IntEnum):
    """The depth of a read of a job (read.lua): each depth includes the one before it."""

    document = 0
    """The data of a list: fields and artifacts, never an output; records only while the job is alive."""
    records = 1
    graph = 2
    outputs = 3


PENDING = NodeRecord("pending", "", 1, 0, None, None, "", "", 0, "")

_heads = msgspec.msgpack.Decoder(list[list[str]])
_reads = msgspec.msgpack.Decoder(list[list[list[str]]])


class Scripts:
    """The scripts of every partition over one client.

    Raises (all methods): redis.ConnectionError and friends when the answer is unknown; redis.ResponseError with OOM when
    `submit` meets the memory limit.
    """

    def __init__(
        self,
        client: Client,
        *,
        partition_count: int = 1,
        ttl_seconds: int = 43200,
        log_length: int = 10000,
        log_bytes: int = 4 << 20,
        output_bytes: int = 16 << 20,
    ) -> None:
        self.client = client
        self.partitions = partitions(partition_count)
        self._seconds = {name: redis_script_seconds.labels(name) for name in functions.NAMES}
        self._headers = [
            _array(
                [part.tag, part.suffix, str(ttl_seconds * 1000), log_length, GROUP, PROTOCOL, log_bytes, output_bytes]
            )
            for part in self.partitions
        ]

    def partition(self, job_id: str) -> Partition:
        return self.partitions[partition_number(job_id, len(self.partitions))]

    async def submit(self, part: Partition, items: Sequence[Submission]) -> tuple[list[str], int]:
        """Submits jobs; returns a word per item, and the server's time in ms at which they were created."""
        return await self.submit_encoded(part, [encode_item(item.values()) for item in items])

    async def submit_encoded(self, part: Partition, items: Sequence[bytes]) -> tuple[list[str], int]:
        *words, now = await self.call_encoded("submit", part, items)
        return [word.decode() for word in words], int(now)

    async def take(
        self,
        part: Partition,
        consumer: str,
        nonce: str,
        *,
        count: int,
        light: int,
        heavy: int,
        streams: Sequence[str],
        handed: Sequence[tuple[str, str]] = (),
        devices: str = "",
        holding: bool = False,
    ) -> list[Claim]:
        """Claims entries. `devices`: the key of take.lua, for a caller without a device that asks for the lane of nodes that prefer one.

        `holding`: without writing, where it may; see take.lua.
        """
        item = Take(consumer, nonce, count, light, heavy, list(streams), list(handed), devices, holding)
        rows = (await self.call("take", part, [item]))[0]
        sent: dict[str, tuple[str, str]] = {}
        return [_claim(row, f"{nonce}.h{number}", sent) for number, row in enumerate(rows)]

    async def report(self, part: Partition, items: Sequence[Report]) -> list[Reply]:
        return [_reply(row) for row in await self.call("report", part, items)]

    async def renew(self, part: Partition, items: Sequence[Renewal]) -> list[str]:
        return await self._words("renew", part, items)

    async def reclaim(self, part: Partition, items: Sequence[Takeover]) -> list[Claim]:
        return [_claim(row) for row in await self.call("reclaim", part, items)]

    async def release(self, part: Partition, items: Sequence[Release]) -> list[str]:
        return await self._words("release", part, items)

    async def cancel(self, part: Partition, job_id: str, nodes: list[str]) -> str:
        return (await self._words("cancel", part, [Cancel(job_id, nodes)]))[0]

    async def retry(self, part: Partition, item: Retry) -> str:
        return (await self._words("retry", part, [item]))[0]

    async def change(self, part: Partition, items: Sequence[Change]) -> list[str]:
        return await self._words("change", part, items)

    async def delete(self, part: Partition, job_id: str) -> str:
        return (await self._words("delete", part, [[job_id]]))[0]

    async def upgrade(self, part: Partition) -> int:
        """Moves a partition's jobs from the previous layout to this one; returns how many."""
        moved = 0
        job_ids = [each.decode() for each in await self.client.zrange(part.index, 0, -1)]
        for start in range(0, len(job_ids), 100):
            words = await self._words("upgrade", part, [[job_id] for job_id in job_ids[start : start + 100]])
            moved += words.count("ok")
        return moved

    async def due(self, part: Partition, limit: int = 100) -> tuple[int, int, int]:
        """Moves the due entries to their streams; returns (moved, dropped, ms until the next or -1)."""
        moved, dropped, wait = (await self.call("due", part, [[limit]]))[0]
        return int(moved), int(dropped), int(wait)

    async def room(self, part: Partition, streams: Sequence[str], rank: int, patience_ms: int) -> bool:
        """Returns whether the caller must preempt a node for an entry that has waited `patience_ms` for a slot. `rank`: the caller's place in PRIORITIES."""
        found = await self.call("room", part, [[list(streams), rank, patience_ms]])
        return bool(found[0])

    async def drop_consumer(self, part: Partition, stream: str, consumer: str) -> str:
        return (await self._words("drop_consumer", part, [[stream, consumer]]))[0]

    async def read(self, part: Partition, items: Sequence[JobRead]) -> list[list[list[str]]]:
        """Reads jobs. Returns per item [] for an unknown job, else [flat fields, events]."""
        return _reads.decode(await self.call("read", part, items))

    async def heads(self, part: Partition, job_ids: Sequence[str]) -> list[list[str]]:
        """Returns per job [] for an unknown one, else [owner, pipeline, about]."""
        return _heads.decode(await self.call("heads", part, [[job_id] for job_id in job_ids]))

    async def _words(self, name: str, part: Partition, items: Sequence[Any]) -> list[str]:
        return [word.decode() for word in await self.call(name, part, items)]

    async def call(self, name: str, part: Partition, items: Sequence[Any]) -> Any:
        return await self.call_encoded(name, part, [encode_item(item) for item in items])

    async def call_encoded(self, name: str, part: Partition, items: Sequence[bytes]) -> Any:
        begun = time.perf_counter()
        try:
            return await functions.call(self.client, name, part.index, self._headers[part.number], *items)
        finally:
            self._seconds[name].observe(time.perf_counter() - begun)

    def call_blocking(self, client: Any, name: str, part: Partition, items: Sequence[Any]) -> Any:
        """Renews with the caller's own client (the renewal thread's)."""
        encoded = [encode_item(item) for item in items]
        return functions.call_blocking(client, name, part.index, self._headers[part.number], *encoded)


class Writer:
    """The one writer of a partition: reports of a tick go out in one call, the next call follows its answer.

    Concurrent batches overtake each other, so a process has one of these per partition. A call whose answer was lost is sent
    again until it is answered: steps are idempotent (`already`), and the claim fences a report that came too late.
    """

    def __init__(self, scripts: Scripts, part: Partition) -> None:
        self._scripts = scripts
        self._part = part
        self._queue: list[tuple[bytes, int, Callable[[Reply], None]]] = []
        self._wake = asyncio.Event()

    def put(self, report: Report) -> "asyncio.Future[Reply]":
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.post(report, lambda reply: None if future.done() else future.set_result(reply))
        return future

    def post(self, report: Report, on_reply: Callable[[Reply], None]) -> None:
        """Writes a report for whose answer no task waits."""
        self._queue.append((encode_item(report), len(report.steps), on_reply))
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            while self._queue:
                batch = self._cut()
                replies = await self._send([item for item, _, _ in batch])
                for (_, _, on_reply), reply in zip(batch, replies, strict=True):
                    on_reply(reply)
            self._wake.clear()

    def _cut(self) -> list[tuple[bytes, int, Callable[[Reply], None]]]:
        """Returns the reports of the next call: one, or as many as stay within the limits together."""
        size = count = steps = 0
        for item, has, _ in self._queue:
            size += len(item)
            steps += has
            if count and (size > MAX_CALL_BYTES or steps > MAX_CALL_STEPS or count >= MAX_CALL_ITEMS):
                break
            count += 1
        batch, self._queue = self._queue[:count], self._queue[count:]
        return batch

    async def _send(self, items: list[bytes]) -> list[Reply]:
        delay = 0.05
        while True:
            try:
                return [_reply(row) for row in await self._scripts.call_encoded("report", self._part, items)]
            except (*CONNECTION_ERRORS, redis.exceptions.ResponseError) as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(delay)
                delay = min(delay * 2, 2.0)


_PASSING = re.compile(rf"""(?:^|caused error: [('"]*)(?:BUSY|MISCONF|NOREPLICAS|{UNKNOWN_FUNCTION})\b""")
"""Returns the error's first word. redis-py has types for other words and removes them from the text; a pipeline puts its command first."""


def is_transient(error: Exception) -> bool:
    """Returns whether the error is transient: server away, full or failing over, a script or disk that blocks it, a library not yet loaded."""
    if isinstance(error, (*CONNECTION_ERRORS, ServerUnavailable)):
        return True
    if isinstance(error, (OutOfMemoryError, ReadOnlyError, ClusterDownError, TryAgainError)):
        return True
    return isinstance(error, ResponseError) and _PASSING.search(str(error)) is not None
