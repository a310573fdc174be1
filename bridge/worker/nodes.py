"""One node, from its start to its report: turn, input, run, outcome; and the events that running nodes emit meanwhile.

A node that this worker does not run after all (no such task, no memory for it, a drain) goes back to its place as the same attempt.

Large because the path of one node, from its turn to its report, is read in one piece.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec

from dihedral.bridge import graphs, metrics
from dihedral.bridge.artifacts.owned import OWNER
from dihedral.bridge.artifacts.provenance import GRAPH_BYTES, REQUEST
from dihedral.bridge.errors import InputTooLarge, ReferenceNotFound
from dihedral.bridge.fabric.deliveries import Delivery
from dihedral.bridge.fabric.dispatch import AT_ONCE, Manner, plan_batches
from dihedral.bridge.fabric.durations import CPU, DurationNotes
from dihedral.bridge.fabric.keys import PREFERS_DEVICE, Partition
from dihedral.bridge.fabric.scripts import Reply, Report
from dihedral.bridge.fabric.steps import EntrySpec, Requeue, Start, Step
from dihedral.bridge.tasks.calling import failed
from dihedral.bridge.tasks.registry import Registry
from dihedral.bridge.tasks.runs import (
    Cancelled,
    Completed,
    Declined,
    Emit,
    Failed,
    NodeRun,
    Outcome,
    Preempted,
    RunControl,
)
from dihedral.bridge.tracing import Tracing
from dihedral.bridge.worker.capacity import Capacity
from dihedral.bridge.worker.reporting import NodeExecution, Reporter
from dihedral.schemas.structs.graph import Node, NodeError
from dihedral.schemas.structs.settings import Settings

log = logging.getLogger(__name__)

RunNode = Callable[[NodeRun, Emit, RunControl], Awaitable[Outcome]]

NO_TASK_DELAY_MS = 2000
FLUSH_SECONDS = 0.02
NOTHING: dict[str, Any] = {}


class Nodes:
    """The nodes that run in one worker.

    `write(part, report)` commits a report; `post(part, report, on_reply)` does without waiting; `ended(delivery)` is called when a delivery has
    ended whose last report was posted; `hasten()` sends the next heartbeat soon; `prefer(part)` lets the next take read that partition first, for
    whose entry a node was preempted; `device_elsewhere(task, larger)`: whether another worker of the pool has a device for the task, a larger one
    than this worker's where that is asked; `device`: the name under which durations of kind gpu are noted.
    """

    __slots__ = (
        "_capacity", "_device", "_device_elsewhere", "_dirty", "_durations", "_emitted", "_ended", "_hasten", "_plane", "_post", "_prefer", "_registry", "_reporter",
        "_run_node", "_running", "_settings", "_tracing", "_unwritten", "_worker_id", "_write", "observe",
    )  # fmt: skip

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        run_node: RunNode,
        capacity: Capacity,
        write: Callable[[Partition, Report], Awaitable[Reply]],
        *,
        plane: str,
        worker_id: str,
        post: Callable[[Partition, Report, Callable[[Reply], None]], None],
        ended: Callable[[Delivery], None],
        hasten: Callable[[], None],
        prefer: Callable[[Partition], None],
        device_elsewhere: Callable[[str, bool], Awaitable[bool]],
        durations: DurationNotes,
        device: str,
        tracing: Tracing | None = None,
    ) -> None:
        self.observe = metrics.node_observer(registry)
        self._settings = settings
        self._registry = registry
        self._run_node = run_node
        self._capacity = capacity
        self._write = write
        self._plane = plane
        self._worker_id = worker_id
        self._hasten = hasten
        self._prefer = prefer
        self._device_elsewhere = device_elsewhere
        self._durations = durations
        self._device = device
        self._tracing = tracing
        self._post = post
        self._ended = ended
        self._reporter = Reporter(
            write, self._post_report, self.mark, self.entries, capacity.reserve, capacity.vacate, worker_id, settings
        )
        self._unwritten: dict[Delivery, None] = {}
        self._running: dict[tuple[str, str, str], NodeExecution] = {}
        self._dirty: dict[NodeExecution, None] = {}
        self._emitted = asyncio.Event()

    @property
    def running(self) -> Collection[NodeExecution]:
        return self._running.values()

    # Run ------------------------------------------------------------------------------------------------------------

    async def run(self, delivery: Delivery, node_id: str) -> list[str]:
        """Runs one started node, commits its outcome, and returns the nodes with which this delivery continues."""
        kind = self._capacity.kind(delivery, node_id)
        pause_after = None if kind == "light" else self._pause_after(delivery, node_id)
        running = NodeExecution(delivery, node_id, kind == "light", self._mark, self._hasten, pause_after)
        key = delivery.stream, delivery.entry, node_id
        self._running[key] = running
        node = delivery.topology.nodes[node_id]
        turn = delivery.redeliveries[node_id] > 0 or self._capacity.solo or self._capacity.is_limited(node.task)
        if delivery.releasing or delivery.lost:  # started by a report that was on its way when the rest was cancelled
            running.control.cancel()
        begun = time.monotonic()
        try:
            outcome = await (self._in_turn if turn else self._execute)(delivery, running, node)
        finally:
            self._running.pop(key, None)
            self._dirty.pop(running, None)
            if running.room_in is not None:
                self._prefer(running.room_in)
            self._capacity.vacate(delivery, node_id)
        if outcome is not None:
            self._note(running, outcome, time.monotonic() - begun - running.waited_seconds)
        if delivery.lost or outcome is None:
            return []
        if isinstance(outcome, Completed):
            return await self._reporter.commit(delivery, running, outcome)
        if delivery.releasing and not isinstance(outcome, Failed):
            return await self._release(running, outcome)
        if isinstance(outcome, Preempted):
            await self._requeue(running, "it made room for a node of higher priority", code="preempted")
        elif isinstance(outcome, Declined):
            await self._requeue(running, outcome.reason, code=outcome.code, declined=True)
        elif isinstance(outcome, Cancelled) and running.given_up and not outcome.began:
            reason = "its worker had no memory for it yet, and gave its slot away"
            await self._requeue(running, reason, code="worker", front=self._capacity.closed)
        else:
            return await self._reporter.commit(delivery, running, outcome)
        return []

    def _note(self, running: NodeExecution, outcome: Outcome, seconds: float) -> None:
        """Logs a failure, and measures a run that has begun. `seconds`: that it took."""
        node = running.delivery.topology.nodes[running.node_id]
        if isinstance(outcome, Completed):
            self.observe(node.task, "completed", seconds)
            capability = self._registry[node.task].capability
            device = self._device if capability.runtime.kind == "gpu" else CPU
            self._durations.note(capability, running.params, seconds, device, running.delivery.routes[node.id])
            return
        if isinstance(outcome, Failed):
            where = {
                "job": running.delivery.job_id, "node": node.id, "attempt": running.delivery.attempts[node.id],
            }  # fmt: skip
            log.info("a node failed: %s", outcome.error.code, extra=where)
        if isinstance(outcome, Preempted):
            self.observe(node.task, "preempted", seconds)
        elif not isinstance(outcome, Declined) and (not isinstance(outcome, Cancelled) or outcome.began):
            self.observe(node.task, outcome.status, seconds)

    async def _release(self, running: NodeExecution, outcome: Cancelled | Declined | Preempted) -> list[str]:
        """Leaves a node that a drain has stopped to its delivery, which goes back to its place as a whole; one that must not run twice fails."""
        delivery = running.delivery
        if isinstance(outcome, Cancelled) and outcome.began and not delivery.routes[running.node_id].idempotent:
            lost = failed("worker_lost", "its worker was stopped while it ran, and its task must not run twice")
            return await self._reporter.commit(delivery, running, lost)
        if steps := await self._reporter.last_steps(delivery, running):
            await self._write(delivery.part, delivery.report(steps))
        return []

    async def _in_turn(self, delivery: Delivery, running: NodeExecution, node: Node) -> Outcome | None:
        """Runs the node when its turn comes; returns None for a suspect that this worker may no longer start."""
        async with self._capacity.turn(node.task, light=running.light, alone=delivery.redeliveries[node.id] > 0):
            if node.id in delivery.quarantined and not await self._start(delivery, running):
                return None
            return await self._execute(delivery, running, node)

    async def _execute(self, delivery: Delivery, running: NodeExecution, node: Node) -> Outcome:
        if node.task not in self._registry:
            where = {"job": delivery.job_id, "node": node.id}
            log.warning("no task %r here; its node waits for another worker", node.task, extra=where)
            return Declined(code="worker", reason=f"waiting for a worker that knows {node.task}")
        if delivery.redeliveries[node.id] > 0 and not delivery.routes[node.id].idempotent:
            return failed("worker_lost", "its worker was lost while it ran, and its task must not run twice")
        try:
            params = self._input(delivery, running.node_id)
        except (ReferenceNotFound, InputTooLarge) as error:
            return failed(error.code, str(error))
        running.params = params
        says = self._settings.artifacts.provenance
        graph = delivery.topology.graph
        run = NodeRun(
            job_id=delivery.job_id,
            node_id=node.id,
            task=node.task,
            attempt=delivery.attempts[node.id],
            nonce=delivery.claim.nonce.replace(".", "-"),
            params=params,
            timeout_seconds=self._timeout(delivery, node.id),
            delivery_count=delivery.redeliveries[node.id],
            owner=graph.metadata.get(OWNER, ""),
            request=graph.metadata.get(REQUEST, NOTHING) if says else None,
            graph=graph if says and delivery.plan.graph_bytes <= GRAPH_BYTES else None,
        )
        running.runner, running.deadline = asyncio.current_task(), time.monotonic() + run.timeout_seconds
        kind = "light" if running.light else "heavy"
        self._capacity.at_work[kind] += 1
        try:
            if self._tracing is None:
                outcome = await self._run_node(run, running, running.control)
            else:
                with self._tracing.node(delivery.claim.traceparent, run, self._plane, self._worker_id) as span:
                    outcome = await self._run_node(run, running, running.control)
                    span.ended(outcome)
        except Exception as error:
            log.exception(
                "running %s failed in the worker itself", node.task, extra={"job": delivery.job_id, "node": node.id}
            )
            return failed("internal_error", f"{type(error).__name__}: {error}")
        finally:
            self._capacity.at_work[kind] -= 1
            self._capacity.changed.set()
        return outcome

    async def _start(self, delivery: Delivery, running: NodeExecution) -> bool:
        """Starts a suspect whose turn has come; returns False when this worker may no longer start it."""
        if running.control.cancelled:
            return False
        reply = await self._write(delivery.part, delivery.report([Start(running.node_id, self._worker_id)]))
        if reply.word == "ok" and reply.words[0] in ("ok", "already"):
            delivery.quarantined.discard(running.node_id)
            return True
        if reply.word != "ok":
            delivery.move("lost")
        delivery.open.discard(running.node_id)
        return False

    def _input(self, delivery: Delivery, node_id: str) -> dict[str, Any]:
        if node_id in delivery.topology.plain:
            return dict(delivery.topology.nodes[node_id].params)
        task = self._registry[delivery.topology.nodes[node_id].task]
        fields = task.capability.io.input.get("properties", {}).keys()
        return graphs.node_input(
            delivery.topology, node_id, delivery.outputs(node_id), fields, self._settings.jobs.node_input_bytes
        )

    def _timeout(self, delivery: Delivery, node_id: str) -> float:
        node = delivery.topology.nodes[node_id]
        within = self._registry[node.task].capability.runtime.timeout_seconds
        asked = node.timeout_seconds
        return min(asked, within) if isinstance(asked, int | float) else within

    # Requeue --------------------------------------------------------------------------------------------------------

    async def _requeue(
        self, running: NodeExecution, message: str, *, code: str, declined: bool = False, front: bool = False
    ) -> None:
        """Requeues a node that must not run here, as the same attempt; a declined node with a delay, whose reason is `code`."""
        delivery, node_id = running.delivery, running.node_id
        delay_ms, reason = (NO_TASK_DELAY_MS, code) if declined else (0, "-")
        task = delivery.topology.nodes[node_id].task
        preferred = declined and delivery.routes[node_id].lane == PREFERS_DEVICE
        anywhere = preferred and not await self._device_elsewhere(task, code == "memory")
        manner = Manner(delay_ms=delay_ms, reason=reason, declined=declined, front=front, anywhere=anywhere)
        batches = self.entries(delivery, [node_id], manner)
        waits = NodeError(code=code, message=message, details={})
        text = msgspec.json.encode(waits).decode()
        attempt = delivery.attempts[node_id]
        step = Requeue(node_id, attempt, attempt, text, batches[0])
        delivery.open.discard(node_id)
        steps = await self._reporter.last_steps(delivery, running)
        if steps is not None:
            await self._write(delivery.part, delivery.report([*steps, step]))

    def entries(self, delivery: Delivery, nodes: list[str], manner: Manner = AT_ONCE) -> list[EntrySpec]:
        limit = self._settings.jobs.inline_graph_bytes
        return plan_batches(
            delivery.part, delivery.plan, nodes, priority=delivery.priority, inline_limit=limit, manner=manner
        )

    def _pause_after(self, delivery: Delivery, node: str) -> float | None:
        task = self._registry.get(delivery.topology.nodes[node].task)
        after_ms = self._settings.worker.preempt_after_ms
        return after_ms / 1000 if task is not None and task.resumable and after_ms >= 0 else None

    # Emit and cancel ------------------------------------------------------------------------------------------------

    def _mark(self, running: NodeExecution) -> None:
        self._dirty[running] = None
        self._emitted.set()

    def mark(self, delivery: Delivery) -> None:
        """Has the report written soon that a delivery owes: one of its nodes waits, or its steps were kept."""
        self._unwritten[delivery] = None
        self._emitted.set()

    def _post_report(self, delivery: Delivery, steps: list[Step], ack: bool) -> None:
        delivery.posted = ack

        def on_reply(reply: Reply) -> None:
            if reply.word != "ok":
                delivery.move("lost")
            if reply.word != "ok" or "taken" in reply.words:  # another worker has the entry, or the job is cancelled
                self.cancel(lambda other: other is delivery)
            if ack:
                self._ended(delivery)

        self._post(delivery.part, delivery.report(steps, ack=ack), on_reply)

    async def flushes(self) -> None:
        """Writes the events of running nodes, those of one tick in one call."""
        while True:
            await self._emitted.wait()
            self._emitted.clear()
            dirty, self._dirty = self._dirty, {}
            unwritten, self._unwritten = self._unwritten, {}
            pending = []
            for running in dirty:
                steps = running.steps()
                if steps and not running.delivery.lost:
                    report = running.delivery.report(steps)
                    pending.append((running.delivery, self._write(running.delivery.part, report)))
                if running.has_events and not running.delivery.lost:
                    self._mark(running)  # events held back by the limit are tried again with the next tick
            for delivery in unwritten:
                if delivery.unwritten:
                    self._post_report(delivery, [], False)
            for delivery, future in pending:
                reply = await future
                if reply.word != "ok":
                    self.lose(delivery)
                elif "taken" in reply.words:  # a kept start came too late: the job is cancelled
                    self.cancel(lambda other, delivery=delivery: other is delivery)  # type: ignore[misc]
            await asyncio.sleep(FLUSH_SECONDS)

    def lose(self, delivery: Delivery) -> None:
        """Ends, without a report, the nodes that still run here: another worker has this delivery."""
        if not delivery.lost:
            metrics.lease_losses_total.inc()
        delivery.move("lost")
        self.cancel(lambda other: other is delivery)

    def cancel(self, chosen: Callable[[Delivery], bool]) -> None:
        for running in list(self._running.values()):
            if chosen(running.delivery):
                running.control.cancel()

    def rank(self, job_id: str, rank: int) -> None:
        """Changes the place in PRIORITIES of a job's nodes that run in slots."""
        for running in self._running.values():
            if running.delivery.job_id == job_id and not running.light:
                running.control.rank = rank

    def finish(self, job_id: str, node_id: str) -> None:
        for running in list(self._running.values()):
            if (running.delivery.job_id, running.node_id) == (job_id, node_id):
                running.control.request("finish")
