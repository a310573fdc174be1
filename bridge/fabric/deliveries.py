"""Deliveries: entries taken from the streams of one place, each with the claim that fences it.

A claim is `consumer nonce` in the job's field `c:<entry>`; every report names it, so a worker that was presumed dead cannot
write over its successor.

New entries are read and claimed by one script. When there is nothing, a blocking read on a connection of its own
waits, and what it brings is handed to the same script. After a lost answer the consumer first looks what it has pending: what
it does not hold is its own lost take.

Large because which streams are read when, by a take and by a wait, is one argument.
"""

import asyncio
import logging
import time
import uuid
from collections import Counter, OrderedDict
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from typing import Any

import msgspec
import redis

from dihedral.bridge import metrics
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import connect, is_cluster
from dihedral.bridge.fabric.items import Release, Renewal
from dihedral.bridge.fabric.jobs import Jobs, decode_graph, decode_routes
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.lifecycle import NODE_ENDED, check_delivery
from dihedral.bridge.fabric.scripts import Claim, NodeRecord, Report, parse_record
from dihedral.bridge.fabric.steps import EntrySpec, Step
from dihedral.bridge.graphs import Plan, Topology
from dihedral.bridge.pools import PRIORITIES

log = logging.getLogger(__name__)

BLOCK_MS = 2000
TAKE_COUNT = 128
LOWER_COUNT = 16
"""The entries of a take that looks at low and normal first: light nodes are not preempted, so these hold no more of the worker than that."""
LANES_SECONDS = 0.01
"""The time between two reads of the lanes by a worker that is busy with other nodes; one that waits is woken by their entries."""
URGENT_FIRST = (0, 1, 2)
"""Places in PRIORITIES."""
LOWER_FIRST = ((2, 1, 0), (1, 2, 0))
WORDS = ("ok", "gone", "stale", "malformed", "vanished", "not_yours")


class Delivery:
    """One claimed entry, the known state of its job, and the nodes that it runs.

    `records` holds the node records seen so far, `states` the status and reason of every node known to have ended here or
    elsewhere. `open` are the nodes started and not yet ended under this claim, with the `suspects` that are still to be started. `kept` are
    steps that go out with the next report.
    """

    state = "held"
    event_number = 0
    posted = False
    """Whether its last report is on its way, and no task waits for the answer."""
    handling: asyncio.Task[None] | None = None

    def __init__(self, part: Partition, claim: Claim, consumer: str, plan: Plan) -> None:
        self.part = part
        self.claim = claim
        self.job_id = claim.job_id
        self.stream = claim.stream
        self.entry = claim.entry
        self.consumer = consumer
        self.token = f"{consumer} {claim.nonce}"
        self.held_at = claim.held_at
        self.priority = claim.priority if claim.priority in PRIORITIES else _priority_of(claim.stream, part.suffix)
        """Of what its nodes make ready; a change after the submission changes it."""
        self.plan = plan
        self.topology = plan.topology
        self.routes = plan.routes
        self.records: dict[str, NodeRecord] = {}
        self.states: dict[str, tuple[str, str]] = {}
        self.attempts: dict[str, int] = {}
        self.redeliveries: dict[str, int] = {}
        self.open: set[str] = set()
        self.kept: list[Step] = []
        for node, raw in claim.records:
            self.learn(node, raw)
        self.certain = True  # no owner was lost with one of its nodes
        for node, attempt, deliveries in (*claim.started, *claim.quarantined):
            self.begin(node, attempt, deliveries)
            self.certain = self.certain and not deliveries
        self.quarantined = {node for node, _, _ in claim.quarantined}

    def move(self, to: str) -> None:
        """Moves to a state. Raises IllegalTransition where lifecycle.DELIVERY_MOVES has no such move."""
        check_delivery(self.state, to)
        self.state = to

    @property
    def lost(self) -> bool:
        return self.state == "lost"

    @property
    def ending(self) -> bool:
        return self.state == "ending"

    @property
    def releasing(self) -> bool:
        return self.state == "releasing"

    @property
    def unwritten(self) -> bool:
        """Returns whether a report carries something of it that no other will."""
        return self.state == "held" and bool(self.held_at or self.kept)

    @property
    def key(self) -> tuple[str, str]:
        return self.stream, self.entry

    @property
    def heavy(self) -> bool:
        """Returns whether its nodes take slots."""
        named = next(iter(self.open or self.claim.waiting), None)
        return named is not None and not self.routes[named].light

    def learn(self, node: str, raw: str) -> None:
        """Stores a record as Redis has it; an empty text is a pending node, which has no record."""
        if not raw:
            return
        record = parse_record(raw)
        self.records[node] = record
        if record.status in NODE_ENDED:
            self.states[node] = (record.status, record.reason)

    def begin(self, node: str, attempt: int, redeliveries: int) -> None:
        self.attempts[node] = attempt
        self.redeliveries[node] = redeliveries
        self.open.add(node)

    def withdraw(self, node: str) -> None:
        """Undoes begin(): the node was not started."""
        self.open.discard(node)
        del self.attempts[node], self.redeliveries[node]

    def report(self, steps: list[Step], reads: Iterable[str] = (), *, ack: bool = False) -> Report:
        if ack and not self.lost:
            self.move("ending")
        begun = None
        if self.held_at:
            nodes = ",".join([node for node, _, _ in self.claim.started])
            begun, self.held_at = (nodes, self.consumer, self.held_at), ""
        if self.kept:
            steps, self.kept = [*self.kept, *steps], []
        return Report(self.job_id, self.stream, self.entry, self.token, steps, list(reads), ack, begun)

    def release(self, entries: list[EntrySpec]) -> Release:
        """Makes the item that gives up the claim; `entries` carry its nodes back."""
        known = sorted({*self.attempts, *self.claim.waiting})
        return Release(self.job_id, self.stream, self.entry, self.token, entries, known)

    def outputs(self, node_id: str) -> dict[str, Any]:
        """Returns the outputs that make the input of a node: those of its completed sources."""
        found = {}
        for node in self.topology.sources(node_id):
            record = self.records.get(node)
            if record is not None and record.status == "completed":
                found[node] = msgspec.json.decode(record.payload).get("output") if record.payload else None
        return found


