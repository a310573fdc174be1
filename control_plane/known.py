"""What the control plane knows of its workers: their tasks, places and pauses, each read from Redis once a second at most."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, TypeVar

from dihedral.bridge.fabric.workers import KnownTask, WorkerRegistry
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.worker import WorkerInfo

FRESH_SECONDS = 1.0
AGAIN_SECONDS = 0.05

T = TypeVar("T")


class Kept(Generic[T]):
    """A value that is read anew where it is older than FRESH_SECONDS, by one reader for all that wait for it."""

    def __init__(self, read: Callable[[], Awaitable[T]]) -> None:
        self._read = read
        self._value: T | None = None
        self._read_at = float("-inf")
        self._reading: asyncio.Task[T] | None = None

    async def get(self) -> T:
        if self._value is not None and time.monotonic() - self._read_at <= FRESH_SECONDS:
            return self._value
        if self._reading is None:
            self._reading = asyncio.create_task(self._again())
            self._reading.add_done_callback(_noted)
        return await asyncio.shield(self._reading)  # the end of one request does not end the reading of others

    @property
    def is_reading(self) -> bool:
        return self._reading is not None

    def forget(self) -> None:
        """Has the next `get` read again, also where a reading has begun: it may not see what was just written."""
        self._read_at, self._reading = float("-inf"), None

    @property
    def age_seconds(self) -> float:
        return time.monotonic() - self._read_at

    async def _again(self) -> T:
        try:
            value = await self._read()
            if self._reading is asyncio.current_task():
                self._value, self._read_at = value, time.monotonic()
            return value
        finally:
            if self._reading is asyncio.current_task():
                self._reading = None


def _noted(reading: "asyncio.Task[Any]") -> None:
    """Takes the error of a reading for which nobody waits any more: those who wait have it too."""
    if not reading.cancelled():
        reading.exception()


class Known:
    """`own`: the capabilities of the control plane itself, known before any worker has announced them."""

    def __init__(self, registry: WorkerRegistry, own: Mapping[str, Capability]) -> None:
        self._registry = registry
        self._own = dict(own)
        self._before: dict[str, KnownTask] = {}
        self._merged: tuple[dict[str, KnownTask], dict[str, Capability]] | None = None
        self._tasks, self._places = Kept(self._read_tasks), Kept(registry.places)
        self._alive, self._paused = Kept(registry.alive), Kept(registry.paused)
        self.tasks, self.places = self._tasks.get, self._places.get
        self.alive: Callable[[], Awaitable[list[WorkerInfo]]] = self._alive.get
        self.paused, self.forget_paused = self._paused.get, self._paused.forget

    async def capabilities(self) -> dict[str, Capability]:
        """Returns every known task; objects stay the same while a manifest does, so that compiled checks are kept."""
        known = await self.tasks()
        if self._merged is None or self._merged[0] is not known:
            self._merged = known, {**self._own, **{task: each.capability for task, each in known.items()}}
        return self._merged[1]

    async def _read_tasks(self) -> dict[str, KnownTask]:
        fresh = {}
        voices = await self._registry.voices()
        for each in await self._registry.known_tasks():
            if each.capability.id in voices:
                each.capability.voices = voices[each.capability.id]
            before = self._before.get(each.capability.id)
            if before is not None and before.capability == each.capability:
                each.capability = before.capability
            fresh[each.capability.id] = each
        self._before = fresh
        return fresh

    def look_again(self) -> bool:
        """Allows another read of the known tasks, unless one was just done: a batch of unknown tasks must not cost a read each."""
        if self._tasks.age_seconds < AGAIN_SECONDS:
            return False
        if not self._tasks.is_reading:
            self._tasks.forget()
        return True
