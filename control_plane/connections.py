"""Limits the cost of a connection before its client is authenticated: uvicorn's protocols, with limits.

A client that has not yet been admitted can hold a descriptor, memory of its unfinished request, and a place in the log. So every connection has a
limit for each of them: connections in all and per address, bytes of a head, seconds for a head, and a least rate at which a body comes and an answer is taken.
Descriptors are never exhausted: at the limit the connection that has been idle longest is closed, and a new one is refused only where none is idle.

The bytes of a head are not those of its lines alone: a parser keeps what it cannot yet interpret (a value without an end, a chunk's extension, a trailer).
One rule covers them all: what came, less what was body, is at most HEAD_BYTES and eight times the body (a chunked body may have chunks of one byte).
"""

import asyncio
import ipaddress
import logging
import resource
import time
from collections import Counter, OrderedDict
from http import HTTPStatus
from typing import Any

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from dihedral.bridge import metrics
from dihedral.control_plane.head import answers_head
from dihedral.control_plane.problems import MEDIA_TYPE, ApiProblem
from dihedral.control_plane.root import below
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)

HEAD_BYTES = 64 * 1024
PIPELINED = 32
"""The number of requests that may wait behind the one being answered; each holds some kilobytes."""
LEAST_BYTES_PER_SECOND = 1024
RESERVED_DESCRIPTORS = 256
"""Descriptors reserved for Redis, the store, files and libraries."""
LINES_PER_MINUTE = 6
ADDRESSES = 10_000


class QuietLog:
    """Lets through at most LINES_PER_MINUTE warnings per address in a minute; the first line of the next minute has the number of those left out."""

    def __init__(self) -> None:
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()

    def warn(self, address: str, what: str) -> None:
        now = time.monotonic()
        begun, count = self._seen.pop(address, (now, 0))
        omitted = max(0, count - LINES_PER_MINUTE) if now - begun > 60 else 0
        if now - begun > 60:
            begun, count = now, 0
        self._seen[address] = begun, count + 1
        while len(self._seen) > ADDRESSES:
            self._seen.popitem(last=False)
        if count < LINES_PER_MINUTE:
            log.warning("%s", what, extra={"address": address} | ({"omitted": omitted} if omitted else {}))


class _Logger(logging.LoggerAdapter[logging.Logger]):
    """uvicorn's logger for one connection: its warnings are about the client's data."""

    def __init__(self, limits: "Limits", address: str) -> None:
        super().__init__(logging.getLogger("uvicorn.error"), {})
        self._limits, self._address = limits, address

    @property
    def level(self) -> int:
        return self.logger.level

    def warning(self, msg: object, *args: object, **_: Any) -> None:
        self._limits.log.warn(self._address, str(msg) % args if args else str(msg))


class Limits:
    """The connections of one process, and their limits."""

    def __init__(self, settings: Settings) -> None:
        control = settings.control
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = soft - RESERVED_DESCRIPTORS if soft != resource.RLIM_INFINITY else control.max_connections
        self.most = max(16, min(control.max_connections, room))
        self.most_per_address = control.max_connections_per_address
        self.head_seconds = control.head_seconds
        self.stall_seconds = control.stall_seconds
        self.log = QuietLog()
        self._proxies = [ipaddress.ip_network(each, strict=False) for each in control.proxies]
        self._open: set[object] = set()
        self._by_address: Counter[str] = Counter()
        self._idle: OrderedDict[Connection, None] = OrderedDict()

    def admit(self, connection: object, address: str) -> bool:
        """Returns whether one more connection is allowed; it counts from then on until `left`."""
        if len(self._open) >= self.most and not self._evict():
            return False
        if self._by_address[address] >= self.most_per_address and not self._is_proxy(address):
            return False
        self._open.add(connection)
        self._by_address[address] += 1
        return True

    def left(self, connection: object, address: str) -> None:
        if connection in self._open:
            self._open.remove(connection)
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def replace(self, connection: object, by: object) -> None:
        """Moves the connection to the protocol `by` (a WebSocket's); its address stays."""
        self._open.discard(connection)
        self._open.add(by)

    def idle(self, connection: "Connection", is_idle: bool) -> None:
        self._idle.pop(connection, None)
        if is_idle:
            self._idle[connection] = None

    def _evict(self) -> bool:
        if not self._idle:
            return False
        oldest, _ = self._idle.popitem(last=False)
        metrics.connections_refused_total.labels("evicted").inc()
        self.left(oldest, oldest.address)
        oldest.transport.abort()
        return True

    def _is_proxy(self, address: str) -> bool:
        try:
            found = ipaddress.ip_address(address)
        except ValueError:  # the address of a unix socket
            return True
        return found.is_loopback or any(found in network for network in self._proxies)


