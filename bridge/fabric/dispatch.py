"""Plans the entries that carry ready nodes to their places."""

import random
from collections.abc import Iterable

import msgspec

from dihedral.bridge import graphs
from dihedral.bridge.fabric.keys import PREFERS_DEVICE, Partition
from dihedral.bridge.fabric.steps import EntrySpec
from dihedral.bridge.graphs import Plan
from dihedral.bridge.pools import PRIORITIES


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """How entries go to their places.

    `delay_ms`: not before so many ms, for `reason`. `front`: on the most urgent stream, where they keep their priority. `declined`: a worker
    could not run them, so no worker preempts a node for them. `anywhere`: no device of the pool fits, so nodes that prefer one go to all workers.
    """

    delay_ms: int = 0
    reason: str = "-"
    front: bool = False
    declined: bool = False
    anywhere: bool = False


AT_ONCE = Manner()
TO_THE_FRONT = Manner(front=True)


def plan_batches(
    part: Partition, plan: Plan, ready: Iterable[str], *, priority: str, inline_limit: int = 0, manner: Manner = AT_ONCE
) -> list[EntrySpec]:
    """Returns the entries that carry `ready` to their places. They contain the graph while graph × entries stays within `inline_limit` bytes; 0: never."""
    stands = PRIORITIES[0] if manner.front else priority
    groups = graphs.group(plan, ready)
    inline = 0 < plan.graph_bytes * len(groups) <= inline_limit
    batches = []
    for group in groups:
        needs: dict[str, None] = {}
        for node in group.nodes:
            needs.update(dict.fromkeys(plan.topology.sources(node)))
        first = plan.routes[group.nodes[0]]
        lane = "" if manner.anywhere and first.lane == PREFERS_DEVICE else first.lane
        batches.append(
            EntrySpec(
                stream=part.stream(group.place.plane, group.place.pool, stands, lane),
                place=group.place.label,
                nodes=group.nodes,
                needs=list(needs),
                inline=inline,
                nonce=f"{random.getrandbits(128):032x}",  # tells entries apart, no secret
                delay_ms=manner.delay_ms,
                reason=manner.reason,
                heavy=not first.light,
                priority=priority if manner.front else "",
                declined=manner.declined,
            )
        )
    return batches
