"""Submission: in bulk through JobQueue against BullMQ's addBulk, and over HTTP against a handler that does the least it can."""

from collections.abc import Callable
from functools import partial
from typing import Any

from tests.benchmarks.bench import (
    Row,
    Server,
    Table,
    answer,
    control_plane,
    cpu_seconds,
    dihedral,
    dihedral_env,
    fabric,
    free_port,
    listens,
    medians,
    module,
    running,
    summary,
    turns,
    wait_for,
)
from tests.benchmarks.peers import bullmq

JOBS = 20_000
CONNECTIONS = 16
BATCH = 1000


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    peer, ours = bullmq(), dihedral()
    peer.install()
    bulk = turns(
        rounds,
        {
            "JobQueue.submit_batch": partial(driven, jobs, lambda url: fabric("queue", url, jobs)),
            "BullMQ addBulk": partial(driven, jobs, lambda url: peer.submit(url, jobs), peer.env("")),
            "Jobs.submit_many (planned)": partial(driven, jobs, lambda url: ours.submit(url, jobs)),
        },
    )
    single = turns(
        rounds, {"POST /api/jobs": partial(posted, jobs // 4), "bare Litestar + XADD": partial(bare, jobs // 4)}
    )
    batch = turns(rounds, {"POST /api/jobs/batch": partial(posted, jobs, BATCH)})
    tables = [
        Table(
            f"Bulk submission of {jobs:,} jobs in blocks of {BATCH:,}",
            summary(bulk, of="jobs/s", reference="JobQueue.submit_batch"),
            ["JobQueue decodes, plans and stores every job and answers with its document; no worker is running"],
        ),
        Table(
            f"POST /api/jobs one by one, {CONNECTIONS} connections",
            summary(single, of="jobs/s", reference="POST /api/jobs"),
            ["the bare handler decodes the same struct and XADDs the bytes; the client shares the machine"],
        ),
        Table(
            f"POST /api/jobs/batch of {BATCH:,}, one connection",
            [{"": name, **medians(rows)} for name, rows in batch.items()],
        ),
    ]
    return tables, {"bulk": bulk, "single": single, "batch": batch}


def driven(jobs: int, command: Callable[[str], list[str]], env: dict[str, str] | None = None) -> Row:
    with Server() as server:
        before = cpu_seconds(server.process.pid)
        found = answer(command(server.url), env or dihedral_env(server.url))
        row = {"jobs/s": found["perSecond"], "server µs/job": (cpu_seconds(server.process.pid) - before) / jobs * 1e6}
        return row | ({"process µs/job": found["cpuMicroseconds"]} if "cpuMicroseconds" in found else {})


def posted(jobs: int, batch: int = 1) -> Row:
    with Server() as server:
        worker = module("data_plane")
        with running(worker, dihedral_env(server.url)) as process:  # it announces the task, then it is gone
            wait_for(lambda: server.redis.hlen("capabilities"), process)
        with control_plane(server.url) as (process, port):
            return load(process.pid, port, jobs, batch)


def bare(jobs: int) -> Row:
    port = free_port()
    with Server() as server, running(module("tests.benchmarks.bare", server.url, port), dihedral_env("")) as process:
        wait_for(lambda: listens(port), process)
        return load(process.pid, port, jobs, 1)


def load(pid: int, port: int, jobs: int, batch: int) -> Row:
    connections = CONNECTIONS if batch == 1 else 1
    requests = max(connections, jobs // batch)
    answer(module("tests.benchmarks.posting", port, connections, connections, batch), dihedral_env(""))  # warms up
    before = cpu_seconds(pid)
    found = answer(module("tests.benchmarks.posting", port, requests, connections, batch), dihedral_env(""))
    return {
        "jobs/s": found["perSecond"] * batch,
        "p50 ms": found["p50"],
        "p99 ms": found["p99"],
        "process µs/job": (cpu_seconds(pid) - before) / (requests * batch) * 1e6,
    }
