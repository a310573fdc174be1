"""A worker of the data plane, put together: `bridge.worker` takes deliveries, slots run what is heavy, a small HTTP server reports.

Order of the end: the worker drains first, since only it knows what runs; then the HTTP server goes (it answered "draining"
until now), then the slots, which have nothing left to do. A hard stop skips the first: the slots are killed with what runs
in them, and the leases of those nodes run out elsewhere.
"""

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import redis
import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST

from dihedral.bridge import logs, metrics, tracing
from dihedral.bridge.artifacts import agreement, open_store
from dihedral.bridge.artifacts.counted import note_transfer
from dihedral.bridge.artifacts.measured import MeasuredStore
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.errors import DihedralError
from dihedral.bridge.fabric.connection import CONNECTION_ERRORS, connect
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.hosts import is_loopback, listen
from dihedral.bridge.settings import environment
from dihedral.bridge.tasks import models
from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tasks.calling import failed, run_light
from dihedral.bridge.tasks.runs import Emit, NodeRun, Outcome, RunControl
from dihedral.bridge.worker.loop import Worker
from dihedral.data_plane.device import Device
from dihedral.data_plane.gpu_memory import readings as memory
from dihedral.data_plane.gpu_memory import simulated
from dihedral.data_plane.gpu_memory.reservations import SharedReservations, directory_of_user
from dihedral.data_plane.gpu_memory.usage_history import MemoryUsageHistory
from dihedral.data_plane.scratch import scratch
from dihedral.data_plane.slots.pool import SlotPool
from dihedral.data_plane.tasks import BUILTIN
from dihedral.schemas.structs.settings import Settings, StoreKind
from dihedral.schemas.structs.worker import DeviceInfo

log = logging.getLogger(__name__)

PROBE_SECONDS = 120  # the first kernel compiles, and a cold CUDA installation loads a gigabyte
CHECK_SECONDS = 3
DRAINED, STOPPED_HARD = 0, 130


class Refused(DihedralError):
    """The settings do not let this worker start; the text is one line with the reason."""


async def serve(settings: Settings) -> int:
    """Runs until SIGTERM or SIGINT has drained it; answers with the exit code.

    Raises:
        Refused: a task module, the port, or the pair of store and Redis is of no use.
        LayoutMismatch: the server's jobs are laid out otherwise.
        OtherStore: planes of this server keep their artifacts elsewhere.
    """
    refuse_local_store_far_away(settings)
    simulation = simulated.parse(settings.worker.simulate_gpus) if settings.worker.simulate_gpus else None
    modules = [*BUILTIN, *settings.worker.tasks]
    before = environment({})
    async with _probed(simulation) as device_found:  # in a process of its own, while the modules are imported here
        registry = tasks.collect(
            modules, plane="python", directory=Path.cwd(), settings=settings.tasks, model_roots=settings.models.roots
        )
        for root in models.missing(settings.models.roots):
            log.warning("models.roots: %s is no folder here; its models will not be found", root)
        for id in settings.tasks.keys() - registry.keys():
            log.info("[tasks.%s] is of no task of this worker", id)
        try:
            listening = listen(settings.worker.host, settings.worker.port)
            listening.listen(128)
        except OSError as error:
            raise Refused(f"worker.host, worker.port: {error}") from error
        device = await device_found
    if environment({}) != before and simulation is None:  # a module has chosen devices
        device = await probe()
    slots = settings.worker.slots or len(device.gpus) or min(2, device.cpus)
    store = MeasuredStore(open_store(settings.artifacts), note_transfer)
    spans = tracing.start(settings, "python")
    client = connect(settings.redis.url, timeout_seconds=CHECK_SECONDS)
    try:
        with suppress(*agreement.AWAY):
            await agreement.agree(client, settings.artifacts)
        with scratch(), _gpu_directory(settings) as gpu_directory:
            read = _read(device, simulation, gpu_directory)
            shared, seen = _shared(device, simulation, gpu_directory) if read is not None else (None, set())
            if device.gpus:
                await _warn_of_others(Jobs(client, settings), seen)
            peaks = MemoryUsageHistory(client if read is not None else None)
            await peaks.load()
            pool = SlotPool(
                slots=slots, registry=registry, modules=modules, settings=settings, gpus=len(device.gpus),
                cpus=device.cpus, read=read, peaks=peaks, simulation=simulation, gpu_directory=str(gpu_directory),
                shared=shared, store=store,
            )  # fmt: skip
            async with pool:
                worker = Worker(
                    settings=settings,
                    plane="python",
                    pool=settings.worker.pool,
                    registry=registry,
                    run_node=_run_node(registry, pool, store, settings),
                    slots=slots,
                    light=settings.worker.light_concurrency,
                    device=device.name,
                    devices=[DeviceInfo(name=gpu.name, memory_mib=gpu.memory_mib) for gpu in device.gpus],
                    metrics_url=f"http://{address(listening)}/metrics",
                    tracing=spans,
                )
                agreeing = agreement.keep_agreeing(client, settings.artifacts)
                return await _run(worker, pool, store, listening, agreeing, read if simulation is not None else None)
    finally:
        listening.close()
        await client.aclose()
        await store.close()
        if spans is not None:
            await asyncio.to_thread(spans.close)


