"""Artifacts in any S3-compatible store, through miniopy-async, always wrapped: its faults stay in here.

What is worked around (docs/decisions.md): everything is spooled first, since S3 wants the size and the sum in front; parts are sent
by ourselves, one after the other, since the library reads parallel ones into memory and leaves a cancelled upload's parts on the
server; requests are sent again by ourselves, since a body has to begin anew; the session is ours, since its own cannot be closed for
good; the region is given, since its look-up is one more request.
"""

import asyncio
import random
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar
from xml.etree.ElementTree import ParseError

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import ClientConnectorError, ClientOSError, ServerDisconnectedError
from miniopy_async.api import Minio
from miniopy_async.datatypes import Part
from miniopy_async.error import InvalidResponseError, S3Error, ServerError

from bridge.artifacts import (
    BUCKETS,
    CHUNK_BYTES,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
    BadKey,
    Source,
    StoreFull,
    check_key,
    checked_type,
    in_thread,
    is_bucket,
    is_segment,
    newest,
    pour,
    told,
)
from bridge.errors import SettingsError, StoreError
from bridge.times import rfc3339
from schemas.structs.artifact import ArtifactMeta
from schemas.structs.settings import ArtifactsSettings

PART_BYTES = 8 << 20  # what an upload holds in memory; 10,000 of them, the most that S3 takes, are 80 GB
CONNECTIONS = 32
ATTEMPTS = 3
RETRY_SECONDS = 0.1
ANSWER_SECONDS = 30.0
PART_SECONDS = 300.0  # a part on a line of 28 KB/s
ABORT_SECONDS = 5.0
CLOCK = timedelta(seconds=1)  # a list may say the time of a change in whole seconds

T = TypeVar("T")
ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "ResourceNotFound"})
FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "EntityTooLarge"})
EXISTS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
BEYOND = "InvalidRange"
LOST = (ClientConnectorError, ServerDisconnectedError, ClientOSError)


