"""`dihedral up`: everything on one machine. A private server, the control plane and workers, as children of one process.

The children are configured through their environment, which no other user of the machine can read (a command line all can).
Each is the leader of a process group, so that Ctrl-C in the terminal reaches this process alone, which then stops them in
this order: workers first, because what they still report must be committed; then the control plane, whose clients may watch until
then; the server last. A child that dies is started again after a pause that grows; one that refuses to start as it was
set up (exit code 2 to 4 before it was ever ready) ends `up` with its reason.

UpError
├── DataDirInUse     another `dihedral up` runs there
└── CannotStart      the data directory, the port, or how a child was set up
beside them SettingsError and ServerUnavailable of bridge.errors, also where a child was the one to find out.

Large because one stack is started, watched and stopped by one class.
"""

import asyncio
import contextlib
import fcntl
import os
import re
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import redis

from dihedral import reload
from dihedral.bridge import settings as settings_
from dihedral.bridge.artifacts import agreement
from dihedral.bridge.errors import DihedralError, ServerUnavailable, SettingsError
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, connect
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.fabric.leases import reap_worker
from dihedral.bridge.hosts import is_loopback
from dihedral.data_plane.process_groups import die_with_parent, kill_group, signal_group
from dihedral.schemas.structs.settings import ArtifactsSettings, Settings
from dihedral.server import EmbeddedServer, last_line

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.1, 30.0  # its start takes longer, and what it ran waits for it
CALM_SECONDS = 10.0  # a child that ran so long had a healthy start: its end is no failed start
POLL_SECONDS = 0.05
SERVER_LOOK_SECONDS = 0.25
READY_SECONDS = 120.0  # a cold CUDA installation takes its time
CONTROL_STOP_SECONDS = 10.0
BURY_SECONDS = 5.0
STOP_MARGIN_SECONDS = 5.0  # over the drain: to release nodes and end the slots
STORE_FILE = "store.json"
LOG_BYTES = 10 * 1024 * 1024  # a larger log is moved aside, one generation
ROTATE_SECONDS = 10.0

DEFAULTS: Mapping[str, Any] = {
    "jobs.ttl_seconds": 7 * 24 * 3600,  # one person's machine: last week's jobs are still needed
    "jobs.drain_seconds": 3.0,  # nodes go back to the queue and on at the next `up`; a user who presses Ctrl-C does not wait half a minute
}
"""The values that differ from the defaults of the settings; file, environment and flags overrule them."""

Say = Callable[[str], None]


class UpError(DihedralError):
    pass


class DataDirInUse(UpError):
    pass


class CannotStart(UpError):
    pass


REFUSALS: Mapping[int, type[DihedralError]] = {2: SettingsError, 3: CannotStart, 4: ServerUnavailable}
"""The error for each exit code of a child that was never ready: its settings are wrong, and a restart would fail in the same way."""


class Options(msgspec.Struct, kw_only=True):
    """`port` 0: any free one. `slots` 0: as many as the device has. `redis_url` None: the embedded server.

    `simulate_gpus`: as `worker.simulateGpus`; all workers share these devices, as they would real ones.
    `reload`: the workers are replaced when a task module changes, the control plane when a pipeline does.
    """

    data_dir: Path = Path("dihedral-data")
    config: Path | None = None
    host: str | None = None
    port: int | None = None
    workers: int = 1
    slots: int | None = None
    simulate_gpus: str | None = None
    redis_url: str | None = None
    tasks: list[str] = []
    pipelines: str | None = None
    insecure: bool = False
    reload: bool = False


def run(options: Options, *, as_json: bool = False) -> int:
    """Runs until Ctrl-C or SIGTERM; the exit code. Raises what `house` raises."""
    return asyncio.run(_run(options, as_json=as_json))


async def _run(options: Options, *, as_json: bool) -> int:
    stop, hard = asyncio.Event(), asyncio.Event()
    with _signals(stop, hard):
        async with stack(options, say=_say, hard=hard, stop=stop) as up:
            if stop.is_set():
                return 0
            sys.stdout.write(up.as_json() if as_json else up.as_text())
            sys.stdout.flush()
            up.broken.add_done_callback(lambda _: stop.set())
            await stop.wait()
            if up.broken.done():
                raise up.broken.result()
            _say("stopping: workers, control plane, server; jobs go on at the next `dihedral up`. Again: at once.")
    return 0


