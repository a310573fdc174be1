"""Reports what a running node emits, and commits what its end causes: outcome, skips, starts, dispatches, ack.

An outcome is written together with everything that it decides by itself. What depends on other parents is decided in further
rounds, each with the records read *after* the round before was written: of two parents that end at the same time on
two workers at least the later one sees both, and a start passes only while the node is pending, so a join fires exactly once.
The entry is acknowledged with the last round.

No task waits for a report that decides nothing which others know better: where a node's parents are all of this delivery, and what it makes ready
is light, may run twice and starts here, that starts at once, and the steps are kept for the next report (`Delivery.kept`): when a node waits,
or with the last end. A report that is refused, because another worker has the entry or the job was cancelled, stops what still runs here.
"""

import asyncio
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any

import msgspec

from dihedral.bridge import graphs
from dihedral.bridge.errors import DihedralError
from dihedral.bridge.fabric.deliveries import Delivery
from dihedral.bridge.fabric.dispatch import Manner
from dihedral.bridge.fabric.keys import Partition
from dihedral.bridge.fabric.scripts import NodeRecord, Reply, Report
from dihedral.bridge.fabric.steps import (
    Dispatch,
    End,
    EndGivenUp,
    EntrySpec,
    Event,
    Progress,
    Requeue,
    Skip,
    Start,
    Step,
)
from dihedral.bridge.pools import PRIORITIES
from dihedral.bridge.tasks.calling import failed
from dihedral.bridge.tasks.runs import EVENT_BYTES, Cancelled, Completed, EndedOutcome, Failed, RunControl
from dihedral.bridge.worker.outbox import UNNUMBERED, Outbox
from dihedral.schemas.structs.events import DataEvent, LogEvent, LogLevel
from dihedral.schemas.structs.settings import Settings

POSTED_BYTES = 1024  # FREE_BYTES of report.lua: what every node may store whatever the others have stored, so that no end is refused
KEPT_STEPS = 200
RETRY_BASE_MS = 500
RETRY_CAP_MS = 60_000


