"""What runs have really used, so that a need is known better than it was declared.

The last peaks of each kind of run (task, version, size; `Task.size_bucket`) are kept in Redis, because what one worker has learnt another of
the same devices can use, and a restart forgets nothing. From five runs on their 95th percentile is what a node needs. A server that
refuses the write (its memory limit) costs nothing but that.
"""

import logging
import math
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import msgspec
import redis

from bridge import keys
from bridge.connection import LOST, Client
from bridge.tasks import Task

log = logging.getLogger(__name__)

KEPT = 50  # of a kind of run
KINDS = 1000  # the one that was noted longest ago goes
ENOUGH = 5
SHARE = 0.95
MIB = 2**20


class Peaks:
    """`client` None: nothing is remembered beyond this process."""

    def __init__(self, client: Client | None = None) -> None:
        self._client = client
        self._seen: dict[str, list[int]] = {}
        self._loaded = client is None

    async def load(self) -> None:
        """What was learnt before; where the server does not answer, it is asked again with the next peak."""
        if self._client is None or self._loaded:
            return
        with suppress(*LOST, redis.RedisError, msgspec.DecodeError):
            rows = await self._client.hgetall(keys.MEMORY_PEAKS)
            self._seen |= {kind.decode(): msgspec.msgpack.decode(row, type=list[int]) for kind, row in rows.items()}
            self._loaded = True

    def need_bytes(self, task: Task, params: Mapping[str, Any]) -> int:
        """Device memory that this run is taken to need: learnt, else as declared; never less than a parameter asks for."""
        declared = task.memory_mib(params) * MIB
        seen = self._seen.get(task.size_bucket(params), ())
        if len(seen) < ENOUGH:
            return declared
        asked = isinstance(task.capability.runtime.memory_param, str)
        return max(percentile(seen), declared) if asked else percentile(seen)

    async def note(self, task: Task, params: Mapping[str, Any], peak: int) -> None:
        """Of a run that completed; a peak of 0 was not measured."""
        if peak <= 0:
            return
        await self.load()
        kind = task.size_bucket(params)
        seen = [*await self._known(kind), peak][-KEPT:]
        self._seen.pop(kind, None)
        self._seen[kind] = seen
        old = list(self._seen)[: max(0, len(self._seen) - KINDS)]
        for each in old:
            del self._seen[each]
        if self._client is not None:
            try:
                await self._client.hset(keys.MEMORY_PEAKS, kind, msgspec.msgpack.encode(seen))
                if old:
                    await self._client.hdel(keys.MEMORY_PEAKS, *old)
            except (*LOST, redis.RedisError) as error:
                log.info("a peak is remembered here only: %s", error)

    async def _known(self, kind: str) -> list[int]:
        """What has been noted of it, other workers' runs included."""
        if self._client is not None:
            with suppress(*LOST, redis.RedisError, msgspec.DecodeError):
                row = await self._client.hget(keys.MEMORY_PEAKS, kind)
                return msgspec.msgpack.decode(row, type=list[int]) if row is not None else []
        return self._seen.get(kind, [])


def percentile(peaks: list[int] | tuple[int, ...]) -> int:
    """The smallest of them that at least 95 % do not exceed."""
    return sorted(peaks)[math.ceil(SHARE * len(peaks)) - 1]
