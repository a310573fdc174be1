"""Task `simulate_gpu`: takes memory and time of a simulated GPU, as training does of a real one.

For rehearsals of what a device does to jobs; the faults are those of `worker.simulateGpus`.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import msgspec
from msgspec import Meta

from dihedral.bridge.tasks.registry import MIB, TaskContext, task
from dihedral.schemas.strict import Strict

BUCKET = "loras"


class SimulateGpu(Strict, kw_only=True, rename="camel"):
    steps: Annotated[int, Meta(ge=0, le=1_000_000, description="How many steps")] = 1
    step_seconds: Annotated[float, Meta(ge=0, le=86_400, description="How long each computes at speed 1")] = 0.0
    memory_mib: Annotated[int, Meta(ge=0, le=1_048_576, description="Device memory held while it runs")] = (
        msgspec.field(name="memoryMiB", default=0)
    )
    model: Annotated[
        str, Meta(max_length=128, description="A model that stays loaded for the next run; empty: none")
    ] = ""
    model_mib: Annotated[int, Meta(ge=0, le=1_048_576, description="Its share of memoryMiB")] = msgspec.field(
        name="modelMiB", default=0
    )
    load_seconds: Annotated[float, Meta(ge=0, le=86_400, description="How long loading it takes")] = 0.0
    checkpoint_every: Annotated[
        int, Meta(ge=0, description="Steps between checkpoints; one more where it is interrupted")
    ] = 0


class SimulateGpuOutput(Strict, kw_only=True, rename="camel"):
    """memory: held, MiB. device: -1 where there is no simulated one. cold: whether the model had to be loaded. early: whether it was asked for its best before the end."""

    steps: int
    resumed_at: int
    memory_mib: int = msgspec.field(name="memoryMiB")
    cold: bool
    early: bool
    device: int
    pid: int


class WithoutDevice:
    """What a run computes on where its worker has no simulated device."""

    index = -1

    @contextmanager
    def allocate(self, size: int) -> Iterator[None]:
        yield

    def compute(self, seconds: float) -> None:
        time.sleep(seconds)


def half(params: SimulateGpu) -> SimulateGpu | None:
    """Returns the params of half a micro-batch."""
    if params.memory_mib < 2:
        return None
    return msgspec.structs.replace(params, memory_mib=params.memory_mib // 2, model_mib=params.model_mib // 2)


@task(
    id="simulate_gpu",
    label="Simulate work on a GPU",
    description="Holds memory of a simulated GPU and takes its time; can keep a model loaded, go on from a checkpoint and end early.",
    kind="gpu",
    memory_param="memoryMiB",
    memory_by=("memoryMiB",),
    time_by=("steps", "stepSeconds"),
    warm=("model", "modelMiB"),
    smaller=half,
    resumable=True,
    timeout_seconds=7 * 86_400,
    keywords=["simulated gpu", "simulate gpu", "fake gpu", "gpu rehearsal", "hold gpu memory"],
    examples=[{"steps": 10, "stepSeconds": 0.1, "memoryMiB": 14_336}],
    groups={
        "Work": ("steps", "stepSeconds", "checkpointEvery"),
        "Device": ("memoryMiB", "model", "modelMiB", "loadSeconds"),
    },
)
def simulate_gpu(params: SimulateGpu, ctx: TaskContext) -> SimulateGpuOutput:
    gpu = ctx.simulated_gpu or WithoutDevice()
    if isinstance(gpu, WithoutDevice):
        ctx.log(
            "no simulated GPU here (dihedral up --simulate-gpus 1x24GiB): it takes its time, and no memory", "warning"
        )
    cold = False

    def load() -> object:
        nonlocal cold
        cold = True
        loaded = gpu.allocate(params.model_mib * MIB)
        gpu.compute(params.load_seconds)
        return loaded

    of_model = params.model_mib if params.model else 0
    model = ctx.warm(load) if params.model else None
    with gpu.allocate(max(0, params.memory_mib - of_model) * MIB):
        resumed_at = step = _resumed(params, ctx)
        while step < params.steps and not ctx.finish_early:
            gpu.compute(params.step_seconds)
            step += 1
            ctx.progress(step / params.steps)
            ctx.data("step", {"step": step, "steps": params.steps})
            stops = ctx.cancelled
            if stops or (params.checkpoint_every and step % params.checkpoint_every == 0):
                ctx.keep_checkpoint(BUCKET, msgspec.json.encode({"step": step}))
            if stops:
                ctx.check_cancelled()
    del model
    ctx.drop_checkpoint(BUCKET)
    return SimulateGpuOutput(
        steps=step,
        resumed_at=resumed_at,
        memory_mib=params.memory_mib,
        cold=cold,
        early=step < params.steps,
        device=gpu.index,
        pid=os.getpid(),
    )


def _resumed(params: SimulateGpu, ctx: TaskContext) -> int:
    """The step of the last checkpoint, 0 without one."""
    kept = ctx.checkpoint(BUCKET)
    step: int = msgspec.json.decode(kept.read_bytes())["step"] if kept is not None else 0
    if step:
        ctx.log(f"goes on behind step {step}")
    return min(step, params.steps)
