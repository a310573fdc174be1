"""The format of times in documents for clients."""

import time


def rfc3339(ms: int) -> str:
    """Formats epoch milliseconds as UTC with milliseconds."""
    seconds, rest = divmod(ms, 1000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{rest:03d}Z"


def now_rfc3339() -> str:
    return rfc3339(time.time_ns() // 1_000_000)
