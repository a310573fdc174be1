"""Webhooks: told at least once, signed, and never into the private network; through crashes of whoever tells and whoever listens."""

import asyncio
import base64
import hashlib
import hmac
import json
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from dihedral.bridge.fabric.connection import connect
from dihedral.control_plane.webhooks import Webhooks
from tests.control_plane.served import made_settings, new_id, node, pointers, serve, submission
from tests.support.planes import gate
from tests.support.polling import becomes
from tests.support.servers import start_server
from tests.support.stack import Stack, simulate

SECRET = "whsec_" + base64.b64encode(b"a secret of 24 bytes or so").decode()


class Listener:
    """An HTTP server that notes what it is told and answers as it is told to: a status, or a path's own (`/500`)."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.answers: list[Any] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.told.append((self.path, dict(self.headers.items()), body))
                status = outer.answers.pop(0) if outer.answers else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def listener() -> Iterator[Any]:
    made = Listener()
    yield made
    made.close()


@asynccontextmanager
async def house(
    directory: Any, monkeypatch: pytest.MonkeyPatch, allow: Any = ("127.0.0.0/8",), **outgoing: Any
) -> AsyncIterator[Any]:
    monkeypatch.setattr(Webhooks.__init__, "__kwdefaults__", {"first_pause_seconds": 0.05, "turn_ms": 3000})
    process, url = start_server(directory)
    made = made_settings(url, directory)
    made.outgoing.allow = list(allow)
    for name, value in outgoing.items():
        setattr(made.outgoing, name, value)
    try:
        async with serve(made) as served:
            await served.planes.start("python", light=64)
            yield served
    finally:
        process.kill()
        process.wait()


def counted(outcome: Any) -> Any:
    return REGISTRY.get_sample_value("dihedral_webhooks_total", {"outcome": outcome}) or 0


def hooked(url: Any, *nodes: Any, **more: Any) -> Any:
    return submission(*nodes, webhook={"url": url, "secret": SECRET}, **more)


def verified(told: Any) -> Any:
    """The event, if its signature is right as Standard Webhooks has it."""
    _, headers, body = told
    headers = {name.lower(): value for name, value in headers.items()}
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = hmac.digest(base64.b64decode(SECRET.removeprefix("whsec_")), signed, hashlib.sha256)
    assert headers["webhook-signature"] == f"v1,{base64.b64encode(wanted).decode()}"
    return headers["webhook-id"], json.loads(body)


async def test_the_end_of_a_job_is_told_once_signed_and_with_its_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    async with house(tmp_path, monkeypatch) as served:
        name = new_id()
        job = (await served.post("/api/jobs", hooked(listener.url, node("a", wait=name))))["jobId"]
        await served.in_status(job, "running")
        assert listener.told == []
        gate(name).set()
        document = await served.ended(job)
        await served.becomes(lambda: listener.told)
        id, event = verified(listener.told[0])
        assert id == f"{job}.1"
        assert (event["type"], event["data"]) == ("job.ended", document)

        async def settled() -> Any:
            return not await served.planes.client.exists("webhooks", "webhooks:tries")

        await served.becomes(settled)
        failed = (await served.post("/api/jobs", hooked(listener.url, node("a", fail=True))))["jobId"]
        await served.becomes(lambda: len(listener.told) > 1)
        assert verified(listener.told[1])[1]["data"]["status"] == "failed"
        await served.post(f"/api/jobs/{failed}/retry", expect=200)
        await served.becomes(lambda: len(listener.told) > 2)
        assert verified(listener.told[-1])[0] in (f"{failed}.1", f"{failed}.2")
        await served.becomes(lambda: any(verified(each)[0] == f"{failed}.2" for each in listener.told))
        assert len({verified(each)[0] for each in listener.told}) == 3


async def test_whoever_retries_a_job_its_end_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    """A dead letter's requeue went past the queue, which noted that somebody was to be told."""
    async with house(tmp_path, monkeypatch) as served:
        job = (await served.post("/api/jobs", hooked(listener.url, node("a", fail=True))))["jobId"]
        await served.becomes(lambda: listener.told)
        assert await served.planes.jobs.retry(job) == "ok"
        await served.becomes(lambda: any(verified(each)[0] == f"{job}.2" for each in listener.told))


