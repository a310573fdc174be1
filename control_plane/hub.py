"""The hub: one Redis subscription for all clients of this process; each client sees every event once and in order.

Subscribe first, then read snapshot and log in one script, then live. A logged event must be the last one + 1, else the log is
read again: Pub/Sub loses messages whenever a connection breaks, and redis-py reconnects without a word. So the state of every
watched job is read again whenever Redis confirms a subscription of the connection's own channel, which it does after every
reconnect, automatic or not, and after 15 quiet seconds.

Messages and answers travel on two connections, so either may be the older one. An answer counts only as far as it goes
beyond the received messages. The state kept for each client is in watches.py.

After a failover a seq may have gone back; the epoch is the replication id of the server that has the job, and another one means
a resync.

Large because reading, rereading and recovering share one connection and one order; the pure part is in watches.py.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import redis
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from redis.asyncio.client import PubSub

from dihedral.bridge import metrics
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, is_cluster, listener
from dihedral.bridge.fabric.jobs import Jobs, JobView
from dihedral.control_plane.watches import EventHeader, Subscription, Watch, numbered, understood
from dihedral.schemas.structs.graph import Estimate
from dihedral.schemas.structs.job import Job, JobStatus
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.websocket import Snapshot

log = logging.getLogger(__name__)
T = TypeVar("T")
QUIET_SECONDS = 15.0
SILENT_SECONDS = 10.0
CONFIRM_SECONDS = 5.0
GOODBYE_SECONDS = 1.0
FIRST_DELAY = 0.05
FAILOVER_SECONDS = 1.0
LOOK_SECONDS = 1.0
ESTIMATE_SECONDS = 5.0
ESTIMATED_AT_ONCE = 20
"""Jobs of which one round, once a second, estimates what they still take: the cost stays the same however many are watched."""
ESTIMATED_NODES = 2000
"""Nodes that have not ended, of all jobs of one round; one job may have as many. The others are first in the next round."""
HUB_CHANNEL = "hub"
"""A channel that is always subscribed, so that the connection always has one."""


class UnknownJob(Exception):
    pass


class Hub:
    """The hub of one process. `documents` makes the job document of a resync, `estimates` what updates say of the time that is left."""

    def __init__(
        self,
        settings: Settings,
        jobs: Jobs,
        documents: Callable[[JobView], Awaitable[Job]],
        estimates: Callable[[JobView], Awaitable[tuple[Estimate | None, Estimate | None]]] | None = None,
        *,
        quiet_seconds: float = QUIET_SECONDS,
        silent_seconds: float = SILENT_SECONDS,
    ) -> None:
        self.settings = settings.websocket
        self.closing = asyncio.Event()
        self._url = settings.redis.url
        self._jobs = jobs
        self._documents = documents
        self._estimates = estimates
        self._quiet = quiet_seconds
        self._silent = silent_seconds
        self._epochs: dict[int, str] = {}
        """The epochs of the watched partitions."""
        self._watches: dict[str, Watch] = {}
        self._changes: list[Watch] = []
        self._changed = asyncio.Event()
        self._group: asyncio.TaskGroup
        self._clients: set[Callable[[], None]] = set()
        self._empty = asyncio.Event()
        self._delay = FIRST_DELAY
        self._recovering: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Reads the subscription until cancelled, through every loss of the connection."""
        async with asyncio.TaskGroup() as self._group:
            self._group.create_task(self._rereads())
            self._group.create_task(self._expects())
            if is_cluster(self._url):
                self._group.create_task(self._looks_for_failovers())
            while True:
                try:
                    await self._listen()
                except* (*CONNECTION_ERRORS, redis.RedisError) as broken:
                    log.warning("the hub's subscription broke: %s; subscribing again", broken.exceptions[0])
                await asyncio.sleep(self._delay)
                self._delay = min(self._delay * 2, 2.0)

    def measured(self) -> list[Metric]:
        """Returns the number of watches and clients now, for the metrics."""
        subscriptions = sum(len(watch.subscriptions) for watch in self._watches.values())
        return [
            GaugeMetricFamily("dihedral_hub_watched_jobs", "Jobs watched through this process", len(self._watches)),
            GaugeMetricFamily(
                "dihedral_hub_subscriptions", "Subscriptions of WebSocket and event streams", subscriptions
            ),
        ]

    @contextmanager
    def attended(self, wake: Callable[[], None]) -> Iterator[None]:
        """Registers a client that must be notified, by `wake`, when this process stops (`closing`); the process waits a moment for it."""
        self._clients.add(wake)
        try:
            yield
        finally:
            self._clients.discard(wake)
            if not self._clients:
                self._empty.set()

    async def close(self) -> None:
        """Notifies the clients that this process stops, and gives them a second to close."""
        self.closing.set()
        for wake in list(self._clients):
            wake()
        with suppress(TimeoutError):
            async with asyncio.timeout(GOODBYE_SECONDS):
                while self._clients:
                    self._empty.clear()
                    await self._empty.wait()

    # Subscriptions --------------------------------------------------------------------------------------------------

    async def subscribe(
        self, job_id: str, after: int, epoch: str | None, wake: Callable[[], None], visible_owner: str | None = None
    ) -> Subscription:
        """Subscribes a client; snapshot and kept events are ready to collect when this returns. Raises UnknownJob, also for a job that is not of `sees`; LOST."""
        watch = self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = Watch(job_id)
            self._change(watch)
        subscription = Subscription(watch, self.settings.queue_length, wake)
        watch.subscriptions.add(subscription)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(CONFIRM_SECONDS):
                    await watch.confirmed.wait()
            await self.fill(subscription, after, epoch)
            if visible_owner not in (None, watch.owner):
                raise UnknownJob(job_id)
            return subscription
        except BaseException:
            self.unsubscribe(subscription)
            raise

    async def fill(self, subscription: Subscription, after: int, epoch: str | None = None) -> None:
        """Makes everything after `after` pending: the kept events, or a snapshot where they do not reach so far. Raises UnknownJob, LOST."""
        watch = subscription.watch
        subscription.ready = subscription.lost = False
        subscription.events = []
        view = await self._read(watch, after)
        if view is None:
            raise UnknownJob(watch.job_id)
        if 0 < after < view.trimmed or after > view.seq or epoch not in (None, watch.epoch):
            snapshot = await self._snapshot(view, watch.epoch)
            heard = subscription.events
            subscription.replace(snapshot)
        else:
            heard = [*numbered(view), *subscription.events]
            subscription.events = []
            if subscription.replaced is None:
                subscription.sent = after
        for seq, text in heard:
            if not subscription.events or seq > subscription.events[-1][0]:
                subscription.push(seq, text)
        subscription.ready = True

    def unsubscribe(self, subscription: Subscription) -> None:
        watch = subscription.watch
        watch.subscriptions.discard(subscription)
        if not watch.subscriptions:
            self._forget(watch)

    def _forget(self, watch: Watch) -> None:
        if self._watches.get(watch.job_id) is watch:
            del self._watches[watch.job_id]
            self._change(watch)

    def _change(self, watch: Watch) -> None:
        self._changes.append(watch)
        self._changed.set()

    async def _snapshot(self, view: JobView, epoch: str) -> Snapshot:
        return Snapshot(
            epoch=epoch,
            seq=view.seq,
            status=JobStatus(view.status),
            progress=view.progress,
            job=await self._documents(view),
        )

    # The connection -------------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        client = listener(self._url)
        try:
            async with client.pubsub() as pubsub:
                self._changes = []
                for watch in self._watches.values():
                    watch.asked = True
                await pubsub.subscribe(HUB_CHANNEL, *_channels(self._watches.values()))
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._follow(pubsub))
                    await self._receive(pubsub)
        finally:
            for watch in self._watches.values():
                watch.confirmed.clear()
            await client.aclose()

    async def _follow(self, pubsub: PubSub) -> None:
        """Sends all commands of this connection: a client that leaves in the middle of a command would otherwise break it for all."""
        while True:
            try:
                async with asyncio.timeout(self._silent):
                    await self._changed.wait()
            except TimeoutError:
                await pubsub.ping()
                continue
            self._changed.clear()
            changes, self._changes = self._changes, []
            come = [watch for watch in changes if self._watches.get(watch.job_id) is watch]
            gone = [watch for watch in changes if watch.job_id not in self._watches]
            if come:
                for watch in come:
                    watch.asked = True
                await pubsub.subscribe(*_channels(come))
            if gone:
                await pubsub.unsubscribe(*_channels(gone))

    async def _receive(self, pubsub: PubSub) -> None:
        while True:
            message = await pubsub.get_message(timeout=2 * self._silent)
            if message is None:
                raise redis.TimeoutError("Redis did not answer a ping")
            self._on_message(message)

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] not in ("subscribe", "message"):
            return
        channel = message["channel"].decode()
        if channel == HUB_CHANNEL:
            self._on_connection()
            return
        watch = self._watches.get(channel.partition(":")[2])
        if watch is None:
            return
        if message["type"] == "subscribe":
            if (
                channel == watch.channels[-1] and watch.asked
            ):  # otherwise the message was for an earlier watch of the same job
                watch.confirmed.set()
        else:
            watch.heard = time.monotonic()
            if watch.seq is None:
                watch.early.append(message["data"])
            else:
                self._on_event(watch, message["data"])

    def _on_connection(self) -> None:
        """Handles the subscription of every channel, on any connection; events published before it have to be read."""
        self._delay = FIRST_DELAY
        if self._recovering is not None:
            self._recovering.cancel()
        self._recovering = self._group.create_task(self._recover())

    def _on_event(self, watch: Watch, data: bytes) -> None:
        assert watch.seq is not None
        head = understood(data)
        if head is None:
            self._schedule_reread(watch, watch.seq + 1)
        elif head.type == "deleted":
            self._end(watch)
        elif head.type == "progress":
            if head.seq > watch.seq:
                self._schedule_reread(watch, head.seq)
            else:
                watch.move(head.seq, head.progress)
        elif head.seq == watch.seq + 1:
            watch.advance(head, data.decode())
        elif head.seq > watch.seq:
            self._schedule_reread(watch, head.seq)

    def _end(self, watch: Watch) -> None:
        """Ends the watch of a deleted job; a new job of the same id gets a new watch."""
        watch.gone = True
        self._forget(watch)
        for subscription in watch.subscriptions:
            subscription.wake()

    # Reading again --------------------------------------------------------------------------------------------------

    async def _read(self, watch: Watch, after: int | None = None) -> JobView | None:
        """Reads the job, and its events after `after` or those not received yet; brings the watch up to date. One read at a time."""
        async with watch.reading:
            while not watch.gone:
                epoch, seen = await self._epoch_of(watch), watch.seq
                known = [seq for seq in (after, seen) if seq is not None]
                view = await self._jobs.read(watch.job_id, min(known, default=0))
                if view is None or (
                    seen is not None and view.owner != watch.owner
                ):  # another owner's job of the same id
                    self._end(watch)
                    return None
                watch.heard = time.monotonic()
                if seen is None:
                    self._begin(watch, view, epoch)
                elif epoch != watch.epoch or view.seq < seen or view.trimmed > seen:
                    snapshot = await self._snapshot(view, epoch)
                    if (
                        watch.seq in (seen, None) or view.seq >= watch.seq
                    ):  # otherwise the answer is older than the received messages
                        self._replace(watch, view, snapshot)
                    continue  # the events received meanwhile were undone
                else:
                    self._apply_log(watch, view)
                return view
        return None

    async def _epoch_of(self, watch: Watch) -> str:
        number = self._jobs.scripts.partition(watch.job_id).number
        if number not in self._epochs:
            self._epochs[number] = await self._jobs.epoch(watch.job_id)
        return self._epochs[number]

    def _begin(self, watch: Watch, view: JobView, epoch: str) -> None:
        watch.begin(view, epoch)
        early, watch.early = watch.early, []
        for data in early:
            self._on_event(watch, data)

    def _apply_log(self, watch: Watch, view: JobView) -> None:
        for seq, text in numbered(view):
            if watch.seq is not None and seq == watch.seq + 1:
                watch.advance(understood(text.encode()) or EventHeader(type="", seq=seq), text)
        watch.move(view.seq, view.progress)

    def _replace(self, watch: Watch, view: JobView, snapshot: Snapshot) -> None:
        """Sends every client a snapshot: the seq went back, or the log no longer reaches so far."""
        watch.begin(view, snapshot.epoch)
        for subscription in watch.subscriptions:
            subscription.replace(snapshot)

    def _schedule_reread(self, watch: Watch, seq: int) -> None:
        """Schedules a read of the log up to `seq`, which a message has named."""
        idle, watch.wanted = watch.wanted == 0, max(watch.wanted, seq)
        if idle:
            self._group.create_task(self._catch_up(watch))

    async def _catch_up(self, watch: Watch) -> None:
        """Reads once for all messages received before it; an event that is not in the log then was never there."""
        while wanted := watch.wanted:
            metrics.hub_rereads_total.inc()
            await self._reread(watch)
            if watch.wanted == wanted or watch.gone:
                watch.wanted = 0

    async def _recover(self) -> None:
        """Compares epochs: a new one is a resync for the watch's clients, the same one means reading the missed events."""
        self._epochs.clear()
        for watch in list(self._watches.values()):
            await self._reread(watch)

    async def _reread(self, watch: Watch) -> None:
        if watch.seq is not None and watch.subscriptions:
            await self._until_answered(lambda: self._read(watch))

    async def _until_answered(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Repeats until the server answers: one that has just come back may still be loading."""
        delay = FIRST_DELAY
        while True:
            try:
                return await ask()
            except (*CONNECTION_ERRORS, redis.RedisError) as error:
                log.warning("the hub could not read what it missed: %s; asking again", error)
            await asyncio.sleep(delay)
            delay = min(delay * 2, 2.0)

    async def _looks_for_failovers(self) -> None:
        """Checks the epochs of a cluster: a master may be replaced while the connection to another node stays open."""
        while True:
            await asyncio.sleep(FAILOVER_SECONDS)
            watched = {self._jobs.scripts.partition(job_id).number: job_id for job_id in self._watches}
            self._epochs = {number: epoch for number, epoch in self._epochs.items() if number in watched}
            for number, job_id in watched.items():
                with suppress(*CONNECTION_ERRORS, redis.RedisError):
                    before, epoch = self._epochs.get(number), await self._jobs.epoch(job_id)
                    if before not in (None, epoch):
                        log.warning("another server has partition %d; reading its jobs again", number)
                        self._epochs[number] = epoch
                        for watch in list(self._watches.values()):
                            if self._jobs.scripts.partition(watch.job_id).number == number:
                                await self._reread(watch)

    async def _rereads(self) -> None:
        while True:
            await asyncio.sleep(self._quiet / 5)
            for watch in list(self._watches.values()):
                if time.monotonic() - watch.heard >= self._quiet:
                    watch.heard = time.monotonic()
                    with suppress(*CONNECTION_ERRORS, redis.RedisError):
                        await self._read(watch)

    async def _expects(self) -> None:
        """Estimates what watched jobs still take, those first whose estimate is oldest; a job that is watched for a moment costs nothing."""
        while self._estimates is not None:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            due = [
                each for each in self._watches.values()
                if each.estimate_at <= now and each.seq is not None and each.subscriptions and each.status in ("queued", "running")
            ]  # fmt: skip
            due = sorted(due, key=lambda each: each.estimate_at)[:ESTIMATED_AT_ONCE]
            if not due:
                continue
            with suppress(*CONNECTION_ERRORS, redis.RedisError):
                views = await self._jobs.read_many([each.job_id for each in due])
                nodes = 0
                for watch, view in zip(due, views, strict=True):
                    nodes += 0 if view is None else view.remaining
                    if nodes > ESTIMATED_NODES and watch is not due[0]:
                        break
                    watch.estimate_at = now + ESTIMATE_SECONDS
                    if view is not None and view.owner == watch.owner:
                        watch.expect(*await self._estimates(view))


def _channels(watches: Iterable[Watch]) -> list[str]:
    return [channel for watch in watches for channel in watch.channels]
