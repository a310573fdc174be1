"""The Python client: REST and WebSocket only. Documents are dicts as they are on the wire, typed by `dihedral.documents`.

ClientError
├── Refused      the control plane refused the request; `.problem` is its problem document
├── Unreachable  no server answers at the address, or the server is no control plane
├── Cut          a watch whose client was closed
└── JobFailed    the job that `run` waited for did not complete; `.job` is its document

A connection may break at any time. Reads, and orders that may be carried out twice without harm, are then sent again for some
seconds, which is what a control plane takes to start; the others end as Unreachable, since it is unknown whether they arrived.

Large because every route has one documented method.
"""

import asyncio
import functools
import json
import ssl
import threading
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing, suppress
from html import escape
from pathlib import Path, PurePosixPath
from typing import Any, Concatenate, Literal, NotRequired, ParamSpec, TypeAlias, TypedDict, TypeVar, Unpack, cast
from urllib.parse import quote
from weakref import WeakSet

import httpx
import websockets
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as ws_connect

from dihedral import documents as doc
from dihedral.bridge.hosts import is_loopback

Document = dict[str, Any]
T = TypeVar("T")
P = ParamSpec("P")

File: TypeAlias = Path | str

TERMINAL = frozenset({"completed", "failed", "cancelled"})
DEFAULT_URL = "http://127.0.0.1:8000"
RETRIES = 6  # with the pauses between them 8 s
BUSY = frozenset({429, 502, 503, 504})
LIMIT_LOOK_BYTES = 1 << 20
"""Files up to this size are sent without a look at the limit: the refusal costs no more than the look."""
SLOWEST_STORE_BYTES = 8 << 20
"""Bytes a second at which an answer to an upload is still waited for."""
FAILURES = {"forbidden": 403, "limit": 429}
"""Statuses of a subscription's failure; everything else means that there is no such job."""


class Progress(TypedDict):
    """Comes between the events of a watch; it is not in a job's log. `estimate`, `startsIn`: seconds, absent while they are unknown."""

    type: Literal["progress"]
    status: doc.JobStatus
    progress: float
    estimate: NotRequired[doc.Estimate]
    startsIn: NotRequired[doc.Estimate]


class JobFilters(TypedDict, total=False):
    """`q`: words to find in names, tags, pipelines, tasks and given params. `tag`, `status`: one or several, comma separated. `since`, `until`: RFC 3339, of the creation. `cursor`: `next` of the page before."""

    q: str | None
    tag: str | None
    status: str | None
    pipeline: str | None
    since: str | None
    until: str | None
    limit: int
    cursor: str | None


class JobChanges(TypedDict, total=False):
    """`name`: None = the one that follows from its prompt or file. `tags`: all that it has then."""

    name: str | None
    tags: Sequence[str]
    priority: doc.Priority


class ArtifactFilters(TypedDict, total=False):
    bucket: str | None
    jobId: str | None


class Page(TypedDict, total=False):
    """`cursor`: `next` of the page before."""

    limit: int
    cursor: str | None


class ClientError(Exception):
    pass


class Refused(ClientError):
    def __init__(self, problem: Document) -> None:
        super().__init__(str(problem.get("detail") or problem.get("title") or "refused"))
        self.problem = problem
        self.status = int(problem["status"])
        self.code = str(problem.get("code") or "")


class Unreachable(ClientError):
    pass


class Cut(ClientError):
    pass


class JobFailed(ClientError):
    def __init__(self, job: doc.Job) -> None:
        error = job["error"]
        super().__init__(
            f"job {job['jobId']} {job['status']}" + (f": {error['message']} ({error['code']})" if error else "")
        )
        self.job = job


