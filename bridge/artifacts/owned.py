"""The artifacts of one owner: a store that hides the artifacts of other owners.

References to artifacts stand in params and outputs, where their writer can put any; so the store that acts for a job
or a request refuses, not the code that reads the params. Examples are visible to every owner. Artifacts without an owner (made while
the control plane was open) are visible to admins only.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore, BadKey, Source
from dihedral.schemas.structs.artifact import ArtifactMeta

KEPT_SLASHES = 2
"""Names in `<job>/<node>/<name>`: the keys of checkpoints and previews, which are overwritten. Other keys have a nonce before the name."""
EXAMPLES = ("inputs", "examples")
"""The bucket and the folder of the examples, which have no owner."""
OWNER = "dihedral.owner"
"""The metadata key in a job's graph that names its owner, so that the workers know the owner."""


def is_example(meta: ArtifactMeta) -> bool:
    bucket, folder = EXAMPLES
    return meta.bucket == bucket and meta.key.startswith(f"{folder}/")


def is_visible(meta: ArtifactMeta, owner: str | None) -> bool:
    """Returns whether the artifact is visible to `owner`; None: to a caller that sees everything."""
    if owner is None or is_example(meta):
        return True
    return not isinstance(meta.owner, UnsetType) and meta.owner == owner


class OwnedStore:
    """Serves one request or one run of a node. `sees`: as in `is_visible`. `name`: the owner of new artifacts; empty: no owner."""

    def __init__(self, store: ArtifactStore, sees: str | None, name: str) -> None:
        self._store = store
        self._sees = sees
        self._name = name
        self._seen: set[tuple[str, str]] = set()

    async def put(self, bucket: str, key: str, source: Source, content_type: str, **more: Any) -> ArtifactMeta:
        """Raises BadKey where the key holds another owner's artifact: ids of deleted jobs can be used again, and checkpoints and previews
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
        folder: str | None = None,
    ) -> list[ArtifactMeta]:
        sees = None if (bucket, folder) == EXAMPLES else self._sees
        return await self._store.list(bucket, job_id, limit, sees, before, folder)

    async def delete(self, bucket: str, key: str) -> None:
        """Refuses to delete an example unless the caller is an admin; every owner may read examples."""
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
