"""The least that a hub can be: `python -m tests.benchmarks.bare_hub URL PORT`, or `URL 0 MESSAGES SECONDS` to speak to it."""

import asyncio
import gc
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from litestar import Litestar, WebSocket, websocket
from litestar.datastructures import State

from dihedral.bridge.fabric.connection import connect

CHANNEL = "bare"
EVENT = (
    '{"type":"update","jobId":"job","epoch":"7b1c8a1d4bd0c3e0f0d9c2a4b9e7","seq":12,"status":"running","progress":0.5,"events":'
    '[{"type":"data","seq":12,"created":"2026-01-01T00:00:00.000Z","nodeId":"n0","name":"step","data":{"step":5,"steps":100}}]}'
)
"""As long as an update with one event."""


class Queue:
    def __init__(self) -> None:
        self.texts: deque[str] = deque(maxlen=256)
        self.wake = asyncio.Event()


@websocket("/bare")
async def bare(socket: WebSocket[Any, Any, State]) -> None:
    await socket.accept()
    await socket.receive_text()
    queue = Queue()
    socket.app.state.queues.append(queue)
    await socket.send_text('{"message":"subscribed"}')
    while True:
        await queue.wake.wait()
        queue.wake.clear()
        while queue.texts:
            await socket.send_text(queue.texts.popleft())


def main(url: str, port: int) -> None:
    async def read(queues: list[Queue]) -> None:
        async with connect(url, timeout_seconds=600).pubsub(ignore_subscribe_messages=True) as pubsub:
            await pubsub.subscribe(CHANNEL)
            async for message in pubsub.listen():
                text = message["data"].decode()
                for queue in queues:
                    queue.texts.append(text)
                    queue.wake.set()

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        app.state.queues = []
        reading = asyncio.create_task(read(app.state.queues))
        yield
        reading.cancel()

    app = Litestar([bare], lifespan=[lifespan], openapi_config=None, logging_config=None)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)  # as the control plane does
    uvicorn.run(app, port=port, ws="websockets-sansio", log_config=None, access_log=False)


async def speak(url: str, messages: int, step_seconds: float) -> None:
    client = connect(url)
    for _ in range(messages):
        await client.publish(CHANNEL, EVENT)
        if step_seconds:
            await asyncio.sleep(step_seconds)
    await asyncio.sleep(3600)  # whoever started this ends it


if __name__ == "__main__":
    if sys.argv[2] == "0":
        asyncio.run(speak(sys.argv[1], int(sys.argv[3]), float(sys.argv[4])))
    else:
        main(sys.argv[1], int(sys.argv[2]))
