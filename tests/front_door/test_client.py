"""The Python client, blocking and async, against a house of real processes, over a line that is cut and a control plane that dies."""

import asyncio
import contextlib
import inspect
import itertools
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from dihedral import AsyncClient, Client
from dihedral.client import TERMINAL, ClientError, Cut, Refused, Unreachable
from tests.support.polling import at_this_load, becomes, becomes_async
from tests.support.servers import start_server
from tests.support.stack import Stack, simulate

NOBODY = "http://127.0.0.1:1"
SECONDS = 120  # when a test gives up, no promise
"""Far above what anything here takes on a busy machine."""


@pytest.fixture(scope="module")
def house() -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        made = Stack(Path(folder))
        try:
            made.worker("--slots", "1")
            yield made
        finally:
            made.close()


class Line:
    """A TCP line to the control plane. `budgets`: how many bytes the next connections may carry back before they are cut."""

    def __init__(self, port: int, budgets: Iterator[int]) -> None:
        self.url = ""
        self.open = self.opened = self.cuts = 0
        self.on_cut: Callable[[], None] = lambda: None
        self._port = port
        self._budgets = budgets

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.opened += 1
        try:
            try:
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                return
            ways = {
                asyncio.create_task(self._carry(reader, far_writer, None)),
                asyncio.create_task(self._carry(far_reader, writer, next(self._budgets, None))),
            }
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            far_writer.transport.abort()
        finally:
            writer.transport.abort()
            self.open -= 1

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                if budget is not None:
                    whole, data = data, data[:budget]
                    budget -= len(data)
                    if len(data) < len(whole):
                        writer.write(data)
                        await writer.drain()
                        self.cuts += 1
                        self.on_cut()
                        return
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def line(house: Stack, budgets: Iterator[int] = iter(())) -> AsyncIterator[Line]:  # noqa: B008
    made = Line(house.port, budgets)
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        await becomes_async(lambda: made.open == 0)


class InAThread:
    """The blocking client as a program with an event loop has to use it. `watch` answers with all of it."""

    def __init__(self, client: Client) -> None:
        self.blocking = client

    def __getattr__(self, name: str) -> Any:
        async def call(*arguments: Any, **options: Any) -> Any:
            return await asyncio.to_thread(getattr(self.blocking, name), *arguments, **options)

        return call


@asynccontextmanager
async def made(kind: str, url: str, **options: Any) -> AsyncIterator[Any]:
    if kind == "async":
        async with AsyncClient(url, **options) as client:
            yield client
    else:
        blocking = await asyncio.to_thread(partial(Client, url, **options))
        try:
            yield InAThread(blocking)
        finally:
            await asyncio.to_thread(blocking.close)


