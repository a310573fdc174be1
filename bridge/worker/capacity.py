"""The capacity of a worker: free places by kind, each task's own concurrency, and the turn of a node that runs alone.

`changed` is set whenever a place, a lock or a delivery is released; code that needs one of them waits for it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress

from prometheus_client.metrics_core import GaugeMetricFamily, Metric

from dihedral.bridge.fabric.deliveries import Delivery
from dihedral.bridge.tasks.registry import Registry


class Capacity:
    """The places of a worker: `slots` heavy and `light` light nodes may run at once; without slots every node counts as light."""

    __slots__ = (
        "_free",
        "_has_device",
        "_light",
        "_limits",
        "_plane",
        "_pool",
        "_registry",
        "_solo",
        "at_work",
        "changed",
        "closed",
        "paused",
        "slots",
    )

    def __init__(
        self, registry: Registry, plane: str, pool: str, *, slots: int, light: int, has_device: bool = False
    ) -> None:
        self.slots = slots
        self.closed = False
        """True once the worker stops: it starts no more nodes, and requeues those that it was given."""
        self.paused = False
        """True while its pool is paused or it is drained: it starts no more nodes, and what runs goes on."""
        self.at_work = {"light": 0, "heavy": 0}  # nodes in their task
        self.changed = asyncio.Event()
        self._registry = registry
        self._plane = plane
        self._pool = pool
        self._light = light
        self._has_device = has_device
        self._free = {"light": light, "heavy": slots}
        self._solo = asyncio.Lock()
        self._limits: dict[str, asyncio.Semaphore] = {
            task.capability.id: asyncio.Semaphore(task.capability.runtime.concurrency)
            for task in registry.values()
            if task.capability.runtime.concurrency > 0
        }

    # Places ---------------------------------------------------------------------------------------------------------

    def kind(self, delivery: Delivery, node: str) -> str:
        return "light" if delivery.routes[node].light or not self.slots else "heavy"

    def free(self) -> tuple[int, int]:
        """Returns how many more light and heavy nodes can start; none while paused; negative when more were handed over than could start."""
        return (0, 0) if self.paused else (self._free["light"], self._free["heavy"])

    def occupy(self, delivery: Delivery, node: str) -> None:
        self._free[self.kind(delivery, node)] -= 1

    def vacate(self, delivery: Delivery, node: str) -> None:
        self._free[self.kind(delivery, node)] += 1
        self.changed.set()

    def reserve(self, delivery: Delivery, node: str) -> bool:
        """Takes the place that a node needs, if it can start here now."""
        topology_node = delivery.topology.nodes[node]
        placed = delivery.routes[node]
        at_home = topology_node.plane == self._plane and placed.pool == self._pool
        if placed.lane and not self._has_device:
            return False  # a worker with a device may live: take.lua decides
        if not at_home or self.closed or self.paused or topology_node.task not in self._registry:
            return False
        if self._free[self.kind(delivery, node)] <= 0:
            return False
        self.occupy(delivery, node)
        return True

    def withdraw(self) -> None:
        """Leaves no place free."""
        self._free = {"light": 0, "heavy": 0}

    async def wait_for_change(self, seconds: float) -> None:
        self.changed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):  # wait_for loses a cancel that comes together with the event (seen)
                await self.changed.wait()

    # Turns ----------------------------------------------------------------------------------------------------------

    @property
    def solo(self) -> bool:
        """Returns whether a node runs alone now, so that no light node may start."""
        return self._solo.locked()

    def is_limited(self, task: str) -> bool:
        return task in self._limits

    @asynccontextmanager
    async def turn(self, task: str, *, light: bool, alone: bool) -> AsyncIterator[None]:
        """Waits until the task's own concurrency allows the node, and until the nodes that share this process allow it.

        A node whose owner died with it runs with no other light node beside it, so that it can only take itself down.
        """
        async with self._limits.get(task) or nullcontext():
            if not light:
                yield
                return
            async with self._solo if alone else nullcontext():
                while (self.at_work["light"] and alone) or (self._solo.locked() and not alone):
                    self.changed.clear()
                    await self.changed.wait()
                yield

    # Metrics --------------------------------------------------------------------------------------------------------

    def measured(self, waiting: int) -> list[Metric]:
        """Returns the number of nodes that run here now; `waiting`: heavy nodes that wait for memory of a device."""
        at_work = self.at_work | {"heavy": self.at_work["heavy"] - waiting}
        active = GaugeMetricFamily("worker_active_tasks", "Nodes that run in this process now", sum(at_work.values()))
        there = GaugeMetricFamily(
            "dihedral_worker_slots", "Nodes that may run at once", labels=["plane", "pool", "kind"]
        )
        busy = GaugeMetricFamily("dihedral_worker_slots_busy", "Nodes in their task", labels=["plane", "pool", "kind"])
        for kind, limit in (("light", self._light), ("heavy", self.slots)):
            there.add_metric([self._plane, self._pool, kind], limit)
            busy.add_metric([self._plane, self._pool, kind], at_work[kind])
        return [active, there, busy]
