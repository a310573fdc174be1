"""An answer of JSON that is encoded already: sent as it is, without the steps by which Litestar finds out how to encode what it is given."""

from typing import Any

from litestar import Response
from litestar.response.base import ASGIResponse
from litestar.types import Receive, Scope, Send


class Encoded(Response[bytes]):
    """JSON as bytes. `location`: the address of what the request made. It has no other headers and no cookies, and what a route declares of them is not sent."""

    def __init__(self, content: bytes, status_code: int = 200, location: str | None = None) -> None:
        self.content, self.status_code, self.location = content, status_code, location

    def to_asgi_response(self, *_: Any, **__: Any) -> ASGIResponse:
        return _Sent(self)


class _Sent(ASGIResponse):
    def __init__(self, answer: Encoded) -> None:
        self.body, self.status_code = answer.content, answer.status_code or 200
        self._headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(self.body)).encode()),
        ]
        if answer.location is not None:
            self._headers.append((b"location", answer.location.encode()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self._headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": False})
