"""What the control plane knows of its workers: their tasks, places and pauses, each read from Redis once a second at most."""

import time
from collections.abc import Mapping

from dihedral.bridge.fabric.workers import KnownTask, WorkerRegistry
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.worker import WorkerInfo

FRESH_SECONDS = 1.0
AGAIN_SECONDS = 0.05


class Known:
    """`own`: the capabilities of the control plane itself, known before any worker has announced them."""

    def __init__(self, registry: WorkerRegistry, own: Mapping[str, Capability]) -> None:
        self._registry = registry
        self._own = dict(own)
        self._tasks: dict[str, KnownTask] = {}
        self._tasks_at = float("-inf")
        self._merged: tuple[dict[str, KnownTask], dict[str, Capability]] | None = None
        self._alive: list[WorkerInfo] = []
        self._alive_at = float("-inf")
        self._places: list[tuple[str, str]] = []
        self._places_at = float("-inf")
        self._paused: frozenset[str] = frozenset()
        self._paused_at = float("-inf")

    async def capabilities(self) -> dict[str, Capability]:
        """Returns every known task; objects stay the same while a manifest does, so that compiled checks are kept."""
        known = await self.tasks()
        if self._merged is None or self._merged[0] is not known:
            self._merged = known, {**self._own, **{task: each.capability for task, each in known.items()}}
        return self._merged[1]

    async def tasks(self) -> dict[str, KnownTask]:
        if time.monotonic() - self._tasks_at > FRESH_SECONDS:
            fresh = {}
            voices = await self._registry.voices()
            for each in await self._registry.known_tasks():
                if each.capability.id in voices:
                    each.capability.voices = voices[each.capability.id]
                before = self._tasks.get(each.capability.id)
                if before is not None and before.capability == each.capability:
                    each.capability = before.capability
                fresh[each.capability.id] = each
            self._tasks = fresh
            self._tasks_at = time.monotonic()
        return self._tasks

    def look_again(self) -> bool:
        """Allows another read of the known tasks, unless one was just done: a batch of unknown tasks must not cost a read each."""
        if time.monotonic() - self._tasks_at < AGAIN_SECONDS:
            return False
        self._tasks_at = float("-inf")
        return True

    async def places(self) -> list[tuple[str, str]]:
        if time.monotonic() - self._places_at > FRESH_SECONDS:
            self._places = await self._registry.places()
            self._places_at = time.monotonic()
        return self._places

    async def alive(self) -> list[WorkerInfo]:
        if time.monotonic() - self._alive_at > FRESH_SECONDS:
            self._alive = await self._registry.alive()
            self._alive_at = time.monotonic()
        return self._alive

    async def paused(self) -> frozenset[str]:
        if time.monotonic() - self._paused_at > FRESH_SECONDS:
            self._paused = await self._registry.paused()
            self._paused_at = time.monotonic()
        return self._paused

    def forget_paused(self) -> None:
        """Reads what is paused again before the next answer."""
        self._paused_at = float("-inf")
