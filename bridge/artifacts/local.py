"""Artifacts in a local directory, which several processes may share."""

import asyncio
import fcntl
import os
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import groupby, islice
from pathlib import Path
from typing import IO

import msgspec
from msgspec import UNSET

from dihedral.bridge.artifacts.index import Index
from dihedral.bridge.artifacts.store import (
    BUCKETS,
    CHUNK_BYTES,
    ArtifactNotFound,
    ArtifactStoreUnavailable,
    BadKey,
    Source,
    check_key,
    checked_type,
    is_bucket,
    is_segment,
    newest,
)
from dihedral.bridge.artifacts.transfer import close_anyway, in_thread, os_errors_as_store_errors, pour
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta

STALE_SECONDS = 24 * 3600


class LocalStore:
    """A directory: `<bucket>/<key>` holds the bytes, `.meta/<bucket>/<key>.json` their metadata.

    Several processes may share it. An artifact exists when its meta does. Bytes and meta are two files, so a caller that changes both or
    reads both holds a lock on the meta's folder meanwhile: a frozen process then blocks no other folder.
    """

    def __init__(self, directory: Path) -> None:
        self._root = directory
        self._temporary = directory / ".tmp"
        self._index = Index(directory)

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
            part = await in_thread(self._begin, stack)
            size, digest = await pour(source, part, limit)
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
            await in_thread(self._publish, part, meta)
            return meta

    def _begin(self, stack: ExitStack) -> IO[bytes]:
        """A temporary file that the exit stack removes, unless it has been renamed. It is entered here, since a cancel may drop the return value."""
        with os_errors_as_store_errors(self._root):
            self._temporary.mkdir(parents=True, exist_ok=True)
            part = tempfile.NamedTemporaryFile(dir=self._temporary, delete=False)  # noqa: SIM115
            stack.callback(_discard, part)
            return part

    def _publish(self, part: IO[bytes], meta: ArtifactMeta) -> None:
        data, about = self._paths(meta.bucket, meta.key)
        draft = Path(f"{part.name}.json")
        with os_errors_as_store_errors(self._root):
            os.fsync(part.fileno())
            part.close()
            try:
                with open(draft, "wb") as file:
                    file.write(msgspec.json.encode(meta))
                    file.flush()
                    os.fsync(file.fileno())
                with _locked(about.parent, fcntl.LOCK_EX, partial(_make_room, data, about)):
                    indexed = self._index.add(meta)
                    before = _read(about)
                    about.unlink(missing_ok=True)  # a crash behind this line leaves no bytes under another's meta
                    os.replace(part.name, data)
                    os.replace(draft, about)
                    if before is not None and (before.created_at, before.owner) != (meta.created_at, meta.owner):
                        self._index.remove(before)
            finally:
                draft.unlink(missing_ok=True)
            for folder in (data.parent, about.parent, indexed):
                with suppress(FileNotFoundError):  # it was deleted meanwhile
                    _sync(folder)

    def _paths(self, bucket: str, key: str) -> tuple[Path, Path]:
        check_key(bucket, key)
        return self._root / bucket / key, self._root / ".meta" / bucket / f"{key}.json"

    async def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        with ExitStack() as stack:
            file = await in_thread(self._open, bucket, key, stack)
            await in_thread(file.seek, start)
            left = None if end is None else max(0, end - start)
            while left is None or left > 0:
                chunk = await in_thread(file.read, CHUNK_BYTES if left is None else min(CHUNK_BYTES, left))
                if not chunk:
                    return
                if left is not None:
                    left -= len(chunk)
                yield chunk

    def _open(self, bucket: str, key: str, stack: ExitStack) -> IO[bytes]:
        data, about = self._paths(bucket, key)
        with self._found(bucket, key, about.parent):
            about.stat()
            return stack.enter_context(open(data, "rb"))

    async def fetch(self, bucket: str, key: str, to: Path) -> None:
        def copy(stopped: threading.Event) -> None:
            with ExitStack() as stack:
                source = self._open(bucket, key, stack)
                with os_errors_as_store_errors(to.parent), open(to, "wb") as target:
                    while not stopped.is_set() and (chunk := source.read(1 << 20)):
                        target.write(chunk)

        stopped = threading.Event()
        await in_thread(copy, stopped, stopped=stopped)

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        return await asyncio.to_thread(self._meta, bucket, key)

    def _meta(self, bucket: str, key: str) -> ArtifactMeta:
        _, about = self._paths(bucket, key)
        with self._found(bucket, key, about.parent):
            encoded = about.read_bytes()
        try:
            return _decode(encoded)
        except msgspec.DecodeError as error:
            raise ArtifactStoreUnavailable(f"what is known of {bucket}/{key} cannot be read: {error}") from error

    @contextmanager
    def _found(self, bucket: str, key: str, folder: Path, how: int = fcntl.LOCK_SH) -> Iterator[None]:
        """Holds the lock; a missing file means a missing artifact (ArtifactNotFound)."""
        with os_errors_as_store_errors(self._root):
            try:
                with _locked(folder, how):
                    yield
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise ArtifactNotFound(f"there is no artifact {bucket}/{key}") from error

    async def list(
        self,
        bucket: str | None = None,
        job_id: str | None = None,
        limit: int = 1000,
        owner: str | None = None,
        before: tuple[str, str] | None = None,
        folder: str | None = None,
    ) -> list[ArtifactMeta]:
        within = job_id if folder is None else folder
        if (bucket is not None and not is_bucket(bucket)) or (within is not None and not is_segment(within)):
            return []

        def read() -> list[ArtifactMeta]:
            with os_errors_as_store_errors(self._root):
                if within is not None:
                    metas = self._within(bucket, within, job_id, owner)
                else:
                    self._index.complete(lambda: self._everything(".meta"))
                    metas = self._indexed(bucket, owner, before)
                return list(islice((meta for meta in metas if before is None or newest(meta) < before), limit))

        return await asyncio.to_thread(read)

    def _indexed(self, bucket: str | None, owner: str | None, before: tuple[str, str] | None) -> Iterator[ArtifactMeta]:
        """Yields artifacts, newest first. Artifacts of the same moment come together, so that the caller can sort them."""
        entries = self._index.entries(owner, bucket, None if before is None else before[0])
        for _, moment in groupby(entries, key=lambda entry: entry.created_at):
            found = []
            for entry in moment:
                meta = _read(self._paths(entry.bucket, entry.key)[1])
                if meta is not None and meta.created_at == entry.created_at:
                    found.append(meta)
            yield from sorted(found, key=newest, reverse=True)

    def _within(self, bucket: str | None, folder: str, job_id: str | None, owner: str | None) -> Iterator[ArtifactMeta]:
        """Finds the artifacts of a folder; that of a job is its id (TaskContext.store names its keys so)."""
        folders = [bucket] if bucket is not None else BUCKETS
        metas = (meta for name in folders for meta in self._everything(f".meta/{name}/{folder}"))
        found = [meta for meta in metas if job_id in (None, meta.job_id) and owner in (None, meta.owner)]
        yield from sorted(found, key=newest, reverse=True)

    def _everything(self, below: str) -> Iterator[ArtifactMeta]:
        for path in (self._root / below).rglob("*.json"):
            meta = _read(path)
            if meta is not None:
                yield meta

    async def delete(self, bucket: str, key: str) -> None:
        """Removes the file and the folders that become empty: every upload has its own folder."""

        def remove() -> None:
            data, about = self._paths(bucket, key)
            with self._found(bucket, key, about.parent, fcntl.LOCK_EX):
                before = _read(about)
                about.unlink()
                data.unlink(missing_ok=True)
                if before is not None:
                    self._index.remove(before)
                for path in (data, about):
                    for folder in list(path.parents)[: key.count("/")]:
                        with suppress(OSError):  # not empty
                            folder.rmdir()

        await in_thread(remove)

    async def check(self) -> None:
        def probe() -> None:
            with os_errors_as_store_errors(self._root):
                self._temporary.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=self._temporary):
                    pass
                for path in self._temporary.iterdir():  # files that a killed process left
                    with suppress(OSError):
                        if time.time() - path.stat().st_mtime > STALE_SECONDS:
                            path.unlink()

        await asyncio.to_thread(probe)  # a caller that gives up the check of a dead disk does not wait for it

    async def link(
        self, bucket: str, key: str, disposition: str = "inline", content_type: str | None = None
    ) -> str | None:
        check_key(bucket, key)
        return None

    async def close(self) -> None:
        return None


