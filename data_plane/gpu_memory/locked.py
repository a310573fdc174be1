"""A small file that several processes change, one at a time, and that is whole whenever one of them is killed."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Locked:
    """The content of the file, without the blanks at its end. It belongs to this process alone until the lock is released."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self.text = os.pread(descriptor, self._size, 0).rstrip()

    def replace(self, text: bytes) -> None:
        """Replaces the whole text in one write, filled with blanks: a process that is killed here leaves the old text or the new one."""
        if text != self.text:
            os.pwrite(self._descriptor, text.ljust(self._size), 0)


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[Locked]:
    """The file is made where it is not. Raises: BlockingIOError: another process has the lock, and it is not to be waited for."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield Locked(descriptor)
    finally:
        os.close(descriptor)
