"""Moves bytes from a source into a file: in a thread that its caller waits for, counted, hashed and limited."""

import asyncio
import errno
import hashlib
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeVar

from dihedral.bridge.artifacts.store import ArtifactStoreUnavailable, Source, StoreFull, TooLarge

T = TypeVar("T")


async def in_thread(work: Callable[..., T], *arguments: object, stopped: threading.Event | None = None) -> T:
    """Works like asyncio.to_thread, but a cancelled caller continues only when the thread is done, so nothing is written after that.

    `stopped` is set on a cancel; long work checks it.
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
    """Writes a source into an open file and flushes it; returns (bytes, sha256). Raises TooLarge beyond `limit`."""
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
    """Opens a file without a name in the folder for temporary files."""
    return Path(tempfile.gettempdir()) if isinstance(part.name, int) else Path(part.name).parent


def close_anyway(part: IO[bytes]) -> None:
    with suppress(OSError):  # the bytes still buffered may not fit
        part.close()


@contextmanager
def os_errors_as_store_errors(where: Path) -> Iterator[None]:
    """Turns errors of the file system into errors of the store."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StoreFull(f"{where}: {error.strerror}") from error
        raise ArtifactStoreUnavailable(f"{where} cannot be used: {error.strerror}") from error
