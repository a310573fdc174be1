"""What `run_tool` costs beside a trainer that prints fifty lines a second: the CPU time of its process, not of the trainer.

The start (files, command line, the child's launch) and the end (result, log) are a row of their own: the same tool that prints nothing for as long.
"""

import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.benchmarks.bench import Row, Table, summary, turns
from tests.support.in_process import TaskRunner

JOBS = 20  # seconds of a turn
LINES_PER_SECOND = 50
TRAINER = """
import sys, time
seconds, lines = float(sys.argv[1]), int(sys.argv[2])
begun = time.monotonic()
for n in range(int(seconds * lines)):
    print(f"\\rSteps:  1%|x  | {n}/{int(seconds * lines)} [00:01<00:05,  9.41it/s, loss={1 / (n + 1):.4f}, lr=0.001]", end="", file=sys.stderr, flush=True)
    if n % 5 == 0: print({"loss": str(1 / (n + 1)), "epoch": "0.25"}, flush=True)
    time.sleep(max(0, begun + (n + 1) / lines - time.monotonic()))
time.sleep(max(0, begun + seconds - time.monotonic()))
open("output/a.json", "w").write("{}")
"""


def run(seconds: int, rounds: int) -> tuple[list[Table], Any]:
    with tempfile.TemporaryDirectory() as folder, TaskRunner.opened(Path(folder, "store")) as tasks:
        rates = {f"{LINES_PER_SECOND} lines/s": LINES_PER_SECOND, "no output": 0}
        taken = turns(rounds, {name: partial(beside, tasks, seconds, rate) for name, rate in rates.items()})
    title = f"`run_tool` beside a trainer of {seconds} s"
    return [Table(title, summary(taken, of="% of a core", reference="no output"))], {title: taken}


def beside(tasks: TaskRunner, seconds: int, rate: int) -> Row:
    script = tasks.directory.with_name("trainer.py")
    script.write_text(TRAINER)
    argv = [sys.executable, str(script), str(seconds), str(rate)]
    table = {"argv": argv, "progress": "Steps", "result": ["output/*"], "checkpoints": ["output/checkpoint-*"]}
    tasks.registry["run_tool"].configure({"tools": {"trainer": table}})
    cpu = time.process_time()
    made, _ = tasks.output("run_tool", {"tool": "trainer"})
    cpu = time.process_time() - cpu
    return {"% of a core": 100 * cpu / seconds, "CPU ms": 1000 * cpu, "last step": made["lastStep"]}
