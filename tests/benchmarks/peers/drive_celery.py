"""Celery: one prefork child, prefetches 64 (what its manual advises for short tasks), results in Redis."""

import os
import sys
from typing import Any

from celery import Celery
from submitting import submit

URL = os.environ.get("REDIS_URL") or sys.argv[1]
app = Celery("drive_celery", broker=URL, backend=URL)
app.conf.worker_prefetch_multiplier = 64


@app.task(name="noop")
def noop() -> Any:
    return {"steps": 0}


if __name__ == "__main__":
    submit(lambda size: [noop.delay() for _ in range(size)])