_decode = msgspec.json.Decoder(ArtifactMeta).decode


def _read(about: Path) -> ArtifactMeta | None:
    with suppress(OSError, msgspec.DecodeError):
        return _decode(about.read_bytes())
    return None


def _discard(part: IO[bytes]) -> None:
    close_anyway(part)
    with suppress(FileNotFoundError):
        os.unlink(part.name)


@contextmanager
def _locked(folder: Path, how: int, make: Callable[[], None] | None = None) -> Iterator[None]:
    """Holds the folder's lock (`how`: LOCK_EX or LOCK_SH) against every thread and process.

    `make` makes the folder where there is none. Raises FileNotFoundError without it.
    """
    descriptor = _lock(folder, how, make)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, how: int, make: Callable[[], None] | None) -> int:
    """Starts again each time a delete removes the folder in between."""
    while True:
        try:
            if make is not None:
                make()
            descriptor = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            if make is None:
                raise
            continue
        with ExitStack() as stack, suppress(FileNotFoundError):
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, how)
            if os.path.samestat(folder.stat(), os.fstat(descriptor)):
                if make is not None:
                    make()  # under the lock, what `make` makes stays
                stack.pop_all()
                return descriptor


def _make_room(data: Path, about: Path) -> None:
    """Makes the folders of both files. Raises BadKey where one name would have to be a file and a folder; FileNotFoundError: try again."""
    try:
        data.parent.mkdir(parents=True, exist_ok=True)
        about.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        if any(folder.is_file() for path in (data, about) for folder in path.parents):
            raise BadKey(f"{data}: a part of this key is an artifact itself") from error
        if any(folder.is_symlink() and not folder.exists() for path in (data, about) for folder in path.parents):
            raise
        raise FileNotFoundError(f"{data}: a folder of it was there and has gone") from error
    if data.is_dir() or about.is_dir():
        raise BadKey(f"{data}: there are artifacts whose keys go on from this one")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
