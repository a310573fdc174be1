"""The steps with which a report changes a job, as report.lua reads them: each is an array of a word and its values.

The fields of each stand in the order of the array; tests/bridge/test_steps.py holds their bytes.
"""

from typing import TypeAlias

import msgspec


class EntrySpec(msgspec.Struct, array_like=True, frozen=True):
    """Nodes that one entry is to carry; `heavy`: a node that takes a slot, alone in its entry.

    `delay_ms` 0 means at once; `needs` are the nodes whose records their input needs. `priority`: the entry's own priority where it is
    on the stream of a higher one, else empty. `declined`: a worker could not run it.
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
    """A running node has ended. `share`: its part of the progress, -1 leaves it; `handled`: an edge continues from its failure."""

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
    """An end that also leaves a dead letter with the reason."""

    why: str


class Requeue(msgspec.Struct, tag="again", array_like=True, frozen=True):
    """A running node goes back to its place, as attempt `next_attempt`; `error`: the failure, or the reason for which it waits."""

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
    """Pending nodes go out with a new entry."""

    entry: EntrySpec


class Redispatch(msgspec.Struct, tag="resend", array_like=True, frozen=True):
    """Ready nodes whose entry is lost go out again; `gone`: the entry that their records name."""

    gone: str
    entry: EntrySpec


class Event(msgspec.Struct, tag="event", array_like=True, frozen=True):
    """An event of a job. `body`: JSON without its braces; `number`: counts the events of a delivery, so that none is written twice."""

    channel: str
    body: str
    number: int


class Progress(msgspec.Struct, tag="progress", array_like=True, frozen=True):
    """The progress of a node. `share`: its part of 10⁹; `fraction`: the node's own progress, as text."""

    node: str
    share: int
    fraction: str


Step: TypeAlias = End | Requeue | Start | Skip | Dispatch | Redispatch | Event | Progress
