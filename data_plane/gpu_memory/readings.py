"""What the tasks take of memory and computing time: of each GPU, from the driver's library; where there is none, of the slots, from /proc.

The worker itself never touches CUDA (its slots could not start cleanly any more), and NVML needs no context. The metrics query it
every second, so a shorter peak is missed.

A driver may take seconds to answer, or not come back at all (a GPU that has fallen off the bus), so the event loop never calls it; nor does it
read /proc, where a tool may have hundreds of processes with as many threads.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Generic, TypeVar

import msgspec

from dihedral.bridge import metrics
from dihedral.bridge.worker.presence import DeviceUse
from dihedral.data_plane.device import Gpu
from dihedral.data_plane.process_groups import descendants

log = logging.getLogger(__name__)

T = TypeVar("T")

EVERY_SECONDS = 1.0
SILENT_SECONDS = 3.0  # a driver answers in milliseconds; an older reading is no evidence of the present state
KIB = 1024
MOST_BELOW = 100  # processes of a slot's tools that a look counts: a tool may start thousands

Sample = dict[str, DeviceUse]


class Reading(msgspec.Struct, frozen=True):
    """The result of one look at one device. holders: process id → bytes, for the processes that the driver lists."""

    total: int
    free: int
    holders: dict[int, int]


Read = Callable[[], list[Reading]]
"""A look at every device of this worker, in the order of `Device.gpus`."""


class DeviceProbe(Generic[T]):
    """Runs each query that may never return in a separate thread, one at a time.

    Daemon threads: one that never comes back must not keep the worker from its end, as a thread of `asyncio.to_thread` would.
    """

    def __init__(self, ask: Callable[[], T]) -> None:
        """begun: when the last look began (`time.monotonic`)."""
        self.begun = 0.0
        self._ask = ask
        self._answer: asyncio.Future[T] | None = None

    @property
    def under_way(self) -> bool:
        return self._answer is not None and not self._answer.done()

    def poll(self) -> asyncio.Future[T]:
        """The answer of the look under way, or of a new one. It is shared: wait for it with `asyncio.wait`, which cancels nothing."""
        if self._answer is None or self._answer.done():
            loop = asyncio.get_running_loop()
            self._answer = loop.create_future()
            self.begun = time.monotonic()
            try:
                threading.Thread(
                    target=self._poll, args=(loop, self._answer), name="device memory", daemon=True
                ).start()
            except RuntimeError as error:  # there may be no more threads, or processes
                self._answer.set_exception(error)
                self._answer.exception()
        return self._answer

    def _poll(self, loop: asyncio.AbstractEventLoop, answer: asyncio.Future[T]) -> None:
        result, failure = None, None
        try:
            result = self._ask()
        except Exception as error:  # a driver that is being replaced raises errors of unknown classes
            failure = error

        def tell() -> None:
            if failure is not None:
                answer.set_exception(failure)
                answer.exception()  # no caller waits for this answer any more
            else:
                answer.set_result(result)  # type: ignore[arg-type]

        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(tell)


def reader(gpus: Sequence[Gpu]) -> Read | None:
    """Returns None where NVML is missing, or does not know one of these GPUs."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        handles = [nvml.nvmlDeviceGetHandleByPciBusId(gpu.pci_bus_id) for gpu in gpus]
        for handle in handles:
            of_handle(nvml, handle)
    except Exception as error:
        log.warning("the GPUs' memory cannot be read, so nothing waits for it: %s", error)
        return None
    return lambda: [of_handle(nvml, handle) for handle in handles]


def of_handle(nvml: Any, handle: Any) -> Reading:
    """Reads the devices. Processes whose memory the driver does not report (in a container it may not) are left out."""
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    holders = {int(each.pid): int(each.usedGpuMemory) for each in processes if each.usedGpuMemory}
    return Reading(total=int(memory.total), free=int(memory.free), holders=holders)


