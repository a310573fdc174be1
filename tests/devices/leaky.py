"""A task that does not give its device memory back, as a library with caches of its own does."""

import os
from typing import Any

from bridge.tasks import TaskContext, task
from data_plane.tasks.simulate_gpu import MIB, SimulateGpu

LEAKED: list[Any] = []


@task(kind="gpu", memory_param="memoryMiB")
def leak(params: SimulateGpu, ctx: TaskContext) -> dict[str, int]:
    """Holds memoryMiB for ever."""
    LEAKED.append(ctx.simulated_gpu.allocate(params.memory_mib * MIB))
    ctx.data("began", {"pid": os.getpid()})
    for _ in range(params.steps):
        ctx.check_cancelled()
        ctx.simulated_gpu.compute(params.step_seconds)
    return {"pid": os.getpid()}


@task(kind="gpu", memory_param="memoryMiB")
def hide(params: SimulateGpu, ctx: TaskContext) -> dict[str, int]:
    """As a CUDA context does: holds memoryMiB for ever, of which its process does not know."""
    leak(params, ctx)
    ctx.simulated_gpu.held_bytes = 0
    return {"pid": os.getpid()}
