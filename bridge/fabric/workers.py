"""The registry of workers: their heartbeats, the tasks that they know, and the depth of the queues that they serve."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec
import redis.asyncio

from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client, now_ms
from dihedral.bridge.fabric.durations import DurationNotes
from dihedral.bridge.fabric.keys import Partition
from dihedral.schemas.structs.capability import Capability, Voice
from dihedral.schemas.structs.graph import Plane
from dihedral.schemas.structs.worker import QueueInfo, UsageSample, WorkerInfo

log = logging.getLogger(__name__)

T = TypeVar("T")

HEARTBEAT_SECONDS = 5
LIVE_SECONDS = 15
RECENT_SECONDS = 7 * 24 * 3600


class KnownTask(msgspec.Struct):
    """A capability as its last worker announced it."""

    capability: Capability
    worker_id: str
    last_seen_ms: int


USAGE_SAMPLES = 360
"""Of one in ten seconds: an hour, some 60 kB of a worker with eight devices."""
USAGE_MS = 3_600_000
_decode_sample = msgspec.json.Decoder(UsageSample).decode
_decode_worker = msgspec.json.Decoder(WorkerInfo).decode
_decode_voices = msgspec.json.Decoder(dict[str, list[Voice]]).decode
_decode_known = msgspec.json.Decoder(KnownTask).decode


def _understood(decode: Callable[[bytes], T], text: bytes, what: str) -> T | None:
    """Decodes what a worker announced. Returns None, logged once, for the format of a newer version, which must not stop an older control plane."""
    try:
        return decode(text)
    except msgspec.MsgspecError as error:
        _not_understood(what, str(error))
        return None


@cache
def _not_understood(what: str, why: str) -> None:
    log.warning(
        "the %s of a worker cannot be read and is left out, as if it were not there: %s (another version?)", what, why
    )


class WorkerRegistry:
    def __init__(self, client: Client, partitions: Sequence[Partition]) -> None:
        self._client = client
        self._partitions = partitions

    async def announce(self, info: WorkerInfo, capabilities: Iterable[Capability]) -> None:
        """Writes a worker's heartbeat: the worker for LIVE_SECONDS, its tasks for a week after it was last seen.

        The worker comes last: of one that is listed everything else is known.
        """
        now = await now_ms(self._client)
        known: list[str | bytes] = []
        voices: dict[str, list[Voice]] = {}
        for each in capabilities:
            if isinstance(each.voices, list):
                voices[each.id] = each.voices
            known += [f"{each.plane}:{each.id}", msgspec.json.encode(KnownTask(each, info.worker_id, now))]
        for first in range(0, len(known), 1000):
            await self._put("HSET", keys.CAPABILITIES, *known[first : first + 1000])
        if voices:
            await self._put("SET", keys.voices(info.worker_id), msgspec.json.encode(voices), "EX", RECENT_SECONDS)
        await self._put("HSET", keys.PLACES, f"{info.plane}/{info.pool}", now)
        await self._put("PEXPIRE", keys.PLACES, RECENT_SECONDS * 1000)
        if info.devices and info.draining:
            await self.leave_devices(info.pool, info.worker_id)  # a heartbeat that was on its way may have put it back
        elif info.devices:
            for part in self._partitions:
                await self._put("ZADD", part.devices(info.pool), now, info.worker_id)
        await self._put("SET", keys.worker(info.worker_id), msgspec.json.encode(info), "EX", RECENT_SECONDS)
        await self._put("ZADD", keys.WORKERS, now, info.worker_id)

    async def note_usage(self, sample: UsageSample | None, worker_id: str) -> None:
        """Adds a sample to the last hour of a worker's use."""
        if sample is None:
            return
        text = msgspec.json.encode(sample)
        await functions.call(self._client, "append", keys.usage(worker_id), USAGE_SAMPLES, USAGE_MS, text)

    async def usage(self, worker_id: str) -> list[UsageSample]:
        rows: list[bytes] = await self._client.lrange(keys.usage(worker_id), 0, -1)
        return [found for row in rows if (found := _understood(_decode_sample, row, "use")) is not None]

    async def note_durations(self, notes: DurationNotes) -> None:
        await notes.write(self._client)

    async def leave_devices(self, pool: str, worker_id: str) -> None:
        """Lets other workers of the pool run what prefers a device, where this was the last that has one; for a worker that takes no more nodes."""
        for part in self._partitions:
            await self._put("ZREM", part.devices(pool), worker_id)

    async def depart(self, worker_id: str) -> None:
        """Removes a worker from the live ones; it stays among those seen recently."""
        await self._put("ZADD", keys.WORKERS, await now_ms(self._client) - LIVE_SECONDS * 1000 - 1, worker_id)

    async def pause(self, name: str, on: bool) -> None:
        """Pauses or resumes what `name` is: a place as plane/pool, or one worker. Workers obey at once, or at their next heartbeat; what runs goes on."""
        if on:
            await self._put("HSET", keys.PAUSED, name, await now_ms(self._client))
        else:
            await self._client.hdel(keys.PAUSED, name)
        await self._client.publish(keys.CANCEL_CHANNEL, "/paused")

    async def paused(self) -> frozenset[str]:
        """Returns the paused places and drained workers. A drained worker that has gone is forgotten."""
        names = {name.decode() for name in await self._client.hkeys(keys.PAUSED)}
        drained = sorted(name for name in names if "/" not in name)
        if drained:
            known = await self._client.exists(*[keys.worker(name) for name in drained])
            if known < len(drained):
                gone = [name for name in drained if not await self._client.exists(keys.worker(name))]
                await self._client.hdel(keys.PAUSED, *gone)
                names -= set(gone)
        return frozenset(names)

    async def is_paused(self, plane: str, pool: str, worker_id: str) -> tuple[bool, bool]:
        """Returns whether the place is paused, and whether this worker is drained."""
        place, drained = await self._client.hmget(keys.PAUSED, [f"{plane}/{pool}", worker_id])
        return place is not None, drained is not None

    async def _put(self, command: str, key: str, *arguments: Any) -> None:
        await functions.call(self._client, "put", key, command, *arguments)

    async def alive(self) -> list[WorkerInfo]:
        """Returns the workers with a heartbeat in the last 15 s."""
        horizon = await now_ms(self._client) - LIVE_SECONDS * 1000
        return await self._found(await self._client.zrange(keys.WORKERS, horizon, "+inf", byscore=True))

    async def recent(self) -> list[WorkerInfo]:
        """Returns the workers seen in the last week, live or not."""
        return await self._found(await self._client.zrange(keys.WORKERS, 0, "+inf", byscore=True))

    async def _found(self, ids: list[bytes]) -> list[WorkerInfo]:
        if not ids:
            return []
        pipe = self._client.pipeline(transaction=False)
        for worker_id in ids:
            pipe.get(keys.worker(worker_id.decode()))
        raw = await pipe.execute()
        return [found for text in raw if text and (found := _understood(_decode_worker, text, "heartbeat"))]

    async def known_tasks(self) -> list[KnownTask]:
        """Returns every task of live and recently seen workers, in a stable order."""
        horizon = await now_ms(self._client) - RECENT_SECONDS * 1000
        rows = await self._client.hgetall(keys.CAPABILITIES)
        known = [_understood(_decode_known, row, "capability") for _, row in sorted(rows.items())]
        return [task for task in known if task is not None and task.last_seen_ms >= horizon]

    async def voices(self) -> dict[str, list[Voice]]:
        """Returns the voices of each task on the live workers, each with the workers that have it: machines differ in what is installed."""
        horizon = await now_ms(self._client) - LIVE_SECONDS * 1000
        ids = [row.decode() for row in await self._client.zrange(keys.WORKERS, horizon, "+inf", byscore=True)]
        pipe = self._client.pipeline(transaction=False)
        for worker_id in ids:
            pipe.get(keys.voices(worker_id))
        found: dict[str, dict[str, Voice]] = {}
        for worker_id, text in zip(ids, await pipe.execute() if ids else [], strict=True):
            for task, voices in ((text and _understood(_decode_voices, text, "voices")) or {}).items():
                for voice in voices:
                    known = found.setdefault(task, {}).setdefault(voice.id, msgspec.structs.replace(voice, workers=[]))
                    assert isinstance(known.workers, list)
                    known.workers.append(worker_id)
        return {task: [each[id] for id in sorted(each)] for task, each in found.items()}

    async def capabilities(self) -> dict[str, Capability]:
        return {known.capability.id: known.capability for known in await self.known_tasks()}

    async def places(self) -> list[tuple[str, str]]:
        """Returns every (plane, pool) that a task names or a worker of the last week has served."""
        places = {("node", "default"), ("python", "default")}
        for known in await self.known_tasks():
            places.add((str(known.capability.plane), known.capability.runtime.pool))
        horizon = await now_ms(self._client) - RECENT_SECONDS * 1000
        for place, seen in (await self._client.hgetall(keys.PLACES)).items():
            if int(seen) >= horizon:
                plane, _, pool = place.decode().partition("/")
                places.add((plane, pool))
        return sorted(places)

    async def queues(self) -> list[QueueInfo]:
        """Returns, per place, depth (not delivered), pending (delivered, not acked) and the age of the oldest waiting entry."""
        return [await self.queue(plane, pool) for plane, pool in await self.places()]

    async def queue(self, plane: str, pool: str) -> QueueInfo:
        depth = pending = 0
        oldest: float | None = None
        for part in self._partitions:
            for stream in part.every_stream(plane, pool):
                waiting, held, age = await self._stream(stream)
                depth, pending = depth + waiting, pending + held
                if age is not None:
                    oldest = age if oldest is None else max(oldest, age)
        paused = await self._client.hget(keys.PAUSED, f"{plane}/{pool}") is not None
        return QueueInfo(
            plane=Plane(plane), pool=pool, depth=depth, pending=pending, oldest_seconds=oldest, paused=paused
        )

    async def _stream(self, stream: str) -> tuple[int, int, float | None]:
        try:
            groups = await self._client.xinfo_groups(stream)
        except redis.ResponseError:
            return 0, 0, None
        group = next((row for row in groups if row["name"] in (keys.GROUP, keys.GROUP.encode())), None)
        last = group["last-delivered-id"] if group else "0-0"
        held = int(group["pending"]) if group else 0
        start = f"({last.decode() if isinstance(last, bytes) else last}"
        first = await self._client.xrange(stream, min=start, count=1)
        if not first:
            return 0, held, None
        lag = group.get("lag") if group else None
        waiting = int(lag) if lag is not None else int(await self._client.xlen(stream)) - held
        age_ms = await now_ms(self._client) - int(first[0][0].split(b"-")[0])
        return max(1, waiting), held, max(0.0, age_ms / 1000)
