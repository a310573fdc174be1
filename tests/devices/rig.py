"""A pool of real slots on simulated devices, and processes of others that hold their memory."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from dihedral.bridge.tasks.registry import collect
from dihedral.bridge.tasks.runs import NodeRun, RunControl
from dihedral.data_plane.gpu_memory import simulated
from dihedral.data_plane.gpu_memory.readings import Reading
from dihedral.data_plane.gpu_memory.reservations import SharedReservations
from dihedral.data_plane.gpu_memory.usage_history import MemoryUsageHistory
from dihedral.data_plane.slots.pool import SlotPool
from dihedral.schemas.structs.settings import Settings
from tests.support.in_process import RecordedEvents
from tests.support.outcomes import Seen, ended
from tests.support.polling import at_this_load

MODULES = ["dihedral.data_plane.tasks.simulate_gpu", "dihedral.data_plane.tasks.run_tool", "tests.devices.leaky"]
GIB = 1024  # MiB


class Rig:
    """`changed`: makes of the devices' readings what their driver tells the worker. `grace_ms`: from a cancel to the end of the process."""

    def __init__(
        self,
        tmp_path: Path,
        text: str,
        slots: int,
        cushion_mib: int = 0,
        changed: Callable[[Reading], Reading] = lambda reading: reading,
        shared: SharedReservations | None = None,
        tasks: dict[str, Any] | None = None,
        grace_ms: int = 200,
    ) -> None:
        self.directory = tmp_path / "gpus"
        self.simulation = simulated.parse(text)
        self.gpus = simulated.open_gpus(self.simulation, self.directory)
        self.registry = collect(MODULES, plugins=False, settings=tasks)
        self.peaks = MemoryUsageHistory()
        settings = msgspec.convert(
            {
                "artifacts": {"directory": str(tmp_path / "artifacts")},
                "tasks": tasks or {},
                "worker": {"cancelGraceMs": grace_ms, "memoryCushionMiB": cushion_mib},
            },
            Settings,
        )
        self.pool = SlotPool(
            slots=slots, registry=self.registry, modules=MODULES, settings=settings, gpus=self.simulation.count,
            read=lambda: [changed(gpu.reading()) for gpu in self.gpus], peaks=self.peaks, simulation=self.simulation,
            gpu_directory=str(self.directory), shared=shared,
        )  # fmt: skip

    def start(
        self,
        heard: RecordedEvents | None = None,
        cancel: RunControl | None = None,
        task: str = "simulate_gpu",
        **params: Any,
    ) -> "asyncio.Task[Seen]":
        """A node that runs, or waits, until it is awaited."""
        run = NodeRun(
            job_id="job", node_id="n", task=task, attempt=1, nonce="x1", params=params, timeout_seconds=60
        )  # fmt: skip
        return asyncio.ensure_future(ended(self.pool.run(run, heard or RecordedEvents(), cancel or RunControl())))

    def used(self, index: int = 0) -> int:
        """MiB in use on a device."""
        reading = self.gpus[index].reading()
        return (reading.total - reading.free) // 2**20

    @contextlib.asynccontextmanager
    async def stranger(self, size: str, index: int = 0) -> AsyncIterator[int]:
        """Another program that holds memory of a device; its process id."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "dihedral.data_plane.gpu_memory.simulated", str(self.directory), str(index), size,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        try:
            assert process.stdout is not None
            assert b"holds" in await process.stdout.readline()
            yield process.pid
        finally:
            process.kill()
            await process.wait()


@contextlib.asynccontextmanager
async def rig(tmp_path: Path, text: str, slots: int, **options: Any) -> AsyncIterator[Rig]:
    made = Rig(tmp_path, text, slots, **options)
    async with made.pool, asyncio.timeout(at_this_load(90)):
        while len(made.pool.pids()) < slots:  # noqa: ASYNC110 (processes that start)
            await asyncio.sleep(0.01)
        yield made


def output(outcome: Seen) -> Any:
    assert outcome.status == "completed", outcome
    assert outcome.output is not None
    return msgspec.json.decode(outcome.output)


async def waited(heard: RecordedEvents) -> str:
    """Why a node waits, once it does."""
    async with asyncio.timeout(at_this_load(20)):
        while not heard.reasons:
            heard._changed.clear()
            await heard._changed.wait()
    return heard.reasons[-1]
