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
    """Starts to measure; what is returned says how many times as long as on cores of its own the main thread of a process has taken since."""
    schedstat = Path(f"/proc/{pid}/schedstat")

    def read() -> tuple[int, int]:
        computed, waited, _ = map(int, schedstat.read_text().split()) if schedstat.exists() else (0, 0, 0)
        return computed, waited

    before = read()

    def times() -> float:
        computed, waited = (now - then for now, then in zip(read(), before, strict=True))
        return 1 + waited / max(1, computed)

    return times


def at_this_load(seconds: float) -> float:
    """Seconds that a promise of so many may take here: as many times more as there are processes that wait for each core."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
