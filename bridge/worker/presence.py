"""Announces a worker: a heartbeat with the nodes that it runs and the tasks that it knows."""

import asyncio
import os
import socket
import time
import uuid
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.durations import DurationNotes
from dihedral.bridge.fabric.scripts import is_transient
from dihedral.bridge.fabric.workers import HEARTBEAT_SECONDS, WorkerRegistry
from dihedral.bridge.tasks.registry import Registry
from dihedral.bridge.times import rfc3339
from dihedral.bridge.version import VERSION
from dihedral.bridge.worker.reporting import NodeExecution
from dihedral.schemas.structs.graph import Plane
from dihedral.schemas.structs.worker import DeviceInfo, MemoryInfo, RunningNode, UsageSample, WaitingType, WorkerInfo

SAMPLE_SECONDS = 10.0
HASTE_SECONDS = 0.5  # a node that begins to wait is announced before the next heartbeat, several at once


class DeviceUse(NamedTuple):
    """What is in use of a device: bytes, of how many, and the share of the time in which it computed (0 to 1; None: not known)."""

    used: int
    total: int
    utilisation: float | None = None


class Presence:
    """The heartbeat of one worker. `running()`: the nodes that run now; `obey()`: reads whether the worker is paused."""

    __slots__ = (
        "_device",
        "_devices",
        "_gpu_tasks_on_cpu",
        "_metrics_url",
        "_news",
        "_obey",
        "_plane",
        "_pool",
        "_registry",
        "_running",
        "_sampled_at",
        "_slots",
        "_started_at",
        "draining",
        "durations",
        "memory",
        "ready",
        "trouble",
        "worker_id",
    )  # fmt: skip

    def __init__(
        self,
        registry: Registry,
        running: Callable[[], Collection[NodeExecution]],
        obey: Callable[[], Awaitable[None]],
        *,
        plane: str,
        pool: str,
        slots: int,
        device: str,
        devices: Sequence[DeviceInfo],
        metrics_url: str | None,
        gpu_tasks_on_cpu: bool = True,
    ) -> None:
        self.worker_id = f"{socket.gethostname()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self.ready = False
        self.draining = False
        self.durations = DurationNotes()
        self._sampled_at = float("-inf")
        self.trouble: str | None = "not connected yet"
        """The reason why this worker cannot serve now, a sentence."""
        self.memory: dict[str, DeviceUse] = {}
        """What is in use by device, announced with every heartbeat."""
        self._registry = registry
        self._running = running
        self._obey = obey
        self._plane = plane
        self._pool = pool
        self._slots = slots
        self._device = device
        self._devices = list(devices)
        self._metrics_url = metrics_url
        self._gpu_tasks_on_cpu = gpu_tasks_on_cpu
        self._started_at = rfc3339(int(time.time() * 1000))
        self._news = asyncio.Event()

    @property
    def largest_device_mib(self) -> int:
        """The memory of the largest device; 0: there is none."""
        return max((each.memory_mib for each in self._devices), default=0)

    def hasten(self) -> None:
        """Sends the next heartbeat soon."""
        self._news.set()

    async def announces(self, workers: WorkerRegistry) -> None:
        manifests = await asyncio.to_thread(
            lambda: [task.manifest for task in self._registry.values()]
        )  # asks programs
        while True:
            try:
                await self._obey()
                await workers.announce(self.info(), manifests)
                self.ready = True
                await workers.note_usage(self._sample(), self.worker_id)
                await workers.note_durations(self.durations)
            except Exception as error:
                if not is_transient(error):
                    raise
                self.trouble = f"Redis: {error}"
            with suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._news.wait()
                    await asyncio.sleep(HASTE_SECONDS)
            self._news.clear()

    def _sample(self) -> UsageSample | None:
        """Returns the use of slots and memory now; None where the last sample is recent."""
        now = time.monotonic()
        if not self._slots or now - self._sampled_at < SAMPLE_SECONDS:
            return None
        self._sampled_at = now
        busy = sum(not one.light and not one.waiting_for for one in self._running())
        at = rfc3339(int(time.time() * 1000))
        return UsageSample(at=at, busy=busy, slots=self._slots, memory=self._memory())

    def _memory(self) -> list[MemoryInfo]:
        return [
            MemoryInfo(
                device=device,
                used_bytes=use.used,
                total_bytes=use.total,
                utilisation=msgspec.UNSET if use.utilisation is None else use.utilisation,
            )
            for device, use in self.memory.items()
        ]

    def info(self) -> WorkerInfo:
        running = [
            RunningNode(
                job_id=one.delivery.job_id,
                node_id=one.node_id,
                task=one.delivery.topology.nodes[one.node_id].task,
                started_at=rfc3339(one.started_ms),
                waiting_for=one.waiting_for or msgspec.UNSET,
                waiting_type=WaitingType.service if one.waiting_for and one.light else msgspec.UNSET,
            )
            for one in self._running()
        ]
        return WorkerInfo(
            worker_id=self.worker_id,
            host=socket.gethostname(),
            pid=os.getpid(),
            plane=Plane(self._plane),
            pool=self._pool,
            slots=self._slots,
            running=running,
            device=self._device,
            memory=self._memory(),
            metrics_url=self._metrics_url,
            started_at=self._started_at,
            last_seen=rfc3339(int(time.time() * 1000)),
            version=VERSION,
            protocol=keys.PROTOCOL,
            tasks=sorted(self._registry),
            devices=self._devices,
            gpu_tasks_on_cpu=self._gpu_tasks_on_cpu,
            draining=self.draining,
        )