@contextmanager
def _gpu_directory(settings: Settings) -> Iterator[Path]:
    """Yields the directory of the simulated GPUs' state: shared with other workers, or this worker's alone."""
    if settings.worker.simulate_directory:
        yield Path(settings.worker.simulate_directory).absolute()
        return
    with tempfile.TemporaryDirectory(prefix="dihedral-gpus-") as made:
        yield Path(made)


def _read(device: Device, simulation: simulated.Simulation | None, gpu_directory: Path) -> memory.Read | None:
    """Returns the function that reads device memory; None where there is no GPU, or no driver that reports it."""
    if simulation is None:
        return memory.reader(device.gpus) if device.gpus else None
    gpus = simulated.open_gpus(simulation, gpu_directory)
    return lambda: [gpu.reading() for gpu in gpus]


def _shared(
    device: Device, simulation: simulated.Simulation | None, gpu_directory: Path
) -> tuple[SharedReservations | None, set[int]]:
    """Returns the reservations of other workers on the same GPUs, and the processes of workers that are present; None where no file can be used."""
    try:
        if simulation is not None:
            files = [gpu_directory / f"promises{gpu.index}.json" for gpu in device.gpus]
        else:
            directory = directory_of_user()
            files = [directory / f"{gpu.pci_bus_id}.json" for gpu in device.gpus]
        shared = SharedReservations(files, os.getpid())
        return shared, shared.join()
    except OSError as error:
        log.warning("reservations are not shared with other workers of this machine: %s", error)
        return None, set()


