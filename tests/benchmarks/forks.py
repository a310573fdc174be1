"""The first graph of a worker that forks, for which LangGraph is imported: how late everything else in its loop comes."""

from functools import partial
from typing import Any

from tests.benchmarks.bench import Row, Table, answer, dihedral_env, fabric, medians, turns

JOBS = 3
"""The seconds of each measurement; --jobs changes them."""


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    taken = turns(rounds, {"a loop that ticks every 5 ms": partial(turn, jobs)})
    notes = ["ms, the latest tick: before, and while the first fork of the process has LangGraph imported"]
    rows = [{"": name, **medians(rows)} for name, rows in taken.items()]
    return [Table("The first fork of a worker", rows, notes)], taken


def turn(seconds: int) -> Row:
    return answer(fabric("fork", "", seconds), dihedral_env(""))
