"""API keys: random, shown once, kept as a hash, in one Redis hash that every control plane reads again when its version moves.

A key is `dhk_<id>_<secret>`: the id names the record, the secret is 256 random bits, so a plain SHA-256 of it cannot be searched
and a slow hash would only slow every request. A revoked or expired key stays in the list: once a key has ever existed, no
caller is admitted without one.
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec

from dihedral.bridge.errors import DihedralError
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, Client
from dihedral.bridge.times import now_rfc3339

SCOPES = ("submit", "read", "cancel", "operate", "admin")
"""The scopes of a key. operate: pause pools, drain workers, move jobs to the front. admin: everything, of every owner."""
FRESH_SECONDS = 1.0
"""Seconds for which a process may use its cached keys: after that a revoked key is refused everywhere."""

_TOKEN = re.compile(r"dhk_([0-9a-f]{16})_[A-Za-z0-9_-]{43}")
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


class KeyRefused(DihedralError):
    """The key cannot be made or revoked as requested."""


class ApiKey(msgspec.Struct, kw_only=True, rename="camel"):
    """The record of a key. `jobs_per_minute` and `max_alive` (jobs that have not ended): 0 means no limit. Times are epoch ms; None: never."""

    id: str
    owner: str
    scopes: list[str]
    sha256: str
    created: str
    expires_ms: int | None = None
    revoked_ms: int | None = None
    jobs_per_minute: int = 0
    max_alive: int = 0

    @property
    def is_valid(self) -> bool:
        now = time.time() * 1000
        return self.revoked_ms is None and (self.expires_ms is None or now < self.expires_ms)


_decode = msgspec.json.Decoder(ApiKey).decode


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def given(text: str) -> list[ApiKey]:
    """Parses `control.keys`, a line for each key: owner, scopes, key. Raises KeyRefused."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        token = _TOKEN.fullmatch(words[-1])
        if len(words) != 3 or token is None:
            raise KeyRefused(f"control.keys, line {number}: OWNER SCOPE,SCOPE dhk_… is wanted")
        found.append(
            ApiKey(
                id=token[1],
                owner=_checked_owner(words[0]),
                scopes=_checked_scopes(words[1].split(",")),
                sha256=digest(words[2]),
                created=now_rfc3339(),
            )
        )
    return found


async def create(
    client: Client,
    owner: str,
    scopes: Sequence[str],
    *,
    expires_seconds: float | None = None,
    jobs_per_minute: int = 0,
    max_alive: int = 0,
) -> tuple[ApiKey, str]:
    """Makes a key; returns the record and the key itself, which cannot be shown again. Raises KeyRefused."""
    if min(jobs_per_minute, max_alive) < 0 or (expires_seconds is not None and expires_seconds <= 0):
        raise KeyRefused("limits and ages are not negative")
    id = secrets.token_hex(8)
    token = f"dhk_{id}_{secrets.token_urlsafe(32)}"
    key = ApiKey(
        id=id,
        owner=_checked_owner(owner),
        scopes=_checked_scopes(scopes),
        sha256=digest(token),
        created=now_rfc3339(),
        expires_ms=None if expires_seconds is None else int((time.time() + expires_seconds) * 1000),
        jobs_per_minute=jobs_per_minute,
        max_alive=max_alive,
    )
    await _store(client, key)
    return key, token


def _checked_owner(owner: str) -> str:
    if not _OWNER.fullmatch(owner):
        raise KeyRefused(f"{owner!r} is no owner: up to 64 of A-Z a-z 0-9 . _ @ -")
    return owner


def _checked_scopes(scopes: Sequence[str]) -> list[str]:
    unknown = sorted(set(scopes) - set(SCOPES))
    if unknown or not scopes:
        raise KeyRefused(f"{', '.join(unknown) or 'nothing'} is no scope; there are {', '.join(SCOPES)}")
    return [scope for scope in SCOPES if scope in scopes]


async def stored(client: Client) -> list[ApiKey]:
    """Lists every key ever made, oldest first."""
    rows: dict[Any, bytes] = await client.hgetall(keys.API_KEYS)
    return sorted((_decode(row) for row in rows.values()), key=lambda key: (key.created, key.id))


async def revoke(client: Client, id: str) -> ApiKey:
    """Revokes a key. Raises KeyRefused where the id is unknown."""
    row = await client.hget(keys.API_KEYS, id)
    if row is None:
        raise KeyRefused(f"there is no key {id!r}")
    key: ApiKey = _decode(row)
    if key.revoked_ms is None:
        key.revoked_ms = int(time.time() * 1000)
        await _store(client, key)
    return key


async def _store(client: Client, key: ApiKey) -> None:
    pipe = client.pipeline(transaction=True)
    pipe.hset(keys.API_KEYS, key.id, msgspec.json.encode(key))
    pipe.incr(keys.API_KEYS_VERSION)
    await pipe.execute()


class Keyring:
    """A process's cache of the keys; asks Redis at most once a second, so that requests cost no round trip.

    While Redis is away it keeps using the cache; a process that has never reached Redis admits no caller.
    """

    def __init__(self, client: Client, known: Sequence[ApiKey] = (), *, fresh_seconds: float = FRESH_SECONDS) -> None:
        """Makes the cache. `known`: keys that are valid beside those in Redis (`control.keys`)."""
        self._client = client
        self._fresh = fresh_seconds
        self._known = {key.id: key for key in known}
        self._keys = dict(self._known)
        self._version: bytes | None = None
        self._had_some = bool(known)
        self._looked = float("-inf")
        self._reading = asyncio.Lock()

    async def is_empty(self) -> bool:
        """Returns whether there has never been a key, even if Redis has lost the keys since. Raises LOST while that is not known."""
        await self._refresh()
        return not self._had_some

    async def find(self, token: str) -> ApiKey | None:
        """Returns the valid key of `token`, or None."""
        shaped = _TOKEN.fullmatch(token)
        if shaped is None:
            return None
        await self._refresh()
        key = self._keys.get(shaped[1])
        if key is None or not hmac.compare_digest(digest(token), key.sha256) or not key.is_valid:
            return None
        return key

    async def by_id(self, id: str) -> ApiKey | None:
        """Returns the key with this id, if it is still valid."""
        await self._refresh()
        key = self._keys.get(id)
        return key if key is not None and key.is_valid else None

    async def _refresh(self) -> None:
        if time.monotonic() - self._looked < self._fresh:
            return
        async with self._reading:
            if time.monotonic() - self._looked < self._fresh:
                return
            looked = time.monotonic()
            try:
                await self._read()
            except CONNECTION_ERRORS:
                if self._looked == float("-inf"):
                    raise
                # A caller admitted before Redis went away finds nothing here that they must not see.
            self._looked = looked

    async def _read(self) -> None:
        version = await self._client.get(keys.API_KEYS_VERSION)
        if version != self._version:
            # The version was read first: a key that comes in between is read again with the next one.
            self._keys = self._known | {key.id: key for key in await stored(self._client)}
            self._version = version
            self._had_some = self._had_some or bool(self._keys)
