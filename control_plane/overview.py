"""The metrics of the whole system: values in Redis, read at each scrape. Every control plane reports the same values, so use `max`, not `sum`.

Where Redis does not answer in time, only `dihedral_redis_up 0` is reported: an old number would look like an idle system.
"""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterable

import redis
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from dihedral.bridge.errors import ServerUnavailable
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS
from dihedral.bridge.fabric.dead_letters import DeadLetters
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.lifecycle import JOB_ENDED

log = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
FRESH_SECONDS = 1.0
NO_PIPELINE = "graph"
DEAD_REASONS = ("worker_lost", "malformed_entry")
LIVE = ("scheduled", "queued", "running", "cancelling")


class Overview:
    """Keeps the values for a second, so that scrapes cannot overload Redis."""

    def __init__(self, jobs: Jobs, pipelines: Iterable[str]) -> None:
        """Makes the reader. `pipelines`: their counters start at 0, so that the first job of each shows as an increase."""
        self._jobs = jobs
        self._nothing = {f"{status} {pipeline}": 0 for status in JOB_ENDED for pipeline in (NO_PIPELINE, *pipelines)}
        self._nothing |= {f"dead {reason}": 0 for reason in DEAD_REASONS}
        self._kept: list[Metric] = []
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()

    async def families(self) -> list[Metric]:
        async with self._reading:
            if time.monotonic() - self._read_at > FRESH_SECONDS:
                self._kept = await self._read()
                self._read_at = time.monotonic()
            return self._kept

    async def _read(self) -> list[Metric]:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                found = [*await self._of_jobs(), *await self._of_places(), *await self._of_server()]
        except (*CONNECTION_ERRORS, redis.RedisError, ServerUnavailable, TimeoutError) as error:
            log.warning("the metrics of the whole cannot be read: %s", error)
            found = []
        return [
            GaugeMetricFamily("dihedral_redis_up", "Whether Redis answered this scrape", float(bool(found))),
            *found,
        ]

    async def _of_jobs(self) -> list[Metric]:
        counts = await self._jobs.counts()
        live = GaugeMetricFamily("dihedral_jobs", "Jobs that have not ended, by status", labels=["status"])
        for status in LIVE:
            live.add_metric([status], max(0, counts.get(status, 0)))
        ended = CounterMetricFamily("dihedral_jobs_ended", "Jobs that have ended", labels=["status", "pipeline"])
        dead = CounterMetricFamily("dihedral_dead_letters", "Nodes and entries given up", labels=["reason"])
        for name, number in sorted((self._nothing | counts).items()):
            word, _, of = name.partition(" ")
            if word in JOB_ENDED:
                ended.add_metric([word, of], number)
            elif word == "dead":
                dead.add_metric([of], number)
        again = CounterMetricFamily(
            "dihedral_redeliveries", "Entries taken over from lost workers", counts.get("redelivered", 0)
        )
        kept = GaugeMetricFamily(
            "dihedral_dead_letters_kept", "Dead letters not requeued or dropped", await DeadLetters(self._jobs).count()
        )
        return [live, ended, dead, again, kept]

    async def _of_places(self) -> list[Metric]:
        place = ["plane", "pool"]
        depth = GaugeMetricFamily("dihedral_queue_depth", "Entries that no worker has taken yet", labels=place)
        pending = GaugeMetricFamily("dihedral_queue_pending", "Entries that workers hold", labels=place)
        oldest = GaugeMetricFamily(
            "dihedral_queue_oldest_seconds", "Age of the oldest waiting entry, or 0", labels=place
        )
        workers = GaugeMetricFamily("dihedral_workers", "Workers that live", labels=place)
        alive = Counter((str(worker.plane), worker.pool) for worker in await self._jobs.workers.alive())
        for queue in await self._jobs.workers.queues():
            where = [str(queue.plane), queue.pool]
            depth.add_metric(where, queue.depth)
            pending.add_metric(where, queue.pending)
            oldest.add_metric(where, queue.oldest_seconds or 0)
            workers.add_metric(where, alive[str(queue.plane), queue.pool])
        return [depth, pending, oldest, workers]

    async def _of_server(self) -> list[Metric]:
        memory = await self._jobs.client.info("memory")
        return [
            GaugeMetricFamily("dihedral_redis_memory_used_bytes", "Memory of Redis", int(memory["used_memory"])),
            GaugeMetricFamily(
                "dihedral_redis_memory_limit_bytes", "Its maxmemory; 0: none", int(memory.get("maxmemory", 0))
            ),
        ]
