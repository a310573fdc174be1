"""Tasks that treat a device badly: keep its memory as a library with caches does, want too much of it, hide what they take."""

import os
from typing import Any

import msgspec

from dihedral.bridge.tasks.registry import MIB, TaskContext, task
from dihedral.data_plane.gpu_memory.simulated import SimulatedGpu
from dihedral.data_plane.tasks.simulate_gpu import SimulateGpu

LEAKED: list[Any] = []


def device(ctx: TaskContext) -> SimulatedGpu:
    assert isinstance(ctx.simulated_gpu, SimulatedGpu)
    return ctx.simulated_gpu


@task(kind="gpu", memory_param="memoryMiB")
def leak(params: SimulateGpu, ctx: TaskContext) -> dict[str, int]:
    """Holds memoryMiB for ever."""
    LEAKED.append(device(ctx).allocate(params.memory_mib * MIB))
    ctx.data("began", {"pid": os.getpid()})
    for _ in range(params.steps):
        ctx.check_cancelled()
        device(ctx).compute(params.step_seconds)
    return {"pid": os.getpid()}


def raises(params: SimulateGpu) -> SimulateGpu | None:
    raise ZeroDivisionError("no half of it")


@task(kind="gpu", memory_param="memoryMiB", smaller=raises)
def greedy(params: SimulateGpu, ctx: TaskContext) -> None:
    """Runs out of memory, and knows no way out."""
    raise MemoryError("CUDA out of memory")


def stepless(params: SimulateGpu) -> SimulateGpu | None:
    return msgspec.structs.replace(params, steps=0) if params.steps else None


@task(kind="gpu", smaller=stepless)
def modest(params: SimulateGpu, ctx: TaskContext) -> None:
    """Has memory for no step."""
    if params.steps:
        raise MemoryError


@task(kind="gpu", memory_mib=2048)
def quick(params: SimulateGpu, ctx: TaskContext) -> None:
    """Takes and gives back more than anybody has seen, as libraries without CuPy's pool do."""
    with device(ctx).allocate(2048 * MIB):
        pass
    device(ctx).reset_peak()


@task(kind="gpu", memory_param="memoryMiB")
def hide(params: SimulateGpu, ctx: TaskContext) -> dict[str, int]:
    """As a CUDA context does: holds memoryMiB for ever, of which its process does not know."""
    leak(params, ctx)
    device(ctx).held_bytes = 0
    return {"pid": os.getpid()}


@task()
def plain(params: SimulateGpu, ctx: TaskContext) -> None:
    """Takes a slot and no device."""
