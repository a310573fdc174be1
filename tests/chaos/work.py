"""The tasks of the chaos rounds: they leave a line in a file, outside Redis, whenever they begin, go on and end.

This module is copied into the working directory of the processes and loaded with `--tasks work`.
"""

import asyncio
import os
import signal
import time
from pathlib import Path

from msgspec import Struct

from dihedral import TaskContext, TaskError, task

KIB = bytes(range(256)) * 4


class Work(Struct, forbid_unknown_fields=True, rename="camel"):
    """`fails`: for good; `flaky`: at its first attempt; `deaf`: hears neither a cancel nor SIGTERM; `stores`: KiB of an artifact."""

    steps: int = 1
    step_seconds: float = 0.02
    fails: bool = False
    flaky: bool = False
    deaf: bool = False
    stores: int = 0


class Done(Struct):
    """`nonce`: of the claim under which it ran."""

    steps: int
    nonce: str


def _mark(ctx: TaskContext, what: str, worker: int) -> None:
    line = f"{time.monotonic():.4f} {what} {ctx.node_id} {ctx.attempt} {ctx.nonce} {worker} {ctx.delivery_count}\n"
    path = Path(os.environ["CHAOS_RUNS"]) / ctx.job_id
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(descriptor, line.encode())
    finally:
        os.close(descriptor)


def _fail(params: Work, ctx: TaskContext) -> None:
    if params.fails or (params.flaky and ctx.attempt == 1):
        raise TaskError("as it was told", code="told_to_fail", retryable=params.flaky)


def _toil(params: Work, ctx: TaskContext) -> Done:
    worker = os.getppid()
    if params.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _mark(ctx, "begin", worker)
    for step in range(params.steps):
        if not params.deaf:
            ctx.check_cancelled()
        time.sleep(params.step_seconds)
        _mark(ctx, "beat", worker)
        ctx.progress((step + 1) / params.steps)
    if params.stores:
        ctx.store("videos", "made", KIB * params.stores)
    _fail(params, ctx)
    _mark(ctx, "end", worker)
    return Done(params.steps, ctx.nonce)


async def _stroll(params: Work, ctx: TaskContext) -> Done:
    worker = os.getpid()
    _mark(ctx, "begin", worker)
    for step in range(params.steps):
        await asyncio.sleep(params.step_seconds)
        _mark(ctx, "beat", worker)
        ctx.progress((step + 1) / params.steps)
    if params.stores:
        await ctx.store_async("videos", "made", KIB * params.stores)
    _fail(params, ctx)
    _mark(ctx, "end", worker)
    return Done(params.steps, ctx.nonce)


@task(resumable=True)
def toil(params: Work, ctx: TaskContext) -> Done:
    """Heavy: in a slot, and gives way to what is more urgent; it begins anew then, since what it does takes no time."""
    return _toil(params, ctx)


@task(idempotent=False)
def toil_once(params: Work, ctx: TaskContext) -> Done:
    """Heavy, and must not run twice."""
    return _toil(params, ctx)


@task
async def stroll(params: Work, ctx: TaskContext) -> Done:
    """Light: in the worker itself."""
    return await _stroll(params, ctx)


@task(idempotent=False)
async def stroll_once(params: Work, ctx: TaskContext) -> Done:
    """Light, and must not run twice."""
    return await _stroll(params, ctx)


@task(plane="node")
async def desk(params: Work, ctx: TaskContext) -> Done:
    """Light, on the control plane."""
    return await _stroll(params, ctx)
