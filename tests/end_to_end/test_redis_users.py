"""Each plane with its own Redis user from deploy/redis/users.acl: it does all its work, and can do nothing else."""

import asyncio
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
import redis

from dihedral.bridge.fabric.connection import connect
from dihedral.bridge.fabric.dead_letters import DeadLetters
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.bridge.tasks.registry import collect
from dihedral.control_plane.scheduler import Scheduler
from dihedral.data_plane.gpu_memory.usage_history import MemoryUsageHistory
from dihedral.schemas.structs.settings import Settings
from dihedral.server import find_server
from tests.support.polling import becomes
from tests.support.ports import free_port
from tests.support.servers import skip
from tests.support.stack import Stack, simulate

USERS = Path(__file__).parents[2] / "deploy/redis/users.acl"
PASSWORDS = {name: f"password of {name}" for name in ("operator", "control", "worker", "metrics")}


def server_with_users(directory: Path, binary: str) -> subprocess.Popen[bytes]:
    text = USERS.read_text()
    for name, password in PASSWORDS.items():
        text, count = re.subn(f"#{name.upper()}_SHA256", "#" + hashlib.sha256(password.encode()).hexdigest(), text)
        assert count == 1, name
    (directory / "users.acl").write_text(text)
    command = [
        binary,
        "--port",
        "0",
        "--unixsocket",
        str(directory / "redis.sock"),
        "--dir",
        str(directory),
        "--save",
        "",
    ]
    with (directory / "redis.log").open("w") as log:
        process = subprocess.Popen([*command, "--aclfile", str(directory / "users.acl")], stdout=log, stderr=log)
    becomes(lambda: _answers(directory) or process.poll() is not None)
    assert process.poll() is None, (directory / "redis.log").read_text()
    return process


def _answers(directory: Path) -> bool:
    with contextlib.suppress(redis.ConnectionError):
        return bool(redis.Redis.from_url(url(directory, "operator")).ping())
    return False


def url(directory: Path, user: str) -> str:
    return f"unix://{user}@{directory}/redis.sock?db=0&password={PASSWORDS[user]}"


class WithUsers(Stack):
    """A house whose control plane is `control` and whose workers are `worker`."""

    def __init__(self, directory: Path, binary: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server = server_with_users(directory, binary)
        self.environ = {
            **os.environ,
            "DIHEDRAL_ARTIFACTS__DIRECTORY": str(directory / "artifacts"),
            "DIHEDRAL_JOBS__LEASE_MS": "3000",  # a look slower than a third of it starts anew, and the machine may be busy
            "DIHEDRAL_JOBS__DRAIN_SECONDS": "1",
        }
        self.workers = []
        self.control = self.start("control_plane", "--port", str(self.port))
        self.http = httpx.Client(base_url=self.url, timeout=120)
        becomes(self._ready)

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        self.redis_url = url(self.directory, "control" if module == "control_plane" else "worker")
        return super().start(module, *arguments)


@pytest.fixture(params=["valkey", "redis-server"])
def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    binary = str(find_server()) if request.param == "valkey" else shutil.which("redis-server")
    if binary is None:
        skip("redis", "there is no redis-server on this machine")
    made = WithUsers(tmp_path_factory.mktemp("acl"), binary)
    yield made
    made.close()


def test_each_plane_does_all_its_work_with_its_own_user(house: Any) -> None:
    """The server notes whatever it denies: at the end of everything that the planes do, it has noted nothing."""
    first = house.worker()
    (house.directory / "a.txt").write_text("a")
    house.upload(house.directory / "a.txt")
    both = simulate({"id": "a", "steps": 3, "stepSeconds": 0.01}, {"id": "b", "steps": 1})
    both["graph"]["nodes"].append({"id": "c", "task": "merge_capabilities", "plane": "node"})
    both["graph"]["edges"] = [{"from": "a", "to": "c"}, {"from": "b", "to": "c"}]
    job = house.post(
        "/api/jobs", {**both, "webhook": {"url": "https://localhost:1/", "secret": "whsec_" + "aaaa" * 8}}
    )["jobId"]
    assert house.ended(job)["status"] == "completed"
    with house.http.stream("GET", f"/api/jobs/{job}/events", headers={"accept": "text/event-stream"}) as answer:
        assert "event: status" in answer.read().decode()
    failing = house.post("/api/jobs", simulate({"id": "a", "steps": 2, "failAt": 1}))["jobId"]
    assert house.ended(failing)["status"] == "failed"
    house.post(f"/api/jobs/{failing}/retry", status=200)
    assert house.ended(failing)["status"] == "failed"
    house.http.delete(f"/api/jobs/{failing}").raise_for_status()
    late = house.post("/api/jobs", {**simulate({"id": "a", "steps": 0}), "startAt": "2099-01-01T00:00:00Z"})["jobId"]
    house.post(f"/api/jobs/{late}/cancel", status=202)
    soon = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2))
    delayed = house.post("/api/jobs", {**simulate({"id": "a", "steps": 0}), "startAt": soon})["jobId"]
    batch = house.http.post("/api/jobs/batch", json={"jobs": [simulate({"id": "a", "steps": 0})] * 3}).json()["jobs"]
    assert all(house.ended(each["jobId"])["status"] == "completed" for each in batch)
    keyed = {"idempotency-key": "one"}
    assert [
        house.http.post("/api/jobs", json=simulate({"id": "a", "steps": 0}), headers=keyed).status_code for _ in "12"
    ] == [201, 200]
    slow = house.post("/api/jobs", simulate({"id": "a", "steps": 100_000, "stepSeconds": 0.05}))["jobId"]
    becomes(lambda: len(_runs(house, slow)) == 1)
    house.kill(first)
    house.worker()  # takes over what the killed one held
    becomes(lambda: len(_runs(house, slow)) == 2, 60)
    house.post(f"/api/jobs/{slow}/cancel", status=202)
    assert house.ended(slow)["status"] == "cancelled"
    assert house.ended(delayed)["status"] == "completed"
    for path in ("workers", "queues", "dead-letters", "capabilities", "jobs"):
        house.get(f"/api/{path}")
    asyncio.run(_rest_of_the_control_plane(house))
    asyncio.run(_peaks(house))
    _keys(house)
    assert denied(house) == []
    assert granted() - used(house) <= SELDOM, "what no plane uses, none needs"