class AsyncClient:
    """`async with AsyncClient(url, api_key=key) as client: job = await client.submit(pipeline="simulate")`.

    `api_key`: None where the control plane is open. `timeout_seconds`: how long an answer is waited for, and a control plane that has gone away.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        ca: str | Path | None = None,
    ) -> None:
        """Opens no connection. `ca`: a file of certificates to trust instead of the usual ones.

        Raises:
            Unreachable: `url` can be no address, or `ca`, or a proxy or certificate file of the environment cannot be used.
            Refused: no header can carry the key.
        """
        self.url = _checked(url)
        self._timeout_seconds = timeout_seconds
        self._headers = _authorization(api_key)
        self._is_local = is_loopback(httpx.URL(self.url).host)
        self._trust = _trust(self.url, ca)
        try:
            self._http = httpx.AsyncClient(
                base_url=self.url,
                timeout=timeout_seconds,
                headers=self._headers,
                verify=self._trust or False,  # no certificates need be read for plain http
                trust_env=not self._is_local,  # a proxy leads to another machine's loopback
            )
        except (ImportError, ValueError) as error:
            raise Unreachable(f"the proxy of the environment cannot be used: {error}") from error
        self._sockets: WeakSet[ClientConnection] = WeakSet()
        self._upload_bytes: int | None = None
        self._closed = False

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Ends its watches too, with Cut."""
        self._closed = True
        await asyncio.gather(*(socket.close() for socket in self._sockets))
        await self._http.aclose()

    # Jobs -----------------------------------------------------------------------------------------------------------

    async def submit(
        self,
        *,
        graph: doc.GraphSubmission | Document | None = None,
        pipeline: str | None = None,
        task: str | None = None,
        params: Mapping[str, Any] | None = None,
        files: Mapping[str, File | Sequence[File]] | None = None,
        priority: doc.Priority | str | None = None,
        start_at: str | None = None,
        metadata: Document | None = None,
        webhook: doc.Webhook | Document | None = None,
        idempotency_key: str | None = None,
        name: str | None = None,
        tags: Sequence[str] | None = None,
        rerun_of: str | None = None,
        preset: str | None = None,
        _sweep: Mapping[str, Sequence[Any]] | None = None,
    ) -> doc.Job:
        """Submits a graph, a pipeline or one task alone; returns the job document, before it has run.

        `files`: params of the pipeline or task whose value is a local file, or a list of them; they are uploaded first, and deleted again where the
        submission is refused.
        `preset`: params that were kept under this name; the given ones stand over them.
        `rerun_of`: the job that this one repeats; alone it runs the same again, with `params` over those of that job.
        `start_at`: RFC 3339 with an offset. A key is made where none is given, so a submission whose answer was lost is sent again and
        runs once.

        Raises:
            Refused: every problem of the submission is in `.problem["errors"]`.
            OSError: a file cannot be read.
            Unreachable
        """
        filled = dict(params or {})
        uploaded: list[doc.ArtifactRef] = []
        try:
            await self._check_sizes([path for given in (files or {}).values() for path in _paths(given)])
            for param, given in (files or {}).items():
                refs = [await self._uploaded(path, uploaded) for path in _paths(given)]
                filled[param] = refs[0] if isinstance(given, str | Path) else refs
            return await self._submitted(
                {
                    "graph": graph, "pipeline": pipeline, "task": task, "params": filled or None, "name": name,
                    "tags": list(tags) if tags else None, "rerunOf": rerun_of, "priority": priority, "startAt": start_at,
                    "metadata": metadata, "webhook": webhook, "preset": preset, "sweep": _sweep,
                },
                idempotency_key or uuid.uuid4().hex,
            )  # fmt: skip
        except Refused as refused:
            if refused.status < 500:  # behind a 5xx there may be a job that names them
                await self.discard(uploaded)
            raise

    async def discard(self, uploaded: Sequence[doc.ArtifactRef]) -> None:
        """Deletes uploads of which nothing came; those that this key may not delete are left to the operator."""
        for ref in uploaded:
            with suppress(ClientError):
                await self._ask("DELETE", _artifact(ref), repeat=True)

    async def _submitted(self, body: Document, key: str) -> doc.Job:
        content = json.dumps({name: value for name, value in body.items() if value is not None})
        headers = {"Idempotency-Key": key, "Content-Type": "application/json"}
        return cast(doc.Job, await self._ask("POST", "/api/jobs", content=content, headers=headers, repeat=True))

    async def sweep(self, values: Mapping[str, Sequence[Any]], /, **submission: Any) -> doc.SweepJobs:
        """Submits a job for each combination of these values of params, the last name varying fastest; `submission`: the arguments of `submit`.

        All of them are planned first. Raises what submit() raises: one value that does not fit refuses all.
        """
        return cast(doc.SweepJobs, await self.submit(**submission, _sweep=values))

    async def presets(self, *, pipeline: str | None = None, task: str | None = None) -> doc.PresetList:
        """Returns the named params of this key's owner, by name; of one pipeline or task where it is given."""
        params = {name: value for name, value in (("pipeline", pipeline), ("task", task)) if value is not None}
        return cast(doc.PresetList, await self._ask("GET", "/api/presets", params=params))

    async def save_preset(
        self, name: str, params: Mapping[str, Any], *, pipeline: str | None = None, task: str | None = None
    ) -> doc.Preset:
        """Keeps params of a pipeline or a task under a name, for this key's owner; one of the same name is replaced. They are checked when they are used.

        Raises:
            ValueError: not one of `pipeline` and `task` is given.
            Refused: the name cannot be one, the owner has too many presets, or the params are too large.
            Unreachable
        """
        return cast(
            doc.Preset,
            await self._ask("PUT", _preset(name, pipeline, task), json={"params": dict(params)}, repeat=True),
        )

    async def delete_preset(self, name: str, *, pipeline: str | None = None, task: str | None = None) -> None:
        """Deletes a preset of a pipeline or a task. Raises Refused where there is none, ValueError as save_preset() does."""
        await self._ask("DELETE", _preset(name, pipeline, task))

    async def submit_document(
        self, submission: doc.JobRequest | Document, *, idempotency_key: str | None = None
    ) -> doc.Job:
        """Submits a document as it is on the wire; what it names is uploaded already. Raises what submit() raises."""
        return await self._submitted(dict(submission), idempotency_key or uuid.uuid4().hex)

    async def plan(self, submission: doc.JobRequest | Document) -> doc.Graph:
        """Returns the graph that would run; nothing is stored. Raises Refused with every problem."""
        return cast(doc.Graph, await self._ask("POST", "/api/plans", json=submission, repeat=True))

    async def plan_goal(
        self,
        goal: str,
        *,
        files: Sequence[doc.ArtifactRef | Document] = (),
        answers: Document | None = None,
        change: str | doc.GraphSubmission | Document | None = None,
        evaluate: bool = False,
    ) -> doc.GoalPlan:
        """Plans a goal in words; nothing is stored. `files`: uploaded ones; `answers`: to the questions of an earlier plan, by their ids;
        `change`: a job's id, or a graph, that the goal changes; `evaluate`: the graph holds its results against the goal. An open goal is no error: see `questions`. Raises Refused."""
        body: Document = {"goal": goal, "files": list(files), "answers": answers or {}}
        if change is not None:
            body["change"] = change
        if evaluate:
            body["evaluate"] = True
        return cast(doc.GoalPlan, await self._ask("POST", "/api/plans", json=body, repeat=True))

    async def ask(
        self,
        goal: str,
        *,
        files: Sequence[File] = (),
        answers: Document | None = None,
        idempotency_key: str | None = None,
    ) -> doc.Job:
        """Uploads the files and runs what the goal asks; returns the job document, before it has run. A refusal deletes the uploads again.

        Raises:
            Refused: `needs_answer`, with a question in each of `.problem["errors"]`, where the goal leaves something open.
            OSError: a file cannot be read.
            Unreachable
        """
        uploaded: list[doc.ArtifactRef] = []
        try:
            await self._check_sizes(list(files))
            for path in files:
                await self._uploaded(path, uploaded)
            body: Document = {"goal": goal, "files": uploaded, "answers": answers or {}}
            return await self._submitted(body, idempotency_key or uuid.uuid4().hex)
        except Refused as refused:
            if refused.status < 500:
                await self.discard(uploaded)
            raise

    async def job(self, job_id: str) -> doc.Job:
        """Returns the job document: status, progress, error, artifacts."""
        return cast(doc.Job, _Shown(await self._ask("GET", _job(job_id))))

    async def jobs(self, **filters: Unpack[JobFilters]) -> doc.JobList:
        """Returns a page of jobs, newest first; `next` is the cursor of the page behind it, None at the end."""
        found = await self._ask("GET", "/api/jobs", params=_set(filters))
        if "jobs" in found:
            found["jobs"] = [_Shown(job) for job in found["jobs"]]
        return cast(doc.JobList, found)

    async def wait(self, job_id: str, *, timeout_seconds: float | None = None) -> doc.Job:
        """Returns the job document once the job has ended. Raises TimeoutError where it has not in time; None = no limit."""
        job_id = (await self.job(job_id))["jobId"]  # a prefix cannot be watched
        async with asyncio.timeout(timeout_seconds), aclosing(self.watch(job_id)) as events:
            async for _ in events:
                pass
        return await self.job(job_id)

    async def run(self, /, *, timeout_seconds: float | None = None, **submission: Any) -> doc.Job:
        """Submits (with the arguments of `submit`) and waits; returns the job document of a job that completed. Raises JobFailed, TimeoutError."""
        job = await self.submit(**submission)
        ended = await self.wait(job["jobId"], timeout_seconds=timeout_seconds)
        if ended["status"] != "completed":
            raise JobFailed(ended)
        return ended

    async def rerun(self, job_id: str, /, **changes: Any) -> doc.Job:
        """Runs what a job ran once more, with its name, tags and params, under these changes of params; None takes a param back to its default."""
        return await self.submit(rerun_of=job_id, params=changes or None)

    async def graph(self, job_id: str) -> doc.Graph:
        """Returns the job's graph with the status, params and output of every node."""
        return cast(doc.Graph, await self._ask("GET", _job(job_id, "/graph")))

    async def events(self, job_id: str, after: int = 0) -> doc.EventPage:
        """Returns the events of the log whose `seq` is above `after`."""
        return cast(doc.EventPage, await self._ask("GET", _job(job_id, "/events"), params={"after": after}))

    async def cancel(self, job_id: str) -> doc.Job:
        """Cancels a job; one that has ended stays as it is. Like all that changes a job it needs the whole id."""
        return cast(doc.Job, await self._ask("POST", _job(job_id, "/cancel"), repeat=True))

    async def change(self, job_id: str, /, **changes: Unpack[JobChanges]) -> doc.Job:
        """Changes the name, the tags or the priority of a job. Raises Refused, for a priority also where the job has ended."""
        return cast(doc.Job, await self._ask("PATCH", _job(job_id), json=changes, repeat=True))

    async def move_to_front(self, job_id: str) -> doc.Job:
        """Moves what waits of a job before all others. Raises Refused where nothing of it waits."""
        return cast(doc.Job, await self._ask("POST", _job(job_id, "/front"), repeat=True))

    async def finish(self, job_id: str, node_id: str) -> doc.Job:
        """Requests that a running node ends now with its best result; a task that does not look for the request continues."""
        path = _job(job_id, f"/nodes/{quote(node_id, safe='')}/finish")
        return cast(doc.Job, await self._ask("POST", path, repeat=True))

    async def retry(self, job_id: str, *, from_start: bool = False) -> doc.Job:
        """Runs a failed or cancelled job again; nodes that completed keep their output unless `from_start`."""
        body = {"from": "start"} if from_start else {}
        return cast(doc.Job, await self._ask("POST", _job(job_id, "/retry"), json=body))

    async def delete(self, job_id: str, *, artifacts: bool = False) -> None:
        """Deletes a job that has ended, and with `artifacts` what it stored."""
        await self._ask("DELETE", _job(job_id), params={"artifacts": str(artifacts).lower()})

    # What serves them -----------------------------------------------------------------------------------------------

    async def capabilities(self) -> doc.CapabilityList:
        """Returns every task that live workers, or workers of the last minutes, can run."""
        return cast(doc.CapabilityList, await self._ask("GET", "/api/capabilities"))

    async def pipelines(self) -> doc.PipelineList:
        """Returns the graph templates with the schemas of their params."""
        return cast(doc.PipelineList, await self._ask("GET", "/api/pipelines"))

    async def workers(self) -> doc.WorkerList:
        """Returns the workers that are alive, with what they run."""
        return cast(doc.WorkerList, await self._ask("GET", "/api/workers"))

    async def queues(self) -> doc.QueueList:
        """Returns the depth of every queue, by plane and pool."""
        return cast(doc.QueueList, await self._ask("GET", "/api/queues"))

    async def queue(self, plane: doc.Plane | str, pool: str) -> doc.WaitingList:
        """Returns the jobs that wait at a place, the next first; those of other owners are counted and not named. Raises Refused where no worker serves it."""
        return cast(doc.WaitingList, await self._ask("GET", _queue(plane, pool)))

    async def pause_queue(self, plane: doc.Plane | str, pool: str) -> doc.QueueInfo:
        """Pauses a pool: its workers take no nodes, what runs goes on. Raises Refused where no worker serves it."""
        return cast(doc.QueueInfo, await self._ask("POST", f"{_queue(plane, pool)}/pause", repeat=True))

    async def resume_queue(self, plane: doc.Plane | str, pool: str) -> doc.QueueInfo:
        """Lets the workers of a paused pool take nodes again."""
        return cast(doc.QueueInfo, await self._ask("POST", f"{_queue(plane, pool)}/resume", repeat=True))

    async def drain_worker(self, worker_id: str) -> doc.WorkerInfo:
        """Drains a worker: it takes no more nodes, what it runs goes on. It stays there until it is resumed or stopped."""
        return cast(doc.WorkerInfo, await self._ask("POST", f"{_worker(worker_id)}/drain", repeat=True))

    async def resume_worker(self, worker_id: str) -> doc.WorkerInfo:
        """Lets a drained worker take nodes again."""
        return cast(doc.WorkerInfo, await self._ask("POST", f"{_worker(worker_id)}/resume", repeat=True))

    async def dead_letters(self, **page: Unpack[Page]) -> doc.DeadLetterList:
        """Returns a page of deliveries that were given up, newest first."""
        return cast(doc.DeadLetterList, await self._ask("GET", "/api/dead-letters", params=_set(page)))

    async def dead_letter(self, letter_id: str) -> doc.DeadLetter:
        """Returns one dead letter."""
        return cast(doc.DeadLetter, await self._ask("GET", _letter(letter_id)))

    async def requeue_dead_letter(self, letter_id: str) -> doc.Job:
        """Retries the job of a dead letter; returns that job."""
        return cast(doc.Job, await self._ask("POST", _letter(letter_id, "/requeue")))

    async def drop_dead_letter(self, letter_id: str) -> None:
        """Deletes a dead letter."""
        await self._ask("DELETE", _letter(letter_id))

    async def ready(self) -> bool:
        """Returns whether the control plane can use Redis and the artifact store."""
        try:
            return (await self._http.get("/health/ready")).status_code == 200
        except httpx.HTTPError:
            return False

    # Artifacts ------------------------------------------------------------------------------------------------------

    async def upload(self, path: File, bucket: str = "inputs") -> doc.ArtifactMeta:
        """Uploads a file, read as it is sent; returns the meta document.

        Raises:
            Refused: it is larger than the control plane takes, which is known before it is sent; or it is refused for another reason.
            OSError: the file cannot be read.
            Unreachable
        """
        source = Path(path)
        size = await self._check_sizes([source])
        # A store on another machine takes the file once it is here whole, before the answer.
        timeout = httpx.Timeout(self._timeout_seconds, read=self._timeout_seconds + size / SLOWEST_STORE_BYTES)

        async def send() -> httpx.Response:
            with await asyncio.to_thread(source.open, "rb") as file:  # every attempt begins at its start
                files = {"file": (source.name, file)}
                params = {"bucket": bucket}
                return await self._http.post("/api/artifacts", params=params, files=files, timeout=timeout)

        return cast(doc.ArtifactMeta, self._answered(await self._until_answered(send, repeat=True)))

    async def _uploaded(self, path: File, uploaded: list[doc.ArtifactRef]) -> doc.ArtifactRef:
        meta = await self.upload(path)
        uploaded.append({"bucket": meta["bucket"], "key": meta["key"]})
        return uploaded[-1]

    async def _check_sizes(self, paths: Sequence[File]) -> int:
        """Returns the size of the largest file. Raises Refused where it is larger than the control plane takes, OSError where one cannot be read."""
        sizes = {path: (await asyncio.to_thread(Path(path).stat)).st_size for path in paths}
        largest = max(sizes.values(), default=0)
        if largest <= LIMIT_LOOK_BYTES:
            return largest
        if self._upload_bytes is None:
            try:
                self._upload_bytes = int((await self._ask("GET", "/api/limits"))["uploadBytes"])
            except Refused:  # an older control plane; the upload itself is refused
                return largest
        for path, size in sizes.items():
            if size > self._upload_bytes:
                detail = f"{path} has {size:,} bytes; this control plane takes {self._upload_bytes:,} (artifacts.maxUploadBytes)"
                raise Refused({"status": 413, "code": "body_too_large", "detail": detail})
        return largest

    async def download(self, ref: doc.ArtifactRef | doc.ArtifactMeta | Mapping[str, Any], to: File) -> Path:
        """Writes the artifact to a file, whole or not at all; a directory gets it under the artifact's name."""
        target = Path(to)
        if await asyncio.to_thread(target.is_dir):
            target = target / str(ref["key"]).rsplit("/", 1)[-1]
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.part")
        path = _artifact(ref)

        async def copy() -> None:
            async with self._http.stream("GET", path, follow_redirects=True) as response:
                if response.status_code != 200:
                    await response.aread()
                    raise self._refused(response)
                with part.open("wb") as file:
                    async for chunk in response.aiter_bytes(1 << 18):
                        file.write(chunk)

        try:
            await self._until_answered(copy, repeat=True)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)
        return target

    async def download_all(self, job_id: str, to: File = ".") -> list[Path]:
        """Writes everything that a job stored into a directory, made where missing, under the artifacts' names; equal names get a number."""
        target = Path(to)
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        taken: set[str] = set()
        paths = []
        stored = {(meta["bucket"], meta["key"]): meta for meta in (await self.job(job_id))["artifacts"]}
        for meta in stored.values():
            name = PurePosixPath(str(meta.get("name") or "").replace("\\", "/")).name
            name = name if name not in ("", ".", "..") else str(meta["key"]).rsplit("/", 1)[-1]
            stem, dot, ending = name.rpartition(".")
            number = 1
            while name in taken:
                number += 1
                name = f"{stem or ending}-{number}{dot if stem else ''}{ending if stem else ''}"
            taken.add(name)
            paths.append(await self.download(meta, target / name))
        return paths

    async def provenance(self, of: File | doc.ArtifactRef | doc.ArtifactMeta | Mapping[str, Any]) -> doc.Provenance:
        """Returns what a file, or an artifact, says about its origin: the job, the request and its params. Raises Refused, code `no_provenance`, where it says nothing."""
        if isinstance(of, Mapping):
            params = {"bucket": of["bucket"], "key": of["key"]}
            return cast(doc.Provenance, await self._ask("GET", "/api/provenance", params=params))
        ends = await asyncio.to_thread(_ends, Path(of))
        headers = {"Content-Type": "application/octet-stream"}
        found = await self._ask("POST", "/api/provenance", content=ends, headers=headers, repeat=True)
        return cast(doc.Provenance, found)

    async def artifacts(self, **filters: Unpack[ArtifactFilters]) -> doc.ArtifactList:
        """Returns the artifacts of a bucket or a job, newest first."""
        return cast(doc.ArtifactList, await self._ask("GET", "/api/artifacts", params=_set(filters)))

    # Live -----------------------------------------------------------------------------------------------------------

    async def watch(self, job_id: str, after: int = 0) -> AsyncGenerator[doc.Event | Progress, None]:
        """Yields every event after `after`, once and in order, until the job has ended; survives lost connections.

        Between them comes {"type": "progress", "status", "progress"} whenever that or what is estimated has moved.

        Raises:
            Refused: there is no such job (any more).
            Unreachable: no server answers at the address, or none has for `timeout_seconds`.
            Cut: the client was closed.
        """
        last, epoch, told = after, None, None
        heard, lost, failures = (
            False,
            None,
            0,
        )  # `lost`: since when no server answers; a slow reader loses nothing
        while True:
            try:
                socket = await self._socket()
                try:
                    wish = {"action": "subscribe", "jobId": job_id, "after": last}
                    await socket.send(json.dumps(wish | ({"epoch": epoch} if epoch else {})))
                    async for text in socket:
                        message = json.loads(text)
                        heard, lost, failures = True, None, 0
                        if message["type"] == "response":
                            if message["message"] == "failed":
                                raise _failed(job_id, message["reason"])
                            continue
                        events = message.get("events", [])
                        if message["type"] == "resync":
                            message = message["snapshot"]
                            last = min(last, message["seq"])
                            events = list((await self.events(job_id, last))["events"])
                        epoch = message["epoch"]
                        for event in events:
                            if event["seq"] > last:
                                last = event["seq"]
                                yield event
                        moved = _progress(message)
                        if moved != told:
                            told = moved
                            yield moved
                        if message["status"] in TERMINAL:
                            return
                finally:
                    # With the client its sockets are closed already, and then its loop may be ending and lets nothing begin.
                    if not self._closed:
                        await socket.close()
                error: Exception = ConnectionError("the connection was closed")
            except (OSError, websockets.WebSocketException, ClientError) as caught:
                error = caught
            if self._closed:
                raise Cut(f"the client was closed while it watched {job_id!r}") from error
            if isinstance(error, Refused) and error.status not in BUSY:
                raise error
            if not heard and _is_nobody(error):
                raise self._nobody(error) from error
            lost = lost or time.monotonic()
            if time.monotonic() - lost > self._timeout_seconds:
                raise Unreachable(f"{self.url} has not answered for {self._timeout_seconds:g} s: {error}") from error
            failures += 1
            await asyncio.sleep(_pause(failures))

    async def _socket(self) -> ClientConnection:
        """A WebSocket that aclose() closes."""
        address = "ws" + self.url.removeprefix("http") + "/ws"
        try:
            socket = await ws_connect(
                address,
                max_size=None,
                additional_headers=self._headers,
                ssl=self._trust,
                proxy=None if self._is_local else True,
            )
        except (ImportError, websockets.InvalidProxy) as error:
            raise Unreachable(f"the proxy of the environment cannot be used: {error}") from error
        except websockets.InvalidStatus as error:
            problem = _problem(error.response.body)
            if problem is None:
                raise
            raise Refused({**problem, "status": error.response.status_code}) from error
        if self._closed:  # meanwhile
            await socket.close()
            raise ConnectionError("the client was closed")
        self._sockets.add(socket)
        return socket

    # Asking ---------------------------------------------------------------------------------------------------------

    async def mcp(
        self,
        message: Document,
        told: Callable[[Document], None] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Document:
        """Forwards a message of the Model Context Protocol; returns an empty answer where the protocol expects none. `told`: receives the
        notifications before the answer; without it the server is asked for none."""
        if told is None:
            return await self._ask("POST", "/mcp", json=message, headers=headers)
        sent = {"Accept": "application/json, text/event-stream", **(headers or {})}

        async def ask() -> Document:
            async with self._http.stream("POST", "/mcp", json=message, headers=sent) as response:
                if not response.headers.get("content-type", "").startswith("text/event-stream"):
                    await response.aread()
                    return self._answered(response)
                async for line in response.aiter_lines():
                    note = json.loads(line.removeprefix("data:")) if line.startswith("data:") else None
                    if isinstance(note, dict) and "id" in note:
                        return note
                    if isinstance(note, dict):
                        told(note)
            raise Unreachable(f"the answer of {self.url} has ended before its end")

        return await self._until_answered(ask, repeat=False)

    async def _ask(self, method: str, path: str, *, repeat: bool = False, **options: Any) -> Document:
        """`repeat`: safe to send again when the answer was lost; reads always are."""
        reads = method == "GET"

        async def ask() -> httpx.Response:
            # A POST that is redirected becomes a GET, and what that answers would pass for the POST's answer.
            return await self._http.request(method, path, follow_redirects=reads, **options)

        return self._answered(await self._until_answered(ask, repeat=repeat or reads))

    def _answered(self, response: httpx.Response) -> Document:
        """The document of an answer. Raises Refused, or Unreachable where there is none."""
        if not response.is_success:
            raise self._refused(response)
        if not response.content:
            return {}
        document = _document(response)
        if document is None:
            raise Unreachable(f"what answers at {self.url} is no control plane")
        return document

    async def _until_answered(self, ask: Callable[[], Awaitable[T]], *, repeat: bool) -> T:
        """Raises Unreachable: at once where no server listens or none answered in time, else when all attempts were cut."""
        failures, begun = 0, time.monotonic()
        while True:
            try:
                return await ask()
            except httpx.ConnectError as error:
                if failures == 0:
                    raise self._nobody(error) from error
                lost: httpx.HTTPError = error
            except httpx.TimeoutException as error:
                raise Unreachable(f"{self.url} did not answer within {self._timeout_seconds:g} s") from error
            except httpx.HTTPError as error:
                lost = error
            failures += 1
            if not repeat or failures > RETRIES or time.monotonic() - begun > self._timeout_seconds:
                raise Unreachable(f"{self.url}: {type(lost).__name__}: {lost}") from lost
            await asyncio.sleep(_pause(failures))

    def _nobody(self, error: Exception) -> Unreachable:
        """Returns why there is no connection: a certificate that is not trusted is reported as one."""
        text = str(error)
        if "CERTIFICATE_VERIFY_FAILED" in text or "SSL" in text:
            reason = text.partition("verify failed: ")[2].partition(" (")[0] or text
            return Unreachable(
                f"the certificate that {self.url} shows is not trusted: {reason}; name its authority with --ca FILE or DIHEDRAL_CA"
            )
        return Unreachable(f"no server answers at {self.url}; is `dihedral up` running?")

    def _refused(self, response: httpx.Response) -> Refused:
        problem = _document(response) or {"title": response.reason_phrase, "detail": response.text[:300]}
        if response.is_redirect:
            problem["detail"] = f"{self.url} leads to {response.headers.get('location')}; use that address"
        return Refused({**problem, "status": response.status_code})


class _Shown(dict[str, Any]):
    """A job document that a notebook draws as a table; everywhere else it is a dict."""

    def _repr_html_(self) -> str:
        rows = {
            "status": f"{self['status']}, {self['progress']:.0%}",
            "runs": self["pipeline"] or self["task"] or "a graph",
            "name": self["name"] or "",
            "tags": ", ".join(self["tags"]),
            **{name: json.dumps(value, ensure_ascii=False)[:200] for name, value in (self["params"] or {}).items()},
            "error": (self["error"] or {}).get("message", ""),
            "stored": ", ".join(f"{each['bucket']}/{each['key']}" for each in self["artifacts"]),
        }
        cells = "".join(
            f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows.items() if text
        )
        return f"<table><caption>{escape(self['jobId'])}</caption>{cells}</table>"


def _trust(url: str, ca: str | Path | None) -> ssl.SSLContext | None:
    """Returns None for plain http."""
    if not url.startswith("https:"):
        return None
    try:
        return ssl.create_default_context(cafile=ca) if ca is not None else httpx.create_ssl_context()
    except (OSError, ssl.SSLError) as error:
        named = ca or "SSL_CERT_FILE or SSL_CERT_DIR"
        raise Unreachable(f"the certificates in {named} cannot be used: {error}") from error


def _checked(url: str) -> str:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise Unreachable(f"{url!r} is no address: {error}") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise Unreachable(f"{url!r} is no address; one begins with http:// or https://")
    return url.rstrip("/")


def _authorization(api_key: str | None) -> dict[str, str]:
    key = (api_key or "").strip()  # one that was read from a file ends with a newline
    if not (key.isascii() and key.isprintable()):
        raise Refused(
            {"status": 401, "code": "bad_api_key", "detail": "the API key has characters that no header can carry"}
        )
    return {"Authorization": f"Bearer {key}"} if key else {}


def _set(filters: Mapping[str, Any]) -> Document:
    return {name: value for name, value in filters.items() if value is not None}


def _problem(body: bytes | bytearray | None) -> Document | None:
    """Returns the problem that a control plane sends instead of a handshake; None where the server is not a control plane."""
    try:
        document = json.loads(body or b"")
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("code"), str) else None


