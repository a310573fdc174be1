"""How long until a node runs again whose worker was killed: `python -m tests.chaos.recovery [--times 20]`, a table.

Default settings, real processes. Two workers of their own, of which nobody sees one die: its lease has to end. Then `dihedral up`, with two
workers and with one: it sees the death, takes over at once, and starts the worker again. What dies again and again is started after ever
longer pauses, so there is a new `dihedral up` after a few times.
"""

import argparse
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from tests.front_door.running import up
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate

LASTS_SECONDS = 600
MUST_SECONDS = {"its lease has to end": 12.0, "dihedral up, two workers": 2.0, "dihedral up, one worker": 2.0}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.recovery", description=__doc__)
    parser.add_argument("--times", type=int, default=20)
    times = parser.parse_args().times
    measured = {
        "its lease has to end": measure(times, unsupervised, times),
        "dihedral up, two workers": measure(times, lambda: supervised(2), 5),
        "dihedral up, one worker": measure(times, lambda: supervised(1), 2),
    }
    print("| a worker is killed with SIGKILL | times | least | median | most | promised |")
    print("|---|---:|---:|---:|---:|---:|")
    for name, seconds in measured.items():
        row = [len(seconds), *(f"{value:.2f} s" for value in (min(seconds), statistics.median(seconds), max(seconds)))]
        print("|", " | ".join(map(str, [name, *row, f"{MUST_SECONDS[name]:g} s"])), "|")
    return int(any(max(seconds) > MUST_SECONDS[name] for name, seconds in measured.items()))


Replace = Callable[[int], None]


def measure(times: int, house: Any, at_once: int) -> list[float]:
    """Seconds from the kill to the event that says that the node runs again, `times` times; a new house every `at_once` times."""
    seconds: list[float] = []
    while len(seconds) < times:
        seconds += _in(house, min(at_once, times - len(seconds)))
    return seconds


def _in(house: Any, times: int) -> list[float]:
    seconds = []
    with house() as (url, replace), httpx.Client(base_url=url, timeout=30) as http:
        for number in range(times):
            steps = {"id": "node", "steps": LASTS_SECONDS * 10, "stepSeconds": 0.1}
            job = http.post("/api/jobs", json=simulate(steps, job=f"job-{number}")).json()["jobId"]
            first = becomes(partial(_runs, http, job), 60)[0]
            time.sleep(0.3)  # it is in the middle
            pid = int(first["worker"].split("-")[-2])
            killed = time.time()
            os.kill(pid, signal.SIGKILL)
            again = becomes(partial(_again, http, job), 60)[0]
            seconds.append(datetime.fromisoformat(again["created"]).timestamp() - killed)
            print(f"{seconds[-1]:.2f} s", file=sys.stderr, flush=True)
            http.post(f"/api/jobs/{job}/cancel")
            replace(pid)
    return seconds


def _runs(http: httpx.Client, job: str) -> list[dict[str, Any]]:
    events = http.get(f"/api/jobs/{job}/events").json()["events"]
    return [event for event in events if event["type"] == "node" and event["status"] == "running"]


def _again(http: httpx.Client, job: str) -> list[dict[str, Any]]:
    return _runs(http, job)[1:]


@contextmanager
def unsupervised() -> Iterator[tuple[str, Replace]]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        house = Stack(Path(folder), DIHEDRAL_JOBS__LEASE_MS="5000")
        try:
            for _ in range(2):
                house.worker("--slots", "1")

            def replace(pid: int) -> None:
                (dead,) = [process for process in house.workers if process.pid == pid]
                house.workers.remove(dead)
                dead.wait()
                house.worker("--slots", "1")

            yield house.url, replace
        finally:
            house.close()


@contextmanager
def supervised(workers: int) -> Iterator[tuple[str, Replace]]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder, up(Path(folder), "--workers", str(workers)) as running:

        def replace(pid: int) -> None:
            becomes(lambda: len(_live(running.url) - {pid}) == workers, 60)

        yield running.url, replace


def _live(url: str) -> set[int]:
    listed = httpx.get(f"{url}/api/workers", timeout=30).json()["workers"]
    return {worker["pid"] for worker in listed if worker["plane"] == "python"}


if __name__ == "__main__":
    sys.exit(main())
