"""How much memory the tasks take: of each GPU, from the driver's library; where there is none, of the slots, from /proc.

The worker itself never touches CUDA (its slots could not start cleanly any more), and NVML needs no context. For the metrics it is asked
every second, so a shorter peak is missed.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bridge import metrics
from data_plane.device import Gpu

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
KIB = 1024

Sample = dict[str, tuple[int, int]]
"""Device -> (bytes in use, bytes there are)."""


class Reading(msgspec.Struct, frozen=True):
    """One look at one device. holders: process id → bytes, as far as the driver tells."""

    total: int
    free: int
    holders: dict[int, int]


Read = Callable[[], list[Reading]]
"""A look at every device of this worker, in the order of `Device.gpus`."""


def reader(gpus: Sequence[Gpu]) -> Read | None:
    """None where NVML is not there, or does not know one of these GPUs."""
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
    """Processes whose memory the driver does not tell (in a container it may not) are left out."""
    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    processes = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
    holders = {int(each.pid): int(each.usedGpuMemory) for each in processes if each.usedGpuMemory}
    return Reading(total=int(memory.total), free=int(memory.free), holders=holders)


async def watch(pids: Callable[[], list[int]], latest: Sample, simulated: Read | None = None) -> None:
    """Keeps `latest` and the gauges of device memory up to date until cancelled; silent where neither NVML nor /proc is there."""
    nvml = _nvml() if simulated is None else None
    peaks: dict[str, int] = {}
    while True:
        try:
            if simulated is not None:
                sample = of_simulated(simulated())
            else:
                sample = of_gpus(nvml) if nvml is not None else of_processes(pids())
        except Exception as error:  # a driver that is being replaced answers with errors of its own
            log.warning("device memory cannot be read: %s", error)
            sample = {}
        latest.clear()
        latest.update(sample)
        for device, (used, total) in sample.items():
            peaks[device] = max(peaks.get(device, 0), used)
            metrics.device_memory_used_bytes.labels(device).set(used)
            metrics.device_memory_peak_bytes.labels(device).set(peaks[device])
            metrics.device_memory_total_bytes.labels(device).set(total)
        await asyncio.sleep(EVERY_SECONDS)


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
        memory = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(index))
        found[f"gpu{index}"] = (int(memory.used), int(memory.total))
    return found


def of_simulated(readings: list[Reading]) -> Sample:
    """`simulated0`, `simulated1`, ..."""
    return {f"simulated{index}": (each.total - each.free, each.total) for index, each in enumerate(readings)}


def of_processes(pids: list[int]) -> Sample:
    """`cpu`: resident bytes of these processes, of what the machine has."""
    total = _field(Path("/proc/meminfo"), "MemTotal")
    if total is None:
        return {}
    return {"cpu": (sum(_field(Path(f"/proc/{pid}/status"), "VmRSS") or 0 for pid in pids), total)}


def _field(path: Path, name: str) -> int | None:
    """Bytes of a line `name: 123 kB`; None where there is no such file or line."""
    with suppress(OSError):
        for line in path.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * KIB
    return None
