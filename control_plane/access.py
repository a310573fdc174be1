"""Authentication and authorization: API keys on REST, event streams and the WebSocket, and the origins from which a browser may send requests.

A control plane is open, as on one person's machine, while there has never been a key and it listens on loopback (or runs with
`--insecure`). From the first key on everything except health and schemas requires one. A route that does not declare its scope is
for readers if it only reads, else for admins. Callers who are not admins see their own jobs and artifacts; those of others are hidden.

Browsers cannot put a header on a WebSocket, an event stream or an image, so `POST /api/session` turns a key into a cookie. The
cookie only ever reads: what changes something needs the key itself, which no other site can send, so there is no request to forge.
A browser's requests to an open control plane are not protected by any secret; there the Origin of every change and of every WebSocket
must be the control plane's own, and the Host must not be a name that an attacker could point at this machine (DNS rebinding).
"""

import asyncio
import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.types import ASGIApp, Message, Receive, Scope, Send

from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client
from dihedral.bridge.hosts import is_address, is_loopback
from dihedral.control_plane.api_keys import SCOPES, ApiKey, Keyring, given
from dihedral.control_plane.problems import ApiProblem, as_problem, refuse
from dihedral.control_plane.query import header
from dihedral.schemas.structs.settings import Settings

COOKIE = "dihedral_session"
IDLE_KEYS = 1000
"""Keys without a request whose turns are kept for the next one."""
MAX_SESSIONS = 50
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
PUBLIC = re.compile(r"/(?:health(?:/.*)?|llms\.txt|schema(?:/.*)?|schemas/.*|console(?:/.*)?|docs(?:/.*)?)?")
"""The public routes: health, the description of the API, and pages without data."""

Connection = ASGIConnection[Any, Any, Any, Any]


class Session(msgspec.Struct):
    key_id: str
    expires_ms: int


_decode_session = msgspec.json.Decoder(Session).decode


class Principal(msgspec.Struct, frozen=True):
    """The authenticated caller. `key` None: no key was required. `until_ms`: the end of a browser's session; `session`: its key in Redis."""

    key: ApiKey | None = None
    until_ms: int | None = None
    session: str = ""

    @property
    def name(self) -> str:
        """Returns the owner of new jobs and artifacts; empty: no owner."""
        return self.key.owner if self.key else ""

    @property
    def visible_owner(self) -> str | None:
        """Returns the owner whose jobs and artifacts they see; None: those of every owner."""
        return None if self.key is None or "admin" in self.key.scopes else self.key.owner

    @property
    def scopes(self) -> list[str]:
        return list(SCOPES) if self.key is None or "admin" in self.key.scopes else self.key.scopes

    def check_scope(self, scope: str, what: str = "this") -> None:
        """Raises ApiProblem, 403, where the key lacks the scope that `what` needs."""
        if scope not in self.scopes:
            raise ApiProblem(403, "scope_missing", f"{what} needs a key with the scope {scope}")


ANONYMOUS = Principal()


