"""What a report may do to a job, step by step, as report.lua reads it: an array of a word and its values.

The fields of each stand in the order of the array; tests/bridge/test_steps.py holds their bytes.
"""

from typing import TypeAlias

import msgspec


class EntrySpec(msgspec.Struct, array_like=True, frozen=True):
    """Nodes that one entry is to carry; `heavy`: a node that takes a slot, alone in its entry.

    `delay_ms` 0 means at once; `needs` are the nodes whose records their input needs. `priority`: of what stands on the
    stream of a higher one, else empty. `declined`: a worker could not run it.
    """

    stream: str
    place: str
    nodes: list[str]
    needs: list[str]
    inline: bool
    nonce: str
    delay_ms: int = 0
    reason: str = "-"
    heavy: bool = False
    priority: str = ""
    declined: bool = False


class End(msgspec.Struct, tag="end", array_like=True, frozen=True):
    """A running node has ended. `share`: its part of the progress, -1 leaves it; `handled`: an edge goes on from its failure."""

    node: str
    attempt: int
    status: str
    reason: str
    payload: str
    share: int
    handled: bool
    error: str
    artifacts: str


class EndGivenUp(End, tag="end", array_like=True, frozen=True):
    """An end that also leaves a dead letter, which says why."""

    why: str


class Requeue(msgspec.Struct, tag="again", array_like=True, frozen=True):
    """A running node goes back to its place, as attempt `next_attempt`; `error`: what it waits for or has failed by."""

    node: str
    attempt: int
    next_attempt: int
    error: str
    entry: EntrySpec


class Start(msgspec.Struct, tag="start", array_like=True, frozen=True):
    node: str
    worker: str


class Skip(msgspec.Struct, tag="skip", array_like=True, frozen=True):
    node: str
    reason: str
    share: int


class Dispatch(msgspec.Struct, tag="send", array_like=True, frozen=True):
    """Pending nodes go out with an entry of their own."""

    entry: EntrySpec


class Redispatch(msgspec.Struct, tag="resend", array_like=True, frozen=True):
    """Ready nodes whose entry is gone go out anew; `gone`: the entry that their records name."""

    gone: str
    entry: EntrySpec


class Event(msgspec.Struct, tag="event", array_like=True, frozen=True):
    """`body`: JSON without its braces; `number`: counts the events of a delivery, so that none is written twice."""

    channel: str
    body: str
    number: int


class Progress(msgspec.Struct, tag="progress", array_like=True, frozen=True):
    """`share`: of 10⁹; `fraction`: of the node, as text."""

    node: str
    share: int
    fraction: str


Step: TypeAlias = End | Requeue | Start | Skip | Dispatch | Redispatch | Event | Progress
