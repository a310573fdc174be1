"""What every benchmark stands on: a server for each turn, processes and their cost, turns, medians, a table, a JSON file.

A contender is Dihedral or a peer, and both are driven alike: a script that submits and prints one JSON line, a worker process,
and the number of jobs that are left, asked of Redis. Nothing here is timed inside a contender, so none grades itself.
Contenders take turns (A B A B …) because a machine's speed drifts; a ratio is the median of the ratios of each round.
"""

import contextlib
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from dihedral.server import find_server

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "benchmarks"
PEERS = Path(__file__).parent / "peers"
TICKS = os.sysconf("SC_CLK_TCK")
POLL_SECONDS = 0.01
STALL_SECONDS = 60
WARM_NODES = 64
Row = dict[str, Any]

# Processes ----------------------------------------------------------------------------------------------------------


class Server:
    """A Redis server of its own on loopback TCP, with nothing in it; Debian's where there is one, else the embedded one."""

    def __init__(self, *options: str) -> None:
        self.binary = shutil.which("redis-server") or str(find_server())
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.directory = tempfile.mkdtemp(prefix="dihedral-bench-")
        command = [self.binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.directory]
        command += [
            "--save",
            "",
            "--appendonly",
            "no",
            "--hash-max-listpack-value",
            "1024",
            *options,
        ]  # as dihedral.server
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        self.redis = redis.Redis.from_url(self.url, socket_timeout=30)
        wait_for(self._answers, self.process)

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _answers(self) -> bool:
        with contextlib.suppress(redis.ConnectionError, redis.BusyLoadingError):
            return bool(self.redis.ping())
        return False

    @property
    def used_bytes(self) -> int:
        return int(self.redis.info("memory")["used_memory"])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_for(true: Callable[[], Any], process: subprocess.Popen[Any], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} does not come up (exit code {process.returncode})")
        time.sleep(0.01)


