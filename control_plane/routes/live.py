"""`/ws` and Server-Sent Events: two ways to send what the hub's subscriptions collect. Pings are uvicorn's (websocket.pingSeconds)."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable
from contextlib import ExitStack, aclosing, suppress
from typing import Any

import msgspec
import redis
from litestar import Request, WebSocket, websocket
from litestar.datastructures import State
from litestar.exceptions import WebSocketDisconnect
from litestar.response import Stream

from dihedral.bridge import metrics
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS
from dihedral.control_plane.access import Access, Principal, principal
from dihedral.control_plane.hub import Hub, UnknownJob
from dihedral.control_plane.problems import ApiProblem, as_problem, refuse
from dihedral.control_plane.watches import Subscription, Update
from dihedral.schemas.structs.graph import Estimate
from dihedral.schemas.structs.websocket import (
    ClientMessage,
    FailureReason,
    Response,
    ResponseMessage,
    Subscribe,
    Unsubscribe,
)

log = logging.getLogger(__name__)

GOING_AWAY, POLICY_VIOLATION, INTERNAL_ERROR, TRY_AGAIN_LATER = 1001, 1008, 1011, 1013
CLOSE_SECONDS = 10.0
COMMENT_SECONDS = 15.0
ADMITTED_SECONDS = 1.0
"""Seconds between checks that the key of an open socket is still valid; Redis is asked only once a second."""
MAX_SEQ = 2**53
STORE_LOST = (*CONNECTION_ERRORS, redis.RedisError)

_decode = msgspec.json.Decoder(ClientMessage).decode


class _Dropped(Exception):
    def __init__(self, code: int, reason: str, *, slow: bool = False) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.slow = slow


class _Gone(Exception):
    """The client has gone."""


class Client:
    """One WebSocket: reads subscriptions, sends their events; a slow one is closed and delays no other."""

    def __init__(self, socket: WebSocket[Any, Any, State], hub: Hub, access: Access, found: Principal) -> None:
        self._socket = socket
        self._hub = hub
        self._access = access
        self._principal = found
        self._wake = asyncio.Event()
        self._replies: list[bytes] = []
        self._answered = asyncio.Event()
        self._subscriptions: dict[str, Subscription] = {}
        self._sending_since: float | None = None

    async def serve(self) -> None:
        with self._hub.attended(self._wake.set):
            tasks = [asyncio.ensure_future(side) for side in (self._read(), self._write(), self._watch())]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in tasks:
                    task.cancel()
                ends = await asyncio.gather(*tasks, return_exceptions=True)
                for subscription in self._subscriptions.values():
                    self._hub.unsubscribe(subscription)
            for end in ends:
                match end:
                    case _Dropped():
                        metrics.websocket_errors_total.inc()
                        if end.slow:
                            metrics.hub_slow_clients.inc()
                        await self._close(end.code, end.reason)
                    case None | _Gone() | asyncio.CancelledError():
                        continue
                    case _:
                        metrics.websocket_errors_total.inc()
                        log.error("a WebSocket client is dropped for an error here", exc_info=end)
                        await self._close(INTERNAL_ERROR, "something went wrong here; resume with after")

    async def _close(self, code: int, reason: str) -> None:
        """Closes the socket with a reason. A client that does not read has limited time to receive it, and uses no other resource by then."""
        with suppress(TimeoutError, _Gone):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._or_gone(self._socket.close(code, reason))

    async def _read(self) -> None:
        while True:
            try:
                text = await self._socket.receive_data("text")
            except WebSocketDisconnect as error:
                raise _Gone from error
            metrics.websocket_messages_received_total.inc()
            message = self._understood(text)
            if message is None:
                self._fail(None, FailureReason.bad_message)
            elif isinstance(message, Subscribe):
                await self._subscribe(message)
            else:
                subscription = self._subscriptions.pop(message.job_id, None)
                if subscription is not None:
                    self._hub.unsubscribe(subscription)
                self._reply(ResponseMessage.unsubscribed, message.job_id)
            while (
                len(self._replies) > self._hub.settings.queue_length
            ):  # the client asks faster than it reads the answers
                self._answered.clear()
                await self._answered.wait()

    def _understood(self, text: str) -> Subscribe | Unsubscribe | None:
        """Receives a text; a binary frame is returned as an empty text, which is no valid message either."""
        limit = self._hub.settings.max_message_bytes
        if len(text) > limit or len(text.encode()) > limit:
            return None
        try:
            message: Subscribe | Unsubscribe = _decode(text)
        except (msgspec.DecodeError, RecursionError, UnicodeError):
            return None
        return message

    async def _subscribe(self, message: Subscribe) -> None:
        job_id = message.job_id
        before = self._subscriptions.pop(job_id, None)
        if before is not None:
            self._hub.unsubscribe(before)
        if len(self._subscriptions) >= self._hub.settings.max_subscriptions:
            self._fail(job_id, FailureReason.limit)
            return
        after = min(message.after, MAX_SEQ) if isinstance(message.after, int) else 0
        epoch = message.epoch if isinstance(message.epoch, str) else None
        try:
            subscription = await self._hub.subscribe(
                job_id, after, epoch, self._wake.set, self._principal.visible_owner
            )
        except UnknownJob:
            self._fail(job_id, FailureReason.unknown_job)
            return
        except STORE_LOST as error:
            raise _Dropped(TRY_AGAIN_LATER, "the job store cannot be reached now") from error
        self._reply(ResponseMessage.subscribed, job_id)
        self._subscriptions[job_id] = subscription

    def _reply(self, message: ResponseMessage, job_id: str | None, reason: FailureReason | None = None) -> None:
        response = Response(action="response", message=message, job_id=job_id)
        if reason is not None:
            response.reason = reason
        self._replies.append(msgspec.json.encode(response))
        self._wake.set()

    def _fail(self, job_id: str | None, reason: FailureReason) -> None:
        metrics.websocket_errors_total.inc()
        self._reply(ResponseMessage.failed, job_id, reason)

    async def _write(self) -> None:
        """Sends replies first: a subscription's events come after the answer to its request."""
        interval = self._hub.settings.update_interval_ms / 1000
        while True:
            if self._hub.closing.is_set():
                raise _Dropped(GOING_AWAY, "the control plane goes away; connect again")
            self._wake.clear()
            replies, self._replies = self._replies, []
            self._answered.set()
            for reply in replies:
                await self._send(reply)
            for job_id, subscription in list(self._subscriptions.items()):
                if not self._replies and self._subscriptions.get(job_id) is subscription:
                    await self._tell(job_id, subscription, interval)
            waits = [each.due(interval) for each in self._subscriptions.values()]
            with suppress(TimeoutError):
                async with asyncio.timeout(min((wait for wait in waits if wait is not None), default=None)):
                    await self._wake.wait()

    async def _tell(self, job_id: str, subscription: Subscription, interval: float) -> None:
        if subscription.due(interval) != 0:
            return
        try:
            if subscription.lost:
                await self._hub.fill(subscription, subscription.sent)
            chunk = subscription.collect()
        except UnknownJob:
            chunk = None
        except STORE_LOST as error:
            raise _Dropped(TRY_AGAIN_LATER, "the job store cannot be reached now; resume with after") from error
        if chunk is not None and chunk.kind != "gone":
            await self._send(subscription.watch.encode(chunk))
        elif self._subscriptions.get(job_id) is subscription:
            del self._subscriptions[job_id]
            self._hub.unsubscribe(subscription)
            self._fail(job_id, FailureReason.unknown_job)

    async def _send(self, data: bytes) -> None:
        self._sending_since = time.monotonic()
        await self._or_gone(self._socket.send_text(data.decode()))
        self._sending_since = None
        metrics.websocket_messages_sent_total.inc()

    async def _or_gone(self, sending: Awaitable[None]) -> None:
        """Turns the server's many errors for a closed connection into one; after an unanswered ping it is a RuntimeError."""
        try:
            await sending
        except (RuntimeError, OSError, WebSocketDisconnect) as error:
            raise _Gone from error

    async def _watch(self) -> None:
        """Drops a client that does not read its messages, or whose key is no longer valid."""
        stall = self._hub.settings.send_timeout_seconds
        look = min(0.25, stall / 4)
        asked = time.monotonic()
        while True:
            await asyncio.sleep(look)
            if time.monotonic() - asked > ADMITTED_SECONDS:
                asked = time.monotonic()
                if not await _still(self._access, self._principal):
                    raise _Dropped(POLICY_VIOLATION, "the API key is no longer valid")
            if self._sending_since is None:
                continue
            waited = time.monotonic() - self._sending_since
            if waited > stall:
                raise _Dropped(
                    TRY_AGAIN_LATER, f"a message was not taken within {stall:g} s; resume with after", slow=True
                )
            if waited > look and any(subscription.lost for subscription in self._subscriptions.values()):
                raise _Dropped(TRY_AGAIN_LATER, "too far behind; resume with after", slow=True)


