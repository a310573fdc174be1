"""RQ: enqueue_many, `rq worker` as it comes (a fork for each job)."""

import sys
from typing import Any

from redis import Redis
from rq import Queue
from submitting import submit


def noop() -> Any:
    return {"steps": 0}


if __name__ == "__main__":
    queue = Queue(connection=Redis.from_url(sys.argv[1]))
    submit(lambda size: queue.enqueue_many([Queue.prepare_data("drive_rq.noop") for _ in range(size)]))
