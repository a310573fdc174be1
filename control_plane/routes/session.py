"""A browser's session: a key becomes a cookie that reads, for requests that cannot carry a header (WebSocket, event stream, media)."""

from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.datastructures import Cookie, State
from litestar.openapi.datastructures import ResponseSpec

from dihedral.bridge.times import rfc3339
from dihedral.control_plane.access import COOKIE, Access, Principal, principal
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.root import address

Req = Request[Any, Any, State]


class SessionView(msgspec.Struct, rename="camel"):
    """A session as its document shows it. `owner` None without an end: this control plane requires no key."""

    owner: str | None
    scopes: list[str]
    expires: str | None


def _view(found: Principal, expires_ms: int | None) -> SessionView:
    return SessionView(
        owner=found.key.owner if found.key else None,
        scopes=found.scopes,
        expires=None if expires_ms is None else rfc3339(expires_ms),
    )


@post(
    "/api/session",
    scope="read",
    status_code=200,
    summary="Sign in: turn the key of this request into a cookie that reads",
    responses=answers(401, 403, 503),
)
async def begin(request: Req) -> Response[SessionView]:
    found = principal(request)
    if found.key is None:
        return Response(_view(found, None))
    access: Access = request.app.state.access
    value, session = await access.begin_session(found)
    is_https = "https" in (request.scope["scheme"], request.headers.get("x-forwarded-proto"))
    cookie = Cookie(
        key=COOKIE, value=value, path=address(request.scope, "") or "/", httponly=True, samesite="strict", secure=is_https,
        max_age=request.app.state.settings.control.session_seconds,
    )  # fmt: skip
    return Response(_view(found, session.expires_ms), cookies=[cookie])


@get("/api/session", summary="Get who asks, and what they may", responses=answers(401, 503))
async def read(request: Req) -> SessionView:
    found = principal(request)
    return _view(found, found.until_ms or (found.key.expires_ms if found.key else None))


@delete(
    "/api/session",
    scope="read",
    by_cookie=True,
    status_code=204,
    summary="Sign out",
    responses={**answers(401), 204: ResponseSpec(data_container=None, generate_examples=False)},
)
async def end(request: Req) -> Response[None]:
    await request.app.state.access.end_session(request)
    gone = Cookie(key=COOKIE, value="", path=address(request.scope, "") or "/", max_age=0, httponly=True)
    return Response(None, status_code=204, cookies=[gone])


session_routes = [begin, read, end]
