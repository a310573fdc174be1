"""The loop of both planes, top-down: run, take, handle, report, stop.

Who does what: `_takes` talks to the streams, one `_handle` per delivery drives its nodes, `Renewer` (a thread) keeps the
leases, `_reclaims` watches other workers' leases, `_listens` hears cancels, `_announces` says that this worker lives,
`_makes_room` lets what is less urgent pause, the `Writer` of each partition commits. A plane passes in how one node is run
(`run_node`): in this process, or in a slot.

A node starts only after Redis said so; an entry is acknowledged only when all its nodes have ended and what they made ready
is started or dispatched. Everything between is healed by whoever reclaims the entry.

Stop (SIGTERM): taking ends; running nodes have `drain_seconds`; what still runs is cancelled, and once its process is gone
its node goes back to the stream, at the front. Only then do the leases end, so no other worker starts a node that
is still running here.
"""

import asyncio
import logging
import os
import random
import socket
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import msgspec
import redis
from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from dihedral.bridge import graphs, metrics
from dihedral.bridge.artifacts.owned import OWNER
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.errors import InputTooLarge, ReferenceNotFound, ServerUnavailable
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, check_layout, connect, listener
from dihedral.bridge.fabric.deliveries import Consumer, Delivery
from dihedral.bridge.fabric.dispatch import plan_batches
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.leases import Reclaimer, Renewer
from dihedral.bridge.fabric.scripts import Reply, Report, Writer, is_transient
from dihedral.bridge.fabric.workers import HEARTBEAT_SECONDS
from dihedral.bridge.tasks.registry import Registry
from dihedral.bridge.tasks.runs import CancelToken, Emit, NodeOutcome, NodeRun
from dihedral.bridge.times import rfc3339
from dihedral.bridge.tracing import Tracing
from dihedral.bridge.version import VERSION
from dihedral.bridge.worker.branches import Executor
from dihedral.bridge.worker.preemption import preempt
from dihedral.bridge.worker.reporting import NodeExecution, Reporter
from dihedral.schemas.structs.graph import Node, NodeError, Plane
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.worker import DeviceInfo, MemoryInfo, RunningNode, WorkerInfo

log = logging.getLogger(__name__)

RunNode = Callable[[NodeRun, Emit, CancelToken], Awaitable[NodeOutcome]]

NO_TASK_DELAY_MS = 2000
FLUSH_SECONDS = 0.02
GIVE_BACK_SECONDS = 5.0
PREEMPTION_SECONDS = 2.0
STORE_TROUBLE = ("artifact_store_unavailable", "artifact_store_full")
TELL_SECONDS = 0.5  # what nodes wait for is told sooner than the next heartbeat, several at once


