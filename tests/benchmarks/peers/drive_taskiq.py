"""taskiq on Redis streams: no bulk of its own, so 50 kiqs at a time; 100 tasks at once (its default), uvloop."""

import os
import sys
from typing import Any

import uvloop
from submitting import one_by_one, submit_async
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

URL = os.environ.get("REDIS_URL") or sys.argv[1]
broker = RedisStreamBroker(url=URL).with_result_backend(RedisAsyncResultBackend(redis_url=URL))


@broker.task(task_name="noop")
async def noop() -> Any:
    return {"steps": 0}


async def main() -> None:
    await broker.startup()
    await submit_async(lambda size: one_by_one(size, noop.kiq))
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
