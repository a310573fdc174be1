"""streaQ: enqueue_many; concurrency 50, uvloop."""

import os
import sys
from typing import Any

import uvloop
from streaq import Worker
from submitting import submit_async

worker = Worker(redis_url=os.environ.get("REDIS_URL") or sys.argv[1], concurrency=50, anyio_kwargs={"use_uvloop": True})


@worker.task()
async def noop() -> Any:
    return {"steps": 0}


async def main() -> None:
    async with worker:
        await submit_async(lambda size: worker.enqueue_many([noop.enqueue() for _ in range(size)]))


if __name__ == "__main__":
    uvloop.run(main())
