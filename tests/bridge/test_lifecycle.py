"""The table of what a delivery can be in: every move that it lacks is refused and changes nothing."""

import itertools

import msgspec
import pytest

from dihedral.bridge.errors import IllegalTransition
from dihedral.bridge.fabric.deliveries import Delivery
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.lifecycle import DELIVERY_MOVES
from dihedral.bridge.fabric.scripts import Claim
from dihedral.bridge.graphs import Plan, Topology
from dihedral.control_plane.planning.plan import normalise
from dihedral.schemas.structs.submission import GraphSubmission


def made() -> Delivery:
    document = {
        "schema": "langgraph.v1",
        "nodes": [{"id": "a", "task": "t", "plane": "python", "params": {}}],
        "edges": [],
    }
    topology = Topology(normalise(msgspec.convert(document, GraphSubmission), "job"))
    claim = Claim("ok", "stream:process:data", "1-0", "job", "nonce")
    return Delivery(Partition(0, 1), claim, "w1", Plan(topology, {}))


@pytest.mark.parametrize(("old", "new"), list(itertools.product(DELIVERY_MOVES, repeat=2)))
def test_a_delivery_moves_only_as_its_table_says(old: str, new: str) -> None:
    delivery = made()
    if old != "held":
        delivery.move(old)
    if new in DELIVERY_MOVES[old]:
        delivery.move(new)
        assert delivery.state == new
    else:
        with pytest.raises(IllegalTransition, match=f"from '{old}' to '{new}'"):
            delivery.move(new)
        assert delivery.state == old


def test_a_lost_delivery_stays_lost_when_its_last_report_is_made() -> None:
    delivery = made()
    delivery.move("lost")
    assert delivery.report([], ack=True).ack
    assert delivery.lost


def test_a_report_that_acknowledges_ends_a_delivery() -> None:
    delivery = made()
    delivery.report([])
    assert delivery.state == "held"
    delivery.report([], ack=True)
    assert delivery.ending
