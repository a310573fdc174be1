"""The array library that this process computes with: CuPy where a GPU answers, NumPy elsewhere.

Every numeric function takes the module as its argument `xp`, so the same body runs on both. CuPy is imported here and
in `kernels/` only, on the first question and never at import time: importing it succeeds on a machine without a GPU,
and a driver without NVRTC fails only at the first launch, hence the launch in `gpu_available`.
"""

import functools
import json
import os
import sys
from typing import Any

import msgspec

ArrayModule = Any  # numpy or cupy
Array = Any  # numpy.ndarray or cupy.ndarray; shapes stand in the docstrings


class Gpu(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    index: int
    name: str
    memory_mib: int
    pci_bus_id: str = ""


class Device(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The device that this process computes on; `reason` explains why it is not a GPU and is empty when it is one."""

    name: str
    array_module: str
    reason: str
    cpus: int
    gpus: list[Gpu]


@functools.cache
def gpu_available() -> tuple[bool, str]:
    """Returns whether a GPU has just run a kernel, else the reason. Called once per process: the answer costs a launch."""
    try:
        import cupy
    except Exception as error:  # a broken CUDA installation raises more than ImportError
        return False, f"cupy not usable: {error}"
    try:
        if not cupy.is_available():
            return False, "no CUDA driver or device"
        cupy.zeros(1).sum().item()  # forces NVRTC and a launch
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    return True, ""


def array_module() -> tuple[ArrayModule, str, str]:
    """`(xp, name, reason)`: the module, `"cupy"` or `"numpy"`, and why not CuPy (empty when it is)."""
    available, reason = gpu_available()
    if available:
        import cupy

        return cupy, "cupy", ""
    import numpy

    return numpy, "numpy", reason


def to_host(array: Array) -> Array:
    """The same numbers as a NumPy array, copied from the device where they are on one."""
    return array.get() if hasattr(array, "get") else array


def memory_held() -> int:
    """Bytes that CuPy's pool has taken from the device since it was last emptied: the peak of a run; 0 without CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy.get_default_memory_pool().total_bytes() if cupy is not None else 0


def give_memory_back() -> None:
    """Returns memory that no array uses any more to the device, where another process can have it."""
    cupy = sys.modules.get("cupy")
    if cupy is not None:
        cupy.get_default_memory_pool().free_all_blocks()
        cupy.get_default_pinned_memory_pool().free_all_blocks()


def describe() -> Device:
    """The device of this process and every GPU that it sees."""
    available, reason = gpu_available()
    gpus = _gpus() if available else []
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Device(
        name=gpus[0].name if gpus else f"CPU ({cpus} cores)",
        array_module="cupy" if available else "numpy",
        reason=reason,
        cpus=cpus,
        gpus=gpus,
    )


def _gpus() -> list[Gpu]:
    from cupy.cuda import runtime

    found = []
    for index in range(runtime.getDeviceCount()):
        properties = runtime.getDeviceProperties(index)
        found.append(
            Gpu(
                index=index,
                name=properties["name"].decode(),
                memory_mib=properties["totalGlobalMem"] // 2**20,
                pci_bus_id=runtime.deviceGetPCIBusId(index),
            )
        )
    return found


def main() -> None:
    json.dump(msgspec.to_builtins(describe()), sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
