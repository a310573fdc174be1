"""`dihedral` as its users run it: real processes, in a directory of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dihedral.data_plane.process_groups import members
from tests.front_door import warm

SECONDS = 500  # when a test gives up, no promise
COMMAND = [sys.executable, "-P", "-m", "dihedral.cli"]


def dihedral(*arguments: str, cwd: Path, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end, which must have this exit code."""
    command, its = [*COMMAND, *arguments], environment(**environ)
    if any(name.startswith(warm.COLD) for name in environ):
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=SECONDS, env=its)
    else:
        done = subprocess.CompletedProcess(command, *warm.run(arguments, cwd, its, SECONDS))
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return done


def one_line(text: str) -> str:
    """The only line of what was said on stderr."""
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


def environment(**extra: str) -> dict[str, str]:
    """That of the tests, less what would configure the processes under test."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DIHEDRAL_")}
    return {**kept, "PYTHONUNBUFFERED": "1", **extra}


class Up:
    """A `dihedral up` that has said where it is."""

    def __init__(self, process: subprocess.Popen[str], said: Path) -> None:
        self.process = process
        self._said = said
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, self.said()
        self.document: dict[str, Any] = json.loads(line)
        self.url: str = self.document["url"]

    def said(self) -> str:
        """Its stderr so far."""
        return self._said.read_text()

    def children(self) -> list[int]:
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in path.read_text().split()]

    def worker_pids(self) -> set[int]:
        return {worker["pid"] for worker in self.document["workers"]}

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        self.process.send_signal(number)
        return self.process.wait(SECONDS)


@contextlib.contextmanager
def up(cwd: Path, *arguments: str, **environ: str) -> Iterator[Up]:
    """Ready inside the block; stopped after it, and then nothing of it runs any more."""
    said = cwd / f"up-{time.monotonic_ns()}.txt"
    with said.open("w") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "up", "--json", "--port", "0", *arguments],
            cwd=cwd, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment(**environ),
        )  # fmt: skip
    try:
        running = Up(process, said)
        children = running.children()
        yield running
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            assert process.stdout is not None
            process.stdout.close()
    for pid in children:
        assert not members(pid), "a child outlived `dihedral up`"
