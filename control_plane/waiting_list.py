"""What waits at a place, in the order in which it is taken: a job of another owner is counted, and not named."""

from dihedral.bridge.fabric.jobs import Jobs, JobView
from dihedral.bridge.fabric.keys import lanes
from dihedral.bridge.fabric.scripts import Depth
from dihedral.bridge.pools import PRIORITIES
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.graph import Plane
from dihedral.schemas.structs.job import Priority
from dihedral.schemas.structs.worker import Lane, WaitingJob, WaitingList

MOST = 500
LANES = {"": Lane.all, "gpu": Lane.gpu, "device": Lane.device}


async def waiting_list(jobs: Jobs, plane: str, pool: str, visible_owner: str | None) -> WaitingList:
    """Returns the entries that no worker has taken, the most urgent first and then the oldest; priorities and lanes are taken in turns, so it is about that order."""
    waiting: list[WaitingJob] = []
    for priority in PRIORITIES:
        rows: list[tuple[str, str, int, str, bytes, list[str]]] = []
        for part in jobs.scripts.partitions:
            for lane in lanes(plane):
                stream = part.stream(plane, pool, priority, lane)
                last = await jobs.client.get(f"{stream}:delivered") or b"0-0"
                for entry, fields in await jobs.client.xrange(stream, f"({last.decode()}", "+", count=MOST):
                    nodes = fields.get(b"nodes", b"").decode().split(",")
                    stands = fields.get(b"priority", priority.encode()).decode()
                    since = int(fields.get(b"created", entry.partition(b"-")[0]))
                    job, name = fields.get(b"job", b""), f"{entry.decode()}@{stream}"
                    rows.append((entry.decode(), name, since, lane, job, [stands, *nodes]))
        rows.sort()
        rows = rows[: MOST - len(waiting)]
        views = await jobs.read_many([job.decode() for _, _, _, _, job, _ in rows], Depth.records)
        for (_, name, since, lane, _, (stands, *nodes)), view in zip(rows, views, strict=True):
            if view is None or not _waits(view, nodes, name):
                continue
            mine = visible_owner in (None, view.owner)
            waiting.append(
                WaitingJob(
                    position=len(waiting) + 1, job_id=view.job_id if mine else None, nodes=nodes if mine else [],
                    priority=Priority(stands), lane=LANES[lane], since=rfc3339(since),
                )
            )  # fmt: skip
    paused = f"{plane}/{pool}" in await jobs.workers.paused()
    return WaitingList(plane=Plane(plane), pool=pool, paused=paused, waiting=waiting)


def _waits(view: JobView, nodes: list[str], entry: str) -> bool:
    """Returns whether any of the entry's nodes still waits there; a cancelled job's entry is taken away later."""
    return any(view.record(node).status == "ready" and view.record(node).entry == entry for node in nodes)
