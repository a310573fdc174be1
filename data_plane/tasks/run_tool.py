"""Task `run_tool`: a command line that the operator has named, as a durable job.

The tool runs in a separate session below the slot's process, so a signal reaches all of it, and nothing of it outlives the slot. Its newest
whole checkpoint is kept in the store: after a pause or the loss of the worker another run, also on another machine, goes on from there.

Large because one run (start, read, keep, stop, judge) is one sequence whose order matters.
"""

import contextlib
import hashlib
import mimetypes
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, field

from dihedral.bridge.errors import StoreError
from dihedral.bridge.settings import PREFIX, environment
from dihedral.bridge.tasks.models import file_name
from dihedral.bridge.tasks.registry import MIB, TaskContext, TaskError, task
from dihedral.data_plane.engines import tools
from dihedral.data_plane.engines.tools import Output, ToolSettings, ToolsSettings
from dihedral.data_plane.process_groups import descendants, members, runs, signal_group
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

BUCKET = "loras"
BUCKETS = {"video": "videos", "image": "videos", "audio": "voices"}
LOOK_SECONDS = 0.1  # at a cancel
CHUNK_BYTES = 64 * 1024  # a pipe's capacity on Linux
GATHER_SECONDS = (
    0.2  # what a trainer prints meanwhile is read at once: waking up for each line costs more than reading it
)
SCAN_SECONDS = 2.0  # between looks at files; a checkpoint that has not changed since the last look may be whole
SCAN_SHARE = 20  # times what a scan takes lies between two
EVENT_SECONDS, EVENT_SHARE = 1.0, 0.01  # of the time gone between two events of a loss or a preview
LOG_BYTES = 64 * 2**20  # of the artifact; what is printed behind it is read and forgotten
LINES, LINES_PER_SECOND = 1_000, 10.0  # that become log events
TAIL_LINES = 40
SAMPLES_LOOKED_AT = 8  # the newest ones: one of them has been written to its end
MOST_FILES = 1_000
LEFT_BYTES = 256 * MIB  # that a run leaves free on the disk
OUT_OF_MEMORY = re.compile(r"out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
NO_SPACE = re.compile(r"No space left on device|Disk quota exceeded", re.IGNORECASE)
LAUNCH = """
import ctypes, os, signal, sys
for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE): signal.signal(each, signal.SIG_DFL)
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]): os._exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


class RunTool(Strict, kw_only=True, rename="camel"):
    tool: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=128,
            description="A name of [tools.NAME]",
            extra_json_schema={"x-after": ["tool", "trainer", "program"]},
        ),
    ]
    config: Annotated[
        dict[str, Any],
        Meta(
            description="Written to the tool's config file, or made its flags; may name {output}, {files}, {files.NAME}, {steps}"
        ),
    ] = field(default_factory=dict)
    files: Annotated[
        dict[str, ModelRef],
        Meta(description="Artifacts, and local models, by the name that they get below {files}, such as a/1.png"),
    ] = field(default_factory=dict)
    steps: Annotated[int, Meta(ge=0, le=10**9, description="Given to the tool as {steps}; 0: the tool knows")] = 0


class RunToolOutput(Strict, kw_only=True, rename="camel"):
    """metrics: the last of each. log: what the tool printed, its first 64 MiB."""

    files: list[ArtifactRef]
    metrics: dict[str, float]
    last_step: int
    exit_code: int
    resumed: bool
    log: ArtifactRef


@task(
    id="run_tool",
    label="Run a tool",
    description="Runs a trainer or another command line that the operator has named; goes on from its checkpoints.",
    kind="gpu",
    memory_by=("tool",),
    memory_of=tools.memory_mib,
    resumable=True,
    timeout_seconds=14 * 86_400,
    settings=ToolsSettings,
    side_effects=("process",),
    keywords=["tool", "trainer", "command line", "external program"],
    examples=[{"tool": "sd-scripts", "config": {"max_train_steps": 1000, "network_dim": 16}, "steps": 1000}],
)
def run_tool(params: RunTool, ctx: TaskContext) -> RunToolOutput:
    """Raises: TaskError `unknown_tool`, `invalid_settings`, `invalid_input`, `tool_missing`, `tool_failed`, `tool_hangs`, `no_result`, `disk_full`,
    `out_of_memory`."""
    settings = tools.named(ctx.settings(ToolsSettings).tools, params.tool)
    if lacking := tools.missing(settings):
        raise TaskError(f"[tools.{params.tool}] lacks {'; '.join(lacking)}", code="tool_missing")
    run = Run(params, settings, ctx)
    run.prepare()
    try:
        run.start()
        exit_code = run.watch()
    finally:
        run.kill()
    return run.outcome(exit_code)


class Run:
    """One tool at work."""

    def __init__(self, params: RunTool, settings: ToolSettings, ctx: TaskContext) -> None:
        self._params = params
        self._settings = settings
        self._ctx = ctx
        self._scratch = ctx.workdir / "scratch"
        self._log = ctx.workdir / "log.txt"
        self._logged = 0
        self._output = Output(settings.progress, params.steps)
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._lines, self._tokens, self._spoken = LINES, 2 * LINES_PER_SECOND, time.monotonic()
        self._chunks: queue.Queue[bytes | None] = queue.Queue(64)  # a tool that floods waits for us
        self._process: subprocess.Popen[bytes] | None = None
        self._resumed = False
        self._began = time.monotonic()
        self._last_events: dict[str, float] = {}
        self._shown = 0.0
        self._seen: dict[Path, tuple[Any, ...]] = {}
        self._kept: tuple[Any, ...] = ()
        self._argv: list[str] = []
        self._others = frozenset(descendants(os.getpid()))  # what a model that is kept warm has started
        self._digest = hashlib.sha256(msgspec.json.encode(params)).hexdigest()

    def prepare(self) -> None:
        """Files, config and command line; the checkpoint of an earlier run lies where that run had it."""
        ctx, settings = self._ctx, self._settings
        folders = {name: self._scratch / name for name in ("output", "files", "tmp")}
        for folder in folders.values():
            folder.mkdir(parents=True, exist_ok=True)
        values = {
            "output": str(folders["output"]), "files": str(folders["files"]), "scratch": str(self._scratch), "steps": str(self._params.steps),
            "config": str(self._scratch / f"config.{settings.config_format}"), "python": tools.interpreter(settings),
            "container": tools.container(), "image": settings.image,
        }  # fmt: skip
        for name, ref in self._params.files.items():
            if not all(re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*", part) for part in name.split("/")):
                raise TaskError(f"files: {name!r} cannot be the name of a file", code="invalid_input")
            fetched, target = ctx.fetch(ref), folders["files"] / name
            if not target.suffix:
                target = target.with_suffix(Path(file_name(ref)).suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(ref.local, str):
                if settings.image:
                    raise TaskError("a tool in a container sees no local models", code="invalid_input")
                target.symlink_to(fetched)
            else:
                fetched.rename(target)
            values[f"files.{name}"] = str(target)
        config = tools.placed(self._params.config, values)
        Path(values["config"]).write_text(tools.config_text(config, settings.config_format))
        self._argv = tools.command(
            settings.argv, values, tools.arguments_of(config) if "{arguments}" in settings.argv else []
        )
        if (checkpoint := self._restored()) is not None:
            self._resumed = True
            self._argv += tools.command(settings.resume, values | {"checkpoint": str(checkpoint)}, [])
            ctx.log(f"goes on from {checkpoint.relative_to(self._scratch)}")

    def _restored(self) -> Path | None:
        kept = self._ctx.checkpoint(BUCKET) if self._settings.checkpoints else None
        if kept is None:
            return None
        try:
            with tarfile.open(kept) as archive:
                member = archive.next()
                read = archive.extractfile(member) if member is not None else None
                about = msgspec.json.decode(read.read()) if read is not None else {}
                if about.get("digest") != self._digest:
                    return None
                archive.extractall(self._scratch, filter="data")
        except (tarfile.TarError, OSError, msgspec.DecodeError, AttributeError) as error:
            self._ctx.log(f"the checkpoint cannot be read, the tool begins anew: {error}", "warning")
            return None
        checkpoint: Path = self._scratch / about["path"]
        self._kept = tools.signature(checkpoint)
        return checkpoint

    def start(self) -> None:
        settings = self._settings
        own = {
            name: value for name, value in environment({}).items() if not name.startswith(PREFIX)
        }  # no secret of this worker
        given = own | {"PYTHONUNBUFFERED": "1", "TMPDIR": str(self._scratch / "tmp")} | settings.env
        cwd = Path(settings.cwd).expanduser() if settings.cwd else self._scratch
        self._ctx.log(f"runs {settings.label or self._argv[0]}")
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", LAUNCH, str(os.getpid()), *self._argv],
            cwd=cwd, env=given, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, name="tool output", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        """Reads until every process that has the pipe is gone."""
        assert self._process is not None
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        with contextlib.suppress(OSError, ValueError):
            while data := os.read(descriptor, CHUNK_BYTES):
                self._chunks.put(data)
                if len(data) < CHUNK_BYTES:
                    time.sleep(GATHER_SECONDS)
        self._chunks.put(None)

    # While it runs --------------------------------------------------------------------------------------------------

    def watch(self) -> int:
        """Returns the exit code. Raises TaskCancelled, once it is stopped and its checkpoint is kept; TaskError `tool_hangs`, `disk_full`."""
        assert self._process is not None
        heard = scanned = time.monotonic()
        pause = SCAN_SECONDS
        while (code := self._process.poll()) is None:
            now = time.monotonic()
            if self._drain(LOOK_SECONDS):
                heard = now
            if self._ctx.cancelled or self._ctx.finish_early:
                return self._stop()
            if now - scanned >= pause:
                self._scan()
                scanned = time.monotonic()
                pause = max(SCAN_SECONDS, SCAN_SHARE * (scanned - now))
            quiet = self._settings.quiet_seconds
            if quiet and now - heard > quiet:
                raise TaskError(
                    f"the tool has printed nothing for {quiet:g} s (quietSeconds)",
                    code="tool_hangs",
                    details=self._details(),
                )
        return code

    def _stop(self) -> int:
        """Stops the tool by its configured signal, then by SIGKILL; the files that it has saved by then are kept."""
        assert self._process is not None
        group = self._process.pid
        signal_group(group, signal.Signals[f"SIG{self._settings.stop_signal}"])
        until = time.monotonic() + self._settings.grace_seconds
        while self._process.poll() is None and time.monotonic() < until:
            self._drain(LOOK_SECONDS)
        self.kill()
        self._keep_newest(settled=True)
        self._ctx.check_cancelled()
        return 0  # requested to finish: what it has saved is the result

    def kill(self) -> None:
        """Kills the tool: nothing of it runs afterwards, in any session."""
        if self._process is None:
            return
        group = self._process.pid
        until = time.monotonic() + 10
        while time.monotonic() < until:
            below = [pid for pid in descendants(os.getpid()) if runs(pid) and pid not in self._others]
            if not members(group) and not below:
                break
            signal_group(group, signal.SIGKILL)
            for pid in below:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.005)
        self._process.wait()
        while self._drain(0) or (self._reader.is_alive() and time.monotonic() < until + 10):
            pass
        if not self._reader.is_alive() and self._process.stdout is not None:
            self._process.stdout.close()

    def _drain(self, seconds: float) -> bool:
        """Reads what has come, waiting so long for the first of it."""
        try:
            data = self._chunks.get(timeout=seconds or LOOK_SECONDS / 10)
        except queue.Empty:
            return False
        if data is None:
            if seconds:
                time.sleep(seconds)  # it has closed its output and goes on
            return False
        if self._logged < LOG_BYTES:
            with self._log.open("ab") as log:
                log.write(data[: LOG_BYTES - self._logged])
            self._logged += len(data)
        for line, is_bar in self._output.feed(data):
            self._line(line, is_bar)
        self._tell()
        return True

    def _line(self, line: str, is_bar: bool) -> None:
        if is_bar:
            return
        self._tail.append(line[:500])
        now = time.monotonic()
        self._tokens = min(5 * LINES_PER_SECOND, self._tokens + (now - self._spoken) * LINES_PER_SECOND)
        self._spoken = now
        if self._lines and self._tokens >= 1:
            self._lines -= 1
            self._tokens -= 1
            self._ctx.log(line[:2000])

    def _tell(self) -> None:
        self._ctx.progress(0.99 * self._output.fraction)
        loss = self._output.loss
        if loss is not None and self._may("loss"):
            self._ctx.data("loss", {"step": self._output.step, "loss": loss})

    def _may(self, name: str) -> bool:
        gone = time.monotonic() - self._began
        if gone - self._last_events.get(name, -EVENT_SECONDS) < max(EVENT_SECONDS, EVENT_SHARE * gone):
            return False
        self._last_events[name] = gone
        return True

    def _scan(self) -> None:
        self._check_disk()
        self._show_newest(ended=False)
        self._keep_newest(settled=False)

    def _show_newest(self, *, ended: bool) -> None:
        samples = [path for path in tools.found(self._scratch, self._settings.samples) if path.is_file()]
        settled = [path for path in samples[-SAMPLES_LOOKED_AT:] if self._settled(path) or ended]
        if settled and (newest := tools.changed(settled[-1])) > self._shown and (ended or self._may("preview")):
            self._shown = newest
            self._preview(settled[-1])

    def _preview(self, sample: Path) -> None:
        kind = mimetypes.guess_type(sample.name)[0] or "application/octet-stream"
        try:
            kept = self._ctx.keep_preview("videos", f"preview{sample.suffix.lower()[:8]}", sample, kind)
        except (StoreError, OSError) as error:
            self._ctx.log(f"no preview: {error}", "warning")
        else:
            self._ctx.data("preview", {"bucket": kept.bucket, "key": kept.key, "frame": self._output.step})

    def _settled(self, path: Path) -> bool:
        now = tools.signature(path)
        before, self._seen[path] = self._seen.get(path), now
        return bool(now) and now == before

    def _keep_newest(self, *, settled: bool) -> None:
        """Keeps the newest that are whole. `settled`: nothing writes any more, so the formats alone decide what is whole."""
        whole: list[Path] = []
        for path in reversed(tools.found(self._scratch, self._settings.checkpoints)):
            found = tools.signature(path)
            if not whole and found == self._kept and found:
                return
            if (settled or self._settled(path)) and tools.is_whole(path):
                whole.append(path)
            if len(whole) == self._settings.keep_checkpoints:
                break
        if whole:
            self._kept = tools.signature(whole[0])
            self._keep(whole)

    def _keep(self, paths: list[Path]) -> None:
        """`paths`: the first is what a later run goes on from; others are kept beside it for tools that look back at them, such as for the best."""
        relative = paths[0].relative_to(self._scratch)
        about = self._ctx.workdir / "about.json"
        about.write_bytes(
            msgspec.json.encode({"digest": self._digest, "path": str(relative), "step": self._output.step})
        )
        packed = self._ctx.workdir / "checkpoint.tar"
        try:
            with tarfile.open(packed, "w") as archive:
                archive.add(about, "dihedral.json")
                for path in paths:
                    archive.add(path, str(path.relative_to(self._scratch)))
            self._ctx.keep_checkpoint(BUCKET, packed)
        except (OSError, StoreError) as error:  # such as a checkpoint that the tool has just pruned
            self._ctx.log(f"the checkpoint {relative} is not kept: {error}", "warning")
        else:
            self._ctx.data("checkpoint", {"path": str(relative), "step": self._output.step})
        finally:
            packed.unlink(missing_ok=True)

    def _check_disk(self) -> None:
        limit = self._settings.disk_mib
        used = sum(size for _, size, _ in tools.signature(self._scratch)) if limit else 0
        if used > limit * MIB or shutil.disk_usage(self._scratch).free < LEFT_BYTES:
            raise TaskError(
                f"the tool has written {used // MIB} MiB, more than diskMib allows or the disk has",
                code="disk_full",
                details=self._details(),
            )

    # At its end -----------------------------------------------------------------------------------------------------

    def outcome(self, exit_code: int) -> RunToolOutput:
        """An exit code of 0 without a result is a failure, as some tools end so."""
        for line, is_bar in self._output.end():
            self._line(line, is_bar)
        told = "\n".join(self._tail)
        self._show_newest(ended=True)
        if exit_code != 0:
            code = (
                "out_of_memory"
                if OUT_OF_MEMORY.search(told)
                else "disk_full"
                if NO_SPACE.search(told)
                else "tool_failed"
            )
            how = (
                f"was ended by {signal.Signals(-exit_code).name}"
                if exit_code < 0
                else f"ended with exit code {exit_code}"
            )
            last = self._tail[-1] if self._tail else "it printed nothing"
            self._keep_newest(settled=True)
            raise TaskError(f"the tool {how}: {last}", code=code, details=self._details() | {"exitCode": exit_code})
        results = [file for path in tools.found(self._scratch, self._settings.result) for file in tools.files_in(path)]
        results = [file for file in dict.fromkeys(results) if file.stat().st_size and self._is_result(file)]
        if not results or len(results) > MOST_FILES:
            what = f"{len(results)} files" if results else "no file"
            raise TaskError(
                f"the tool ended well, but left {what} at {', '.join(self._settings.result)}",
                code="no_result",
                details=self._details(),
            )
        files = [self._stored(number, file) for number, file in enumerate(results)]
        self._log.touch()
        log = self._ctx.store("inputs", "log.txt", self._log, "text/plain")
        self._ctx.drop_checkpoint(BUCKET)
        self._ctx.progress(1.0)
        return RunToolOutput(
            files=files,
            metrics=self._output.metrics,
            last_step=self._output.step,
            exit_code=exit_code,
            resumed=self._resumed,
            log=ArtifactRef(bucket=log.bucket, key=log.key),
        )

    def _is_result(self, file: Path) -> bool:
        return tools.is_film(file) if file.suffix.lower() in (".mp4", ".mkv", ".webm") else tools.is_whole(file)

    def _stored(self, number: int, file: Path) -> ArtifactRef:
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        name = re.sub(r"[^A-Za-z0-9._-]", "_", f"{number}-{file.name}")[:120]
        meta = self._ctx.store(BUCKETS.get(kind.partition("/")[0], BUCKET), name, file, kind)
        return ArtifactRef(bucket=meta.bucket, key=meta.key)

    def _details(self) -> dict[str, Any]:
        return {"tail": "\n".join(self._tail)[-8000:], "lastStep": self._output.step}
