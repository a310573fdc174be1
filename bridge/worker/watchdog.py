"""A thread that notices when a task blocks the event loop, names the task, and finally ends the process.

An `async` task that computes (`while True: pass`) stops everything in its process: other nodes, its own time-out, a cancel, SIGTERM. Its
leases are renewed all the same (leases.py: from a thread), so no other worker would ever take over. What the loop can no longer do,
this thread does: it logs the stack, and past the node's time-out, a cancel and its grace, or MOST_BLOCKED_SECONDS it fails that node, gives the
others back without counting an attempt, and ends the process, which its supervisor starts again.

A process that stood still as a whole (SIGSTOP, a suspended machine) is told apart: then this thread stood still too. So is one in which a
C extension keeps the interpreter's lock, which nothing inside the process can notice.
"""

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection
from typing import Any

from dihedral.bridge.fabric.connection import connect_blocking
from dihedral.bridge.fabric.deliveries import Delivery
from dihedral.bridge.fabric.dispatch import TO_THE_FRONT, plan_batches
from dihedral.bridge.fabric.scripts import Scripts
from dihedral.bridge.tasks.runs import Failed
from dihedral.bridge.worker.reporting import NodeExecution, end_step
from dihedral.schemas.structs.graph import NodeError

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.5
BLOCKED_SECONDS = 2.0
MOST_BLOCKED_SECONDS = (
    60.0  # no step that belongs on an event loop takes so long, and all other nodes stand still meanwhile
)
EXIT_CODE = 70
STACK_CHARS = 4000


class Watchdog(threading.Thread):
    """Watches one event loop. `running()` and `held()` are called from this thread, while the event loop stands still."""

    def __init__(
        self,
        scripts: Scripts,
        url: str,
        running: Callable[[], Collection[NodeExecution]],
        held: Callable[[], Collection[Delivery]],
        grace_seconds: float,
    ) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._scripts = scripts
        self._url = url
        self._running = running
        self._held = held
        self._grace = grace_seconds
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._cancelled: dict[tuple[str, str], float] = {}
        self._over = threading.Event()
        self._beat = time.monotonic()
        self._beats()

    def _beats(self) -> None:
        self._beat = time.monotonic()
        if not self._over.is_set():
            self._loop.call_later(LOOK_SECONDS / 2, self._beats)

    def stop(self) -> None:
        self._over.set()

    def note_cancel(self, key: tuple[str, str]) -> None:
        """Records that a renewal was answered with `cancelling`; thread-safe."""
        self._cancelled.setdefault(key, time.monotonic())

    def run(self) -> None:
        looked = time.monotonic()
        named = False
        while not self._over.wait(LOOK_SECONDS):
            now = time.monotonic()
            if self._loop.is_closed():
                return
            if (
                now - looked > 4 * LOOK_SECONDS or not self._loop.is_running()
            ):  # a loop that has stopped is blocked by no task
                self._beat = now
            looked = now
            blocked = now - self._beat
            if blocked < BLOCKED_SECONDS:
                named = False
                self._cancelled.clear()
                continue
            one = self._blocker()
            if not named:
                named = True
                who = f"task {one.task} of node {one.node_id}" if one is not None else "a task"
                where = {"job": one.delivery.job_id, "node": one.node_id} if one is not None else {}
                log.error(
                    "%s blocks the event loop; everything here waits for it:\n%s", who, self._stack(), extra=where
                )
            if blocked > MOST_BLOCKED_SECONDS or (one is not None and self._is_over(one, now, blocked)):
                self._end(one, blocked)

    def _blocker(self) -> NodeExecution | None:
        current = asyncio.current_task(self._loop)
        light = [one for one in list(self._running()) if one.light]
        return next((one for one in light if one.runner is current), light[0] if len(light) == 1 else None)

    def _is_over(self, one: NodeExecution, now: float, blocked: float) -> bool:
        asked = self._cancelled.get(one.delivery.key)
        if one.control.cancelled or asked is not None:
            return (blocked if asked is None else now - asked) > self._grace
        return now > one.deadline + self._grace

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._thread)
        return "".join(traceback.format_stack(frame))[-STACK_CHARS:] if frame is not None else ""

    def _end(self, one: NodeExecution | None, blocked: float) -> None:
        log.critical("the event loop has been blocked for %.0f s: this process ends, to be started again", blocked)
        try:
            client = connect_blocking(self._url, timeout_seconds=5)
            if one is not None:
                self._fail(client, one, blocked)
            for delivery in list(self._held()):
                if one is None or delivery is not one.delivery:
                    self._give_back(client, delivery)
        except Exception:
            log.exception("what ran here could not be given back; it goes on when its leases end")
        os._exit(EXIT_CODE)

    def _fail(self, client: Any, one: NodeExecution, blocked: float) -> None:
        message = f"it blocked the event loop of its worker for {blocked:.0f} s; a task that computes is a plain function, which has a process of its own"
        error = NodeError(code="event_loop_blocked", message=message, details={"stack": self._stack()})
        step = end_step(one.delivery, one.node_id, Failed(error=error))
        self._scripts.call_blocking(client, "report", one.delivery.part, [one.delivery.report([step])])

    def _give_back(self, client: Any, delivery: Delivery) -> None:
        """Leaves to its lease what must not run twice, which fails then, and what has reports that are not written yet."""
        nodes = {*delivery.open, *delivery.claim.waiting}
        if delivery.ending or delivery.kept or not nodes or any(node in delivery.states for node in delivery.open):
            return
        if any(not delivery.routes[node].idempotent for node in delivery.open):
            return
        batches: list[Any] = []
        for node in sorted(nodes):
            batches += plan_batches(
                delivery.part, delivery.plan, [node], priority=delivery.priority, manner=TO_THE_FRONT
            )
        self._scripts.call_blocking(client, "release", delivery.part, [delivery.release(batches)])