async def watched(client: Any, job: str, after: int = 0) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(events, progress) of a watch to its end."""
    found: list[Any]
    async with asyncio.timeout(SECONDS):
        if isinstance(client, InAThread):
            found = await asyncio.to_thread(lambda: list(client.blocking.watch(job, after)))
        else:
            found = [event async for event in client.watch(job, after)]
    return [each for each in found if "seq" in each], [each for each in found if "seq" not in each]


KINDS = pytest.mark.parametrize("kind", ["async", "blocking"])


@pytest.fixture(params=["async", "blocking"])
async def client(house: Stack, request: pytest.FixtureRequest) -> AsyncIterator[Any]:
    async with made(request.param, house.url, timeout_seconds=SECONDS) as found:
        yield found


async def ended(client: Any, job: str) -> Any:
    async def found() -> Any:
        document = await client.job(job)
        return document if document["status"] in TERMINAL else None

    return await becomes_async(found)


def talkative(steps: int = 100, nodes: int = 2, step_seconds: float = 0.01) -> dict[str, Any]:
    """A submission that says something at every step."""
    names = [f"n{number}" for number in range(nodes)]
    made = [{"id": name, "steps": steps, "stepSeconds": step_seconds} for name in names]
    return simulate(*made, edges=list(itertools.pairwise(names)))


FOREVER = talkative(1_000_000, 1, 0.05)
LATER = "2099-01-01T00:00:00Z"


# Asking ---------------------------------------------------------------------------------------------------------------


async def test_a_job_is_submitted_read_listed_and_deleted(client: Any) -> None:
    job = await client.submit(**simulate({"id": "a", "steps": 2}), metadata={"ticket": 7}, priority="high")
    done = await ended(client, job["jobId"])
    assert (done["status"], done["progress"]) == ("completed", 1)
    graph = await client.graph(job["jobId"])
    assert [node["status"] for node in graph["nodes"]] == ["completed"]
    assert graph["metadata"] == {"ticket": 7}
    events = await client.events(job["jobId"])
    assert events["jobId"] == job["jobId"]
    assert [event["seq"] for event in events["events"]] == list(range(1, len(events["events"]) + 1))
    assert (await client.events(job["jobId"], 2))["events"] == events["events"][2:]
    listed = await client.jobs(limit=1, status="completed", pipeline=None)
    assert listed["jobs"] == [done]
    assert await client.delete(job["jobId"], artifacts=True) is None
    with pytest.raises(Refused) as refused:
        await client.job(job["jobId"])
    assert (refused.value.status, refused.value.code) == (404, "unknown_job")


async def test_a_pipeline_is_submitted_with_its_params(client: Any) -> None:
    job = await client.submit(pipeline="simulate", params={"steps": 3})
    assert (await ended(client, job["jobId"]))["pipeline"] == "simulate"
    assert (await client.graph(job["jobId"]))["nodes"][0]["params"]["steps"] == 3


async def test_files_are_uploaded_and_their_params_refer_to_them(client: Any, tmp_path: Path) -> None:
    recording = tmp_path / "Zoë's voice.wav"
    recording.write_bytes(b"RIFF" + bytes(1000))
    job = await client.submit(pipeline="train_voice", files={"recording": recording}, start_at=LATER)
    assert job["status"] == "scheduled"
    ref = (await client.graph(job["jobId"]))["nodes"][0]["params"]["recording"]
    assert (await client.download(ref, tmp_path / "back.wav")).read_bytes() == recording.read_bytes()
    assert (await client.cancel(job["jobId"]))["status"] == "cancelled"
    with pytest.raises(FileNotFoundError):
        await client.submit(pipeline="train_voice", files={"recording": tmp_path / "absent.wav"})


async def test_a_job_is_waited_for_and_not_longer_than_asked(client: Any) -> None:
    job = await client.submit(pipeline="simulate", params={"steps": 3, "stepSeconds": 0.01})
    assert (await client.wait(job["jobId"]))["status"] == "completed"
    job = await client.submit(pipeline="simulate", start_at=LATER)
    with pytest.raises(TimeoutError):
        await client.wait(job["jobId"], timeout_seconds=0.2)
    assert (await client.cancel(job["jobId"]))["status"] == "cancelled"


async def test_a_param_that_is_a_list_takes_a_list_of_files(client: Any, tmp_path: Path) -> None:
    pictures = [tmp_path / "a.png", tmp_path / "b.png"]
    for number, path in enumerate(pictures):
        path.write_bytes(bytes([number]) * 10)
    job = await client.submit(pipeline="train_image_lora", files={"pictures": pictures}, start_at=LATER)
    refs = (await client.graph(job["jobId"]))["nodes"][0]["params"]["pictures"]
    for path, ref in zip(pictures, refs, strict=True):
        assert (await client.download(ref, tmp_path / "back")).read_bytes() == path.read_bytes()
    await client.cancel(job["jobId"])


async def test_a_large_file_goes_up_without_being_read_into_memory(client: Any, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(96 << 20)
    tracemalloc.start()
    try:
        meta = await client.upload(large)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert meta["size_bytes"] == 96 << 20
    assert peak < 24 << 20


async def test_a_file_above_the_limit_is_refused_before_a_byte_of_it_is_sent(client: Any, tmp_path: Path) -> None:
    small, large = tmp_path / "small.bin", tmp_path / "large.bin"
    small.write_bytes(b"small")
    with large.open("wb") as file:
        file.truncate(1 << 40)  # it would take hours
    before = await client.artifacts()
    for sending in (client.upload(large), client.submit(pipeline="train_lora", files={"weights": [small, large]})):
        with pytest.raises(Refused) as refused:
            async with asyncio.timeout(SECONDS):
                await sending
        assert (refused.value.status, refused.value.code) == (413, "body_too_large")
        assert "artifacts.maxUploadBytes" in str(refused.value)
        assert "large.bin has 1,099,511,627,776 bytes" in str(refused.value)
    assert await client.artifacts() == before, "not even the small one went up"


async def test_what_was_uploaded_for_a_refused_submission_is_deleted_again(client: Any, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    before = await client.artifacts()
    with pytest.raises(Refused) as refused:
        await client.submit(
            pipeline="train_image_lora", params={"steps": -1}, files={"pictures": [tmp_path / "a.png"] * 2}
        )
    assert refused.value.status == 422
    assert await client.artifacts() == before


async def test_a_key_of_ones_own_makes_a_repeat_the_same_job(client: Any) -> None:
    wish = {"pipeline": "simulate", "start_at": LATER, "idempotency_key": f"key-{random.random()}"}
    job = await client.submit(**wish)
    assert (await client.submit(**wish))["jobId"] == job["jobId"]
    with pytest.raises(Refused) as refused:
        await client.submit(**{**wish, "pipeline": "train_voice"})
    assert (refused.value.status, refused.value.code) == (409, "idempotency_key_reused")
    await client.cancel(job["jobId"])


async def test_a_failed_job_is_retried_and_watched_on(client: Any) -> None:
    job = (await client.submit(**simulate({"id": "a"}, {"id": "b", "failAt": 0}, edges=[("a", "b")])))["jobId"]
    events, _ = await watched(client, job)
    assert (await client.retry(job))["attempt"] == 2
    more, progress = await watched(client, job, events[-1]["seq"])
    assert [event["seq"] for event in more] == list(range(len(events) + 1, len(events) + len(more) + 1))
    assert progress[-1]["status"] == "failed"
    assert "a" not in {event["nodeId"] for event in more if event["type"] == "node"}, "it was kept"
    assert (await client.retry(job, from_start=True))["attempt"] == 3
    last, _ = await watched(client, job, more[-1]["seq"])
    assert "a" in {event["nodeId"] for event in last if event["type"] == "node"}
    done = await client.cancel(job)
    assert done["status"] == "failed", "what has ended is left as it is"


async def test_what_serves_is_listed(client: Any) -> None:
    assert await client.ready() is True
    assert "simulate" in {each["id"] for each in (await client.capabilities())["capabilities"]}
    assert {"simulate", "talking_picture"} <= {each["id"] for each in (await client.pipelines())["pipelines"]}
    assert {each["plane"] for each in (await client.workers())["workers"]} == {"node", "python"}
    assert {each["plane"] for each in (await client.queues())["queues"]} == {"node", "python"}
    plan = await client.plan({"pipeline": "simulate", "params": {"steps": 1}})
    assert [node["status"] for node in plan["nodes"]] == ["pending"]


async def test_an_artifact_goes_up_and_comes_back(client: Any, tmp_path: Path) -> None:
    (tmp_path / "up.bin").write_bytes(bytes(range(256)) * 5000)
    meta = await client.upload(tmp_path / "up.bin", bucket="voices")
    assert (meta["bucket"], meta["size_bytes"]) == ("voices", 1_280_000)
    assert meta in (await client.artifacts(bucket="voices"))["artifacts"]
    assert meta not in (await client.artifacts(bucket="loras"))["artifacts"]
    folder = tmp_path / "folder"
    folder.mkdir()
    assert await client.download(meta, folder) == folder / "up.bin"
    assert await client.download(meta, str(tmp_path / "named.bin")) == tmp_path / "named.bin"
    (tmp_path / "named.bin").write_bytes(b"older and longer than nothing")
    await client.download(meta, tmp_path / "named.bin")
    for path in (folder / "up.bin", tmp_path / "named.bin"):
        assert path.read_bytes() == (tmp_path / "up.bin").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"up.bin", "named.bin", "folder"}
    assert [path.name for path in folder.iterdir()] == ["up.bin"]


async def test_the_artifacts_of_a_job_are_found(client: Any, tmp_path: Path) -> None:
    node = {"id": "a", "task": "upload_artifact", "plane": "node", "params": {"name": "a.txt", "text": "hello"}}
    job = (await client.submit(graph={"schema": "langgraph.v1", "nodes": [node], "edges": []}))["jobId"]
    (meta,) = (await ended(client, job))["artifacts"]
    assert (await client.artifacts(jobId=job))["artifacts"] == [meta]
    assert (await client.download(meta, tmp_path)).read_text() == "hello"


# Errors ---------------------------------------------------------------------------------------------------------------


async def test_a_refusal_has_every_problem(client: Any) -> None:
    wish = simulate({"id": "a", "steps": -1, "stepSeconds": "long"}, {"id": "b", "stepz": 1})
    for refuse in (client.submit(**wish), client.plan(wish)):
        with pytest.raises(Refused) as refused:
            await refuse
        assert (refused.value.status, refused.value.code) == (422, "invalid_request")
        assert str(refused.value) == refused.value.problem["detail"]
        assert {each["pointer"] for each in refused.value.problem["errors"]} == {
            "/graph/nodes/0/params/steps", "/graph/nodes/0/params/stepSeconds", "/graph/nodes/1/params/stepz"
        }  # fmt: skip
    for wrong in ({"limit": 0}, {"status": "nonsense"}, {"colour": "red"}):
        with pytest.raises(Refused) as refused:
            await client.jobs(**wrong)
        assert refused.value.status == 422


@pytest.mark.parametrize(
    "job", ["no-such-job", "", ".", "..", "../artifacts", "a/b", "é ?#%", "x" * 500, "%2e%2e", "batch\n"]
)
async def test_what_is_no_job_is_not_found_by_any_method(client: Any, job: Any) -> None:
    for ask in (client.job, client.graph, client.events, client.cancel, client.retry, client.delete):
        with pytest.raises(Refused) as refused:
            await ask(job)
        assert refused.value.status == 404, ask
    with pytest.raises(Refused) as refused:
        await watched(client, job)
    assert (refused.value.status, refused.value.code) == (404, "unknown_job")


async def test_an_artifact_that_is_not_there_is_refused_and_leaves_no_file(client: Any, tmp_path: Path) -> None:
    for ref in ({"bucket": "inputs", "key": "no/such.bin"}, {"bucket": "inputs", "key": "a b?c#d"}):
        with pytest.raises(Refused) as refused:
            await client.download(ref, tmp_path / "it.bin")
        assert (refused.value.status, refused.value.code) == (404, "unknown_artifact")
    (tmp_path / "it.bin").write_bytes(b"")
    with pytest.raises(Refused, match="nowhere"):
        await client.upload(tmp_path / "it.bin", bucket="nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["it.bin"]


@KINDS
async def test_nobody_at_the_address_is_said_at_once(kind: Any, tmp_path: Path) -> None:
    (tmp_path / "it.bin").write_bytes(b"")
    async with made(kind, NOBODY) as client, asyncio.timeout(at_this_load(10)):
        assert await client.ready() is False
        for ask in (
            client.submit(pipeline="simulate"), client.job("a"), client.jobs(), client.cancel("a"), client.retry("a"), client.delete("a"),
            client.workers(), client.upload(tmp_path / "it.bin"), client.download({"bucket": "a", "key": "b"}, tmp_path / "b"),
            watched(client, "a"),
        ):  # fmt: skip
            with pytest.raises(Unreachable, match=NOBODY):
                await ask
    assert [path.name for path in tmp_path.iterdir()] == ["it.bin"]


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://localhost", "", "http://", "http://localhost:port"])
@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_an_address_that_is_none_is_refused_at_once(kind: Any, url: Any) -> None:
    with pytest.raises(ClientError):
        kind(url)


ODD = {
    "a page": (b"200 OK", b"<html>It works!</html>"),
    "an empty page": (b"200 OK", b"null"),
    "a list": (b"200 OK", b"[]"),
    "an error page": (b"502 Bad Gateway", b"<html>no upstream</html>"),
    "a list as error": (b"500 Oh", b'["a"]'),
    "a text as error": (b"404 Not Found", b'"a"'),
    "odd numbers": (b"422 No", b'{"status": "many", "detail": 5, "code": null}'),
    "bad bytes": (b"400 No", b"\xff\xfe"),
}


@asynccontextmanager
async def saying(answer: bytes) -> AsyncIterator[str]:
    """Another server, which says the same to everybody."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@KINDS
