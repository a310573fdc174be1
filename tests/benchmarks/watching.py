"""A user of HTTP and WebSocket: `python -m tests.benchmarks.watching PORT N` submits, subscribes, waits for the end; one JSON line."""

import asyncio
import json
import sys
import time

import msgspec
import uvloop
from websockets.asyncio.client import connect

from tests.benchmarks.fabric import ENDED, request
from tests.benchmarks.posting import Connection


async def watch(port: int, count: int) -> dict[str, list[float]]:
    body, milliseconds = request(), []
    http = await Connection.open(port)
    async with connect(f"ws://127.0.0.1:{port}/ws", proxy=None, compression=None) as socket:
        for _ in range(count):
            begun = time.perf_counter()
            status, answer = await http.post("/api/jobs", body)
            assert status == 201, answer
            job_id = msgspec.json.decode(answer)["jobId"]
            await socket.send(json.dumps({"action": "subscribe", "jobId": job_id}))
            while True:
                message = msgspec.json.decode(await socket.recv())
                if message["jobId"] == job_id and message.get("status") in ENDED:
                    break
            milliseconds.append((time.perf_counter() - begun) * 1e3)
            assert message["status"] == "completed", message
            await socket.send(json.dumps({"action": "unsubscribe", "jobId": job_id}))
    return {"ms": milliseconds}


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(watch(*map(int, sys.argv[1:])))))
