"""No-op jobs with stored results: a backlog, drained by one worker process; what a job costs in CPU and in memory."""

from functools import partial
from typing import Any

from tests.benchmarks.bench import Contender, Row, Server, Table, answer, dihedral, drain, summary, turns
from tests.benchmarks.peers import PYTHON_PEERS, bullmq

JOBS = 50_000


def run(jobs: int, rounds: int, only: list[str] | None = None) -> tuple[list[Table], Any]:
    known = [dihedral(), bullmq(), *PYTHON_PEERS]
    unknown = set(only or ()) - {each.name for each in known}
    if unknown:
        raise SystemExit(
            f"--only: no {', '.join(sorted(unknown))}; there are: {', '.join(each.name for each in known)}"
        )
    contenders = [each for each in known if only is None or each.name in only]
    for each in contenders:
        each.install()
    taken = turns(rounds, {each.name: partial(turn, each, each.jobs(jobs)) for each in contenders})
    notes = [f"{each.name}: {each.settings}" for each in contenders]
    notes.append("bytes: used_memory of Redis per job; Dihedral's beside graph: without the JSON of the graph itself")
    return [Table("No-op jobs, one worker process", summary(taken, of="jobs/s", reference="Dihedral"), notes)], taken


def turn(contender: Contender, jobs: int) -> Row:
    with Server() as server:
        empty = server.used_bytes
        submitted = answer(contender.submit(server.url, jobs), contender.env(server.url))
        queued = server.used_bytes - empty
        row = drain(server, contender, jobs)
        row["submit/s"] = submitted["perSecond"]
        row["bytes/queued"] = queued / jobs
        row["bytes/finished"] = (server.used_bytes - empty) / jobs
        if "graphBytes" in submitted:
            row["beside graph"] = row["bytes/finished"] - submitted["graphBytes"]
        return row
