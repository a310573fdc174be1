"""The HTTP client: `python -m tests.benchmarks.posting PORT REQUESTS CONNECTIONS BATCH` prints one JSON line.

Plain sockets with keep-alive, one request in flight on each, because a client library would cost more than the server.
"""

import asyncio
import json
import sys
import time

import uvloop

from tests.benchmarks.bench import percentile
from tests.benchmarks.fabric import request


class Connection:
    """One keep-alive connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def open(cls, port: int) -> "Connection":
        return cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 26))

    async def post(self, path: str, body: bytes) -> tuple[int, bytes]:
        self.writer.write(
            b"POST %b HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), len(body), body)
        )
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0])
        return int(head[9:12]), await self.reader.readexactly(length)


async def load(port: int, requests: int, connections: int, batch: int) -> dict[str, float]:
    path, body = "/api/jobs", request()
    if batch > 1:
        path, body = "/api/jobs/batch", b'{"jobs":[' + b",".join([body] * batch) + b"]}"
    milliseconds: list[float] = []
    left = iter(range(requests))

    async def client() -> None:
        connection = await Connection.open(port)
        for _ in left:
            begun = time.perf_counter()
            status, answer = await connection.post(path, body)
            milliseconds.append((time.perf_counter() - begun) * 1e3)
            assert status in (200, 201), answer
            if batch > 1:
                assert answer.count(b'"jobId"') == batch, answer[:500]
        connection.writer.close()

    begun = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(connections)))
    seconds = time.perf_counter() - begun
    return {
        "perSecond": requests / seconds,
        "p50": percentile(milliseconds, 0.5),
        "p99": percentile(milliseconds, 0.99),
    }


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        print(json.dumps(runner.run(load(*map(int, sys.argv[1:])))))
