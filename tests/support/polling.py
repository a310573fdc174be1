"""Waiting for a condition instead of a time."""

import os
import time
from collections.abc import Callable
from typing import Any


def becomes(what: Callable[[], Any], seconds: float = 30) -> Any:
    deadline = time.monotonic() + seconds
    while True:
        found = what()
        if found:
            return found
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def at_this_load(seconds: float) -> float:
    """Seconds that a promise of so many may take here: as many times more as there are processes that wait for each core."""
    return seconds * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
