"""Models that already lie on a worker's disk: `{"local": "sdxl/base"}` names a file or folder below one of `models.roots`, and nothing else.

Every user may name them, so a name is looked up as if an enemy had written it: no absolute path, no `..`, no hidden name, and no link that leads out of
the root, wherever in a folder it stands. Devices, sockets and FIFOs are refused too, since reading one may never end. What lies below a root is the
operator's: a check here and the task's own look at the file are two looks, so no other account may write there.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

from msgspec import UNSET

from dihedral.bridge.errors import DihedralError
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

AMBIGUOUS = "a model is either an artifact (bucket and key) or local"
MOST_FILES = 20_000
"""Entries of a folder that are checked; a larger one is no model."""


class BadModel(DihedralError):
    """Codes: model_not_found, bad_model (a name or a file that is refused)."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


def find(roots: Sequence[str], ref: ModelRef) -> Path:
    """Returns the path of a local model, in the first root that has it. Messages name no path outside of the roots.

    Raises:
        BadModel: it is not there, or is refused.
    """
    if ref.bucket is not UNSET or ref.key is not UNSET or ref.local is UNSET:
        raise BadModel(AMBIGUOUS, "bad_model")
    name = ref.local
    parts = name.split("/")
    if any(not part or part.startswith(".") or "\\" in part or not part.isprintable() for part in parts):
        raise BadModel(f"{name[:200]!r} is no path below models.roots", "bad_model")
    for each in roots:
        with _names_as_refusals(name):
            root = Path(each).resolve()
            if not os.path.lexists(root / name):
                continue
            found = root / name
            if _checked(root, found, name).is_dir():
                for entry in _entries(found, name):
                    _checked(root, entry, name)
            return found
    where = "below models.roots of this worker" if roots else "on this worker: it has no models.roots"
    raise BadModel(f"there is no model {name!r} {where}", "model_not_found")


def missing(roots: Sequence[str]) -> list[str]:
    """Returns the roots that are no folders on this machine."""
    return [root for root in roots if not Path(root).is_dir()]


def artifact_of(ref: ArtifactRef | ModelRef) -> ArtifactRef:
    """Raises BadModel where the reference names no artifact, or names a local model beside it."""
    if isinstance(ref, ArtifactRef):
        return ref
    if ref.bucket is UNSET or ref.key is UNSET or ref.local is not UNSET:
        raise BadModel(AMBIGUOUS, "bad_model")
    return ArtifactRef(bucket=ref.bucket, key=ref.key)


def file_name(ref: ArtifactRef | ModelRef) -> str:
    """Returns the name of the file or folder that a reference names."""
    whole = ref.local if isinstance(ref, ModelRef) and ref.local is not UNSET else ref.key
    return "" if whole is UNSET else whole.rpartition("/")[2]


def shown(ref: ArtifactRef | ModelRef) -> str:
    """Returns the reference as messages name it: bucket/key, or the local path."""
    if isinstance(ref, ModelRef) and isinstance(ref.local, str):
        return f"local {ref.local}"
    return f"{ref.bucket}/{ref.key}"


class _names_as_refusals:
    """Turns errors of the file system into refusals: a name too long, no permission, a loop of links."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError | RuntimeError | ValueError):
            raise BadModel(f"the model {self._name!r} cannot be read: {_reason(error)}", "bad_model") from error


def _reason(error: Exception) -> str:
    return error.strerror or type(error).__name__ if isinstance(error, OSError) else "its links go in a circle"


def _checked(root: Path, path: Path, name: str) -> Path:
    real = path.resolve(strict=True)
    if not real.is_relative_to(root):
        raise BadModel(f"the model {name!r} has a link that leaves models.roots: {path.relative_to(root)}", "bad_model")
    mode = real.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise BadModel(f"the model {name!r} holds what is neither a file nor a folder: {path.name}", "bad_model")
    return real


def _entries(folder: Path, name: str) -> Iterator[Path]:
    """Yields everything below a folder. Folders behind links are checked, and not entered: a task that follows them stays below the root all the same."""
    count, waiting = 0, [folder]
    while waiting:
        with os.scandir(waiting.pop()) as entries:
            for entry in entries:
                count += 1
                if count > MOST_FILES:
                    raise BadModel(f"the model {name!r} has more than {MOST_FILES} files", "bad_model")
                yield Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    waiting.append(Path(entry.path))