class S3Store:
    """`settings.endpoint`: host:port or an http(s) address; buckets are made when first written to.

    Raises SettingsError where an address or the credentials cannot be used; nothing is contacted yet.
    """

    def __init__(self, settings: ArtifactsSettings) -> None:
        self._settings = settings
        # A session belongs to one loop. Kept by the loop itself, not by its id, which the next loop may have.
        self._clients: dict[asyncio.AbstractEventLoop, tuple[ClientSession, Any, Any]] = {}
        self._buckets: set[str] = set()
        for name, endpoint in (("endpoint", settings.endpoint), ("publicEndpoint", self._public)):
            try:
                self._made(endpoint, None)
            except ValueError as error:
                raise SettingsError(f"artifacts.{name} or its keys cannot be used: {error}") from error

    @property
    def _public(self) -> str:
        return self._settings.public_endpoint or self._settings.endpoint

    def _client(self) -> tuple[Any, Any]:
        """(client, client for links) of the running loop."""
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            session = ClientSession(
                timeout=ClientTimeout(total=None, connect=5, sock_connect=5, sock_read=ANSWER_SECONDS),
                connector=TCPConnector(limit=CONNECTIONS),
            )
            clients = (self._made(self._settings.endpoint, session), self._made(self._public, session))
            self._clients[loop] = (session, *clients)
        return self._clients[loop][1:]

    def _made(self, endpoint: str, session: ClientSession | None) -> Any:
        scheme, divider, host = endpoint.partition("://")
        return Minio(
            (host if divider else endpoint).rstrip("/"),
            self._settings.access_key,
            self._settings.secret_key,
            secure=scheme == "https" if divider else self._settings.secure,
            region=self._settings.region,
            session=session,
        )

    async def put(
        self,
        bucket: str,
        key: str,
        source: Source,
        content_type: str,
        *,
        job_id: str | None = None,
        node_id: str | None = None,
        limit: int | None = None,
    ) -> ArtifactMeta:
        check_key(bucket, key)
        content_type = checked_type(content_type)
        with ExitStack() as stack:
            spool = await in_thread(_spool, stack)
            size, digest = await pour(source, spool, limit)
            meta = ArtifactMeta(
                bucket=bucket,
                key=key,
                size_bytes=size,
                content_type=content_type,
                sha256=digest,
                created_at=rfc3339(int(time.time() * 1000)),
                job_id=job_id,
                node_id=node_id,
            )
            await self._ensure(bucket)
            try:
                await self._upload(meta, spool)
            except ArtifactNotFound:  # somebody has removed the bucket since it was made
                self._buckets.discard(bucket)
                await self._ensure(bucket)
                await self._upload(meta, spool)
            return meta

    async def _ensure(self, bucket: str) -> None:
        if bucket in self._buckets:
            return
        client = self._client()[0]
        if not await self._ask(bucket, partial(client.bucket_exists, bucket)):
            try:
                await self._ask(bucket, partial(client.make_bucket, bucket))
            except ArtifactStoreUnavailable as error:
                if not isinstance(error.__cause__, S3Error) or error.__cause__.code not in EXISTS:
                    raise
        self._buckets.add(bucket)

    async def _upload(self, meta: ArtifactMeta, spool: IO[bytes]) -> None:
        known = {
            "sha256": meta.sha256,
            "created": meta.created_at,
            "job": meta.job_id or "",
            "node": meta.node_id or "",
        }
        headers = {f"x-amz-meta-{name}": value for name, value in known.items() if value}
        headers["Content-Type"] = meta.content_type
        await in_thread(_rewind, spool)
        if meta.size_bytes > PART_BYTES:
            await self._upload_parts(meta, headers, spool)
            return
        client, what = self._client()[0], f"{meta.bucket}/{meta.key}"
        content = await in_thread(spool.read)
        await self._ask(
            what, lambda: client._put_object(meta.bucket, meta.key, BytesIO(content), dict(headers)), PART_SECONDS
        )

    async def _upload_parts(self, meta: ArtifactMeta, headers: dict[str, str], spool: IO[bytes]) -> None:
        client, what, place = self._client()[0], f"{meta.bucket}/{meta.key}", (meta.bucket, meta.key)
        upload = await self._ask(what, lambda: client._create_multipart_upload(*place, dict(headers)))
        try:
            parts: list[Part] = []
            while content := await in_thread(spool.read, PART_BYTES):
                part = partial(_send_part, client, place, content, upload, len(parts) + 1)
                parts.append(Part(len(parts) + 1, await self._ask(what, part, PART_SECONDS)))
            done = await self._ask(
                what, lambda: client._complete_multipart_upload(*place, upload, parts), PART_SECONDS
            )
            if not done.etag:  # S3 may say 200 first and then, in the body, what went wrong
                raise ArtifactStoreUnavailable(f"{what}: the store could not put the parts together")
        except BaseException:
            with suppress(Exception):  # what went wrong before says more; the server's own rules remove the parts then
                async with asyncio.timeout(ABORT_SECONDS):
                    await client._abort_multipart_upload(*place, upload)
            raise

    async def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        check_key(bucket, key)
        if end is not None and end <= start:
            await self.meta(bucket, key)
            return
        span = {"offset": start, "length": 0 if end is None else end - start}
        client, what = self._client()[0], f"{bucket}/{key}"
        try:
            response = await self._ask(what, partial(client.get_object, bucket, key, **span))
        except ArtifactStoreUnavailable as error:
            if isinstance(error.__cause__, S3Error) and error.__cause__.code == BEYOND:
                return
            raise
        try:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                yield chunk
        except (ClientError, TimeoutError) as error:
            raise ArtifactStoreUnavailable(f"{what}: the store broke off: {type(error).__name__}") from error
        finally:
            response.close()

    async def fetch(self, bucket: str, key: str, to: Path) -> None:
        chunks = self.open(bucket, key)
        first = await anext(chunks, b"")  # an artifact that is not there makes no file
        with ExitStack() as stack:
            file = await in_thread(_create, to, stack)
            await in_thread(file.write, first)
            async for chunk in chunks:
                await in_thread(_write, to, file, chunk)
            await in_thread(_flush, to, file)

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        check_key(bucket, key)
        found = await self._ask(f"{bucket}/{key}", partial(self._client()[0].stat_object, bucket, key))
        known = {name.lower().removeprefix("x-amz-meta-"): value for name, value in (found.metadata or {}).items()}
        return ArtifactMeta(
            bucket=bucket,
            key=key,
            size_bytes=found.size or 0,
            content_type=found.content_type or "application/octet-stream",
            sha256=known.get("sha256", "0" * 64),
            created_at=known.get("created") or rfc3339(int(found.last_modified.timestamp() * 1000)),
            job_id=known.get("job") or None,
            node_id=known.get("node") or None,
        )

    async def list(self, bucket: str | None = None, job_id: str | None = None, limit: int = 1000) -> list[ArtifactMeta]:
        """A job's artifacts are those whose keys begin with its id (TaskContext.store names them so)."""
        if (bucket is not None and not is_bucket(bucket)) or (job_id is not None and not is_segment(job_id)):
            return []
        changed = []
        for name in BUCKETS if bucket is None else (bucket,):
            with suppress(ArtifactNotFound):  # nothing was ever put there
                changed += await self._ask(name, partial(self._changes, name, f"{job_id}/" if job_id else None))
        changed.sort(reverse=True)
        found: list[ArtifactMeta] = []
        for at in range(0, len(changed), CONNECTIONS):
            if len(found) >= limit and _moment(found[limit - 1].created_at) > changed[at][0] + CLOCK:
                break  # what is left was changed, and so created, before the last one that is wanted
            known = await asyncio.gather(*(self._known(*place) for _, *place in changed[at : at + CONNECTIONS]))
            found += [meta for meta in known if meta is not None and job_id in (None, meta.job_id)]
            found.sort(key=newest, reverse=True)
        return found[:limit]

    async def _changes(self, bucket: str, prefix: str | None) -> "list[tuple[datetime, str, str]]":
        """(time of its last change, bucket, key) of each object."""
        objects = self._client()[0].list_objects(bucket, prefix=prefix, recursive=True)
        return [(each.last_modified, bucket, each.object_name) async for each in objects]

    async def _known(self, bucket: str, key: str) -> ArtifactMeta | None:
        """None for what has gone since, and for what is no artifact: others may use the bucket too."""
        try:
            return await self.meta(bucket, key)
        except (ArtifactNotFound, BadKey):
            return None

    async def delete(self, bucket: str, key: str) -> None:
        await self.meta(bucket, key)
        await self._ask(f"{bucket}/{key}", partial(self._client()[0].remove_object, bucket, key))

    async def check(self) -> None:
        await self._ask("the store", partial(self._client()[0].bucket_exists, BUCKETS[0]))

    async def link(self, bucket: str, key: str) -> str | None:
        check_key(bucket, key)
        expires = timedelta(seconds=self._settings.presign_seconds)
        link: str = await self._client()[1].presigned_get_object(bucket, key, expires=expires)
        return link

    async def close(self) -> None:
        clients, self._clients = self._clients, {}
        for session, _, _ in clients.values():
            await session.close()

    async def _ask(self, what: str, request: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        """The answer to a request, which is sent again where the server was lost or is busy. Raises only errors of ours."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                # aiohttp's own limits do not cover a body that the server does not take
                async with asyncio.timeout(ANSWER_SECONDS if seconds is None else seconds):
                    return await request()
            except (S3Error, InvalidResponseError, ServerError, ParseError, ClientError, TimeoutError, OSError) as error:
                if attempt == ATTEMPTS or not _passing(error):
                    raise _of(error, what) from error
            await asyncio.sleep(RETRY_SECONDS * 2**attempt * random.random())
        raise AssertionError("the last attempt returns or raises")


def _passing(error: Exception) -> bool:
    """Whether the same request may well succeed in a moment."""
    match error:
        case S3Error():
            return error.response.status >= 500
        case InvalidResponseError():
            return int(error._code) >= 500
        case ServerError():
            return True
    return isinstance(error, LOST)


def _of(error: Exception, what: str) -> StoreError:
    match error:
        case S3Error() if error.code in ABSENT:
            return ArtifactNotFound(f"there is no artifact {what}")
        case S3Error() if error.code in FULL:
            return StoreFull(f"{what}: {error.code}")
        case S3Error():
            return ArtifactStoreUnavailable(f"{what}: the store refuses: {error.code}")
        case InvalidResponseError() if error._code == 507:
            return StoreFull(f"{what}: the store has no room")
    return ArtifactStoreUnavailable(f"{what}: the store does not answer: {type(error).__name__}")


async def _send_part(client: Any, place: tuple[str, str], content: bytes, upload: str, number: int) -> str:
    # As BytesIO it is sent in pieces; bytes would hold up the loop. A new one each time: the last one was read to its end.
    etag: str = await client._upload_part(*place, BytesIO(content), None, upload, number)
    return etag


def _moment(created_at: str) -> datetime:
    try:
        return datetime.fromisoformat(created_at)
    except ValueError:  # somebody else's metadata
        return datetime.min.replace(tzinfo=UTC)


def _spool(stack: ExitStack) -> IO[bytes]:
    with told(Path(tempfile.gettempdir())):
        return stack.enter_context(tempfile.TemporaryFile())


def _rewind(spool: IO[bytes]) -> None:
    with told(Path(tempfile.gettempdir())):
        spool.seek(0)  # writes what is still buffered


def _create(to: Path, stack: ExitStack) -> IO[bytes]:
    with told(to.parent):
        return stack.enter_context(open(to, "wb"))
