"""The loops that belong to no worker: they move due entries, reclaim abandoned ones, repair lost ones, and remove expired ones.

Several schedulers may run; every step they take passes only if the job still needs it. The scheduler runs no node: it is a
reclaimer on every stream, so that a place whose last worker died still gives its nodes back, and once a minute it heals the live
jobs that have not changed for a minute: it resolves the whole graph, and puts back what a record names and the stream lacks.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable

import msgspec
import redis

from dihedral.bridge import metrics
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import check_layout, connect, now_ms
from dihedral.bridge.fabric.deliveries import Delivery, Plans
from dihedral.bridge.fabric.dispatch import plan_batches
from dihedral.bridge.fabric.jobs import Jobs, JobView
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.leases import Reclaimer, reconcile
from dihedral.bridge.fabric.scripts import Claim, Depth, Reply, Report, Writer, is_transient
from dihedral.bridge.fabric.steps import Redispatch, Step
from dihedral.bridge.fabric.workers import RECENT_SECONDS
from dihedral.bridge.graphs import Plan
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)

DUE_EVERY_SECONDS = 0.25
SWEEP_EVERY_SECONDS = 60.0
HEAL_AFTER_SECONDS = 60.0


class Scheduler:
    """The scheduler of one process. `sweep_seconds`: the interval of checks of live jobs, and the time for which a job must have been unchanged."""

    def __init__(self, settings: Settings, *, sweep_seconds: float = SWEEP_EVERY_SECONDS) -> None:
        self.settings = settings
        self._sweep_seconds = sweep_seconds
        self._client = connect(settings.redis.url)
        self._jobs = Jobs(self._client, settings)
        self._scripts = self._jobs.scripts
        self._writers = [Writer(self._scripts, part) for part in self._scripts.partitions]
        self._name = f"scheduler-{uuid.uuid4().hex[:12]}"
        self._plans = Plans()
        self._cancelling: dict[int, dict[str, float]] = {}

    async def run(self) -> None:
        """Runs until cancelled; waits while the server is unreachable."""
        try:
            await self._connect()
            async with asyncio.TaskGroup() as group:
                for writer in self._writers:
                    group.create_task(writer.run())
                group.create_task(self._every(DUE_EVERY_SECONDS, self.move_due))
                group.create_task(self._reclaims())
                group.create_task(self._every(self._sweep_seconds, self.sweep))
        finally:
            await self._client.aclose()

    async def _connect(self) -> None:
        while True:
            try:
                await check_layout(self._client, self.settings.redis.partitions, self._upgrade)
                return
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(0.5)

    async def _upgrade(self) -> None:
        for part in self._scripts.partitions:
            log.info("%d jobs are stored in this version's layout now", await self._scripts.upgrade(part))

    async def _every(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except Exception as error:
                if not is_transient(error):
                    raise
                log.warning("the scheduler cannot reach Redis: %s", error)
            await asyncio.sleep(seconds)

    async def move_due(self) -> None:
        """Moves every delayed entry whose time has come."""
        for part in self._scripts.partitions:
            while True:
                moved, dropped, _ = await self._scripts.due(part, 100)
                if moved + dropped < 100:
                    break

    async def _reclaims(self) -> None:
        reclaimer = Reclaimer(self._jobs, self._name, self._write)
        while True:
            await asyncio.sleep(self.settings.jobs.lease_ms / 3000)
            try:
                for part in self._scripts.partitions:
                    await reclaimer.look(part, await self._streams(part))
            except Exception as error:
                if not is_transient(error):
                    raise
                reclaimer.forget()

    async def _streams(self, part: Partition) -> list[str]:
        places = await self._jobs.workers.places()
        return [stream for plane, pool in places for stream in part.every_stream(plane, pool)]

    async def sweep(self) -> None:
        """Repairs live jobs without change, prunes the index of expired jobs, removes consumers and workers that are gone."""
        for part in self._scripts.partitions:
            await self._heal_still(part)
            await self._prune(part)
            await self._forget_consumers(part)
        horizon = await now_ms(self._client) - RECENT_SECONDS * 1000
        await self._client.zremrangebyscore(keys.WORKERS, "-inf", horizon)
        for _, pool in await self._jobs.workers.places():
            for part in self._scripts.partitions:
                await self._client.zremrangebyscore(part.devices(pool), "-inf", horizon)

    async def _heal_still(self, part: Partition) -> None:
        horizon = await now_ms(self._client) - min(HEAL_AFTER_SECONDS, self._sweep_seconds) * 1000
        cancelling: set[str] = set()
        async for raw in self._client.sscan_iter(part.alive, count=200):
            job_id = raw.decode()
            found = await self._jobs.read(job_id, depth=Depth.graph)
            if found is None or found.ended:
                await self._client.srem(part.alive, job_id)
                continue
            if found.status == "cancelling":
                cancelling.add(job_id)
            if found.updated_ms < horizon and found.status != "scheduled":
                try:
                    await self.heal_job(part, found)
                except (
                    msgspec.MsgspecError
                ) as error:  # another program wrote it; it must not end the scheduler for all jobs
                    log.error("a job that stands still cannot be read: %s", error, extra={"job": job_id})
        self._note_cancelling(part, cancelling)

    def _note_cancelling(self, part: Partition, found: set[str]) -> None:
        """Returns how long the oldest cancel has been waiting for a worker's report, since this scheduler first saw it."""
        before, now = self._cancelling.get(part.number, {}), time.monotonic()
        self._cancelling[part.number] = {job_id: before.get(job_id, now) for job_id in found}
        since = [began for jobs in self._cancelling.values() for began in jobs.values()]
        metrics.cancelling_oldest_seconds.set(now - min(since, default=now))

    async def heal_job(self, part: Partition, found: JobView) -> None:
        """Resolves the whole graph of a live job and dispatches anew what its records name and no stream has; ends it where the job is cancelled."""
        assert found.graph is not None
        plan = Plan(self._plans.get(found.graph, "{}", found.job_id).topology, found.routes)
        claim = Claim("ok", part.stream("node", "default", found.priority), "", job_id=found.job_id, graph=found.graph)
        delivery = Delivery(part, claim, self._name, plan)
        delivery.token = ""
        delivery.records = dict(found.records)
        delivery.states = {
            node: state for node, state in found.states().items() if state[0] not in ("ready", "running")
        }
        if found.status != "cancelling":
            await reconcile(self._write, delivery)
        steps: list[Step] = []
        for node, record in found.records.items():
            if record.status in ("ready", "running"):
                (batch,) = plan_batches(part, plan, [node], priority=found.priority)
                steps.append(Redispatch(record.entry, batch))
        if steps:
            reply = await self._write(part, delivery.report(steps))
            for word, done in (("ok", "sent anew"), ("cancelled", "their nodes are cancelled")):
                if word in reply.words:
                    log.warning("the streams had lost entries; %s", done, extra={"job": found.job_id})

    def _write(self, part: Partition, report: Report) -> "asyncio.Future[Reply]":
        return self._writers[part.number].put(report)

    async def _prune(self, part: Partition) -> None:
        """Removes ids of expired jobs from the index: oldest first, up to the first that has not expired."""
        while True:
            ids = [raw.decode() for raw in await self._client.zrange(part.index, 0, 199)]
            pipe = self._client.pipeline(transaction=False)
            for job_id in ids:
                pipe.exists(part.job(job_id))
            gone = (
                [job_id for job_id, exists in zip(ids, await pipe.execute(), strict=True) if not exists] if ids else []
            )
            if gone:
                await self._client.zrem(part.index, *gone)
            if len(gone) < 200:
                return

    async def _forget_consumers(self, part: Partition) -> None:
        """Drops the consumers that hold nothing and belong to no live worker; a consumer that still reads is created again by its read."""
        alive = {worker.worker_id for worker in await self._jobs.workers.alive()}
        for stream in await self._streams(part):
            try:
                consumers = await self._client.xinfo_consumers(stream, keys.GROUP)
            except redis.ResponseError:  # no consumer has read from the stream yet
                continue
            for row in consumers:
                if row["pending"] == 0 and row["name"].decode() not in alive:
                    await self._scripts.drop_consumer(part, stream, row["name"].decode())