@websocket("/ws")
async def ws(socket: WebSocket[Any, Any, State]) -> None:
    access: Access = socket.app.state.access
    try:
        found = await access.admit(socket.scope, "read", changes=True, cookie=True)
        counted = ExitStack()
        counted.enter_context(access.socket(found))
    except Exception as error:
        await _refuse(socket, as_problem(error))
        return
    with counted:
        await _attend(socket, access, found)


async def _refuse(socket: WebSocket[Any, Any, State], problem: ApiProblem) -> None:
    """Refuses before the handshake: with a problem document where the server can send one, else with a bare 403."""
    if "websocket.http.response" not in (socket.scope.get("extensions") or {}):
        await socket.close(POLICY_VIOLATION, problem.code)
        return
    await refuse(socket.scope, problem, socket.send, "websocket.http.response")


async def _attend(socket: WebSocket[Any, Any, State], access: Access, found: Principal) -> None:
    await socket.accept()
    metrics.websocket_connections_total.inc()
    begun = time.monotonic()
    metrics.websocket_clients_connected.inc()
    try:
        await Client(socket, socket.app.state.hub, access, found).serve()
    finally:
        metrics.websocket_clients_connected.dec()
        metrics.websocket_client_lifetime_seconds.observe(time.monotonic() - begun)


