"""The hub: one Redis subscription for all clients of this process; each client sees every event once and in order.

Subscribe first, then read snapshot and log in one script, then live. A logged event must be the last one + 1, else the log is
read again: Pub/Sub loses messages whenever a connection breaks, and redis-py reconnects without a word. So after every
re-subscription, and after 15 quiet seconds, the state is read again. Progress is not logged; it carries the last logged
seq and passes when that is not older than what was seen.

A subscription keeps what its client has not been sent yet: event texts (shared between clients) and the fact that progress
has moved, which is sent at most once per interval. Whoever falls too far behind is closed with 1013; nobody waits for it.

After a failover a seq may have gone back; the epoch is the server's replication id, and another one means a resync.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import redis
from redis.asyncio.client import PubSub

from bridge import keys
from bridge.connection import LOST, connect
from bridge.jobs import Jobs, JobView
from bridge.lifecycle import JOB_ENDED
from schemas.structs.job import Job, JobStatus
from schemas.structs.settings import Settings
from schemas.structs.websocket import Snapshot

log = logging.getLogger(__name__)

QUIET_SECONDS = 15.0
HOME = "hub"
"""A channel that is always subscribed, so that the connection is never without one."""


class Head(msgspec.Struct):
    """What the hub reads of a message; the rest is passed on as it came."""

    type: str
    seq: int = 0
    status: str = ""
    progress: float = 0.0


_head = msgspec.json.Decoder(Head).decode


class Chunk(msgspec.Struct, frozen=True):
    """What one subscription is to be sent next. `seq`: the last logged event that it covers."""

    kind: str  # update, resync or gone
    job_id: str
    epoch: str
    seq: int
    status: str
    progress: float
    events: tuple[str, ...] = ()
    snapshot: Snapshot | None = None

    @property
    def last(self) -> bool:
        return self.kind == "gone" or self.status in JOB_ENDED

    def encoded(self) -> bytes:
        """The message of product.md; event texts are joined, not decoded."""
        if self.snapshot is not None:
            return msgspec.json.encode({"type": "resync", "jobId": self.job_id, "snapshot": self.snapshot})
        head = {
            "type": "update", "jobId": self.job_id, "epoch": self.epoch, "seq": self.seq, "status": self.status,
            "progress": self.progress,
        }  # fmt: skip
        return msgspec.json.encode(head)[:-1] + b',"events":[' + ",".join(self.events).encode() + b"]}"


class Subscription:
    """One client's view of one job. `wake` is called when there is something to collect."""

    __slots__ = (
        "_last_sent",
        "_said",
        "events",
        "first",
        "limit",
        "moved",
        "ready",
        "replaced",
        "sent",
        "wake",
        "watch",
    )

    def __init__(self, watch: "Watch", limit: int, wake: Callable[[], None]) -> None:
        self.watch = watch
        self.limit = limit
        self.wake = wake
        self.events: list[tuple[int, str]] = []
        self.sent = 0
        self.ready = False
        self.first = True
        self.moved = False
        self.replaced: Snapshot | None = None
        self._last_sent = 0.0
        self._said = (-1.0, "")

    @property
    def behind(self) -> bool:
        return len(self.events) > self.limit

    def push(self, seq: int, text: str) -> None:
        if seq > self.sent:
            self.events.append((seq, text))
            if self.ready:
                self.wake()

    def due(self, interval: float) -> float | None:
        """Seconds until there is something to send: 0 now, None nothing."""
        if not self.ready:
            return None
        if self.first or self.replaced or self.events or self.watch.gone:
            return 0.0
        if self.moved and (self.watch.progress, self.watch.status) != self._said:
            return max(0.0, self._last_sent + interval - time.monotonic())
        return None

    def collect(self) -> Chunk:
        """Takes everything that is pending."""
        watch = self.watch
        if self.replaced is not None:
            snapshot, self.replaced = self.replaced, None
            self.sent = snapshot.seq
            self.events = [(seq, text) for seq, text in self.events if seq > self.sent]
            self._note()
            return Chunk(
                "resync",
                watch.job_id,
                snapshot.epoch,
                snapshot.seq,
                str(snapshot.status),
                snapshot.progress,
                (),
                snapshot,
            )
        taken, self.events = self.events, []
        if taken:
            self.sent = taken[-1][0]
        self._note()
        kind = "gone" if watch.gone else "update"
        return Chunk(
            kind, watch.job_id, watch.epoch, self.sent, watch.status, watch.progress, tuple(text for _, text in taken)
        )

    def _note(self) -> None:
        self.first = self.moved = False
        self._last_sent = time.monotonic()
        self._said = (self.watch.progress, self.watch.status)


