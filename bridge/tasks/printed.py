"""What async tasks print and log becomes log events of their node, as it does in a slot: they share a process, so the context holds whose it is.

A task that an async task starts inherits its context; a thread does so with `asyncio.to_thread`. What is written outside of any run, and what the
worker logs itself, stays where it was. The bounds are those of a run in a slot: beyond them lines are counted, and the count is logged at the end.
"""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dihedral.bridge.tasks.context import printable
from dihedral.bridge.tasks.runs import Emit

TOTAL_LINES = 2_000
TOTAL_CHARS = 512 * 1024
LINE_CHARS = 4_000
OURS = ("dihedral", "asyncio")
LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"))


class Printed:
    """What one run prints. It belongs to the run's context, so that no other run can add to it."""

    __slots__ = ("_chars", "_emit", "_left_out", "_lines", "_open")

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._open: dict[str, str] | None = None  # the line that has not ended, by level
        self._lines = self._chars = self._left_out = 0

    def write(self, level: str, text: str) -> None:
        """Adds text as print() writes it; a line is emitted when it ends, or has become too long."""
        if self._open is None:
            self._open = {}
        *lines, rest = (self._open.get(level, "") + text).split("\n")
        for line in lines:
            self.line(level, line)
        if len(rest) > LINE_CHARS:
            self.line(level, rest)
            rest = ""
        self._open[level] = rest

    def line(self, level: str, line: str) -> None:
        line = line.rpartition("\r")[2] if not line.endswith("\r") else line[:-1].rpartition("\r")[2]
        self._lines += 1
        self._chars += min(len(line), LINE_CHARS)
        if self._lines > TOTAL_LINES or self._chars > TOTAL_CHARS:
            self._left_out += 1
        elif line:
            self._emit.log(level, printable(line[:LINE_CHARS]))

    def close(self) -> None:
        for level, rest in (self._open or {}).items():
            if rest:
                self.line(level, rest)
        self._open = {}
        if self._left_out:
            self._emit.log("warning", f"{self._left_out} lines of output were left out")
            self._left_out = 0


PRINTED: ContextVar[Printed | None] = ContextVar("PRINTED", default=None)


class _Routed(io.TextIOBase):
    """Stands for a stream of the process: what a run writes goes to its log, everything else to the stream."""

    def __init__(self, stream: io.TextIOBase, level: str) -> None:
        self._stream = stream
        self._level = level

    def write(self, text: str) -> int:
        printed = PRINTED.get()
        if printed is None:
            return self._stream.write(text)
        printed.write(self._level, text)
        return len(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return PRINTED.get() is None and self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    @property
    def buffer(self) -> io.BufferedIOBase:
        return self._stream.buffer  # type: ignore[attr-defined, no-any-return]


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        printed = PRINTED.get()
        if printed is None or record.name.partition(".")[0] in OURS:
            return
        level = next((name for least, name in LEVELS if record.levelno >= least), "debug")
        try:
            text = record.getMessage()
        except Exception as error:  # a wrong format string fails no run
            text = f"{record.msg!s} ({type(error).__name__}: {error})"
        for line in text.split("\n"):
            printed.line(level, line)


@contextmanager
def routed() -> Iterator[None]:
    """Routes both streams of this process, and its logging, to the runs that write to them."""
    before = sys.stdout, sys.stderr
    handler = _Handler()
    sys.stdout = _Routed(sys.stdout, "stdout")  # type: ignore[arg-type]
    sys.stderr = _Routed(sys.stderr, "stderr")  # type: ignore[arg-type]
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        sys.stdout, sys.stderr = before