@cache
def _priority_of(stream: str, suffix: str) -> str:
    """Returns the priority of what is on a stream."""
    name = stream.removesuffix(suffix)
    return next((word for word in ("high", "low") if name.endswith(f":{word}")), "normal")


class Plans:
    """A cache of the latest 64 decoded plans by their texts, but for the job's id: jobs of one pipeline often share their graph."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str], Plan] = OrderedDict()
        self._last: tuple[str, Plan] | None = None

    def get(self, graph: str, routes: str, job_id: str) -> Plan:
        if self._last is not None and self._last[0] is graph:  # the entries of one job in an answer share its text
            return self._last[1]
        own = f'{{"schema":"langgraph.v1","workflowId":"{job_id}"'
        key = (graph[len(own) :] if graph.startswith(own) else graph), routes
        found = self._kept.get(key)
        if found is None:
            found = Plan(Topology(decode_graph(graph)), decode_routes(routes or "{}"), len(graph))
            self._kept[key] = found
            if len(self._kept) > 64:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end(key)
        self._last = graph, found
        return found


class Consumer:
    """Takes deliveries of one place for one consumer. `held` are the (stream, entry) pairs that the consumer works on.

    `lanes`: the lanes of the place that it serves beside the one of all nodes. `has_device`: whether every lane is open to it; otherwise the
    lane of nodes that prefer a device is closed while a worker of the pool that has one lives, as take.lua decides and answers.
    """

    def __init__(
        self,
        jobs: Jobs,
        url: str,
        consumer: str,
        plane: str,
        pool: str,
        held: Container[tuple[str, str]],
        *,
        lanes: Sequence[str] = (),
        has_device: bool = False,
    ) -> None:
        self.consumer = consumer
        self._client = jobs.client
        self._scripts = jobs.scripts
        self._blocking = connect(url, timeout_seconds=BLOCK_MS / 1000 + 5)
        self._clustered = is_cluster(url)
        self._looks: dict[int, asyncio.Task[Any]] = {}
        parts = self._scripts.partitions
        self._streams = {part.number: part.streams(plane, pool) for part in parts}
        self._lanes = {part.number: [part.streams(plane, pool, lane) for lane in lanes] for part in parts}
        self._devices = {part.number: "" if has_device else part.devices(pool) for part in parts}
        self._parts = {
            stream: part for part in parts for lane in ("", *lanes) for stream in part.streams(plane, pool, lane)
        }
        self._every = [stream for part in parts for stream in part.every_stream(plane, pool)]
        self._closed = False
        self._lanes_asked = (0, 0.0)  # for how many slots, and when
        self._held = held
        self._lease = jobs.settings.jobs.lease_ms / 1000
        self._plans = Plans()
        self._turns = [0, 0]
        self._owed: Partition | None = None
        self._tails: dict[str, Any] = {}
        self._news: asyncio.Task[Any] | None = None
        self._waited = metrics.observer_of_many(metrics.queue_wait_seconds.labels(plane, pool))
        self._words = {word: metrics.deliveries_total.labels(plane, pool, word) for word in WORDS}

    async def aclose(self) -> None:
        await self._end_looks()
        if self._news is not None:
            self._news.cancel()
            await asyncio.gather(self._news, return_exceptions=True)
        await self._blocking.aclose()

    async def make_groups(self) -> None:
        """Creates the missing streams and groups, also of lanes that it does not serve (autoscalers ask for them), from `0`, so that entries older than the group are delivered too."""
        for stream in self._every:
            try:
                await self._client.xgroup_create(stream, keys.GROUP, id="0", mkstream=True)
            except redis.exceptions.OutOfMemoryError:
                return  # take.lua makes the group, and the memory limit does not refuse that
            except redis.ResponseError as error:
                if "BUSYGROUP" not in str(error):
                    raise

    async def take(self, light: int, heavy: int) -> tuple[int, list[Delivery]]:
        """Reads without waiting, no more than `light` and `heavy` nodes can start; returns (entries seen, deliveries).

        The urgent streams come first, of all partitions, but in one turn of ten low and normal, each in front every other time, so
        that nothing starves. A turn is a take that found something: were empty ones counted, the rhythm of a worker (two takes a
        node) could leave a priority or a partition out for ever. After `prefer_partition` the urgent come first, and that partition.
        """
        owed, self._owed = self._owed, None
        urgent, lower = self._turns
        with_lanes = self._asks_lanes(heavy)
        is_lower = owed is None and (urgent + lower) % 10 == 9
        if is_lower:
            first, levels = lower // 2, LOWER_FIRST[lower % 2]
        else:
            first, levels = urgent if owed is None else owed.number, URGENT_FIRST
        seen = 0
        deliveries: list[Delivery] = []
        for part, streams in self._asks(first, levels, with_lanes, lanes_first=(urgent + lower) % 2 == 0):
            if light <= 0 and heavy <= 0:
                break
            most = LOWER_COUNT if is_lower else TAKE_COUNT
            claims = await self._claim(part, light, heavy, most=most, streams=streams, with_lanes=with_lanes)
            seen += len(claims)
            fresh = self._deliveries(part, claims)
            deliveries += fresh
            for delivery in fresh:
                started = len(delivery.open)
                if delivery.heavy:
                    heavy -= started
                else:
                    light -= started
        if seen and owed is None:
            self._turns[is_lower] += 1
        if seen:
            self._tails = {}
        return seen, deliveries

    @property
    def idle_cost(self) -> float:
        """The number of Redis calls that a take without a result costs; up to four are cheap."""
        calls = 1 if len(self._streams) == 1 else len(PRIORITIES) * len(self._streams)
        return max(1.0, calls / 4)

    def prefer_partition(self, part: Partition) -> None:
        """Lets the next take read this partition first: a node was preempted there for one of its entries."""
        self._owed = part

    def _asks_lanes(self, heavy: int) -> bool:
        """Returns whether this take reads the lanes too: only their nodes pay for them, since light nodes are taken far more often than these."""
        if heavy <= 0 or not self._lanes[0]:
            return False
        slots, asked = self._lanes_asked
        now = time.monotonic()
        if heavy == slots and now - asked < LANES_SECONDS:
            return False
        self._lanes_asked = heavy, now
        return True

    def _asks(
        self, first: int, levels: Sequence[int], with_lanes: bool, lanes_first: bool
    ) -> Iterator[tuple[Partition, list[str]]]:
        """Yields the streams to read, call by call, the partitions in turn; with one partition a single call reads all streams.

        Of one priority the lanes come first every other time, so that neither they nor what all workers may run starves.
        """
        parts = self._scripts.partitions

        def streams(number: int, level: int) -> list[str]:
            own = [self._streams[number][level]]
            lanes = [lane[level] for lane in self._lanes[number]] if with_lanes else []
            return lanes + own if lanes_first else own + lanes

        if len(parts) == 1:
            yield parts[0], [stream for level in levels for stream in streams(0, level)]
            return
        for level in levels:
            for number in range(first, first + len(parts)):
                part = parts[number % len(parts)]
                yield part, streams(part.number, level)

    async def wait(self, free: Callable[[], tuple[int, int]]) -> list[Delivery]:
        """Blocks until an entry comes, for at most BLOCK_MS. `free()` returns (light, heavy) at that time."""
        if self._clustered:
            await self._look()
            return []
        try:
            streams = [stream for stream in self._parts if self._is_open(stream)]
            reply = await self._blocking.xreadgroup(
                keys.GROUP, self.consumer, dict.fromkeys(streams, ">"), count=1, block=BLOCK_MS
            )
        except redis.ResponseError as error:
            if "NOGROUP" not in str(error):
                raise
            await self.make_groups()
            return []
        deliveries: list[Delivery] = []
        for raw, entries in _rows(reply):
            stream = raw.decode()
            deliveries += await self.claim_own(stream, [entry.decode() for entry, _ in entries], free())
        return deliveries

    @property
    def is_told(self) -> bool:
        """Returns whether a wait without an entry means that a take would find none; a closed lane opens without an entry."""
        return not self._clustered and not self._closed

    async def wait_for_news(self, changed: asyncio.Event) -> None:
        """Waits until a stream gets an entry, or for `changed`. Claims nothing: what comes may not start here, and is left to others.

        The first wait after a take that found something only notes where the streams end; the take that follows it sees all before.
        """
        if self._clustered:
            with suppress(TimeoutError):
                async with asyncio.timeout(0.1 * self.idle_cost):
                    await changed.wait()
            return
        if not self._tails:
            self._lanes_asked = 0, 0.0  # so that the next take reads the lanes too
            pipe = self._client.pipeline(transaction=False)
            for stream in self._parts:
                pipe.xrevrange(stream, count=1)
            rows = await pipe.execute()
            self._tails = {stream: row[0][0] if row else "0-0" for stream, row in zip(self._parts, rows, strict=True)}
            return
        change = asyncio.create_task(changed.wait())
        try:
            while not change.done():
                if self._news is None:
                    self._news = asyncio.create_task(self._blocking.xread(self._tails, count=1, block=BLOCK_MS))
                await asyncio.wait({self._news, change}, return_when=asyncio.FIRST_COMPLETED)
                if self._news.done():
                    news, self._news = self._news, None
                    if news.result():
                        self._tails = {}
                    if not self._tails or not self.is_told:
                        return
        finally:
            change.cancel()

    async def _look(self) -> None:
        """Waits until a stream has an entry that no worker has been given; the next take is for it.

        One command cannot wait on several slots, so each partition has a read of its own. It is one without the group, which
        claims nothing, so its answer may stay unread while this worker is busy.
        """
        for part in self._scripts.partitions:
            if part.number not in self._looks:
                self._looks[part.number] = asyncio.create_task(self._something_new(part))
        done, _ = await asyncio.wait(self._looks.values(), return_when=asyncio.FIRST_COMPLETED)
        self._looks = {number: look for number, look in self._looks.items() if look not in done}
        failures = [failure for look in done if (failure := look.exception()) is not None]
        if failures:
            await self._end_looks()
            raise failures[0]

    async def _something_new(self, part: Partition) -> None:
        streams = [stream for stream, its in self._parts.items() if its is part and self._is_open(stream)]
        delivered = await self._blocking.mget([f"{stream}:delivered" for stream in streams])
        behind = {stream: last or "0-0" for stream, last in zip(streams, delivered, strict=True)}
        await self._blocking.xread(behind, count=1, block=BLOCK_MS)

    async def _end_looks(self) -> None:
        looks, self._looks = list(self._looks.values()), {}
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)

    def _is_open(self, stream: str) -> bool:
        """Returns whether a read may wait for the stream; a closed lane may be full, so that it would never wait."""
        return not self._closed or keys.lane_of(stream) != keys.PREFERS_DEVICE

    @property
    def open_lanes(self) -> list[str]:
        """The lanes, that of all nodes included, whose entries this consumer would start now."""
        served = {keys.lane_of(stream): None for stream in self._parts if self._is_open(stream)}
        return list(served)

    async def recover(self, light: int, heavy: int) -> list[Delivery]:
        """Returns entries that are pending for this consumer but not held by it: takes whose answer was lost."""
        await self.make_groups()
        deliveries: list[Delivery] = []
        for stream in self._parts:
            start = "-"
            while True:
                page = await self._client.xpending_range(
                    stream, keys.GROUP, min=start, max="+", count=200, consumername=self.consumer
                )
                entries = [row["message_id"].decode() for row in page]
                lost = [entry for entry in entries if (stream, entry) not in self._held]
                if lost:
                    deliveries += await self.claim_own(stream, lost, (light, heavy))
                if len(page) < 200:
                    break
                start = f"({entries[-1]}"
        return deliveries

    async def claim_own(self, stream: str, entries: list[str], free: tuple[int, int]) -> list[Delivery]:
        part = self._parts[stream]
        claims = await self._claim(
            part, *free, handed=[(stream, entry) for entry in entries], with_lanes=bool(keys.lane_of(stream))
        )
        return self._deliveries(part, claims)

    async def forget_consumer(self) -> None:
        """Removes the consumer from the groups where it holds nothing."""
        for stream, part in self._parts.items():
            await self._scripts.drop_consumer(part, stream, self.consumer)

    async def _claim(
        self,
        part: Partition,
        light: int,
        heavy: int,
        *,
        most: int = TAKE_COUNT,
        streams: list[str] | None = None,
        handed: list[tuple[str, str]] | None = None,
        with_lanes: bool = False,
    ) -> list[Claim]:
        light, heavy = max(0, light), max(0, heavy)
        asked = time.monotonic()
        devices = self._devices[part.number] if with_lanes else ""
        claims = await self._scripts.take(
            part, self.consumer, uuid.uuid4().hex, count=min(most, light + heavy), light=light, heavy=heavy,
            streams=streams or [], handed=handed or [], devices=devices, holding=True,
        )  # fmt: skip
        if devices:
            self._closed = bool(claims) and claims[-1].word == "closed"
            if self._closed:
                claims.pop()
        return claims if time.monotonic() - asked < self._lease / 2 else await self._still_ours(part, claims)

    async def _still_ours(self, part: Partition, claims: list[Claim]) -> list[Claim]:
        """Leaves out deliveries that were taken over while the answer waited to be read: until then no thread renewed their leases."""
        ours = [claim for claim in claims if claim.word == "ok"]
        words = await self._scripts.renew(
            part, [Renewal(c.job_id, c.stream, c.entry, f"{self.consumer} {c.nonce}", self.consumer) for c in ours]
        )
        return [claim for claim, word in zip(ours, words, strict=True) if word != "lost"]

    def _deliveries(self, part: Partition, claims: list[Claim]) -> list[Delivery]:
        deliveries = []
        now_ms = time.time() * 1000
        waits: list[float] = []
        for word, number in Counter(claim.word for claim in claims).items():
            self._words[word].inc(number)
        for claim in claims:
            if claim.word == "ok":
                waits.append(max(0.0, now_ms - int(claim.created_ms)) / 1000)
                delivery = Delivery(
                    part, claim, self.consumer, self._plans.get(claim.graph, claim.routes, claim.job_id)
                )
                deliveries.append(delivery)
                if delivery.heavy:
                    self._lanes_asked = (0, 0.0)  # the slot that it frees is for all lanes
            elif claim.word == "malformed":
                log.warning("an entry of %s could not be read; it is among the dead letters", claim.stream)
        self._waited(waits)
        return deliveries


def _rows(reply: Any) -> list[tuple[bytes, list[tuple[bytes, Any]]]]:
    """Returns XREADGROUP's answer in one shape: RESP3 nests the entries one level deeper than RESP2."""
    if not reply:
        return []
    pairs = reply.items() if isinstance(reply, dict) else reply
    return [(stream, entries[0] if entries and isinstance(entries[0], list) else entries) for stream, entries in pairs]
