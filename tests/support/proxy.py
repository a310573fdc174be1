"""A proxy between a client and Redis that can lose an answer: the command arrives, its reply never does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from urllib.parse import urlsplit


class Proxy:
    """`loses(request)`: asked for what a client has sent since the last answer; true cuts the connection instead of answering."""

    def __init__(self, target: str, loses: Callable[[bytes], bool]) -> None:
        self._target = target
        self._loses = loses
        self.lost = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        asked = bytearray()

        async def forward() -> None:
            while data := await reader.read(1 << 16):
                asked.extend(data)
                server_writer.write(data)
                await server_writer.drain()

        async def back() -> None:
            while data := await server_reader.read(1 << 16):
                request = bytes(asked)
                asked.clear()
                if self._loses(request):
                    self.lost += 1
                    return
                writer.write(data)
                await writer.drain()

        sides = {asyncio.create_task(forward()), asyncio.create_task(back())}
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)
            for end in (writer, server_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()


@contextlib.asynccontextmanager
async def proxy(url: str, directory: Path, loses: Callable[[bytes], bool]) -> AsyncIterator[tuple[str, Proxy]]:
    """(the address to use instead of `url`, the proxy)."""
    made = Proxy(urlsplit(url).path, loses)
    path = directory / "proxy.sock"
    server = await asyncio.start_unix_server(made.serve, str(path))
    try:
        yield f"unix://{path}?db=0", made
    finally:
        server.close()
