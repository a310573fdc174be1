"""Leases: how an owner keeps its deliveries, how others find that it is dead, and what happens to what it left.

Lease by two looks. An idle time is server wall time: after a suspend or a clock step every running job looks abandoned. So
a reclaimer notes (entry, consumer, stamp = TIME - idle), and takes it only when a later look, at least one lease of its own
monotonic clock afterwards, finds all three unchanged on an unbroken connection whose answers came quickly; a live owner has
renewed by then, which moves the stamp.
"""

import asyncio
import json
import logging
import socket
import threading
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Any

import msgspec
import redis

from dihedral.bridge import graphs
from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, connect, connect_blocking
from dihedral.bridge.fabric.deliveries import Delivery, Plans
from dihedral.bridge.fabric.dispatch import TO_THE_FRONT, Manner, plan_batches
from dihedral.bridge.fabric.items import Renewal, Takeover
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.keys import GROUP, Partition
from dihedral.bridge.fabric.scripts import PENDING, Claim, Reply, Report, Writer, is_transient
from dihedral.bridge.fabric.steps import Dispatch, EndGivenUp, Skip, Step
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)

FIRST_PAUSE_MS, LONGEST_PAUSE_MS = 10_000, 3_600_000

Write = Callable[[Partition, Report], Awaitable[Reply]]


class Renewer(threading.Thread):
    """Renews every held entry each third of a lease, from its own thread and connection: no task can starve it.

    `held()` is called in this thread and answers (partition, job, stream, entry, claim token); `notify(key, word)` receives `lost`,
    `cancelling` and `ok PRIORITY`, in this thread too. No exception ends the thread before stop(): without it every lease here would end in silence.
    """

    def __init__(
        self,
        jobs: Jobs,
        url: str,
        consumer: str,
        held: Callable[[], list[tuple[Partition, str, str, str, str]]],
        notify: Callable[[tuple[str, str], str], None],
    ) -> None:
        super().__init__(name="renewer", daemon=True)
        self._scripts = jobs.scripts
        self._consumer = consumer
        self._held = held
        self._notify = notify
        self._lease = jobs.settings.jobs.lease_ms / 1000
        self._url = url
        self._client: Any = None
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        while not self._over.wait(self._lease / 3):
            try:
                self.renew()
            except CONNECTION_ERRORS as error:
                log.warning("leases could not be renewed: %s", error)
            except redis.RedisError as error:
                log.error("leases could not be renewed: %s", error)
            except Exception:  # an answer cut in the middle, a loop that has closed meanwhile
                if not self._over.is_set():
                    log.exception("leases could not be renewed")
                self._close()
        self._close()

    def _close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with suppress(Exception):
                client.close()

    def renew(self) -> None:
        if self._client is None:
            self._client = connect_blocking(self._url, timeout_seconds=max(1.0, self._lease / 3))
        by_partition: dict[int, list[tuple[Partition, str, str, str, str]]] = {}
        for row in self._held():
            by_partition.setdefault(row[0].number, []).append(row)
        lost: Exception | None = None
        for rows in by_partition.values():
            try:
                self._renew_in(rows)
            except (
                CONNECTION_ERRORS
            ) as error:  # one master of a cluster is lost; the others still need the renewal of their leases
                lost = error
        if lost is not None:
            raise lost

    def _renew_in(self, rows: list[tuple[Partition, str, str, str, str]]) -> None:
        for start in range(0, len(rows), 500):
            chunk = rows[start : start + 500]
            items = [Renewal(job, stream, entry, token, self._consumer) for _, job, stream, entry, token in chunk]
            words: Any = self._scripts.call_blocking(self._client, "renew", chunk[0][0], items)
            for row, word in zip(chunk, words, strict=True):
                if word != b"ok":
                    self._notify((row[2], row[3]), word.decode())


class Sighting(msgspec.Struct, frozen=True):
    """A pending entry as one look saw it; `stamp_ms` is the server time of its last delivery or renewal."""

    consumer: str
    stamp_ms: int
    seen: float


