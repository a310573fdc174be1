"""The events that a node has emitted and that are not written yet: their number is bounded, however many its task emits.

Lua's memory does not count for the server's limit, and a script stops every other client: 178 bytes of `simulate` without pauses
once made one report of a million events, of which the server took 12 GB and for minutes did nothing else. So a
node has a token bucket of events and of bytes. Beyond it only the latest event of each `data` name is kept (a curve keeps its last point);
what was left out is counted, and the count is an event of its own.
"""

import time
from collections.abc import Callable
from typing import Any

import msgspec

from dihedral.bridge.tasks.runs import EVENT_BYTES
from dihedral.schemas.structs.events import DataEvent, LogEvent, LogLevel

BURST_EVENTS, EVENTS_PER_SECOND = 1000, 100.0
BURST_BYTES, BYTES_PER_SECOND = 1 << 20, 128 * 1024.0
KEPT_NAMES, KEPT_BYTES = 32, 256 * 1024
CHUNK_EVENTS, CHUNK_BYTES = 250, 256 * 1024  # limits of one report, so that no single call blocks the server
COUNT_SECONDS = 1.0
UNNUMBERED: dict[str, Any] = {"seq": 1, "created": ""}
"""The seq and time of an event that Redis has not logged yet: the script that logs it writes both."""
_PLACEHOLDER = b'"seq":1,"created":"",'


class Outbox:
    def __init__(self, node_id: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._node_id = node_id
        self._clock = clock
        self._queued: list[str] = []
        self._latest: dict[str, str] = {}
        self._left_out = 0
        self._closed = False
        self._counted_at = self._refilled_at = clock()
        self._events, self._bytes = float(BURST_EVENTS), float(BURST_BYTES)

    def __bool__(self) -> bool:
        return bool(self._queued or self._latest or self._left_out)

    def put(self, event: DataEvent | LogEvent) -> None:
        """Adds an event (UNNUMBERED). A later data event of the same name may replace this one."""
        if self._closed:
            return
        name = event.name if isinstance(event, DataEvent) else ""
        text = _encoded(event)
        if len(text) > EVENT_BYTES:
            name = ""
            text = self._warning(f"an event of {len(text)} bytes was dropped; the limit is {EVENT_BYTES}")
        body = text[1:-1].decode()
        self._left_out += self._latest.pop(name, None) is not None
        if not self._affords(len(text)):
            self._set_aside(name, body)
            return
        self._queued.append(body)

    def close(self) -> None:
        """Closes the outbox: a thread that the task left behind could otherwise add events for ever."""
        self._closed = True

    def take(self, *, last: bool = False) -> list[str]:
        """Returns the events that one report may carry, in order. `last`: the node has ended, so held-back events are due; call it until it returns none."""
        now = self._clock()
        for name, body in list(self._latest.items()):
            if last or self._affords(len(body)):
                self._queued.append(self._latest.pop(name))
        if self._left_out and (last or now - self._counted_at >= COUNT_SECONDS):
            self._counted_at = now
            dropped = f"{self._left_out} events were dropped: a node may emit {EVENTS_PER_SECOND:g} a second and {BURST_EVENTS} at once"
            self._left_out = 0
            self._queued.append(self._warning(dropped)[1:-1].decode())
        size = count = 0
        for body in self._queued[:CHUNK_EVENTS]:
            size += len(body)
            count += 1
            if size >= CHUNK_BYTES:
                break
        taken, self._queued = self._queued[:count], self._queued[count:]
        return taken

    def _affords(self, size: int) -> bool:
        now = self._clock()
        passed, self._refilled_at = now - self._refilled_at, now
        self._events = min(BURST_EVENTS, self._events + passed * EVENTS_PER_SECOND)
        self._bytes = min(BURST_BYTES, self._bytes + passed * BYTES_PER_SECOND)
        if self._events < 1 or self._bytes < size:
            return False
        self._events -= 1
        self._bytes -= size
        return True

    def _set_aside(self, name: str, body: str) -> None:
        if not name:
            self._left_out += 1
            return
        self._latest[name] = body
        while len(self._latest) > KEPT_NAMES or sum(map(len, self._latest.values())) > KEPT_BYTES:
            self._latest.pop(next(iter(self._latest)))
            self._left_out += 1

    def _warning(self, message: str) -> bytes:
        return _encoded(LogEvent(**UNNUMBERED, node_id=self._node_id, level=LogLevel.warning, message=message))


def _encoded(event: DataEvent | LogEvent) -> bytes:
    """The event without what Redis writes; these fields come right behind the tag, so the first match is theirs."""
    return msgspec.json.encode(event).replace(_PLACEHOLDER, b"", 1)
