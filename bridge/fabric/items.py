"""The items of the transitions, as their Lua files read them; those of a report are in steps.py and scripts.py.

The fields of each stand in the order of its values; tests/bridge/test_items.py holds their bytes.
"""

from typing import Any, TypeAlias

import msgspec

from dihedral.bridge.fabric.steps import EntrySpec

Limit: TypeAlias = tuple[str, int, int] | tuple[()]
"""The limit of one key for submissions and retries: (name, jobs per minute, most alive), counted under that name within a partition; 0 means no limit."""


class Submission(msgspec.Struct, frozen=True, array_like=True):
    """A new job with its first entries. `nodes`: how many it has; `max_queued`: 0 for any; `webhook`: JSON, or False for none.

    `fields`: those of the job's hash, name and value in turn; they stand in the item one behind the other.
    """

    job_id: str
    digest: str
    nodes: int
    entries: list[EntrySpec]
    start_at_ms: int
    max_queued: int
    limit: Limit
    webhook: str | bool
    fields: list[str]

    def values(self) -> list[Any]:
        return [
            self.job_id, self.digest, self.nodes, self.entries, self.start_at_ms, self.max_queued, self.limit, self.webhook,
            *self.fields,
        ]  # fmt: skip


class Take(msgspec.Struct, frozen=True, array_like=True):
    """Asks for new entries. `light`, `heavy`: how many nodes of each kind the caller can start; `handed`: (stream, entry) already its own.

    `devices`, `holding`: see take.lua.
    """

    consumer: str
    nonce: str
    count: int
    light: int
    heavy: int
    streams: list[str]
    handed: list[tuple[str, str]]
    devices: str
    holding: bool


class Renewal(msgspec.Struct, frozen=True, array_like=True):
    """Keeps an entry for the claim that holds it."""

    job_id: str
    stream: str
    entry: str
    claim: str
    consumer: str


class Takeover(msgspec.Struct, frozen=True, array_like=True):
    """Takes an entry over from an owner that is dead by two looks. `stamp_ms`: the time of its last renewal, as first seen."""

    stream: str
    entry: str
    owner: str
    stamp_ms: int
    consumer: str
    nonce: str


class Release(msgspec.Struct, frozen=True, array_like=True):
    """Gives up a claim; its nodes go back with new entries. `nodes`: all that can be under the entry, as its delivery knows."""

    job_id: str
    stream: str
    entry: str
    claim: str
    entries: list[EntrySpec]
    nodes: list[str] = []


class Cancel(msgspec.Struct, frozen=True, array_like=True):
    job_id: str
    nodes: list[str]


class Retry(msgspec.Struct, frozen=True, array_like=True):
    """Begins the next attempt of a job that ended as `status` with `attempt`.

    `skips`: (node, reason, share) of the nodes in `reset` that the kept nodes have already decided; `max_queued`: 0 for any.
    """

    job_id: str
    status: str
    attempt: int
    reset: list[str]
    entries: list[EntrySpec]
    skips: list[tuple[str, str, int]] = []
    limit: Limit = ()
    max_queued: int = 0


class Change(msgspec.Struct, frozen=True, array_like=True):
    """Changes a job. `priority`: the job's from now on, empty leaves it; `before`, `after`: its `about`, or False.

    `moves`: (entry that no worker has been given, stream, its own priority where it is on the stream of a higher one, empty for none, False as it was).
    """

    job_id: str
    priority: str = ""
    moves: list[tuple[str, str, str | bool]] = []
    before: str | bool = False
    after: str | bool = False


class JobRead(msgspec.Struct, frozen=True, array_like=True):
    """Asks for a job as deep as `depth` (read.lua), and for its events with a greater seq than `after`; -1: none."""

    job_id: str
    after: int
    depth: int
