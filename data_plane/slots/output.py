"""The output of a slot process, as log lines of the node that runs in it: bounded, and never a reason to block or to fail.

The pipe is always emptied, so a task with much output never waits for it. Of what exceeds the bounds the last lines are logged at the end, since
they show how it ended, and the whole output is kept for an artifact. A line that `\\r` overwrites is a progress bar: one is logged now and then,
ever more seldom, so that a bar of ten hours leaves room for what is printed behind it.
"""

import asyncio
import os
import tempfile
import weakref
from collections import deque
from contextlib import suppress

from dihedral.bridge.tasks.runs import Emit

CHUNK_BYTES = 64 * 1024  # a pipe's capacity on Linux
LINE_CHARS = 4_000
TAIL_BYTES = 4_000
TOTAL_LINES = 2_000  # of a run; a job's event log holds 10,000 by default
TOTAL_BYTES = 512 * 1024
BURST_LINES = 200
LINES_PER_SECOND = 50.0
LAST_CHUNKS = 256  # a grandchild may go on printing after the end
LAST_LINES, LAST_BYTES = 200, 64 * 1024  # of what was left out, logged at the end
BAR_SECONDS, BAR_GROWTH = 1.0, 1.05  # between two looks at a progress bar: 200 of them in four days
WHOLE_BYTES = 64 * 2**20  # of the artifact
IN_MEMORY_BYTES = 256 * 1024  # most runs print less, and need no file


class Budget:
    """The share of one run's output that may become events: a token bucket and a total, for both streams together; and all of it, for the case that it is cut."""

    def __init__(self, now: float) -> None:
        self.left_out = 0
        self.last: deque[tuple[str, str]] = deque()
        """The last lines that were left out, as (level, line)."""
        self.whole = tempfile.SpooledTemporaryFile(IN_MEMORY_BYTES)  # noqa: SIM115
        weakref.finalize(self, self.whole.close)  # of a run whose slot died or was closed nothing asks for it any more
        self.whole_bytes = 0
        self._last_bytes = 0
        self._lines = TOTAL_LINES
        self._bytes = TOTAL_BYTES
        self._tokens = float(BURST_LINES)
        self._at = now

    def allows(self, size_bytes: int, now: float) -> bool:
        self._tokens = min(BURST_LINES, self._tokens + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if self._tokens < 1 or self._lines < 1 or self._bytes < size_bytes:
            return False
        self._tokens -= 1
        self._lines -= 1
        self._bytes -= size_bytes
        return True

    def leave_out(self, level: str, line: str) -> None:
        self.left_out += 1
        self.last.append((level, line[:LINE_CHARS]))
        self._last_bytes += len(self.last[-1][1])
        while len(self.last) > LAST_LINES or self._last_bytes > LAST_BYTES:
            self._last_bytes -= len(self.last.popleft()[1])

    def keep(self, chunk: bytes) -> None:
        """Keeps part of the whole output; a full disk costs the artifact, not the run."""
        if self.whole_bytes < WHOLE_BYTES:
            with suppress(OSError):
                self.whole.write(chunk[: WHOLE_BYTES - self.whole_bytes])
            self.whole_bytes += len(chunk)

    def tell_last(self, emit: Emit) -> None:
        """Logs the last lines at the end of the run."""
        if self.left_out:
            emit.log("warning", f"{self.left_out} lines were left out; the last {len(self.last)} of them follow")
        for level, line in self.last:
            emit.log(level, line)


class OutputCapture:
    """Reads one end of a pipe, line by line, while the event loop runs; owns the descriptor."""

    def __init__(self, descriptor: int, level: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._descriptor = descriptor
        self._level = level
        self._emit: Emit | None = None
        self._budget: Budget | None = None
        self._partial = b""
        self._tail = b""
        self._bar_at, self._bar_seconds = 0.0, BAR_SECONDS
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def attach(self, emit: Emit, budget: Budget) -> None:
        self._emit, self._budget = emit, budget
        self._partial = self._tail = b""
        self._bar_at, self._bar_seconds = 0.0, BAR_SECONDS

    def detach(self) -> None:
        """Logs what is already in the pipe, an unfinished last line too."""
        for _ in range(LAST_CHUNKS):
            if not self._read():
                break
        self._say(self._partial)
        self._partial = b""
        self._emit = self._budget = None

    @property
    def tail(self) -> str:
        """The last kilobytes since attach(), whatever the bounds left out."""
        return self._tail.decode("utf-8", "replace").strip()

    def close(self) -> None:
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _read(self) -> bool:
        if self._descriptor < 0:
            return False
        chunk = b""
        with suppress(BlockingIOError):
            chunk = os.read(self._descriptor, CHUNK_BYTES)
            if not chunk:
                self._loop.remove_reader(self._descriptor)
        if not chunk:
            return False
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        if self._emit is not None and self._budget is not None:
            self._budget.keep(chunk)
            *lines, self._partial = (self._partial + chunk).replace(b"\r\n", b"\n").split(b"\n")
            for line in lines:
                self._say(line)
            self._partial = self._shortened(self._partial)
        return True

    def _shortened(self, partial: bytes) -> bytes:
        """Returns the part of an unfinished line that the last `\r` has not overwritten; the bar itself is logged when it is time for it."""
        *overwritten, last = partial.split(b"\r")
        if overwritten:
            bar = next((each for each in reversed(overwritten) if each.strip()), last)
            partial = b"\r" + last if last.strip() else bar + b"\r"
            now = self._loop.time()
            if bar.strip() and now >= self._bar_at + self._bar_seconds:
                self._bar_at, self._bar_seconds = now, self._bar_seconds * BAR_GROWTH
                self._say(bar)
        if len(partial) > LINE_CHARS:
            self._say(partial)
            return b""
        return partial

    def _say(self, line: bytes) -> None:
        """Logs a line without the text that was overwritten."""
        line = line.rstrip(b"\r ").rpartition(b"\r")[2]
        if self._emit is None or self._budget is None or not line.strip():
            return
        text = line.decode("utf-8", "replace")
        if not self._budget.allows(len(line), self._loop.time()):
            self._budget.leave_out(self._level, text)
            return
        for start in range(0, len(text), LINE_CHARS):
            self._emit.log(self._level, text[start : start + LINE_CHARS])