async def test_a_secret_is_in_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any) -> None:
    async with house(tmp_path, monkeypatch) as served:
        job = (await served.post("/api/jobs", hooked(listener.url, node("a"))))["jobId"]
        await served.ended(job)
        for path in ("", "/graph", "/events"):
            assert "whsec" not in (await served.http.get(f"/api/jobs/{job}{path}")).text
        assert "whsec" not in (await served.http.get("/api/jobs")).text


async def test_a_listener_that_fails_is_told_again_until_it_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    listener.answers = [500, 302, 404]
    failed, told = counted("failed"), counted("told")
    async with house(tmp_path, monkeypatch) as served:
        job = (await served.post("/api/jobs", hooked(listener.url, node("a"))))["jobId"]
        await served.becomes(lambda: len(listener.told) == 4)
        assert {verified(each)[0] for each in listener.told} == {f"{job}.1"}
        assert {path for path, _, _ in listener.told} == {"/"}, "a redirect is not followed"
        await served.becomes(lambda: counted("told") == told + 1)
        assert counted("failed") == failed + 3


@pytest.mark.parametrize(("answers", "times"), [([410], 1), ([500] * 9, 3)])
async def test_a_listener_that_is_gone_or_never_takes_it_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any, answers: Any, times: Any
) -> None:
    listener.answers = list(answers)
    before = counted("given_up")
    async with house(tmp_path, monkeypatch, webhook_attempts=3) as served:
        await served.post("/api/jobs", hooked(listener.url, node("a")))

        async def given_up() -> Any:
            return listener.told and not await served.planes.client.exists("webhooks")

        await served.becomes(given_up)
        assert len(listener.told) == times
        await served.becomes(lambda: counted("given_up") == before + 1)


async def test_a_listener_that_does_not_answer_is_not_waited_for_and_holds_up_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    silent = socket.create_server(("127.0.0.1", 0))  # takes connections, and answers nothing
    port = silent.getsockname()[1]
    async with house(tmp_path, monkeypatch, webhook_timeout_seconds=0.3, webhook_attempts=2) as served:
        await served.post("/api/jobs", hooked(f"http://127.0.0.1:{port}", node("a")))
        await served.post("/api/jobs", hooked(listener.url, node("a")))
        await served.becomes(lambda: listener.told)

        async def given_up() -> Any:
            return not await served.planes.client.exists("webhooks")

        await served.becomes(given_up)
    silent.close()


async def test_an_address_that_may_not_be_asked_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path, monkeypatch, allow=()) as served:
        hosts = ("a" * 64 + ".example", "xn--a.example")  # neither can be looked up, each in a way of its own
        odd = [(await served.post("/api/jobs", hooked(f"https://{host}/", node("a"))))["jobId"] for host in hosts]

        async def tried() -> Any:
            return await served.planes.client.hlen("webhooks:tries") == len(odd)

        await served.becomes(tried)
        for url in ("http://127.0.0.1:6379/", "https://169.254.169.254/latest", "http://hooks.example/"):
            document = await served.post("/api/jobs", hooked(url, node("a")), expect=422)
            assert pointers(document) == {"/webhook/url": "forbidden_url"}
            found = await served.post("/api/jobs/batch", {"jobs": [hooked(url, node("a"))]}, expect=200)
            assert pointers(found["jobs"][0]) == {"/webhook/url": "forbidden_url"}


