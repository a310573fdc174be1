"""Answers HEAD wherever there is GET: the answer to GET without its body (RFC 9110, 9.3.2)."""

from typing import Any

from litestar.types import ASGIApp, Message, Receive, Send


def is_head(scope: Any) -> bool:
    """Returns whether a handler may skip an expensive answer, since its body will not be sent."""
    return bool(scope["state"].get("is_head"))


def answers_head(app: ASGIApp) -> ASGIApp:
    """Handles HEAD. The server itself leaves the body out; a stream receives a disconnect as soon as its head is sent."""

    async def wrapped(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await app(scope, receive, send)
            return
        ended = False

        async def head_only(message: Message) -> None:
            nonlocal ended
            if message["type"] == "http.response.body":
                if ended:
                    return
                ended = True
                message = {"type": "http.response.body", "body": b"", "more_body": False}
            await send(message)

        inner: Any = {**scope, "method": "GET", "state": {**scope.get("state", {}), "is_head": True}}
        await app(inner, receive, head_only)

    return wrapped
