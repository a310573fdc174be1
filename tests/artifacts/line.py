"""A line to the S3 server that can be held, lost before an answer, or broken off in the middle of one."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit


class Line:
    """`holds`: a request with these bytes gets no further; `loses`: it arrives, its answer never does, `times` times;
    `breaks`: an answer ends after so many bytes."""

    def __init__(
        self, port: int, *, holds: bytes | None = None, loses: bytes | None = None, times: int = 1, breaks: int | None = None
    ) -> None:  # fmt: skip
        self._port = port
        self._holds = holds
        self._loses = loses
        self._times = times
        self._breaks = breaks
        self._connections: list[asyncio.Task[None]] = []
        self._ends: list[asyncio.StreamWriter] = []
        self.held = asyncio.Event()
        self.lost = 0
        self.seen: list[bytes] = []
        """First lines of requests."""

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._ends.append(writer)
        self._connections.append(asyncio.create_task(self._serve(reader, writer)))

    async def close(self) -> None:
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await close(self._ends)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._ends.append(there_writer)
        asked = b""

        async def forward() -> None:
            nonlocal asked
            while data := await reader.read(1 << 16):
                if data.startswith((b"GET ", b"PUT ", b"POST ", b"HEAD ", b"DELETE ")):
                    asked = data.split(b"\r\n", 1)[0]
                    self.seen.append(asked)
                    if self._holds is not None and self._holds in asked:
                        self.held.set()
                        await asyncio.Event().wait()
                there_writer.write(data)
                await there_writer.drain()

        async def back() -> None:
            passed = 0
            while data := await there_reader.read(1 << 16):
                if self._loses is not None and self._loses in asked and self.lost < self._times:
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()
                passed += len(data)
                if self._breaks is not None and passed > self._breaks:
                    return

        sides = {asyncio.create_task(forward()), asyncio.create_task(back())}
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            for end in (writer, there_writer):
                end.close()


async def close(ends: list[asyncio.StreamWriter]) -> None:
    """Waits until all are closed, those that are added meanwhile too."""
    while ends:
        end = ends.pop()
        end.close()
        with contextlib.suppress(OSError):
            await end.wait_closed()


@asynccontextmanager
async def web(answer: bytes) -> AsyncIterator[str]:
    """The address of a server that answers each connection the same, whatever it is asked."""
    ends: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ends.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        await close(ends)


@asynccontextmanager
async def line(endpoint: str, **faults: object) -> AsyncIterator[tuple[str, Line]]:
    """(the endpoint to use instead, the line)."""
    made = Line(int(urlsplit(endpoint).port or 0), **faults)  # type: ignore[arg-type]
    server = await asyncio.start_server(made.connected, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", made
    finally:
        server.close()
        await made.close()
