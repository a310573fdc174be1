"""Many WebSocket clients: `python -m tests.benchmarks.clients PORT CLIENTS PATH MESSAGES STEP_SECONDS`.

Prints a line when all are subscribed, and one when all have everything. On bare sockets, because a client library would cost more
than the server; frames are told apart by their lengths and events counted in the text, nothing is decoded.
"""

import asyncio
import base64
import contextlib
import json
import os
import sys
import time
from typing import Any

import msgspec
import uvloop

from tests.benchmarks.posting import Connection

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
STALL_SECONDS = 30
AT_ONCE = 50


class Tally:
    """What all clients together have seen."""

    def __init__(self, expected: int) -> None:
        self.expected = expected
        self.events = self.frames = self.bytes = 0
        self.first = self.last = 0.0
        self.complete = asyncio.Event()

    def count(self, events: int, size: int) -> None:
        self.last = time.perf_counter()
        if not self.events:
            self.first = self.last
        self.events += events
        self.frames += 1
        self.bytes += size
        if self.events >= self.expected:
            self.complete.set()

    async def everything(self) -> None:
        """Returns when all have everything, or nothing comes any more."""
        before = -1
        while self.events > before and not self.complete.is_set():
            before = self.events
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STALL_SECONDS):
                    await self.complete.wait()


class Client(asyncio.Protocol):
    def __init__(self, path: str, message: bytes, tally: Tally) -> None:
        self.path = path
        self.message = message
        self.tally = tally
        self.subscribed = asyncio.get_running_loop().create_future()
        self.buffer = bytearray()
        self.open = False

    def connection_made(self, transport: Any) -> None:
        self.transport: asyncio.Transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        transport.write(
            f"GET {self.path} HTTP/1.1\r\nHost: bench\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )

    def connection_lost(self, error: Exception | None) -> None:
        if not self.subscribed.done():
            self.subscribed.set_exception(error or ConnectionError("closed before it was subscribed"))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        if not self.open:
            head, found, rest = self.buffer.partition(b"\r\n\r\n")
            if not found:
                return
            assert head.startswith(b"HTTP/1.1 101"), head
            self.open, self.buffer = True, rest
            self.send(TEXT, self.message)
        start = 0
        while (frame := _frame(self.buffer, start)) is not None:
            opcode, begin, start = frame
            if opcode == PING:
                self.send(PONG, bytes(self.buffer[begin:start]))
            elif opcode == TEXT:
                self.text(begin, start)
        del self.buffer[:start]

    def text(self, begin: int, end: int) -> None:
        if not self.subscribed.done():
            assert b'"subscribed"' in self.buffer[begin:end], self.buffer[begin:end]
            self.subscribed.set_result(None)
        elif events := self.buffer.count(b'"type":"data"', begin, end):
            self.tally.count(events, end - begin)

    def send(self, opcode: int, payload: bytes) -> None:
        assert len(payload) < 126
        self.transport.write(bytes((0x80 | opcode, 0x80 | len(payload))) + bytes(4) + payload)  # masked with zeros


def _frame(buffer: bytearray, start: int) -> tuple[int, int, int] | None:
    """(opcode, begin, end) of the payload, or None while it is not whole."""
    if len(buffer) < start + 2:
        return None
    begin, length = start + 2, buffer[start + 1] & 0x7F
    if length > 125:
        size = 2 if length == 126 else 8
        begin, length = begin + size, int.from_bytes(buffer[begin : begin + size])
        if len(buffer) < begin:
            return None
    return (buffer[start] & 0x0F, begin, begin + length) if len(buffer) >= begin + length else None


async def main(port: int, clients: int, path: str, messages: int, step_seconds: float) -> None:
    job_id = "job"
    if path == "/ws":
        node = {"id": "n0", "task": "simulate", "plane": "python"}
        node["params"] = {"steps": messages, "stepSeconds": step_seconds}  # type: ignore[assignment]
        http = await Connection.open(port)
        body = {"graph": {"schema": "langgraph.v1", "nodes": [node], "edges": []}}
        status, answer = await http.post("/api/jobs", json.dumps(body).encode())
        assert status == 201, answer
        job_id = msgspec.json.decode(answer)["jobId"]
    message = json.dumps({"action": "subscribe", "jobId": job_id}).encode()
    tally, loop, begun = Tally(clients * messages), asyncio.get_running_loop(), time.perf_counter()
    for start in range(0, clients, AT_ONCE):
        made = [
            loop.create_connection(lambda: Client(path, message, tally), "127.0.0.1", port)
            for _ in range(min(AT_ONCE, clients - start))
        ]
        await asyncio.gather(*(client.subscribed for _, client in await asyncio.gather(*made)))
    await asyncio.sleep(1)
    print(json.dumps({"seconds": time.perf_counter() - begun - 1}), flush=True)
    await tally.everything()
    seconds = max(tally.last - tally.first, 1e-9)
    found = {
        "events/s": tally.events / seconds,
        "frames/s": tally.frames / seconds,
        "MB/s": tally.bytes / seconds / 1e6,
        "delivered": f"{tally.events / tally.expected:.2%}",
    }
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    port, clients, path, messages, step_seconds = sys.argv[1:]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main(int(port), int(clients), path, int(messages), float(step_seconds)))