class Reclaimer:
    """Takes over what dead owners left on the given streams, and requeues the nodes.

    It runs nothing itself: what ran when the owner died counts a delivery and goes back alone, what has died too often or may
    not run twice fails as `worker_lost`, and the whole graph is resolved once, since the owner may have died between
    an outcome and what it made ready.
    """

    def __init__(self, jobs: Jobs, consumer: str, write: Write) -> None:
        self.jobs = jobs
        self.consumer = consumer
        self._write = write
        self._seen: dict[tuple[str, str], Sighting] = {}
        self._lease = jobs.settings.jobs.lease_ms / 1000
        self.slow_seconds = self._lease / 3
        self._plans = Plans()

    def forget(self) -> None:
        """Forgets all looks: after a broken connection or a slow answer they start anew."""
        self._seen.clear()

    async def look(self, part: Partition, streams: Iterable[str]) -> int:
        """Looks once over the pending entries of `streams`; returns how many were taken over."""
        taken = 0
        for stream in streams:
            begun = time.monotonic()
            rows = await self._pending(stream)
            if time.monotonic() - begun > self.slow_seconds:
                log.warning("a look at %s took longer than a third of a lease; looks start anew", stream)
                self.forget()
                return taken
            abandoned = self._compare(stream, rows)
            for start in range(0, len(abandoned), 50):
                taken += await self._take_over(part, stream, abandoned[start : start + 50])
        return taken

    async def take_from(self, part: Partition, stream: str, owner: str) -> int:
        """Takes over, at once, all entries that `owner` holds on a stream: the caller has seen its process die."""
        taken = 0
        rows = [
            (entry, Sighting(owner, stamp, 0.0)) for entry, who, stamp in await self._pending(stream) if who == owner
        ]
        for start in range(0, len(rows), 50):
            taken += await self._take_over(part, stream, rows[start : start + 50])
        await self.jobs.scripts.drop_consumer(part, stream, owner)
        return taken

    async def _pending(self, stream: str) -> list[tuple[str, str, int]]:
        """Yields (entry, consumer, stamp) of every pending entry, page by page; each page has its own server time."""
        rows: list[tuple[str, str, int]] = []
        start = "-"
        while True:
            try:
                (seconds, micros), page = await functions.call(self.jobs.client, "page", stream, GROUP, start)
            except redis.ResponseError as error:
                if is_transient(error):
                    raise
                return rows  # the stream or group does not exist yet
            now = int(seconds) * 1000 + int(micros) // 1000
            rows += [(entry.decode(), consumer.decode(), now - idle) for entry, consumer, idle, _ in page]
            if len(page) < 200:
                return rows
            start = f"({page[-1][0].decode()}"

    def _compare(self, stream: str, rows: list[tuple[str, str, int]]) -> list[tuple[str, Sighting]]:
        now = time.monotonic()
        abandoned = []
        present = set()
        for entry, consumer, stamp in rows:
            key = (stream, entry)
            present.add(key)
            if consumer == self.consumer:
                continue
            first = self._seen.get(key)
            if first is None or first.consumer != consumer or abs(first.stamp_ms - stamp) > 2:
                self._seen[key] = Sighting(consumer, stamp, now)
            elif now - first.seen >= self._lease:
                abandoned.append((entry, first))
        for key in [key for key in self._seen if key[0] == stream and key not in present]:
            del self._seen[key]
        return abandoned

    async def _take_over(self, part: Partition, stream: str, abandoned: list[tuple[str, Sighting]]) -> int:
        items = [
            Takeover(stream, entry, first.consumer, first.stamp_ms, self.consumer, uuid.uuid4().hex)
            for entry, first in abandoned
        ]
        taken = 0
        for claim in await self.jobs.scripts.reclaim(part, items):
            self._seen.pop((claim.stream, claim.entry), None)
            if claim.word == "ok":
                taken += 1
                log.warning("took over an entry of a lost worker", extra={"job": claim.job_id, "entry": claim.entry})
                await self._give_back(part, claim)
        return taken

    async def _give_back(self, part: Partition, claim: Claim) -> None:
        delivery = Delivery(part, claim, self.consumer, self._plans.get(claim.graph, claim.routes, claim.job_id))
        steps: list[Step] = []
        again: list[str] = list(claim.waiting)
        for node in sorted(delivery.open):
            # A slot that dies fails its own node. A node in a slot was not in the process that died, so that death does not count against it.
            often = (
                delivery.routes[node].light and delivery.redeliveries[node] >= self.jobs.settings.jobs.max_deliveries
            )
            if often or not delivery.routes[node].idempotent:
                steps += worker_lost(delivery, node)
            else:
                again.append(node)
        if steps:
            await self._write(part, delivery.report(steps))
        await reconcile(self._write, delivery)
        batches = []
        for node in again:
            pause = 0 if delivery.routes[node].light else self._pause_ms(delivery.redeliveries.get(node, 0))
            manner = Manner(delay_ms=pause, reason="lost") if pause else TO_THE_FRONT
            batches += plan_batches(part, delivery.plan, [node], priority=delivery.priority, manner=manner)
        await self.jobs.scripts.release(part, [delivery.release(batches)])

    def _pause_ms(self, losses: int) -> int:
        """Returns how long a node in a slot waits, once its workers were lost so often that it may be the reason: it takes down no more than one an hour then."""
        beyond = losses - self.jobs.settings.jobs.max_deliveries
        return 0 if beyond < 0 else min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS << min(beyond, 16))


