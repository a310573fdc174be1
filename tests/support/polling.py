"""Waiting for a condition instead of a time. How long at most says when a test gives up, and grows with the load of the machine."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def becomes(what: Callable[[], Any], seconds: float = 30, *, despite: tuple[type[Exception], ...] = ()) -> Any:
    """Waits for a condition; its value. `despite`: errors that count as "not yet"."""
    begun = time.monotonic()
    while True:
        try:
            found = what()
        except despite:
            found = None
        if found:
            return found
        assert time.monotonic() - begun < at_this_load(seconds), "it did not happen"
        time.sleep(0.02)


async def becomes_async(what: Callable[[], Any], seconds: float = 30) -> Any:
    """Waits for a condition, sync or async, without blocking the loop; its value."""
    begun = time.monotonic()
    while True:
        found = what()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() - begun < at_this_load(seconds), "it did not happen"
        await asyncio.sleep(0.01)


def held_up(pid: int) -> Callable[[], float]:
    """Starts to measure; what is returned says how many times as long as on cores of its own the main thread of a process, or of this one that asks it, has taken since."""
    schedstats = [Path(f"/proc/{each}/schedstat") for each in (pid, os.getpid())]

    def read() -> list[tuple[int, int]]:
        rows = [stat.read_text().split() if stat.exists() else ["0", "0"] for stat in schedstats]
        return [(int(computed), int(waited)) for computed, waited, *_ in rows]

    before = read()

    def times() -> float:
        pairs = zip(read(), before, strict=True)
        return 1 + max((now[1] - then[1]) / max(1, now[0] - then[0]) for now, then in pairs)

    return times


def at_this_load(seconds: float) -> float:
    """Seconds that a promise of so many may take here: as many times more as there are processes that wait for each core."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