class Watch:
    """What this process knows of a job that somebody watches."""

    __slots__ = (
        "confirmed",
        "early",
        "encoded",
        "epoch",
        "gone",
        "heard",
        "job_id",
        "progress",
        "reading",
        "seq",
        "status",
        "subscriptions",
    )

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.epoch = ""
        self.seq: int | None = None
        self.status = ""
        self.progress = 0.0
        self.gone = False
        self.heard = time.monotonic()
        self.confirmed = asyncio.Event()
        self.reading = asyncio.Lock()
        self.early: list[tuple[str, bytes]] = []
        self.encoded: tuple[Chunk, bytes] | None = None
        self.subscriptions: set[Subscription] = set()

    @property
    def channels(self) -> list[str]:
        return [keys.status_channel(self.job_id), keys.progress_channel(self.job_id), keys.data_channel(self.job_id)]

    def encode(self, chunk: Chunk) -> bytes:
        """Clients that are equally far get the same bytes."""
        if self.encoded is None or self.encoded[0] != chunk:
            self.encoded = (chunk, chunk.encoded())
        return self.encoded[1]


class UnknownJob(Exception):
    pass


class Hub:
    """`documents` makes the job document of a resync."""

    def __init__(self, settings: Settings, jobs: Jobs, documents: Callable[[JobView], Awaitable[Job]]) -> None:
        self.settings = settings.websocket
        self.closing = asyncio.Event()
        self._url = settings.redis.url
        self._jobs = jobs
        self._documents = documents
        self._watches: dict[str, Watch] = {}
        self._pubsub: PubSub | None = None
        self._epoch = ""

    async def run(self) -> None:
        """Reads the subscription until cancelled, through every loss of the connection."""
        delay = 0.05
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rereads())
            while True:
                client = connect(self._url, timeout_seconds=30)
                try:
                    async with client.pubsub() as pubsub:
                        await pubsub.subscribe(HOME, *(c for watch in self._watches.values() for c in watch.channels))
                        self._pubsub = pubsub
                        group.create_task(self._recover(list(self._watches.values())))
                        delay = 0.05
                        while True:
                            message = await pubsub.get_message(timeout=10)
                            if message is not None:
                                self._on_message(message)
                            elif not await self._answers(pubsub):
                                break
                except (*LOST, redis.RedisError) as error:
                    log.warning("the hub's subscription broke: %s; subscribing again", error)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, 2.0)
                finally:
                    self._pubsub = None
                    for watch in self._watches.values():
                        watch.confirmed.clear()
                    await client.aclose()

    async def close(self) -> None:
        """Lets the clients' handlers know that this process goes away."""
        self.closing.set()
        for watch in self._watches.values():
            for subscription in watch.subscriptions:
                subscription.wake()

    async def _answers(self, pubsub: PubSub) -> bool:
        await pubsub.ping()
        return True

    # Subscriptions --------------------------------------------------------------------------------------------------

    async def subscribe(self, job_id: str, after: int, epoch: str | None, wake: Callable[[], None]) -> Subscription:
        """Ready to collect when this returns: snapshot and kept events first. Raises UnknownJob."""
        watch = self._watches.get(job_id)
        if watch is None:
            watch = self._watches[job_id] = Watch(job_id)
            if self._pubsub is not None:
                with suppress(*LOST):  # the reader finds it broken too, and subscribes again
                    await self._pubsub.subscribe(*watch.channels)
        subscription = Subscription(watch, self.settings.queue_length, wake)
        watch.subscriptions.add(subscription)
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(watch.confirmed.wait(), 5)
            view = await self._read(watch, after)
            if view is None:
                raise UnknownJob(job_id)
            lost = after < view.trimmed and after > 0
            if lost or after > view.seq or (epoch is not None and epoch != self._epoch):
                subscription.replaced = await self._snapshot(view)
                subscription.sent = view.seq
            else:
                texts = [(view.seq - len(view.events) + 1 + number, text) for number, text in enumerate(view.events)]
                later = [pair for pair in subscription.events if pair[0] > view.seq]
                subscription.events = texts + later
                subscription.sent = min(after, view.seq)
            subscription.ready = True
            return subscription
        except BaseException:
            await self.unsubscribe(subscription)
            raise

    async def unsubscribe(self, subscription: Subscription) -> None:
        watch = subscription.watch
        watch.subscriptions.discard(subscription)
        if not watch.subscriptions and self._watches.get(watch.job_id) is watch:
            del self._watches[watch.job_id]
            if self._pubsub is not None:
                with suppress(*LOST, redis.RedisError):
                    await self._pubsub.unsubscribe(*watch.channels)

    async def _snapshot(self, view: JobView) -> Snapshot:
        return Snapshot(
            epoch=self._epoch,
            seq=view.seq,
            status=JobStatus(view.status),
            progress=view.progress,
            job=await self._documents(view),
        )

    # Live -----------------------------------------------------------------------------------------------------------

    def _on_message(self, message: dict[str, Any]) -> None:
        if message["type"] not in ("subscribe", "message"):
            return
        channel = message["channel"].decode()
        _, _, job_id = channel.partition(":")
        watch = self._watches.get(job_id)
        if watch is None:
            return
        if message["type"] == "subscribe":
            if channel == watch.channels[-1]:
                watch.confirmed.set()
        elif message["type"] == "message":
            watch.heard = time.monotonic()
            if watch.seq is None:
                watch.early.append((channel, message["data"]))
            else:
                self._on_event(watch, message["data"])

    def _on_event(self, watch: Watch, data: bytes) -> None:
        head = _head(data)
        assert watch.seq is not None
        if head.type == "deleted":
            watch.gone = True
            self._wake(watch)
        elif head.type == "progress":
            if head.seq >= watch.seq and head.progress != watch.progress and watch.status not in JOB_ENDED:
                watch.progress = head.progress
                for subscription in watch.subscriptions:
                    subscription.moved = True
                    subscription.wake()
        elif head.seq == watch.seq + 1:
            self._advance(watch, head, data.decode())
        elif head.seq > watch.seq:
            task = asyncio.ensure_future(self._catch_up(watch))
            task.add_done_callback(_quietly)

    def _advance(self, watch: Watch, head: Head, text: str) -> None:
        watch.seq = head.seq
        if head.type == "status":
            watch.status, watch.progress = head.status, head.progress
        for subscription in watch.subscriptions:
            subscription.push(head.seq, text)

    def _wake(self, watch: Watch) -> None:
        for subscription in watch.subscriptions:
            subscription.wake()

    # Reading again --------------------------------------------------------------------------------------------------

    async def _read(self, watch: Watch, after: int) -> JobView | None:
        """The job and its events after `after`; brings the watch up to date. One read of a job at a time."""
        async with watch.reading:
            if not self._epoch:
                self._epoch = await self._jobs.epoch()
            view = await self._jobs.read(watch.job_id, after)
            if view is None:
                return None
            watch.heard = time.monotonic()
            watch.epoch = self._epoch
            if watch.seq is None:
                watch.seq, watch.status, watch.progress = view.seq, view.status, view.progress
                early, watch.early = watch.early, []
                for _, data in early:
                    self._on_event(watch, data)
            return view

    async def _catch_up(self, watch: Watch) -> None:
        """Whatever the log has and this process has not heard."""
        async with watch.reading:
            if watch.seq is None:
                return
            view = await self._jobs.read(watch.job_id, watch.seq)
            if view is None:
                watch.gone = True
                self._wake(watch)
                return
            if view.seq < watch.seq or view.trimmed > watch.seq:
                await self._replace(watch, view)
                return
            first = view.seq - len(view.events) + 1
            for number, text in enumerate(view.events):
                if first + number == watch.seq + 1:
                    self._advance(watch, _head(text.encode()), text)
            if view.progress != watch.progress and view.seq == watch.seq:
                watch.progress = view.progress
                for subscription in watch.subscriptions:
                    subscription.moved = True
                    subscription.wake()

    async def _replace(self, watch: Watch, view: JobView) -> None:
        """Everybody gets a snapshot: the seq went back, or the log no longer reaches so far."""
        snapshot = await self._snapshot(view)
        watch.epoch, watch.seq, watch.status, watch.progress = self._epoch, view.seq, view.status, view.progress
        for subscription in watch.subscriptions:
            subscription.replaced = snapshot
            subscription.events = []
            subscription.wake()

    async def _recover(self, watches: list[Watch]) -> None:
        """After a new subscription: another epoch means a resync for all, the same one means reading what was missed."""
        try:
            before, self._epoch = self._epoch, await self._jobs.epoch()
            for watch in watches:
                if before and before != self._epoch and watch.seq is not None:
                    async with watch.reading:
                        view = await self._jobs.read(watch.job_id)
                        if view is not None:
                            await self._replace(watch, view)
                            continue
                await self._catch_up(watch)
        except (*LOST, redis.RedisError) as error:
            log.warning("the hub could not read what it missed: %s", error)

    async def _rereads(self) -> None:
        while True:
            await asyncio.sleep(QUIET_SECONDS / 5)
            for watch in list(self._watches.values()):
                if time.monotonic() - watch.heard >= QUIET_SECONDS:
                    watch.heard = time.monotonic()
                    with suppress(*LOST, redis.RedisError):
                        await self._catch_up(watch)


def _quietly(task: "asyncio.Task[None]") -> None:
    if not task.cancelled() and task.exception() is not None:
        log.warning("a job's log could not be read again: %s", task.exception())
