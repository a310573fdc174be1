"""From `POST /api/jobs/batch` to the last end, everything on the same cores, beside the floor of Redis's own commands."""

import time
from functools import partial
from typing import Any

from tests.benchmarks.bench import (
    POLL_SECONDS,
    STALL_SECONDS,
    Meter,
    Row,
    Server,
    Table,
    answer,
    control_plane,
    cpu_seconds,
    dihedral_env,
    fabric,
    module,
    running,
    summary,
    turns,
    wait_for,
)

JOBS = 20_000
BATCH = 1000


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    names = {"Dihedral": partial(through, jobs), "XADD, XREADGROUP, XACK, SET": partial(floor, jobs)}
    taken = turns(rounds, names)
    notes = [
        "one connection posts batches of 1,000 while a control plane and one worker run; from the first job to the last end"
    ]
    return [
        Table(f"{jobs:,} jobs over HTTP to completed", summary(taken, of="jobs/s", reference="Dihedral"), notes)
    ], taken


def through(jobs: int) -> Row:
    with Server() as server, running(module("data_plane"), dihedral_env(server.url)) as worker:
        wait_for(lambda: server.redis.hlen("capabilities"), worker)
        with control_plane(server.url) as (plane, port):
            answer(module("tests.benchmarks.posting", port, 1, 1, BATCH), dihedral_env(""))  # warms up
            wait_for(lambda: not server.redis.scard("jobs:alive"), worker, STALL_SECONDS)
            there, before = server.redis.zcard("jobs"), cpu_seconds(plane.pid)
            with running(module("tests.benchmarks.posting", port, jobs // BATCH, 1, BATCH), dihedral_env("")) as client:
                wait_for(lambda: server.redis.zcard("jobs") > there, client)
                meter, begun = Meter([worker.pid], server), time.monotonic()
                while server.redis.zcard("jobs") < there + jobs or server.redis.scard("jobs:alive"):
                    if time.monotonic() - begun > 10 * STALL_SECONDS:
                        raise RuntimeError(f"{jobs} jobs do not end")
                    time.sleep(POLL_SECONDS)
                row = meter.read(jobs)
            return row | {"control plane µs/job": (cpu_seconds(plane.pid) - before) / jobs * 1e6}


def floor(jobs: int) -> Row:
    with Server() as server:
        before = cpu_seconds(server.process.pid)
        found = answer(fabric("floor", server.url, jobs), dihedral_env(""))
        return {"jobs/s": found["perSecond"], "server µs/job": (cpu_seconds(server.process.pid) - before) / jobs * 1e6}
