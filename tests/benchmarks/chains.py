"""Graphs: a chain of 5 against BullMQ's flow of 5, a diamond, a chain over both planes, 64 parallel nodes on 4 workers."""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.benchmarks.bench import (
    Contender,
    Row,
    Server,
    Table,
    answer,
    control_plane,
    cpu_seconds,
    dihedral,
    dihedral_env,
    drain,
    fabric,
    live,
    summary,
    turns,
)
from tests.benchmarks.peers import bullmq

JOBS = 5_000
NODES = 5
WIDE = 64


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    peer = bullmq("flow", NODES)
    peer.install()
    chain, parallel = f"chain of {NODES}", f"{WIDE} parallel, 4 workers"
    contenders: dict[str, Callable[[], Row]] = {
        chain: partial(turn, dihedral("chain", NODES), jobs),
        f"BullMQ's flow of {NODES}": partial(turn, peer, jobs),
        f"diamond of {NODES}": partial(turn, dihedral("diamond", NODES), jobs, fork="diamond"),
        f"{NODES} nodes, planes in turn": partial(turn, dihedral("planes", NODES), jobs // 2, both=True),
        parallel: partial(wide, max(20, jobs // 25)),
    }
    taken = turns(rounds, contenders)
    rows = summary(taken, of="jobs/s", reference=f"BullMQ's flow of {NODES}")
    for row in rows:
        ratio = row.pop(f"BullMQ's flow of {NODES} ÷ it")
        if row[""] != parallel:  # other work than a flow of 5
            row["× BullMQ's flow"] = 1 / ratio
    notes = [
        "LangGraph: CPU of dihedral.bridge.worker.branches alone, the same graph with nodes that do nothing; a straight run does without it",
        f"BullMQ: {peer.settings}; its flows are trees, so the diamond is held against the same flow of {NODES}",
    ]
    return [Table("Graphs of no-op nodes, backlog, one worker process", rows, notes)], taken


def turn(contender: Contender, jobs: int, *, both: bool = False, fork: str = "") -> Row:
    """`both`: a control plane runs the nodes of its plane. `fork`: the shape that LangGraph runs, measured alone too."""
    with Server() as server, ExitStack() as stack:
        submitted = answer(contender.submit(server.url, jobs), contender.env(server.url))
        control = stack.enter_context(control_plane(server.url))[0].pid if both else None
        before = cpu_seconds(control) if control else 0.0
        row = drain(server, contender, jobs)
        if control:
            row["control µs/job"] = (cpu_seconds(control) - before) / jobs * 1e6
        row["submit/s"] = submitted["perSecond"]
    return with_langgraph(row, fork, NODES) if fork else row


def wide(jobs: int) -> Row:
    with Server() as server:
        row = live(server, jobs, "wide", WIDE, workers=4)
        names = ("jobs", "jobs/s", "worker µs/job", "server µs/job", "worker RSS MiB")
        return with_langgraph({name: row[name] for name in names}, "wide", WIDE)


def with_langgraph(row: Row, shape: str, nodes: int) -> Row:
    alone = answer(fabric("langgraph", "", shape, nodes), dihedral_env(""))["microseconds"]
    return row | {"LangGraph µs/job": alone, "of worker CPU": alone / row["worker µs/job"]}
