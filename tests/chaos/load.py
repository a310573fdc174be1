"""The clients: they submit, repeat themselves, cancel, retry, and keep a ledger, outside Redis, of what was acknowledged."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import redis

from dihedral import AsyncClient
from dihedral.bridge.fabric.lifecycle import JOB_ENDED
from tests.chaos.drawing import Graph, draw, lasting
from tests.chaos.rig import Rig
from tests.chaos.watching import Watcher
from tests.support.polling import at_this_load

BUSY = (429, 502, 503, 504)
ANSWER_SECONDS = 6.0


@dataclass
class Entry:
    """What the ledger knows of a job. `acknowledged`: the monotonic moments between which somebody asked, and was told 201 or 200."""

    job: str
    graph: Graph
    asked: float = 0.0
    """When it was first asked for: it may have run before its acknowledgement came."""
    acknowledged: tuple[float, float] | None = None
    cancels: int = 0
    retries: int = 0
    maybe_retries: int = 0
    """Retries whose answer was lost: nobody knows whether they were carried out."""
    watchers: list[Watcher] = field(default_factory=list)
    forgotten: bool = False
    """It was alive when the server lost its last second: some of what happened to it may have been undone."""


class Load:
    """`jobs_per_second` until stop(), or `most` jobs; what was begun is brought to its answer.

    `forgetful`: the server may lose its last second, and then answers as if the lost had never been.
    """

    def __init__(self, rig: Rig, seed: str, jobs_per_second: float, *, most: int | None, forgetful: bool) -> None:
        self.rig = rig
        self.forgetful = forgetful
        self.rng = random.Random(f"load {seed}")
        self.ledger: dict[str, Entry] = {}
        self.broken: list[str] = []
        self.refused: dict[int, int] = {}
        self._pace = jobs_per_second
        self._most = most
        self._apis: dict[str, AsyncClient] = {}
        self._http = httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=httpx.Limits(max_connections=200))
        self._stopping = False
        self._clients: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._seed = seed

    async def run(self) -> None:
        number = 0
        while not self._stopping and (self._most is None or len(self.ledger) < self._most):
            job = f"job-{self._seed}-{number}"
            number += 1
            self._begin(self._client(Entry(job, draw(self.rng, job)), random.Random(f"{self._seed} {job}")))
            await asyncio.sleep(self.rng.expovariate(self._pace))

    @property
    def is_done(self) -> bool:
        return self._most is not None and len(self.ledger) >= self._most

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def stop(self) -> None:
        """Returns when every client has had its answers."""
        self._stopping = True
        async with asyncio.timeout(at_this_load(60)):
            await asyncio.gather(*self._clients)

    async def close(self) -> None:
        for task in [*self._clients, *self._watching]:
            task.cancel()
        await asyncio.gather(*self._clients, *self._watching, return_exceptions=True)
        await self._http.aclose()
        for api in self._apis.values():
            await api.aclose()

    # One client -----------------------------------------------------------------------------------------------------

    async def _client(self, entry: Entry, rng: random.Random) -> None:
        body: dict[str, Any] = {"graph": entry.graph, "priority": rng.choice(("high", "normal", "normal", "low"))}
        if rng.random() < 0.08:
            body["startAt"] = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
        self.ledger[entry.job] = entry
        await self._submit(entry, body, rng)
        watched = rng.random()
        if watched < 0.6:
            # What was forgotten only a resync tells, and dihedral.AsyncClient hands none on.
            self.watch(entry, "raw" if watched < 0.4 or self.forgetful else "client", rng)
        if rng.random() < 0.15:
            await self._submit_again(entry, body, rng)
        while rng.random() < 0.15:
            await asyncio.sleep(rng.choice((0, 0.02, 0.2, 1)) * rng.random())
            await self._cancel(entry, rng)
            if rng.random() < 0.6:
                await asyncio.sleep(rng.choice((0, 0.1, 1)) * rng.random())
                await self._retry(entry, rng)

    def watch(self, entry: Entry, kind: str, rng: random.Random) -> None:
        watcher = Watcher(entry.job, self.rig.urls, kind, self._http, self._api, rng, forgets=self.forgetful)
        entry.watchers.append(watcher)
        task = asyncio.create_task(watcher.run())
        self._watching.add(task)

    def _api(self, url: str) -> AsyncClient:
        """One for all: to make it takes 30 ms, in which it reads the machine's certificates."""
        if url not in self._apis:
            self._apis[url] = AsyncClient(url, timeout_seconds=5)
        return self._apis[url]

    async def _submit(self, entry: Entry, body: dict[str, Any], rng: random.Random) -> None:
        """Until it is acknowledged; the key makes repeats harmless."""
        while True:
            asked = time.monotonic()
            entry.asked = entry.asked or asked
            answer = await self._ask("POST", "/api/jobs", rng, json=body, headers={"Idempotency-Key": entry.job})
            if answer is not None and answer.status_code in (200, 201):
                entry.acknowledged = entry.acknowledged or (asked, time.monotonic())
                if answer.json()["jobId"] != entry.job:
                    self.broken.append(f"{entry.job}: acknowledged as {answer.json()['jobId']}")
                return
            if answer is not None and answer.status_code not in BUSY:
                self.broken.append(f"{entry.job}: refused with {answer.status_code} {answer.text[:300]}")
                return
            await asyncio.sleep(0.3 + 0.4 * rng.random())

    async def _submit_again(self, entry: Entry, body: dict[str, Any], rng: random.Random) -> None:
        with_key = rng.random() < 0.5
        headers = {"Idempotency-Key": entry.job} if with_key else {}
        answer = await self._ask("POST", "/api/jobs", rng, json=body, headers=headers)
        if answer is None or answer.status_code in BUSY:
            return
        if answer.status_code != (200 if with_key else 409) and not (self.forgetful and answer.status_code == 201):
            self.broken.append(f"{entry.job}: submitted again ({with_key=}), answered {answer.status_code}")

    async def _cancel(self, entry: Entry, rng: random.Random) -> str:
        """What the job was at that moment: waiting, running or ended; empty when nobody knows."""
        answer = await self._ask("POST", f"/api/jobs/{entry.job}/cancel", rng)
        entry.cancels += 1
        if answer is None or answer.status_code in BUSY or self._is_forgotten(answer):
            return ""
        if answer.status_code not in (200, 202):
            self.broken.append(f"{entry.job}: cancel answered {answer.status_code} {answer.text[:200]}")
            return ""
        if answer.status_code == 200:
            return "ended"
        return "running" if answer.json()["status"] == "cancelling" else "waiting"

    def _is_forgotten(self, answer: httpx.Response) -> bool:
        return self.forgetful and answer.status_code == 404

    async def _retry(self, entry: Entry, rng: random.Random) -> bool:
        """Whether it was carried out."""
        document = {"from": "start"} if rng.random() < 0.3 else {}
        answer = await self._ask("POST", f"/api/jobs/{entry.job}/retry", rng, json=document)
        if answer is None or answer.status_code in BUSY or self._is_forgotten(answer):
            entry.maybe_retries += 1
        elif answer.status_code in (200, 202):
            entry.retries += 1
            for watcher in entry.watchers:
                watcher.go_on()
            return True
        elif answer.status_code != 409:
            self.broken.append(f"{entry.job}: retry answered {answer.status_code} {answer.text[:200]}")
        return False

    # At a chosen moment: each answers whether the moment was met ------------------------------------------------------

    async def meet(self, what: str, make: Callable[[str], Graph], seconds: float) -> str:
        """Submits a graph and waits for its end so long; the job's status, empty when it is not known."""
        entry = self._another(what, make)
        until = time.monotonic() + seconds
        submitting = asyncio.create_task(self._submit(entry, {"graph": entry.graph}, self.rng))
        self._clients.add(submitting)
        submitting.add_done_callback(self._clients.discard)
        while (status := await self._status(entry)) not in JOB_ENDED and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return status

    async def submit_at_once(self, times: int) -> bool:
        entry = self._another("twice", lambda job: draw(self.rng, job))
        body = {"graph": entry.graph}
        await asyncio.gather(*(self._submit(entry, body, self.rng) for _ in range(times)))
        return True

    async def cancel_waiting(self) -> bool:
        entry = self._another("waits", lambda job: draw(self.rng, job))
        start = (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")
        await self._submit(entry, {"graph": entry.graph, "startAt": start}, self.rng)
        while not (was := await self._cancel(entry, self.rng)):  # or it waits for a day
            if self.forgetful and not await self._status(entry):
                return False
            await asyncio.sleep(0.2)
        return was == "waiting"

    async def cancel_running(self) -> bool:
        entry = self._another("lasts", lasting)
        await self._submit(entry, {"graph": entry.graph}, self.rng)
        until = time.monotonic() + 5
        while await self._status(entry) != "running" and time.monotonic() < until:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        return await self._cancel(entry, self.rng) == "running"

    async def cancel_ended(self) -> bool:
        entry = await self._one_that_is(JOB_ENDED)
        return entry is not None and await self._cancel(entry, self.rng) == "ended"

    async def retry_one(self) -> bool:
        entry = await self._one_that_is({"failed", "cancelled"})
        return entry is not None and await self._retry(entry, self.rng)

    def _another(self, what: str, make: Callable[[str], Graph]) -> Entry:
        job = f"job-{self._seed}-{what}-{len(self.ledger)}"
        self.ledger[job] = entry = Entry(job, make(job))
        return entry

    async def _one_that_is(self, statuses: Iterable[str]) -> Entry | None:
        known = [entry for entry in self.ledger.values() if entry.acknowledged]
        for entry in self.rng.sample(known, min(20, len(known))):
            if await self._status(entry) in statuses:
                return entry
        return None

    async def _status(self, entry: Entry) -> str:
        """Read past everything; empty when it is not there, or the server is not."""
        with suppress(redis.RedisError, OSError):
            state: Any = await self.rig.redis.hget(f"job:{entry.job}", "state")
            return state.decode().split(" ")[0] if state else ""
        return ""

    async def _ask(self, method: str, path: str, rng: random.Random, **options: Any) -> httpx.Response | None:
        """None when there was no answer."""
        try:
            answer = await self._http.request(method, rng.choice(self.rig.urls) + path, **options)
        except httpx.HTTPError:
            self.refused[0] = self.refused.get(0, 0) + 1
            return None
        if answer.status_code >= 500 and answer.status_code not in BUSY:
            self.broken.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        if answer.status_code in BUSY:
            self.refused[answer.status_code] = self.refused.get(answer.status_code, 0) + 1
        return answer

    async def get(self, path: str) -> Any:
        """After the faults: an answer is owed, though the last cut may still be on its way on a busy machine, and end an answer in its middle."""
        until = time.monotonic() + at_this_load(ANSWER_SECONDS)
        while True:
            try:
                answer = await self._http.get(self.rig.urls[0] + path)
                if answer.status_code not in BUSY or time.monotonic() > until:
                    answer.raise_for_status()
                    return answer.json()
            except httpx.TransportError:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(0.1)