def _queue(plane: str, pool: str) -> str:
    return f"/api/queues/{quote(plane, safe='')}/{quote(pool, safe='')}"


def _worker(worker_id: str) -> str:
    return f"/api/workers/{quote(worker_id, safe='')}"


def _job(job_id: str, below: str = "") -> str:
    """Returns the path of a job. Text that would lead to another path is no job's id."""
    if not job_id.strip("."):
        raise _failed(job_id, "unknown_job")
    return f"/api/jobs/{quote(job_id, safe='')}{below}"


def _preset(name: str, pipeline: str | None, task: str | None) -> str:
    """Returns the path of a preset. Text that would lead to another path is no name of one."""
    if (pipeline is None) == (task is None):
        raise ValueError("a preset is one of a pipeline or of a task: give one of the two")
    of = str(task if pipeline is None else pipeline)
    if not name.strip(".") or "/" in name or not of.strip("."):
        detail = f"{name!r} of {of!r}: a name is neither empty nor dots alone, and has no slash"
        raise Refused({"status": 422, "code": "bad_name", "detail": detail})
    kind = "tasks" if pipeline is None else "pipelines"
    return f"/api/presets/{kind}/{quote(of, safe='')}/{quote(name, safe='')}"


def _artifact(ref: Mapping[str, Any]) -> str:
    return f"/api/artifacts/{quote(str(ref['bucket']), safe='')}/{quote(str(ref['key']))}"


