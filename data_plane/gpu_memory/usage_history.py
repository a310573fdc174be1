"""The memory that runs have really used, so that a need is estimated better than it was declared.

The last peaks of each kind of run (task, version, size; `Task.size_bucket`) are kept in Redis, because another worker of the same devices
can use what one worker has learnt, and a restart forgets nothing. From five runs on their 95th percentile is what a node needs. A server that
refuses the write (its memory limit) costs nothing but that.

A list for each kind, so that two workers that note a peak at once both add theirs, and a sorted set of the kinds, by when they were last
noted. Each command is right by itself and in any order with those of others: on a cluster the keys lie in different places.
"""

import logging
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import redis

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, Client
from dihedral.bridge.tasks.registry import MIB, Task

log = logging.getLogger(__name__)

KEPT = 50  # of a kind of run
KINDS = 1000  # the one that was noted longest ago goes
TTL_MS = 90 * 86_400_000  # of a kind that no worker runs any more
ENOUGH = 5
SHARE = 0.95


class MemoryUsageHistory:
    """`client` None: nothing is remembered beyond this process."""

    def __init__(self, client: Client | None = None) -> None:
        self._client = client
        self._seen: dict[str, list[int]] = {}
        self._loaded = client is None

    async def load(self) -> None:
        """Loads what was learnt before; where the server does not answer, the next peak queries it again."""
        if self._client is None or self._loaded:
            return
        with suppress(*CONNECTION_ERRORS, redis.RedisError):
            kinds = [kind.decode() for kind in await self._client.zrange(keys.MEMORY_KINDS, 0, -1)]
            pipe = self._client.pipeline(transaction=False)
            pipe.pexpire(keys.OLD_MEMORY_PEAKS, TTL_MS, nx=True)
            for kind in kinds:
                pipe.lrange(keys.memory_peaks(kind), 0, -1)
            _, *rows = await pipe.execute()
            self._seen |= {kind: _numbers(row) for kind, row in zip(kinds, rows, strict=True)}
            self._loaded = True

    def need_bytes(self, task: Task, params: Mapping[str, Any]) -> int:
        """Returns the device memory that this run probably needs: learnt, else as declared; never less than a parameter requests."""
        declared = task.memory_mib(params) * MIB
        seen = self._seen.get(task.size_bucket(params), ())
        if len(seen) < ENOUGH:
            return declared
        asked = isinstance(task.capability.runtime.memory_param, str)
        return max(percentile(seen), declared) if asked else percentile(seen)

    async def note(self, task: Task, params: Mapping[str, Any], peak: int) -> None:
        """Notes the peak of a run that completed; a peak of 0 was not measured."""
        if peak <= 0:
            return
        await self.load()
        kind = task.size_bucket(params)
        self._remember(kind, [*self._seen.get(kind, []), peak][-KEPT:])
        if self._client is not None:
            try:
                self._remember(kind, await self._add(self._client, kind, peak))
            except (*CONNECTION_ERRORS, redis.RedisError) as error:
                log.info("a peak is remembered here only: %s", error)

    def _remember(self, kind: str, seen: list[int]) -> None:
        self._seen.pop(kind, None)
        self._seen[kind] = seen
        for old in list(self._seen)[:-KINDS]:
            del self._seen[old]

    async def _add(self, client: Client, kind: str, peak: int) -> list[int]:
        """Returns the peaks that are noted for it now, including runs of other workers."""
        key = keys.memory_peaks(kind)
        pipe = client.pipeline(transaction=False)
        pipe.rpush(key, peak)
        pipe.ltrim(key, -KEPT, -1)
        pipe.pexpire(key, TTL_MS)
        pipe.lrange(key, 0, -1)
        pipe.zadd(keys.MEMORY_KINDS, {kind: int(time.time() * 1000)})
        pipe.pexpire(keys.MEMORY_KINDS, TTL_MS)
        pipe.zrange(keys.MEMORY_KINDS, 0, -KINDS - 1)
        *_, row, _, _, old = await pipe.execute()
        if old:
            pipe = client.pipeline(transaction=False)
            for each in old:
                pipe.ltrim(keys.memory_peaks(each.decode()), 1, 0)  # all of it: a worker may delete no key
                pipe.zrem(keys.MEMORY_KINDS, each)
            await pipe.execute()
        return _numbers(row)


def _numbers(row: list[bytes]) -> list[int]:
    return [int(each) for each in row]


def percentile(peaks: list[int] | tuple[int, ...]) -> int:
    """The smallest of them that at least 95 % do not exceed."""
    return sorted(peaks)[math.ceil(SHARE * len(peaks)) - 1]
