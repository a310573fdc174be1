"""Artifacts in any S3-compatible store, through miniopy-async, always wrapped: its faults stay inside this module.

The workarounds: everything is spooled first, since S3 requires size and checksum in advance; parts are sent
by this module, one after the other, since the library reads parallel ones into memory and leaves a cancelled upload's parts on the
server; requests are retried by this module, since a body has to begin anew; the session is made here, since the library's own cannot be closed for
good; the region is given, since its look-up is one more request.

A list of one owner's artifacts goes by the index (`s3_index.py`). A bucket that an older version filled has none yet: it is made at the first such list, or, where
there are many objects, beside the lists, which read the names of all until it is done.

Large because one class implements the whole store protocol over one client, and every method works around the same library.
"""

import asyncio
import logging
import random
import re
import ssl
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, suppress
from datetime import datetime, timedelta
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import quote, unquote
from xml.etree.ElementTree import ParseError

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import ClientOSError, ServerDisconnectedError
from miniopy_async.api import Minio
from miniopy_async.datatypes import Part
from miniopy_async.error import InvalidResponseError, S3Error, ServerError
from msgspec import UNSET, UnsetType

from dihedral.bridge.artifacts.s3_index import AFTER_INDEX, S3Index
from dihedral.bridge.artifacts.store import (
    BUCKETS,
    CHUNK_BYTES,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
    BadKey,
    Source,
    StoreFull,
    check_key,
    checked_type,
    is_bucket,
    is_segment,
    newest,
)
from dihedral.bridge.artifacts.transfer import close_anyway, in_thread, os_errors_as_store_errors, pour
from dihedral.bridge.errors import SettingsError, StoreError
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.settings import ArtifactsSettings

PART_BYTES = 8 << 20  # an upload holds one part in memory; 10,000 parts, the most that S3 takes, are 80 GB
CONNECTIONS = 32
ATTEMPTS = 3
RETRY_SECONDS = 0.1
ANSWER_SECONDS = 30.0
LONG_SECONDS = 300.0  # a part on a line of 28 KB/s; a list of a million keys
ABORT_SECONDS = 5.0
CHECK_SECONDS = 60.0
PROBE = ".ready"
"""The key of the probe object; it is not a valid artifact key, so no list shows it."""
INDEXED_AT_ONCE = 1000
"""A bucket with fewer objects gets its index while its first list waits."""
INDEXERS = 8
CLOCK = timedelta(seconds=1)  # a list may say the time of a change in whole seconds
UPLOAD_SECONDS, UPLOAD_SPEED = 30, 256 << 10
"""An upload of n bytes takes at most UPLOAD_SECONDS + n / UPLOAD_SPEED: an object has changed at its end, and was created at its beginning."""

ENDPOINT = re.compile(r"(https?://)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?/?")
SHA256 = re.compile(r"[0-9a-f]{64}")
T = TypeVar("T")
logger = logging.getLogger(__name__)
ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "ResourceNotFound"})
FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "EntityTooLarge"})
EXISTS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})
BEYOND = "InvalidRange"
CONNECTION_ERRORS = (ClientOSError, ServerDisconnectedError)


