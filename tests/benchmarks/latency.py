"""Idle latency: one job at a time, from submit to the terminal event, on Pub/Sub and over HTTP + WebSocket."""

from functools import partial
from typing import Any

from tests.benchmarks.bench import (
    Contender,
    Row,
    Server,
    Table,
    answer,
    control_plane,
    dihedral,
    dihedral_env,
    fabric,
    medians,
    module,
    percentile,
    ratio,
    running,
    turns,
    wait_for,
)
from tests.benchmarks.peers import bullmq

JOBS = 500
WARM_UP = 50


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    peer, ours = bullmq(), dihedral()
    peer.install()
    direct = turns(
        rounds,
        {
            "Dihedral": partial(turn, ours, jobs, lambda url, count: fabric("latency", url, count)),
            "BullMQ": partial(
                turn, peer, jobs, lambda url, count: [*peer.submit(url, count)[:2], "latency", url, str(count)]
            ),
        },
    )
    web = turns(rounds, {"HTTP + WebSocket": partial(over_http, jobs)})
    notes = [
        "BullMQ: QueueEvents heard, not asked; Dihedral: submit through dihedral.bridge.fabric.jobs, status:<id> heard on Pub/Sub"
    ]
    tables = [
        Table(f"Idle, submit to terminal event, {jobs} jobs one after the other, ms", _rows(direct), notes),
        Table(
            "POST /api/jobs, then a WebSocket's subscribe, to `completed`, ms",
            [{"": name, **medians(rows)} for name, rows in web.items()],
        ),
    ]
    return tables, {"direct": direct, "web": web}


def _rows(taken: dict[str, list[Row]]) -> list[Row]:
    rows = []
    for name, each in taken.items():
        ours = taken.get("Dihedral", [])
        ratios = {f"{of}: Dihedral ÷ it": ratio(ours, each, of) for of in ("p50", "p99") if ours}
        rows.append({"": name, **medians(each), **ratios})
    return rows


def turn(contender: Contender, jobs: int, command: Any) -> Row:
    env = contender.env
    with Server() as server, running(contender.work(server.url), env(server.url)) as process:
        wait_for(lambda: len(server.redis.client_list()) >= 3, process)  # ours and what the worker blocks on
        return _figures(answer(command(server.url, jobs + WARM_UP), env(server.url))["ms"])


def over_http(jobs: int) -> Row:
    with (
        Server() as server,
        running(module("data_plane"), dihedral_env(server.url)) as process,
        control_plane(server.url) as (_, port),
    ):
        wait_for(lambda: server.redis.hexists("capabilities", "python:simulate"), process)
        return _figures(answer(module("tests.benchmarks.watching", port, jobs + WARM_UP), dihedral_env(""))["ms"])


def _figures(milliseconds: list[float]) -> Row:
    counted = milliseconds[WARM_UP:]
    return {
        "jobs": len(counted),
        "p50": percentile(counted, 0.5),
        "p90": percentile(counted, 0.9),
        "p99": percentile(counted, 0.99),
        "max": max(counted),
    }