@pytest.mark.parametrize("what", ODD)
async def test_another_server_at_the_address_is_a_typed_error(kind: Any, what: Any) -> None:
    status, body = ODD[what]
    head = b"HTTP/1.1 %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
    async with saying(head + body) as url, made(kind, url, timeout_seconds=0.5) as client, asyncio.timeout(SECONDS):
        for ask in (client.jobs(), client.cancel("a")):
            with pytest.raises(ClientError) as error:
                await ask
            if not status.startswith(b"200"):
                assert isinstance(error.value, Refused)
                assert error.value.status == int(status[:3])
                assert isinstance(error.value.problem, dict)
                assert isinstance(error.value.code, str)
        with pytest.raises(Unreachable):
            await watched(client, "a")


@KINDS
async def test_a_redirected_submission_is_no_submission(kind: Any) -> None:
    """A proxy that leads http to https would turn the POST into a GET, and its list of jobs would pass for a job."""
    answer = b"HTTP/1.1 301 Moved\r\nLocation: /api/jobs2\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    async with saying(answer) as url, made(kind, url) as client:
        with pytest.raises(ClientError, match="/api/jobs2"):
            await client.submit(pipeline="simulate")


async def test_a_closed_client_says_so(house: Any) -> None:
    client = await asyncio.to_thread(Client, house.url)
    await asyncio.to_thread(client.close)
    await asyncio.to_thread(client.close)
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.to_thread(client.jobs)
    with pytest.raises(RuntimeError, match="closed"):
        await asyncio.to_thread(lambda: next(client.watch("a")))


