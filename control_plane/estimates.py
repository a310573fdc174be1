"""Estimates of how long nodes and jobs will still take, from what runs of the same task, size and device have taken (durations.py).

An estimate is a range: eight of ten runs took between `low` and `high`. Of a node that runs, only runs that took longer than it has taken
count; where there are none, its own progress tells, if it has any. A job takes as long as its longest path, or as its nodes in slots on all slots there are,
and it is unknown as long as one of its nodes is. An estimate that is not known is absent, never a guess.

Graphs of live jobs are read once and kept as what an estimate needs of them; durations are read again after FRESH_SECONDS. So a list costs no graph twice.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence

import msgspec

from dihedral.bridge.fabric import durations
from dihedral.bridge.fabric.durations import CPU, Durations
from dihedral.bridge.fabric.jobs import Jobs, JobView, decode_graph
from dihedral.bridge.fabric.keys import lane_of
from dihedral.bridge.fabric.lifecycle import NODE_ENDED
from dihedral.bridge.fabric.scripts import Depth
from dihedral.bridge.graphs import Placement, Topology
from dihedral.control_plane.waiting import waiting_for
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.graph import EdgeKind, Estimate, Graph
from dihedral.schemas.structs.job import WaitingFor
from dihedral.schemas.structs.worker import WorkerInfo

FRESH_SECONDS = 10.0
KEPT_KINDS = 2000
KEPT_NODES = 100_000
LIST_NODES = 200
"""A list estimates no job with more nodes left, and reads no more than LIST_JOBS graphs that it does not know yet."""
LIST_JOBS = 50
ENOUGH = 3
LOW, HIGH = 0.1, 0.9
ENOUGH_PROGRESS = 0.1
PROGRESS_LOW, PROGRESS_HIGH = 0.7, 1.5
"""Progress is seldom even: what is left is told from it within these factors."""


class _Node(msgspec.Struct, frozen=True):
    id: str
    sized: str
    whole: str
    of_gpu: bool
    place: str
    pool: str
    heavy: bool
    share: int
    parents: list[int]
    unlikely: bool


class Shape(msgspec.Struct, frozen=True):
    """What an estimate needs of a graph, the nodes in an order in which parents come first."""

    nodes: list[_Node]


def shape(graph: Graph, routes: Mapping[str, Placement], capabilities: Mapping[str, Capability]) -> Shape:
    topology = Topology(graph)
    order: list[str] = []
    left = {each: len({edge.from_ for edge in edges}) for each, edges in topology.incoming.items()}
    ready = [each for each, count in left.items() if not count]
    while ready:
        parent = ready.pop()
        order.append(parent)
        for child in {edge.to for edge in topology.outgoing[parent]}:
            left[child] -= 1
            if not left[child]:
                ready.append(child)
    places = {each: index for index, each in enumerate(order)}
    found: list[_Node] = []
    for node_id in order:
        node, route = topology.nodes[node_id], routes[node_id]
        capability = capabilities.get(node.task)
        sized, whole = ("", "") if capability is None else durations.kinds(capability, node.params)
        edges = topology.incoming[node_id]
        of_gpu = capability is not None and capability.runtime.kind == "gpu"
        place = durations.place(str(node.plane), route)
        parents = sorted({places[edge.from_] for edge in edges})
        rescues = bool(edges) and all(edge.kind is EdgeKind.on_failure for edge in edges)
        unlikely = rescues or any(found[index].unlikely for index in parents)
        found.append(
            _Node(
                node_id, sized, whole, of_gpu, place, route.pool, not route.light, topology.shares[node_id], parents, unlikely
            )
        )  # fmt: skip
    return Shape(found)


class Estimates:
    def __init__(
        self,
        jobs: Jobs,
        capabilities: Callable[[], Awaitable[dict[str, Capability]]],
        workers: Callable[[], Awaitable[list[WorkerInfo]]],
    ) -> None:
        self._jobs = jobs
        self._capabilities = capabilities
        self._workers = workers
        self._shapes: OrderedDict[str, Shape] = OrderedDict()
        self._kept_nodes = 0
        self._durations: OrderedDict[str, tuple[float, Durations]] = OrderedDict()

    async def of_plan(self, graph: Graph, routes: Mapping[str, Placement]) -> Estimate | None:
        """Returns how long a job would take that starts at once."""
        made = shape(graph, routes, await self._capabilities())
        return _whole(made, None, await self._of_nodes(made, None), await self._workers())

    async def of_nodes(self, view: JobView, graph: Graph) -> dict[str, Estimate]:
        """Returns the seconds that each node that has not ended will still take, where that is known."""
        if view.ended:
            return {}
        return await self._of_nodes(await self._shape_of(view.job_id, graph, view.routes), view)

    async def of_job(
        self, view: JobView, waiting: WaitingFor | None, *, listed: bool = False
    ) -> tuple[Estimate | None, Estimate | None]:
        """Returns (seconds to the job's end, seconds to the start of what waits). `waiting`: why the job does not go on, with its position where that is known.

        `listed`: only of a job that runs, is small and known (`know_listed`).
        """
        if view.status not in ("queued", "running") or (listed and not view.running):
            return None, None
        if not listed:
            await self.know([view])
        made = self._shapes.get(view.job_id)
        if made is None or (listed and len(made.nodes) > LIST_NODES):
            return None, None
        position = waiting.position if waiting is not None and isinstance(waiting.position, int) else None
        starts = None if position is None or view.running else await self._start(view, position)
        if starts is None and not view.running:
            return None, None
        found = _whole(made, view, await self._of_nodes(made, view), await self._workers())
        if found is not None and starts is not None:
            found = _estimate(found.low + starts.low, found.high + starts.high)
        return found, starts

    async def now(self, view: JobView) -> tuple[Estimate | None, Estimate | None]:
        """Returns what `of_job` does, for one job whose place in its queue is looked up."""
        return await self.of_job(view, await waiting_for(view, self._workers, self._jobs.ahead))

    async def know(self, views: Sequence[JobView]) -> None:
        """Reads the graphs of these jobs where they are not known yet."""
        unknown = [view.job_id for view in views if view.job_id not in self._shapes]
        for view in await self._jobs.read_many(unknown, Depth.graph) if unknown else ():
            if view is not None and view.graph is not None:
                await self._shape_of(view.job_id, decode_graph(view.graph), view.routes)

    async def know_listed(self, views: Sequence[JobView]) -> None:
        """Reads as many graphs of the running jobs of a list as one request may."""
        small = [view for view in views if view.running and not view.ended and view.remaining <= LIST_NODES]
        await self.know([view for view in small if view.job_id not in self._shapes][:LIST_JOBS])

    async def gpu_tasks(self) -> set[str]:
        """Returns the tasks of kind gpu."""
        return {task for task, each in (await self._capabilities()).items() if each.runtime.kind == "gpu"}

    async def _shape_of(self, job_id: str, graph: Graph, routes: Mapping[str, Placement]) -> Shape:
        made = self._shapes.get(job_id)
        if made is None:
            made = self._shapes[job_id] = shape(graph, routes, await self._capabilities())
            self._kept_nodes += len(made.nodes)
            while self._kept_nodes > KEPT_NODES and len(self._shapes) > 1:
                _, old = self._shapes.popitem(last=False)
                self._kept_nodes -= len(old.nodes)
        else:
            self._shapes.move_to_end(job_id)
        return made

    async def _of_nodes(self, made: Shape, view: JobView | None) -> dict[str, Estimate]:
        open_nodes = [
            node for node in made.nodes if view is None or view.record(node.id).status not in NODE_ENDED
        ]  # fmt: skip
        known = await self._read({kind for node in open_nodes for kind in (node.sized, node.whole) if kind})
        devices = _devices(await self._workers())
        now = time.time()
        found = {}
        for node in open_nodes:
            elapsed, fraction = 0.0, 0.0
            if view is not None and (record := view.record(node.id)).status == "running":
                elapsed = max(0.0, now - (record.started_ms or 0) / 1000)
                fraction = record.share / node.share if node.share else 0.0
            names = devices.get(node.pool, {CPU}) if node.of_gpu else {CPU}
            seen = known.get(node.sized, [])
            left = (
                spread(seen, names, elapsed)
                if len(seen) >= ENOUGH
                else spread(known.get(node.whole, []), names, elapsed)
            )
            if left is None and fraction >= ENOUGH_PROGRESS:
                rest = elapsed * (1 - fraction) / fraction
                left = _estimate(rest * PROGRESS_LOW, rest * PROGRESS_HIGH)
            if left is not None:
                found[node.id] = left
        return found

    async def _start(self, view: JobView, position: int) -> Estimate | None:
        record = next((record for record in view.records.values() if record.status == "ready"), None)
        if record is None or record.reason:
            return None
        lane = lane_of(record.entry)
        there = [
            each for each in await self._workers() if f"{each.plane}/{each.pool}" == record.place and not each.draining
        ]
        if lane and any(each.devices for each in there):
            there = [each for each in there if each.devices]
        slots = sum(each.slots for each in there)
        if not slots:
            return None
        if position == 1 and any(len(each.running) < each.slots for each in there):
            return _estimate(0, 1)
        place = f"{record.place}+{lane}" if lane else record.place
        seen = (await self._read({durations.of_place(place)})).get(durations.of_place(place), [])
        typical = spread(seen, (), 0.0)
        if typical is None:
            return None
        rounds = (position - 1) // slots
        return _estimate(rounds * typical.low, (rounds + 1) * typical.high)

    async def _read(self, kinds: Collection[str]) -> dict[str, Durations]:
        now = time.monotonic()
        old = [kind for kind in kinds if self._durations.get(kind, (float("-inf"),))[0] < now - FRESH_SECONDS]
        for start in range(0, len(old), 500):
            for kind, seen in (await durations.read(self._jobs.client, old[start : start + 500])).items():
                self._durations[kind] = now, seen
                self._durations.move_to_end(kind)
        found = {kind: self._durations[kind][1] for kind in kinds if kind in self._durations}  # others read meanwhile
        while len(self._durations) > KEPT_KINDS:
            self._durations.popitem(last=False)
        return found


def spread(seen: Durations, devices: Collection[str], elapsed: float) -> Estimate | None:
    """Returns what is left of a run that has taken `elapsed` seconds. `devices`: those on which it may run; where none is known there, all count."""
    chosen = [seconds for seconds, device in seen if device in devices] or [seconds for seconds, _ in seen]
    if len(chosen) < ENOUGH:
        return None
    longer = sorted(seconds - elapsed for seconds in chosen if seconds > elapsed)
    if not longer:
        return None
    last = len(longer) - 1
    return _estimate(longer[math.floor(LOW * last)], longer[math.ceil(HIGH * last)])


def _whole(
    made: Shape, view: JobView | None, left: Mapping[str, Estimate], workers: Sequence[WorkerInfo]
) -> Estimate | None:
    """Returns what the job still takes; None where a node that will probably run is unknown. `left`: what its nodes take, as far as it is known."""
    ends: list[tuple[float, float]] = []
    work: dict[str, tuple[float, float]] = {}
    for node in made.nodes:
        low = max((ends[parent][0] for parent in node.parents), default=0.0)
        high = max((ends[parent][1] for parent in node.parents), default=0.0)
        ended = view is not None and view.record(node.id).status in NODE_ENDED
        if not (ended or node.unlikely):
            takes = left.get(node.id)
            if takes is None:
                return None
            low, high = low + takes.low, high + takes.high
            if node.heavy:
                before = work.get(node.place, (0.0, 0.0))
                work[node.place] = before[0] + takes.low, before[1] + takes.high
        ends.append((low, high))
    low, high = max((end for end, _ in ends), default=0.0), max((end for _, end in ends), default=0.0)
    for place, (least, most) in work.items():
        slots = sum(each.slots for each in workers if durations.serves(each, place)) or 1
        low, high = max(low, least / slots), max(high, most / slots)
    return _estimate(low, high)


def _devices(workers: Sequence[WorkerInfo]) -> dict[str, set[str]]:
    """Returns the names of the devices by pool."""
    found: dict[str, set[str]] = {}
    for worker in workers:
        if worker.devices:
            found.setdefault(worker.pool, set()).update(device.name for device in worker.devices)
    return found


def _estimate(low: float, high: float) -> Estimate:
    return Estimate(low=round(max(0.0, low), 1), high=round(max(0.0, low, high), 1))
