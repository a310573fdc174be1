"""Chooses the node to preempt where every slot is taken and a node of higher priority waits on a stream.

A node that only waits for device memory is requeued first: it has not started. Of the others only those are asked whose task is
declared resumable and which have been under way for a while (`worker.preemptAfterMs`), and only to stop where they can continue: they are
never killed. The lowest priority is preempted first, among equals the one that started last. room.lua reports each entry to one worker only.

What waits for device memory while one of lower priority has it: data_plane/slots/seats.py.
"""

from collections.abc import Iterable, Sequence

from dihedral.bridge.fabric.scripts import Scripts
from dihedral.bridge.worker.reporting import NodeExecution

PATIENCE_MS = 1000  # an entry that waits less long is about to start anyway


async def preempt(
    scripts: Scripts, plane: str, pool: str, lanes: Sequence[str], running: Iterable[NodeExecution]
) -> None:
    """Asks the nodes to pause that must do so now. `running`: the nodes of this worker in that place, whose every slot is taken.

    `lanes`: those whose entries it would start.
    """
    may = [each for each in running if not each.light and each.control.rank and (each.only_waits or each.may_pause())]
    for one in sorted(may, key=lambda each: (-each.control.rank, not each.only_waits, -each.started_ms)):
        for part, lane in [(part, lane) for part in scripts.partitions for lane in lanes]:
            if await scripts.room(part, part.streams(plane, pool, lane), one.control.rank, PATIENCE_MS):
                one.room_in = part
                if one.only_waits:
                    one.give_up_waiting()
                else:
                    one.control.request("pause")
                break
        else:
            return  # if no entry is above the lowest, none is above the others