def admitted(app: ASGIApp) -> ASGIApp:
    """Guards every HTTP handler; `/ws` checks by itself, since before its handshake no reason can be sent."""

    async def middleware(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != ScopeType.HTTP or PUBLIC.fullmatch(scope["path"]):
            await app(scope, receive, send)
            return
        try:
            scope["state"]["principal"] = found = await _admit(scope)
            leave = await _turn(scope, found)
        except Exception as error:
            await refuse(scope, as_problem(error), send)
            return

        async def answered(message: Message) -> None:
            leave()  # a response that streams from here on delays no other request of its key
            await send(message)

        access: Access = scope["litestar_app"].state.access
        body = access.bodies.body_of(found)
        try:
            with ExitStack() as until_end:
                scope["state"]["hold_body"], scope["state"]["until_end"] = body.hold, until_end
                await app(scope, receive, answered)
        finally:
            body.release()
            leave()

    return middleware


async def _turn(scope: Any, found: "Principal") -> Callable[[], None]:
    """Waits for one of the turns of its key; returns what ends it. Uploads take none: they last as long as their connection needs."""
    opt = scope["route_handler"].opt
    if opt.get("is_long", False):
        return _nothing
    access: Access = scope["litestar_app"].state.access
    turns = access.costly_turns if opt.get("is_costly", False) else access.turns
    return await turns.take(found.key.id if found.key else "")


def _nothing() -> None:
    pass


class Turns:
    """Limits the requests of one key at once; the others wait in order of arrival, so a burst of one key delays only that key."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._most_waiting = 1000
        self._by_key: dict[str, tuple[asyncio.Semaphore, list[int]]] = {}

    async def take(self, key: str) -> Callable[[], None]:
        """Waits for a turn; returns the function that ends it, once. Raises 429 where a thousand wait already."""
        turns, users = self._by_key.setdefault(key, (asyncio.Semaphore(self._at_once), [0]))
        if users[0] >= self._at_once + self._most_waiting:
            detail = f"{users[0]} requests of this key wait for their turn (control.requestsPerKey)"
            raise ApiProblem(429, "too_many_requests", detail, headers={"Retry-After": "2"})
        users[0] += 1

        def leave() -> None:
            users[0] -= 1
            if not users[0] and len(self._by_key) > IDLE_KEYS:
                self._by_key.pop(key, None)

        try:
            await turns.acquire()
        except BaseException:
            leave()
            raise

        has_ended = False

        def give_back() -> None:
            nonlocal has_ended
            if not has_ended:
                has_ended = True
                turns.release()
                leave()

        return give_back


class Bodies:
    """Counts the bytes of JSON bodies that are held now, by key and in total."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held = 0
        self.held_of: Counter[str] = Counter()

    def body_of(self, found: "Principal") -> "Body":
        return Body(self, found.key.id if found.key else "", has_key=found.key is not None)


class Body:
    """The bytes of one request's body, counted until `release`."""

    __slots__ = ("_bodies", "_has_key", "_key", "_size")

    def __init__(self, bodies: Bodies, key: str, *, has_key: bool) -> None:
        self._bodies, self._key, self._has_key = bodies, key, has_key
        self._size = 0

    def hold(self, size: int) -> None:
        """Counts bytes that have come. Raises 429 or 503 beyond the limit."""
        bodies = self._bodies
        if bodies.held + size > bodies.most:
            detail = "other bodies fill the memory for them (control.bodiesBytes)"
            raise ApiProblem(503, "bodies_in_flight", detail, headers={"Retry-After": "2"})
        if self._has_key and bodies.held_of[self._key] + size > bodies.most // 2:
            detail = "this key sends as many bytes at once as it may (control.bodiesBytes)"
            raise ApiProblem(429, "bodies_in_flight", detail, headers={"Retry-After": "2"})
        bodies.held += size
        bodies.held_of[self._key] += size
        self._size += size

    def release(self) -> None:
        if not self._size:
            return
        bodies = self._bodies
        bodies.held -= self._size
        bodies.held_of[self._key] -= self._size
        if not bodies.held_of[self._key]:
            del bodies.held_of[self._key]
        self._size = 0


async def _admit(scope: Any) -> Principal:
    method, opt = str(scope["method"]), scope["route_handler"].opt
    access: Access = scope["litestar_app"].state.access
    return await access.admit(
        scope,
        opt.get("scope", "read" if method in SAFE else "admin"),
        changes=method not in SAFE,
        cookie=method in SAFE or opt.get("by_cookie", False),
    )


def principal(connection: Connection) -> Principal:
    found: Principal = connection.scope["state"]["principal"]
    return found


class Access:
    def __init__(self, settings: Settings, client: Client) -> None:
        self.keyring = Keyring(client, given(settings.control.keys))
        self.client = client
        self._control = settings.control
        self._may_be_open = settings.control.insecure or is_loopback(settings.control.host)
        self._most_sockets = settings.websocket.max_sockets_per_key
        self._sockets: Counter[str] = Counter()
        self.turns = Turns(settings.control.requests_per_key)
        self.costly_turns = Turns(max(1, settings.control.requests_per_key // 8))
        self.bodies = Bodies(settings.control.bodies_bytes)

    async def admit(self, request: Scope, scope: str, *, changes: bool, cookie: bool) -> Principal:
        """Authenticates a request. Raises ApiProblem: 401 without a valid key, 403 without the scope or from a foreign page, 421 under a foreign name."""
        if changes:
            self._check_origin(request)
        found = await self._identify(request, cookie=cookie)
        found.check_scope(scope)
        return found

    async def _identify(self, request: Scope, *, cookie: bool) -> Principal:
        if await self.is_open():
            self._check_host(request)
            return ANONYMOUS
        kind, _, token = (header(request, b"authorization") or "").partition(" ")
        if token:
            key = await self.keyring.find(token.strip()) if kind.lower() == "bearer" else None
            if key is None:
                raise _refused("bad_api_key", "this is no key, or it was revoked or has expired")
            return Principal(key)
        connection: Connection = ASGIConnection(request)
        value = connection.cookies.get(COOKIE)
        if value is None:
            raise _refused("no_api_key", "an API key is needed: Authorization: Bearer KEY")
        if not cookie:
            raise _refused("no_api_key", "a session only reads; what changes something needs the key itself")
        return await self._of_session(value)

    async def is_open(self) -> bool:
        return self._may_be_open and await self.keyring.is_empty()

    async def still(self, found: Principal) -> bool:
        """Returns whether the caller would still be admitted, for long connections."""
        if found.key is None:
            return await self.is_open()
        if found.until_ms is not None and found.until_ms < time.time() * 1000:
            return False
        if found.session and not await self.client.exists(found.session):  # the session was logged out
            return False
        return await self.keyring.by_id(found.key.id) is not None

    # Browsers -------------------------------------------------------------------------------------------------------

    def _check_origin(self, request: Scope) -> None:
        """Checks the Origin, which only browsers send: a page of another site must not act with this browser's session or network position."""
        origin = header(request, b"origin")
        if origin is None or origin in self._control.allowed_origins:
            return
        scheme, _, host = origin.lower().partition("://")
        ours = (header(request, b"x-forwarded-proto") or str(request["scheme"])).lower()
        is_downgrade = scheme != "https" and ours in (
            "https",
            "wss",
        )  # an attacker on the network can write such a page
        if host != (header(request, b"host") or "").lower() or is_downgrade:
            detail = f"pages of {origin[:200]} may not ask here (control.allowedOrigins)"
            raise ApiProblem(403, "origin_forbidden", detail)

    def _check_host(self, request: Scope) -> None:
        host = header(request, b"host")
        host = "localhost" if host is None else host
        if self._control.insecure or _is_unmistakable(host) or _name(host) in self._control.allowed_hosts:
            return
        detail = f"without API keys this is asked as localhost, by its address, or as one of control.allowedHosts, not as {host[:200]}"
        raise ApiProblem(421, "host_forbidden", detail)

    async def begin_session(self, found: Principal) -> tuple[str, Session]:
        """Starts a session; returns the cookie's value, of which Redis stores only a hash, and the session."""
        assert found.key is not None
        seconds = self._control.session_seconds
        ends = int((time.time() + seconds) * 1000)
        session = Session(found.key.id, min(ends, found.key.expires_ms or ends))
        value = secrets.token_urlsafe(32)
        await self.client.set(_session_key(value), msgspec.json.encode(session), ex=seconds)
        await self._end_oldest(found.key.id, _session_key(value))
        return value, session

    async def _end_oldest(self, key_id: str, new: str) -> None:
        """Keeps at most MAX_SESSIONS per key: a client that asks for more loses its own oldest ones."""
        mine = keys.sessions_of(key_id)
        lifetime_ms = self._control.session_seconds * 1000
        await functions.call(self.client, "lasting", mine, lifetime_ms, "ZADD", time.time(), new)
        for oldest in await self.client.zrange(mine, 0, -MAX_SESSIONS - 1):
            await self.client.delete(oldest)
            await self.client.zrem(mine, oldest)

    async def end_session(self, connection: Connection) -> None:
        value = connection.cookies.get(COOKIE)
        if value:
            await self.client.delete(_session_key(value))

    async def _of_session(self, value: str) -> Principal:
        raw = await self.client.get(_session_key(value))
        session = _decode_session(raw) if raw else None
        key = await self.keyring.by_id(session.key_id) if session else None
        if session is None or key is None or session.expires_ms < time.time() * 1000:
            raise _refused("session_ended", "this session has ended; begin another with POST /api/session")
        return Principal(key, session.expires_ms, _session_key(value))

    # Long connections ----------------------------------------------------------------------------------------------

    @contextmanager
    def socket(self, found: Principal) -> Iterator[None]:
        """Counts the connection as open during the block. Raises 429 where a key has its maximum of sockets and event streams in this process."""
        if found.key is not None and self._sockets[found.key.id] >= self._most_sockets:
            detail = f"this key has {self._most_sockets} sockets and event streams open (websocket.maxSocketsPerKey)"
            raise ApiProblem(429, "too_many_sockets", detail, headers={"Retry-After": "5"})
        name = found.key.id if found.key else ""
        self._sockets[name] += 1
        try:
            yield
        finally:
            self._sockets[name] -= 1
            if not self._sockets[name]:
                del self._sockets[name]


@lru_cache(1024)
def _is_unmistakable(host: str) -> bool:
    """Returns whether a host is safe from DNS rebinding: an address, or a name without a dot, which no outside owner can point elsewhere."""
    name = _name(host)
    return "." not in name or is_address(name)


def _name(host: str) -> str:
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return "no.name"


def _session_key(value: str) -> str:
    return keys.session(hashlib.sha256(value.encode()).hexdigest())


def _refused(code: str, detail: str) -> ApiProblem:
    return ApiProblem(401, code, detail, headers={"WWW-Authenticate": "Bearer"})
