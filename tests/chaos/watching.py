"""A client that watches a job to its end and beyond, over whatever breaks, and keeps every event that it saw."""

import asyncio
import json
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from dihedral import AsyncClient
from dihedral.client import ClientError

ENDED = frozenset({"completed", "failed", "cancelled"})
Event = dict[str, Any]


class Watcher:
    """`kind`: raw (a WebSocket that judges each message) or client (dihedral.AsyncClient.watch).

    `forgets`: the server may lose its last second; what a resync does not confirm is forgotten then.
    """

    def __init__(
        self, job: str, urls: list[str], kind: str, http: httpx.AsyncClient, api: Callable[[str], AsyncClient],
        rng: random.Random, *, forgets: bool,
    ) -> None:  # fmt: skip
        self.job = job
        self.kind = kind
        self.events: list[Event] = []
        self.resyncs = 0
        self.connects = 0
        self.broken: list[str] = []
        self._urls = urls
        self._http = http
        self._rng = rng
        self._api = api
        self._forgets = forgets
        self._epoch: str | None = None
        self._more = asyncio.Event()
        self._ends = 0

    @property
    def seq(self) -> int:
        return self.events[-1]["seq"] if self.events else 0

    def go_on(self) -> None:
        """There may be more than the end that was seen."""
        self._more.set()

    async def run(self) -> None:
        while True:
            self._more.clear()
            self.connects += 1
            try:
                await (self._raw() if self.kind == "raw" else self._client())
            except (OSError, WebSocketException, TimeoutError, ClientError, httpx.HTTPError):
                await asyncio.sleep(0.2 + 0.3 * self._rng.random())
                continue
            self._ends += 1
            await self._more.wait()

    async def _client(self) -> None:
        async for event in self._api(self._rng.choice(self._urls)).watch(self.job, after=self.seq):
            if event["type"] != "progress":
                self._see(dict(event))

    async def _raw(self) -> None:
        url = self._rng.choice(self._urls)
        async with connect(f"ws{url.removeprefix('http')}/ws", max_size=None, proxy=None, open_timeout=5) as socket:
            wish: Event = {"action": "subscribe", "jobId": self.job, "after": self.seq}
            await socket.send(json.dumps(wish if self._epoch is None else {**wish, "epoch": self._epoch}))
            async for text in socket:
                message = json.loads(text)
                if message["type"] == "response":
                    if message["message"] != "subscribed":
                        if not self._forgets:
                            self._blame(f"subscribing answered {message}")
                        await asyncio.sleep(0.5)
                        return
                    continue
                if await self._hear(message, url):
                    return
            raise OSError("closed")

    async def _hear(self, message: Event, url: str) -> bool:
        """Whether that was the end."""
        if message["type"] == "resync":
            self.resyncs += 1
            message = message["snapshot"]
            if self._forgets:
                self.events.clear()
            if message["seq"] < self.seq:
                self._blame(f"resync to {message['seq']}, seen was {self.seq}")
            answer = await self._http.get(f"{url}/api/jobs/{self.job}/events", params={"after": self.seq})
            answer.raise_for_status()
            events = [event for event in answer.json()["events"] if event["seq"] <= message["seq"]]
        else:
            events = message["events"]
        for event in events:
            self._see(event)
        if message["seq"] != self.seq:
            self._blame(f"an update of seq {message['seq']} ended with {self.seq}")
        self._epoch = message["epoch"]
        return message["status"] in ENDED

    def _see(self, event: Event) -> None:
        if event["seq"] != self.seq + 1:
            self._blame(f"saw seq {event['seq']} after {self.seq}")
        self.events.append(event)

    def _blame(self, what: str) -> None:
        self.broken.append(f"{self.job}: a watcher ({self.kind}): {what}")

    async def reaches(self, seq: int, seconds: float) -> bool:
        """Whether it has seen all up to `seq`, within `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.seq < seq:
                    self.go_on()
                    await asyncio.sleep(0.05)
        return self.seq >= seq

    async def again(self, seconds: float) -> None:
        """Comes back once more as a client that was away, and hears what has become of it."""
        before = self._ends
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._ends == before:
                    self.go_on()
                    await asyncio.sleep(0.02)