class Connection(HttpToolsProtocol):
    """The HTTP protocol with limits. `limits` is set by `protocols`."""

    limits: Limits
    socket_class: type["SocketConnection"]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.address = self.client[0] if self.client else ""
        self.logger = _Logger(self.limits, self.address)  # type: ignore[assignment]
        self._overhead = 0  # bytes of the current message that were no body
        self._body = 0
        self._moved = 0  # bytes received since the last look
        self._is_reading = True  # a request is awaited or incomplete
        self._begun: float | None = self.loop.time()  # the start time of an incomplete head
        self._unsent: int | None = None
        self._ticking: asyncio.TimerHandle | None = None
        if not self.limits.admit(self, self.address):
            metrics.connections_refused_total.labels("limit").inc()
            self.limits.log.warn(self.address, "a connection was refused: there are as many as are allowed")
            self._refuse(503, "too_many_connections", "there are as many connections as are allowed")
            return
        self.limits.idle(self, True)
        self._tick_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.idle(self, False)
        self.limits.left(self, self.address)
        if self._ticking is not None:
            self._ticking.cancel()
        super().connection_lost(exc)

    # Received data --------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        self._moved += len(data)
        if self._begun is None and self._is_reading and self._overhead == 0:
            self._begun = self.loop.time()
        before, self._completed = self._body, False
        super().data_received(data)
        if self._completed:  # the rest of the same piece is small: asyncio reads 256 KiB at most
            return
        self._overhead += len(data) - (self._body - before)
        if self._overhead > HEAD_BYTES + 8 * self._body and not self.transport.is_closing():
            self._refuse(431, "head_too_large", "the head of the request is too large")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.limits.idle(self, False)
        self._lines = 0
        self._overhead = self._body = 0
        self._is_reading = True

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def _count(self, size: int) -> None:
        """Checks within one piece, so that a refused part is never built."""
        self._lines += size
        if self._lines > HEAD_BYTES:
            raise ValueError("the head is too large")

    def on_headers_complete(self) -> None:
        self._begun = None
        self._moved = 0
        if len(self.pipeline) >= PIPELINED:
            raise ValueError("too many pipelined requests")
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._completed = True
        self._is_reading = False
        self._overhead = self._body = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self._is_reading and not self.pipeline and not self.transport.is_closing():
            self._is_reading, self._begun = True, None  # uvicorn's own timer ends a connection on which nothing follows
            self.limits.idle(self, True)

    def send_400_response(self, msg: str) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way: another one in between would be read as a part of it
            return
        self._refuse(400, "malformed_request", "this is not HTTP")

    def handle_websocket_upgrade(self) -> None:
        self.limits.idle(self, False)
        if self._ticking is not None:
            self._ticking.cancel()
        super().handle_websocket_upgrade()

    # Time limits ----------------------------------------------------------------------------------------------------

    def _tick_later(self) -> None:
        seconds = min(self.limits.head_seconds, self.limits.stall_seconds) / 2
        self._ticking = self.loop.call_later(seconds, self._tick, seconds)

    def _tick(self, seconds: float) -> None:
        """Closes the connection where its head is late, its body does not arrive, or its answer is not read."""
        if self.transport.is_closing():
            self._stalled_for(
                self.transport.get_write_buffer_size() > 0, seconds
            )  # bytes that the client has not read yet
            self._tick_later()
            return
        if self._begun is not None:
            if self.loop.time() - self._begun > self.limits.head_seconds:
                self._slow("the request did not come in time")
        elif self._is_reading and self.cycle is not None and not self.flow.read_paused and self._awaits_body():
            self._stalled_for(self._moved < LEAST_BYTES_PER_SECOND * seconds, seconds)
        else:
            self._stalled_for(self._is_stuck(seconds), seconds)
        self._moved = 0
        self._tick_later()

    def _awaits_body(self) -> bool:
        return self.cycle.more_body and not self.cycle.waiting_for_100_continue

    def _is_stuck(self, seconds: float) -> bool:
        """Returns whether the answer waits for a client that reads slower than the least rate."""
        size = self.transport.get_write_buffer_size()
        before, self._unsent = self._unsent, size if self.flow.write_paused else None
        return before is not None and self._unsent is not None and before - size < LEAST_BYTES_PER_SECOND * seconds

    _stalled = 0.0

    def _stalled_for(self, is_stalled: bool, seconds: float) -> None:
        self._stalled = self._stalled + seconds if is_stalled else 0.0
        if self._stalled >= self.limits.stall_seconds:
            self._slow("the body did not come in time")

    def _slow(self, text: str) -> None:
        metrics.connections_refused_total.labels("slow").inc()
        if self._is_answering() or self.transport.is_closing():
            self.transport.abort()
        else:
            self._refuse(408, "too_slow", text)

    def _is_answering(self) -> bool:
        return self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete

    def _refuse(self, status: int, code: str, text: str) -> None:
        """Sends a problem without a request, as far as the client can still receive one, and closes the connection."""
        if not self._is_answering():
            self.transport.write(_problem(status, code, text))
        self.transport.close()


def _problem(status: int, code: str, text: str) -> bytes:
    body = msgspec.json.encode(ApiProblem(status, code, text).document(""))
    head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
    return head.encode() + body


class SocketConnection(WebSocketsSansIOProtocol):
    """The WebSocket protocol; it counts as the connection that it was before its handshake."""

    limits: Limits

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._before = transport.get_protocol()
        self.limits.replace(self._before, self)
        super().connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self.limits.left(self, getattr(self._before, "address", ""))
        super().connection_lost(exc)


def protocols(settings: Settings) -> dict[str, Any]:
    """Returns `http` and `ws` for uvicorn.Config, sharing their limits."""
    limits = Limits(settings)
    socket = type("LimitedSocket", (SocketConnection,), {"limits": limits})
    return {"http": type("LimitedConnection", (Connection,), {"limits": limits}), "ws": socket}


def config(app: Any, settings: Settings, **options: Any) -> uvicorn.Config:
    """Returns uvicorn's configuration for this application, with the limits of its settings."""
    return uvicorn.Config(
        below(settings.control.root_path, answers_head(app)),
        **protocols(settings),
        ws_ping_interval=settings.websocket.ping_seconds,
        ws_ping_timeout=settings.websocket.ping_seconds,
        ws_max_size=max(1 << 20, settings.websocket.max_message_bytes * 2),
        log_config=None,
        access_log=False,
        **options,
    )
