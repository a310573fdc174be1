"""Changes the place in line of what waits: the priority of a job after its submission, and the move to the front.

Only entries that no worker has been given move (change.lua), so no node starts twice. A stream cannot be reordered: what moves gets a new
entry behind all others. A job comes to the front of the stream of the most urgent by getting a new entry there, and then every entry that
stood before it in turn, all in one call.
"""

from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.items import Change
from dihedral.bridge.fabric.jobs import Jobs, JobView
from dihedral.bridge.fabric.keys import Partition, lane_of
from dihedral.bridge.fabric.scripts import Depth
from dihedral.bridge.graphs import Place
from dihedral.bridge.pools import PRIORITIES

URGENT = PRIORITIES[0]
MOST_AHEAD = 200
"""The entries of the most urgent that one move passes; behind more of them a job stands last of the most urgent."""
MOST_PAGES = 40
"""Of 500 entries, most of which may be those that moves and cancelled jobs have left behind."""


async def set_priority(jobs: Jobs, job_id: str, priority: str) -> str:
    """Changes a job's priority, also where it stands now; returns ok | often | ended | unknown. What a worker was given starts as it was.

    What becomes ready after the change stands in its new line at once (in_line() in the Lua); what did so between the look and the change is
    found by a second look.
    """
    view = await jobs.read(job_id, depth=Depth.records)
    if view is None:
        return "unknown"
    part = jobs.scripts.partition(job_id)
    moves: list[tuple[str, str, str | bool]] = []
    for entry, (stream, place) in _entries(view).items():
        target = part.stream(*place, priority, lane_of(stream))
        if target != stream or (priority == URGENT and view.priority != URGENT):  # from the front, too
            moves.append((entry, target, ""))
    word = (await jobs.scripts.change(part, [Change(job_id, priority, moves)]))[0]
    if word == "ok" and view.priority != priority and (now := await jobs.read(job_id, depth=Depth.records)) is not None:
        late: list[tuple[str, str, str | bool]] = [
            (entry, target, "") for entry, (stream, place) in _entries(now).items()
            if (target := part.stream(*place, now.priority, lane_of(stream))) != stream
        ]  # fmt: skip
        if late:
            await jobs.scripts.change(part, [Change(job_id, "", late)])
    return word


async def move_to_front(jobs: Jobs, job_id: str) -> str:
    """Moves what waits of a job before all others of its places.

    Returns ok | idle (nothing of it waits in a queue) | far (it is one of the most urgent, and more than MOST_AHEAD wait there) | ended | unknown.
    """
    view = await jobs.read(job_id, depth=Depth.records)
    if view is None:
        return "unknown"
    part = jobs.scripts.partition(job_id)
    own = "" if view.priority == URGENT else view.priority
    mine: dict[str, list[str]] = {}
    for entry, (stream, place) in _entries(view).items():
        mine.setdefault(part.stream(*place, URGENT, lane_of(stream)), []).append(entry)
    items: list[Change] = []
    far = False
    for stream, entries in mine.items():
        standing = await _standing(jobs, part, stream)
        if standing is None:
            far, standing, entries = True, [], [entry for entry in entries if not entry.endswith(f"@{stream}")]
        if entries and {entry for _, entry in standing[: len(entries)]} == set(entries):
            continue  # it is there already
        if entries:
            items += [Change(job_id, "", [(entry, stream, own) for entry in entries])]
        items += [Change(job, "", [(entry, stream, False)]) for job, entry in standing if job != job_id]
    if not mine:
        return "ended" if view.ended else "idle"
    return (await jobs.scripts.change(part, items))[0] if items else "far" if far else "ok"


def _entries(view: JobView) -> dict[str, tuple[str, Place]]:
    """Returns (stream, place) of each entry that carries a ready node, without the delayed ones, which find their line when they are due."""
    ready = {record.entry: Place.of(record.place) for record in view.records.values() if record.status == "ready"}
    return {entry: (stream, place) for entry, place in ready.items() if (stream := entry.partition("@")[2])}


async def _standing(jobs: Jobs, part: Partition, stream: str) -> list[tuple[str, str]] | None:
    """Returns (job, entry) of what stands on a stream and no worker has been given. None where that is more than MOST_AHEAD entries."""
    found: list[tuple[str, str]] = []
    after = ""
    for _ in range(MOST_PAGES):
        after, *rows = [
            row.decode() for row in await functions.call(jobs.client, "standing", stream, after, part.job(""))
        ]
        found += [(job, f"{entry}@{stream}") for job, entry in zip(rows[::2], rows[1::2], strict=True)]
        if len(found) > MOST_AHEAD:
            return None
        if not after:
            return found
    return None
