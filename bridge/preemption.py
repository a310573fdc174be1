"""Which running node makes room where one of higher priority waits.

Only a node whose task is declared resumable is asked, once it has run for a while (`worker.preemptAfterMs`), and only to stop where it can
go on: nobody kills it. It goes back to the front of its place with its own priority, and its next owner continues from its checkpoint.

Room is missed in two ways: every slot is taken while an entry of higher priority waits on a stream (room.lua tells one asker
of each), or a node of higher priority has its slot and waits for device memory. The lowest priority gives way first, of equals the
one that began last.
"""

import time
from collections.abc import Iterable, Sequence

from bridge.keys import PRIORITIES
from bridge.reporting import Running
from bridge.scripts import Scripts
from bridge.tasks import Registry

PATIENCE_SECONDS = 1.0  # what waits for less is about to begin anyway
ROOM_SECONDS = 30.0  # then somebody else may be asked too, as in room.lua


class Preemption:
    def __init__(self, scripts: Scripts, registry: Registry, plane: str, pool: str, after_ms: int) -> None:
        """`after_ms`: how long a node runs undisturbed; -1: nothing ever gives way."""
        self._scripts = scripts
        self._registry = registry
        self._streams: dict[int, list[str]] = {part.number: part.streams(plane, pool) for part in scripts.partitions}
        self._after_seconds = after_ms / 1000
        self._made_room: dict[Running, float] = {}  # who waits for memory -> when somebody was asked to give way to it

    async def look(self, running: Iterable[Running], *, full: bool) -> None:
        """Asks those to pause that are to make room now. `full`: every slot is taken."""
        heavy = [each for each in running if not each.light]
        may = sorted(filter(self._may_pause, heavy), key=lambda each: (-_rank(each), -each.started_ms))
        if not may:
            return
        self._for_memory(heavy, may)
        if full:
            await self._for_slots([each for each in may if not each.cancel.wishes])

    def _may_pause(self, running: Running) -> bool:
        task = self._registry.get(running.delivery.topology.nodes[running.node_id].task)
        if task is None or not task.capability.contracts.resumable or self._after_seconds < 0:
            return False
        ran = time.time() - running.started_ms / 1000 - running.waited_seconds
        return (
            not (running.waiting_for or running.cancel.wishes or running.cancel.cancelled)
            and ran >= self._after_seconds
        )

    def _for_memory(self, heavy: Sequence[Running], may: Sequence[Running]) -> None:
        now = time.monotonic()
        self._made_room = {waits: asked for waits, asked in self._made_room.items() if waits in heavy}
        for waits in sorted((each for each in heavy if each.waits_longer(PATIENCE_SECONDS)), key=_rank):
            if now - self._made_room.get(waits, -ROOM_SECONDS) < ROOM_SECONDS:
                continue
            lower = (
                each for each in may if _rank(each) > _rank(waits) and not each.cancel.wishes and self._on_device(each)
            )
            if (gives_way := next(lower, None)) is not None:
                gives_way.cancel.wish("pause")
                self._made_room[waits] = now

    async def _for_slots(self, may: Sequence[Running]) -> None:
        for gives_way in may:
            for part in self._scripts.partitions:
                above = self._streams[part.number][: _rank(gives_way)]
                if above and await self._scripts.room(part, above, 1, int(PATIENCE_SECONDS * 1000)):
                    gives_way.room_in = part
                    gives_way.cancel.wish("pause")
                    break
            else:
                return  # nothing is above the lowest, so nothing is above the others

    def _on_device(self, running: Running) -> bool:
        task = self._registry[running.delivery.topology.nodes[running.node_id].task]
        return task.capability.runtime.kind == "gpu"


def _rank(running: Running) -> int:
    """0 is the most urgent."""
    return PRIORITIES.index(running.delivery.priority)
