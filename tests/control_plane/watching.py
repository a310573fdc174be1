"""Clients that watch jobs over a real WebSocket, and a task that says what the test tells it to say."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect

from dihedral.bridge.tasks import registry as tasks
from dihedral.bridge.tasks.registry import TaskContext, TaskError
from dihedral.schemas.structs.websocket import ServerMessage
from tests.control_plane.served import ENDED, Served, made_settings, new_id, node, serve
from tests.support.polling import at_this_load
from tests.support.servers import start_server

SECONDS = 40
"""Far above what anything here takes; what would hang ends as a failure."""

validated = msgspec.json.Decoder(ServerMessage).decode
Message = dict[str, Any]

# The task ---------------------------------------------------------------------------------------------------------------


class Puppet:
    """One node of a job; whatever it is told to do, it does in that order."""

    def __init__(self, job: str) -> None:
        self.job = job
        self.acts: asyncio.Queue[Callable[[TaskContext], None] | None] = asyncio.Queue()

    def progress(self, fraction: float) -> None:
        self.acts.put_nowait(lambda ctx: ctx.progress(fraction))

    def data(self, **payload: Any) -> None:
        self.acts.put_nowait(lambda ctx: ctx.data("said", payload))

    def fail(self, *, retryable: bool = False) -> None:
        def broken(_: TaskContext) -> None:
            raise TaskError("it broke", code="boom", retryable=retryable)

        self.acts.put_nowait(broken)

    def end(self) -> None:
        self.acts.put_nowait(None)


PUPPETS: dict[str, Puppet] = {}


class NoParams(msgspec.Struct):
    pass


@tasks.task(id="puppet", label="puppet", description="does what the test says", timeout_seconds=600)
async def puppet(params: NoParams, ctx: TaskContext) -> dict[str, Any]:
    acts = PUPPETS[ctx.job_id].acts
    while (act := await acts.get()) is not None:
        act(ctx)
    return {}


class Live(Served):
    """A served application whose worker knows puppets; `servers`: the Redis that it is on."""

    servers: list[subprocess.Popen[bytes]]

    async def puppet(self, job: str | None = None, *, attempts: int = 1) -> Puppet:
        """A job that runs, of one node."""
        job = job or new_id()
        made = PUPPETS[job] = Puppet(job)
        await self.submit(node("a", task="puppet", attempts=attempts), job=job)
        await self.in_status(job, "running")
        return made

    async def log(self, job: str) -> list[Message]:
        return list((await self.get(f"/api/jobs/{job}/events"))["events"])

    async def metric(self, name: str) -> float:
        lines = (await self.http.get("/metrics")).text.splitlines()
        return float(next(line.split(" ")[1] for line in lines if line.startswith(f"{name} ")))

    async def listeners(self, job: str) -> int:
        """How many Redis connections are subscribed to the job's events."""
        return int((await self.planes.client.pubsub_numsub(f"status:{job}"))[0][1])

    def watcher(self) -> AbstractAsyncContextManager["Watcher"]:
        return watching(self, self.port)


@asynccontextmanager
async def live(
    directory: Path, *options: str, websocket: dict[str, Any] | None = None, **jobs: Any
) -> AsyncIterator[Live]:
    """An application on a server of its own, with settings of its own, and one worker."""
    process, url = start_server(directory, *options)
    servers = [process]
    made = made_settings(url, directory)
    made.jobs.lease_ms = 5000  # nothing here is about leases, and the machine may be busy
    for section, values in ((made.websocket, websocket or {}), (made.jobs, jobs)):
        for name, value in values.items():
            setattr(section, name, value)
    try:
        async with serve(made) as served:
            served.__class__ = Live
            assert isinstance(served, Live)
            served.servers = servers
            served.planes.registry |= tasks.collect(["tests.control_plane.watching"], plugins=False)
            await served.planes.start("python", light=64)
            try:
                yield served
            finally:
                for each in PUPPETS.values():
                    each.end()
                PUPPETS.clear()
    finally:
        for process in servers:
            process.kill()
            process.wait()


@asynccontextmanager
async def watching(served: Live, port: int) -> AsyncIterator["Watcher"]:
    opening = at_this_load(30)  # many come at once
    async with connect(f"ws://127.0.0.1:{port}/ws", max_size=None, proxy=None, open_timeout=opening) as socket:
        yield Watcher(served, socket)