async def test_a_name_that_leads_into_the_private_network_is_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The name looks harmless when the job is submitted; what counts is the address that is connected to."""
    port = listener.server.server_address[1]
    async with house(tmp_path, monkeypatch, allow=(), webhook_attempts=2) as served:
        await served.post("/api/jobs", hooked(f"https://localhost:{port}/", node("a")))
        await served.becomes(
            lambda: "a webhook is given up: it leads to an address that may not be asked" in caplog.text
        )


def test_what_a_killed_control_plane_had_to_tell_the_next_one_tells(tmp_path: Path, listener: Any) -> None:
    """Killed between the end of the job and the telling: the job ends while no control plane runs at all."""
    house = Stack(tmp_path, DIHEDRAL_OUTGOING__ALLOW="127.0.0.0/8", DIHEDRAL_JOBS__LEASE_MS="5000")
    try:
        house.worker()
        job = {
            **simulate({"id": "a", "steps": 10, "stepSeconds": 0.1}),
            "webhook": {"url": listener.url, "secret": SECRET},
        }
        id = house.post("/api/jobs", job)["jobId"]
        becomes(lambda: house.get(f"/api/jobs/{id}")["status"] == "running")
        house.kill(house.control)
        becomes(lambda: _ended(house.redis_url, id))
        assert listener.told == []
        house.control = house.start("control_plane", "--port", str(house.port))
        becomes(lambda: listener.told)
        assert verified(listener.told[0])[0] == f"{id}.1"
    finally:
        house.close()


def test_what_a_control_plane_was_about_to_tell_when_it_was_killed_is_told(tmp_path: Path, listener: Any) -> None:
    """Killed while the listener has the message and has not answered: taken, never settled, due again when its turn is over."""
    held = threading.Event()
    house = Stack(tmp_path, DIHEDRAL_OUTGOING__ALLOW="127.0.0.0/8", DIHEDRAL_JOBS__LEASE_MS="5000")
    handler = listener.server.RequestHandlerClass
    answer = handler.do_POST

    def hold(self: Any) -> None:
        answer(self) if held.is_set() else held.wait(60)

    handler.do_POST = hold
    try:
        house.worker()
        job = {**simulate({"id": "a", "steps": 0}), "webhook": {"url": listener.url, "secret": SECRET}}
        id = house.post("/api/jobs", job)["jobId"]
        becomes(lambda: _taken(house.redis_url))
        house.control.send_signal(signal.SIGKILL)
        house.control.wait()
        assert listener.told == []
        held.set()
        _turn_is_over(house.redis_url)
        house.control = house.start("control_plane", "--port", str(house.port))
        becomes(lambda: listener.told)
        assert verified(listener.told[0])[0] == f"{id}.1"
    finally:
        held.set()
        house.close()


def _ask(url: Any, work: Any) -> Any:
    async def go() -> Any:
        client = connect(url)
        try:
            return await work(client)
        finally:
            await client.aclose()

    return asyncio.run(go())


def _ended(url: Any, job: Any) -> Any:
    state = _ask(url, lambda client: client.hget(f"job:{job}", "state"))
    return state.startswith(b"completed")


def _taken(url: Any) -> Any:
    return _ask(url, lambda client: client.hlen("webhooks:tries"))


def _turn_is_over(url: Any) -> None:
    async def work(client: Any) -> None:
        for job in await client.zrange("webhooks", 0, -1):
            await client.zadd("webhooks", {job: 1})

    _ask(url, work)


async def test_a_webhooks_secret_is_in_no_key_that_a_worker_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listener: Any
) -> None:
    async with house(tmp_path, monkeypatch) as served:
        client = served.planes.client
        job = (await served.post("/api/jobs", hooked(listener.url, node("a", wait=(name := new_id())))))["jobId"]
        assert await client.exists(f"webhooks:job:{job}")
        stored = b" ".join(name + value for name, value in (await client.hgetall(f"job:{job}")).items())
        assert SECRET.encode() not in stored
        assert listener.url.encode() not in stored
        gate(name).set()
        await served.ended(job)
        await served.becomes(lambda: listener.told)

        async def expires() -> Any:
            return 0 < await client.ttl(f"webhooks:job:{job}") <= served.settings.jobs.ttl_seconds

        await served.becomes(expires)
        await served.delete(f"/api/jobs/{job}")
        assert not await client.exists(f"webhooks:job:{job}")