class S3Store:
    """The store on an S3 server, for one event loop. `settings.endpoint`: host:port or an http(s) address; buckets are made when first written to.

    Raises SettingsError where an address or the credentials cannot be used; nothing is contacted yet.
    """

    def __init__(self, settings: ArtifactsSettings) -> None:
        self._settings = settings
        self._clients: tuple[ClientSession, Any, Any] | None = None
        self._buckets: set[str] = set()
        self._checked = float("-inf")
        self._index = S3Index(self._client, self._ask)
        self._indexing: dict[str, asyncio.Task[None]] = {}
        try:
            self._trust = ssl.create_default_context(cafile=settings.ca_file) if settings.ca_file else True
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(f"artifacts.caFile: {settings.ca_file}: cannot be used: {error}") from error
        for name, endpoint in (("endpoint", settings.endpoint), ("publicEndpoint", self._public)):
            if not ENDPOINT.fullmatch(endpoint):
                raise SettingsError(
                    f"artifacts.{name} is no address of a server: host, host:port, or http(s)://host:port"
                )
            try:
                self._made(endpoint, None)
            except ValueError as error:
                raise SettingsError(f"artifacts.{name}, accessKey and secretKey cannot be used: {error}") from error

    @property
    def _public(self) -> str:
        return self._settings.public_endpoint or self._settings.endpoint

    def _client(self, *, public: bool = False) -> Any:
        if self._clients is None:  # a session has to be made within the loop
            session = ClientSession(
                timeout=ClientTimeout(total=None, connect=5, sock_connect=5, sock_read=ANSWER_SECONDS),
                connector=TCPConnector(limit=CONNECTIONS, ssl=self._trust),
            )
            self._clients = (session, self._made(self._settings.endpoint, session), self._made(self._public, session))
        return self._clients[2 if public else 1]

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
        owner: str = "",
        name: str = "",
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
                owner=owner or UNSET,
                name=name if name and name != key.rsplit("/", 1)[-1] else UNSET,
            )
            await self._ensure(bucket)
            try:
                await self._publish(meta, spool)
            except ArtifactNotFound:  # the bucket has been removed since it was made
                self._buckets.discard(bucket)
                await self._ensure(bucket)
                await self._publish(meta, spool)
            return meta

    async def _publish(self, meta: ArtifactMeta, spool: IO[bytes]) -> None:
        """Uploads, with an entry in the index where the artifact has an owner."""
        if isinstance(meta.owner, UnsetType):
            await self._upload(meta, spool)
            return
        before = None
        with suppress(ArtifactNotFound):
            before = await self.meta(meta.bucket, meta.key)
        await self._index.add(meta)
        try:
            await self._upload(meta, spool)
        except BaseException:
            with suppress(Exception):  # the first error explains more; a list skips the entry
                async with asyncio.timeout(ABORT_SECONDS):
                    await self._index.remove(meta)
            raise
        if before is not None and (before.created_at, before.owner) != (meta.created_at, meta.owner):
            with suppress(StoreError):
                await self._index.remove(before)

    async def _ensure(self, bucket: str) -> None:
        if bucket in self._buckets:
            return
        client = self._client()
        for attempt in range(1, ATTEMPTS + 1):
            if await self._ask(bucket, partial(client.bucket_exists, bucket)):
                break
            try:
                await self._ask(bucket, partial(client.make_bucket, bucket))
                break
            except ArtifactStoreUnavailable as error:
                if isinstance(error.__cause__, S3Error) and error.__cause__.code in EXISTS:
                    break
                raise
            except ArtifactNotFound as error:  # SeaweedFS: another made it at that moment
                if attempt == ATTEMPTS:
                    raise ArtifactStoreUnavailable(f"the bucket {bucket} cannot be made") from error
                await asyncio.sleep(RETRY_SECONDS * 2**attempt * random.random())
        self._buckets.add(bucket)

    async def _upload(self, meta: ArtifactMeta, spool: IO[bytes]) -> None:
        known = {
            "sha256": meta.sha256,
            "created": meta.created_at,
            "job": meta.job_id or "",
            "node": meta.node_id or "",
            "owner": "" if isinstance(meta.owner, UnsetType) else meta.owner,
            "name": "" if isinstance(meta.name, UnsetType) else quote(meta.name),  # headers are ASCII
        }
        headers = {f"x-amz-meta-{name}": value for name, value in known.items() if value}
        headers["Content-Type"] = meta.content_type
        await in_thread(spool.seek, 0)
        if meta.size_bytes > PART_BYTES:
            await self._upload_parts(meta, headers, spool)
            return
        client, what = self._client(), f"{meta.bucket}/{meta.key}"
        content = await in_thread(spool.read)
        await self._ask(
            what, lambda: client._put_object(meta.bucket, meta.key, BytesIO(content), dict(headers)), LONG_SECONDS
        )

    async def _upload_parts(self, meta: ArtifactMeta, headers: dict[str, str], spool: IO[bytes]) -> None:
        client, what, place = self._client(), f"{meta.bucket}/{meta.key}", (meta.bucket, meta.key)
        upload = await self._ask(what, lambda: client._create_multipart_upload(*place, dict(headers)))
        try:
            parts: list[Part] = []
            while content := await in_thread(spool.read, PART_BYTES):
                part = partial(_send_part, client, place, content, upload, len(parts) + 1)
                parts.append(Part(len(parts) + 1, await self._ask(what, part, LONG_SECONDS)))
            done = await self._ask(what, lambda: client._complete_multipart_upload(*place, upload, parts), LONG_SECONDS)
            if not done.etag:  # S3 may answer 200 first and then report an error in the body
                raise ArtifactStoreUnavailable(f"{what}: the store could not put the parts together")
        except BaseException:
            with suppress(Exception):  # the first error explains more; the server's own rules remove the parts then
                async with asyncio.timeout(ABORT_SECONDS):
                    await client._abort_multipart_upload(*place, upload)
            raise

    async def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        check_key(bucket, key)
        if end is not None and end <= start:
            await self.meta(bucket, key)
            return
        span = {"offset": start, "length": 0 if end is None else end - start}
        client, what = self._client(), f"{bucket}/{key}"
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
        await self.meta(bucket, key)  # an artifact that is not there makes no file
        with ExitStack() as stack:
            await pour(self.open(bucket, key), await in_thread(_create, to, stack), None)

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        check_key(bucket, key)
        found = await self._ask(f"{bucket}/{key}", partial(self._client().stat_object, bucket, key))
        known = {name.lower().removeprefix("x-amz-meta-"): value for name, value in (found.metadata or {}).items()}
        return ArtifactMeta(
            bucket=bucket,
            key=key,
            size_bytes=found.size or 0,
            content_type=found.content_type or "application/octet-stream",
            sha256=digest if SHA256.fullmatch(digest := known.get("sha256", "")) else None,
            created_at=_created(known.get("created", ""), found.last_modified),
            job_id=known.get("job") or None,
            node_id=known.get("node") or None,
            owner=known.get("owner") or UNSET,
            name=unquote(known.get("name", ""))[:200] or UNSET,
        )

    async def list(
        self,
        bucket: str | None = None,
        job_id: str | None = None,
        limit: int = 1000,
        owner: str | None = None,
        before: tuple[str, str] | None = None,
        folder: str | None = None,
    ) -> list[ArtifactMeta]:
        """A job's artifacts are those whose keys begin with its id (TaskContext.store names them so)."""
        within = job_id if folder is None else folder
        if (bucket is not None and not is_bucket(bucket)) or (within is not None and not is_segment(within)):
            return []
        buckets = BUCKETS if bucket is None else (bucket,)
        if owner and within is None and all([await self._is_indexed(name) for name in buckets]):
            return [*await self._of_owner(buckets, owner, limit, before)]
        changed: list[tuple[datetime, datetime, str, str]] = []
        for name in buckets:
            with suppress(ArtifactNotFound):  # nothing was ever stored there
                changed += await self._ask(
                    name, partial(_changes, self._client(), name, f"{within}/" if within else None), LONG_SECONDS
                )
        changed.sort(reverse=True)
        if before is not None:  # what an upload began later was also created later, or overwritten since
            latest = datetime.fromisoformat(before[0])
            changed = [each for each in changed if each[1] <= latest]
        found: list[ArtifactMeta] = []
        for at in range(0, len(changed), CONNECTIONS):
            if len(found) >= limit:
                found.sort(key=newest, reverse=True)
                if datetime.fromisoformat(found[limit - 1].created_at) >= changed[at][0] + CLOCK:
                    break  # the remaining objects were changed, and so created, before the last one that is needed
            known = await self._known([place for _, _, *place in changed[at : at + CONNECTIONS]])
            found += [
                meta
                for meta in known
                if job_id in (None, meta.job_id)
                and owner in (None, meta.owner)
                and (before is None or newest(meta) < before)
            ]
        return sorted(found, key=newest, reverse=True)[:limit]

    async def _of_owner(
        self, buckets: tuple[str, ...], owner: str, limit: int, before: tuple[str, str] | None
    ) -> Sequence[ArtifactMeta]:
        found: list[ArtifactMeta] = []
        # While an artifact is written over, and after a crash then, it has a newer entry beside its own.
        pending: dict[tuple[str, str], set[str]] = {}

        async def look() -> None:
            for meta in await self._known([*pending]):
                is_current = meta.created_at in pending[meta.bucket, meta.key] and meta.owner == owner
                if is_current and (before is None or newest(meta) < before):
                    found.append(meta)
            pending.clear()

        async for moment in self._index.moments(buckets, owner, None if before is None else before[0], limit + 1):
            for entry in moment:
                pending.setdefault((entry.bucket, entry.key), set()).add(entry.created_at)
            if len(pending) >= min(CONNECTIONS, limit - len(found)):
                await look()
            if len(found) >= limit:
                break
        await look()
        return sorted(found, key=newest, reverse=True)[:limit]

    async def _is_indexed(self, bucket: str) -> bool:
        """Returns whether the index of the bucket is whole; makes it where it is not, at once or beside the lists."""
        if await self._index.is_complete(bucket):
            return True
        if bucket not in self._indexing:
            try:
                places = await self._ask(bucket, partial(_changes, self._client(), bucket, None, INDEXED_AT_ONCE))
            except ArtifactNotFound:  # nothing was ever stored there
                return True
            if len(places) < INDEXED_AT_ONCE:
                await self._make_index(bucket)
                return True
            self._indexing[bucket] = asyncio.create_task(self._index_beside(bucket), name=f"index of {bucket}")
        return False

    async def _make_index(self, bucket: str) -> None:
        places = await self._ask(bucket, partial(_changes, self._client(), bucket, None), LONG_SECONDS)
        for at in range(0, len(places), INDEXERS):
            metas = await self._known([place for _, _, *place in places[at : at + INDEXERS]])
            await asyncio.gather(*(self._index.add(meta) for meta in metas))
        await self._index.note_complete(bucket)

    async def _index_beside(self, bucket: str) -> None:
        try:
            await self._make_index(bucket)
        except StoreError as error:
            logger.warning("the index of the bucket %s is not made yet: %s", bucket, error)
        finally:
            del self._indexing[bucket]  # the next list begins again where it is not whole

    async def _known(self, places: Sequence[Sequence[str]]) -> Sequence[ArtifactMeta]:
        """Leaves out objects deleted meanwhile and objects that are no artifacts: other programs may use the bucket too."""
        found: list[ArtifactMeta] = []

        async def look(bucket: str, key: str) -> None:
            with suppress(ArtifactNotFound, BadKey):
                found.append(await self.meta(bucket, key))

        try:
            async with asyncio.TaskGroup() as group:  # the first error ends them all
                for place in places:
                    group.create_task(look(*place))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return found

    async def delete(self, bucket: str, key: str) -> None:
        meta = await self.meta(bucket, key)
        await self._ask(f"{bucket}/{key}", partial(self._client().remove_object, bucket, key))
        await self._index.remove(meta)

    async def check(self) -> None:
        """Writes to every bucket, at most once a minute: a store that answers may still be full, or have space for some buckets only."""
        if time.monotonic() - self._checked < CHECK_SECONDS:
            await self._ask("the store", partial(self._client().bucket_exists, BUCKETS[0]))
            return
        client = self._client()
        for bucket in BUCKETS:
            await self._ensure(bucket)
            await self._ask(bucket, partial(client._put_object, bucket, PROBE, BytesIO(b"ok"), {}))
        self._checked = time.monotonic()

    async def link(
        self, bucket: str, key: str, disposition: str = "inline", content_type: str | None = None
    ) -> str | None:
        check_key(bucket, key)
        expires = timedelta(seconds=self._settings.presign_seconds)
        answer = {"response-content-disposition": disposition}
        if content_type is not None:
            answer["response-content-type"] = content_type
        link: str = await self._client(public=True).presigned_get_object(
            bucket, key, expires=expires, response_headers=answer
        )
        return link

    async def close(self) -> None:
        indexing = list(self._indexing.values())
        for task in indexing:
            task.cancel()
        await asyncio.gather(*indexing, return_exceptions=True)
        if self._clients is not None:
            (session, _, _), self._clients = self._clients, None
            await session.close()

    async def _ask(self, what: str, request: Callable[[], Awaitable[T]], seconds: float | None = None) -> T:
        """Returns the response to a request, which is sent again where the connection was lost or the server is busy. Raises only StoreError."""
        for attempt in range(1, ATTEMPTS + 1):
            try:
                # aiohttp's own limits do not cover a body that the server does not take
                async with asyncio.timeout(ANSWER_SECONDS if seconds is None else seconds):
                    return await request()
            except (
                S3Error,
                InvalidResponseError,
                ServerError,
                ParseError,
                ClientError,
                TimeoutError,
                OSError,
            ) as error:
                if attempt == ATTEMPTS or not _passing(error):
                    raise _of(error, what) from error
            await asyncio.sleep(RETRY_SECONDS * 2**attempt * random.random())
        raise AssertionError("the last attempt returns or raises")


