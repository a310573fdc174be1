"""Looks at many jobs and reads little of each: for a search, and for an id that was shortened."""

from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

from dihedral.bridge.fabric.jobs import Jobs

IDS_AT_ONCE = 5000
HEADS_AT_ONCE = 100
"""Jobs of one call of `heads`: what each of them stored of itself is bounded (identity.py), so a call reads 6 MiB at most."""


class Head(NamedTuple):
    """What a search looks at of a job; empty where the job has none."""

    owner: str
    pipeline: str
    about: str


async def heads(jobs: Jobs, job_ids: Sequence[str]) -> list[Head | None]:
    """Reads the heads of jobs; None for a job that is gone."""
    found: list[Head | None] = [None] * len(job_ids)
    by_partition: dict[int, list[int]] = {}
    for index, job_id in enumerate(job_ids):
        by_partition.setdefault(jobs.scripts.partition(job_id).number, []).append(index)
    for number, indexes in by_partition.items():
        for start in range(0, len(indexes), HEADS_AT_ONCE):
            chunk = indexes[start : start + HEADS_AT_ONCE]
            rows = await jobs.scripts.heads(jobs.scripts.partitions[number], [job_ids[index] for index in chunk])
            for index, row in zip(chunk, rows, strict=True):
                found[index] = Head(*row) if row else None
    return found


async def beginning(jobs: Jobs, prefix: str, limit: int) -> AsyncIterator[str]:
    """Yields at most `limit` ids of jobs that begin so; looks at every id, some thousand at a time."""
    wanted, found = prefix.encode(), 0
    for part in jobs.scripts.partitions:
        start = 0
        while rows := await jobs.client.zrange(part.index, start, start + IDS_AT_ONCE - 1):
            start += len(rows)
            for job_id in rows:
                if job_id.startswith(wanted):
                    yield job_id.decode()
                    found += 1
                    if found == limit:
                        return
