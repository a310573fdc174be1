"""`dihedral up`: one machine, one command. Server, control plane and workers as child processes, kept alive, ended in order.

The end: workers first (they drain for a moment and give the rest back), then the control plane, then the server, which has
then stored everything. A second `up` on the same data directory goes on with the jobs of the first.
"""

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import redis

from bridge.errors import DihedralError, ServerUnavailable
from dihedral.server import EmbeddedServer, dies_with_parent

WEEK_SECONDS = "604800"
DRAIN_SECONDS = "5"
READY_SECONDS = 60.0
EXAMPLES = {"picture": "examples/picture.png", "recording": "examples/recording.wav"}


class CannotStart(DihedralError):
    """One line that says what and why."""


class Options(msgspec.Struct, kw_only=True):
    """`workers`: processes of the data plane; `slots` 0 and `redis_url` None: chosen by themselves."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 8000
    workers: int = 1
    slots: int = 0
    redis_url: str | None = None
    tasks: list[str] = []
    config: Path | None = None


class Child:
    """A child process in a session of its own, with a log file; started again when it dies, after a growing pause."""

    def __init__(self, name: str, command: list[str], log: Path, environ: Mapping[str, str]) -> None:
        self.name = name
        self._command = command
        self._log = log
        self._environ = dict(environ)
        self._process: subprocess.Popen[bytes] | None = None
        self._pause = 0.2
        self._started = 0.0
        self._again_at: float | None = None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self._environ,
                start_new_session=True, preexec_fn=dies_with_parent(),
            )  # fmt: skip
        self._started = time.monotonic()
        self._again_at = None

    def look(self, say: Callable[[str], None]) -> None:
        """Starts the child again when it is gone and its pause is over."""
        if self._process is None or self._process.poll() is None:
            return
        now = time.monotonic()
        if self._again_at is None:
            _kill_group(self._process.pid)
            if now - self._started > 30:
                self._pause = 0.2
            self._again_at = now + self._pause
            say(f"{self.name} has died ({_how(self._process.returncode)}); starting it again. Its log: {self._log}")
            self._pause = min(self._pause * 2, 10.0)
        if now >= self._again_at:
            self.start()

    def exit_code(self) -> int | None:
        return None if self._process is None else self._process.poll()

    def last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            return lines[-1] if lines else ""
        return ""

    def signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def wait(self, seconds: float) -> bool:
        if self._process is None:
            return True
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        _kill_group(self._process.pid)
        return True

    def kill(self) -> None:
        if self._process is not None:
            _kill_group(self._process.pid)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(5)


class Up:
    """start() returns when jobs can run; look() keeps the children alive; stop() ends them in order."""

    def __init__(self, options: Options, say: Callable[[str], None] = print) -> None:
        self.options = options
        self._say = say
        self._data = options.data_dir
        self._lock: IO[str] | None = None
        self._server: EmbeddedServer | None = None
        self._control: Child | None = None
        self.workers: list[Child] = []

    @property
    def url(self) -> str:
        host = "127.0.0.1" if self.options.host in ("0.0.0.0", "::") else self.options.host
        return f"http://{host}:{self.options.port}"

    def start(self) -> None:
        """Raises CannotStart, ServerUnavailable, or the errors of the server."""
        self._take_lock()
        try:
            if self.options.port == 0:
                self.options.port = _free_port(self.options.host)
            else:
                _refuse_busy(self.options.host, self.options.port)
            url = self._redis_url()
            environ = self._environ(url)
            self._seed(environ)
            logs = self._data / "logs"
            python = [sys.executable, "-P", "-m"]
            common = ["--redis-url", url, *(("--config", str(self.options.config)) if self.options.config else ())]
            common += [part for module in self.options.tasks for part in ("--tasks", module)]
            control = [*python, "control_plane", "--host", self.options.host, "--port", str(self.options.port), *common]
            worker = [*python, "data_plane", *common]
            if self.options.slots:
                worker += ["--slots", str(self.options.slots)]
            self._control = Child("the control plane", control, logs / "control.log", environ)
            self.workers = [
                Child(f"worker {n}", worker, logs / f"worker-{n}.log", environ) for n in range(1, self.options.workers + 1)
            ]
            for child in (self._control, *self.workers):
                child.start()
            self._wait_until_ready()
        except BaseException:
            self.stop(hard=True)
            raise

    def look(self) -> None:
        for child in (self._control, *self.workers):
            if child is not None:
                child.look(self._say)
        if self._server is not None and not self._server.alive:
            self._say("the server has died; starting it again")
            self._server.start()

    def stop(self, *, hard: bool = False) -> None:
        """May be called twice. `hard`: nothing drains; the next start goes on with what was running."""
        if not hard:
            for worker in self.workers:
                worker.signal(signal.SIGTERM)
            deadline = time.monotonic() + float(DRAIN_SECONDS) + 10
            for worker in self.workers:
                worker.wait(max(0.1, deadline - time.monotonic()))
            if self._control is not None:
                self._control.signal(signal.SIGTERM)
                self._control.wait(10)
        for child in (*self.workers, self._control):
            if child is not None:
                child.kill()
        if self._server is not None:
            self._server.stop()
        self.workers, self._control, self._server = [], None, None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def kill(self) -> None:
        """A second Ctrl-C."""
        self.stop(hard=True)

    # Start ----------------------------------------------------------------------------------------------------------

    def _take_lock(self) -> None:
        try:
            self._data.mkdir(parents=True, exist_ok=True)
            (self._data / "logs").mkdir(exist_ok=True)
            lock = (self._data / "lock").open("a+")
        except OSError as error:
            raise CannotStart(f"the data directory {self._data} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            lock.close()
            raise CannotStart(f"the data directory {self._data} is in use by dihedral up, pid {owner}") from error
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock

    def _redis_url(self) -> str:
        if self.options.redis_url is None:
            self._server = EmbeddedServer(self._data)
            self._server.start()
            return self._server.url
        client = redis.Redis.from_url(self.options.redis_url, socket_connect_timeout=5, socket_timeout=5)
        try:
            client.ping()
        except (redis.RedisError, OSError, ValueError) as error:
            raise ServerUnavailable(f"Redis at --redis-url cannot be reached: {error}") from error
        finally:
            client.close()
        return self.options.redis_url

    def _environ(self, url: str) -> dict[str, str]:
        chosen = {
            "DIHEDRAL_ARTIFACTS__DIRECTORY": str((self._data / "artifacts").resolve()),
            "DIHEDRAL_JOBS__TTL_SECONDS": WEEK_SECONDS,
            "DIHEDRAL_JOBS__DRAIN_SECONDS": DRAIN_SECONDS,
        }
        return {**chosen, **os.environ, "DIHEDRAL_REDIS__URL": url}

    def _seed(self, environ: Mapping[str, str]) -> None:
        """Puts the example inputs into the store, once: `POST /api/train` uses them."""
        import asyncio

        from bridge import settings
        from bridge.artifacts import ArtifactNotFound, open_store

        found = settings.load(self.options.config, environ, {})

        async def put() -> None:
            store = open_store(found.artifacts)
            try:
                await store.meta("inputs", EXAMPLES["recording"])
            except ArtifactNotFound:
                from dihedral import examples

                made = examples.make(self._data / "examples")
                for name, key in EXAMPLES.items():
                    kind = "image/png" if key.endswith("png") else "audio/wav"
                    await store.put("inputs", key, made[name], kind)
            finally:
                await store.close()

        asyncio.run(put())

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while not self._serves():
            for child in (self._control, *self.workers):
                assert child is not None
                if child.exit_code() is not None:
                    raise CannotStart(f"{child.name} ended at once: {child.last_words()}")
            if time.monotonic() > deadline:
                raise CannotStart(f"nothing was ready after {READY_SECONDS:g} s; the logs are in {self._data / 'logs'}")
            time.sleep(0.05)

    def _serves(self) -> bool:
        try:
            found = json.loads(_get(f"{self.url}/api/workers"))
        except (OSError, ValueError, urllib.error.URLError):
            return False
        pids = {worker["pid"] for worker in found["workers"] if worker["plane"] == "python"}
        return all(worker.pid in pids for worker in self.workers)


def run(options: Options) -> int:
    """Serves until Ctrl-C or SIGTERM. Raises what Up.start raises."""
    up = Up(options, say=lambda line: print(line, flush=True))
    asked: list[int] = []

    def stop(number: int, _: Any) -> None:
        asked.append(number)
        if len(asked) > 1:
            up.kill()
            raise SystemExit(130)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    up.start()
    print(f"Dihedral is up at {up.url}  (REST, WebSocket /ws, OpenAPI /schema; data in {options.data_dir})", flush=True)
    print(f"Submit with: dihedral submit --pipeline simulate --watch{_hint(up.url)}. Ctrl-C stops.", flush=True)
    try:
        while not asked:
            up.look()
            time.sleep(0.2)
    finally:
        print("stopping: workers, control plane, server; jobs go on at the next start", flush=True)
        up.stop()
    return 0


def _hint(url: str) -> str:
    return "" if url == "http://127.0.0.1:8000" else f" --url {url}"


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return bytes(answer.read())


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def _refuse_busy(host: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(f"{host}:{port} cannot be listened on: {error.strerror}; choose another --port") from error


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _how(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
