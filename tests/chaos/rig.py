"""The machine under test: Valkey, control planes and workers as real processes, each with a wire to Redis and a clock of its own."""

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import redis.asyncio

from tests.artifacts.seaweed import ACCESS, SECRET, Seaweed
from tests.chaos.clock import Clock
from tests.chaos.wire import Wire
from tests.support.polling import at_this_load
from tests.support.ports import free_port
from tests.support.servers import start_server

WORK = Path(__file__).with_name("work.py")
SETTLE_SECONDS = 2.0
"""So long after a disturbance a process may still do what it began under it: 1 s is promised, the rest is the busy machine's."""


class Place:
    """One process of ours, its wire and its clock. `busy`: a fault has it, no other may. `pid` changes when it is started again."""

    def __init__(self, kind: str, number: int, wire: Wire, clock: Clock, directory: Path, arguments: list[str]) -> None:
        self.kind = kind
        self.number = number
        self.wire = wire
        self.clock = clock
        self.directory = directory
        self.arguments = arguments
        self.busy = False
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Rig:
    def __init__(
        self, directory: Path, seed: int, *, lease_ms: int, fsync: str = "always", seaweed: Seaweed | None = None
    ) -> None:
        """`seaweed`: the artifact store, behind a wire of its own; None is a directory."""
        self.directory = directory
        self.seaweed = seaweed
        self.lease = lease_ms / 1000
        self.rng = random.Random(f"rig {seed}")
        self.server: subprocess.Popen[bytes] | None = None
        self.server_busy = False
        self.disk_busy = False
        self.server_port = free_port()
        self.redis = redis.asyncio.Redis(unix_socket_path=str(directory / "redis.sock"), socket_timeout=30)
        self.controls: list[Place] = []
        self.workers: list[Place] = []
        self.urls: list[str] = []
        self.ended_by_itself: list[str] = []
        self.runs = directory / "runs"
        self.clock = Clock(directory / "clock-server", time.monotonic())
        self.store_wire: Wire | None = None
        self._sizes: list[tuple[float, int]] = []
        self._sampling: asyncio.Task[None] | None = None
        self._disturbed: dict[int, list[list[float]]] = {}
        self._orphans: dict[int, str] = {}
        self._options = ["--port", str(self.server_port), "--appendonly", "yes", "--appendfsync", fsync]
        self._options += ["--auto-aof-rewrite-percentage", "0"]  # one file, whose end can be taken away
        self._environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("DIHEDRAL_")},
            "CHAOS_RUNS": str(self.runs),
            "DIHEDRAL_ARTIFACTS__DIRECTORY": str(directory / "artifacts"),
            "DIHEDRAL_JOBS__TTL_SECONDS": str(7 * 86400),
            "DIHEDRAL_JOBS__LEASE_MS": str(lease_ms),
            "DIHEDRAL_JOBS__DRAIN_SECONDS": "0.5",
            "DIHEDRAL_WORKER__CANCEL_GRACE_MS": "300",
            "DIHEDRAL_WORKER__PREEMPT_AFTER_MS": "50",
            "DIHEDRAL_WEBSOCKET__UPDATE_INTERVAL_MS": "100",
        }

    # Start and stop -------------------------------------------------------------------------------------------------

    async def start(self, controls: int, workers: int) -> None:
        self.runs.mkdir()
        shutil.copy(WORK, self.directory / "work.py")
        await self.start_server()
        if "everysec" in self._options:
            self._sampling = asyncio.create_task(self._sample())
        if self.seaweed is not None:
            await self._start_store_wire(self.seaweed)
        for number in range(controls):
            port = free_port()
            self.urls.append(f"http://127.0.0.1:{port}")
            self.controls.append(await self._place("control_plane", number, ["--port", str(port), "--tasks", "work"]))
        for number in range(workers):
            self.workers.append(await self._place("data_plane", number, ["--slots", "2", "--tasks", "work"]))
        for place in self.places:
            self.launch(place)
        await self.ready()

    async def _place(self, kind: str, number: int, arguments: list[str]) -> Place:
        wire = Wire(self.server_port, self.rng)
        await wire.start()
        clock = Clock(self.directory / f"clock-{kind}-{number}", time.monotonic())
        return Place(kind, number, wire, clock, self.directory, arguments)

    async def _start_store_wire(self, seaweed: Seaweed) -> None:
        self.store_wire = Wire(int(seaweed.endpoint.rpartition(":")[2]), self.rng)
        await self.store_wire.start()
        self._environ |= {
            "DIHEDRAL_ARTIFACTS__STORE": "s3",
            "DIHEDRAL_ARTIFACTS__ENDPOINT": f"http://127.0.0.1:{self.store_wire.port}",
            "DIHEDRAL_ARTIFACTS__ACCESS_KEY": ACCESS,
            "DIHEDRAL_ARTIFACTS__SECRET_KEY": SECRET,
        }

    @property
    def places(self) -> list[Place]:
        return [*self.controls, *self.workers]

    def launch(self, place: Place) -> None:
        place.starts += 1
        folder = self.directory / f"tmp-{place.kind}-{place.number}-{place.starts}"
        folder.mkdir()
        command = [
            sys.executable,
            "-P",
            "-m",
            f"dihedral.{place.kind}",
            "--redis-url",
            place.wire.url,
            *place.arguments,
        ]
        with (self.directory / f"{place.kind}-{place.number}.log").open("ab") as log:
            place.process = subprocess.Popen(
                command, env={**self._environ, **place.clock.environ, "TMPDIR": str(folder)}, stdout=log, stderr=log,
                start_new_session=True, cwd=self.directory,
            )  # fmt: skip

    async def start_server(self) -> None:
        self.server, _ = await asyncio.to_thread(
            start_server, self.directory, *self._options, environ=self.clock.environ
        )

    async def ready(self) -> None:
        """Every control plane and every worker says so; raises TimeoutError."""
        async with asyncio.timeout(at_this_load(60)), httpx.AsyncClient(timeout=5) as http:
            for url in self.urls:
                while not await self._is_ready(http, url):  # noqa: ASYNC110 - the condition is in other processes
                    await asyncio.sleep(0.05)

    async def _is_ready(self, http: httpx.AsyncClient, url: str) -> bool:
        with suppress(httpx.HTTPError):
            if (await http.get(f"{url}/health/ready")).status_code == 200:
                workers = (await http.get(f"{url}/api/workers")).json()["workers"]
                return {place.pid for place in self.places} <= {worker["pid"] for worker in workers}
        return False

    async def is_up(self, place: Place) -> bool:
        """Whether its worker has announced itself; both planes have one."""
        alive: Any = await self.redis.zrange("workers", 1, "+inf", byscore=True)
        return any(raw.decode().split("-")[-2] == str(place.pid) for raw in alive)

    async def calm(self) -> None:
        """No fault any more, and all that belongs there runs."""
        if self.store_wire is not None:
            self.store_wire.mend()
            for place in self.places:  # S3 refuses who is wrong by a quarter of an hour, and such a one is never ready
                place.clock.step(-place.clock.ahead, time.monotonic())
        for place in self.places:
            place.wire.mend()
            if place.runs:
                self.signal(processes(place), signal.SIGCONT)
        assert self.server is not None
        self.signal([self.server.pid], signal.SIGCONT)
        if self.server.poll() is not None:
            self.ended_by_itself.append(f"the server ended by itself: {self.server.returncode}")
            await self.start_server()
        for place in self.places:
            self.look_after(place)
        await self.ready()

    def look_after(self, place: Place) -> None:
        """Starts it where it is gone; nobody has killed it, so that is a defect."""
        if not place.runs:
            assert place.process is not None
            self.ended_by_itself.append(f"{place} ended by itself with {place.process.returncode}")
            self.launch(place)

    async def stop(self) -> list[str]:
        """SIGTERM to all; what did not end in order, or left something behind."""
        found = []
        for place in self.places:
            os.kill(place.pid, signal.SIGTERM)
        for place in self.places:
            found += await self.gone(place, 15)
        left = [pid for pid, born in self._orphans.items() if not _is_gone(pid) and _born(pid) == born]
        return [*found, f"slots outlived their killed workers: {left}"] if left else found

    async def gone(self, place: Place, seconds: float) -> list[str]:
        """After SIGTERM: waits for the end; a sentence for each thing that is not in order."""
        assert place.process is not None
        held, seconds = children(place.pid), at_this_load(seconds)
        try:
            code = await asyncio.to_thread(place.process.wait, seconds)
        except subprocess.TimeoutExpired:
            place.process.kill()
            place.process.wait()
            return [f"{place} did not end within {seconds:g} s of SIGTERM"]
        found = [f"{place} ended with {code} after SIGTERM"] if code else []
        left = held
        for _ in range(60):
            if not (left := [child for child in left if not _is_gone(child)]):
                break
            await asyncio.sleep(0.05)
        found += [f"{place} left processes behind: {left}"] if left else []
        folder = self.directory / f"tmp-{place.kind}-{place.number}-{place.starts}"
        files = [str(path.relative_to(folder)) for path in folder.rglob("*")]
        return [*found, f"{place} left files behind: {files[:5]}"] if files else found

    async def close(self) -> None:
        """Whatever state it is in."""
        await self.redis.aclose()
        if self._sampling is not None:
            self._sampling.cancel()
        for place in self.places:
            if place.process is not None and place.runs:
                self.signal([*children(place.pid), place.pid], signal.SIGKILL)
                await asyncio.to_thread(place.process.wait)
            await place.wire.close()
            place.clock.close()
        if self.store_wire is not None:
            await self.store_wire.close()
        if self.server is not None:
            self.server.kill()
            await asyncio.to_thread(self.server.wait)
        self.clock.close()

    # What faults do -------------------------------------------------------------------------------------------------

    def signal(self, pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    async def kill(self, place: Place) -> None:
        """As the kernel does it, to the one process and no other: its slots have to notice by themselves."""
        assert place.process is not None
        self._orphans |= {child: _born(child) for child in children(place.pid)}
        place.process.kill()
        await asyncio.to_thread(place.process.wait)

    async def kill_server(self) -> None:
        assert self.server is not None
        self.server.kill()
        await asyncio.to_thread(self.server.wait)

    @property
    def log(self) -> Path:
        """The part of the append-only file that the server writes to."""
        return max((self.directory / "appendonlydir").glob("*.incr.aof"), key=lambda path: int(path.name.split(".")[2]))

    async def _sample(self) -> None:
        while True:
            moment = time.monotonic()
            self._sizes = [(then, size) for then, size in self._sizes if then > moment - 5]
            self._sizes.append((moment, self.log.stat().st_size))
            await asyncio.sleep(0.01)

    async def lose_power(self) -> float:
        """Kills the server and takes away what it appended since a moment, at most a second ago, which is the answer.

        A machine that loses power keeps what was synced. Under `everysec` that is everything but the last second: this
        assumes the worst.
        """
        await self.kill_server()
        died = time.monotonic()
        now = died, self.log.stat().st_size
        since, size = next((sample for sample in self._sizes if sample[0] >= died - 1), now)
        os.truncate(self.log, size)
        return since

    def disturb(self, places: Iterable[Place], ago_seconds: float = 0.0) -> list[list[float]]:
        """From then on these cannot know what they still own; `settle` ends it."""
        spans = []
        for place in places:
            if place.process is not None:
                span = [time.monotonic() - ago_seconds, float("inf")]
                self._disturbed.setdefault(place.pid, []).append(span)
                spans.append(span)
        return spans

    def settle(self, spans: list[list[float]]) -> None:
        for span in spans:
            span[1] = time.monotonic() + SETTLE_SECONDS

    def was_disturbed(self, pid: int, moment: float) -> bool:
        return any(begin <= moment <= end for begin, end in self._disturbed.get(pid, ()))


def processes(place: Place) -> list[int]:
    """It and its slots."""
    return [place.pid, *children(place.pid)]


def children(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for thread in Path(f"/proc/{pid}/task").iterdir():
            with suppress(OSError):
                found += [int(word) for word in (thread / "children").read_text().split()]
    return found


def is_slot(pid: int) -> bool:
    """Rather than what a worker asks for its device when it starts."""
    with suppress(OSError):
        return b"dihedral.data_plane.slots.child" in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _born(pid: int) -> str:
    """Tells it from a later process of the same id; empty when it is gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return ""
