"""The state of each watched job in this process, and the events still to be sent to each client; pure, without a connection.

A subscription keeps what its client has not received yet: event texts (shared between clients) and the fact that progress
has moved, which is sent at most once per interval. What is more than websocket.queueLength is not kept but read from the log
again when the client collects it; no other client waits for a slow one.

Progress is not logged: it carries the last logged seq and passes when (seq, progress) is greater than what was seen, because
between two events progress only rises.
"""

import asyncio
import time
from collections.abc import Callable

import msgspec

from dihedral.bridge import metrics
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.jobs import JobView
from dihedral.bridge.fabric.lifecycle import JOB_ENDED
from dihedral.schemas.structs.graph import Estimate
from dihedral.schemas.structs.websocket import Snapshot

FIRST_ESTIMATE_SECONDS = 1.0
"""Seconds after which a watched job is estimated: one that ends before costs nothing."""


class EventHeader(msgspec.Struct):
    """The fields of a message that the hub reads; the rest is passed on unchanged."""

    type: str
    seq: int = 0
    status: str = ""
    progress: float = 0.0


_head = msgspec.json.Decoder(EventHeader).decode


class Update(msgspec.Struct, frozen=True):
    """The next message of one subscription. `seq`: the last logged event that it covers."""

    kind: str  # update, resync or gone
    job_id: str
    epoch: str
    seq: int
    status: str
    progress: float
    events: tuple[str, ...] = ()
    snapshot: Snapshot | None = None
    estimate: Estimate | None = None
    starts_in: Estimate | None = None

    @property
    def last(self) -> bool:
        return self.kind == "gone" or self.status in JOB_ENDED

    def encoded(self) -> bytes:
        """Encodes the message for the client; event texts are joined, not decoded."""
        if self.snapshot is not None:
            return msgspec.json.encode({"type": "resync", "jobId": self.job_id, "snapshot": self.snapshot})
        head = {
            "type": "update", "jobId": self.job_id, "epoch": self.epoch, "seq": self.seq, "status": self.status,
            "progress": self.progress, **self.estimated(),
        }  # fmt: skip
        return msgspec.json.encode(head)[:-1] + b',"events":[' + ",".join(self.events).encode() + b"]}"

    def estimated(self) -> dict[str, Estimate]:
        """Returns the fields of the estimates that are known."""
        both = {"estimate": self.estimate, "startsIn": self.starts_in}
        return {name: value for name, value in both.items() if value is not None}


class Subscription:
    """One client's view of one job. `wake` is called when there is something to collect.

    `lost`: more came than is kept; the client must have it filled again (Hub.fill) before it collects.
    """

    __slots__ = (
        "_last_sent",
        "events",
        "first",
        "limit",
        "lost",
        "moved",
        "ready",
        "replaced",
        "sent",
        "since",
        "wake",
        "watch",
    )

    def __init__(self, watch: "Watch", limit: int, wake: Callable[[], None]) -> None:
        self.watch = watch
        self.limit = limit
        self.wake = wake
        self.events: list[tuple[int, str]] = []
        self.sent = 0
        self.since = 0.0  # the time at which the oldest of `events` was received
        self.ready = False
        self.first = True
        self.moved = False
        self.lost = False
        self.replaced: Snapshot | None = None
        self._last_sent = 0.0

    def push(self, seq: int, text: str) -> None:
        if seq <= self.sent or self.lost:
            return
        if not self.events:
            self.since = time.monotonic()
        self.events.append((seq, text))
        if self.ready:
            if len(self.events) > self.limit:
                self.events, self.lost = [], True
                metrics.hub_overflows.inc()
            self.wake()

    def move(self) -> None:
        self.moved = True
        self.wake()

    def replace(self, snapshot: Snapshot) -> None:
        """Drops the unsent events: they are in the snapshot."""
        self.events, self.lost = [], False
        self.replaced, self.sent = snapshot, snapshot.seq
        self.wake()

    def due(self, interval: float) -> float | None:
        """Returns the seconds until there is a message to send: 0 now, None never."""
        if not self.ready:
            return None
        if self.first or self.replaced or self.events or self.lost or self.watch.gone:
            return 0.0
        if self.moved:
            return max(0.0, self._last_sent + interval - time.monotonic())
        return None

    def collect(self) -> Update:
        """Takes everything that is pending; the notice that the job is gone comes last."""
        watch = self.watch
        kind, taken, snapshot = "update", self.events, self.replaced
        status, progress = watch.status, watch.progress
        if snapshot is not None:
            # Events that came after the snapshot was made stay for the next chunk.
            kind, taken, self.replaced = "resync", [], None
            status, progress = str(snapshot.status), snapshot.progress
        elif taken:
            self.events, self.sent = [], taken[-1][0]
        elif watch.gone:
            kind = "gone"
        self.first = False
        self.moved = (progress, status) != (watch.progress, watch.status)
        self._last_sent = time.monotonic()
        if taken:
            metrics.hub_lag_seconds.observe(self._last_sent - self.since)
        texts = tuple(text for _, text in taken)
        left = (None, None) if status in JOB_ENDED else watch.left()
        return Update(kind, watch.job_id, watch.epoch, self.sent, status, progress, texts, snapshot, *left)


