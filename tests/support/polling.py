"""Waiting for a condition instead of a time."""

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
