"""Deletes artifacts that are older than a given age."""

import time
from contextlib import suppress

from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta


async def prune(store: ArtifactStore, older_than_seconds: float, *, dry_run: bool) -> list[ArtifactMeta]:
    """Deletes artifacts created longer ago, oldest last; answers what was, or with `dry_run` would be, deleted."""
    horizon = rfc3339(int((time.time() - older_than_seconds) * 1000))
    old = [meta for meta in await store.list(limit=1_000_000) if meta.created_at < horizon]
    if not dry_run:
        for meta in old:
            with suppress(ArtifactNotFound):
                await store.delete(meta.bucket, meta.key)
    return old
