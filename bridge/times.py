"""The format of times in documents for clients."""

import time
from functools import lru_cache


def rfc3339(ms: int) -> str:
    """Formats epoch milliseconds as UTC with milliseconds."""
    seconds, rest = divmod(ms, 1000)
    return f"{_second(seconds)}.{rest:03d}Z"


@lru_cache(64)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def now_rfc3339() -> str:
    return rfc3339(time.time_ns() // 1_000_000)
