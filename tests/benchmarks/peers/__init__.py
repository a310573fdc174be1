"""The peers: what is installed where, how each is driven, and which of its own settings are used.

Each has a folder of its own outside git, made once. Python peers run by their own command line on the file here that drives
them: as a script (`URL N`) it submits N no-ops and prints one JSON line, as a module it is the worker's application.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import redis

from tests.benchmarks.bench import OUT, PEERS, Contender

HOMES = OUT / "peers"
BULLMQ = ("bullmq@6.7.0", "ioredis@6.0.0")


def once(home: Path, wanted: tuple[str, ...], *commands: list[str]) -> None:
    """Runs the commands unless `home` has what is wanted."""
    marker = home / "installed.txt"
    if marker.exists() and marker.read_text() == "\n".join(wanted):
        return
    home.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"installing {' '.join(wanted)} into {home}\n")
    for command in commands:
        subprocess.run(command, check=True, cwd=home, stdout=subprocess.DEVNULL)
    marker.write_text("\n".join(wanted))


def bullmq(submit: str = "submit", jobs_each: int = 1) -> Contender:
    """`submit`: which act of bullmq.js makes the backlog; `jobs_each`: how many BullMQ jobs one of it is."""
    home, script = HOMES / "bullmq", str(PEERS / "bullmq.js")
    return Contender(
        name="BullMQ",
        settings=f"{' '.join(BULLMQ)}, concurrency 50",
        submit=lambda url, jobs: ["node", script, submit, url, str(jobs)],
        work=lambda url: ["node", script, "work", url],
        left=lambda client, jobs: jobs - int(client.zcard("bull:bench:completed")) // jobs_each,
        env=lambda url: {"NODE_PATH": str(home / "node_modules"), "NODE_ENV": "production"},
        install=lambda: once(home, BULLMQ, ["npm", "install", "--silent", "--prefix", str(home), *BULLMQ]),
    )


def python(
    name: str,
    wanted: tuple[str, ...],
    settings: str,
    share: float,
    work: Callable[[str], list[str]],
    left: Callable[[redis.Redis, int], int],
) -> Contender:
    """`work(url)`: the command line of the worker, in the bin folder of the peer's own venv."""
    home, module = HOMES / name, f"drive_{name}"
    wanted = (*wanted, "uvloop==0.23.0", "hiredis==3.5.0")
    bin = home / "bin"

    def command(url: str) -> list[str]:
        program, *rest = work(url)
        return [str(bin / program), *rest]

    return Contender(
        name=name,
        settings=f"{wanted[0]}, {settings}",
        submit=lambda url, jobs: [str(bin / "python"), str(PEERS / f"{module}.py"), url, str(jobs)],
        work=command,
        left=left,
        env=lambda url: {"PYTHONPATH": str(PEERS), "REDIS_URL": url},
        install=lambda: once(
            home,
            wanted,
            [sys.executable, "-m", "venv", str(home)],
            [str(bin / "pip"), "install", "--quiet", "--disable-pip-version-check", *wanted],
        ),
        share=share,
    )


def _stream_left(client: redis.Redis, jobs: int) -> int:
    group = next(iter(client.xinfo_groups("taskiq")), None)
    return jobs if group is None else int(group["lag"] or 0) + int(group["pending"])


PYTHON_PEERS = [
    python(
        "rq", ("rq==3.0.0",), "worker as it comes: a fork for each job", 0.02,
        lambda url: ["rq", "worker", "--quiet", "--url", url, "default"],
        lambda client, jobs: jobs - int(client.zcard("rq:finished:default")),
    ),
    python(
        "saq", ("saq[redis,hiredis]==0.26.4", "typing_extensions==4.15.0"), "concurrency 50, uvloop", 0.2,
        lambda url: ["saq", "drive_saq.settings", "--quiet"],
        lambda client, jobs: int(client.zcard("saq:default:incomplete")),
    ),
    python(
        "arq", ("arq==0.28.0",), "max_jobs 50, poll_delay 10 ms, uvloop", 0.2,
        lambda url: ["arq", "drive_arq.Settings"],
        lambda client, jobs: int(client.zcard("arq:queue")),
    ),
    python(
        "dramatiq", ("dramatiq[redis]==2.2.1",), "--processes 1 --threads 8, results stored", 0.2,
        lambda url: ["dramatiq", "drive_dramatiq", "--processes", "1", "--threads", "8"],
        lambda client, jobs: int(client.hlen("dramatiq:default.msgs")),
    ),
    python(
        "taskiq", ("taskiq-redis==1.2.4",), "streams, --workers 1 --max-async-tasks 100, uvloop", 0.2,
        lambda url: ["taskiq", "worker", "drive_taskiq:broker", "--workers", "1", "--log-level", "WARNING"],
        _stream_left,
    ),
    python(
        "streaq", ("streaq==7.2.0",), "concurrency 50, uvloop", 0.1,
        lambda url: ["streaq", "run", "drive_streaq:worker"],
        lambda client, jobs: jobs - int(client.zcard("streaq:default:index:results")),
    ),
    python(
        "celery", ("celery[redis]==5.7.0",), "prefork, concurrency 1, prefetch 64", 0.1,
        lambda url: ["celery", "-A", "drive_celery", "worker", "-c", "1", "--without-gossip", "--without-mingle"],
        lambda client, jobs: int(client.llen("celery")) + int(client.hlen("unacked")),
    ),
]  # fmt: skip
