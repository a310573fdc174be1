"""The index of the artifacts, newest first. Listing reads no artifact's meta file, so a page of a list costs only that page.

`.index/<owner>/<bucket>/<day>/<time>~<digest of the key>` is a link whose target is the key; an artifact without an owner has `-` there. Names alone tell owner, bucket
and time, so that one user's list never reads what others own. An entry is made before its artifact appears and removed after it has gone: a crash between leaves
an entry that names no artifact, which a list skips.
"""

import hashlib
import heapq
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from msgspec import UnsetType

from dihedral.schemas.structs.artifact import ArtifactMeta

NO_OWNER = "-"
COMPLETE = ".complete"


class Entry(NamedTuple):
    name: str
    bucket: str
    key: str
    path: Path

    @property
    def created_at(self) -> str:
        return self.name.partition("~")[0]


class Index:
    def __init__(self, root: Path) -> None:
        self._root = root / ".index"
        self._is_complete = False

    def complete(self, everything: Callable[[], Iterable[ArtifactMeta]]) -> None:
        """Makes the index entries of a directory that an older version wrote without an index."""
        if self._is_complete:
            return
        if not (self._root / COMPLETE).exists():
            for meta in everything():
                self.add(meta)
            self._root.mkdir(parents=True, exist_ok=True)
            (self._root / COMPLETE).touch()
        self._is_complete = True

    def add(self, meta: ArtifactMeta) -> Path:
        """The folder of the entry, which the caller syncs."""
        path = self._path(meta)
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(FileExistsError):
                try:
                    path.symlink_to(meta.key)
                except FileNotFoundError:  # the day's folder was empty, and has just been removed
                    continue
            return path.parent

    def remove(self, meta: ArtifactMeta) -> None:
        path = self._path(meta)
        path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty
            path.parent.rmdir()

    def entries(self, owner: str | None, bucket: str | None, until: str | None) -> Iterator[Entry]:
        """Lists artifacts, newest first. `owner` None: those of every owner. `until`: artifacts newer than this time are left out."""
        folders = []
        for each in [owner or NO_OWNER] if owner is not None else _names(self._root):
            place = self._root / each
            folders += [place / name for name in ([bucket] if bucket is not None else _names(place))]
        return heapq.merge(*(_of(folder, until) for folder in folders), reverse=True)

    def _path(self, meta: ArtifactMeta) -> Path:
        owner = NO_OWNER if isinstance(meta.owner, UnsetType) else meta.owner
        digest = hashlib.sha256(meta.key.encode()).hexdigest()[:16]
        return self._root / owner / meta.bucket / meta.created_at[:10] / f"{meta.created_at}~{digest}"


def _of(folder: Path, until: str | None) -> Iterator[Entry]:
    for day in sorted(_names(folder), reverse=True):
        if until is not None and day > until[:10]:
            continue
        for name in sorted(_names(folder / day), reverse=True):
            if until is not None and name.partition("~")[0] > until:
                continue
            path = folder / day / name
            with suppress(OSError):  # removed meanwhile
                yield Entry(name, folder.name, os.readlink(path), path)


def _names(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if not name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        return []
