"""The clients: they submit, repeat themselves, cancel, retry, and keep a ledger, outside Redis, of what was acknowledged."""

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from tests.chaos.drawing import Graph, draw
from tests.chaos.rig import Rig
from tests.chaos.watching import Watcher

BUSY = (429, 502, 503, 504)
CUT_OFF = "Internal Server Error"
"""What uvicorn says to those whose request it cancels, five seconds after SIGTERM; for them it is no answer."""
ANSWER_SECONDS = 6.0


@dataclass
class Entry:
    """What the ledger knows of a job. `acknowledged`: somebody was told 201 or 200 about it."""

    job: str
    graph: Graph
    acknowledged: bool = False
    cancels: int = 0
    retries: int = 0
    maybe_retries: int = 0
    """Retries whose answer was lost: nobody knows whether they were carried out."""
    watchers: list[Watcher] = field(default_factory=list)


class Load:
    """`jobs_per_second` until stop(); then what was begun is brought to its answer."""

    def __init__(self, rig: Rig, seed: str, jobs_per_second: float) -> None:
        self.rig = rig
        self.rng = random.Random(f"load {seed}")
        self.ledger: dict[str, Entry] = {}
        self.broken: list[str] = []
        self.refused: dict[int, int] = {}
        self._pace = jobs_per_second
        self._http = httpx.AsyncClient(timeout=ANSWER_SECONDS, limits=httpx.Limits(max_connections=200))
        self._stopping = False
        self._clients: set[asyncio.Task[None]] = set()
        self._watching: set[asyncio.Task[None]] = set()
        self._seed = seed

    async def run(self) -> None:
        number = 0
        while not self._stopping:
            job = f"job-{self._seed}-{number}"
            number += 1
            self._begin(self._client(Entry(job, draw(self.rng, job)), random.Random(f"{self._seed} {job}")))
            await asyncio.sleep(self.rng.expovariate(self._pace))

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._clients.add(task)
        task.add_done_callback(self._clients.discard)

    async def stop(self) -> None:
        """Returns when every client has had its answers."""
        self._stopping = True
        async with asyncio.timeout(60):
            await asyncio.gather(*self._clients)

    async def close(self) -> None:
        for task in [*self._clients, *self._watching]:
            task.cancel()
        await asyncio.gather(*self._clients, *self._watching, return_exceptions=True)
        await self._http.aclose()

    # One client -----------------------------------------------------------------------------------------------------

    async def _client(self, entry: Entry, rng: random.Random) -> None:
        body: dict[str, Any] = {"graph": entry.graph, "priority": rng.choice(("high", "normal", "normal", "low"))}
        if rng.random() < 0.08:
            body["startAt"] = (datetime.now(UTC) + timedelta(seconds=1)).isoformat().replace("+00:00", "Z")
        self.ledger[entry.job] = entry
        await self._submit(entry, body, rng)
        watched = rng.random()
        if watched < 0.6:
            self.watch(entry, "raw" if watched < 0.4 else "client", rng)
        if rng.random() < 0.15:
            await self._submit_again(entry, body, rng)
        while rng.random() < 0.15:
            await asyncio.sleep(rng.choice((0, 0.02, 0.2, 1)) * rng.random())
            await self._cancel(entry, rng)
            if rng.random() < 0.6:
                await asyncio.sleep(rng.choice((0, 0.1, 1)) * rng.random())
                await self._retry(entry, rng)

    def watch(self, entry: Entry, kind: str, rng: random.Random) -> None:
        watcher = Watcher(entry.job, self.rig.urls, kind, self._http, rng)
        entry.watchers.append(watcher)
        task = asyncio.create_task(watcher.run())
        self._watching.add(task)

    async def _submit(self, entry: Entry, body: dict[str, Any], rng: random.Random) -> None:
        """Until it is acknowledged; the key makes repeats harmless."""
        while True:
            answer = await self._ask("POST", "/api/jobs", rng, json=body, headers={"Idempotency-Key": entry.job})
            if answer is not None and answer.status_code in (200, 201):
                entry.acknowledged = True
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
        if answer.status_code != (200 if with_key else 409):
            self.broken.append(f"{entry.job}: submitted again ({with_key=}), answered {answer.status_code}")

    async def _cancel(self, entry: Entry, rng: random.Random) -> None:
        answer = await self._ask("POST", f"/api/jobs/{entry.job}/cancel", rng)
        entry.cancels += 1
        if answer is not None and answer.status_code not in (200, 202, *BUSY):
            self.broken.append(f"{entry.job}: cancel answered {answer.status_code} {answer.text[:200]}")

    async def _retry(self, entry: Entry, rng: random.Random) -> None:
        document = {"from": "start"} if rng.random() < 0.3 else {}
        answer = await self._ask("POST", f"/api/jobs/{entry.job}/retry", rng, json=document)
        if answer is None or answer.status_code in BUSY:
            entry.maybe_retries += 1
        elif answer.status_code in (200, 202):
            entry.retries += 1
            for watcher in entry.watchers:
                watcher.go_on()
        elif answer.status_code != 409:
            self.broken.append(f"{entry.job}: retry answered {answer.status_code} {answer.text[:200]}")

    async def _ask(self, method: str, path: str, rng: random.Random, **options: Any) -> httpx.Response | None:
        """None when there was no answer."""
        try:
            answer = await self._http.request(method, rng.choice(self.rig.urls) + path, **options)
        except httpx.HTTPError:
            self.refused[0] = self.refused.get(0, 0) + 1
            return None
        if answer.status_code == 500 and answer.text == CUT_OFF:
            self.refused[500] = self.refused.get(500, 0) + 1
            return None
        if answer.status_code >= 500 and answer.status_code not in BUSY:
            self.broken.append(f"{method} {path}: {answer.status_code} {answer.text[:300]}")
        if answer.status_code in BUSY:
            self.refused[answer.status_code] = self.refused.get(answer.status_code, 0) + 1
        return answer

    async def get(self, path: str) -> Any:
        """After the faults: an answer is owed."""
        answer = await self._http.get(self.rig.urls[0] + path)
        answer.raise_for_status()
        return answer.json()
