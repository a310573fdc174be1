"""Plans the entries that carry ready nodes to their places."""

import random

from dihedral.bridge import graphs
from dihedral.bridge.fabric.keys import PREFERS_DEVICE, Partition
from dihedral.bridge.fabric.steps import EntrySpec
from dihedral.bridge.graphs import Placement, Topology
from dihedral.bridge.pools import PRIORITIES


def plan_batches(
    part: Partition,
    topology: Topology,
    routes: dict[str, Placement],
    ready: list[str],
    *,
    priority: str,
    inline_limit: int,
    graph_size: int,
    delay_ms: int = 0,
    reason: str = "-",
    front: bool = False,
    declined: bool = False,
    anywhere: bool = False,
) -> list[EntrySpec]:
    """Returns the entries that carry `ready` to their places. They contain the graph while graph × entries stays below the limit.

    `front`: on the most urgent stream, where they keep their priority. `declined`: a worker could not run them, so no worker preempts a node for them.
    `anywhere`: no device of the pool fits, so nodes that prefer one go to all workers.
    """
    stands = PRIORITIES[0] if front else priority
    groups = graphs.group(topology, ready, routes)
    inline = graph_size * len(groups) <= inline_limit
    batches = []
    for group in groups:
        needs: dict[str, None] = {}
        for node in group.nodes:
            needs.update(dict.fromkeys(topology.sources(node)))
        lane = routes[group.nodes[0]].lane
        batches.append(
            EntrySpec(
                stream=part.stream(
                    group.plane, group.pool, stands, "" if anywhere and lane == PREFERS_DEVICE else lane
                ),
                place=f"{group.plane}/{group.pool}",
                nodes=group.nodes,
                needs=list(needs),
                inline=inline,
                nonce=f"{random.getrandbits(128):032x}",  # tells entries apart, no secret
                delay_ms=delay_ms,
                reason=reason,
                heavy=not routes[group.nodes[0]].light,
                priority=priority if front else "",
                declined=declined,
            )
        )
    return batches
