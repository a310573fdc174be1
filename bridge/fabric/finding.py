"""Looks at many jobs and reads little of each: for a search, and for an id that was shortened."""

import asyncio
import time
from bisect import bisect_left
from collections.abc import Sequence
from typing import NamedTuple

from dihedral.bridge.fabric.jobs import Jobs

IDS_AT_ONCE = 2000
OVERLAP_MS = 100
"""Of the times at which jobs were created, that are read again: for a server whose clock went back, and jobs of the same millisecond."""
KEPT_SECONDS = 600.0
"""Then the ids are read anew, which drops those of jobs that are gone."""
BEHIND_ALL = "~"  # sorts behind every character of an id
HEADS_AT_ONCE = 50
"""Jobs of one call of `heads`: what each of them stored of itself is bounded (identity.py), so a call reads 3 MiB at most."""


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


class Ids:
    """The ids of all jobs in order, kept so that a look-up of a beginning reads only what is new: about 90 bytes of memory a job, once there was one."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._turn = asyncio.Lock()
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._ids: list[str] = []
        self._upto = [-OVERLAP_MS] * len(self._jobs.scripts.partitions)
        self._since = time.monotonic()

    async def beginning(self, prefix: str, limit: int) -> tuple[list[tuple[str, Head]], bool]:
        """Returns the jobs whose ids begin so, of the first `limit` that do, and whether these were all. `prefix`: of characters of an id."""
        async with self._turn:
            await self._read_new()
            start = bisect_left(self._ids, prefix)
            end = bisect_left(self._ids, f"{prefix}{BEHIND_ALL}")
            some = self._ids[start : min(end, start + limit)]
            known = await heads(self._jobs, some)
            found = [(job_id, head) for job_id, head in zip(some, known, strict=True) if head is not None]
            self._ids[start : start + len(some)] = [job_id for job_id, _ in found]
            return found, end - start <= limit

    async def _read_new(self) -> None:
        if time.monotonic() - self._since > KEPT_SECONDS:
            self._begin_anew()
        upto, runs = list(self._upto), [self._ids]
        for part in self._jobs.scripts.partitions:
            before: set[str] = set()
            start, offset, rows = float(self._upto[part.number] - OVERLAP_MS), 0, [(b"", 0.0)] * IDS_AT_ONCE
            while len(rows) == IDS_AT_ONCE:  # by score: what is removed meanwhile would move a place that is counted
                rows = await self._jobs.client.zrange(
                    part.index, start, "+inf", byscore=True, offset=offset, num=IDS_AT_ONCE, withscores=True
                )
                ids = {raw.decode() for raw, _ in rows}
                if new := [job_id for job_id in ids - before if not self._has(job_id)]:
                    runs.append(sorted(new))
                if rows:
                    last = rows[-1][1]
                    start, offset, before = last, offset + len(rows) if last == start else 0, ids
                    upto[part.number] = int(last)
        while len(runs) > 1:  # two at a time: to sort all at once would hold up the loop
            first, second, *rest = runs
            first += second
            first.sort()  # two runs in order are merged
            runs = [*rest, first]
            await asyncio.sleep(0)
        self._ids, self._upto = runs[0], upto

    def _has(self, job_id: str) -> bool:
        at = bisect_left(self._ids, job_id)
        return at < len(self._ids) and self._ids[at] == job_id