async def test_the_blocking_client_works_inside_a_running_event_loop(house: Any) -> None:
    with Client(house.url, timeout_seconds=SECONDS) as client:
        job = client.submit(pipeline="simulate", params={"steps": 3})["jobId"]
        events: list[Any] = list(client.watch(job))
        assert client.job(job)["status"] == "completed"
    assert events[-1]["status"] == "completed"


def test_an_interrupt_ends_a_watch_and_leaves_the_client_usable(house: Any) -> None:
    job = house.post("/api/jobs", FOREVER)["jobId"]
    with Client(house.url, timeout_seconds=SECONDS) as client:
        watch = client.watch(job)
        first = next(watch)
        assert "type" in first
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        try:
            with pytest.raises(KeyboardInterrupt):
                for _ in watch:
                    pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
        assert client.cancel(job)["jobId"] == job


def test_the_blocking_client_has_the_methods_of_the_async_one_with_their_signatures() -> None:
    public = {name for name in dir(AsyncClient) if not name.startswith("_")} - {"aclose", "watch"}
    assert {name for name in dir(Client) if not name.startswith("_")} == public | {"close", "watch"}
    for name in public:
        blocking, method = getattr(Client, name), getattr(AsyncClient, name)
        assert inspect.signature(blocking) == inspect.signature(method), name
        assert not inspect.iscoroutinefunction(blocking)
        assert blocking.__doc__, f"help(Client.{name}) is empty"
        assert inspect.signature(blocking).return_annotation not in (inspect.Signature.empty, Any), name
    with Client(NOBODY) as client:
        assert client.url == NOBODY
        assert not hasattr(client, "no_such_thing")


