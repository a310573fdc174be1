"""What a slot process prints, as log lines of the node that runs in it: bounded, and never a reason to block or to fail.

The pipe is always emptied, so a chatty task never waits for us; what exceeds the bounds is counted, and said once at the end.
"""

import asyncio
import os
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


class Budget:
    """How much of one run's output may become events: a token bucket and a total, for both streams together."""

    def __init__(self, now: float) -> None:
        self.left_out = 0
        self._lines = TOTAL_LINES
        self._bytes = TOTAL_BYTES
        self._tokens = float(BURST_LINES)
        self._at = now

    def allows(self, size_bytes: int, now: float) -> bool:
        self._tokens = min(BURST_LINES, self._tokens + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if self._tokens < 1 or self._lines < 1 or self._bytes < size_bytes:
            self.left_out += 1
            return False
        self._tokens -= 1
        self._lines -= 1
        self._bytes -= size_bytes
        return True


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
        os.set_blocking(descriptor, False)
        self._loop.add_reader(descriptor, self._read)

    def attach(self, emit: Emit, budget: Budget) -> None:
        self._emit, self._budget = emit, budget
        self._partial = self._tail = b""

    def detach(self) -> None:
        """Says what is already in the pipe, an unfinished last line too."""
        for _ in range(LAST_CHUNKS):
            if not self._read():
                break
        if self._partial:
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
        if self._emit is not None:
            # A progress bar ends its lines with \r only.
            *lines, self._partial = (self._partial + chunk).replace(b"\r", b"\n").split(b"\n")
            for line in lines:
                if line.strip():
                    self._say(line)
            if len(self._partial) > LINE_CHARS:
                self._say(self._partial)
                self._partial = b""
        return True

    def _say(self, line: bytes) -> None:
        if self._emit is not None and self._budget is not None and self._budget.allows(len(line), self._loop.time()):
            text = line.decode("utf-8", "replace")
            for start in range(0, len(text), LINE_CHARS):
                self._emit.log(self._level, text[start : start + LINE_CHARS])