async def watch(pids: Callable[[], list[int]], latest: Sample, simulated: Read | None = None) -> None:
    """Keeps `latest` and the gauges of device memory up to date until cancelled; silent where neither NVML nor /proc is there."""
    nvml, processes = _nvml() if simulated is None else None, Processes()
    if simulated is not None:
        looks = DeviceProbe(lambda: of_simulated(simulated()))
    elif nvml is not None:
        looks = DeviceProbe(lambda: of_gpus(nvml))
    else:
        looks = DeviceProbe(lambda: processes.look(slots))
    peaks: dict[str, int] = {}
    while True:
        slots = pids()
        sample = await _answered(looks)
        latest.clear()
        latest.update(sample)
        metrics.device_utilisation_ratio.clear()  # a device that says none any more must not keep its last one
        for device, use in sample.items():
            peaks[device] = max(peaks.get(device, 0), use.used)
            metrics.device_memory_used_bytes.labels(device).set(use.used)
            metrics.device_memory_peak_bytes.labels(device).set(peaks[device])
            metrics.device_memory_total_bytes.labels(device).set(use.total)
            if use.utilisation is not None:
                metrics.device_utilisation_ratio.labels(device).set(use.utilisation)
        await asyncio.sleep(EVERY_SECONDS)


async def _answered(looks: DeviceProbe[Sample]) -> Sample:
    """Returns an empty sample where no answer came in time, or an error."""
    answer = looks.poll()
    await asyncio.wait({answer}, timeout=SILENT_SECONDS)
    if not answer.done():
        log.warning("device memory cannot be read: no answer for %.0f s", time.monotonic() - looks.begun)
        return {}
    if (error := answer.exception()) is not None:
        log.warning("device memory cannot be read: %s", error)
        return {}
    return answer.result()


def _nvml() -> Any:
    """The driver's management library, or None where there is no GPU, driver or Python package (extras gpu-cuda*)."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml if pynvml.nvmlDeviceGetCount() else None
    except Exception:
        return None


def of_gpus(nvml: Any) -> Sample:
    """`gpu0`, `gpu1`, ... in the driver's order, whatever CUDA_VISIBLE_DEVICES hides from the slots."""
    found = {}
    for index in range(nvml.nvmlDeviceGetCount()):
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory, utilisation = nvml.nvmlDeviceGetMemoryInfo(handle), None
        with suppress(Exception):  # a part of a GPU (MIG) has none, and some drivers say none
            utilisation = min(1.0, int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100)
        found[f"gpu{index}"] = DeviceUse(int(memory.used), int(memory.total), utilisation)
    return found


def of_simulated(readings: list[Reading]) -> Sample:
    """`simulated0`, `simulated1`, ..."""
    return {f"simulated{index}": DeviceUse(each.total - each.free, each.total) for index, each in enumerate(readings)}


class Processes:
    """The slots and the tools that run in them (MOST_BELOW a slot) as one device, `cpu`: their resident bytes of what the machine has, and their share of its cores since the last look."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[int, int], float] = {}
        """CPU seconds at the last look, by id and start (`_cpu`): an id alone may name another process by now."""
        self._at: float | None = None

    def look(self, pids: list[int]) -> Sample:
        """Returns nothing where there is no /proc. `pids`: the slots. Of a process that was not read at the last look only counts what it has
        used where it began since then. Pages that processes share count for each of them, up to what the machine has."""
        total = _field("/proc/meminfo", b"MemTotal")
        if total is None:
            return {}
        now, last, before = time.clock_gettime(time.CLOCK_BOOTTIME), self._at, self.seconds
        everything = [*pids, *(below for pid in pids for below in descendants(pid, MOST_BELOW))]
        self.seconds, self._at = dict(filter(None, map(_cpu, everything))), now
        utilisation = None
        if last is not None and now > last:
            ticks = os.sysconf("SC_CLK_TCK")
            used = sum(
                max(0.0, spent - before.get((pid, began), 0.0 if (began + 1) / ticks > last else spent))
                for (pid, began), spent in self.seconds.items()
            )
            utilisation = min(1.0, used / (now - last) / len(os.sched_getaffinity(0)))
        resident = sum(_field(f"/proc/{pid}/status", b"VmRSS") or 0 for pid in everything)
        return {"cpu": DeviceUse(min(resident, total), total, utilisation)}


def _cpu(pid: int) -> tuple[tuple[int, int], float] | None:
    """Returns a process's id and start (ticks since the machine's), and its CPU seconds: starttime, utime and stime of proc(5); None where it is gone."""
    with suppress(OSError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return (pid, int(fields[19])), sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")
    return None


def _field(path: str, name: bytes) -> int | None:
    """Bytes of a line `name: 123 kB`; None where there is no such file or line. A process's name may be cut inside a letter, so it is not decoded."""
    with suppress(OSError), open(path, "rb") as file:
        for line in file:
            if line.startswith(name + b":"):
                return int(line.split()[1]) * KIB
    return None
