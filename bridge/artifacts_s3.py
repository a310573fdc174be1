"""Artifacts in any S3-compatible store, through miniopy-async, always wrapped: its faults stay in here.

What is worked around (docs/decisions.md): streams of unknown length are spooled first, since its own multipart breaks on exact
multiples of a part and on empty streams; one upload at a time per object, since parallel parts are read into memory; the
session is ours, since its own cannot be closed for good; the region is given, since its look-up is one more request.
"""

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector
from aiohttp.client_exceptions import ClientConnectorError, ServerDisconnectedError
from aiohttp_retry import ExponentialRetry, RetryClient
from miniopy_async.api import Minio
from miniopy_async.error import InvalidResponseError, S3Error, ServerError

from bridge.artifacts import (
    CHUNK_BYTES,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
    Source,
    StoreFull,
    TooLarge,
    check_key,
    pour,
)
from bridge.errors import StoreError
from bridge.times import rfc3339
from schemas.structs.artifact import ArtifactMeta
from schemas.structs.settings import ArtifactsSettings

PART_BYTES = 16 << 20
T = TypeVar("T")
ABSENT = frozenset({"NoSuchKey", "NoSuchBucket", "NotFound", "ResourceNotFound"})
FULL = frozenset({"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage", "EntityTooLarge"})
EXISTS = frozenset({"BucketAlreadyOwnedByYou", "BucketAlreadyExists"})


class S3Store:
    """`settings.endpoint`: host:port or an http(s) address; buckets are made when first written to."""

    def __init__(self, settings: ArtifactsSettings) -> None:
        self._settings = settings
        self._clients: dict[int, tuple[RetryClient, Any, Any]] = {}
        self._buckets: set[str] = set()

    def _client(self) -> tuple[Any, Any]:
        """(client, client for links) of the running loop: an aiohttp session belongs to one."""
        loop = id(asyncio.get_running_loop())
        if loop not in self._clients:
            session = RetryClient(
                ClientSession(
                    timeout=ClientTimeout(total=None, connect=5, sock_connect=5, sock_read=30),
                    connector=TCPConnector(limit=32),
                ),
                retry_options=ExponentialRetry(
                    attempts=3,
                    start_timeout=0.1,
                    statuses={500, 502, 503, 504},
                    exceptions={ClientConnectorError, ServerDisconnectedError},
                ),
            )
            public = self._settings.public_endpoint or self._settings.endpoint
            self._clients[loop] = (session, self._made(self._settings.endpoint, session), self._made(public, session))
        return self._clients[loop][1:]

    def _made(self, endpoint: str, session: RetryClient) -> Any:
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
        with tempfile.TemporaryFile() as spool:
            size, digest = await pour(source, spool, limit)
            spool.seek(0)
            meta = ArtifactMeta(
                bucket=bucket,
                key=key,
                size_bytes=size,
                content_type=content_type or "application/octet-stream",
                sha256=digest,
                created_at=rfc3339(int(time.time() * 1000)),
                job_id=job_id,
                node_id=node_id,
            )
            await self._ensure(bucket)
            await self._told(self._upload(meta, spool), f"{bucket}/{key}")
        return meta

    async def _upload(self, meta: ArtifactMeta, spool: BinaryIO) -> None:
        known = {
            "sha256": meta.sha256,
            "created": meta.created_at,
            "job": meta.job_id or "",
            "node": meta.node_id or "",
        }
        await self._client()[0].put_object(
            meta.bucket,
            meta.key,
            spool,
            meta.size_bytes,
            content_type=meta.content_type,
            metadata={f"x-amz-meta-{name}": value for name, value in known.items() if value},
            part_size=PART_BYTES,
            num_parallel_uploads=1,
        )

    async def _ensure(self, bucket: str) -> None:
        if bucket in self._buckets:
            return

        async def make() -> None:
            client = self._client()[0]
            if not await client.bucket_exists(bucket):
                try:
                    await client.make_bucket(bucket)
                except S3Error as error:
                    if error.code not in EXISTS:
                        raise

        await self._told(make(), bucket)
        self._buckets.add(bucket)

    async def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        check_key(bucket, key)
        if end is not None and end <= start:
            return
        span = {"offset": start, "length": 0 if end is None else end - start}
        if not start and end is None:
            span = {}
        response = await self._told(self._client()[0].get_object(bucket, key, **span), f"{bucket}/{key}")
        try:
            async for chunk in response.content.iter_chunked(CHUNK_BYTES):
                yield chunk
        except (ClientError, TimeoutError) as error:
            raise ArtifactStoreUnavailable(f"{bucket}/{key}: the store broke off: {error}") from error
        finally:
            response.close()

    async def fetch(self, bucket: str, key: str, to: Path) -> None:
        with await asyncio.to_thread(to.open, "wb") as file:
            async for chunk in self.open(bucket, key):
                await asyncio.to_thread(file.write, chunk)

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        check_key(bucket, key)
        found = await self._told(self._client()[0].stat_object(bucket, key), f"{bucket}/{key}")
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
        from bridge.artifacts import BUCKETS

        found: list[ArtifactMeta] = []
        for name in (bucket,) if bucket else BUCKETS:
            keys: list[str] = []

            async def read(name: str = name, keys: list[str] = keys) -> None:
                prefix = f"{job_id}/" if job_id else None
                async for each in self._client()[0].list_objects(name, prefix=prefix, recursive=True):
                    keys.append(each.object_name)

            try:
                await self._told(read(), name)
            except ArtifactNotFound:
                continue
            for key in keys:
                with suppress(ArtifactNotFound, StoreError):
                    found.append(await self.meta(name, key))
        found.sort(key=lambda meta: (meta.created_at, meta.key), reverse=True)
        return found[:limit]

    async def delete(self, bucket: str, key: str) -> None:
        await self.meta(bucket, key)
        await self._told(self._client()[0].remove_object(bucket, key), f"{bucket}/{key}")

    async def check(self) -> None:
        await self._told(self._client()[0].bucket_exists("inputs"), "the store")

    async def link(self, bucket: str, key: str) -> str | None:
        check_key(bucket, key)
        expires = timedelta(seconds=self._settings.presign_seconds)
        found: str = await self._told(
            self._client()[1].presigned_get_object(bucket, key, expires=expires), f"{bucket}/{key}"
        )
        return found

    async def close(self) -> None:
        clients, self._clients = self._clients, {}
        for session, _, _ in clients.values():
            await session.close()

    async def _told(self, work: Awaitable[T], what: str) -> T:
        """The answer, with whatever the library raises as an error of ours."""
        try:
            return await work
        except S3Error as error:
            if error.code in ABSENT:
                raise ArtifactNotFound(f"there is no artifact {what}") from error
            if error.code in FULL:
                raise StoreFull(f"{what}: {error.code}") from error
            raise ArtifactStoreUnavailable(f"{what}: the store refuses: {error.code}") from error
        except (InvalidResponseError, ServerError, ClientError, TimeoutError, OSError) as error:
            raise ArtifactStoreUnavailable(f"{what}: the store does not answer: {type(error).__name__}") from error


__all__ = ["S3Store", "TooLarge"]
