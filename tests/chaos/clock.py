"""A wall clock of its own for each process under test, which the harness can step; nobody needs root for it.

It is a preloaded library (clock.c), compiled where a C compiler is found; elsewhere clocks cannot be stepped, and the kinds of fault
that need it are not part of a round.
"""

import atexit
import mmap
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).with_name("clock.c")


@cache
def library() -> Path | None:
    """Compiled once a process; None where it cannot be: no Linux, or no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        return None
    folder = tempfile.mkdtemp(prefix="chaos-clock-")  # where files may be executed, unlike in some /dev/shm
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Path(folder) / "clock.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE), "-ldl"], check=True)
    return made


class Clock:
    """`environ` is for the process; `step` moves its clock at once, and that of its children. `steps`: (monotonic moment, seconds ahead since)."""

    def __init__(self, path: Path, moment: float) -> None:
        path.write_bytes(bytes(8))
        self.steps = [(moment, 0.0)]
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 8)
        made = library()
        self.environ = {} if made is None else {"LD_PRELOAD": str(made), "CHAOS_CLOCK": str(path)}

    @property
    def ahead(self) -> float:
        """Seconds."""
        return self.steps[-1][1]

    def step(self, seconds: float, moment: float) -> None:
        if not self.environ:
            return
        self.steps.append((moment, self.ahead + seconds))
        self._shared[:] = int(self.ahead * 1e9).to_bytes(8, "little", signed=True)

    def moment(self, told: float, wall: float) -> float:
        """The monotonic moment at which this clock told that time; `wall`: the machine's wall clock minus its monotonic one.

        Unambiguous as long as the clock was stepped forwards only.
        """
        for begun, ahead in reversed(self.steps):
            if told - wall - ahead >= begun - 0.001:
                return told - wall - ahead
        return told - wall

    def close(self) -> None:
        self._shared.close()
