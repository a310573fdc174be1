"""arq: no bulk of its own, so 50 enqueues at a time; 50 jobs at once, polls every 10 ms (0.5 s as it comes), uvloop."""

import asyncio
import os
import sys
from typing import Any

import uvloop
from arq import create_pool
from arq.connections import RedisSettings
from submitting import one_by_one, submit_async

asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
REDIS = RedisSettings.from_dsn(os.environ.get("REDIS_URL") or sys.argv[1])


async def noop(ctx: Any) -> Any:
    return {"steps": 0}


class Settings:
    functions = (noop,)
    redis_settings = REDIS
    max_jobs = 50
    poll_delay = 0.01


async def main() -> None:
    pool = await create_pool(REDIS)
    await submit_async(lambda size: one_by_one(size, lambda: pool.enqueue_job("noop")))


if __name__ == "__main__":
    asyncio.run(main())