# The clients ------------------------------------------------------------------------------------------------------------


class Watcher:
    """One WebSocket. Every message is held against the schema; what is not asked for waits in `heard`."""

    def __init__(self, served: Live, socket: ClientConnection) -> None:
        self.served = served
        self.socket = socket
        self.heard: list[Message] = []

    async def say(self, message: Any) -> None:
        await self.socket.send(message if isinstance(message, (str, bytes)) else json.dumps(message))

    async def receive(self) -> Message:
        async with asyncio.timeout(at_this_load(SECONDS)):
            text = await self.socket.recv()
        assert isinstance(text, str)
        validated(text)
        return dict(json.loads(text))

    async def next(self) -> Message:
        return self.heard.pop(0) if self.heard else await self.receive()

    async def response(self) -> Message:
        """The next response; updates that come before it are kept in order."""
        while True:
            message = await self.receive()
            if message["type"] == "response":
                return message
            self.heard.append(message)

    async def subscribe(self, job: str, **more: Any) -> Message:
        """Subscribes; the first message that comes after the response."""
        await self.say({"action": "subscribe", "jobId": job, **more})
        assert await self.response() == response("subscribed", job)
        return await self.of(job)

    async def unsubscribe(self, job: str) -> None:
        await self.say({"action": "unsubscribe", "jobId": job})
        assert await self.response() == response("unsubscribed", job)

    async def of(self, job: str) -> Message:
        """The next message of a job; what comes of others is kept."""
        for index, message in enumerate(self.heard):
            if message["jobId"] == job:
                return self.heard.pop(index)
        while (message := await self.receive())["jobId"] != job:
            self.heard.append(message)
        return message

    async def until(self, job: str, what: Callable[[Message], Any], *before: Message) -> list[Message]:
        """The messages of a job, those before too, up to the one that is meant."""
        messages = list(before) or [await self.of(job)]
        while not what(messages[-1]):
            messages.append(await self.of(job))
        return messages

    async def silent(self) -> bool:
        """Whether the server has nothing to say: an answer that is asked for now comes first."""
        nobody = new_id("nobody")
        await self.say({"action": "subscribe", "jobId": nobody})
        assert await self.response() == response("failed", nobody, "unknown_job")
        return self.heard == []


def response(message: str, job: str | None, reason: str | None = None) -> Message:
    made = {"type": "response", "action": "response", "message": message, "jobId": job}
    return made if reason is None else {**made, "reason": reason}


def lasting(document: dict[str, Any]) -> dict[str, Any]:
    """A job without what is guessed anew at every look."""
    return {name: value for name, value in document.items() if name not in ("estimate", "startsIn")}


def ended(message: Message) -> bool:
    return message["type"] == "update" and message["status"] in ENDED


def said(*messages: Message) -> list[Any]:
    """The payloads of the data events."""
    return [event["data"] for message in messages for event in message["events"] if event["type"] == "data"]


class Story:
    """What a client knows of a job that follows the protocol; a message out of order ends the test."""

    def __init__(self, served: Live, job: str) -> None:
        self.served = served
        self.job = job
        self.seq = 0
        self.epoch: str | None = None
        self.status = ""
        self.progress = 0.0
        self.events: list[Message] = []
        self.resyncs = 0

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def wish(self) -> Message:
        """The subscription that goes on where this has come to."""
        wish: Message = {"action": "subscribe", "jobId": self.job, "after": self.seq}
        return wish if self.epoch is None else {**wish, "epoch": self.epoch}

    async def hear(self, message: Message) -> None:
        assert message["jobId"] == self.job
        events = message.get("events", [])
        if message["type"] == "resync":
            self.resyncs += 1
            message = message["snapshot"]
            assert message["job"]["status"] == message["status"]
            page = await self.served.get(f"/api/jobs/{self.job}/events", after=self.seq)
            events = [event for event in page["events"] if event["seq"] <= message["seq"]]
        for event in events:
            assert event["seq"] == self.seq + 1, f"{event} came after {self.seq}"
            self.events.append(event)
            self.seq = event["seq"]
        assert message["seq"] == self.seq
        self.epoch, self.status, self.progress = message["epoch"], message["status"], message["progress"]

    async def whole(self) -> None:
        """Must be all that the log has, and its end."""
        assert self.events == await self.served.log(self.job)
        assert self.events[-1]["status"] == self.status
