"""What real jobs leave in their logs and send to their watchers, held against the schemas and the generated structs."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from websockets.sync.client import ClientConnection, connect

from dihedral.schemas.documents import problems_of
from tests.contracts.judges import struct_of
from tests.end_to_end import recorded_tasks
from tests.support.polling import becomes
from tests.support.stack import Stack

ENDED = ("completed", "failed", "cancelled")


class Recording:
    """The jobs of this module by what happened to them, and every text that was published or sent for them."""

    def __init__(self, house: Stack, socket: ClientConnection) -> None:
        self.house = house
        self.socket = socket
        self.jobs: dict[str, str] = {}
        self.messages: list[str] = []

    def run(self, name: str, *nodes: dict[str, Any], edges: list[dict[str, str]] = [], **more: Any) -> str:  # noqa: B006
        graph = {"schema": "langgraph.v1", "workflowId": name, "nodes": list(nodes), "edges": edges}
        job = self.jobs[name] = str(self.house.post("/api/jobs", {"graph": graph, **more})["jobId"])
        self.say(action="subscribe", jobId=job)
        return job

    def say(self, **message: Any) -> None:
        self.socket.send(json.dumps(message))

    def listen(self, until: Any) -> None:
        while not self.messages or not until(json.loads(self.messages[-1])):
            text = self.socket.recv(timeout=60)
            assert isinstance(text, str)
            self.messages.append(text)

    def ends(self, name: str) -> None:
        job = self.jobs[name]
        self.listen(lambda message: message["jobId"] == job and message.get("status") in ENDED)


def node(id: str, task: str, max_attempts: int = 1, **params: Any) -> dict[str, Any]:
    return {"id": id, "task": task, "plane": "python", "params": params, "retries": {"maxAttempts": max_attempts}}


@pytest.fixture(scope="module")
def recorded() -> Iterator[tuple[Recording, list[bytes]]]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        shutil.copy(recorded_tasks.__file__, folder)
        house = Stack(Path(folder), DIHEDRAL_WORKER__TASKS="recorded_tasks")
        try:
            house.worker("--slots", "1")
            with (
                redis.Redis.from_url(house.redis_url) as client,
                client.pubsub(ignore_subscribe_messages=True) as progress,
                connect(f"ws://127.0.0.1:{house.port}/ws", proxy=None, max_size=None, open_timeout=60) as socket,
            ):
                progress.psubscribe("progress:*")
                made = Recording(house, socket)
                record(made)
                client.publish("progress:of-no-job", "the end")
                published = takewhile(lambda text: text != b"the end", (each["data"] for each in progress.listen()))
                yield made, list(published)
        finally:
            house.close()


def record(made: Recording) -> None:
    house = made.house
    made.run("speaks", node("a", "speaks"))
    made.ends("speaks")
    made.run("flaky", node("a", "fails", 2, attempts=1))
    made.ends("flaky")
    edges = [{"from": "a", "to": "b", "kind": "normal"}]
    failed = made.run("failed", node("a", "fails", attempts=9), node("b", "fails", attempts=0), edges=edges)
    made.ends("failed")
    house.post(f"/api/jobs/{failed}/retry", status=200)
    becomes(lambda: house.get(f"/api/jobs/{failed}")["attempt"] == 2)
    house.ended(failed)
    running = made.run(
        "cancelled", node("a", "simulate", steps=1000, stepSeconds=0.05), node("b", "speaks"), edges=edges
    )
    becomes(lambda: house.nodes(running)["a"] == "running")
    house.http.post(f"/api/jobs/{running}/cancel")
    made.ends("cancelled")
    scheduled = made.run("scheduled", node("a", "speaks"), startAt="2999-01-01T00:00:00Z")
    house.http.post(f"/api/jobs/{scheduled}/cancel")
    made.ends("scheduled")
    made.say(action="subscribe", jobId=made.jobs["speaks"], after=1, epoch="of another server")
    made.listen(lambda message: message["type"] == "resync")
    made.say(action="unsubscribe", jobId=made.jobs["speaks"])
    made.listen(lambda message: message.get("message") == "unsubscribed")
    made.say(action="subscribe", jobId="nobody")
    made.listen(lambda message: message.get("reason") == "unknown_job")


def check(text: str | bytes, stem: str, name: str) -> None:
    assert problems_of(json.loads(text), stem, name) == [], text[:2000]
    msgspec.json.decode(text, type=struct_of(stem, name))


def logs(recorded: tuple[Recording, list[bytes]]) -> list[dict[str, Any]]:
    made, _ = recorded
    return [event for job in made.jobs.values() for event in made.house.events(job)]


def test_every_logged_event_is_one_of_the_schema(recorded: Any) -> None:
    made, _ = recorded
    for job in made.jobs.values():
        check(made.house.http.get(f"/api/jobs/{job}/events").content, "events", "EventPage")
        check(made.house.http.get(f"/api/jobs/{job}").content, "job", "Job")
        kept = made.house.events(job)
        assert kept
        for event in kept:
            check(json.dumps(event).encode(), "events", "Event")


def test_the_recorded_jobs_have_emitted_every_kind_of_event(recorded: Any) -> None:
    events = logs(recorded)
    assert {event["type"] for event in events} == {"status", "node", "data", "log"}
    of = {kind: [event for event in events if event["type"] == kind] for kind in ("status", "node", "log")}
    assert {event["status"] for event in of["status"]} == {"scheduled", "queued", "running", "cancelling", *ENDED}
    assert {event["status"] for event in of["node"]} >= {"ready", "running", "skipped", *ENDED}
    assert {event["level"] for event in of["log"]} >= {*recorded_tasks.LEVELS, "stdout"}
    assert any(event["error"] for event in of["node"])
    assert any(event["attempt"] == 2 for event in of["status"])
    made, _ = recorded
    speaks = made.house.get(f"/api/jobs/{made.jobs['speaks']}")
    assert (speaks["status"], len(speaks["artifacts"])) == ("completed", 1), speaks["error"]


def test_every_message_of_a_web_socket_is_one_of_the_schema(recorded: Any) -> None:
    made, _ = recorded
    for text in made.messages:
        check(text, "websocket", "ServerMessage")
    messages = [json.loads(text) for text in made.messages]
    assert {message["type"] for message in messages} == {"response", "update", "resync"}
    assert any(0 < message["progress"] < 1 for message in messages if message["type"] == "update")


def test_every_event_of_a_stream_is_the_one_of_the_log(recorded: Any) -> None:
    made, _ = recorded
    for job in made.jobs.values():
        text = made.house.http.get(f"/api/jobs/{job}/events", headers={"accept": "text/event-stream"}).text
        sent = [line.removeprefix("data: ") for line in text.split("\n") if line.startswith("data: ")]
        events = [each for each in sent if json.loads(each)["type"] != "progress"]
        for each in events:
            check(each, "events", "Event")
        assert [json.loads(each) for each in events] == made.house.events(job)


def test_every_published_progress_is_one_of_the_schema(recorded: Any) -> None:
    _, published = recorded
    assert any(0 < json.loads(text)["nodeProgress"] < 1 for text in published)
    for text in published:
        check(text, "events", "ProgressMessage")