def _say(text: str) -> None:
    sys.stderr.write(f"dihedral up: {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def _signals(stop: asyncio.Event, hard: asyncio.Event) -> Any:
    """The first signal stops, the second stops at once."""

    def on_signal() -> None:
        (hard if stop.is_set() else stop).set()

    loop = asyncio.get_running_loop()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def stack(
    options: Options, *, say: Say, hard: asyncio.Event | None = None, stop: asyncio.Event | None = None
) -> AsyncIterator["LocalStack"]:
    """A running installation: ready inside the block, gone after it, whatever happens. `hard` set: it goes at once.

    Raises:
        SettingsError, DataDirInUse, CannotStart, ServerNotFound, ServerFailed, ServerUnavailable.
    """
    up = LocalStack(options, say)
    try:
        starting = asyncio.ensure_future(up.start())
        stopped = asyncio.ensure_future((stop or asyncio.Event()).wait())
        await asyncio.wait({starting, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if not starting.done():
            starting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await starting
        yield up
    finally:
        await up.stop(hard or asyncio.Event())


class LocalStack:
    """The server, the control plane and the workers of one data directory."""

    def __init__(self, options: Options, say: Say) -> None:
        self.options = options
        self.data_dir = options.data_dir.absolute()
        self.logs = self.data_dir / "logs"
        self.url = ""
        self.workers: list[dict[str, Any]] = []
        self.broken: asyncio.Future[DihedralError] = asyncio.get_running_loop().create_future()
        self._say = say
        self._lock: IO[str] | None = None
        self._server: EmbeddedServer | None = None
        self._serving: asyncio.Task[None] | None = None
        self._rotating: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._children: list[Child] = []
        self._examples: Child | None = None
        self._environment: dict[str, str] = {}
        self._drain_seconds = 0.0
        self._settings = Settings()

    def as_text(self) -> str:
        slots = sum(worker["slots"] for worker in self.workers)
        device = _devices(self.workers)
        socket_url = self.url.replace("http", "ws", 1)
        return (
            f"Dihedral is up.\n"
            f"  console    {self.url}/\n"
            f"  REST       {self.url}/api/jobs   (reference at {self.url}/docs)\n"
            f"  WebSocket  {socket_url}/ws\n"
            f"  workers    {len(self.workers)} with {slots} slots on {device}\n"
            f"  data       {self.data_dir}   (dihedral logs)\n"
            f"Ctrl-C stops it.\n"
        )

    def as_json(self) -> str:
        document = {"url": self.url, "dataDir": str(self.data_dir), "pid": os.getpid(), "workers": self.workers}
        return msgspec.json.encode(document).decode() + "\n"

    async def start(self) -> None:
        options = self.options
        environ = os.environ
        flags = {
            "control.host": options.host,
            "control.port": options.port,
            "worker.slots": options.slots,
            "worker.tasks": options.tasks or None,
            "worker.simulate_gpus": options.simulate_gpus,
            "redis.url": options.redis_url,
            "pipelines.dir": options.pipelines,
            "control.insecure": options.insecure or None,
        }
        decided = {path: value for path, value in flags.items() if value is not None}
        given = settings_.given(options.config, environ) | decided.keys()
        gpus = self.data_dir / "gpus"
        defaults = {
            **DEFAULTS,
            "artifacts.directory": str(self.data_dir / "artifacts"),
            "worker.simulate_directory": str(gpus),
        }
        decided |= {path: value for path, value in defaults.items() if path not in given}
        loaded = settings_.load(options.config, environ, decided)
        self._drain_seconds = loaded.jobs.drain_seconds
        if "worker.rehearsals" not in given:
            decided["worker.rehearsals"] = is_loopback(loaded.control.host)
        self._take_data_dir()
        shutil.rmtree(gpus, ignore_errors=True)  # simulated devices begin anew, with their scripted faults
        port = _port(loaded.control.host, loaded.control.port)
        decided["control.port"] = port
        if "redis.url" in given:
            await _check_reachable(loaded.redis.url)
        else:
            self._server = EmbeddedServer(self.data_dir / "redis", self.logs / "server.log")
            self._server.start()
            self._serving = asyncio.create_task(self._keep_server(self._server), name="server")
            decided["redis.url"] = self._server.url
            agreement.forget(self._server.url)
        self.url = _address(loaded.control.host, port)
        self._settings = settings_.load(options.config, environ, decided)
        note_store(self.data_dir, self._settings.artifacts)
        if options.reload and not (self._settings.worker.tasks or self._settings.pipelines.dir):
            raise SettingsError(
                "--reload watches the modules of --tasks and the folder of --pipelines, and there are none"
            )
        environment = self._environment = settings_.environment(decided)
        control = Child("control", ["dihedral.control_plane"], options.config, environment, self.logs)
        workers = self._new_workers()
        self._rotating = asyncio.create_task(self._rotate_logs(), name="logs")
        self._children = [control, *workers]
        for child in self._children:
            child.keep(self._say, self._on_refusal, self._on_death)
        await self._until_ready(workers, self.broken)
        for child in self._children:
            child.has_been_ready = True
        self._examples = Child("examples", ["dihedral.example_inputs"], options.config, environment, self.logs)
        self._examples.once()
        if options.reload:
            self._reloading = asyncio.create_task(self._reload(), name="reload")

    def _new_workers(self) -> list["Child"]:
        return [
            Child(f"worker-{number}", ["dihedral.data_plane"], self.options.config, self._environment, self.logs)
            for number in range(1, self.options.workers + 1)
        ]

    async def stop(self, hard: asyncio.Event) -> None:
        if self._reloading is not None:
            self._reloading.cancel()
            await asyncio.wait({self._reloading})
        control = [child for child in self._children if child.name == "control"]
        workers = [child for child in self._children if child not in control]
        if self._examples is not None:
            await self._examples.end(1.0, hard, self._say)
        await asyncio.gather(
            *(each.end(self._drain_seconds + STOP_MARGIN_SECONDS, hard, self._say) for each in workers)
        )
        await asyncio.gather(
            *(each.end(self._drain_seconds + CONTROL_STOP_SECONDS, hard, self._say) for each in control)
        )
        for task in (self._serving, self._rotating):
            if task is not None:
                task.cancel()
        if self._server is not None:
            await asyncio.to_thread(self._server.stop)
        if self._lock is not None:
            self._lock.close()
        self.broken.cancel()

    def _take_data_dir(self) -> None:
        """Takes the lock of the directory, which allows one `up`; it ends with this process, however that ends."""
        try:
            make_private(self.data_dir)
            self.logs.mkdir(exist_ok=True)
            self._lock = (self.data_dir / "lock").open("a+")
        except OSError as error:
            raise CannotStart(f"the data directory {self.data_dir} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            holder = self._lock.read().strip() or "unknown"
            self._lock.close()
            self._lock = None
            raise DataDirInUse(
                f"the data directory {self.data_dir} is in use by another `dihedral up` (process {holder})"
            ) from None
        self._lock.truncate(0)
        self._lock.write(f"{os.getpid()}\n")
        self._lock.flush()

    async def _reload(self) -> None:
        """Replaces the workers when their code has changed: new ones start first, and only when they are ready the old ones drain.

        A control plane has its port to itself, so it is stopped and started; its clients reconnect.
        """
        tasks, folder = self._settings.worker.tasks, self._settings.pipelines.dir
        watched = Path(folder) if folder else None
        async for changed in reload.changes(tasks, watched, Path.cwd()):
            names = ", ".join(path.name for path in changed[:3]) + (" …" if len(changed) > 3 else "")
            self._say(f"{names} changed")
            found = await reload.check(tasks, folder, self._environment)
            if found.error:
                self._say(f"not reloaded, what ran goes on: {found.error}")
                continue
            is_code = any(path.suffix == ".py" for path in changed)
            if any(path.suffix == ".json" for path in changed) or found.has_light_control_tasks:
                await self._children[0].restart(self._drain_seconds + CONTROL_STOP_SECONDS)
            if is_code and not await self._replace_workers():
                continue
            with contextlib.suppress(CannotStart):
                await self._until_ready(self._children[1:], self.broken)
            self._say("reloaded")

    async def _replace_workers(self) -> bool:
        """Returns whether the new workers run; otherwise the old ones do."""
        refused: asyncio.Future[DihedralError] = asyncio.get_running_loop().create_future()

        def refuse(error: DihedralError) -> None:
            if not refused.done():
                refused.set_result(error)

        old, new = self._children[1:], self._new_workers()
        self._children += new
        for child in new:
            child.keep(self._say, refuse, self._on_death)
        try:
            await self._until_ready(new, refused)
        except DihedralError as error:
            self._say(f"not reloaded, what ran goes on: {error}")
            gone, stays = new, old
        else:
            gone, stays = old, new
        for child in stays:
            child.has_been_ready = True
        seconds = self._drain_seconds + STOP_MARGIN_SECONDS
        await asyncio.gather(*(each.end(seconds, asyncio.Event(), self._say) for each in gone))
        self._children = [self._children[0], *stays]
        return stays is new

    async def _until_ready(self, workers: list["Child"], broken: asyncio.Future[DihedralError]) -> None:
        """Waits until the control plane answers and one worker of this run has announced itself; an earlier run's may still be listed.

        Redis lists the workers here: the control plane lists them only for callers with a key. Raises the error of `broken`, and CannotStart.
        """
        import httpx  # 0.1 s that `dihedral --help` need not pay

        deadline = time.monotonic() + READY_SECONDS
        redis_client = connect(self._settings.redis.url, timeout_seconds=5)
        jobs = Jobs(redis_client, self._settings)
        async with (
            contextlib.aclosing(redis_client),
            httpx.AsyncClient(base_url=self.url, timeout=5, trust_env=False) as client,
        ):
            while True:
                if broken.done():
                    raise broken.result()
                with contextlib.suppress(httpx.HTTPError, *CONNECTION_ERRORS, redis.RedisError):
                    (await client.get("/health/live")).raise_for_status()
                    pids = {child.pid for child in workers}
                    ours = [each for each in await jobs.workers.alive() if each.plane == "python" and each.pid in pids]
                    self.workers = msgspec.to_builtins(ours)
                    if len(self.workers) == len(workers) or (self.workers and time.monotonic() > deadline):
                        return
                if time.monotonic() > deadline:
                    raise CannotStart(f"no worker was ready after {READY_SECONDS:g} s; see {self.logs}")
                await asyncio.sleep(POLL_SECONDS)

    async def _keep_server(self, server: EmbeddedServer) -> None:
        """Starts the server again at the same place: its clients have the socket, and its data is in the append-only file."""
        while True:
            await asyncio.sleep(SERVER_LOOK_SECONDS)
            if server.process is not None and server.process.poll() is None:
                continue
            self._say(f"the server is gone; starting it again (see {self.logs / 'server.log'})")
            try:
                # In this thread: its death signal is bound to the thread that starts it.
                server.start()
            except (DihedralError, OSError) as error:
                self._on_refusal(error if isinstance(error, DihedralError) else CannotStart(str(error)))
                return

    async def _rotate_logs(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_SECONDS)
            for log in self.logs.glob("*.log"):
                with contextlib.suppress(OSError):  # a full disk
                    await asyncio.to_thread(rotate, log)

    async def _on_death(self, pid: int) -> None:
        """Reaps a dead worker: its group is killed, so its nodes continue on other workers at once; without a server, when its leases end."""
        with contextlib.suppress(*CONNECTION_ERRORS, redis.RedisError, TimeoutError):
            async with asyncio.timeout(BURY_SECONDS):
                await reap_worker(self._settings, pid)

    def _on_refusal(self, error: DihedralError) -> None:
        if not self.broken.done():
            self.broken.set_result(error)


class Child:
    """One `python -P -m` process and its log; started again when it dies, ended with its process group."""

    def __init__(
        self, name: str, module: list[str], config: Path | None, environment: dict[str, str], logs: Path
    ) -> None:
        self.name = name
        self.log = logs / f"{name}.log"
        self.has_been_ready = False
        self._command = [sys.executable, "-P", "-m", *module]
        if config is not None:
            self._command += ["--config", str(config.absolute())]
        self._environment = environment
        self._process: asyncio.subprocess.Process | None = None
        self._keeping: asyncio.Task[Any] | None = None
        self._ending = False
        self._restarting = False

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def keep(
        self, say: Say, on_refusal: Callable[[DihedralError], None], on_death: Callable[[int], Awaitable[None]]
    ) -> None:
        self._keeping = asyncio.create_task(self._keep(say, on_refusal, on_death), name=self.name)

    def once(self) -> None:
        self._keeping = asyncio.create_task(self._run(), name=self.name)

    async def _keep(
        self, say: Say, on_refusal: Callable[[DihedralError], None], on_death: Callable[[int], Awaitable[None]]
    ) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            begun = time.monotonic()
            code = await self._run()
            if self._ending:
                return
            if self._restarting:
                self._restarting = False
                continue
            how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
            if not self.has_been_ready and code in REFUSALS:
                said = re.sub(r"^dihedral \w+: ", "", last_line(self.log))
                on_refusal(REFUSALS[code](said or f"{self.name} {how}"))
                return
            if time.monotonic() - begun > CALM_SECONDS:  # it was healthy before it died
                pause = FIRST_PAUSE_SECONDS
            say(f"{self.name} {how}; starting it again in {pause:g} s (see {self.log})")
            assert self.pid is not None
            await on_death(self.pid)
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECONDS)

    async def _run(self) -> int:
        """Runs the child from start to end; what is left of its group is killed, so that no two generations work side by side."""
        rotate(self.log)
        parent = os.getpid()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=0,
                preexec_fn=lambda: die_with_parent(parent, signal.SIGTERM),
            )
        code = await self._process.wait()
        await kill_group(self._process.pid)
        return code

    async def restart(self, seconds: float) -> None:
        """Stops the process, by SIGKILL after `seconds`; `_keep` starts the next one."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        self._restarting = True
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(seconds):
                await process.wait()
        except TimeoutError:
            signal_group(process.pid, signal.SIGKILL)
            await process.wait()

    async def end(self, seconds: float, hard: asyncio.Event, say: Say) -> None:
        """Sends SIGTERM, and SIGKILL to the group after `seconds` or when `hard` is set. Does not start it again."""
        self._ending = True
        if self._keeping is None:
            return
        process = self._process
        if process is None or process.returncode is not None:
            self._keeping.cancel()
        else:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            harder = asyncio.ensure_future(hard.wait())
            await asyncio.wait({self._keeping, harder}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            harder.cancel()
            if not self._keeping.done():
                say(f"{self.name} is killed" + ("" if hard.is_set() else f": it did not stop in {seconds:g} s"))
                signal_group(process.pid, signal.SIGKILL)
        await asyncio.wait({self._keeping})


def _devices(workers: list[dict[str, Any]]) -> str:
    """Returns the devices of this machine, which its workers share."""
    most = max(workers, key=lambda worker: len(worker.get("devices", ())))
    count = len(most.get("devices", ()))
    return f"{count} × {most['device']}" if count > 1 else str(most["device"])


def _port(host: str, port: int) -> int:
    """A port that can be listened on now. Raises: CannotStart."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStart(f"{host}:{port} cannot be listened on: {error.strerror or error}") from error
        return int(probe.getsockname()[1])


def _address(host: str, port: int) -> str:
    """Returns the address at which this machine reaches a server that listens on `host`."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


async def _check_reachable(url: str) -> None:
    try:
        client = connect(url, timeout_seconds=5)
    except ValueError as error:
        raise SettingsError(f"redis.url: is no Redis URL: {error}") from error
    try:
        await client.ping()
    except (*CONNECTION_ERRORS, DihedralError) as error:
        raise ServerUnavailable(f"the Redis at {without_password(url)} cannot be reached: {error}") from error
    finally:
        await client.aclose()


def without_password(url: str) -> str:
    """Cuts the URL at the last `@`, since a password may contain an `@` or `/` that is not escaped."""
    scheme, divider, rest = url.partition("://")
    secret, at, place = rest.rpartition("@")
    return f"{scheme}{divider}{secret.partition(':')[0]}:***@{place}" if at and divider and ":" in secret else url


def note_store(data_dir: Path, artifacts: ArtifactsSettings) -> None:
    """Writes into the data directory where its artifacts are, for `dihedral artifacts prune --data-dir`; no secret."""
    place = {
        "store": str(artifacts.store),
        "directory": str(Path(artifacts.directory).absolute()),
        "endpoint": artifacts.endpoint,
    }
    (data_dir / STORE_FILE).write_bytes(msgspec.json.encode(place) + b"\n")


def noted_store(data_dir: Path) -> dict[str, str]:
    """Returns what `note_store` wrote; of a directory of an older version its own folder."""
    with contextlib.suppress(OSError, msgspec.DecodeError):
        return msgspec.json.decode((data_dir / STORE_FILE).read_bytes(), type=dict[str, str])
    return {"store": "local", "directory": str(data_dir / "artifacts"), "endpoint": ""}


def make_private(data_dir: Path) -> None:
    """Restricts the directory to its owner, with all that is made in it from now on; one of an earlier version is tightened. Raises OSError.

    A folder that was there and holds other things than ours keeps its mode, and only our folders in it are closed.
    """
    os.umask(0o077)
    ours = not data_dir.exists() or (data_dir / "lock").exists() or not any(data_dir.iterdir())
    data_dir.mkdir(parents=True, exist_ok=True)
    for folder in [data_dir] if ours else []:
        folder.chmod(0o700)
    for name in ("redis", "logs", "artifacts", "gpus", "inputs", "output"):
        with contextlib.suppress(FileNotFoundError):
            (data_dir / name).chmod(0o700)


def rotate(log: Path) -> None:
    """Copies a log that has grown large to `.log.1` and empties it: its writers append, and go on at its start."""
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > LOG_BYTES:
            shutil.copyfile(log, log.with_suffix(".log.1"))
            os.truncate(log, 0)
