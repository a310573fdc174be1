"""Growth: what a job and a list cost with many finished ones stored, and what a node costs in a large graph."""

from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.benchmarks.bench import (
    Row,
    Server,
    Table,
    answer,
    cpu_seconds,
    dihedral,
    dihedral_env,
    drain,
    fabric,
    live,
    medians,
    summary,
    turns,
)

JOBS = 10_000
STORED_EACH = 10
"""How many finished jobs are stored for each one that is measured: by default 100,000; --jobs 100000 makes it a million."""

LARGE = 1000
BARE_BLOCK = 100
LISTS = 200


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    ours = dihedral()
    stored = jobs * STORED_EACH
    with ExitStack() as stack:
        empty, full = stack.enter_context(Server()), stack.enter_context(Server())
        before = full.used_bytes
        answer(fabric("submit", full.url, stored, "noop", 1, "stored"), dihedral_env(full.url), 3600)
        queued = full.used_bytes - before
        filling = drain(full, ours, stored)
        filling |= {"bytes/queued": queued / stored, "bytes/finished": (full.used_bytes - before) / stored}
        names = {"empty": empty, f"{stored:,} finished": full}
        taken = turns(rounds, {name: partial(measured, server, jobs, name) for name, server in names.items()})
    rows = summary(taken, of="jobs/s", reference="empty")
    graphs = turns(
        rounds,
        {
            f"{shape} of {nodes:,}": partial(by_node, shape, nodes, max(LARGE, jobs))
            for shape in ("chain", "wide")
            for nodes in (10, LARGE)
        },
    )
    tables = [
        Table(f"{jobs:,} jobs beside what is stored (the empty server is flushed each round)", rows),
        Table(f"Filling it: {stored:,} jobs through one worker", [{"": "fill", **filling}]),
        Table("Cost per node, submission included", [{"": name, **medians(each)} for name, each in graphs.items()]),
    ]
    return tables, {"stored": taken, "filling": filling, "graphs": graphs}


def measured(server: Server, jobs: int, name: str) -> Row:
    if name == "empty":
        server.redis.flushall()
    prefix = f"run-{server.redis.zcard('jobs')}"
    before = cpu_seconds(server.process.pid)
    submitted = answer(fabric("submit", server.url, jobs, "noop", 1, prefix), dihedral_env(server.url))
    cost = cpu_seconds(server.process.pid) - before
    row = drain(server, dihedral(), jobs)
    row |= {"submit/s": submitted["perSecond"], "server µs/submit": cost / jobs * 1e6}
    before = cpu_seconds(server.process.pid)
    answer(fabric("lists", server.url, LISTS), dihedral_env(server.url))
    row |= {"server µs/list of 100": (cpu_seconds(server.process.pid) - before) / LISTS * 1e6}
    return row | {"server µs/bare": bare(server, prefix, jobs)}


def bare(server: Server, prefix: str, jobs: int) -> float:
    """Server CPU of one new hash, member of the index and stream entry, as plain commands: what growth costs Redis itself."""
    fields: dict[Any, Any] = {"state": "x" * 64, "graph": "x" * 256, "n:n0": "x" * 100, "log": "x" * 30}
    before = cpu_seconds(server.process.pid)
    for start in range(0, jobs, BARE_BLOCK):
        with server.redis.pipeline(transaction=False) as pipe:
            for number in range(start, start + BARE_BLOCK):
                key = f"bare:{prefix}-{number}"
                pipe.hset(key, mapping=fields)
                pipe.zadd("jobs", {f"{prefix}-{number}-bare": number})
                pipe.xadd("bare", {"job": key, "graph": fields["graph"]})
            pipe.execute()
    cost = (cpu_seconds(server.process.pid) - before) / jobs * 1e6
    for start in range(0, jobs, BARE_BLOCK):
        names = [f"bare:{prefix}-{number}" for number in range(start, start + BARE_BLOCK)]
        server.redis.unlink(*names)
        server.redis.zrem("jobs", *(f"{prefix}-{number}-bare" for number in range(start, start + BARE_BLOCK)))
    server.redis.unlink("bare")
    return cost


def by_node(shape: str, nodes: int, total: int) -> Row:
    """Small graphs have as many nodes in flight as large ones, because what comes together is written together."""
    at_once = total // LARGE if shape == "chain" else 256
    with Server() as server:
        row = live(server, total // nodes, shape, nodes, DIHEDRAL_WORKER__LIGHT_CONCURRENCY=str(at_once))
        return {
            "jobs": row["jobs"],
            "nodes/s": row["jobs/s"] * nodes,
            "worker µs/node": row["worker µs/job"] / nodes,
            "server µs/node": row["server µs/job"] / nodes,
            "plan µs/node": row["planMicroseconds"] / nodes,
            "submit µs/node": 1e6 / row["perSecond"] / nodes,
        }