class NodeExecution:
    """One node of a delivery while it runs: its control and the events that are not written yet."""

    waiting_for = ""
    waited_seconds = 0.0
    given_up = False
    """Whether it must start in another worker."""
    room_in: Partition | None = None
    """The partition of the entry for which this node was preempted."""
    fraction = said = 0.0
    runner: asyncio.Task[Any] | None = None
    """The asyncio task that runs the node's task."""
    deadline = math.inf
    params: Mapping[str, Any] = {}
    """Once they are known."""
    _waits_since = 0.0
    _under_way: float | None = None  # the time of its first progress: work before that is repeated after a pause
    _outbox: Outbox | None = None

    def __init__(
        self,
        delivery: Delivery,
        node_id: str,
        light: bool,
        mark: Callable[["NodeExecution"], None],
        notify: Callable[[], None] = lambda: None,
        pause_after: float | None = None,
    ) -> None:
        """Makes the state of a running node. `mark`: called when it has an event to write; `notify`: called when it begins or ends to wait.

        `pause_after`: seconds after its first progress before it may be asked to pause; None: never.
        """
        self._mark = mark
        self._notify = notify
        self.delivery = delivery
        self.node_id = node_id
        self.light = light
        self.control = RunControl()
        if not light:
            self.control.rank = PRIORITIES.index(delivery.priority)
            self.control.may_pause = self.may_pause
        self._pause_after = pause_after
        self.started_ms = int(time.time() * 1000)

    @property
    def task(self) -> str:
        return self.delivery.topology.nodes[self.node_id].task

    @property
    def has_events(self) -> bool:
        """Returns whether events wait to be written."""
        return bool(self._outbox)

    @property
    def has_news(self) -> bool:
        """Returns whether events or progress wait to be written."""
        return self.fraction > self.said or bool(self._outbox)

    @property
    def outbox(self) -> Outbox:
        if self._outbox is None:
            self._outbox = Outbox(self.node_id)
        return self._outbox

    # The Emit interface of the task ---------------------------------------------------------------------------------

    def progress(self, fraction: float) -> None:
        """Keeps the highest fraction of this attempt; it is written with the next tick."""
        if self._under_way is None:
            self._under_way = time.monotonic()
        if fraction > self.fraction:
            self.fraction = min(1.0, fraction)
            self._mark(self)

    def data(self, name: str, payload: dict[str, Any]) -> None:
        self.outbox.put(DataEvent(**UNNUMBERED, node_id=self.node_id, name=name, data=payload))
        self._mark(self)

    def log(self, level: str, message: str) -> None:
        text = message.encode("utf-8", "replace").decode()
        text = text[: EVENT_BYTES // 4]
        self.outbox.put(LogEvent(**UNNUMBERED, node_id=self.node_id, level=LogLevel(level), message=text))
        self._mark(self)

    def waits(self, reason: str) -> None:
        """Publishes the reason for waiting with the heartbeat, the first time also in the job's log."""
        changes = bool(reason) != bool(self.waiting_for)
        if changes and reason:
            if not self.light:  # a light node has said for what it waits
                self.log("info", f"waits for device memory: {reason}")
            self._waits_since = time.monotonic()
        elif changes:
            self.waited_seconds += time.monotonic() - self._waits_since
        self.waiting_for = reason
        if changes:
            self._notify()

    def may_pause(self) -> bool:
        if self._pause_after is None or self._under_way is None or self.control.requests or self.control.cancelled:
            return False
        return time.monotonic() - self._under_way >= self._pause_after

    @property
    def only_waits(self) -> bool:
        return bool(self.waiting_for) and not self.light and not self.control.cancelled

    def give_up_waiting(self) -> None:
        """Keeps a node that no longer waits."""
        if self.only_waits:
            self.given_up = True
            self.control.cancel()

    def steps(self, *, last: bool = False) -> list[Step]:
        """Returns the events not yet written, in order, as many as one report may carry; progress last, as one combined value."""
        steps: list[Step] = []
        for body in self._outbox.take(last=last) if self._outbox is not None else ():
            self.delivery.event_number += 1
            steps.append(Event("data", body, self.delivery.event_number))
        if self.fraction > self.said:
            self.said = self.fraction
            share = int(self.delivery.topology.shares[self.node_id] * self.fraction)
            steps.append(Progress(self.node_id, share, f"{self.fraction:.6g}"))
        return steps


class JobOutputTooLarge(DihedralError):
    """The node's result does not fit into the limit of its job (`jobs.outputBytes`)."""


class Reporter:
    """Commits outcomes for the deliveries of one worker.

    `post(delivery, steps, ack)` writes a report and waits for no answer; `mark(delivery)` has its kept steps written soon.
    `plan(delivery, nodes, manner)` makes the entries for nodes that run in other workers; `reserve(delivery, node)` takes the capacity for
    a node that can start here at once, `unreserve` releases it.
    """

    def __init__(
        self,
        write: Callable[[Partition, Report], Awaitable[Reply]],
        post: Callable[[Delivery, list[Step], bool], None],
        mark: Callable[[Delivery], None],
        plan: Callable[..., list[EntrySpec]],
        reserve: Callable[[Delivery, str], bool],
        unreserve: Callable[[Delivery, str], None],
        worker_id: str,
        settings: Settings,
    ) -> None:
        self._write = write
        self._post = post
        self._mark = mark
        self._plan = plan
        self._reserve = reserve
        self._unreserve = unreserve
        self._worker_id = worker_id
        self._output_bytes = settings.jobs.node_output_bytes
        self._job_bytes = settings.jobs.output_bytes

    async def commit(self, delivery: Delivery, running: NodeExecution, outcome: EndedOutcome) -> list[str]:
        """Writes an outcome and all that it decides; returns the nodes that this delivery has started to continue with."""
        node = running.node_id
        outcome = self._checked(running, outcome)
        try:
            steps = await self.last_steps(delivery, running) if running.has_news else []
            if steps is None:
                return []
            try:
                return await self._commit(delivery, node, steps, outcome)
            except JobOutputTooLarge:  # the steps before its end are written
                outcome = _without_output(outcome, self._job_bytes)
            try:
                return await self._commit(delivery, node, [], outcome)
            except JobOutputTooLarge:
                return await self._commit(delivery, node, [], _without_details(outcome))
        finally:
            delivery.open.discard(node)

    async def last_steps(self, delivery: Delivery, running: NodeExecution) -> list[Step] | None:
        """Returns the remaining events of an ended node, for the report of its end; those beyond one report are written before. None: the claim was lost."""
        if running.has_events:
            running.outbox.close()
        steps = running.steps(last=True)
        while running.has_events:
            if await self._send(delivery, steps, (), ack=False) is None:
                return None
            steps = running.steps(last=True)
        return steps

    async def _commit(self, delivery: Delivery, node: str, steps: list[Step], outcome: EndedOutcome) -> list[str]:
        """Keeps the node among the open ones until its last round is over, so that the entry is not acknowledged before."""
        again = self._again(delivery, node, outcome)
        if again is not None:
            await self._send(delivery, [*steps, again], (), ack=delivery.open == {node})
            return []
        end = end_step(delivery, node, outcome)
        steps.append(end)
        delivery.states[node] = (outcome.status, "")
        posts = self._may_post(delivery, node) and _fits(end.payload, end.artifacts)
        if delivery.topology.outgoing[node]:
            delivery.records[node] = _record(outcome)
            return await self._resolve(delivery, node, steps, _children(delivery, [node]), posts)
        if posts:
            self._keep(delivery, node, steps)
        else:
            await self._send(delivery, steps, (), ack=delivery.open == {node})
        return []

    def _keep(self, delivery: Delivery, ended: str, steps: list[Step]) -> None:
        """Keeps the steps of an end for the next report; of the last end they are that report."""
        if delivery.open == {ended}:
            self._post(delivery, steps, True)
        elif len(delivery.kept) + len(steps) > KEPT_STEPS:
            self._post(delivery, steps, False)
        else:
            delivery.kept += steps
            self._mark(delivery)

    async def _resolve(
        self, delivery: Delivery, ended: str, steps: list[Step], candidates: list[str], posts: bool
    ) -> list[str]:
        """Decides what an end makes ready or skips. `posts`: the report of the end may be sent later, if nothing has to be read."""
        goes_on: list[str] = []
        while True:
            found = graphs.resolve(delivery.topology, delivery.states, candidates)
            # Two parents that end at once in this delivery both find their child ready; the first has started it.
            ready = [node for node in found.ready if node not in delivery.attempts]
            here = [node for node in ready if self._reserve(delivery, node)]
            away = [node for node in ready if node not in here]
            unknown = [node for node in found.unknown if node not in delivery.open]
            first_start = len(steps)
            steps += [Start(node, self._worker_id) for node in here]
            steps += [Skip(node, reason, delivery.topology.shares[node]) for node, reason in found.skipped]
            if away:
                steps += [Dispatch(batch) for batch in self._plan(delivery, away)]
            reads = dict.fromkeys(unknown)
            for node in here:
                reads.update(
                    (source, None) for source in delivery.topology.sources(node) if source not in delivery.records
                )
            for node in here:
                delivery.begin(node, 1, 0)
            if posts and not (reads or away) and all(self._may_post(delivery, node) for node in here):
                delivery.states.update({node: ("skipped", reason) for node, reason in found.skipped})
                self._keep(delivery, ended, steps)
                return here
            posts = False
            last = not reads and delivery.open == {ended}
            try:
                reply = await self._send(delivery, steps, reads, ack=last)
            except JobOutputTooLarge:
                for node in here:
                    delivery.withdraw(node)
                    self._unreserve(delivery, node)
                raise
            if reply is None:
                for node in here:
                    self._unreserve(delivery, node)
                return []
            for other, raw in reply.records:
                delivery.learn(other, raw)
            for node, word in zip(here, reply.words[first_start:], strict=False):
                if word in ("ok", "already"):
                    goes_on.append(node)
                else:
                    delivery.open.discard(node)
                    self._unreserve(delivery, node)
            delivery.states.update({node: ("skipped", reason) for node, reason in found.skipped})
            skipped = [node for node, _ in found.skipped]
            decided = {*found.ready, *skipped}
            candidates = [
                node for node in dict.fromkeys([*candidates, *_children(delivery, skipped)]) if node not in decided
            ]
            if not candidates or not any(parent in delivery.states for parent in unknown):
                return goes_on
            steps = []

    async def _send(self, delivery: Delivery, steps: list[Step], reads: Iterable[str], *, ack: bool) -> Reply | None:
        """Writes a report; returns None when the claim was lost.

        Raises:
            JobOutputTooLarge: the end of the node and all later steps are not written.
        """
        kept = len(delivery.kept)
        reply = await self._write(delivery.part, delivery.report(steps, reads, ack=ack))
        if reply.word != "ok":
            delivery.move("lost")
            return None
        if kept:
            reply = msgspec.structs.replace(reply, words=reply.words[kept:])
        if "too_large" in reply.words:
            if delivery.ending:
                delivery.move("held")
            raise JobOutputTooLarge
        return reply

    def _may_post(self, delivery: Delivery, node: str) -> bool:
        route = delivery.routes[node]
        return route.light and route.idempotent and delivery.certain

    def _again(self, delivery: Delivery, node: str, outcome: EndedOutcome) -> Step | None:
        """Builds the step that requeues a retryable failure with full jitter, while attempts are left and the job is not cancelled."""
        if not isinstance(outcome, Failed) or not outcome.retryable:
            return None
        attempt = delivery.attempts[node]
        if attempt >= delivery.topology.nodes[node].retries.max_attempts:
            return None
        delay = random.randint(0, min(RETRY_CAP_MS, RETRY_BASE_MS * 2**attempt))
        batch = self._plan(delivery, [node], Manner(delay_ms=max(1, delay), reason="retry"))[0]
        return Requeue(node, attempt, attempt + 1, msgspec.json.encode(outcome.error).decode(), batch)

    def _checked(self, running: NodeExecution, outcome: EndedOutcome) -> EndedOutcome:
        """Turns an outcome that must not be stored into a failure: an output too large, a cancel without a request."""
        if isinstance(outcome, Completed) and len(outcome.output) > self._output_bytes:
            message = f"the output has {len(outcome.output)} bytes, jobs.nodeOutputBytes allows {self._output_bytes}"
            return _failure(outcome, "output_too_large", message)
        if outcome.status == "cancelled" and not running.control.cancelled:
            return _failure(outcome, "cancelled_itself", "the task ended as cancelled without a request to cancel it")
        return outcome


def _failure(outcome: EndedOutcome, code: str, message: str) -> Failed:
    return failed(code, message, artifacts=outcome.artifacts)


def _without_output(outcome: EndedOutcome, limit: int) -> EndedOutcome:
    if not isinstance(outcome, Completed):
        return _without_details(outcome)
    message = f"the outputs of this job would exceed {limit} bytes (jobs.outputBytes); store artifacts instead"
    return _failure(outcome, "job_output_too_large", message)


def _without_details(outcome: EndedOutcome) -> EndedOutcome:
    """Returns an outcome that always fits (FREE_BYTES in report.lua), without traceback and artifacts; the artifacts stay in the store."""
    if isinstance(outcome, Cancelled):
        return Cancelled()
    left_out = {"detailsLeftOut": "the outputs of this job have reached their limit"}
    if isinstance(outcome, Completed):
        return failed("job_output_too_large", "its artifacts would not fit", left_out)
    return failed(outcome.error.code[:64], outcome.error.message[:150], left_out)


def _fits(payload: str, artifacts: str) -> bool:
    """Returns whether both have no more than POSTED_BYTES together; nothing longer is encoded for that."""
    if len(payload) + len(artifacts) > POSTED_BYTES:
        return False
    return (payload.isascii() and artifacts.isascii()) or len(payload.encode()) + len(
        artifacts.encode()
    ) <= POSTED_BYTES


def end_step(delivery: Delivery, node: str, outcome: EndedOutcome) -> End:
    share = delivery.topology.shares[node] if isinstance(outcome, Completed) else -1
    failure = msgspec.json.encode(outcome.error).decode() if isinstance(outcome, Failed) else ""
    artifacts = msgspec.json.encode(outcome.artifacts).decode() if outcome.artifacts else ""
    ended = (
        node, delivery.attempts[node], outcome.status, "", _payload(outcome), share, delivery.topology.handled(node), failure, artifacts,
    )  # fmt: skip
    if isinstance(outcome, Failed) and outcome.error.code == "worker_lost":
        return EndGivenUp(*ended, why=outcome.error.message)
    return End(*ended)


def _payload(outcome: EndedOutcome) -> str:
    if isinstance(outcome, Completed):
        return f'{{"output":{outcome.output.decode()}}}'
    return f'{{"error":{msgspec.json.encode(outcome.error).decode()}}}' if isinstance(outcome, Failed) else ""


def _record(outcome: EndedOutcome) -> NodeRecord:
    return NodeRecord(outcome.status, "", 0, 0, None, None, "", "", 0, _payload(outcome))


def _children(delivery: Delivery, nodes: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(edge.to for node in nodes for edge in delivery.topology.outgoing.get(node, ())))
