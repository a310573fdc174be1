"""The loop of both planes, top-down: run, take, handle, stop.

The parts: `_takes` reads the streams, one `_handle` per delivery drives its nodes (nodes.py), `Renewer` (a thread) keeps the
leases, `_reclaims` watches other workers' leases, `_listens` receives cancels, `Presence` announces that this worker lives,
`_makes_room` pauses less urgent nodes, the `Writer` of each partition commits. A plane passes in how one node is run
(`run_node`): in this process, or in a slot.

A node starts only after Redis has confirmed it. One that is light and may run twice starts at once where its entry is pending for this
worker alone: its first report says that it began: with its end, or when it waits. An entry is acknowledged only when all its nodes have ended and the nodes that they
made ready are started or dispatched. If the worker dies in between, the worker that reclaims the entry completes the rest.

Stop (SIGTERM): taking ends; running nodes have `drain_seconds`; what still runs is cancelled, and once its process is gone
its node goes back to the stream, at the front. Only then do the leases end, so no other worker starts a node that
is still running here.

Large because the order of start, take, and stop is one argument; nodes, capacity and presence are modules of their own.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import redis
from prometheus_client.metrics_core import Metric

from dihedral.bridge.awaiting import UntilItWaits
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, check_layout, connect, listener
from dihedral.bridge.fabric.deliveries import Consumer, Delivery
from dihedral.bridge.fabric.dispatch import Manner, plan_batches
from dihedral.bridge.fabric.durations import CPU
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.leases import Reclaimer, Renewer
from dihedral.bridge.fabric.scripts import Reply, Report, Writer, is_transient
from dihedral.bridge.fabric.steps import Dispatch
from dihedral.bridge.pools import PRIORITIES
from dihedral.bridge.tasks.registry import Registry
from dihedral.bridge.tracing import Tracing
from dihedral.bridge.worker.branches import Executor
from dihedral.bridge.worker.capacity import Capacity
from dihedral.bridge.worker.nodes import NO_TASK_DELAY_MS, Nodes, RunNode
from dihedral.bridge.worker.preemption import preempt
from dihedral.bridge.worker.presence import DeviceUse, Presence
from dihedral.bridge.worker.watchdog import Watchdog
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.worker import DeviceInfo

log = logging.getLogger(__name__)

GIVE_BACK_SECONDS = 5.0
PREEMPTION_SECONDS = 2.0
MOST_HELD = 2000  # deliveries, with those whose last report is not answered yet


class Worker:
    __slots__ = (
        "_client", "_executor", "_held", "_jobs", "_renewer", "_scripts", "_stopping", "_taker", "_tasks", "_url", "_writers", "capacity",
        "nodes", "plane", "pool", "presence", "registry", "settings",
    )  # fmt: skip

    def __init__(
        self,
        *,
        settings: Settings,
        plane: str,
        registry: Registry,
        run_node: RunNode,
        slots: int,
        light: int,
        device: str = "",
        metrics_url: str | None = None,
        devices: Sequence[DeviceInfo] = (),
        pool: str = "default",
        tracing: Tracing | None = None,
    ) -> None:
        """Makes the worker of one place. `slots` and `light`: how many nodes of each kind may run at once."""
        self.settings = settings
        self.plane = plane
        self.pool = pool
        self.registry = registry
        self.capacity = Capacity(registry, plane, pool, slots=slots, light=light, has_device=bool(devices))
        self.presence = Presence(
            registry, lambda: self.nodes.running, self._obey, plane=plane, pool=pool, slots=slots or light, device=device, devices=devices,
            metrics_url=metrics_url, gpu_tasks_on_cpu=settings.worker.gpu_tasks_on_cpu,
        )  # fmt: skip
        self._url = settings.redis.url
        self._client = connect(self._url)
        self._jobs = Jobs(self._client, settings)
        self._scripts = self._jobs.scripts
        self._writers = [Writer(self._scripts, part) for part in self._scripts.partitions]
        self._held: dict[tuple[str, str], Delivery] = {}
        lanes = [lane for lane in keys.lanes(plane) if lane and (devices or settings.worker.gpu_tasks_on_cpu)]
        if not devices:
            lanes = [lane for lane in lanes if lane != keys.NEEDS_DEVICE]
        self._taker = Consumer(
            self._jobs, self._url, self.worker_id, plane, pool, self._held, lanes=lanes, has_device=bool(devices)
        )
        self.nodes = Nodes(
            settings, registry, run_node, self.capacity, self._write, plane=plane, worker_id=self.worker_id,
            post=lambda part, report, on_reply: self._writers[part.number].post(report, on_reply), ended=self._drop,
            hasten=self.presence.hasten, prefer=self._taker.prefer_partition,
            device_elsewhere=self._device_elsewhere, durations=self.presence.durations,
            device=devices[0].name if devices else CPU, tracing=tracing,
        )  # fmt: skip
        self._executor = Executor()
        self._stopping = asyncio.Event()
        self._tasks: asyncio.TaskGroup | None = None
        self._renewer: Renewer | None = None

    @property
    def worker_id(self) -> str:
        return self.presence.worker_id

    @property
    def ready(self) -> bool:
        """Returns whether the worker has been announced and serves."""
        return self.presence.ready

    @property
    def memory(self) -> dict[str, DeviceUse]:
        return self.presence.memory

    @property
    def held(self) -> Mapping[tuple[str, str], Delivery]:
        """The deliveries that this worker holds, by (stream, entry)."""
        return self._held

    # Run ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves until stop(); an unreachable server is waited for, again and again.

        Raises:
            LayoutMismatch: the server's jobs are laid out otherwise.
        """
        loop = asyncio.get_running_loop()

        def notify(key: tuple[str, str], word: str) -> None:
            if word == "cancelling":
                watchdog.note_cancel(key)
            loop.call_soon_threadsafe(self._on_renewal, key, word)

        self._renewer = renewer = Renewer(
            self._jobs,
            self._url,
            self.worker_id,
            lambda: [(d.part, d.job_id, d.stream, d.entry, d.token) for d in list(self._held.values())],
            notify,
        )
        watchdog = Watchdog(
            self._scripts, self._url, lambda: self.nodes.running, lambda: self._held.values(),
            self.settings.worker.cancel_grace_ms / 1000,
        )  # fmt: skip
        try:
            await self._connect()
            renewer.start()
            watchdog.start()
            async with asyncio.TaskGroup() as group:
                self._tasks = group
                background = [
                    group.create_task(loop_of())
                    for loop_of in (self._listens, self.nodes.flushes, self._reclaims, self._makes_room)
                ]
                background.append(group.create_task(self.presence.announces(self._jobs.workers)))
                background += [group.create_task(writer.run()) for writer in self._writers]
                takes = group.create_task(self._takes())
                await self._stopping.wait()
                takes.cancel()
                await asyncio.wait(
                    {takes}
                )  # the drain looks at the held deliveries, so the last take must be known before
                await self._drain()
                for task in background:
                    task.cancel()
        finally:
            self.presence.ready = False
            renewer.stop()
            watchdog.stop()
            with suppress(*CONNECTION_ERRORS, redis.RedisError):
                await self._jobs.workers.leave_devices(self.pool, self.worker_id)
                await self._jobs.workers.depart(self.worker_id)
            await self._client.aclose()
            await self._taker.aclose()

    def stop(self) -> None:
        """Begins the drain; run() returns when it is over."""
        self._stopping.set()
        self.capacity.closed = True

    def problems(self) -> list[str]:
        """Returns the reasons why this worker is not ready, a sentence each."""
        return [self.presence.trouble] if self.presence.trouble else []

    def measured(self) -> list[Metric]:
        """Returns the nodes that run here now, for the metrics."""
        return self.capacity.measured(
            waiting=sum(bool(each.waiting_for) and not each.light for each in self.nodes.running)
        )

    async def _connect(self) -> None:
        delay = 0.1
        while not self._stopping.is_set():
            try:
                await check_layout(self._client, self.settings.redis.partitions)
                await self._taker.make_groups()
                await self._obey()
                return
            except Exception as error:
                if not is_transient(error):
                    raise
                self.presence.trouble = f"Redis cannot be reached: {error}"
                log.warning("%s; trying again", self.presence.trouble)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5)

    # Take -----------------------------------------------------------------------------------------------------------

    async def _takes(self) -> None:
        """Takes no more entries than places are free; waits in a blocking read when the streams are empty."""
        recover = False
        while not self._stopping.is_set():
            try:
                if recover:
                    self._accept(await self._taker.recover(*self.capacity.free()))
                    recover = False
                self.capacity.changed.clear()
                light, heavy = self.capacity.free()
                if self.capacity.solo or light + heavy <= 0 or len(self._held) > MOST_HELD:
                    await self.capacity.wait_for_change(1)
                    continue
                seen, deliveries = await self._taker.take(light, heavy)
                self.presence.trouble = None
                self._accept(deliveries)
                if self.capacity.paused:
                    continue  # meanwhile: a blocking read would be handed an entry that may not start here
                if seen or self.capacity.free()[1] > heavy:
                    # A slot that came free during the take was not asked for: a blocking read now would be handed one entry of each
                    # priority of a backlog, as if they were equal.
                    continue
                if self.capacity.slots and min(self.capacity.free()) <= 0:
                    # A blocking read would receive entries that cannot start here, and would keep them from other workers.
                    self.capacity.changed.clear()
                    await self._taker.wait_for_news(self.capacity.changed)
                else:
                    came = await self._taker.wait(self.capacity.free)
                    while not came and self._taker.is_told and not (self.capacity.solo or self.capacity.paused):
                        came = await self._taker.wait(self.capacity.free)
                    self._accept(came)
            except Exception as error:
                if not is_transient(error):
                    raise
                self.presence.trouble = f"Redis: {error}"
                log.warning("the streams cannot be read: %s", error)
                recover = True
                await asyncio.sleep(0.2 + random.random() * 0.3)

    def _accept(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._held[delivery.key] = delivery
            for node in delivery.open:
                self.capacity.occupy(delivery, node)
        self._handle_beside(deque(deliveries))

    def _handle_beside(self, deliveries: deque[Delivery]) -> None:
        if deliveries:
            assert self._tasks is not None
            self._tasks.create_task(self._handle_all(deliveries))

    # Handle ---------------------------------------------------------------------------------------------------------

    async def _handle_all(self, deliveries: deque[Delivery]) -> None:
        """Runs one delivery after the other in this task; while one waits, another task goes on with the rest."""
        task = asyncio.current_task()
        while deliveries:
            delivery = deliveries.popleft()
            delivery.handling = task

            def waits(delivery: Delivery = delivery) -> None:
                if delivery.unwritten:
                    self.nodes.mark(delivery)
                self._handle_beside(deliveries)

            await UntilItWaits(self._handle(delivery), waits)
            if self._executor.is_late():
                await asyncio.sleep(0)

    def _drop(self, delivery: Delivery) -> None:
        self._held.pop(delivery.key, None)
        self.capacity.changed.set()

    async def _handle(self, delivery: Delivery) -> None:
        """Runs a delivery to its end; an error here ends this delivery only."""
        try:
            if delivery.claim.waiting:
                await self._give_back(delivery, delivery.claim.waiting)
            must_begin = delivery.held_at and not all([delivery.routes[node].idempotent for node in delivery.open])
            if must_begin and (await self._write(delivery.part, delivery.report([]))).word != "ok":
                delivery.move("lost")
                for node in delivery.open:
                    self.capacity.vacate(delivery, node)
                return
            if delivery.open and not delivery.releasing:
                await self._executor.execute(sorted(delivery.open), partial(self.nodes.run, delivery))
            if delivery.lost or delivery.ending:
                return
            if delivery.releasing:
                if delivery.kept:
                    await self._write(delivery.part, delivery.report([]))
                await self._give_back(delivery, sorted(delivery.open), ack=True)
            else:
                await self._write(delivery.part, delivery.report([], ack=True))
        except Exception:
            log.exception("a delivery failed; its nodes wait for its lease to end", extra={"job": delivery.job_id})
        finally:
            if not delivery.posted:
                self._drop(delivery)

    async def _give_back(self, delivery: Delivery, nodes: list[str], *, ack: bool = False) -> None:
        """Requeues nodes that cannot run here now at the front of their place, each in a new entry."""
        delay, reason = (0, "-") if delivery.releasing else self._delay(delivery, nodes)
        pool_is_paused = self.capacity.paused and not self.presence.draining  # meanwhile more urgent ones may come
        front = not delay and (delivery.releasing or not pool_is_paused)
        manner = Manner(delay_ms=delay, reason=reason, front=front, declined=bool(delay))
        batches = plan_batches(delivery.part, delivery.plan, nodes, priority=delivery.priority, manner=manner)
        if ack:
            delivery.move("ending")
            item = delivery.release(batches)
            await self._until_answered(lambda: self._scripts.release(delivery.part, [item]))
            return
        await self._write(delivery.part, delivery.report([Dispatch(batch) for batch in batches]))

    async def _until_answered(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Repeats a call while the server is away; the drain, which waits for the answer, has a time limit."""
        while True:
            try:
                await call()
                return
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(0.1)

    async def _device_elsewhere(self, task: str, larger: bool) -> bool:
        """Returns whether a node that this worker declines may find a device in another worker of the pool. Without a device here, that is for take.lua to decide."""
        mine = self.presence.largest_device_mib
        if not mine:
            return True
        try:
            others = await self._jobs.workers.alive()
        except Exception as error:
            if not is_transient(error):
                raise
            return True  # it stays where devices are, until the server can be asked
        return any(
            other.pool == self.pool and task in other.tasks and not other.draining and other.worker_id != self.worker_id
            and max((each.memory_mib for each in other.devices), default=0) > (mine if larger else 0)
            for other in others
        )  # fmt: skip

    def _delay(self, delivery: Delivery, nodes: list[str]) -> tuple[int, str]:
        known = all(delivery.topology.nodes[node].task in self.registry for node in nodes)
        return (0, "-") if known else (NO_TASK_DELAY_MS, "worker")

    # Background -----------------------------------------------------------------------------------------------------

    def _write(self, part: Partition, report: Report) -> "asyncio.Future[Reply]":
        return self._writers[part.number].put(report)

    def _on_renewal(self, key: tuple[str, str], word: str) -> None:
        delivery = self._held.get(key)
        if delivery is None or delivery.ending:  # a claim that this worker has released is not a lost one
            return
        if word.startswith("ok "):
            self._rank(delivery.job_id, word.removeprefix("ok "))
        elif word == "lost":
            log.warning("the lease of an entry is lost", extra={"job": delivery.job_id})
            self.nodes.lose(delivery)
        else:
            self.nodes.cancel(lambda other: other is delivery)

    async def _receive(self, words: list[str]) -> None:
        """Obeys a message of CANCEL_CHANNEL."""
        match words:
            case ["/paused"]:
                await self._obey()
            case ["/priority", job_id, priority] if priority in PRIORITIES:
                self._rank(job_id, priority)
            case [job_id, node_id]:
                self.nodes.finish(job_id, node_id)
            case [job_id]:
                self.nodes.cancel(lambda delivery: delivery.job_id == job_id)

    def _rank(self, job_id: str, priority: str) -> None:
        """Gives what is held of a job its new priority; a message that was lost, or came before the node, is made up for by the next renewal."""
        for delivery in self._held.values():
            if delivery.job_id == job_id:
                delivery.priority = priority
        self.nodes.rank(job_id, PRIORITIES.index(priority))

    async def _obey(self) -> None:
        """Reads whether the pool is paused or this worker drained. What it runs goes on; it waits for more in no blocking read that it begins after this."""
        paused, drained = await self._jobs.workers.is_paused(self.plane, self.pool, self.worker_id)
        if drained and not self.presence.draining:
            await self._jobs.workers.leave_devices(self.pool, self.worker_id)
        wanted = paused or drained, drained or self.capacity.closed
        if wanted != (self.capacity.paused, self.presence.draining):
            self.capacity.paused, self.presence.draining = wanted
            self.capacity.changed.set()
            self.presence.hasten()

    async def _listens(self) -> None:
        """Receives cancels at once; the next renewal reports a cancel missed here, and the next heartbeat reads a pause. Other messages are not repeated."""
        while True:
            client = listener(self._url)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(keys.CANCEL_CHANNEL)
                    while True:
                        message = await pubsub.get_message(timeout=10)
                        if message is not None and message["type"] == "message":
                            await self._receive(message["data"].decode(errors="replace").split(" "))
            except Exception as error:
                if not is_transient(error):
                    raise
                await asyncio.sleep(0.5)
            finally:
                await client.aclose()

    async def _reclaims(self) -> None:
        """Watches the leases of the other workers of this place."""
        reclaimer = Reclaimer(self._jobs, self.worker_id, self._write)
        while True:
            await asyncio.sleep(self.settings.jobs.lease_ms / 3000)
            try:
                for part in self._scripts.partitions:
                    await reclaimer.look(part, part.every_stream(self.plane, self.pool))
            except Exception as error:
                if not is_transient(error):
                    raise
                reclaimer.forget()

    async def _makes_room(self) -> None:
        """Pauses nodes of lower priority where those of higher priority find no place."""
        while self.capacity.slots and not self._stopping.is_set():
            await asyncio.sleep(min(PREEMPTION_SECONDS, self.settings.jobs.lease_ms / 3000))
            try:
                if self.capacity.free()[1] <= 0 and not self.capacity.paused:
                    lanes = self._taker.open_lanes
                    await preempt(self._scripts, self.plane, self.pool, lanes, list(self.nodes.running))
            except Exception as error:
                if not is_transient(error):
                    raise

    # Stop -----------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Lets running nodes end within the grace period, then cancels and requeues them; nodes that only wait are requeued at once.

        Does not wait for a server that is away then: no task runs here any more, so the leases may end.
        """
        deadline = time.monotonic() + self.settings.jobs.drain_seconds
        self.presence.draining = True
        self.presence.hasten()
        with suppress(*CONNECTION_ERRORS, redis.RedisError):
            await self._jobs.workers.leave_devices(self.pool, self.worker_id)
        while self._held and time.monotonic() < deadline:
            for running in self.nodes.running:
                running.give_up_waiting()
            await self.capacity.wait_for_change(0.1)
        for delivery in self._held.values():
            if not (delivery.ending or delivery.lost):
                delivery.move("releasing")
        self.nodes.cancel(lambda _: True)
        while any(self.capacity.at_work.values()):
            await self.capacity.wait_for_change(0.1)
        with suppress(*CONNECTION_ERRORS, redis.RedisError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                while self._held:
                    await self.capacity.wait_for_change(0.1)
                self.capacity.withdraw()
                lost = await self._taker.recover(0, 0)
                for delivery in lost:
                    delivery.move("releasing")  # none of its nodes has started here
                self._accept(lost)
                while self._held:
                    await self.capacity.wait_for_change(0.1)
                await self._taker.forget_consumer()
        for delivery in self._held.values():
            if delivery.handling is not None:
                delivery.handling.cancel()
