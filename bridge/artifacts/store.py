"""Where artifacts live: one interface over a local directory and any S3-compatible store.

No half artifact is ever visible: a local one is written beside its place, synced, and renamed with its meta; a remote one appears
when the store has all of it. Keys contain the claim's nonce, so two runs of a node never write the same key.

StoreError
├── ArtifactNotFound
├── BadKey                    a bucket or key that no store would take, or that would leave its directory
├── BadContentType            nothing that could be a header
├── TooLarge                  more than the caller allowed
├── StoreFull                 the disk, or the store's quota
└── ArtifactStoreUnavailable  cannot be reached, cannot be written, or refuses the credentials
"""

import asyncio
import errno
import fcntl
import hashlib
import os
import re
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Protocol, TypeVar

import msgspec
from msgspec import UNSET

from dihedral.bridge.errors import StoreError
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind

BUCKETS = ("loras", "voices", "videos", "inputs")
CHUNK_BYTES = 1 << 18
STALE_SECONDS = 24 * 3600

_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_BUCKET = re.compile(rf"(?=.{{3,63}}\Z)(?![0-9]+(\.[0-9]+){{3}}\Z){_LABEL}(\.{_LABEL})*")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTENT_TYPE = re.compile(r"(?=.{3,255}\Z)[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[\x20-\x7e]*)?")

Source = Path | bytes | AsyncIterator[bytes]
T = TypeVar("T")


class ArtifactNotFound(StoreError):
    code = "artifact_not_found"


class BadKey(StoreError):
    code = "bad_artifact_key"


class BadContentType(StoreError):
    code = "bad_content_type"


class TooLarge(StoreError):
    code = "artifact_too_large"


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
        owner: str = "",
    ) -> ArtifactMeta:
        """Stores it whole or not at all. `limit`: bytes; more raise TooLarge and leave nothing. `owner`: empty, nobody."""
        ...

    def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Bytes [start, end) in chunks; `end` None means to the end."""
        ...

    async def fetch(self, bucket: str, key: str, to: Path) -> None: ...

    async def meta(self, bucket: str, key: str) -> ArtifactMeta: ...

    async def list(
        self, bucket: str | None = None, job_id: str | None = None, limit: int = 1000, owner: str | None = None
    ) -> list[ArtifactMeta]:
        """Newest first; with `owner` those of his alone."""
        ...

    async def delete(self, bucket: str, key: str) -> None: ...

    async def check(self) -> None:
        """Raises where the store could not be used now."""
        ...

    async def link(self, bucket: str, key: str, disposition: str = "inline") -> str | None:
        """A presigned address for clients, for a while; None where the control plane serves the bytes itself.

        `disposition`: the Content-Disposition with which the store is to answer.
        """
        ...

    async def close(self) -> None: ...


def is_bucket(name: str) -> bool:
    return _BUCKET.fullmatch(name) is not None


def is_segment(name: str) -> bool:
    """Whether it can stand between two slashes of a key; every id of a job or node can."""
    return _SEGMENT.fullmatch(name) is not None


def check_key(bucket: str, key: str) -> None:
    """Raises BadKey unless every part is a plain name."""
    if not is_bucket(bucket):
        raise BadKey(f"{bucket[:200]!r} is no bucket name: 3 to 63 of a-z 0-9 . -")
    if len(key) > 900 or not all(is_segment(part) for part in key.split("/")):
        raise BadKey(
            f"{key[:200]!r} is no artifact key: parts of A-Z a-z 0-9 . _ - between slashes, none starting with a dot"
        )


def checked_type(content_type: str) -> str:
    """The type to store; "" is unknown bytes. Raises BadContentType: it becomes a header, of a download or to the server."""
    if content_type and not _CONTENT_TYPE.fullmatch(content_type):
        raise BadContentType(f"{content_type[:200]!r} is no content type, like image/png or text/plain; charset=utf-8")
    return content_type or "application/octet-stream"


def open_store(settings: ArtifactsSettings) -> ArtifactStore:
    """The store that the settings name; nothing is contacted yet."""
    if settings.store == StoreKind.s3:
        from dihedral.bridge.artifacts.s3 import S3Store

        return S3Store(settings)
    return LocalStore(Path(settings.directory))


class LocalStore:
    """A directory: `<bucket>/<key>` holds the bytes, `.meta/<bucket>/<key>.json` what is known of them.

    Several processes may share it. An artifact exists when its meta does. Bytes and meta are two files, so whoever changes both or
    reads one by the other holds a lock on the folder of the meta meanwhile: a process that is frozen then stops nobody elsewhere.
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
        owner: str = "",
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
            )
            await in_thread(self._publish, part, meta)
            return meta

    def _begin(self, stack: ExitStack) -> IO[bytes]:
        """A file that the stack removes, unless it has been renamed. Entered here: a cancel may drop the answer."""
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
                    about.unlink(missing_ok=True)  # a crash behind this line leaves no bytes under another's meta
                    os.replace(part.name, data)
                    os.replace(draft, about)
            finally:
                draft.unlink(missing_ok=True)
            for folder in (data.parent, about.parent):
                with suppress(FileNotFoundError):  # deleted since
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
        """Under the lock, where a file that is not there is an artifact that is not there."""
        with os_errors_as_store_errors(self._root):
            try:
                with _locked(folder, how):
                    yield
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
                raise ArtifactNotFound(f"there is no artifact {bucket}/{key}") from error

    async def list(
        self, bucket: str | None = None, job_id: str | None = None, limit: int = 1000, owner: str | None = None
    ) -> list[ArtifactMeta]:
        if bucket is not None and not is_bucket(bucket):
            return []

        def read() -> list[ArtifactMeta]:
            found = []
            for path in (self._root / ".meta" / (bucket or "")).rglob("*.json"):
                with suppress(OSError, msgspec.DecodeError):
                    meta = _decode(path.read_bytes())
                    if job_id in (None, meta.job_id) and owner in (None, meta.owner):
                        found.append(meta)
            found.sort(key=newest, reverse=True)
            return found[:limit]

        return await asyncio.to_thread(read)

    async def delete(self, bucket: str, key: str) -> None:
        """With the folders that it leaves empty: every upload has one of its own."""

        def remove() -> None:
            data, about = self._paths(bucket, key)
            with self._found(bucket, key, about.parent, fcntl.LOCK_EX):
                about.unlink()
                data.unlink(missing_ok=True)
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
                for path in self._temporary.iterdir():  # what a killed process left
                    with suppress(OSError):
                        if time.time() - path.stat().st_mtime > STALE_SECONDS:
                            path.unlink()

        await asyncio.to_thread(probe)  # who gives up a check of a dead disk does not wait for it

    async def link(self, bucket: str, key: str, disposition: str = "inline") -> str | None:
        check_key(bucket, key)
        return None

    async def close(self) -> None:
        return None


