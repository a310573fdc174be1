"""The TCP line of one process to Redis, or of all to the artifact store: it can be slow, silent, cut, lose answers, or answer by itself.

A silent line (a black hole) reads what it is given and keeps it. When it speaks again it passes on all that it kept, even for a client
that has given up meanwhile: so come the ghosts that fencing is for. A late command still arrives.
"""

import asyncio
import contextlib
import random

CHUNK = 1 << 16


class Wire:
    def __init__(self, target_port: int, rng: random.Random) -> None:
        self._target_port = target_port
        self._rng = rng
        self._open = asyncio.Event()
        self._open.set()
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._server: asyncio.Server | None = None
        self._lines: set[asyncio.Task[None]] = set()
        self.port = 0
        self.delay_seconds = 0.0
        self.loses_share = 0.0
        """Of the answers: so many are lost, each with its connection, some torn in the middle."""
        self.refusal = b""
        """Answered to whatever is asked, which then gets no further; empty: nothing is refused."""
        self.lost = 0
        self.cuts = 0
        self.refused = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def cut(self) -> None:
        """Every connection ends, some with a reset."""
        for pair in list(self._pairs):
            self.cuts += 1
            for end in pair:
                if self._rng.random() < 0.5:
                    end.transport.abort()
                else:
                    end.close()

    def silence(self) -> None:
        self._open.clear()

    def speak(self) -> None:
        self._open.set()

    def mend(self) -> None:
        self.delay_seconds = self.loses_share = 0.0
        self.refusal = b""
        self.speak()

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.mend()
        self.cut()
        for line in list(self._lines):
            line.cancel()
        await asyncio.gather(*self._lines, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._lines.add(task)
        try:
            await self._line(reader, writer)
        except asyncio.CancelledError:
            pass  # only close() does it
        finally:
            self._lines.discard(task)

    async def _line(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._open.wait()
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._target_port)
        except OSError:
            writer.close()
            return
        pair = writer, server_writer
        self._pairs.add(pair)
        sides = [
            asyncio.create_task(self._pump(reader, server_writer, answers=False, back=writer)),
            asyncio.create_task(self._pump(server_reader, writer, answers=True, back=server_writer)),
        ]
        try:
            await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.close()
            for side in sides:
                side.cancel()
            await asyncio.gather(*sides, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool, back: asyncio.StreamWriter
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay_seconds:
                    await asyncio.sleep(self.delay_seconds)
                await self._open.wait()
                if self.refusal and not answers:
                    self.refused += 1
                    back.write(self.refusal)
                    await back.drain()
                    return
                if answers and self._rng.random() < self.loses_share:
                    self.lost += 1
                    if self._rng.random() < 0.3:
                        writer.write(data[: len(data) // 2])
                    return
                writer.write(data)
                await writer.drain()
