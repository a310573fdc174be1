"""What the metrics cost: one by one over HTTP and in batches, against the same control plane with all of them taken out."""

from functools import partial
from typing import Any

from tests.benchmarks.bench import (
    Row,
    Server,
    Table,
    answer,
    cpu_seconds,
    dihedral_env,
    free_port,
    listens,
    medians,
    module,
    ratio,
    running,
    turns,
    wait_for,
)

JOBS = 20_000
CONNECTIONS = 16
BATCH = 1000
PLANES = {"with metrics": "control_plane", "without": "tests.benchmarks.unmeasured"}


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    single = turns(rounds, {name: partial(posted, plane, jobs // 2, 1) for name, plane in PLANES.items()})
    batch = turns(rounds, {name: partial(posted, plane, jobs, BATCH) for name, plane in PLANES.items()})
    return [
        _table(f"POST /api/jobs, {CONNECTIONS} connections", single),
        _table(f"POST /api/jobs/batch of {BATCH:,}", batch),
    ], {"single": single, "batch": batch}


def _table(title: str, taken: dict[str, list[Row]]) -> Table:
    rows = [{"": name, **medians(each)} for name, each in taken.items()]
    cost = ratio(taken["with metrics"], taken["without"], "both µs/job") - 1
    return Table(
        title, rows, [f"metrics cost {cost:+.1%} of the CPU time of control plane and server (median of the rounds)"]
    )


def posted(plane: str, jobs: int, batch: int) -> Row:
    port = free_port()
    with Server() as server:
        env = dihedral_env(server.url)
        with running(module("data_plane"), env) as process:  # it announces the task, then it is gone
            wait_for(lambda: server.redis.hlen("capabilities"), process)
        with running(module(plane, "--port", port), env) as process:
            wait_for(lambda: listens(port), process)
            connections = CONNECTIONS if batch == 1 else 1
            load = partial(module, "tests.benchmarks.posting", port)
            answer(load(max(connections, 1000 // batch), connections, batch), dihedral_env(""))  # warms up
            own, its = cpu_seconds(process.pid), cpu_seconds(server.process.pid)
            found = answer(load(jobs // batch, connections, batch), dihedral_env(""))
            own, its = cpu_seconds(process.pid) - own, cpu_seconds(server.process.pid) - its
    return {
        "jobs/s": found["perSecond"] * batch,
        "p99 ms": found["p99"],
        "control µs/job": own / jobs * 1e6,
        "server µs/job": its / jobs * 1e6,
        "both µs/job": (own + its) / jobs * 1e6,
    }
