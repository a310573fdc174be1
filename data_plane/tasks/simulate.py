"""Task `simulate`: takes time, says what it does, fails on request; for load tests (`steps` 0 does nothing at all) and rehearsals.

The faults that hurt its process (`crashAt`, `hangAt`, `memoryMiB`) need a slot, and a permission of the operator: in the
worker's process the nodes of other people would die too.
"""

import asyncio
import os
import signal
import time
from typing import Annotated, Any

from msgspec import UNSET, Meta, Struct, UnsetType, field

from dihedral.bridge.tasks.registry import TaskContext, TaskError, task

PAGE_BYTES = 4096

Step = Annotated[int, Meta(ge=0)]


class Simulate(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    steps: Annotated[int, Meta(ge=0, le=1_000_000, description="How many steps")] = 1
    step_seconds: Annotated[float, Meta(ge=0, le=86_400, description="How long each takes")] = 0.0
    fail_at: Annotated[Step | None, Meta(description="Fails at this step, 0 = before the first")] = None
    crash_at: Annotated[Step | None, Meta(description="Kills its slot at this step, 0 = before the first")] = None
    hang_at: Annotated[Step | None, Meta(description="Neither goes on nor hears a cancel from this step on")] = None
    memory_mib: Annotated[int, Meta(ge=0, le=1_048_576, description="Memory held while it runs")] = field(
        name="memoryMiB", default=0
    )
    output: Annotated[Any, Meta(description="Returned as it is; without it, the steps")] | UnsetType = UNSET


def _hurts(params: Simulate) -> bool:
    return params.crash_at is not None or params.hang_at is not None or params.memory_mib > 0


@task(
    id="simulate",
    label="Simulate work",
    description="Counts steps at a given pace; can fail, hold memory, hang or crash on request.",
    rehearses=_hurts,
    time_by=("steps", "stepSeconds"),
    timeout_seconds=7 * 86_400,
    keywords=[
        "load test",
        "rehearsal",
        "rehearse",
        "dummy job",
        "test job",
        "fake work",
        "count steps",
        "pretend work",
    ],
    examples=[{"steps": 3, "stepSeconds": 0.1}, {"steps": 0, "output": {"answer": 42}}],
    groups={"Work": ("steps", "stepSeconds", "output"), "Faults": ("failAt", "crashAt", "hangAt", "memoryMiB")},
)
async def simulate(params: Simulate, ctx: TaskContext) -> Any:
    held = _hold(params.memory_mib)
    for step in range(params.steps + 1):
        reached = step
        if ctx.finish_early:
            break
        if step == params.fail_at:
            raise TaskError(
                f"asked to fail at step {step}", code="simulated_failure", retryable=True, details={"step": step}
            )
        if step == params.crash_at:
            os.kill(os.getpid(), signal.SIGKILL)
        while step == params.hang_at:
            time.sleep(1)  # noqa: ASYNC251 - it is what a task does that hangs
        if step < params.steps:
            await asyncio.sleep(params.step_seconds)
            ctx.progress((step + 1) / params.steps)
            ctx.data("step", {"step": step + 1, "steps": params.steps})
    del held
    return {"steps": reached} if params.output is UNSET else params.output


def _hold(memory_mib: int) -> bytearray:
    """Returns memory that is really there: a page belongs to the process only once it was written."""
    held = bytearray(memory_mib * 2**20)
    held[::PAGE_BYTES] = b"\x01" * len(range(0, len(held), PAGE_BYTES))
    return held