def _passing(error: Exception) -> bool:
    """Returns whether the same request is likely to succeed in a moment."""
    match error:
        case S3Error():
            return error.response.status >= 500
        case InvalidResponseError():
            return int(error._code) >= 500
        case ServerError():
            return True
    return isinstance(error, CONNECTION_ERRORS)


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


async def _changes(
    client: Any, bucket: str, prefix: str | None, most: int | None = None
) -> list[tuple[datetime, datetime, str, str]]:
    """Returns (time of the last change, earliest time of its creation, bucket, key) of each object, or of the first `most`, without the index."""
    after = AFTER_INDEX if prefix is None else None
    found: list[tuple[datetime, datetime, str, str]] = []
    async for each in client.list_objects(bucket, prefix=prefix, recursive=True, start_after=after):
        took = CLOCK + timedelta(seconds=UPLOAD_SECONDS + (each.size or 0) / UPLOAD_SPEED)
        found.append((each.last_modified, each.last_modified - took, bucket, each.object_name))
        if len(found) == most:
            break
    return found


async def _send_part(client: Any, place: tuple[str, str], content: bytes, upload: str, number: int) -> str:
    # As BytesIO it is sent in pieces; bytes would hold up the loop. A new one each time: the last one was read to its end.
    etag: str = await client._upload_part(*place, BytesIO(content), None, upload, number)
    return etag


def _created(text: str, changed: datetime) -> str:
    """Returns `text`, or the time of the object's last change where another program stored it."""
    moment = changed
    with suppress(ValueError):
        moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%f%z")
    return rfc3339(round(moment.timestamp() * 1000))


def _spool(stack: ExitStack) -> IO[bytes]:
    """Enters the context here, since a cancel may drop the return value."""
    with os_errors_as_store_errors(Path(tempfile.gettempdir())):
        spool = tempfile.TemporaryFile()  # noqa: SIM115
        stack.callback(close_anyway, spool)
        return spool


def _create(to: Path, stack: ExitStack) -> IO[bytes]:
    with os_errors_as_store_errors(to.parent):
        file = open(to, "wb")  # noqa: SIM115
        stack.callback(close_anyway, file)
        return file