class Watch:
    """The state of a watched job in this process. `seq`: None until the job was read."""

    __slots__ = (
        "asked",
        "confirmed",
        "early",
        "encoded",
        "epoch",
        "estimate",
        "estimate_at",
        "estimated_at",
        "gone",
        "heard",
        "job_id",
        "moved_at",
        "owner",
        "progress",
        "reading",
        "seq",
        "starts_in",
        "status",
        "subscriptions",
        "wanted",
    )

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.epoch = ""
        self.seq: int | None = None
        self.status = ""
        self.owner = ""
        self.progress = 0.0
        self.moved_at = 0
        self.gone = False
        self.wanted = 0
        self.heard = time.monotonic()
        self.estimate_at = self.heard + FIRST_ESTIMATE_SECONDS
        self.estimated_at = 0.0
        self.estimate: Estimate | None = None
        self.starts_in: Estimate | None = None
        self.asked = False  # its own subscription has been sent
        self.confirmed = asyncio.Event()
        self.reading = asyncio.Lock()
        self.early: list[bytes] = []
        self.encoded: tuple[Update, bytes] | None = None
        self.subscriptions: set[Subscription] = set()

    @property
    def channels(self) -> list[str]:
        return [keys.status_channel(self.job_id), keys.progress_channel(self.job_id), keys.data_channel(self.job_id)]

    def begin(self, view: JobView, epoch: str) -> None:
        self.epoch, self.seq, self.status, self.owner = epoch, view.seq, view.status, view.owner
        self.progress, self.moved_at = view.progress, view.seq

    def advance(self, head: EventHeader, text: str) -> None:
        """Adds the next logged event."""
        self.seq = head.seq
        if head.type == "status":
            self.status, self.progress, self.moved_at = head.status, head.progress, head.seq
            self.starts_in = None  # it was that of the status before
        for subscription in self.subscriptions:
            subscription.push(head.seq, text)

    def move(self, seq: int, progress: float) -> None:
        """Applies progress as of the logged event `seq`; an older one changes nothing."""
        if (seq, progress) <= (self.moved_at, self.progress) or self.status in JOB_ENDED:
            return
        self.moved_at = seq
        if progress != self.progress:
            self.progress = progress
            for subscription in self.subscriptions:
                subscription.move()

    def expect(self, estimate: Estimate | None, starts_in: Estimate | None) -> None:
        """Applies what is estimated now; the clients receive it where it is not what time alone has made of the last."""
        if self.status in JOB_ENDED:
            return
        expected = self.left()
        self.estimate, self.starts_in, self.estimated_at = estimate, starts_in, time.monotonic()
        if not (_alike(expected[0], estimate) and _alike(expected[1], starts_in)):
            for subscription in self.subscriptions:
                subscription.move()

    def left(self) -> tuple[Estimate | None, Estimate | None]:
        """Returns (seconds to the end, seconds to the start) now; a range that has passed is unknown."""
        age = time.monotonic() - self.estimated_at
        return _after(self.estimate, age), _after(self.starts_in, age)

    def encode(self, chunk: Update) -> bytes:
        """Encodes a message once: clients at the same event receive the same bytes."""
        if self.encoded is None or self.encoded[0] != chunk:
            self.encoded = (chunk, chunk.encoded())
        return self.encoded[1]


def _after(estimate: Estimate | None, seconds: float) -> Estimate | None:
    if estimate is None or (estimate.high < seconds and estimate.high > 0):
        return None
    return Estimate(low=round(max(0.0, estimate.low - seconds), 1), high=round(max(0.0, estimate.high - seconds), 1))


def _alike(one: Estimate | None, other: Estimate | None) -> bool:
    """Returns whether two ranges differ by no more than a tenth, or a second."""
    if one is None or other is None:
        return one is other
    return all(abs(a - b) <= max(1.0, 0.1 * b) for a, b in ((one.low, other.low), (one.high, other.high)))


def numbered(view: JobView) -> list[tuple[int, str]]:
    return list(enumerate(view.events, view.seq - len(view.events) + 1))


def understood(data: bytes) -> EventHeader | None:
    """Decodes a message; returns None for an unknown format, which may still mean that the job changed."""
    try:
        return _head(data)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        return None