TYPED = """
from dihedral import ArtifactRef, AsyncClient, Client, TaskCancelled, TaskContext, TaskError, task

def use(client: Client) -> None:
    job = client.submit(pipeline="train_image_lora", files={"pictures": ["a.png", "b.png"]})
    reveal_type(job["status"])
    for event in client.watch(job["jobId"]):
        if event["type"] == "log":
            print(event["message"].upper())
    job["statos"]
    client.submit(pipelin="x")
    client.jobs(colour="red")

async def use_async(client: AsyncClient) -> None:
    reveal_type((await client.graph("a"))["nodes"][0]["plane"])
"""


def test_a_type_checker_knows_the_documents_and_the_arguments(tmp_path: Path) -> None:
    """Those of a script with mistakes; in the Python of the README there are none."""
    (tmp_path / "typed.py").write_text(TYPED)
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    assert blocks
    (tmp_path / "session.py").write_text("".join(blocks))
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "--follow-imports=silent"]
    done = subprocess.run([*command, "typed.py", "session.py"], cwd=tmp_path, capture_output=True, text=True)
    lines = [line for line in done.stdout.splitlines() if ": error:" in line or ": note: Rev" in line]
    said = [line.partition(": ")[2].partition(": ")[2] for line in lines]
    assert said[0].startswith("Revealed type is \"Literal['scheduled'] | "), done.stdout
    assert said[1].startswith('"statos" is not a valid TypedDict key'), done.stdout
    assert said[2].startswith('Unexpected keyword argument "pipelin"'), done.stdout
    assert said[3].startswith('Unexpected keyword argument "colour"'), done.stdout
    assert said[4].startswith("Revealed type is \"Literal['node'] | Literal['python']"), done.stdout
    assert len(said) == 5, done.stdout