@contextlib.contextmanager
def running(command: Sequence[str], env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """A process until the end of the block; what it says is shown only where it ends by itself."""
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command, env=os.environ | env, cwd=OUT, stdout=said, stderr=said, start_new_session=True
        )
        try:
            yield process
        except BaseException:
            said.seek(0)
            sys.stderr.write(said.read()[-4000:].decode(errors="replace"))
            raise
        finally:
            process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def answer(command: Sequence[str], env: dict[str, str] | None = None, seconds: float = 600) -> Row:
    """Runs a driver to its end: the JSON object of its last line."""
    done = subprocess.run(
        command, env=os.environ | (env or {}), cwd=OUT, capture_output=True, text=True, timeout=seconds
    )
    if done.returncode != 0:
        raise RuntimeError(f"{command}: {done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def family(pid: int) -> list[int]:
    """The process and all that descend from it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(entry.name)] = int(_stat(int(entry.name))[1])
    found = [pid]
    for each in found:
        found += [child for child, parent in parents.items() if parent == each]
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and its descendants, those that have ended and were waited for too."""
    total = 0
    for each in family(pid):
        with contextlib.suppress(OSError):
            total += sum(int(ticks) for ticks in _stat(each)[11:15])
    return total / TICKS


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from `state` on."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


# Contenders ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contender:
    """`share`: of the jobs asked for, how many a slow one gets. `left(redis, jobs)`: jobs not finished yet."""

    name: str
    settings: str
    submit: Callable[[str, int], list[str]]
    work: Callable[[str], list[str]]
    left: Callable[[redis.Redis, int], int]
    env: Callable[[str], dict[str, str]] = lambda url: {}
    install: Callable[[], None] = lambda: None
    share: float = 1.0

    def jobs(self, asked: int) -> int:
        return max(100, int(asked * self.share))


def dihedral_env(url: str) -> dict[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "DIHEDRAL_REDIS__URL": url,
        "DIHEDRAL_ARTIFACTS__DIRECTORY": str(OUT / "artifacts"),
        "DIHEDRAL_WORKER__SLOTS": os.environ.get("DIHEDRAL_WORKER__SLOTS", "1"),
    }


def module(name: str, *arguments: object) -> list[str]:
    return [sys.executable, "-P", "-m", name if name.startswith("tests.") else f"dihedral.{name}", *map(str, arguments)]


def fabric(act: str, url: str, *more: object) -> list[str]:
    """Dihedral's driver, see fabric.py."""
    return module("tests.benchmarks.fabric", act, url, *more)


def dihedral(shape: str = "noop", nodes: int = 1) -> Contender:
    """Dihedral with jobs of one shape."""
    light = os.environ.get("DIHEDRAL_WORKER__LIGHT_CONCURRENCY", "default")
    return Contender(
        name="Dihedral",
        settings=f"worker.lightConcurrency {light}, everything on",
        submit=lambda url, jobs: fabric("submit", url, jobs, shape, nodes),
        work=lambda url: module("data_plane"),
        left=lambda client, jobs: int(client.scard("jobs:alive")),
        env=dihedral_env,
    )


@contextlib.contextmanager
def control_plane(url: str, **env: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A control plane's process and port."""
    port = free_port()
    with running(module("control_plane", "--port", port), dihedral_env(url) | env) as process:
        wait_for(lambda: listens(port), process)
        yield process, port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def drain(server: Server, contender: Contender, jobs: int) -> Row:
    """Runs the backlog with a fresh worker: jobs/s from the first end that is seen to the last, and what that costs."""
    with running(contender.work(server.url), contender.env(server.url)) as worker:
        left, moved = jobs, time.monotonic()
        while (seen := contender.left(server.redis, jobs)) == jobs:
            _stalled(contender, moved, left)
            time.sleep(POLL_SECONDS)
        meter = Meter([worker.pid], server)
        done = jobs - seen
        while seen > 0:
            if seen < left:
                left, moved = seen, time.monotonic()
            _stalled(contender, moved, left)
            time.sleep(POLL_SECONDS)
            seen = contender.left(server.redis, jobs)
        return {"jobs": jobs, **meter.read(jobs - done)}


def live(server: Server, jobs: int, shape: str, nodes: int, workers: int = 1, **more: str) -> Row:
    """Dihedral's jobs submitted to warm workers: from the first that is there to the last end, submission included.

    For few and large jobs, where the first end comes too late to count from. `more`: of the workers' environment.
    """
    env = dihedral_env(server.url) | more
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(running(module("data_plane"), env)) for _ in range(workers)]
        for process in processes:
            wait_for(lambda: server.redis.zcard("workers") >= workers, process)
        answer(fabric("submit", server.url, 8 * workers, shape, min(nodes, WARM_NODES), "warm"), env)
        wait_for(lambda: not server.redis.scard("jobs:alive"), process, STALL_SECONDS)
        command = fabric("submit", server.url, jobs, shape, nodes)
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ | env, cwd=OUT) as driver:
            wait_for(lambda: server.redis.scard("jobs:alive"), driver)
            meter, begun = Meter([process.pid for process in processes], server), time.monotonic()
            while driver.poll() is None or server.redis.scard("jobs:alive"):
                if time.monotonic() - begun > 10 * STALL_SECONDS:
                    raise RuntimeError(f"{jobs} jobs of {nodes} nodes do not end")
                time.sleep(POLL_SECONDS / 5)
            row = meter.read(jobs)
            assert driver.stdout is not None
            return {"jobs": jobs, **row, **json.loads(driver.stdout.read())}


def _stalled(contender: Contender, moved: float, left: int) -> None:
    if time.monotonic() - moved > STALL_SECONDS:
        raise RuntimeError(f"{contender.name}: nothing happens any more, {left} jobs are left")


