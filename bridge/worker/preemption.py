"""Which node makes room where every slot is taken and one of higher priority waits on a stream.

A node that only waits for device memory is given back first: it has begun nothing. Of the others only those are asked whose task is
declared resumable and which have been under way for a while (`worker.preemptAfterMs`), and only to stop where they can go on: nobody
kills them. The lowest priority gives way first, of equals the one that began last. room.lua tells one asker of each entry.

What waits for device memory while one of lower priority has it: data_plane/slots/seats.py.
"""

from collections.abc import Iterable

from dihedral.bridge.fabric.scripts import Scripts
from dihedral.bridge.worker.reporting import NodeExecution

PATIENCE_MS = 1000  # what waits for less is about to begin anyway


async def preempt(scripts: Scripts, plane: str, pool: str, running: Iterable[NodeExecution]) -> None:
    """Asks those to give way that are to do so now. `running`: here, in that place, whose every slot is taken."""
    may = [each for each in running if not each.light and each.cancel.rank and (each.only_waits or each.may_pause())]
    for one in sorted(may, key=lambda each: (-each.cancel.rank, not each.only_waits, -each.started_ms)):
        for part in scripts.partitions:
            if await scripts.room(part, part.streams(plane, pool), one.cancel.rank, PATIENCE_MS):
                one.room_in = part
                if one.only_waits:
                    one.give_up_waiting()
                else:
                    one.cancel.wish("pause")
                break
        else:
            return  # nothing is above the lowest, so nothing is above the others
