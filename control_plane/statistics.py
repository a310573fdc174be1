"""What jobs of each pipeline took: how many completed, the median of their time, and the seconds of their GPU nodes.

Counted over the caller's share of the latest LATEST jobs. What a completed job adds is computed once and kept for KEPT jobs; one that
failed may be retried, so it is read again after a minute. An answer costs a page of the index and the jobs that have ended since the last one.
"""

import statistics
import time
from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from dihedral.bridge.fabric.jobs import Jobs, JobView, decode_graph
from dihedral.bridge.fabric.scripts import Depth
from dihedral.control_plane.estimates import Estimates
from dihedral.schemas.structs.pipeline import PipelineStatistics, StatisticsList

LATEST = 500
KEPT = 2000
READ_AT_ONCE = 50
AGAIN_SECONDS = 60.0


class Ended(msgspec.Struct, frozen=True):
    owner: str
    pipeline: str | None
    status: str
    read_at: float
    seconds: float | None
    gpu_seconds: float


class Statistics:
    def __init__(self, jobs: Jobs, estimates: Estimates) -> None:
        self._jobs = jobs
        self._estimates = estimates
        self._ended: OrderedDict[str, Ended] = OrderedDict()

    async def answer(self, visible_owner: str | None) -> StatisticsList:
        """Returns the statistics of the jobs that this owner may see; None: of all."""
        rows = [job_id for _, job_id in await self._jobs.page(None, LATEST)]
        again = time.monotonic() - AGAIN_SECONDS
        for job_id, ended in list(self._ended.items()):
            if ended.status != "completed" and ended.read_at < again:
                del self._ended[job_id]
        unknown = [job_id for job_id in rows if job_id not in self._ended]
        for start in range(0, len(unknown), READ_AT_ONCE):
            for view in await self._jobs.read_many(unknown[start : start + READ_AT_ONCE], Depth.graph):
                if view is not None and view.ended:
                    self._ended[view.job_id] = await self._of(view)
        while len(self._ended) > KEPT:
            self._ended.popitem(last=False)
        seen = [self._ended[job_id] for job_id in rows if job_id in self._ended]
        return _answer([each for each in seen if visible_owner in (None, each.owner)])

    async def _of(self, view: JobView) -> Ended:
        gpu = 0.0
        if view.graph is not None:
            of_gpu = await self._estimates.gpu_tasks()
            for node in decode_graph(view.graph).nodes:
                record = view.record(node.id)
                if node.task in of_gpu and record.started_ms and record.ended_ms:
                    gpu += max(0, record.ended_ms - record.started_ms) / 1000
        took = None if view.started_ms is None or view.finished_ms is None else view.finished_ms - view.started_ms
        seconds = None if took is None else max(0, took) / 1000
        return Ended(view.owner, view.pipeline, view.status, time.monotonic(), seconds, gpu)


def _answer(seen: Iterable[Ended]) -> StatisticsList:
    by_pipeline: dict[str | None, list[Ended]] = {}
    for each in seen:
        by_pipeline.setdefault(each.pipeline, []).append(each)
    found = []
    for pipeline, jobs in sorted(by_pipeline.items(), key=lambda row: -len(row[1])):
        ends = [each.status for each in jobs]
        completed, failed = ends.count("completed"), ends.count("failed")
        times = [each.seconds for each in jobs if each.status == "completed" and each.seconds is not None]
        found.append(
            PipelineStatistics(
                pipeline=pipeline,
                ended=len(jobs),
                completed=completed,
                failed=failed,
                cancelled=ends.count("cancelled"),
                success_rate=completed / (completed + failed) if completed + failed else None,
                median_seconds=statistics.median(times) if times else None,
                gpu_seconds=round(sum(each.gpu_seconds for each in jobs), 3),
            )
        )
    return StatisticsList(jobs=sum(each.ended for each in found), pipelines=found)
