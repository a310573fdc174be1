"""Changes the place in line of what waits: the priority of a job after its submission, and the move to the front.

Only entries that no worker has been given move (change.lua), so no node starts twice. A stream cannot be reordered: what moves gets a new
entry behind all others. A job comes to the front of the stream of the most urgent by getting a new entry there, and then every entry that
stood before it in turn, all in one call.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from dihedral.bridge.fabric.items import Change
from dihedral.bridge.fabric.jobs import Jobs, JobView
from dihedral.bridge.fabric.keys import Partition, lane_of
from dihedral.bridge.fabric.scripts import Depth, Scripts
from dihedral.bridge.graphs import Place
from dihedral.bridge.pools import PRIORITIES

URGENT = PRIORITIES[0]
DELAY = "delay:"
MOST_AHEAD = 200
"""The entries of the most urgent that one move passes; behind more of them a job stands last of the most urgent."""
_decode = msgspec.msgpack.Decoder(list[Any]).decode


async def set_priority(jobs: Jobs, job_id: str, priority: str) -> str:
    """Changes a job's priority, also where it stands now; returns ok | often | ended | unknown. What a worker was given starts as it was."""
    view = await jobs.read(job_id, depth=Depth.records)
    if view is None:
        return "unknown"
    part = jobs.scripts.partition(job_id)
    moves: list[tuple[str, str, str | bool]] = []
    for entry, (stream, place) in (await _entries(jobs, part, view)).items():
        target = part.stream(*place, priority, lane_of(stream))
        if target != stream or (priority == URGENT and view.priority != URGENT):  # from the front, too
            moves.append((entry, target, ""))
    return (await jobs.scripts.change(part, [Change(job_id, priority, moves)]))[0]


async def move_to_front(jobs: Jobs, job_id: str) -> str:
    """Moves what waits of a job before all others of its places; returns ok | idle (nothing of it waits in a queue) | ended | unknown."""
    view = await jobs.read(job_id, depth=Depth.records)
    if view is None:
        return "unknown"
    part = jobs.scripts.partition(job_id)
    own = "" if view.priority == URGENT else view.priority
    mine: dict[str, list[str]] = {}
    for entry, (stream, place) in (await _entries(jobs, part, view)).items():
        if not entry.startswith(DELAY):
            mine.setdefault(part.stream(*place, URGENT, lane_of(stream)), []).append(entry)
    items: list[Change] = []
    for stream, entries in mine.items():
        others = await _others(jobs.scripts, stream, job_id)
        if others is None:
            others, entries = (), [entry for entry in entries if not entry.endswith(f"@{stream}")]
        items += [Change(job_id, "", [(entry, stream, own) for entry in entries])]
        items += [Change(job, "", [(entry, stream, False)]) for job, entry in others]
    if not mine:
        return "ended" if view.ended else "idle"
    return (await jobs.scripts.change(part, items))[0] if items else "ok"


async def _entries(jobs: Jobs, part: Partition, view: JobView) -> dict[str, tuple[str, Place]]:
    """Returns (stream, place) of each entry that carries a ready node; the stream of a delayed one is where it will go."""
    places = {
        record.entry: Place.of(record.place) for record in view.records.values() if record.status == "ready"
    }  # fmt: skip
    delayed = [entry for entry in places if entry.startswith(DELAY)]
    streams = {entry: entry.partition("@")[2] for entry in places}
    if delayed:
        rows = await jobs.client.hmget(part.delay_entries, [entry.removeprefix(DELAY) for entry in delayed])
        for entry, packed in zip(delayed, rows, strict=True):
            streams[entry] = "" if packed is None else _decode(packed)[1]
    return {entry: (stream, places[entry]) for entry, stream in streams.items() if stream}


async def _others(scripts: Scripts, stream: str, job_id: str) -> Sequence[tuple[str, str]] | None:
    """Returns (job, entry) of what stands on a stream and is not of this job; None where more than MOST_AHEAD entries stand there."""
    last = await scripts.client.get(f"{stream}:delivered") or b"0-0"
    rows = await scripts.client.xrange(stream, f"({last.decode()}", "+", count=MOST_AHEAD + 1)
    if len(rows) > MOST_AHEAD:
        return None
    named = [(fields.get(b"job", b"").decode(), f"{entry.decode()}@{stream}") for entry, fields in rows]
    return [(job, entry) for job, entry in named if job and job != job_id]