async def _run(
    worker: Worker, pool: SlotPool, store: ArtifactStore, listening: socket.socket,
    agreeing: Coroutine[Any, Any, None], simulated_gpus: memory.Read | None,
) -> int:  # fmt: skip
    stops = _Stops(worker)
    server = _Server(_app(worker, pool, store, stops))
    serving = asyncio.create_task(server.serve(sockets=[listening]), name="health and metrics")
    working = asyncio.create_task(worker.run(), name="worker")
    hard = asyncio.create_task(stops.hard.wait(), name="hard stop")
    watches = (agreeing, metrics.watch_loop(), memory.watch(pool.pids, worker.memory, simulated_gpus))
    watching = [asyncio.create_task(watch, name="watch") for watch in watches]
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # the default scans the live heap far too often (facts E: p99 36 → 8.5 ms)
    logs.bind(worker=worker.worker_id)
    log.info("worker %s: health and metrics at http://%s", worker.worker_id, address(listening))
    try:
        await asyncio.wait({working, hard, serving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
        return STOPPED_HARD if stops.hard.is_set() else DRAINED
    finally:
        stops.close()
        server.should_exit = True
        for task in (hard, working, *watching):
            task.cancel()
        await asyncio.wait({serving, working})


class _Stops:
    """The signals of the process: SIGTERM or SIGINT drains; a SIGINT after that stops at once."""

    def __init__(self, worker: Worker) -> None:
        self.draining = False
        self.hard = asyncio.Event()
        self._worker = worker
        self._loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal, number)

    def close(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)

    def _on_signal(self, number: signal.Signals) -> None:
        if self.draining and number == signal.SIGINT:
            log.warning("stopping at once; what runs is given up")
            self.hard.set()
        elif not self.draining:
            log.info("draining; running nodes may end, Ctrl-C stops at once")
            self.draining = True
            self._worker.stop()


# Running one node ---------------------------------------------------------------------------------------------------

RunNode = Callable[[NodeRun, Emit, RunControl], Awaitable[Outcome]]


def _run_node(registry: tasks.Registry, pool: SlotPool, store: ArtifactStore, settings: Settings) -> RunNode:
    output_bytes = settings.jobs.node_output_bytes

    async def refused() -> Outcome:
        return failed("rehearsals_off", "this worker rehearses no faults (worker.rehearsals)")

    def run_node(run: NodeRun, emit: Emit, control: RunControl) -> Awaitable[Outcome]:
        task = registry.get(run.task)
        rehearsal = task is not None and task.rehearses(run.params)
        if rehearsal and not settings.worker.rehearsals:
            return refused()
        if task is not None and task.light and not rehearsal:
            return run_light(registry, run, store, emit, control, output_bytes=output_bytes)
        return pool.run(run, emit, control)

    return run_node


async def _warn_of_others(jobs: Jobs, seen: set[int]) -> None:
    """Warns of workers whose reservations are not visible here: two such workers may begin what does not fit together. seen: processes of the visible ones."""
    with suppress(*CONNECTION_ERRORS, redis.RedisError):
        for other in await jobs.workers.alive():
            if other.devices and other.host == socket.gethostname() and other.pid not in seen:
                log.warning(
                    "worker %s of this machine has GPUs too, and its reservations are not seen here (another user, another directory for "
                    "temporary files?); if they are the same GPUs, one worker with more slots would share their memory",
                    other.worker_id,
                )


# Before the start ---------------------------------------------------------------------------------------------------


def refuse_local_store_far_away(settings: Settings) -> None:
    """Refuses a local directory that other machines cannot read: with Redis on another machine this worker alone would find the artifacts.

    Raises:
        Refused: artifacts.store is local and redis.url names another machine.
    """
    if settings.artifacts.store is not StoreKind.local:
        return
    url = urlsplit(settings.redis.url)
    host = url.hostname or "localhost"
    if url.scheme == "unix" or is_loopback(host):
        return
    raise Refused(
        f"redis.url names another machine ({host}) but artifacts.store is local: "
        'its workers need a store they share (artifacts.store = "s3" and artifacts.endpoint)'
    )


def address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@asynccontextmanager
async def _probed(simulation: simulated.Simulation | None) -> AsyncIterator["asyncio.Task[Device]"]:
    """Yields the probe, which has begun; it ends with the block."""

    async def found() -> Device:
        return await probe() if simulation is None else simulation.device

    probing = asyncio.create_task(found(), name="probe")
    await asyncio.sleep(0)  # its process starts
    try:
        yield probing
    finally:
        probing.cancel()
        await asyncio.gather(probing, return_exceptions=True)


async def probe() -> Device:
    """Returns what this machine computes on. Another process finds it out: a process that touches CUDA cannot start clean children of it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-P",
        "-m",
        "dihedral.data_plane.device",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            out, _ = await process.communicate()
        return msgspec.json.decode(out, type=Device)
    except (TimeoutError, msgspec.DecodeError) as error:
        raise Refused(
            f"the device cannot be asked: {type(error).__name__} (python -m dihedral.data_plane.device)"
        ) from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


# Health and metrics -------------------------------------------------------------------------------------------------

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class _Server(uvicorn.Server):
    def __init__(self, app: App) -> None:
        super().__init__(
            uvicorn.Config(app, lifespan="off", ws="none", log_config=None, log_level="warning", access_log=False)
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves signals alone: what they mean is decided in _Stops."""
        yield


def _app(worker: Worker, pool: SlotPool, store: ArtifactStore, stops: _Stops) -> App:
    async def ready() -> tuple[int, str, bytes]:
        problems = [*worker.problems(), *pool.problems()]
        if stops.draining:
            problems.insert(0, "draining")
        elif not worker.ready and not problems:
            problems.append("not announced yet")
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                await store.check()
        except TimeoutError:
            problems.append(f"the artifact store did not answer within {CHECK_SECONDS} s")
        except (DihedralError, OSError) as error:
            problems.append(f"artifact store: {error}")
        body = msgspec.json.encode({"status": "unready" if problems else "ready", "problems": problems})
        return 503 if problems else 200, "application/json", body

    async def live() -> tuple[int, str, bytes]:
        return 200, "application/json", b'{"status":"live"}'

    async def measured() -> tuple[int, str, bytes]:
        return 200, CONTENT_TYPE_LATEST, metrics.exposition(worker.measured())

    routes = {"/health/live": live, "/health/ready": ready, "/health": ready, "/metrics": measured}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        assert scope["type"] == "http"
        route = routes.get(scope["path"])
        if route is None:
            status, kind, body = 404, "application/problem+json", _problem(404, "Not Found", "not_found", scope["path"])
        elif scope["method"] not in ("GET", "HEAD"):
            status, kind = 405, "application/problem+json"
            body = _problem(405, "Method Not Allowed", "method_not_allowed", scope["path"])
        else:
            status, kind, body = await route()
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})

    return app


def _problem(status: int, title: str, code: str, path: str) -> bytes:
    return msgspec.json.encode(
        {
            "type": "about:blank",
            "title": title,
            "status": status,
            "detail": f"there is nothing to {'do' if status == 405 else 'see'} at {path}",
            "instance": path,
            "code": code,
            "errors": [],
        }
    )