# Answers that are lost ------------------------------------------------------------------------------------------------


async def test_a_submission_whose_answer_was_lost_runs_once(house: Any) -> None:
    before = ids(house)

    async def submit(kind: str) -> str:
        async with line(house, iter([0, 30, 150])) as cut, made(kind, cut.url) as client:
            job = await client.submit(**simulate({"id": "a"}))
            assert cut.cuts == 3
            return str(job["jobId"])

    submitted = await asyncio.gather(submit("async"), submit("blocking"))
    assert ids(house) - before == set(submitted)


def ids(house: Stack) -> set[str]:
    return {job["jobId"] for job in house.get("/api/jobs", limit=500)["jobs"]}


async def test_a_submission_is_taken_once_by_a_control_plane_that_dies_over_the_answer(
    house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dihedral.client.RETRIES", 100
    )  # on a busy machine a start takes longer than the attempts of 8 s
    before = ids(house)
    async with line(house, iter([0])) as cut, AsyncClient(cut.url) as client:
        cut.on_cut = lambda: restart(house)
        job = await client.submit(**simulate({"id": "a"}))
        assert cut.cuts == 1
    assert (await asyncio.to_thread(house.ended, job["jobId"]))["status"] == "completed"
    assert ids(house) - before == {job["jobId"]}


def restart(house: Stack) -> None:
    """Kills the control plane and starts the next one, which takes its time."""
    house.kill(house.control)
    house.control = house.start("control_plane", "--port", str(house.port))


@KINDS
async def test_a_question_whose_answer_was_lost_is_asked_again_and_an_order_is_not(house: Any, kind: Any) -> None:
    async with line(house, iter([10, 10])) as cut, made(kind, cut.url) as client:
        assert (await client.workers())["workers"]
        assert cut.cuts == 2
    job = house.post("/api/jobs", simulate({"id": "a", "failAt": 0}))["jobId"]
    house.ended(job)
    async with line(house, iter([0])) as cut, made(kind, cut.url) as client:
        with pytest.raises(Unreachable, match=cut.url):
            await client.retry(job)
    assert house.get(f"/api/jobs/{job}")["attempt"] == 2, (
        "it may have been carried out; asked again, it would be a third"
    )
    house.ended(job)


async def test_an_artifact_whose_download_was_cut_is_whole_or_not_there(house: Any, tmp_path: Path) -> None:
    content = random.Random(3).randbytes(1_000_000)
    (tmp_path / "up.bin").write_bytes(content)
    meta = house.upload(tmp_path / "up.bin")

    async def download(kind: str) -> None:
        target = tmp_path / kind
        target.mkdir()
        (target / "kept.bin").write_bytes(b"what was there before")
        async with line(house, iter([100, 400_000, 900_000])) as cut, made(kind, cut.url) as client:
            assert (await client.download(meta, target)).read_bytes() == content
            assert cut.cuts == 3
        async with line(house, itertools.repeat(400_000)) as cut, made(kind, cut.url, timeout_seconds=0.5) as client:
            with pytest.raises(Unreachable, match=cut.url):
                await client.download(meta, target / "kept.bin")
            assert cut.cuts > 1
        assert (target / "kept.bin").read_bytes() == b"what was there before"
        assert {path.name for path in target.iterdir()} == {"up.bin", "kept.bin"}

    await asyncio.gather(download("async"), download("blocking"))


# Watching -------------------------------------------------------------------------------------------------------------


async def test_a_watch_is_every_event_and_the_progress_and_ends_with_the_job(client: Any, house: Any) -> None:
    job = (await client.submit(**talkative(20)))["jobId"]
    events, progress = await watched(client, job)
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events == house.events(job)
    assert events[-1]["status"] == "completed"
    assert progress[-1] == {"type": "progress", "status": "completed", "progress": 1}
    fractions = [each["progress"] for each in progress]
    assert fractions == sorted(fractions)
    assert await watched(client, job) == (events, progress[-1:]), "the same again of a job that has ended"
    assert await watched(client, job, 10) == (events[10:], progress[-1:])
    assert await watched(client, job, 1_000_000) == ([], progress[-1:])


