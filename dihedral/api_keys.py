"""`dihedral keys`: works on Redis itself. That of the settings; else the one of the data directory, started for it where none runs."""

import argparse
import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import redis

from dihedral.bridge import settings
from dihedral.bridge.errors import ServerUnavailable
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, connect
from dihedral.bridge.times import rfc3339
from dihedral.control_plane import api_keys
from dihedral.control_plane.api_keys import ApiKey, KeyRefused
from dihedral.server import EmbeddedServer
from dihedral.up import DataDirInUse, make_private, without_password


def act(options: argparse.Namespace, expires_seconds: float | None) -> tuple[Any, str]:
    """(JSON document, text). Raises KeyRefused, SettingsError, ServerUnavailable, DataDirInUse, ServerFailed."""
    with redis_of(options) as url:
        return asyncio.run(_act(url, options, expires_seconds))


@contextlib.contextmanager
def redis_of(options: argparse.Namespace) -> Iterator[str]:
    """The address of Redis: that of a flag or the settings, else of the data directory. Raises ServerUnavailable."""
    named = getattr(options, "redis_url", None)
    if named or "redis.url" in settings.given(options.config, os.environ):
        flags = {"redis.url": named} if named else {}
        yield settings.load(options.config, os.environ, flags).redis.url
        return
    with _server(options.data_dir or Path("dihedral-data")) as url:
        yield url


@contextlib.contextmanager
def _server(data_dir: Path) -> Iterator[str]:
    """Yields the address of the data directory's server: that of a running `dihedral up`, else of one that is started for the moment."""
    make_private(data_dir)
    (data_dir / "logs").mkdir(exist_ok=True)
    server = EmbeddedServer(data_dir / "redis", data_dir / "logs" / "server.log")
    with (data_dir / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # until the end of the block no `up` starts here
        except BlockingIOError:
            if not server.answers():
                raise DataDirInUse(f"the `dihedral up` of {data_dir} is not ready yet; try again") from None
            yield server.url
            return
        server.start()
        try:
            yield server.url
        finally:
            server.stop()


async def _act(url: str, options: argparse.Namespace, expires_seconds: float | None) -> tuple[Any, str]:
    client = connect(url, timeout_seconds=10)
    try:
        if options.act == "create":
            key, token = await api_keys.create(
                client,
                options.owner,
                [scope for scope in options.scopes.split(",") if scope],
                expires_seconds=expires_seconds,
                jobs_per_minute=options.jobs_per_minute,
                max_alive=options.max_alive,
            )
            return {**_document(key), "key": token}, f"{token}\nIt is shown this once; its id is {key.id}."
        if options.act == "revoke":
            key = await api_keys.revoke(client, options.id)
            return _document(key), f"{key.id} of {key.owner} is revoked; every control plane knows within a second"
        found = await api_keys.stored(client)
        return {"keys": [_document(key) for key in found]}, "\n".join(map(_line, found)) or "no keys"
    except CONNECTION_ERRORS as error:
        raise ServerUnavailable(f"the Redis at {without_password(url)} cannot be reached: {error}") from error
    except redis.ResponseError as error:
        raise KeyRefused(f"the Redis at {without_password(url)} refuses: {error}") from error
    finally:
        await client.aclose()


def _document(key: ApiKey) -> dict[str, Any]:
    """Returns all but the hash."""
    document: dict[str, Any] = msgspec.to_builtins(key)
    for name in ("sha256", "expiresMs", "revokedMs"):
        document.pop(name)
    expires, revoked = key.expires_ms, key.revoked_ms
    return document | {
        "expires": None if expires is None else rfc3339(expires),
        "revoked": None if revoked is None else rfc3339(revoked),
    }


def _line(key: ApiKey) -> str:
    state = "revoked" if key.revoked_ms is not None else "valid" if key.is_valid else "expired"
    return f"{key.id}  {state:8} {key.owner:20} {','.join(key.scopes):26} {key.created}"
