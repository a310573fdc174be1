"""Tasks that behave badly in every way a slot has to live with, and a few good ones."""

import asyncio
import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.schemas.structs.artifact import ArtifactMeta, ArtifactRef


class Nothing(Struct, forbid_unknown_fields=True):
    pass


class Text(Struct, forbid_unknown_fields=True):
    text: str


class Count(Struct, forbid_unknown_fields=True):
    count: Annotated[int, Meta(ge=0, le=100_000_000)]


class Source(Struct, forbid_unknown_fields=True):
    source: ArtifactRef


class Pid(Struct, forbid_unknown_fields=True):
    pid: int


@task
def pid(params: Nothing, ctx: TaskContext) -> Pid:
    """Says which process ran it."""
    return Pid(os.getpid())


@task(kind="gpu")
async def async_pid(params: Nothing, ctx: TaskContext) -> Pid:
    await asyncio.sleep(0)
    return Pid(os.getpid())


class Voices(Struct, frozen=True, rename="camel"):
    folder: str
    api_key: str = ""
    most: Annotated[int, Meta(ge=1)] = 4


@task(id="speaks")
def speaks(params: Nothing, ctx: TaskContext) -> Text:
    """Says what the operator set for it, and whether it stands where others see it."""
    found = ctx.settings(Voices)
    shown = Path("/proc/self/cmdline").read_bytes() + Path("/proc/self/environ").read_bytes()
    return Text(f"{found.folder} {found.most} {bool(found.api_key)} {found.api_key.encode() in shown}")


@task
def dies(params: Text, ctx: TaskContext) -> Nothing:
    print("last words", file=sys.stderr)
    if params.text == "segv":
        ctypes.string_at(0)
    if params.text == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(3)


@task(idempotent=False)
def dies_after_half(params: Nothing, ctx: TaskContext) -> Nothing:
    os._exit(1)


@task(retry_on=[ConnectionError])
def raises(params: Text, ctx: TaskContext) -> Nothing:
    print("about to raise", file=sys.stderr)
    if params.text == "foreseen":
        raise TaskError("foreseen", code="no_speech", retryable=True, details={"frames": 0})
    if params.text == "connection":
        raise ConnectionResetError("gone")
    if params.text == "exit":
        sys.exit("bye")
    raise ValueError("not \ud800 good")


@task
def prints(params: Count, ctx: TaskContext) -> Nothing:
    for number in range(params.count):
        print(f"line {number}")
    os.write(2, b"\xff from below\n")
    logging.getLogger("some.library").warning("logged")
    ctx.log("said", "debug")
    print("no newline", end="")
    return Nothing()


@task
def reports(params: Count, ctx: TaskContext) -> Count:
    for number in range(params.count):
        ctx.progress((number + 1) / params.count)
        ctx.data("step", {"number": number})
    return params


@task
def echo(params: Text, ctx: TaskContext) -> Text:
    return params


@task
def returns_wrong(params: Nothing, ctx: TaskContext) -> Count:
    return Count(count=-1)


@task
def cooperates(params: Nothing, ctx: TaskContext) -> Nothing:
    ctx.data("began", {"pid": os.getpid()})
    while True:
        ctx.check_cancelled()
        time.sleep(0.005)


@task(kind="gpu")
async def waits(params: Nothing, ctx: TaskContext) -> Nothing:
    ctx.data("began", {"pid": os.getpid()})
    await asyncio.sleep(600)
    return Nothing()


@task
def never_looks(params: Nothing, ctx: TaskContext) -> Nothing:
    ctx.data("began", {"pid": os.getpid()})
    try:
        time.sleep(600)
    finally:
        ctx.log("unwound")
    return Nothing()


@task
def stubborn(params: Nothing, ctx: TaskContext) -> Nothing:
    """Ignores SIGTERM, and so does its child."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    ctx.data("began", {"pid": os.getpid(), "child": child.pid})
    while True:
        time.sleep(600)


@task
def leaves_a_child(params: Nothing, ctx: TaskContext) -> Nothing:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    ctx.data("began", {"pid": os.getpid(), "child": child.pid})
    while True:
        ctx.check_cancelled()
        time.sleep(0.005)


@task
def talks_garbage(params: Nothing, ctx: TaskContext) -> Nothing:
    """Writes into every socket that it has inherited or opened."""
    for descriptor in range(3, 1024):
        try:
            os.write(descriptor, b"\x00\x00\x00\x02no message at all")
        except OSError:
            continue
    time.sleep(600)
    return Nothing()


@task
def copies(params: Source, ctx: TaskContext) -> Source:
    """Fetches, checks that the workdir is there, and stores what it fetched twice over."""
    path = ctx.fetch(params.source)
    assert path.parent == ctx.workdir
    meta: ArtifactMeta = ctx.store("inputs", "twice.bin", path.read_bytes() * 2, "application/octet-stream")
    ctx.data("workdir", {"path": str(ctx.workdir)})
    return Source(ArtifactRef(bucket=meta.bucket, key=meta.key))


@task(kind="gpu")
async def copies_async(params: Source, ctx: TaskContext) -> Any:
    path = await ctx.fetch_async(params.source)
    meta = await ctx.store_async("inputs", "same.bin", path)
    return {"size": meta.size_bytes}


@task
def emits_large(params: Count, ctx: TaskContext) -> None:
    """One event of so many bytes, and a small one."""
    ctx.data("large", {"text": "x" * params.count})
    ctx.data("small", {})