def _ends(path: Path) -> bytes:
    """Reads the first and last bytes of a file, the whole of a small one."""
    from dihedral.bridge.artifacts.metadata import HEAD_BYTES, TAIL_BYTES

    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        file.seek(max(len(head), path.stat().st_size - TAIL_BYTES))
        return head + file.read(TAIL_BYTES)


def _paths(given: File | Sequence[File]) -> list[File]:
    return [given] if isinstance(given, str | Path) else list(given)


def _letter(letter_id: str, below: str = "") -> str:
    if not letter_id.strip("."):
        detail = f"there is no dead letter {letter_id!r}"
        raise Refused({"status": 404, "code": "unknown_dead_letter", "detail": detail})
    return f"/api/dead-letters/{quote(letter_id, safe='')}{below}"


def _progress(message: Document) -> Progress:
    """Returns what an update or a snapshot says of the job as a whole."""
    estimated = {**message.get("job", {}), **message}
    return cast(
        Progress,
        {
            "type": "progress", "status": message["status"], "progress": message["progress"],
            **{name: estimated[name] for name in ("estimate", "startsIn") if name in estimated},
        },
    )  # fmt: skip


def _failed(job_id: str, reason: str) -> Refused:
    status = FAILURES.get(reason, 404)
    if status == 404:
        return Refused({"status": status, "code": "unknown_job", "detail": f"there is no job {job_id!r}"})
    return Refused({"status": status, "code": reason, "detail": f"the job {job_id!r} cannot be watched: {reason}"})


