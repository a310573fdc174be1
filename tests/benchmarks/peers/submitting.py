"""What the Python peers' drivers share; runs in each peer's own environment."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

BLOCK = 1000


def submit(block: Callable[[int], object]) -> None:
    """`block(n)` submits n jobs; says how many a second that made."""
    count = int(sys.argv[2])
    begun = time.perf_counter()
    for start in range(0, count, BLOCK):
        block(min(BLOCK, count - start))
    print(json.dumps({"perSecond": count / (time.perf_counter() - begun)}))


async def submit_async(block: Callable[[int], Awaitable[object]]) -> None:
    count = int(sys.argv[2])
    begun = time.perf_counter()
    for start in range(0, count, BLOCK):
        await block(min(BLOCK, count - start))
    print(json.dumps({"perSecond": count / (time.perf_counter() - begun)}))


async def one_by_one(count: int, submit_one: Callable[[], Awaitable[object]]) -> None:
    """For peers without a way to submit many: 50 at a time."""
    for start in range(0, count, 50):
        await asyncio.gather(*(submit_one() for _ in range(min(50, count - start))))
