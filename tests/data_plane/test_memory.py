"""What the driver tells of device memory. The driver's library is not ours, and no GPU is here: these fakes answer as NVML does."""

from types import SimpleNamespace

from dihedral.data_plane.gpu_memory import readings as memory
from dihedral.data_plane.gpu_memory.readings import Reading


def test_a_gpu_is_read_with_who_holds_how_much() -> None:
    """NVML tells None for a process whose memory it may not tell."""
    processes = [SimpleNamespace(pid=812, usedGpuMemory=6), SimpleNamespace(pid=7, usedGpuMemory=None)]
    nvml = SimpleNamespace(
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=10, total=80, free=70),
        nvmlDeviceGetComputeRunningProcesses=lambda handle: processes,
    )
    assert memory.of_handle(nvml, 0) == Reading(total=80, free=70, holders={812: 6})


def test_simulated_devices_have_names_of_their_own() -> None:
    readings = [Reading(total=80, free=70, holders={}), Reading(total=80, free=80, holders={})]
    assert memory.of_simulated(readings) == {"simulated0": (10, 80, None), "simulated1": (0, 80, None)}