class Worker:
    def __init__(
        self,
        *,
        settings: Settings,
        plane: str,
        registry: Registry,
        run_node: RunNode,
        slots: int,
        light: int,
        store: ArtifactStore | None = None,
        device: str = "",
        metrics_url: str | None = None,
        devices: Sequence[DeviceInfo] = (),
        pool: str = "default",
        tracing: Tracing | None = None,
    ) -> None:
        """`slots` and `light`: how many nodes of each kind may run at once."""
        self._tracing = tracing
        self.settings = settings
        self.plane = plane
        self.pool = pool
        self.registry = registry
        self.worker_id = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.ready = False
        self.memory: dict[str, tuple[int, int]] = {}
        """Device -> (bytes in use, bytes there are), told with every heartbeat; kept by whoever can look."""
        self._run_node = run_node
        self._slots = slots
        self._light = light
        self._free = {"light": light, "heavy": slots}
        self._store = store
        self._device = device
        self._devices = list(devices)
        self._metrics_url = metrics_url
        self._observe = metrics.node_observer(registry)
        self._url = settings.redis.url
        self._client = connect(self._url)
        self._jobs = Jobs(self._client, settings)
        self._scripts = self._jobs.scripts
        self._reporter = Reporter(self._write, self._plan, self._reserve, self._unreserve, self.worker_id, settings)
        self._writers = [Writer(self._scripts, part) for part in self._scripts.partitions]
        self._executor = Executor()
        self._held: dict[tuple[str, str], Delivery] = {}
        self._taker = Consumer(self._jobs, self._url, self.worker_id, plane, pool, self._held)
        self._running: dict[tuple[str, str, str], NodeExecution] = {}
        self._dirty: dict[NodeExecution, None] = {}
        self._said = asyncio.Event()
        self._changed = asyncio.Event()
        self._to_tell = asyncio.Event()
        self._stopping = asyncio.Event()
        self._solo = asyncio.Lock()
        self._at_work = {"light": 0, "heavy": 0}  # nodes in their task
        self._limits: dict[str, asyncio.Semaphore] = {
            task.capability.id: asyncio.Semaphore(task.capability.runtime.concurrency)
            for task in registry.values()
            if task.capability.runtime.concurrency > 0
        }
        self._started_at = rfc3339(int(time.time() * 1000))
        self._trouble: str | None = "not connected yet"
        self._tasks: asyncio.TaskGroup | None = None
        self._renewer: Renewer | None = None

    # Run ------------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Serves until stop(); an unreachable server is waited for, again and again.

        Raises:
            LayoutMismatch: the server's jobs are laid out otherwise.
        """
        loop = asyncio.get_running_loop()

        def tell(key: tuple[str, str], word: str) -> None:
            loop.call_soon_threadsafe(self._on_renewal, key, word)

        self._renewer = renewer = Renewer(
            self._jobs,
            self._url,
            self.worker_id,
            lambda: [(d.part, d.job_id, d.stream, d.entry, d.token) for d in list(self._held.values())],
            tell,
        )
        try:
            await self._connect()
            renewer.start()
            async with asyncio.TaskGroup() as group:
                self._tasks = group
                background = [
                    group.create_task(loop_of())
                    for loop_of in (self._announces, self._listens, self._flushes, self._reclaims, self._makes_room)
                ]
                background += [group.create_task(writer.run()) for writer in self._writers]
                takes = group.create_task(self._takes())
                await self._stopping.wait()
                takes.cancel()
                await asyncio.wait({takes})  # what it has taken is known before the drain looks at what is held
                await self._drain()
                for task in background:
                    task.cancel()
        finally:
            self.ready = False
            renewer.stop()
            with suppress(*CONNECTION_ERRORS, redis.RedisError):
                await self._jobs.workers.depart(self.worker_id)
            await self._client.aclose()
            await self._taker.aclose()

    def stop(self) -> None:
        """Begins the drain; run() returns when it is over."""
        self._stopping.set()

    def problems(self) -> list[str]:
        """Why this worker is not ready, a sentence each."""
        return [self._trouble] if self._trouble else []

    def measured(self) -> list[Metric]:
        """What runs here now, for the metrics."""
        waiting = sum(bool(each.waiting_for) for each in self._running.values())  # heavy ones: for memory of a device
        at_work = self._at_work | {"heavy": self._at_work["heavy"] - waiting}
        active = GaugeMetricFamily("worker_active_tasks", "Nodes that run in this process now", sum(at_work.values()))
        there = GaugeMetricFamily(
            "dihedral_worker_slots", "Nodes that may run at once", labels=["plane", "pool", "kind"]
        )
        busy = GaugeMetricFamily("dihedral_worker_slots_busy", "Nodes in their task", labels=["plane", "pool", "kind"])
        for kind, limit in (("light", self._light), ("heavy", self._slots)):
            there.add_metric([self.plane, self.pool, kind], limit)
            busy.add_metric([self.plane, self.pool, kind], at_work[kind])
        return [active, there, busy]

    async def _connect(self) -> None:
        delay = 0.1
        while not self._stopping.is_set():
            try:
                await check_layout(self._client, self.settings.redis.partitions)
                await self._taker.make_groups()
                return
            except Exception as error:
                if not _is_transient(error):
                    raise
                self._trouble = f"Redis cannot be reached: {error}"
                log.warning("%s; trying again", self._trouble)
                await asyncio.sleep(delay)
                delay = min(delay * 2, 5)

    # Take -----------------------------------------------------------------------------------------------------------

    async def _takes(self) -> None:
        """Takes no more than is free; waits in a blocking read when there is nothing."""
        recover = False
        while not self._stopping.is_set():
            try:
                if recover:
                    self._accept(await self._taker.recover(*self._capacity()))
                    recover = False
                self._changed.clear()
                light, heavy = self._capacity()
                if self._solo.locked() or light + heavy <= 0:
                    await self._wait_for_change(1)
                    continue
                seen, deliveries = await self._taker.take(light, heavy)
                self._trouble = None
                self._accept(deliveries)
                if seen:
                    continue
                if self._slots and min(self._capacity()) <= 0:
                    # A blocking read would be handed what cannot start here, and would keep it from others.
                    await self._wait_for_change(0.1 * self._taker.idle_cost)
                else:
                    self._accept(await self._taker.wait(self._capacity))
            except Exception as error:
                if not _is_transient(error):
                    raise
                self._trouble = f"Redis: {error}"
                log.warning("the streams cannot be read: %s", error)
                recover = True
                await asyncio.sleep(0.2 + random.random() * 0.3)

    def _capacity(self) -> tuple[int, int]:
        """How many more light and heavy nodes can start; less than none when more was handed over than could."""
        return self._free["light"], self._free["heavy"]

    def _accept(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self._held[delivery.key] = delivery
            for node in delivery.open:
                self._free[self._kind(delivery, node)] -= 1
            assert self._tasks is not None
            delivery.handling = self._tasks.create_task(self._handle(delivery))

    async def _wait_for_change(self, seconds: float) -> None:
        self._changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for loses a cancel that comes together with the event (seen)
                await self._changed.wait()

    # Handle ---------------------------------------------------------------------------------------------------------

    async def _handle(self, delivery: Delivery) -> None:
        """Runs a delivery to its end; whatever goes wrong here stays with this delivery."""
        try:
            if delivery.claim.waiting:
                await self._give_back(delivery, delivery.claim.waiting)
            if delivery.open and not delivery.releasing:
                await self._executor.execute(sorted(delivery.open), lambda node: self._run(delivery, node))
            if delivery.lost or delivery.ending:
                return
            if delivery.releasing:
                await self._give_back(delivery, sorted(delivery.open), ack=True)
            else:
                await self._write(delivery.part, delivery.report([], ack=True))
        except Exception:
            log.exception("a delivery failed; its nodes wait for its lease to end", extra={"job": delivery.job_id})
        finally:
            self._held.pop(delivery.key, None)
            self._changed.set()

    async def _give_back(self, delivery: Delivery, nodes: list[str], *, ack: bool = False) -> None:
        """Nodes that cannot run here now go to the front of their place, as entries of their own."""
        delay, reason = (0, "-") if delivery.releasing else self._delay(delivery, nodes)
        batches = plan_batches(
            delivery.part, delivery.topology, delivery.routes, nodes, priority=delivery.priority, inline_limit=0, graph_size=1,
            delay_ms=delay, reason=reason, front=not delay, declined=bool(delay),
        )  # fmt: skip
        if ack:
            delivery.ending = True
            item = [delivery.job_id, delivery.stream, delivery.entry, delivery.token, batches]
            await self._until_answered(lambda: self._scripts.release(delivery.part, [item]))
            return
        await self._write(delivery.part, delivery.report([("send", batch) for batch in batches]))

    async def _until_answered(self, call: Callable[[], Awaitable[Any]]) -> None:
        """Asks again while the server is away; the drain, which waits for the answer, has an end."""
        while True:
            try:
                await call()
                return
            except Exception as error:
                if not _is_transient(error):
                    raise
                await asyncio.sleep(0.1)

    def _delay(self, delivery: Delivery, nodes: list[str]) -> tuple[int, str]:
        known = all(delivery.topology.nodes[node].task in self.registry for node in nodes)
        return (0, "-") if known else (NO_TASK_DELAY_MS, "worker")

    async def _run(self, delivery: Delivery, node_id: str) -> list[str]:
        """One started node: run, commit, and answer with what this delivery goes on with."""
        kind = self._kind(delivery, node_id)
        pause_after = None if kind == "light" else self._pause_after(delivery, node_id)
        running = NodeExecution(delivery, node_id, kind == "light", self._mark, self._to_tell.set, pause_after)
        self._running[*delivery.key, node_id] = running
        if delivery.releasing or delivery.lost:  # started by a report that was on its way when the rest was cancelled
            running.cancel.cancel()
        begun = time.monotonic()
        try:
            outcome = await self._outcome(delivery, running)
        finally:
            self._running.pop((*delivery.key, node_id), None)
            self._dirty.pop(running, None)
            if running.room_in is not None:
                self._taker.prefer_partition(running.room_in)
            self._free[kind] += 1
            self._changed.set()
        if outcome is not None:
            status = "preempted" if _made_room(running, outcome) else outcome.status
            if outcome.error is not None:
                where = {"job": delivery.job_id, "node": node_id, "attempt": delivery.attempts[node_id]}
                log.info("a node failed: %s", outcome.error.code, extra=where)
            if outcome.began:
                seconds = time.monotonic() - begun - running.waited_seconds
                self._observe(delivery.topology.nodes[node_id].task, status, seconds)
        if delivery.lost or outcome is None:
            return []
        if delivery.releasing and outcome.status == "cancelled":
            if delivery.routes[node_id].idempotent or not outcome.began:
                if steps := await self._reporter.last_steps(delivery, running):
                    await self._write(delivery.part, delivery.report(steps))
                return []
            outcome = _failed("worker_lost", "its worker was stopped while it ran, and its task must not run twice")
        if status == "preempted":
            await self._hand_on(running, "it made room for a node of higher priority", code="preempted")
            return []
        return await self._reporter.commit(delivery, running, outcome)

    async def _outcome(self, delivery: Delivery, running: NodeExecution) -> NodeOutcome | None:
        """None when the node was not run: given back, or no longer wanted."""
        node = delivery.topology.nodes[running.node_id]
        alone = delivery.redeliveries[node.id] > 0
        if not (alone or self._solo.locked() or node.task in self._limits):
            return await self._execute(delivery, running, node)
        async with self._turn(running, alone=alone):
            if node.id in delivery.quarantined and not await self._start(delivery, running):
                return None
            return await self._execute(delivery, running, node)

    async def _execute(self, delivery: Delivery, running: NodeExecution, node: Node) -> NodeOutcome | None:
        if node.task not in self.registry:
            await self._no_task(running)
            return None
        if delivery.redeliveries[node.id] > 0 and not delivery.routes[node.id].idempotent:
            return _failed("worker_lost", "its worker was lost while it ran, and its task must not run twice")
        try:
            params = self._input(delivery, running.node_id)
        except (ReferenceNotFound, InputTooLarge) as error:
            return _failed(error.code, str(error))
        run = NodeRun(
            job_id=delivery.job_id,
            node_id=node.id,
            task=node.task,
            attempt=delivery.attempts[node.id],
            nonce=delivery.claim.nonce.replace(".", "-"),
            params=params,
            timeout_seconds=self._timeout(delivery, node.id),
            delivery_count=delivery.redeliveries[node.id],
            owner=delivery.topology.graph.metadata.get(OWNER, ""),
        )
        self._at_work["light" if running.light else "heavy"] += 1
        try:
            if self._tracing is None:
                outcome = await self._run_node(run, running, running.cancel)
            else:
                with self._tracing.node(delivery.claim.traceparent, run, self.plane, self.worker_id) as span:
                    outcome = await self._run_node(run, running, running.cancel)
                    span.ended(outcome)
        except Exception as error:
            log.exception(
                "running %s failed in the worker itself", node.task, extra={"job": delivery.job_id, "node": node.id}
            )
            return _failed("internal_error", f"{type(error).__name__}: {error}")
        finally:
            self._at_work["light" if running.light else "heavy"] -= 1
            self._changed.set()
        if outcome.began or delivery.releasing or delivery.lost:
            return outcome
        if outcome.elsewhere:
            await self._hand_on(running, outcome.elsewhere, code="memory", declined=True)
            return None
        if running.given_up:
            await self._hand_on(
                running,
                "its worker had no memory for it yet, and gave its slot away",
                code="worker",
                front=self._stopping.is_set(),
            )
            return None
        return outcome

    async def _start(self, delivery: Delivery, running: NodeExecution) -> bool:
        """Starts a suspect whose turn has come; false when it is no longer ours to start."""
        if running.cancel.cancelled:
            return False
        reply = await self._write(delivery.part, delivery.report([("start", running.node_id, self.worker_id)]))
        if reply.word == "ok" and reply.words[0] in ("ok", "already"):
            delivery.quarantined.discard(running.node_id)
            return True
        delivery.lost = reply.word != "ok"
        delivery.open.discard(running.node_id)
        return False

    @asynccontextmanager
    async def _turn(self, running: NodeExecution, *, alone: bool) -> AsyncIterator[None]:
        """Waits until the task's own concurrency allows, and for what shares this process until it may run.

        A node whose owner died with it runs with no other light node beside it, so that it can only take itself down.
        """
        limit = self._limits.get(running.delivery.topology.nodes[running.node_id].task)
        async with limit or nullcontext():
            if not running.light:
                yield
                return
            async with self._solo if alone else nullcontext():
                while (self._at_work["light"] and alone) or (self._solo.locked() and not alone):
                    self._changed.clear()
                    await self._changed.wait()
                yield

    def _input(self, delivery: Delivery, node_id: str) -> dict[str, Any]:
        task = self.registry[delivery.topology.nodes[node_id].task]
        fields = task.capability.io.input.get("properties", {}).keys()
        return graphs.node_input(
            delivery.topology, node_id, delivery.outputs(node_id), fields, self.settings.jobs.node_input_bytes
        )

    def _timeout(self, delivery: Delivery, node_id: str) -> float:
        node = delivery.topology.nodes[node_id]
        within = self.registry[node.task].capability.runtime.timeout_seconds
        asked = node.timeout_seconds
        return min(asked, within) if isinstance(asked, int | float) else within

    async def _no_task(self, running: NodeExecution) -> None:
        """A task that this worker does not know waits for one that does: it goes back, with a delay."""
        task = running.delivery.topology.nodes[running.node_id].task
        where = {"job": running.delivery.job_id, "node": running.node_id}
        log.warning("no task %r here; its node waits for another worker", task, extra=where)
        await self._hand_on(running, f"waiting for a worker that knows {task}", code="worker", declined=True)

    async def _hand_on(
        self, running: NodeExecution, message: str, *, code: str, declined: bool = False, front: bool = False
    ) -> None:
        """A node that is not to run here goes back to its place, as the same attempt; what was declined with a delay, of which `code` is the reason."""
        delivery, node_id = running.delivery, running.node_id
        delay_ms, reason = (NO_TASK_DELAY_MS, code) if declined else (0, "-")
        batches = self._plan(delivery, [node_id], delay_ms=delay_ms, reason=reason, declined=declined, front=front)
        waits = NodeError(code=code, message=message, details={})
        text = msgspec.json.encode(waits).decode()
        attempt = delivery.attempts[node_id]
        step = ("again", node_id, attempt, attempt, text, batches[0])
        delivery.open.discard(node_id)
        steps = await self._reporter.last_steps(delivery, running)
        if steps is not None:
            await self._write(delivery.part, delivery.report([*steps, step]))

    def _plan(
        self,
        delivery: Delivery,
        nodes: list[str],
        *,
        delay_ms: int = 0,
        reason: str = "-",
        declined: bool = False,
        front: bool = False,
    ) -> list[Any]:
        return plan_batches(
            delivery.part,
            delivery.topology,
            delivery.routes,
            nodes,
            priority=delivery.priority,
            inline_limit=self._jobs.inline_limit,
            graph_size=len(delivery.claim.graph),
            delay_ms=delay_ms,
            reason=reason,
            declined=declined,
            front=front,
        )

    def _reserve(self, delivery: Delivery, node: str) -> bool:
        """Takes the capacity that a node needs, if it can start here now."""
        topology_node = delivery.topology.nodes[node]
        at_home = topology_node.plane == self.plane and delivery.routes[node].pool == self.pool
        kind = self._kind(delivery, node)
        if not at_home or self._stopping.is_set() or topology_node.task not in self.registry or self._free[kind] <= 0:
            return False
        self._free[kind] -= 1
        return True

    def _unreserve(self, delivery: Delivery, node: str) -> None:
        self._free[self._kind(delivery, node)] += 1
        self._changed.set()

    def _pause_after(self, delivery: Delivery, node: str) -> float | None:
        task = self.registry.get(delivery.topology.nodes[node].task)
        after_ms = self.settings.worker.preempt_after_ms
        return after_ms / 1000 if task is not None and task.resumable and after_ms >= 0 else None

    def _kind(self, delivery: Delivery, node: str) -> str:
        return "light" if delivery.routes[node].light or not self._slots else "heavy"

    # Background -----------------------------------------------------------------------------------------------------

    def _write(self, part: Partition, report: Report) -> "asyncio.Future[Reply]":
        return self._writers[part.number].put(report)

    def _mark(self, running: NodeExecution) -> None:
        self._dirty[running] = None
        self._said.set()

    async def _flushes(self) -> None:
        """Writes what running nodes have said, all of a tick in one call."""
        while True:
            await self._said.wait()
            self._said.clear()
            dirty, self._dirty = self._dirty, {}
            pending = []
            for running in dirty:
                steps = running.steps()
                if steps and not running.delivery.lost:
                    report = running.delivery.report(steps)
                    pending.append((running.delivery, self._write(running.delivery.part, report)))
                if running.outbox and not running.delivery.lost:
                    self._mark(running)  # what it may not emit yet is looked at again with the next tick
            for delivery, future in pending:
                if (await future).word != "ok":
                    self._lose(delivery)
            await asyncio.sleep(FLUSH_SECONDS)

    def _on_renewal(self, key: tuple[str, str], word: str) -> None:
        delivery = self._held.get(key)
        if delivery is None or delivery.ending:  # a claim that was given up is no lost one
            return
        if word == "lost":
            log.warning("the lease of an entry is lost", extra={"job": delivery.job_id})
            self._lose(delivery)
        else:
            self._cancel(lambda other: other is delivery)

    def _lose(self, delivery: Delivery) -> None:
        """Another worker has this delivery: whatever still runs here ends without a word."""
        if not delivery.lost:
            metrics.lease_losses_total.inc()
        delivery.lost = True
        self._cancel(lambda other: other is delivery)

    def _cancel(self, chosen: Callable[[Delivery], bool]) -> None:
        for running in list(self._running.values()):
            if chosen(running.delivery):
                running.cancel.cancel()

    def _finish(self, job_id: str, node_id: str) -> None:
        for running in list(self._running.values()):
            if (running.delivery.job_id, running.node_id) == (job_id, node_id):
                running.cancel.wish("finish")

    async def _listens(self) -> None:
        """Hears cancels at once; what is missed here the next renewal tells. `job node` asks a node to end early, and is not repeated."""
        while True:
            client = listener(self._url)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as pubsub:
                    await pubsub.subscribe(keys.CANCEL_CHANNEL)
                    while True:
                        message = await pubsub.get_message(timeout=10)
                        if message is not None and message["type"] == "message":
                            job_id, _, node_id = message["data"].decode(errors="replace").partition(" ")
                            if node_id:
                                self._finish(job_id, node_id)
                            else:
                                self._cancel(lambda delivery, job_id=job_id: delivery.job_id == job_id)  # type: ignore[misc]
            except Exception as error:
                if not _is_transient(error):
                    raise
                await asyncio.sleep(0.5)
            finally:
                await client.aclose()

    async def _announces(self) -> None:
        while True:
            try:
                await self._jobs.workers.announce(self._info(), [task.capability for task in self.registry.values()])
                self.ready = True
            except Exception as error:
                if not _is_transient(error):
                    raise
                self._trouble = f"Redis: {error}"
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._to_tell.wait()
                    await asyncio.sleep(TELL_SECONDS)
            self._to_tell.clear()

    def _info(self) -> WorkerInfo:
        running = [
            RunningNode(
                job_id=one.delivery.job_id,
                node_id=one.node_id,
                task=one.delivery.topology.nodes[one.node_id].task,
                started_at=rfc3339(one.started_ms),
                waiting_for=one.waiting_for or msgspec.UNSET,
            )
            for one in self._running.values()
        ]
        return WorkerInfo(
            worker_id=self.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            plane=Plane(self.plane),
            pool=self.pool,
            slots=self._slots or self._light,
            running=running,
            device=self._device,
            memory=[
                MemoryInfo(device=device, used_bytes=used, total_bytes=total)
                for device, (used, total) in self.memory.items()
            ],
            metrics_url=self._metrics_url,
            started_at=self._started_at,
            last_seen=rfc3339(int(time.time() * 1000)),
            version=VERSION,
            protocol=keys.PROTOCOL,
            tasks=sorted(self.registry),
            devices=self._devices,
        )

    async def _reclaims(self) -> None:
        """Watches the leases of the other workers of this place."""
        reclaimer = Reclaimer(self._jobs, self.worker_id, self._write)
        while True:
            await asyncio.sleep(self.settings.jobs.lease_ms / 3000)
            try:
                for part in self._scripts.partitions:
                    await reclaimer.look(part, part.streams(self.plane, self.pool))
            except Exception as error:
                if not _is_transient(error):
                    raise
                reclaimer.forget()

    async def _makes_room(self) -> None:
        """Lets nodes of lower priority pause where those of higher priority find no place."""
        while self._slots and not self._stopping.is_set():
            await asyncio.sleep(min(PREEMPTION_SECONDS, self.settings.jobs.lease_ms / 3000))
            try:
                if self._free["heavy"] <= 0:
                    await preempt(self._scripts, self.plane, self.pool, list(self._running.values()))
            except Exception as error:
                if not _is_transient(error):
                    raise

    # Stop -----------------------------------------------------------------------------------------------------------

    async def _drain(self) -> None:
        """Lets running nodes end within the grace period, then cancels them and gives them back; nodes that only wait go at once.

        A server that does not answer then is not waited for: no task runs here any more, so the leases may end.
        """
        deadline = time.monotonic() + self.settings.jobs.drain_seconds
        while self._held and time.monotonic() < deadline:
            for running in self._running.values():
                running.give_up_waiting()
            await self._wait_for_change(0.1)
        for delivery in self._held.values():
            delivery.releasing = True
        self._cancel(lambda _: True)
        while any(self._at_work.values()):
            await self._wait_for_change(0.1)
        with suppress(*CONNECTION_ERRORS, redis.RedisError, TimeoutError):
            async with asyncio.timeout(GIVE_BACK_SECONDS):
                while self._held:
                    await self._wait_for_change(0.1)
                self._free = {"light": 0, "heavy": 0}
                lost = await self._taker.recover(0, 0)
                for delivery in lost:
                    delivery.releasing = True  # none of it has begun here
                self._accept(lost)
                while self._held:
                    await self._wait_for_change(0.1)
                await self._taker.forget_consumer()
        for delivery in self._held.values():
            if delivery.handling is not None:
                delivery.handling.cancel()


def _is_transient(error: Exception) -> bool:
    """Whether the server is away or busy for now, rather than asked something wrong."""
    if isinstance(error, (*CONNECTION_ERRORS, ServerUnavailable)):
        return True
    return isinstance(error, redis.ResponseError) and is_transient(error)


def _made_room(running: NodeExecution, outcome: NodeOutcome) -> bool:
    """Whether a run has ended because it was asked to pause; one that could not keep its checkpoint goes on from the one before."""
    stopped = outcome.status == "cancelled" or (outcome.error is not None and outcome.error.code in STORE_TROUBLE)
    return stopped and outcome.began and "pause" in running.cancel.wishes and not running.cancel.cancelled


def _failed(code: str, message: str) -> NodeOutcome:
    return NodeOutcome(
        status="failed",
        output=None,
        error=NodeError(code=code, message=message, details={}),
        retryable=False,
        artifacts=[],
    )
