"""SAQ: no bulk of its own, so 50 enqueues at a time; concurrency 50, uvloop."""

import asyncio
import os
import sys
from typing import Any

import uvloop
from saq import Queue
from submitting import one_by_one, submit_async

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())


async def noop(ctx: Any) -> Any:
    return {"steps": 0}


queue = Queue.from_url(os.environ.get("REDIS_URL") or sys.argv[1])
settings = {"queue": queue, "functions": [noop], "concurrency": 50}


async def main() -> None:
    await queue.connect()
    await submit_async(lambda size: one_by_one(size, lambda: queue.enqueue("noop")))


if __name__ == "__main__":
    asyncio.run(main())
