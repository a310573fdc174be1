"""dramatiq: results stored, one process of 8 threads (its default)."""

import os
import sys
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from submitting import submit

URL = os.environ.get("REDIS_URL") or sys.argv[1]
broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop() -> Any:
    return {"steps": 0}


if __name__ == "__main__":
    submit(lambda size: [noop.send() for _ in range(size)])