def _document(response: httpx.Response) -> Document | None:
    """Returns None where the body is no JSON object."""
    try:
        document = response.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _is_nobody(error: Exception) -> bool:
    """Returns True when a first attempt shows that there is no control plane, rather than that it was cut off."""
    if isinstance(error, websockets.InvalidStatus):
        return error.response.status_code not in BUSY
    return isinstance(error, OSError) and not isinstance(error, ConnectionResetError | BrokenPipeError)


def _pause(failures: int) -> float:
    return min(2.0, 0.1 * 2.0**failures)


def _blocking(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate["Client", P], T]:
    """The same method of Client: signature, documentation and types are those of the async one."""

    @functools.wraps(method)
    def call(self: "Client", /, *args: P.args, **options: P.kwargs) -> T:
        return self._run(method(self._client, *args, **options))

    call.__qualname__ = f"Client.{method.__name__}"
    return call


class Client:
    """The blocking client: every method of AsyncClient, and watch() as a plain iterator.

    Its event loop runs in a separate thread, so it works inside a running event loop (Jupyter) too, which it blocks while it waits.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        api_key: str | None = None,
        timeout_seconds: float = 60.0,
        ca: str | Path | None = None,
    ) -> None:
        """Takes the arguments of AsyncClient."""
        self._client = AsyncClient(url, api_key=api_key, timeout_seconds=timeout_seconds, ca=ca)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self.url = self._client.url

    submit = _blocking(AsyncClient.submit)
    submit_document = _blocking(AsyncClient.submit_document)
    plan = _blocking(AsyncClient.plan)
    plan_goal = _blocking(AsyncClient.plan_goal)
    ask = _blocking(AsyncClient.ask)
    job = _blocking(AsyncClient.job)
    wait = _blocking(AsyncClient.wait)
    run = _blocking(AsyncClient.run)
    rerun = _blocking(AsyncClient.rerun)
    sweep = _blocking(AsyncClient.sweep)
    presets = _blocking(AsyncClient.presets)
    save_preset = _blocking(AsyncClient.save_preset)
    delete_preset = _blocking(AsyncClient.delete_preset)
    jobs = _blocking(AsyncClient.jobs)
    graph = _blocking(AsyncClient.graph)
    events = _blocking(AsyncClient.events)
    cancel = _blocking(AsyncClient.cancel)
    change = _blocking(AsyncClient.change)
    move_to_front = _blocking(AsyncClient.move_to_front)
    finish = _blocking(AsyncClient.finish)
    retry = _blocking(AsyncClient.retry)
    delete = _blocking(AsyncClient.delete)
    discard = _blocking(AsyncClient.discard)
    capabilities = _blocking(AsyncClient.capabilities)
    pipelines = _blocking(AsyncClient.pipelines)
    workers = _blocking(AsyncClient.workers)
    queues = _blocking(AsyncClient.queues)
    queue = _blocking(AsyncClient.queue)
    pause_queue = _blocking(AsyncClient.pause_queue)
    resume_queue = _blocking(AsyncClient.resume_queue)
    drain_worker = _blocking(AsyncClient.drain_worker)
    resume_worker = _blocking(AsyncClient.resume_worker)
    dead_letters = _blocking(AsyncClient.dead_letters)
    dead_letter = _blocking(AsyncClient.dead_letter)
    requeue_dead_letter = _blocking(AsyncClient.requeue_dead_letter)
    drop_dead_letter = _blocking(AsyncClient.drop_dead_letter)
    ready = _blocking(AsyncClient.ready)
    upload = _blocking(AsyncClient.upload)
    download = _blocking(AsyncClient.download)
    download_all = _blocking(AsyncClient.download_all)
    artifacts = _blocking(AsyncClient.artifacts)
    provenance = _blocking(AsyncClient.provenance)
    mcp = _blocking(AsyncClient.mcp)

    def watch(self, job_id: str, after: int = 0) -> Generator[doc.Event | Progress, None, None]:
        """Yields what AsyncClient.watch yields, and raises what it raises."""
        events = self._client.watch(job_id, after)

        async def following() -> doc.Event | Progress | None:
            return await anext(events, None)

        try:
            while (event := self._run(following())) is not None:
                yield event
        finally:
            # A closed client has ended its watches; and the loop's thread, on which a garbage collection may come here, must not wait.
            if not self._client._closed and threading.current_thread() is not self._thread:
                self._run(events.aclose())

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends its watches too."""
        if not self._client._closed:
            try:
                self._run(self._client.aclose())
            finally:
                if self._loop is not None and self._thread is not None:
                    self._loop.call_soon_threadsafe(self._loop.stop)
                    self._thread.join()

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it on the client's loop. An interrupt cancels it, and waits until it has ended."""
        if self._client._closed:
            work.close()
            raise RuntimeError("this client is closed")
        loop = self._started()
        task: list[asyncio.Task[T]] = []
        ended: Future[asyncio.Task[T]] = Future()

        def begin() -> None:
            task.append(loop.create_task(work))
            task[0].add_done_callback(ended.set_result)

        loop.call_soon_threadsafe(begin)
        try:
            done = ended.result()
        except BaseException:
            loop.call_soon_threadsafe(lambda: task[0].cancel())
            ended.result()
            raise
        return done.result()

    def _started(self) -> asyncio.AbstractEventLoop:
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                # A daemon, since a program may end without closing its client.
                self._thread = threading.Thread(target=_serve, args=(self._loop,), name="dihedral client", daemon=True)
                self._thread.start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Runs a client's loop until it is stopped, then what is left of its watches ends."""
    try:
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