def _runs(house: Any, job: str) -> list[Any]:
    """One for each worker in which its node began."""
    return [each for each in house.events(job) if each["type"] == "node" and each["status"] == "running"]


SELDOM = {"hello", "auth", "select", "lpop", "ltrim", "xlen", "xread"}
"""For connections (some servers do not count it), for a log of more than 10,000 events, for a stream whose lag the server has lost, for a worker
without a free slot."""


def granted() -> set[str]:
    lines = [line for line in USERS.read_text().splitlines() if line.startswith(("user control", "user worker"))]
    return {word[1:] for line in lines for word in line.split() if word.startswith("+")}


def used(house: Any) -> set[str]:
    stats = redis.Redis.from_url(url(house.directory, "operator")).info("commandstats")
    return {name.removeprefix("cmdstat_") for name in stats}


async def _rest_of_the_control_plane(house: Any) -> None:
    """What comes once a minute, or after a fault that is hard to bring about."""
    settings = msgspec.convert({"redis": {"url": url(house.directory, "control")}}, Settings)
    scheduler = Scheduler(settings, sweep_seconds=0.0)
    await scheduler.sweep()
    await scheduler.move_due()
    await scheduler._client.aclose()
    client = connect(settings.redis.url)
    jobs = Jobs(client, settings)
    operator = connect(url(house.directory, "operator"))
    await operator.xadd("stream:dead", {"job": "x", "node": "a", "reason": "worker_lost", "created": "0"})
    (letter,) = await DeadLetters(jobs).page()
    assert await DeadLetters(jobs).requeue(letter) == "unknown"
    assert await DeadLetters(jobs).drop(letter.id) == "ok"
    await operator.aclose()
    await client.aclose()


