"""An artifact store whose traffic is reported: bytes moved, duration, failures."""

import asyncio
import builtins
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from dihedral.bridge.artifacts.store import BUCKETS, ArtifactStore, Source
from dihedral.bridge.errors import StoreError
from dihedral.schemas.structs.artifact import ArtifactMeta


class Transfer(msgspec.Struct, frozen=True):
    """One operation on the store; `code` is the error's code, empty on success."""

    operation: str
    bucket: str
    size_bytes: int
    seconds: float
    code: str = ""


Note = Callable[[Transfer], None]


class _Moved:
    size_bytes = 0


class MeasuredStore:
    """Calls `note` for every put and read, and for each other operation that failed. A read that its reader stopped counts the bytes it had delivered."""

    def __init__(self, store: ArtifactStore, note: Note) -> None:
        self._store = store
        self._note = note

    @contextmanager
    def _told(self, operation: str, bucket: str = "") -> Iterator[_Moved]:
        moved, code, begun = _Moved(), "", time.perf_counter()
        try:
            yield moved
        except StoreError as error:
            code = error.code
            raise
        finally:
            if code or operation in ("put", "read"):
                name = bucket if bucket in BUCKETS else "other"
                self._note(Transfer(operation, name, moved.size_bytes, time.perf_counter() - begun, code))

    async def put(self, bucket: str, key: str, source: Source, content_type: str, **more: Any) -> ArtifactMeta:
        with self._told("put", bucket) as moved:
            meta = await self._store.put(bucket, key, source, content_type, **more)
            moved.size_bytes = meta.size_bytes
            return meta

    async def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        with self._told("read", bucket) as moved:
            async with aclosing(self._store.open(bucket, key, start, end)) as chunks:  # type: ignore[type-var]
                async for chunk in chunks:
                    moved.size_bytes += len(chunk)
                    yield chunk

    async def fetch(self, bucket: str, key: str, to: Path) -> None:
        with self._told("read", bucket) as moved:
            await self._store.fetch(bucket, key, to)
            moved.size_bytes = (await asyncio.to_thread(to.stat)).st_size

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        with self._told("meta"):
            return await self._store.meta(bucket, key)

    async def list(
        self,
        bucket: str | None = None,
        job_id: str | None = None,
        limit: int = 1000,
        owner: str | None = None,
        before: tuple[str, str] | None = None,
        folder: str | None = None,
    ) -> builtins.list[ArtifactMeta]:
        with self._told("list"):
            return await self._store.list(bucket, job_id, limit, owner, before, folder)

    async def delete(self, bucket: str, key: str) -> None:
        with self._told("delete"):
            await self._store.delete(bucket, key)

    async def check(self) -> None:
        with self._told("check"):
            await self._store.check()

    async def link(
        self, bucket: str, key: str, disposition: str = "inline", content_type: str | None = None
    ) -> str | None:
        with self._told("link"):
            return await self._store.link(bucket, key, disposition, content_type)

    async def close(self) -> None:
        await self._store.close()
