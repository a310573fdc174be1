"""How much memory the tasks take: of each GPU, from the driver's library; where there is none, of the slots, from /proc.

The worker itself never touches CUDA (its slots could not start cleanly any more), and NVML needs no context. It is asked every
second, so a shorter peak is missed.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from bridge import metrics

log = logging.getLogger(__name__)

EVERY_SECONDS = 1.0
KIB = 1024

Sample = dict[str, tuple[int, int]]
"""Device -> (bytes in use, bytes there are)."""


async def watch(pids: Callable[[], list[int]], latest: Sample) -> None:
    """Keeps `latest` and the gauges of device memory up to date until cancelled; silent where neither NVML nor /proc is there."""
    nvml = _nvml()
    peaks: dict[str, int] = {}
    while True:
        try:
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
