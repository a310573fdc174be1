"""The Python client: REST and WebSocket only, documents as dicts, as they are on the wire.

ClientError
├── Refused      the control plane said no; `.problem` is its problem document
├── Unreachable  nobody answers at the address
└── Cut          a watch was closed for good
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import httpx
import websockets
from websockets.asyncio.client import connect as ws_connect

Document = dict[str, Any]
T = TypeVar("T")

TERMINAL = frozenset({"completed", "failed", "cancelled"})
DEFAULT_URL = "http://127.0.0.1:8000"
RETRIES = 4


class ClientError(Exception):
    pass


class Refused(ClientError):
    def __init__(self, problem: Document) -> None:
        super().__init__(problem.get("detail") or problem.get("title") or "refused")
        self.problem = problem
        self.status = int(problem.get("status", 0))
        self.code = str(problem.get("code", ""))


class Unreachable(ClientError):
    pass


class Cut(ClientError):
    pass


class AsyncClient:
    """`async with AsyncClient(url) as client: job = await client.submit(pipeline="simulate")`."""

    def __init__(self, url: str = DEFAULT_URL, *, timeout_seconds: float = 60.0) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.AsyncClient(base_url=self.url, timeout=timeout_seconds, follow_redirects=True)

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        await self._http.aclose()

    # Jobs -----------------------------------------------------------------------------------------------------------

    async def submit(
        self,
        *,
        graph: Document | None = None,
        pipeline: str | None = None,
        params: Mapping[str, Any] | None = None,
        files: Mapping[str, Path | str] | None = None,
        priority: str | None = None,
        start_at: str | None = None,
        metadata: Document | None = None,
        idempotency_key: str | None = None,
    ) -> Document:
        """The job document. `files`: params whose value is a local file, uploaded first.

        A key is made where none is given, so a submission whose answer was lost is sent again and runs once.
        """
        filled = dict(params or {})
        for name, path in (files or {}).items():
            meta = await self.upload(path)
            filled[name] = {"bucket": meta["bucket"], "key": meta["key"]}
        body = {
            "graph": graph, "pipeline": pipeline, "params": filled or None, "priority": priority, "startAt": start_at,
            "metadata": metadata,
        }  # fmt: skip
        content = json.dumps({name: value for name, value in body.items() if value is not None})
        key = idempotency_key or uuid.uuid4().hex
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return await self._ask("POST", "/api/jobs", content=content, headers=headers, repeat=True)

    async def plan(self, submission: Document) -> Document:
        return await self._ask("POST", "/api/plans", json=submission, repeat=True)

    async def job(self, job_id: str) -> Document:
        return await self._ask("GET", f"/api/jobs/{job_id}")

    async def jobs(self, **filters: Any) -> Document:
        """`status`, `pipeline`, `since`, `until`, `limit`, `cursor`; {"jobs": […], "next": …}."""
        return await self._ask("GET", "/api/jobs", params={k: v for k, v in filters.items() if v is not None})

    async def graph(self, job_id: str) -> Document:
        return await self._ask("GET", f"/api/jobs/{job_id}/graph")

    async def events(self, job_id: str, after: int = 0) -> Document:
        return await self._ask("GET", f"/api/jobs/{job_id}/events", params={"after": after})

    async def cancel(self, job_id: str) -> Document:
        return await self._ask("POST", f"/api/jobs/{job_id}/cancel", repeat=True)

    async def retry(self, job_id: str, *, from_start: bool = False) -> Document:
        return await self._ask("POST", f"/api/jobs/{job_id}/retry", json={"from": "start"} if from_start else {})

    async def delete(self, job_id: str, *, artifacts: bool = False) -> None:
        await self._ask("DELETE", f"/api/jobs/{job_id}", params={"artifacts": str(artifacts).lower()})

    # What serves them -----------------------------------------------------------------------------------------------

    async def capabilities(self) -> Document:
        return await self._ask("GET", "/api/capabilities")

    async def pipelines(self) -> Document:
        return await self._ask("GET", "/api/pipelines")

    async def workers(self) -> Document:
        return await self._ask("GET", "/api/workers")

    async def queues(self) -> Document:
        return await self._ask("GET", "/api/queues")

    async def ready(self) -> bool:
        try:
            return (await self._http.get("/health/ready")).status_code == 200
        except httpx.HTTPError:
            return False

    # Artifacts ------------------------------------------------------------------------------------------------------

    async def upload(self, path: Path | str, bucket: str = "inputs") -> Document:
        """Its meta document. Raises OSError where the file cannot be read."""
        source = Path(path)
        content = await asyncio.to_thread(source.read_bytes)
        return await self._ask(
            "POST", "/api/artifacts", params={"bucket": bucket}, files={"file": (source.name, content)}, repeat=True
        )

    async def download(self, ref: Mapping[str, Any], to: Path | str) -> Path:
        """Writes the artifact to a file; a directory gets it under its own name."""
        target = Path(to)
        if await asyncio.to_thread(target.is_dir):
            target = target / str(ref["key"]).rsplit("/", 1)[-1]
        part = target.with_name(f".{target.name}.part")
        async with self._http.stream("GET", f"/api/artifacts/{ref['bucket']}/{ref['key']}") as response:
            if response.status_code >= 400:
                await response.aread()
                raise _refused(response)
            with part.open("wb") as file:
                async for chunk in response.aiter_bytes(1 << 18):
                    file.write(chunk)
        part.replace(target)
        return target

    async def artifacts(self, **filters: Any) -> Document:
        return await self._ask("GET", "/api/artifacts", params={k: v for k, v in filters.items() if v is not None})

    # Live -----------------------------------------------------------------------------------------------------------

    async def watch(self, job_id: str, after: int = 0) -> AsyncIterator[Document]:
        """Every event after `after`, once and in order, until the job has ended; survives lost connections.

        Between them {"type": "progress", "status", "progress"} whenever that has moved. Raises Refused for an unknown job.
        """
        last, epoch, told = after, None, (None, None)
        failures = 0
        while True:
            try:
                async with ws_connect(self.url.replace("http", "ws", 1) + "/ws", max_size=None) as socket:
                    wish = {"action": "subscribe", "jobId": job_id, "after": last}
                    await socket.send(json.dumps(wish | ({"epoch": epoch} if epoch else {})))
                    async for text in socket:
                        message = json.loads(text)
                        failures = 0
                        if message["type"] == "response":
                            if message["message"] == "failed":
                                raise Refused(
                                    {"status": 404, "code": message["reason"], "detail": f"there is no job {job_id!r}"}
                                )
                            continue
                        events = message.get("events", [])
                        if message["type"] == "resync":
                            message = message["snapshot"]
                            last = min(last, message["seq"])
                            events = (await self.events(job_id, last))["events"]
                        epoch = message["epoch"]
                        for event in events:
                            if event["seq"] > last:
                                last = event["seq"]
                                yield event
                        if (message["status"], message["progress"]) != told:
                            told = (message["status"], message["progress"])
                            yield {"type": "progress", "status": told[0], "progress": told[1]}
                        if message["status"] in TERMINAL:
                            return
            except (OSError, websockets.WebSocketException, httpx.HTTPError, Unreachable) as error:
                failures += 1
                if failures > 30:
                    raise Unreachable(f"{self.url}: {error}") from error
                await asyncio.sleep(min(2.0, 0.1 * 2**failures))

    # Asking ---------------------------------------------------------------------------------------------------------

    async def _ask(self, method: str, path: str, *, repeat: bool = False, **options: Any) -> Document:
        """`repeat`: safe to send again when the answer was lost; reads always are."""
        attempt = 0
        while True:
            try:
                response = await self._http.request(method, path, **options)
            except httpx.ConnectError as error:
                raise Unreachable(f"nobody answers at {self.url}; is `dihedral up` running?") from error
            except httpx.HTTPError as error:
                attempt += 1
                if not (repeat or method == "GET") or attempt > RETRIES:
                    raise Unreachable(f"{self.url}: {type(error).__name__}") from error
                await asyncio.sleep(0.2 * attempt)
                continue
            if response.status_code >= 400:
                raise _refused(response)
            return response.json() if response.content else {}


def _refused(response: httpx.Response) -> Refused:
    try:
        problem = response.json()
    except ValueError:
        problem = {"status": response.status_code, "title": response.reason_phrase, "detail": response.text[:300]}
    return Refused(problem)


class Client:
    """The same, blocking: every method of AsyncClient, and watch() as a plain iterator."""

    def __init__(self, url: str = DEFAULT_URL, *, timeout_seconds: float = 60.0) -> None:
        self._runner = asyncio.Runner()
        self._client = self._run(_made(url, timeout_seconds))

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._run(self._client.aclose())
        self._runner.close()

    def watch(self, job_id: str, after: int = 0) -> Iterator[Document]:
        events: Any = self._client.watch(job_id, after)

        async def following() -> Document | None:
            return await anext(events, None)

        try:
            while (event := self._run(following())) is not None:
                yield event
        finally:
            self._run(events.aclose())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._client, name)

        def blocking(*args: Any, **options: Any) -> Any:
            return self._run(method(*args, **options))

        return blocking

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)


async def _made(url: str, timeout_seconds: float) -> AsyncClient:
    return AsyncClient(url, timeout_seconds=timeout_seconds)
