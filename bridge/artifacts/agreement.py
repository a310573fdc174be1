"""The agreement of all planes that share a Redis on one artifact store. With two stores a job's files would be where its reader does not look.

A plane notes its store under one key that expires soon after the last plane has ended, and a plane with another store refuses to start. A local store is
known by a random name in its directory, not by the path: containers mount one volume at different places, and two machines have different directories
at the same path. An S3 server has several addresses, inside and outside, so S3 is taken for the same as S3.
"""

import asyncio
import logging
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path

from redis.exceptions import RedisError

from dihedral.bridge.errors import DihedralError
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, Client, connect_blocking
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind

log = logging.getLogger(__name__)

AWAY = (*CONNECTION_ERRORS, RedisError)

NAME = ".store"
NAME_BYTES = 16
NOTED_MS = 15_000
RENEW_SECONDS = 5.0
CUT_OFF_SECONDS = 10.0


class OtherStore(DihedralError):
    """Planes that run with the same Redis keep their artifacts elsewhere."""


async def agree(client: Client, settings: ArtifactsSettings) -> None:
    """Notes the store of this plane.

    Raises:
        OtherStore: a plane with another one has lived within the last 15 s.
        AWAY: Redis is away, or does not allow it.
    """
    mine = await asyncio.to_thread(_note, settings)
    if mine is None or await client.set(keys.ARTIFACT_STORE, mine, nx=True, px=NOTED_MS):
        return
    theirs = (await client.get(keys.ARTIFACT_STORE) or b"").decode("utf-8", "replace")
    if theirs and _identity(theirs) != _identity(mine):
        raise OtherStore(
            f"artifacts of this plane go to {_place(mine)}, those of the planes that run with this Redis to {_place(theirs)}: "
            "set [artifacts] alike everywhere (a plane that has ended counts for 15 s)"
        )
    await client.pexpire(keys.ARTIFACT_STORE, NOTED_MS)


async def keep_agreeing(client: Client, settings: ArtifactsSettings) -> None:
    """Renews the note for as long as it is not cancelled. A plane that started while Redis was away learns here that its store is another."""
    has_warned = False
    while True:
        try:
            await agree(client, settings)
            has_warned = False
        except OtherStore as error:
            if not has_warned:
                log.error("%s", error)
            has_warned = True
        except AWAY:
            pass  # the plane's own calls report it
        await asyncio.sleep(RENEW_SECONDS)


def forget(url: str) -> None:
    """Drops the note of a server that has just been started, on which no plane runs: its operator may have changed the store."""
    with suppress(*AWAY):
        client = connect_blocking(url, timeout_seconds=5)
        try:
            client.delete(keys.ARTIFACT_STORE)
        finally:
            client.close()


def _note(settings: ArtifactsSettings) -> str | None:
    """Returns the store's identity, and for people its place; None where the directory cannot be used, which the readiness of the plane reports."""
    if settings.store == StoreKind.s3:
        return f"s3 {settings.endpoint}"
    file = Path(settings.directory) / NAME
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError), open(file, "x", encoding="ascii") as new:
            new.write(secrets.token_hex(NAME_BYTES))
        found = file.read_text("ascii")
        if len(found) != 2 * NAME_BYTES:
            if time.time() - file.stat().st_mtime < CUT_OFF_SECONDS:  # another plane is writing it
                return None
            draft = file.with_name(f"{NAME}.new")  # it was cut off, as on a full disk
            draft.write_text(secrets.token_hex(NAME_BYTES), "ascii")
            draft.replace(file)
            found = file.read_text("ascii")
    except (OSError, ValueError):
        return None
    return f"local:{found} {socket.gethostname()}:{file.parent.absolute()}"


def _identity(note: str) -> str:
    return note.partition(" ")[0]


def _place(note: str) -> str:
    identity, _, place = note.partition(" ")
    return f"S3 ({place})" if identity == "s3" else f"the directory {place}"