async def reap_worker(settings: Settings, pid: int) -> int:
    """Recovers the work of a process of this machine that the supervisor has seen die and whose group it killed: no job waits for a lease.

    Takes over the entries of every worker of that process, removes those workers from the list, and returns how many entries.
    """
    client = connect(settings.redis.url)
    try:
        jobs = Jobs(client, settings)
        writers = [Writer(jobs.scripts, part) for part in jobs.scripts.partitions]
        writing = [asyncio.create_task(writer.run()) for writer in writers]
        reclaimer = Reclaimer(
            jobs, f"supervisor-{uuid.uuid4().hex[:12]}", lambda part, report: writers[part.number].put(report)
        )
        taken = 0
        for lost in await jobs.workers.alive():
            if (lost.pid, lost.host) == (pid, socket.gethostname()):
                for part in jobs.scripts.partitions:
                    for stream in part.every_stream(str(lost.plane), lost.pool):
                        taken += await reclaimer.take_from(part, stream, lost.worker_id)
                        await jobs.scripts.drop_consumer(part, stream, reclaimer.consumer)
                await jobs.workers.leave_devices(lost.pool, lost.worker_id)
                await jobs.workers.depart(lost.worker_id)
        for task in writing:
            task.cancel()
        return taken
    finally:
        await client.aclose()


def worker_lost(delivery: Delivery, node: str) -> list[Step]:
    """Builds the step that ends a node whose owners died with it, and adds it to the dead letters."""
    times = delivery.redeliveries[node]
    why = f"its worker was lost {times} time{'s' if times != 1 else ''} while it ran"
    if not delivery.routes[node].idempotent:
        why += ", and its task must not run twice"
    error = json.dumps({"code": "worker_lost", "message": why, "details": {"deliveries": times}})
    delivery.states[node] = ("failed", "")
    delivery.open.discard(node)
    return [
        EndGivenUp(
            node,
            delivery.attempts[node],
            "failed",
            "",
            f'{{"error":{error}}}',
            -1,
            delivery.topology.handled(node),
            error,
            "",
            why,
        )
    ]


async def reconcile(write: Write, delivery: Delivery) -> None:
    """Resolves the whole graph of a delivery whose every record is known; repeats are harmless."""
    topology = delivery.topology
    undecided = [
        node
        for node in topology.nodes
        if delivery.records.get(node, PENDING).status == "pending" and node not in delivery.states
    ]
    while undecided:
        found = graphs.resolve(topology, delivery.states, undecided)
        if not found.ready and not found.skipped:
            return
        steps: list[Step] = [Skip(node, reason, topology.shares[node]) for node, reason in found.skipped]
        batches = plan_batches(delivery.part, delivery.plan, found.ready, priority=delivery.priority)
        steps += [Dispatch(batch) for batch in batches]
        reads = [node for node in found.unknown if node not in delivery.states]
        reply = await write(delivery.part, delivery.report(steps, reads))
        if reply.word != "ok":
            return
        delivery.states.update({node: ("skipped", reason) for node, reason in found.skipped})
        for node, raw in reply.records:
            delivery.learn(node, raw)
        decided = {*found.ready, *(node for node, _ in found.skipped)}
        undecided = [node for node in undecided if node not in decided]
        if not any(node in delivery.states for node in reads):
            return
