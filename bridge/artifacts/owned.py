"""The artifacts of one owner: a store in which those of others are not there.

References to artifacts stand in params and outputs, where their writer can put any; so it is the store that is asked on behalf of a job
or of a request that says no, not whoever reads the params. Examples are everybody's. What nobody owns (made while the control plane
was open) only admins see.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore, BadKey, Source
from dihedral.schemas.structs.artifact import ArtifactMeta

KEPT_SLASHES = 2
"""In `<job>/<node>/<name>`, the keys of checkpoints and previews, which are written over; others have a nonce before the name."""
OWNER = "dihedral.owner"
"""Where a job's graph names its owner, in its metadata: so the workers know."""


def is_visible(meta: ArtifactMeta, owner: str | None) -> bool:
    """Whether it is there for `owner`; None: for whoever sees everything."""
    if owner is None or (meta.bucket == "inputs" and meta.key.startswith("examples/")):
        return True
    return not isinstance(meta.owner, UnsetType) and meta.owner == owner


class OwnedStore:
    """`sees` as in `is_visible`; `name`: the owner of what is put, empty: nobody. For one request or one run of a node."""

    def __init__(self, store: ArtifactStore, sees: str | None, name: str) -> None:
        self._store = store
        self._sees = sees
        self._name = name
        self._seen: set[tuple[str, str]] = set()

    async def put(self, bucket: str, key: str, source: Source, content_type: str, **more: Any) -> ArtifactMeta:
        """Raises BadKey where another owner's artifact is there: ids of deleted jobs can be taken anew, and checkpoints and previews
        have no nonce in their keys.
        """
        if more.get("job_id") and key.count("/") == KEPT_SLASHES:
            with suppress(ArtifactNotFound):
                if (await self._store.meta(bucket, key)).owner not in (UNSET, self._name):
                    raise BadKey(f"{bucket}/{key} is of another owner's job of the same id; submit under another id")
        return await self._store.put(bucket, key, source, content_type, **{**more, "owner": self._name})

    async def open(self, bucket: str, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        await self._check(bucket, key)
        async for chunk in self._store.open(bucket, key, start, end):
            yield chunk

    async def fetch(self, bucket: str, key: str, to: Path) -> None:
        await self._check(bucket, key)
        await self._store.fetch(bucket, key, to)

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        meta = await self._store.meta(bucket, key)
        if not is_visible(meta, self._sees):
            raise ArtifactNotFound(f"there is no artifact {bucket}/{key}")
        self._seen.add((bucket, key))
        return meta

    async def list(
        self,
        bucket: str | None = None,
        job_id: str | None = None,
        limit: int = 1000,
        owner: str | None = None,
        before: tuple[str, str] | None = None,
    ) -> list[ArtifactMeta]:
        return await self._store.list(bucket, job_id, limit, self._sees, before)

    async def delete(self, bucket: str, key: str) -> None:
        """Examples are everybody's to read, and nobody's but an admin's to delete."""
        meta = await self.meta(bucket, key)
        if self._sees is not None and meta.owner != self._sees:
            raise ArtifactNotFound(f"there is no artifact {bucket}/{key} of yours")
        await self._store.delete(bucket, key)

    async def check(self) -> None:
        await self._store.check()

    async def link(
        self, bucket: str, key: str, disposition: str = "inline", content_type: str | None = None
    ) -> str | None:
        await self._check(bucket, key)
        return await self._store.link(bucket, key, disposition, content_type)

    async def close(self) -> None:
        await self._store.close()

    async def _check(self, bucket: str, key: str) -> None:
        if self._sees is not None and (bucket, key) not in self._seen:
            await self.meta(bucket, key)