_decode = msgspec.json.Decoder(ArtifactMeta).decode


def _discard(part: IO[bytes]) -> None:
    close_anyway(part)
    with suppress(FileNotFoundError):
        os.unlink(part.name)


def close_anyway(part: IO[bytes]) -> None:
    with suppress(OSError):  # what it still buffers may not fit
        part.close()


@contextmanager
def _locked(folder: Path, how: int, make: Callable[[], None] | None = None) -> Iterator[None]:
    """Under the folder's lock, `how` LOCK_EX or LOCK_SH, against every thread and process.

    `make` makes the folder where there is none. Raises FileNotFoundError without it.
    """
    descriptor = _lock(folder, how, make)
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(folder: Path, how: int, make: Callable[[], None] | None) -> int:
    """Begins anew as often as a delete takes the folder away in between."""
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
                    make()  # what it makes stays now
                stack.pop_all()
                return descriptor


def _make_room(data: Path, about: Path) -> None:
    """Folders for both. Raises BadKey where one name would have to be a file and a folder; FileNotFoundError: try again."""
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


async def in_thread(work: Callable[..., T], *arguments: object, stopped: threading.Event | None = None) -> T:
    """As asyncio.to_thread, but a cancelled caller goes on only when the thread is done: nothing writes behind its back.

    `stopped` is set then, for work that can take long to look at.
    """
    running = asyncio.get_running_loop().run_in_executor(None, work, *arguments)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        if stopped is not None:
            stopped.set()
        await asyncio.wait([running])
        raise


async def pour(source: Source, part: IO[bytes], limit: int | None) -> tuple[int, str]:
    """Writes a source into an open file and flushes it; (bytes, sha256). Raises TooLarge beyond `limit`."""
    poured = _Poured(part, limit)
    if isinstance(source, Path | bytes):
        stopped = threading.Event()
        await in_thread(poured.copy, source, stopped, stopped=stopped)
    else:
        async for chunk in source:
            await in_thread(poured.write, chunk)
        await in_thread(poured.flush)
    return poured.size, poured.digest.hexdigest()


class _Poured:
    def __init__(self, part: IO[bytes], limit: int | None) -> None:
        self._part = part
        self._limit = limit
        self.size = 0
        self.digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self.size += len(chunk)
        if self._limit is not None and self.size > self._limit:
            raise TooLarge(f"more than {self._limit} bytes")
        with os_errors_as_store_errors(_folder_of(self._part)):
            self._part.write(chunk)
        self.digest.update(chunk)

    def copy(self, source: Path | bytes, stopped: threading.Event) -> None:
        if isinstance(source, bytes):
            self.write(source)
        else:
            with open(source, "rb") as file:
                while not stopped.is_set() and (chunk := file.read(1 << 20)):
                    self.write(chunk)
        self.flush()

    def flush(self) -> None:
        with os_errors_as_store_errors(_folder_of(self._part)):
            self._part.flush()


def _folder_of(part: IO[bytes]) -> Path:
    """A file without a name is in the folder for temporary files."""
    return Path(tempfile.gettempdir()) if isinstance(part.name, int) else Path(part.name).parent


@contextmanager
def os_errors_as_store_errors(where: Path) -> Iterator[None]:
    """Turns what the file system says into what the store says."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(f"{where}: {error.strerror}") from error
        raise ArtifactStoreUnavailable(f"{where} cannot be used: {error.strerror}") from error


def newest(meta: ArtifactMeta) -> tuple[str, str]:
    """A key to sort by, the newest last."""
    return meta.created_at, meta.key


async def prune(store: ArtifactStore, older_than_seconds: float, *, dry_run: bool) -> list[ArtifactMeta]:
    """Deletes artifacts created longer ago, oldest last; answers what was, or with `dry_run` would be, deleted."""
    horizon = rfc3339(int((time.time() - older_than_seconds) * 1000))
    old = [meta for meta in await store.list(limit=1_000_000) if meta.created_at < horizon]
    if not dry_run:
        for meta in old:
            with suppress(ArtifactNotFound):
                await store.delete(meta.bucket, meta.key)
    return old