def cuts(seed: int, number: int = 12) -> Iterator[int]:
    """Within the handshake, within a frame, after some."""
    dice = random.Random(seed)
    return iter([dice.randrange(2000) for _ in range(number)])


async def through_cuts(house: Stack, job: str, kind: str, seed: int) -> tuple[list[dict[str, Any]], int]:
    async with line(house, cuts(seed)) as cut, made(kind, cut.url, timeout_seconds=SECONDS) as client:
        events, progress = await watched(client, job)
        assert progress[-1]["status"] == "completed"
        return events, cut.cuts


async def test_a_watch_over_a_line_that_is_cut_again_and_again_has_every_event_once(house: Any) -> None:
    job = house.post("/api/jobs", talkative(120))["jobId"]
    found = await asyncio.gather(
        *(through_cuts(house, job, *each) for each in (("async", 1), ("async", 2), ("blocking", 3)))
    )
    events = house.events(job)
    assert len(events) > 240
    for seen, number in found:
        assert [event["seq"] for event in seen] == list(range(1, len(events) + 1))
        assert seen == events
        assert number >= 1, "how often depends on how much comes in one piece"


@pytest.mark.parametrize("which", ["control plane", "redis"])
async def test_a_watch_outlives_what_it_watches_through(house: Any, which: Any) -> None:
    """The control plane is killed and started; or Redis is, after which nothing kept is trusted without a look."""
    job = house.post("/api/jobs", talkative(80, step_seconds=0.02))["jobId"]
    async with line(house) as cut, made("async", cut.url) as client, made("blocking", cut.url) as other:
        watching = [asyncio.create_task(watched(each, job)) for each in (client, other)]
        await asyncio.to_thread(reached, house, job, 40)
        before = epoch(house, job)
        await asyncio.to_thread(restart if which == "control plane" else restart_redis, house)
        found = await asyncio.gather(*watching)
        assert (cut.opened > 2) or (epoch(house, job) != before), "nothing was lost"
    events = await asyncio.to_thread(lambda: house.events(house.ended(job)["jobId"]))
    for seen, progress in found:
        assert seen == events
        assert [event["seq"] for event in seen] == list(range(1, len(events) + 1))
        assert progress[-1]["status"] == "completed"


def reached(house: Stack, job: str, seq: int) -> None:
    becomes(lambda: len(house.events(job)) > seq, SECONDS)


def epoch(house: Stack, job: str) -> str:
    return str(house.get(f"/api/jobs/{job}/events")["epoch"])


def restart_redis(house: Stack) -> None:
    assert house.server is not None
    house.server.kill()
    house.server.wait()
    house.server, _ = start_server(house.directory, "--appendonly", "yes")


async def test_a_control_plane_that_does_not_come_back_ends_the_watch(house: Any) -> None:
    job = house.post("/api/jobs", FOREVER)["jobId"]

    async def watch(kind: str) -> None:
        async with (
            line(house, itertools.chain([600], itertools.repeat(0))) as cut,
            made(kind, cut.url, timeout_seconds=0.5) as client,
        ):
            with pytest.raises(Unreachable, match=cut.url):
                await watched(client, job)
            assert cut.cuts > 1

    await asyncio.gather(watch("async"), watch("blocking"))
    house.post(f"/api/jobs/{job}/cancel", status=202)


async def test_a_reader_that_takes_its_time_misses_nothing(house: Any) -> None:
    """While it does something else the connection is cut, for longer than a lost control plane is waited for."""
    job = house.post("/api/jobs", talkative(30))["jobId"]

    def read() -> list[dict[str, Any]]:
        found: list[Any] = []
        with Client(cut.url, timeout_seconds=0.3) as client:
            for event in client.watch(job):
                found.append(event)
                house.ended(job)
        return [event for event in found if "seq" in event]

    async with line(house, iter([500])) as cut:
        seen = await asyncio.to_thread(read)
        assert cut.cuts == 1
    assert seen == house.events(job)


