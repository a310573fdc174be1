"""Deletes artifacts older than a given age, except those that an unfinished job, or a job being submitted right now, names, and what other programs keep in
the buckets: objects without the SHA-256 that every artifact has.

A submission notes the artifacts that it names and then checks whether they are being deleted; a prune notes what it will delete and then checks whether a job names it.
Whichever came first, one of the two sees the other. Both notes are in Redis, since stores know no order; they expire, so that a process that died in between blocks no other.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import Any

from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore
from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.scripts import Depth
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta

NOTED_SECONDS = 10
"""Seconds for which a submission counts as under way: between its note and the job lies one call, which is given up after four seconds."""
GOING_SECONDS = 3600
AT_ONCE = 500
EXAMPLES = "inputs/examples/"
"""The artifacts that the console's forms and POST /api/train name."""


async def prune(
    store: ArtifactStore, older_than_seconds: float, *, dry_run: bool, jobs: Jobs | None = None
) -> list[ArtifactMeta]:
    """Returns the artifacts that were deleted, or with `dry_run` would be, the oldest last. `jobs` None: there are no jobs that could name any."""
    horizon = rfc3339(int((time.time() - older_than_seconds) * 1000))
    old = [
        meta
        for meta in await store.list(limit=1_000_000)
        if meta.created_at < horizon and meta.sha256 is not None and not _name(meta).startswith(EXAMPLES)
    ]
    deleted: list[ArtifactMeta] = []
    for start in range(0, len(old), AT_ONCE):
        block = old[start : start + AT_ONCE]
        names = [_name(meta) for meta in block]
        if jobs is not None and not dry_run:
            await _note_deletion(jobs.client, names)
        try:
            spared = set() if jobs is None else await _named(jobs, names)
            for meta in block:
                if _name(meta) in spared:
                    continue
                if not dry_run:
                    with suppress(ArtifactNotFound):
                        await store.delete(meta.bucket, meta.key)
                deleted.append(meta)
        finally:
            if jobs is not None and not dry_run:  # what a store that went away has kept can be named again
                await jobs.client.hdel(keys.ARTIFACTS_GOING, *names)
    return deleted


async def note_use(client: Client, names: Sequence[str]) -> list[str]:
    """Notes, before a submission is written, that it names these artifacts; returns those of them that are being deleted."""
    if not names:
        return []
    now = time.time()
    await client.zadd(keys.ARTIFACTS_NAMED, dict.fromkeys(names, now))
    await client.zremrangebyscore(keys.ARTIFACTS_NAMED, "-inf", now - NOTED_SECONDS)
    going = await client.hmget(keys.ARTIFACTS_GOING, list(names))
    return [name for name, mark in zip(names, going, strict=True) if mark is not None]


def names_in(document: Any) -> Iterator[str]:
    """Returns `bucket/key` of everything in a JSON document that has the form of an artifact reference."""
    if isinstance(document, dict):
        bucket, key = document.get("bucket"), document.get("key")
        if isinstance(bucket, str) and isinstance(key, str):
            yield f"{bucket}/{key}"
        for value in document.values():
            yield from names_in(value)
    elif isinstance(document, list):
        for value in document:
            yield from names_in(value)


def _name(meta: ArtifactMeta) -> str:
    return f"{meta.bucket}/{meta.key}"


async def _note_deletion(client: Client, names: Sequence[str]) -> None:
    marks = [text for name in names for text in (name, "1")]
    await functions.call(client, "lasting", keys.ARTIFACTS_GOING, GOING_SECONDS * 1000, "HSET", *marks)


async def _named(jobs: Jobs, names: Sequence[str]) -> set[str]:
    """Returns the artifacts that a submission under way, or a job that has not ended, names."""
    since = time.time() - NOTED_SECONDS
    found = {name for name in names if (await jobs.client.zscore(keys.ARTIFACTS_NAMED, name) or 0) > since}
    for part in jobs.scripts.partitions:
        alive = [raw.decode() async for raw in jobs.client.sscan_iter(part.alive)]
        for start in range(0, len(alive), 100):
            for view in await jobs.read_many(alive[start : start + 100], Depth.outputs):
                if view is not None:
                    texts = [view.graph or "{}", *(record.payload or "{}" for record in view.records.values())]
                    found |= set(_in_texts(texts)) | {_name(meta) for meta in view.artifacts}
    return found


def _in_texts(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        with suppress(ValueError):
            yield from names_in(json.loads(text))
