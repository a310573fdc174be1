"""The directory for temporary files of one worker, and what workers that died have left of theirs.

A worker holds a lock on a file in its directory as long as it lives; the kernel gives the lock back however it ends, also to workers in other
containers that share the directory for temporary files, where a process id would prove nothing.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

PREFIX = "dihedral-worker-"
LOCK = ".lock"


@contextmanager
def scratch() -> Iterator[Path]:
    """A directory of this process in which `tempfile` puts everything meanwhile; those of dead workers are removed first."""
    remove_left(Path(tempfile.gettempdir()))
    before = tempfile.tempdir
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tempfile.tempdir = str(path)
        yield path
    finally:
        tempfile.tempdir = before
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_left(directory: Path) -> None:
    """Removes what belongs to no living worker. One that has not locked its directory yet is young, and left alone."""
    for path in directory.glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(path / LOCK, os.O_RDWR)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                log.info("removing what a worker that died has left: %s", path)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(lock)
