"""Where artifacts live: one interface over a local directory and any S3-compatible store.

No half artifact is ever visible: a local one is written beside its place, synced, and renamed with its meta; a remote one appears
when the store has all of it. Keys contain the claim's nonce, so two runs of a node never write the same key.

StoreError
├── ArtifactNotFound
├── BadKey                    a bucket or key that no store would take, or that would leave its directory
├── StoreFull                 the disk, or the store's quota
└── ArtifactStoreUnavailable  cannot be reached, cannot be written, or refuses the credentials
"""

import asyncio
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Protocol

import msgspec

from bridge.errors import StoreError
from bridge.times import rfc3339
from schemas.structs.artifact import ArtifactMeta
from schemas.structs.settings import ArtifactsSettings, StoreKind

BUCKETS = ("loras", "voices", "videos", "inputs")
CHUNK_BYTES = 1 << 18
STALE_SECONDS = 24 * 3600

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

Source = Path | bytes | AsyncIterator[bytes]


class ArtifactNotFound(StoreError):
    code = "artifact_not_found"


class BadKey(StoreError):
    code = "bad_artifact_key"


class StoreFull(StoreError):
    code = "artifact_store_full"


class ArtifactStoreUnavailable(StoreError):
    code = "artifact_store_unavailable"


class ArtifactStore(Protocol):
    """Every method may raise StoreError; times and sizes are of the artifact, not of what is on disk."""

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
        """Stores it whole or not at all. `limit`: bytes; more raise TooLarge and leave nothing."""
        ...

    def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes [start, end) in chunks; `end` None means to the end."""
        ...

    async def fetch(self, bucket: str, key: str, to: Path) -> None: ...

    async def meta(self, bucket: str, key: str) -> ArtifactMeta: ...

    async def list(self, bucket: str | None = None, job_id: str | None = None, limit: int = 1000) -> list[ArtifactMeta]:
        """Newest first."""
        ...

    async def delete(self, bucket: str, key: str) -> None: ...

    async def check(self) -> None:
        """Raises where the store could not be used now."""
        ...

    async def link(self, bucket: str, key: str) -> str | None:
        """A presigned address for clients; None where the control plane serves the bytes itself."""
        ...

    async def close(self) -> None: ...


class TooLarge(StoreError):
    code = "artifact_too_large"


def check_key(bucket: str, key: str) -> None:
    """Raises BadKey unless every part is a plain name."""
    if not _BUCKET.fullmatch(bucket):
        raise BadKey(f"{bucket!r} is no bucket name: 3 to 63 of a-z 0-9 . -")
    if len(key) > 900 or not all(_SEGMENT.fullmatch(part) for part in key.split("/")):
        raise BadKey(
            f"{key[:200]!r} is no artifact key: parts of A-Z a-z 0-9 . _ - between slashes, none starting with a dot"
        )


def open_store(settings: ArtifactsSettings) -> ArtifactStore:
    """The store that the settings name; nothing is contacted yet."""
    if settings.store == StoreKind.s3:
        from bridge.artifacts_s3 import S3Store

        return S3Store(settings)
    return LocalStore(Path(settings.directory))


class LocalStore:
    """A directory: `<bucket>/<key>` holds the bytes, `.meta/<bucket>/<key>.json` what is known of them.

    Several processes may share it. The meta is renamed into place last: an artifact exists when its meta does.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory
        self._temporary = directory / ".tmp"

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
        part = await asyncio.to_thread(self._begin)
        try:
            size, digest = await pour(source, part, limit)
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
            await asyncio.to_thread(self._publish, part, meta)
            return meta
        finally:
            with suppress(OSError):
                part.close()
            with suppress(FileNotFoundError):
                os.unlink(part.name)

    def _begin(self) -> BinaryIO:
        with _told(self._root):
            self._temporary.mkdir(parents=True, exist_ok=True)
            return open(tempfile.mkstemp(dir=self._temporary)[1], "wb")

    def _publish(self, part: BinaryIO, meta: ArtifactMeta) -> None:
        with _told(self._root):
            part.flush()
            os.fsync(part.fileno())
            part.close()
            data, about = self._paths(meta.bucket, meta.key)
            data.parent.mkdir(parents=True, exist_ok=True)
            about.parent.mkdir(parents=True, exist_ok=True)
            draft = f"{part.name}.json"
            try:
                with open(draft, "wb") as file:
                    file.write(msgspec.json.encode(meta))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(part.name, data)
                os.replace(draft, about)
            finally:
                with suppress(FileNotFoundError):
                    os.unlink(draft)
            for folder in (data.parent, about.parent):
                descriptor = os.open(folder, os.O_RDONLY)
                try:
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)

    def _paths(self, bucket: str, key: str) -> tuple[Path, Path]:
        check_key(bucket, key)
        return self._root / bucket / key, self._root / ".meta" / bucket / f"{key}.json"

    async def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        await self.meta(bucket, key)
        file = await asyncio.to_thread(self._open, bucket, key)
        try:
            await asyncio.to_thread(file.seek, start)
            left = None if end is None else max(0, end - start)
            while left is None or left > 0:
                chunk = await asyncio.to_thread(file.read, CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                yield chunk
        finally:
            file.close()

    def _open(self, bucket: str, key: str) -> BinaryIO:
        try:
            return open(self._paths(bucket, key)[0], "rb")
        except (FileNotFoundError, IsADirectoryError) as error:
            raise ArtifactNotFound(f"there is no artifact {bucket}/{key}") from error

    async def fetch(self, bucket: str, key: str, to: Path) -> None:
        def copy() -> None:
            with self._open(bucket, key) as source, _told(to.parent), open(to, "wb") as target:
                while chunk := source.read(1 << 20):
                    target.write(chunk)

        await self.meta(bucket, key)
        await asyncio.to_thread(copy)

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        return await asyncio.to_thread(self._meta, bucket, key)

    def _meta(self, bucket: str, key: str) -> ArtifactMeta:
        try:
            return _decode(self._paths(bucket, key)[1].read_bytes())
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise ArtifactNotFound(f"there is no artifact {bucket}/{key}") from error

    async def list(self, bucket: str | None = None, job_id: str | None = None, limit: int = 1000) -> list[ArtifactMeta]:
        if bucket is not None and not _BUCKET.fullmatch(bucket):
            return []

        def read() -> list[ArtifactMeta]:
            found = []
            for path in (self._root / ".meta" / (bucket or "")).rglob("*.json"):
                with suppress(OSError, msgspec.DecodeError):
                    meta = _decode(path.read_bytes())
                    if job_id is None or meta.job_id == job_id:
                        found.append(meta)
            found.sort(key=lambda meta: (meta.created_at, meta.key), reverse=True)
            return found[:limit]

        return await asyncio.to_thread(read)

    async def delete(self, bucket: str, key: str) -> None:
        def remove() -> None:
            data, about = self._paths(bucket, key)
            try:
                about.unlink()
            except (FileNotFoundError, NotADirectoryError) as error:
                raise ArtifactNotFound(f"there is no artifact {bucket}/{key}") from error
            with suppress(FileNotFoundError):
                data.unlink()

        await asyncio.to_thread(remove)

    async def check(self) -> None:
        def probe() -> None:
            with _told(self._root):
                self._temporary.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._temporary):
                    pass
                for path in self._temporary.iterdir():  # what a killed process left
                    with suppress(OSError):
                        if time.time() - path.stat().st_mtime > STALE_SECONDS:
                            path.unlink()

        await asyncio.to_thread(probe)

    async def link(self, bucket: str, key: str) -> str | None:
        return None

    async def close(self) -> None:
        return None