class Meter:
    """Time and CPU from here to `read`."""

    def __init__(self, workers: list[int], server: Server) -> None:
        self.workers = workers
        self.server = server.process.pid
        self.before = self._costs()
        self.begun = time.perf_counter()

    def _costs(self) -> tuple[float, float]:
        return sum(map(cpu_seconds, self.workers)), cpu_seconds(self.server)

    def read(self, jobs: int) -> Row:
        seconds = time.perf_counter() - self.begun
        worker, server = (after - before for after, before in zip(self._costs(), self.before, strict=True))
        return {
            "jobs/s": jobs / seconds,
            "worker µs/job": worker / jobs * 1e6,
            "server µs/job": server / jobs * 1e6,
            "worker RSS MiB": max(map(rss_bytes, self.workers)) / 2**20,
        }


# Turns and results --------------------------------------------------------------------------------------------------


@dataclass
class Table:
    title: str
    rows: list[Row]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        cells = [columns, *([_cell(row.get(name)) for name in columns] for row in self.rows)]
        widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
        lines = [f"{self.title}", ""]
        for number, line in enumerate(cells):
            padded = [
                text.ljust(width) if not i else text.rjust(width)
                for i, (text, width) in enumerate(zip(line, widths, strict=True))
            ]
            lines.append("| " + " | ".join(padded) + " |")
            if number == 0:
                lines.append("|" + "|".join("-" * (width + 2) for width in widths) + "|")
        return "\n".join([*lines, *(f"  {note}" for note in self.notes), ""])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def turns(rounds: int, contenders: Mapping[str, Callable[[], Row]]) -> dict[str, list[Row]]:
    """Each in turn, round by round. One that fails is left out from then on, and said so."""
    taken: dict[str, list[Row]] = {name: [] for name in contenders}
    broken: set[str] = set()
    for number in range(rounds):
        for name, turn in contenders.items():
            if name in broken:
                continue
            try:
                row = turn()
            except (RuntimeError, OSError, subprocess.SubprocessError) as error:
                sys.stderr.write(f"{name} is left out: {error}\n")
                broken.add(name)
                continue
            taken[name].append(row)
            short = ", ".join(f"{key} {_cell(value)}" for key, value in row.items() if isinstance(value, int | float))
            sys.stderr.write(f"round {number + 1}: {name}: {short}\n")
    return {name: rows for name, rows in taken.items() if rows and name not in broken}


def medians(rows: list[Row]) -> Row:
    """Medians of what is a float; the first of everything else."""
    return {
        name: statistics.median(row[name] for row in rows) if isinstance(value, float) else value
        for name, value in rows[0].items()
    }


def summary(taken: dict[str, list[Row]], *, of: str, reference: str) -> list[Row]:
    """A row of medians each, and `reference`'s `of` as a ratio to its own."""
    rows = []
    for name, each in taken.items():
        row = {"": name, **medians(each)}
        if reference in taken:
            row[f"{reference} ÷ it"] = ratio(taken[reference], each, of)
        rows.append(row)
    return rows


def ratio(ours: list[Row], theirs: list[Row], of: str) -> float:
    """The median of the ratios of each round."""
    return statistics.median(mine[of] / its[of] for mine, its in zip(ours, theirs, strict=False))


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def machine() -> Row:
    binary = shutil.which("redis-server") or str(find_server())
    version = subprocess.run([binary, "--version"], capture_output=True, text=True).stdout.split(" sha")[0]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "cpus": os.cpu_count(),
        "load": os.getloadavg(),
        "python": platform.python_version(),
        "server": version.strip(),
    }


def say(name: str, tables: list[Table], raw: Any, before: Row, out: Path | None) -> None:
    """Prints the tables and writes everything as JSON."""
    after = machine()
    load = f"load {before['load'][0]:.1f} before, {after['load'][0]:.1f} after"
    print(f"{name}: {before['server']}, Python {before['python']}, {before['cpus']} CPUs, {load}\n")
    for table in tables:
        print(table)
    path = out or OUT / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "benchmark": name,
        "machine": before,
        "load_after": after["load"],
        "tables": [{"title": table.title, "rows": table.rows, "notes": table.notes} for table in tables],
        "raw": raw,
    }
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False))
    print(f"written to {path}")
