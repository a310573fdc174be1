"""`/ws` and Server-Sent Events: two ways to say what the hub's subscriptions collect. Pings are uvicorn's (websocket.pingSeconds)."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import msgspec
from litestar import Request, WebSocket, websocket
from litestar.datastructures import State
from litestar.exceptions import WebSocketDisconnect
from litestar.response import Stream

from bridge import metrics
from bridge.connection import LOST
from control_plane.hub import Hub, Subscription, UnknownJob
from control_plane.problems import unknown_job
from schemas.structs.websocket import ClientMessage, FailureReason, Response, ResponseMessage, Subscribe

GOING_AWAY, TRY_AGAIN_LATER = 1001, 1013
COMMENT_SECONDS = 15.0

_decode = msgspec.json.Decoder(ClientMessage).decode


class _Dropped(Exception):
    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


class Client:
    """One WebSocket: reads subscriptions, sends what they collect; a slow one is closed and slows nobody."""

    def __init__(self, socket: WebSocket[Any, Any, State], hub: Hub) -> None:
        self._socket = socket
        self._hub = hub
        self._wake = asyncio.Event()
        self._replies: list[bytes] = []
        self._subscriptions: dict[str, Subscription] = {}
        self._sending_since: float | None = None

    async def serve(self) -> None:
        reading = asyncio.ensure_future(self._read())
        writing = asyncio.ensure_future(self._write())
        watching = asyncio.ensure_future(self._watch())
        tasks = {reading, writing, watching}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, _Dropped):
                    metrics.websocket_errors_total.inc()
                    async with asyncio.timeout(1):
                        await self._socket.close(error.code, error.reason)
        except (TimeoutError, RuntimeError, WebSocketDisconnect):
            pass  # it is gone already
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for subscription in self._subscriptions.values():
                await self._hub.unsubscribe(subscription)

    async def _read(self) -> None:
        limit = self._hub.settings.max_message_bytes
        while True:
            try:
                text = await self._socket.receive_data("text")
            except WebSocketDisconnect:
                return
            except (KeyError, TypeError, AttributeError):
                text = ""
            metrics.websocket_messages_received_total.inc()
            if not isinstance(text, str) or len(text) > limit:
                self._fail(None, FailureReason.bad_message)
                continue
            try:
                message = _decode(text)
            except (msgspec.DecodeError, RecursionError, UnicodeError):
                self._fail(None, FailureReason.bad_message)
                continue
            if isinstance(message, Subscribe):
                await self._subscribe(message)
            else:
                subscription = self._subscriptions.pop(message.job_id, None)
                if subscription is not None:
                    await self._hub.unsubscribe(subscription)
                self._reply(ResponseMessage.unsubscribed, message.job_id)

    async def _subscribe(self, message: Subscribe) -> None:
        job_id = message.job_id
        before = self._subscriptions.pop(job_id, None)
        if before is not None:
            await self._hub.unsubscribe(before)
        if len(self._subscriptions) >= self._hub.settings.max_subscriptions:
            self._fail(job_id, FailureReason.limit)
            return
        after = message.after if isinstance(message.after, int) else 0
        epoch = message.epoch if isinstance(message.epoch, str) else None
        try:
            subscription = await self._hub.subscribe(job_id, after, epoch, self._wake.set)
        except UnknownJob:
            self._fail(job_id, FailureReason.unknown_job)
            return
        except LOST as error:
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
        if len(self._replies) > self._hub.settings.queue_length:
            raise _Dropped(TRY_AGAIN_LATER, "too many bad messages")
        self._reply(ResponseMessage.failed, job_id, reason)

    async def _write(self) -> None:
        interval = self._hub.settings.update_interval_ms / 1000
        while True:
            if self._hub.closing.is_set():
                raise _Dropped(GOING_AWAY, "the control plane goes away; connect again")
            nearest: float | None = None
            replies, self._replies = self._replies, []
            for reply in replies:
                await self._send(reply)
            for job_id, subscription in list(self._subscriptions.items()):
                wait = subscription.due(interval)
                if wait == 0:
                    await self._tell(job_id, subscription)
                elif wait is not None:
                    nearest = wait if nearest is None else min(nearest, wait)
            if self._replies or any(each.due(interval) == 0 for each in self._subscriptions.values()):
                continue
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(nearest):
                    await self._wake.wait()

    async def _tell(self, job_id: str, subscription: Subscription) -> None:
        chunk = subscription.collect()
        if chunk.kind == "gone":
            self._subscriptions.pop(job_id, None)
            await self._hub.unsubscribe(subscription)
            self._fail(job_id, FailureReason.unknown_job)
            return
        await self._send(subscription.watch.encode(chunk))

    async def _send(self, data: bytes) -> None:
        self._sending_since = time.monotonic()
        await self._socket.send_text(data.decode())
        self._sending_since = None
        metrics.websocket_messages_sent_total.inc()

    async def _watch(self) -> None:
        """Drops a client that does not take what it is sent."""
        stall = self._hub.settings.send_timeout_seconds
        while True:
            await asyncio.sleep(min(0.25, stall / 4))
            since = self._sending_since
            if since is None:
                continue
            if time.monotonic() - since > stall:
                raise _Dropped(TRY_AGAIN_LATER, f"a message was not taken within {stall:g} s; resume with after")
            if any(subscription.behind for subscription in self._subscriptions.values()):
                raise _Dropped(TRY_AGAIN_LATER, "too far behind; resume with after")


@websocket("/ws")
async def ws(socket: WebSocket[Any, Any, State]) -> None:
    await socket.accept()
    metrics.websocket_connections_total.inc()
    begun = time.monotonic()
    metrics.websocket_clients_connected.inc()
    try:
        await Client(socket, socket.app.state.hub).serve()
    finally:
        metrics.websocket_clients_connected.dec()
        metrics.websocket_client_lifetime_seconds.observe(time.monotonic() - begun)


async def sse_response(request: Request[Any, Any, State], job_id: str, after: int) -> Stream:
    """Every event after `after`, then live, until the job has ended. Raises ApiProblem for an unknown job."""
    hub: Hub = request.app.state.hub
    wake = asyncio.Event()
    try:
        subscription = await hub.subscribe(job_id, after, None, wake.set)
    except UnknownJob as error:
        raise unknown_job(job_id) from error
    return Stream(
        _events(hub, subscription, wake),
        media_type="text/event-stream",
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(hub: Hub, subscription: Subscription, wake: asyncio.Event) -> AsyncIterator[bytes]:
    interval = hub.settings.update_interval_ms / 1000
    progress = -1.0
    try:
        while not hub.closing.is_set():
            wait = subscription.due(interval)
            if wait == 0:
                chunk = subscription.collect()
                if chunk.snapshot is not None:
                    yield _sse("resync", chunk.seq, chunk.encoded().decode())
                for text in chunk.events:
                    head = msgspec.json.decode(text, type=_Line)
                    yield _sse(head.type, head.seq, text)
                if chunk.progress != progress and not chunk.last:
                    progress = chunk.progress
                    body = {"type": "progress", "seq": chunk.seq, "status": chunk.status, "progress": progress}
                    yield _sse("progress", None, msgspec.json.encode(body).decode())
                if chunk.last:
                    return
                continue
            wake.clear()
            try:
                async with asyncio.timeout(min(COMMENT_SECONDS, wait or COMMENT_SECONDS)):
                    await wake.wait()
            except TimeoutError:
                if wait is None:
                    yield b": still here\n\n"
    finally:
        await hub.unsubscribe(subscription)


class _Line(msgspec.Struct):
    type: str
    seq: int


def _sse(event: str, seq: int | None, data: str) -> bytes:
    number = "" if seq is None else f"id: {seq}\n"
    return f"event: {event}\n{number}data: {data}\n\n".encode()


live_routes = [ws]