_decode = msgspec.json.Decoder(ArtifactMeta).decode


def _copy(source: Path | bytes, part: BinaryIO, limit: int | None) -> tuple[int, str]:
    digest = hashlib.sha256()
    size = 0
    for chunk in _chunks(source):
        size += len(chunk)
        if limit is not None and size > limit:
            raise TooLarge(f"more than {limit} bytes")
        _write(part, chunk, digest)
    return size, digest.hexdigest()


def _chunks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with open(source, "rb") as file:
        while chunk := file.read(1 << 20):
            yield chunk


async def pour(source: Source, part: BinaryIO, limit: int | None) -> tuple[int, str]:
    """Writes a source into an open file; (bytes, sha256). Raises TooLarge beyond `limit`."""
    if isinstance(source, Path | bytes):
        return await asyncio.to_thread(_copy, source, part, limit)
    digest = hashlib.sha256()
    size = 0
    async for chunk in source:
        size += len(chunk)
        if limit is not None and size > limit:
            raise TooLarge(f"more than {limit} bytes")
        await asyncio.to_thread(_write, part, chunk, digest)
    return size, digest.hexdigest()


def _write(part: BinaryIO, chunk: bytes, digest: "hashlib._Hash") -> None:
    with _told(Path(str(part.name)).parent):
        part.write(chunk)
    digest.update(chunk)


@contextmanager
def _told(where: Path) -> Iterator[None]:
    """Turns what the file system says into what the store says."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(f"{where}: {error.strerror}") from error
        raise ArtifactStoreUnavailable(f"{where} cannot be written: {error.strerror}") from error


async def prune(store: ArtifactStore, older_than_seconds: float, *, dry_run: bool) -> list[ArtifactMeta]:
    """Deletes artifacts created longer ago, oldest last; answers what was, or with `dry_run` would be, deleted."""
    horizon = rfc3339(int((time.time() - older_than_seconds) * 1000))
    old = [meta for meta in await store.list(limit=1_000_000) if meta.created_at < horizon]
    if not dry_run:
        for meta in old:
            with suppress(ArtifactNotFound):
                await store.delete(meta.bucket, meta.key)
    return old