async def sse_response(request: Request[Any, Any, State], job_id: str, after: int) -> Stream:
    """Streams every event after `after`, then live, until the job has ended. Raises ApiProblem for an unknown job."""
    state, found = request.app.state, principal(request)
    await state.queue.view(job_id, visible_owner=found.visible_owner)
    # The stream is counted at the check, and until the end of the request: a hundred that come at once count as a hundred.
    request.scope["state"]["until_end"].enter_context(state.access.socket(found))
    # The generator subscribes when it is first asked: one that never is, because the client has gone, leaves nothing behind.
    return Stream(
        _admitted(state.access, found, server_sent(state.hub, job_id, after, found.visible_owner)),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _admitted(access: Access, found: Principal, pieces: AsyncGenerator[bytes, None]) -> AsyncIterator[bytes]:
    """Yields the stream while its key is valid; for a silent job the key is checked with each comment."""
    async with aclosing(pieces):
        asked = time.monotonic()
        async for piece in pieces:
            if time.monotonic() - asked > ADMITTED_SECONDS:
                asked = time.monotonic()
                if not await _still(access, found):
                    return
            yield piece


async def _still(access: Access, found: Principal) -> bool:
    """Checks the key. While Redis is away no client is dropped: they were admitted before, and receive nothing new anyway."""
    try:
        return await access.still(found)
    except STORE_LOST:
        return True


async def server_sent(
    hub: Hub, job_id: str, after: int, visible_owner: str | None = None, *, comment_seconds: float = COMMENT_SECONDS
) -> AsyncGenerator[bytes, None]:
    """Ends with the job, with this process, or when the job store is lost; a client then resumes with Last-Event-ID."""
    interval = hub.settings.update_interval_ms / 1000
    wake = asyncio.Event()
    with hub.attended(wake.set), suppress(UnknownJob, *STORE_LOST):
        subscription = await hub.subscribe(job_id, after, None, wake.set, visible_owner)
        try:
            told: tuple[float, dict[str, Estimate]] = (-1.0, {})
            while not hub.closing.is_set():
                wake.clear()
                if subscription.lost:
                    await hub.fill(subscription, subscription.sent)
                wait = subscription.due(interval)
                if wait == 0:
                    chunk = subscription.collect()
                    for piece in _pieces(chunk):
                        yield piece
                    if chunk.last:
                        return
                    if (chunk.progress, chunk.estimated()) != told:
                        told = (chunk.progress, chunk.estimated())
                        yield _progress(chunk)
                    continue
                try:
                    async with asyncio.timeout(comment_seconds if wait is None else wait):
                        await wake.wait()
                except TimeoutError:
                    if wait is None:
                        yield b": still here\n\n"
        finally:
            hub.unsubscribe(subscription)


class _Line(msgspec.Struct):
    type: str
    seq: int


def _pieces(chunk: Update) -> list[bytes]:
    if chunk.snapshot is not None:
        return [_sse("resync", chunk.seq, chunk.encoded().decode())]
    lines = [msgspec.json.decode(text, type=_Line) for text in chunk.events]
    return [_sse(line.type, line.seq, text) for line, text in zip(lines, chunk.events, strict=True)]


def _progress(chunk: Update) -> bytes:
    body = {
        "type": "progress", "seq": chunk.seq, "status": chunk.status, "progress": chunk.progress, **chunk.estimated(),
    }  # fmt: skip
    return _sse("progress", None, msgspec.json.encode(body).decode())


def _sse(event: str, seq: int | None, data: str) -> bytes:
    number = "" if seq is None else f"id: {seq}\n"
    return f"event: {event}\n{number}data: {data}\n\n".encode()


live_routes = [ws]