async def _peaks(house: Any) -> None:
    """What a worker with a GPU learns, when there is no room for more."""
    client = connect(url(house.directory, "worker"))
    task = collect(["dihedral.data_plane.tasks.simulate_gpu"], plugins=False)["simulate_gpu"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dihedral.data_plane.gpu_memory.usage_history.KINDS", 1)
        peaks = MemoryUsageHistory(client)
        for mib in (1, 1000):
            await peaks.note(task, {"memoryMiB": mib}, 5)
    again = MemoryUsageHistory(client)
    await again.load()
    assert again._seen == {task.size_bucket({"memoryMiB": 1000}): [5]}
    await client.aclose()


def _keys(house: Any) -> None:
    """With a key there are sessions and limits too."""
    environ = {**house.environ, "DIHEDRAL_REDIS__URL": url(house.directory, "control")}
    command = [
        sys.executable,
        "-P",
        "-m",
        "dihedral.cli",
        "keys",
        "create",
        "--owner",
        "a",
        "--jobs-per-minute",
        "9",
        "--max-alive",
        "1",
    ]
    said = subprocess.run(command, env=environ, cwd=house.directory, capture_output=True, text=True, timeout=240)
    assert said.returncode == 0, said.stderr
    headers = {"authorization": f"Bearer {said.stdout.split()[0]}"}
    becomes(lambda: house.http.post("/api/session", headers=headers).cookies.get("dihedral_session"))
    words = set()
    for _ in range(30):
        words.add(house.http.post("/api/jobs", json=simulate({"id": "a", "steps": 0}), headers=headers).status_code)
    assert words == {201, 429}
    house.http.delete("/api/session", headers=headers).raise_for_status()


def denied(house: Any) -> list[tuple[str, str, str]]:
    rows: Any = redis.Redis.from_url(url(house.directory, "operator")).acl_log()
    return [(row["username"], row["reason"], row["object"]) for row in rows]


NOBODY = [
    ("FLUSHALL",), ("FLUSHDB",), ("KEYS", "*"), ("SCAN", "0"), ("CONFIG", "GET", "*"), ("CONFIG", "SET", "dir", "/tmp"), ("SHUTDOWN",),
    ("ACL", "LIST"), ("ACL", "SETUSER", "x"), ("MODULE", "LIST"), ("REPLICAOF", "1.2.3.4", "1"), ("SAVE",), ("BGSAVE",),
    ("MONITOR",), ("CLIENT", "LIST"), ("CLIENT", "KILL", "ID", "1"), ("SCRIPT", "FLUSH"), ("FUNCTION", "LIST"), ("MIGRATE", "h", "1", "k", "0", "1"),
    ("RENAME", "job:x", "job:y"), ("DUMP", "job:x"), ("RESTORE", "job:x", "0", "x"), ("GET", "another:x"), ("SET", "another:x", "1"),
    ("HGETALL", "another"), ("PUBLISH", "another", "x"), ("SUBSCRIBE", "another"), ("PSUBSCRIBE", "*"),
    ("EVAL", "return 1", "0"), ("EVALSHA", "x", "0"), ("SCRIPT", "LOAD", "return 1"), ("FUNCTION", "DELETE", "x"), ("FUNCTION", "FLUSH"),
    ("FUNCTION", "DUMP"), ("FUNCTION", "RESTORE", "x"),
]  # fmt: skip
NO_WORKER = [
    ("HGETALL", "dihedral:keys"), ("HSET", "dihedral:keys", "x", "y"), ("GET", "dihedral:keys:version"), ("GET", "session:x"),
    ("SET", "session:x", "y"), ("GET", "idempotency::x"), ("SET", "rate:x", "0"), ("SADD", "alive:x", "y"), ("ZRANGE", "webhooks", "0", "-1"),
    ("GET", "webhooks:job:x"), ("SET", "webhooks:job:x", "y"), ("ZRANGE", "session:of:x", "0", "-1"),
    ("DEL", "job:x"), ("SUBSCRIBE", "hub"), ("FUNCTION", "LOAD", "REPLACE", "#!lua name=x"),
]  # fmt: skip


NO_METRICS = [
    ("HGETALL", "job:x"), ("XRANGE", "stream:process:data", "-", "+"), ("XADD", "stream:process:data", "*", "a", "b"),
    ("XACK", "stream:process:data", "workers", "1-1"), ("XGROUP", "DESTROY", "stream:process:data", "workers"),
    ("SUBSCRIBE", "cancel"), ("PUBLISH", "cancel", "x"), ("FCALL", "x", "0"),
]  # fmt: skip


def test_keda_asks_as_the_user_for_metrics_what_it_asks(house: Any) -> None:
    """What its scaler `redis-streams` reads for `lagCount` and `pendingEntriesCount`, of the streams in deploy/kubernetes."""
    house.worker()
    house.ended(house.post("/api/jobs", simulate({"id": "a", "steps": 0}))["jobId"])
    with redis.Redis.from_url(url(house.directory, "metrics")) as client:
        assert int(client.info("server")["redis_version"].partition(".")[0]) >= 7
        becomes(lambda: client.xpending("stream:process:data", "workers")["pending"] == 0)  # the ack comes last
        (group,) = client.xinfo_groups("stream:process:data")
        assert (group["name"], group["lag"]) == (b"workers", 0)
        assert client.xlen("stream:process:data") <= 1


def test_a_worker_goes_on_when_the_control_plane_has_loaded_what_was_lost(house: Any) -> None:
    house.worker()
    operator = redis.Redis.from_url(url(house.directory, "operator"))
    for _ in range(3):
        operator.function_flush()
        assert house.ended(house.post("/api/jobs", simulate({"id": "a", "steps": 0}))["jobId"])["status"] == "completed"
    assert set(denied(house)) <= {("worker", "command", "function|load")}
    operator.close()


def test_no_plane_can_do_what_is_not_its_work(house: Any) -> None:
    for user, commands in (
        ("control", NOBODY),
        ("worker", NOBODY + NO_WORKER),
        ("metrics", NOBODY + NO_WORKER + NO_METRICS),
    ):
        for command in commands:
            with redis.Redis.from_url(url(house.directory, user)) as client:
                with pytest.raises(redis.ResponseError) as refusal:
                    client.execute_command(*command)
                assert re.search("permission|NOPERM|can't (access|run)", str(refusal.value)), (
                    user,
                    command,
                    refusal.value,
                )
    anonymous = redis.Redis.from_url(f"unix://{house.directory}/redis.sock?db=0")
    with pytest.raises(redis.AuthenticationError):
        anonymous.ping()
    assert house._ready(), "still there"
