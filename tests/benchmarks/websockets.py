"""2,000 WebSocket clients on one control plane: a burst, ten messages a second each, and the memory of a client.

The client process connects and subscribes them all to one job that waits for a worker, and says so; then the worker starts and
the job speaks. A bare hub (one Redis reader, a queue for each client, nothing else) is given the same clients and the same
number of messages. Events that come together travel in one frame here, so frames are counted too.
"""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.benchmarks.bench import (
    OUT,
    Row,
    Server,
    Table,
    control_plane,
    cpu_seconds,
    dihedral_env,
    free_port,
    listens,
    module,
    rss_bytes,
    running,
    summary,
    turns,
    wait_for,
)

JOBS = 2_000
"""Clients."""
MESSAGES = 100
PACES = (("all at once", 0.0, 0), ("one every 21 ms", 0.021, 0), ("10 a second", 0.1, 1))
"""Title, seconds between events, rounds (0: as many as asked). A worker flushes every 20 ms: at 21 no event waits for the next."""


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    tables, raw = [], {}
    for title, step_seconds, times in PACES:
        hubs = {
            "Dihedral": partial(dihedral, jobs, step_seconds),
            "bare hub": partial(bare, jobs, step_seconds),
        }
        raw[title] = turns(times or rounds, hubs)
        rows = summary(raw[title], of="events/s", reference="Dihedral")
        tables.append(Table(f"{MESSAGES} data events of one job to {jobs:,} clients, {title}", rows))
    return tables, raw


def dihedral(clients: int, step_seconds: float) -> Row:
    with Server() as server:
        with running(module("data_plane"), dihedral_env(server.url)) as worker:  # announces the task, then it is gone
            wait_for(lambda: server.redis.hlen("capabilities"), worker)
        with (
            control_plane(server.url) as (process, port),
            attached(process.pid, port, clients, "/ws", step_seconds) as found,
            running(module("data_plane"), dihedral_env(server.url)),
        ):
            return found(process.pid)


def bare(clients: int, step_seconds: float) -> Row:
    port = free_port()
    with (
        Server() as server,
        running(module("tests.benchmarks.bare_hub", server.url, port), dihedral_env("")) as process,
    ):
        wait_for(lambda: listens(port), process)
        with (
            attached(process.pid, port, clients, "/bare", step_seconds) as found,
            running(module("tests.benchmarks.bare_hub", server.url, 0, MESSAGES, step_seconds), dihedral_env("")),
        ):
            return found(process.pid)


@contextlib.contextmanager
def attached(pid: int, port: int, clients: int, path: str, step_seconds: float) -> Iterator[Any]:
    """The client process with everybody subscribed; `found(pid)` waits for its answer."""
    before = rss_bytes(pid)
    command = module("tests.benchmarks.clients", port, clients, path, MESSAGES, step_seconds)
    env = os.environ | dihedral_env("")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env, cwd=OUT) as process:
        try:
            assert process.stdout is not None
            connected = json.loads(process.stdout.readline())
            kilobytes = (rss_bytes(pid) - before) / clients / 1000
            cpu = cpu_seconds(pid)

            def found(pid: int) -> Row:
                said = json.loads(process.stdout.readline())  # type: ignore[union-attr]
                said["hub µs/event"] = (cpu_seconds(pid) - cpu) / (clients * MESSAGES) * 1e6
                return {**said, "kB/client": kilobytes, "connect s": connected["seconds"]}

            yield found
        finally:
            process.kill()
