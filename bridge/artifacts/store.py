"""The interface of an artifact store: its methods, its errors, and the names that it accepts. `open_store` opens the store that the settings name.

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

import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from dihedral.bridge.errors import StoreError
from dihedral.schemas.structs.artifact import ArtifactMeta

BUCKETS = ("loras", "voices", "videos", "inputs")
CHUNK_BYTES = 1 << 18
_LABEL = r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"
_BUCKET = re.compile(rf"(?=.{{3,63}}\Z)(?![0-9]+(\.[0-9]+){{3}}\Z){_LABEL}(\.{_LABEL})*")
_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_CONTENT_TYPE = re.compile(r"(?=.{3,255}\Z)[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[\x20-\x7e]*)?")
Source = Path | bytes | AsyncIterator[bytes]


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
    """The interface of every store. Every method may raise StoreError; times and sizes are the artifact's, not the file's."""

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
        """Stores an artifact whole or not at all. `limit`: bytes; more raise TooLarge and leave nothing. `owner`: empty means no owner. `name`: the file's name."""
        ...

    def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Reads bytes [start, end) in chunks; `end` None means to the end."""
        ...

    async def fetch(self, bucket: str, key: str, to: Path) -> None: ...

    async def meta(self, bucket: str, key: str) -> ArtifactMeta: ...

    async def list(
        self,
        bucket: str | None = None,
        job_id: str | None = None,
        limit: int = 1000,
        owner: str | None = None,
        before: tuple[str, str] | None = None,
        folder: str | None = None,
    ) -> list[ArtifactMeta]:
        """Lists artifacts, newest first. `owner`: only this owner's; `job_id`: only keys that begin with it; `before`: only those after it in the order of `newest`;
        `folder`: only keys whose first part it is.
        """
        ...

    async def delete(self, bucket: str, key: str) -> None: ...

    async def check(self) -> None:
        """Raises StoreError where the store cannot be used now."""
        ...

    async def link(
        self, bucket: str, key: str, disposition: str = "inline", content_type: str | None = None
    ) -> str | None:
        """Returns a presigned address for clients, valid for a limited time; None where the control plane serves the bytes itself.

        `disposition`, `content_type`: the headers with which the store is to answer; without, the type is that of the object.
        """
        ...

    async def close(self) -> None: ...


def is_bucket(name: str) -> bool:
    return _BUCKET.fullmatch(name) is not None


def is_segment(name: str) -> bool:
    """Returns whether the text may stand between two slashes of a key; every id of a job or node may."""
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
    """Returns the type to store; "" means unknown bytes. Raises BadContentType where it cannot be a header, which downloads and the store server need."""
    if content_type and not _CONTENT_TYPE.fullmatch(content_type):
        raise BadContentType(f"{content_type[:200]!r} is no content type, like image/png or text/plain; charset=utf-8")
    return content_type or "application/octet-stream"


def newest(meta: ArtifactMeta) -> tuple[str, str]:
    """Returns a sort key, the newest last."""
    return meta.created_at, meta.key
