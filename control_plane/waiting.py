"""Describes in one sentence what a job waits for: its start, a retry, a worker, a slot, device memory, or a server."""

from collections.abc import Awaitable, Callable

import msgspec

from dihedral.bridge.fabric.jobs import JobView
from dihedral.bridge.fabric.keys import NEEDS_DEVICE, PREFERS_DEVICE, lane_of
from dihedral.bridge.fabric.scripts import NodeRecord
from dihedral.bridge.graphs import Place
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.job import WaitingFor, WaitingReason
from dihedral.schemas.structs.worker import WaitingType, WorkerInfo

Workers = Callable[[], Awaitable[list[WorkerInfo]]]
Paused = Callable[[], Awaitable[frozenset[str]]]
Ahead = Callable[[str, NodeRecord], Awaitable[int | None]]


async def waiting_for(
    view: JobView, workers: Workers, ahead: Ahead | None = None, paused: Paused | None = None
) -> WaitingFor | None:
    """Describes the wait. Reads the workers and what is paused only where the answer depends on them, the place in the queue only where `ahead` is given."""
    if view.status == "scheduled":
        return WaitingFor(type=WaitingReason.start_time, message=f"starts at {rfc3339(view.start_at_ms or 0)}")
    if view.status not in ("queued", "running"):
        return None
    if view.running:
        return await _waiting_inside(view, workers)
    ready = [(node, record) for node, record in view.records.items() if record.status == "ready"]
    if not ready:
        return None
    node, record = ready[0]
    if record.reason == "retry":
        return WaitingFor(type=WaitingReason.retry, message=f"{node} failed and is tried again in a moment")
    if record.reason == "lost":
        times = f"{record.deliveries} times"
        message = (
            f"{node} is tried again after a pause: the workers that ran it were lost {times}, which may be its doing"
        )
        return WaitingFor(type=WaitingReason.retry, message=message)
    place = Place.of(record.place).title
    if paused is not None and record.place in await paused():
        message = f"{place} is paused; {node} waits until it is resumed"
        return WaitingFor(type=WaitingReason.paused, message=message)
    if record.reason == "memory":
        message = f"{node} needs more memory than the device of the last worker that took it has; another may have more"
        return WaitingFor(type=WaitingReason.memory, message=message)
    if record.reason == "worker":
        return WaitingFor(type=WaitingReason.worker, message=f"no worker of {place} knows the task of {node}")
    there = [worker for worker in await workers() if f"{worker.plane}/{worker.pool}" == record.place]
    if not there:
        return WaitingFor(type=WaitingReason.worker, message=f"no worker serves {place}, where {node} is to run")
    if all(worker.draining for worker in there):
        message = f"every worker of {place} is drained or stops, and takes {node} no more"
        return WaitingFor(type=WaitingReason.worker, message=message)
    lane = lane_of(record.entry)
    with_device = [worker for worker in there if worker.devices and not worker.draining]
    if lane == NEEDS_DEVICE and not with_device:
        message = f"{node} needs a device, and no worker of {place} has one"
        return WaitingFor(type=WaitingReason.worker, message=message)
    if lane == PREFERS_DEVICE and not with_device and not any(worker.gpu_tasks_on_cpu for worker in there):
        message = f"{node} is left for a worker of {place} with a device, and none is there (worker.gpuTasksOnCpu)"
        return WaitingFor(type=WaitingReason.worker, message=message)
    if lane and with_device:
        there, place = with_device, f"a device of {place}"
    before = None if ahead is None else await ahead(view.job_id, record)
    position = msgspec.UNSET if before is None else before + 1
    if any(len(worker.running) < worker.slots for worker in there) and not before:
        message = f"a worker of {place.removeprefix('a device of ')} is about to take {node}"
    else:
        line = "" if before is None else f"; {node} is {_place(before)}"
        message = f"{node} waits for a slot of {place}{line}"
    return WaitingFor(type=WaitingReason.slot, message=message, position=position)


def _place(before: int) -> str:
    """Returns the job's place in its queue, from 1; other priorities and partitions are taken in turns, so it is a good estimate."""
    if before >= 100:
        return "behind 100 others or more"
    return "next in its queue" if before == 0 else f"about number {before + 1} in its queue"


async def _waiting_inside(view: JobView, workers: Workers) -> WaitingFor | None:
    """Describes a job whose every running node is with a worker that waits for device memory or a server."""
    if not any(record.status == "running" and record.place.startswith("python/") for record in view.records.values()):
        return None
    waits = [
        (run.node_id, run.waiting_for, run.waiting_type)
        for worker in await workers()
        for run in worker.running
        if run.job_id == view.job_id and isinstance(run.waiting_for, str)
    ]
    if len(waits) < view.running:
        return None
    node, reason, kind = waits[0]
    type = WaitingReason.service if kind is WaitingType.service else WaitingReason.memory
    return WaitingFor(type=type, message=f"{node} {reason}")