async def test_leaving_a_watch_early_closes_its_connection(house: Any) -> None:
    job = house.post("/api/jobs", FOREVER)["jobId"]
    async with line(house) as cut:
        async with AsyncClient(cut.url) as client:
            async for _ in client.watch(job):
                assert cut.open == 1
                break
            await becomes_async(lambda: cut.open == 0)

            async def fails() -> None:
                async for _ in client.watch(job):
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await fails()
            await becomes_async(lambda: cut.open == 0)

        def leave() -> None:
            with Client(cut.url) as client:
                for _ in client.watch(job):
                    break
                for _ in client.watch(job):
                    assert client.job(job)["jobId"] == job, "questions in between are answered"
                    break
                closed.append(True)
                client.job(job)

        closed: list[bool] = []
        await asyncio.to_thread(leave)
        assert closed
    house.post(f"/api/jobs/{job}/cancel", status=202)


async def test_closing_the_client_ends_its_watches(house: Any) -> None:
    job = house.post("/api/jobs", FOREVER)["jobId"]
    async with line(house) as cut:
        async with AsyncClient(cut.url) as client:
            suspended = client.watch(job)
            await anext(suspended)
            waiting = asyncio.create_task(watched(client, job))
            await becomes_async(lambda: cut.open == 2)
        with pytest.raises(Cut, match=job):
            await waiting
        await becomes_async(lambda: cut.open == 0)
        with pytest.raises(Cut, match=job):
            [event async for event in suspended]

        def leave() -> None:
            with Client(cut.url) as client:
                left = client.watch(job)
                next(left)
            left.close()

        await asyncio.to_thread(leave)
        await becomes_async(lambda: cut.open == 0)
    house.post(f"/api/jobs/{job}/cancel", status=202)


PROGRAM = """
import asyncio, gc, sys
from dihedral import AsyncClient, Client

url, ended, forever = sys.argv[1:]
with Client(url) as client:
    assert client.job(ended)["status"] == "completed"
    assert list(client.watch(ended))
    left = client.watch(forever)
    next(left)
with Client(url) as client:
    for event in client.watch(forever):
        break
    never_begun = client.watch(forever)

async def main():
    async with AsyncClient(url) as client:
        await client.jobs()
        async for event in client.watch(forever):
            break
        left = client.watch(forever)
        await anext(left)

asyncio.run(main())
del left, never_begun
gc.collect()
print("done")
"""


def test_a_client_leaves_nothing_open(house: Any) -> None:
    ended, forever = (house.post("/api/jobs", wish)["jobId"] for wish in (simulate({"id": "a"}), FOREVER))
    house.ended(ended)
    strict = [arg for kind in ("ResourceWarning", "RuntimeWarning") for arg in ("-W", f"error::{kind}")]
    done = subprocess.run(
        [sys.executable, *strict, "-c", PROGRAM, house.url, ended, forever],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", ""), done.stderr
    house.post(f"/api/jobs/{forever}/cancel", status=202)


NAMES = [
    "../climbs.txt",
    "/tmp/from-the-root.txt",
    "..\\\\back\\\\slash.txt",
    "a/../../b.txt",
    "..",
    ".",
    "",
    "same.txt",
    "same.txt",
]


class Hostile(BaseHTTPRequestHandler):
    """A control plane whose job has stored files under names that are paths."""

    def do_GET(self) -> None:
        artifacts = [{"bucket": "out", "key": f"job/{number}", "name": name} for number, name in enumerate(NAMES)]
        body = json.dumps({"jobId": "job", "artifacts": artifacts}).encode() if "/jobs/" in self.path else b"content"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_what_a_job_stored_is_written_into_the_directory_whatever_its_name(tmp_path: Path) -> None:
    to = tmp_path / "deep" / "to"
    with ThreadingHTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with Client(f"http://127.0.0.1:{server.server_port}") as client:
                paths = client.download_all("job", to)
        finally:
            server.shutdown()
    assert [path.name for path in paths] == [
        "climbs.txt", "from-the-root.txt", "slash.txt", "b.txt", "4", "5", "6", "same.txt", "same-2.txt",
    ]  # fmt: skip
    assert {path.resolve().parent for path in paths} == {to.resolve()}
    assert {each for each in tmp_path.rglob("*") if each.is_file()} == set(paths)
