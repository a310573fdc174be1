"""Tasks that behave badly in every way a slot has to live with, and a few good ones."""

import asyncio
import ctypes
import gc
import logging
import os
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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


class Tee:
    """Copies what is printed; like many of its kind it has no flush()."""

    def write(self, text: str) -> None:
        assert sys.__stdout__ is not None
        sys.__stdout__.write(text)


def talks_later(what: str) -> None:
    time.sleep(0.3)
    print("late words of", what)
    logging.getLogger("late").warning("late words of %s", what)


def goes_nowhere() -> None:
    os.chdir(tempfile.mkdtemp())
    Path.cwd().rmdir()


async def talks_later_too() -> None:
    await asyncio.sleep(0.3)
    print("late words of an event loop")


LATE = "import sys, time; time.sleep(0.3); print('late words of a process', flush=True); time.sleep(600)"
CHILD = [sys.executable, "-c", LATE]
LEAVES: dict[str, Any] = {
    "tee": lambda: setattr(sys, "stdout", Tee()),
    "no stdout": lambda: setattr(sys, "stdout", None),
    "no stderr": lambda: vars(sys).update(stderr=None, __stderr__=None),
    "detached stdout": lambda: sys.stdout.detach(),  # type: ignore[union-attr]
    "closed stdout": sys.stdout.close,
    "closed descriptors": lambda: os.closerange(1, 3),
    "stdout into a file": lambda: os.dup2(os.open(os.devnull, os.O_WRONLY), 1),
    "thread": lambda: threading.Thread(target=talks_later, args=("a thread",), daemon=True).start(),
    "executor": lambda: ThreadPoolExecutor().submit(talks_later, "an executor"),
    "process": lambda: subprocess.Popen(CHILD),
    "daemon": lambda: subprocess.run(["setsid", "-f", *CHILD], check=True),
    "working directory": lambda: os.chdir("/"),
    "no working directory": goes_nowhere,
    "environment": lambda: os.environ.update(HOME="/nowhere", NEW="1"),
    "umask": lambda: os.umask(0o777),
    "ignored signal": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
    "blocked signal": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
    "alarm": lambda: signal.setitimer(signal.ITIMER_REAL, 0.2),
    "logging": lambda: logging.basicConfig(force=True, level=logging.CRITICAL, stream=sys.stderr),
    "disabled logging": lambda: logging.disable(),
    "file limit": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1])),
    "low priority": lambda: os.nice(5),
    "module path": lambda: sys.path.clear(),
    "no collector": gc.disable,
    "descriptors": lambda: [os.dup(0) for _ in range(200)],
}


@task
def leaves(params: Text, ctx: TaskContext) -> Pid:
    """Ends well, and leaves its process in an odd state."""
    LEAVES[params.text]()
    return Pid(os.getpid())


@task(id="leaves_async", kind="gpu")
async def leaves_async(params: Text, ctx: TaskContext) -> Pid:
    if params.text == "event loop":
        LEFT.append(asyncio.create_task(talks_later_too()))
    else:
        LEFT.append(asyncio.get_running_loop().run_in_executor(None, talks_later, "to_thread"))
    await asyncio.sleep(0)
    return Pid(os.getpid())


LEFT: list[Any] = []


class State(Struct):
    pid: int
    seen: dict[str, str]


@task
def state(params: Nothing, ctx: TaskContext) -> State:
    """What the task before may have left; it waits for what that still has to say."""
    print("printed")
    print("printed to stderr", file=sys.stderr)
    logging.getLogger("a.library").info("logged")
    (ctx.workdir / "file").write_text("written")
    time.sleep(0.6)
    seen: dict[str, Any] = {
        "directory": os.getcwd(),
        "environment": sorted(os.environ.items()),
        "umask": oct(os.umask(0o22)),
        "handlers": [str(signal.getsignal(each)) for each in (signal.SIGINT, signal.SIGALRM, signal.SIGCHLD)],
        "term": callable(signal.getsignal(signal.SIGTERM)),
        "blocked": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "path": sys.path,
        "collector": gc.isenabled(),
        "priority": os.nice(0),
        "mode": oct((ctx.workdir / "file").stat().st_mode),
        "descriptors": len(os.listdir("/proc/self/fd")) < 60,
        "children": Path("/proc/self/task", str(os.getpid()), "children").read_text(),
    }
    return State(os.getpid(), {name: str(value) for name, value in seen.items()})


class Served(Struct):
    child: subprocess.Popen[bytes]


@task(id="serves", kind="gpu", warm=["text"])
def serves(params: Text, ctx: TaskContext) -> Pid:
    """Keeps a process of its own beside the model, as an engine does."""
    kept = ctx.warm(lambda: Served(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])))
    assert kept.child.poll() is None
    return Pid(kept.child.pid)


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
def draws_a_bar(params: Count, ctx: TaskContext) -> Nothing:
    for number in range(params.count + 1):
        sys.stderr.write(f"\r{100 * number // params.count:3d}%")
    sys.stderr.write("\n")
    time.sleep(0.1)
    print("FINAL 0.93")
    return Nothing()


@task
def allocates(params: Count, ctx: TaskContext) -> Count:
    """MiB."""
    return Count(len(bytearray(params.count << 20)) >> 20)


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
def daemonises(params: Nothing, ctx: TaskContext) -> Nothing:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    ctx.data("began", {"pid": os.getpid(), "child": child.pid})
    time.sleep(600)
    return Nothing()


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
