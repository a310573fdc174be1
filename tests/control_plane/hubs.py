"""A hub of its own, on lines to Redis that a test can disturb."""

import asyncio
import contextlib
import copy
import re
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import uvicorn
from litestar import Litestar

from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.hosts import listen
from dihedral.control_plane.access import Access
from dihedral.control_plane.hub import Hub
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.routes.live import live_routes
from tests.control_plane.served import Server
from tests.control_plane.watching import SECONDS
from tests.support.polling import at_this_load


class Line:
    """A connection to Redis whose answers a test can hold back, thin out, or cut."""

    def __init__(self, target: Any, path: Any) -> None:
        self.url = f"unix://{path}?db=0"
        self.held: list[Any] = []
        self.connections = 0
        self.lost = 0
        self._loses = re.compile(b"(?!)")
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._cut: set[asyncio.Task[Any]] = set()
        self._refuses = False

    async def serve(self, reader: Any, writer: Any) -> None:
        self.connections += 1
        if self._refuses:
            writer.close()
            return
        server_reader, server_writer = await asyncio.open_unix_connection(self._target)
        sides = {
            asyncio.create_task(self._forward(reader, server_writer)),
            asyncio.create_task(self._back(server_reader, writer)),
        }
        self._cut |= sides
        await asyncio.wait(sides, return_when=asyncio.FIRST_COMPLETED)
        for side in sides:
            side.cancel()
        await asyncio.gather(*sides, return_exceptions=True)
        self._cut -= sides
        for end in (writer, server_writer):
            end.close()
            with contextlib.suppress(OSError):
                await end.wait_closed()

    async def _forward(self, reader: Any, writer: Any) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: Any, writer: Any) -> None:
        while data := await reader.read(1 << 16):
            if not self._open.is_set():
                self.held.append(data)
                await self._open.wait()
                self.held.remove(data)
            kept, lost = self._loses.subn(b"", data)
            self.lost += lost
            writer.write(kept)
            await writer.drain()

    def hold(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    def refuse(self) -> None:
        """Nobody gets through any more."""
        self._refuses = True
        self.cut()

    def cut(self) -> None:
        for side in self._cut:
            side.cancel()

    def lose(self, what: Any) -> None:
        """From now on no published message that has `what` in it comes through."""
        message = rb"[*>]3\r\n\$7\r\nmessage\r\n\$[0-9]+\r\n[^\r]*\r\n\$[0-9]+\r\n[^\r]*" + what + rb"[^\r]*\r\n"
        self._loses = re.compile(message)


@contextlib.asynccontextmanager
async def line(url: Any) -> AsyncIterator[Any]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        path = Path(folder) / "line.sock"
        made = Line(urlsplit(url).path, path)
        async with await asyncio.start_unix_server(made.serve, str(path)):
            yield made
            made.let_go()
            made.cut()


class View:
    """A client of a hub, without a socket: collects what there is."""

    def __init__(self, hub: Any, job: Any) -> None:
        self.hub = hub
        self.job = job
        self.wake = asyncio.Event()

    async def open(self, after: Any = 0, epoch: Any = None) -> Any:
        self.subscription = await self.hub.subscribe(self.job, after, epoch, self.wake.set)
        return self

    async def next(self) -> Any:
        async with asyncio.timeout(at_this_load(SECONDS)):
            while True:
                self.wake.clear()
                if self.subscription.lost:
                    await self.hub.fill(self.subscription, self.subscription.sent)
                if self.subscription.due(0) == 0:
                    return self.subscription.collect()
                await self.wake.wait()

    async def until(self, what: Any) -> Any:
        chunks = [await self.next()]
        while not what(chunks[-1]):
            chunks.append(await self.next())
        return chunks

    @property
    def silent(self) -> Any:
        return self.subscription.due(0) is None


def seqs(*chunks: Any) -> Any:
    return [int(re.findall(r'"seq":([0-9]+)', text)[0]) for chunk in chunks for text in chunk.events]


def is_last(chunk: Any) -> Any:
    return chunk.last


class World:
    """A hub beside the application's own; `pubsub` and `reads` are its two lines to Redis."""

    def __init__(self, served: Any, hub: Any, pubsub: Any, reads: Any) -> None:
        self.served = served
        self.hub = hub
        self.pubsub = pubsub
        self.reads = reads

    async def view(self, job: Any, **more: Any) -> Any:
        return await View(self.hub, job).open(**more)


@contextlib.asynccontextmanager
async def world(served: Any, **options: Any) -> AsyncIterator[Any]:
    async with line(served.settings.redis.url) as pubsub, line(served.settings.redis.url) as reads:
        client = connect(reads.url)
        jobs = Jobs(client, served.settings)
        settings = copy.deepcopy(served.settings)
        settings.redis.url = pubsub.url
        hub = Hub(settings, jobs, JobQueue(jobs, settings, {}, {}).document, **options)
        running = asyncio.create_task(hub.run())
        try:
            yield World(served, hub, pubsub, reads)
            assert not running.done(), "the hub has ended"
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await client.aclose()


@contextlib.asynccontextmanager
async def listening(world: Any, **options: Any) -> AsyncIterator[Any]:
    """Only `/ws`, of this world's hub: its port."""
    app = Litestar(route_handlers=live_routes, openapi_config=None, logging_config=None)
    app.state.hub = world.hub
    app.state.access = Access(world.served.settings, world.served.planes.client)
    with listen("127.0.0.1", 0) as socket:
        config = uvicorn.Config(app, ws="websockets-sansio", log_config=None, timeout_graceful_shutdown=1, **options)
        server = Server(config)
        running = asyncio.create_task(server.serve(sockets=[socket]))
        try:
            await world.served.becomes(lambda: server.started)
            yield socket.getsockname()[1]
        finally:
            server.should_exit = True
            await running
