"""One small submission must not hurt others: while each attack runs, a stranger's requests are answered within a second.

Real processes on a server of their own; what the server and the control plane need of memory is bounded too.
"""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from redis import Redis

from tests.support.polling import at_this_load, becomes, held_up
from tests.support.servers import start_server
from tests.support.stack import Stack, simulate

ANSWER_SECONDS = 1.0
SERVER_MIB = 200
COMPOSE = yaml.safe_load((Path(__file__).parents[2] / "compose.yaml").read_text())
CONTROL_MIB = int(COMPOSE["services"]["control-plane"]["deploy"]["resources"]["limits"]["memory"].removesuffix("m"))
"""What compose gives the control plane; it is killed beyond it."""


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")) / 1024


class Bystander(threading.Thread):
    """Asks as another user would, all the time; keeps the slowest answer and the most memory seen."""

    def __init__(self, stack: Stack, headers: dict[str, str]) -> None:
        super().__init__(daemon=True)
        self.stack, self.headers = stack, headers
        self.slowest: dict[str, float] = {}
        self.most: dict[str, float] = {}
        self.failures: list[str] = []
        self._over = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self.stack.url, timeout=120, headers=self.headers) as http:
            while not self._over.wait(0.05):
                self._ask("list", lambda: http.get("/api/jobs", params={"limit": 1}))
                self._ask("submit", lambda: http.post("/api/jobs", json=simulate({"id": "mine", "steps": 0})))
                for name, process in (("server", self.stack.server), ("control", self.stack.control)):
                    assert process is not None
                    self.most[name] = max(self.most.get(name, 0), resident_mib(process.pid))

    def _ask(self, what: Any, request: Callable[[], httpx.Response]) -> None:
        begun = time.monotonic()
        answer = request()
        self.slowest[what] = max(self.slowest.get(what, 0), time.monotonic() - begun)
        if answer.status_code >= 400:
            self.failures.append(f"{what}: {answer.status_code} {answer.text[:200]}")

    def stop(self) -> None:
        self._over.set()
        self.join()


@contextmanager
def watched(stack: Stack, **headers: str) -> Iterator[Bystander]:
    bystander, times = Bystander(stack, headers), held_up(stack.control.pid)
    bystander.start()
    try:
        yield bystander
    finally:
        bystander.stop()
    print(f"slowest {bystander.slowest}, most MiB {bystander.most}")
    assert not bystander.failures
    most = max(at_this_load(ANSWER_SECONDS), ANSWER_SECONDS * times())
    assert max(bystander.slowest.values()) < most, bystander.slowest
    assert bystander.most["server"] < SERVER_MIB, bystander.most
    assert bystander.most["control"] < CONTROL_MIB, bystander.most


@pytest.fixture(scope="module")
def stack() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        made = Stack(Path(folder), DIHEDRAL_WORKER__REHEARSALS="true", DIHEDRAL_WORKER__CANCEL_GRACE_MS="300")
        made.worker("--slots", "1")
        yield made
        made.close()


def test_a_task_that_emits_hundreds_of_thousands_of_events_holds_up_nobody(stack: Any) -> None:
    """Before, a million (178 bytes of JSON) let the server answer BUSY for minutes and take 12 GB: 12 kB for each."""
    many = 250_000
    with watched(stack):
        job = stack.post("/api/jobs", simulate({"id": "a", "steps": many, "stepSeconds": 0}))["jobId"]
        ended = stack.ended(job, 100)
    assert ended["status"] == "completed", ended
    events = stack.events(job)
    steps = [each["data"]["step"] for each in events if each["type"] == "data"]
    assert steps[:1000] == list(range(1, 1001)), "what the burst allows comes whole"
    assert steps[-1] == many, "and the last value in any case"
    assert any("events were dropped" in each.get("message", "") for each in events), "and what was left out is counted"


def tell(stack: Stack, tool: str, **arguments: Any) -> Any:
    """What an agent's tool returns."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    return stack.post("/mcp", message, status=200)["result"]


@pytest.mark.parametrize("way", ["batch", "mcp"])
def test_many_tasks_that_emit_without_end_hold_up_nobody_however_they_came(stack: Stack, way: str) -> None:
    """Twenty at once, for as long as it takes until each has emitted more than a burst; then they are cancelled."""
    body = simulate({"id": "a", "steps": 1_000_000, "stepSeconds": 0})
    with watched(stack):
        if way == "batch":
            jobs = [each["jobId"] for each in stack.post("/api/jobs/batch", {"jobs": [body] * 20}, status=200)["jobs"]]
        else:
            jobs = [tell(stack, "submit_job", **body)["structuredContent"]["jobId"] for _ in range(20)]
        becomes(lambda: len(stack.events(jobs[0])) > 1000, 60)
        for job in jobs:
            stack.http.post(f"/api/jobs/{job}/cancel")
        for job in jobs:
            assert stack.ended(job, 60)["status"] in ("cancelled", "completed")


def doubling(times: int) -> dict[str, Any]:
    """Each node returns what the one before it returned, twice."""
    nodes: list[dict[str, Any]] = [{"id": "n0", "output": "x" * 1000}]
    nodes += [
        {"id": f"n{number}", "output": [{"$from": f"n{number - 1}"}, {"$from": f"n{number - 1}"}]}
        for number in range(1, times)
    ]
    return simulate(*nodes, edges=[(f"n{number - 1}", f"n{number}") for number in range(1, times)])


def wide(nodes: int, size: int) -> dict[str, Any]:
    """Many nodes that all return what the first one returned."""
    rows: list[dict[str, Any]] = [{"id": "n0", "output": "x" * size}]
    rows += [{"id": f"n{number}", "output": {"$from": "n0"}} for number in range(1, nodes)]
    return simulate(*rows, edges=[("n0", f"n{number}") for number in range(1, nodes)])


def test_outputs_that_double_end_at_a_limit_and_hold_up_nobody(stack: Any) -> None:
    """38 kB became 159 MiB in the server, and a stranger's list of one job 1.5 GB in the control plane."""
    with watched(stack) as bystander:
        jobs = [stack.post("/api/jobs", doubling(40))["jobId"], stack.post("/api/jobs", wide(200, 500_000))["jobId"]]
        for job in jobs:
            assert stack.ended(job, 100)["status"] == "failed"
        for job in jobs:
            assert len(stack.http.get(f"/api/jobs/{job}/graph").content) < 40_000_000
    assert bystander.most["control"] < 400, bystander.most
    codes = [
        {node["error"]["code"] for node in stack.get(f"/api/jobs/{job}/graph")["nodes"] if node["status"] == "failed"}
        for job in jobs
    ]
    assert codes == [{"output_too_large"}, {"job_output_too_large"}]
    statuses = list(stack.nodes(jobs[1]).values())
    assert statuses.count("completed") == 33, "16 MiB of half a megabyte each"
    assert statuses.count("failed") == 167


KEYS = {name: f"dhk_{number:016x}_" + name[0].upper() * 43 for number, name in enumerate(("alice", "bob"))}


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Stack]:
    """Asked with alice's key."""
    rows = "\n".join(f"{name} submit,read,cancel {key}" for name, key in KEYS.items())
    made = Stack(tmp_path, DIHEDRAL_CONTROL__KEYS=rows)
    try:
        made.http.headers["Authorization"] = f"Bearer {KEYS['alice']}"
        made.worker("--slots", "1")
        yield made
    finally:
        made.close()


def test_large_outputs_asked_for_by_many_agents_at_once_hold_up_nobody(locked: Stack) -> None:
    """16 MiB of outputs were joined, decoded and encoded twice for each of them, without a limit of how many at once: the control plane took 467 MiB
    and the server 258, where it takes 101 and 41 now."""
    stack, bob = locked, f"Bearer {KEYS['bob']}"
    job = stack.post("/api/jobs", wide(40, 500_000))["jobId"]
    assert stack.ended(job, 100)["status"] == "failed"
    calls = [
        {"method": "tools/call", "params": {"name": "get_job", "arguments": {"jobId": job, "outputs": True}}},
        {"method": "resources/read", "params": {"uri": f"dihedral://jobs/{job}/events"}},
    ]

    async def ask() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=stack.url, timeout=90, headers=stack.http.headers) as http:
            asked = [
                http.post("/mcp", json={"jsonrpc": "2.0", "id": number, **calls[number % 2]}) for number in range(60)
            ]
            return await asyncio.gather(*asked)

    with watched(stack, Authorization=bob):
        answers = asyncio.run(ask())
    assert {answer.status_code for answer in answers} <= {200, 429}, "at most so many sockets per key"
    answers = [answer for answer in answers if answer.status_code == 200]
    assert len(answers) >= 30
    by_id = {answer.json()["id"]: answer.json()["result"] for answer in answers}
    refused = next(result for number, result in by_id.items() if number % 2 == 0)
    assert refused["isError"]
    assert refused["structuredContent"]["code"] == "outputs_too_large"
    assert f"/api/jobs/{job}/graph" in refused["structuredContent"]["detail"], "and where they are"
    told = next(result for number, result in by_id.items() if number % 2)
    assert json.loads(told["contents"][0]["text"])["jobId"] == job


def test_thousands_of_idle_dripping_and_half_connections_hold_up_nobody(stack: Stack) -> None:
    """Without a key: silence, heads that never end, bodies that stop in the middle."""
    half = b"POST /api/jobs HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 4000000\r\n\r\n"
    head = b"GET /api/jobs HTTP/1.1\r\nhost: x\r\nx-a: "
    with watched(stack), contextlib.ExitStack() as open_ones:

        def one(text: bytes) -> socket.socket:
            made = open_ones.enter_context(socket.create_connection(("127.0.0.1", stack.port), timeout=30))
            with contextlib.suppress(OSError):  # it may be refused by then
                made.sendall(text)
            return made

        for _ in range(3000):
            one(b"")
        dripping = [one(head) for _ in range(300)]
        bodies = [one(half + b'{"a":"' + b"x" * 100_000) for _ in range(300)]
        for _ in range(20):
            for each in (*dripping, *bodies):
                with contextlib.suppress(OSError):
                    each.sendall(b"x" * 64)
        assert stack.http.get("/health/ready").status_code == 200


def test_rehearsals_of_a_crash_a_hang_and_memory_take_nobody_along(stack: Stack) -> None:
    """Three times `crashAt: 0` from any key killed the shared worker three times, and other people's jobs failed `worker_lost`."""
    worker = stack.workers[0].pid
    with watched(stack):
        long = stack.post("/api/jobs", simulate({"id": "theirs", "steps": 1000, "stepSeconds": 0.05}))["jobId"]
        becomes(lambda: stack.nodes(long)["theirs"] == "running")
        for _ in range(3):
            job = stack.ended(stack.post("/api/jobs", simulate({"id": "a", "crashAt": 0}))["jobId"])
            assert job["error"]["code"] == "slot_crashed"
        held = stack.ended(stack.post("/api/jobs", simulate({"id": "a", "memoryMiB": 64}))["jobId"])
        assert held["status"] == "completed"
        hangs = stack.post("/api/jobs", simulate({"id": "a", "hangAt": 0}))["jobId"]
        becomes(lambda: stack.nodes(hangs)["a"] == "running")
        stack.post(f"/api/jobs/{hangs}/cancel", status=202)
        assert stack.ended(hangs)["status"] == "cancelled"
        assert stack.nodes(long)["theirs"] == "running", "never disturbed"
        stack.post(f"/api/jobs/{long}/cancel", status=202)
    begun = [each for each in stack.events(long) if each["type"] == "node" and each["status"] == "running"]
    assert len(begun) == 1
    assert worker in {each["pid"] for each in stack.get("/api/workers")["workers"]}, "the same process"


def test_where_rehearsals_are_not_allowed_they_are_refused_by_name(tmp_path: Path) -> None:
    """On a server with a limit of memory that evicts nothing, which is no reason to refuse it."""
    server, url = start_server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", "noeviction")
    stack = Stack(tmp_path, url)
    stack.server = server
    try:
        stack.worker("--slots", "1")
        for params in ({"crashAt": 0}, {"hangAt": 0}, {"memoryMiB": 1}):
            job = stack.ended(stack.post("/api/jobs", simulate({"id": "a", **params}))["jobId"])
            assert job["error"]["code"] == "rehearsals_off"
        assert (
            stack.ended(stack.post("/api/jobs", simulate({"id": "a", "failAt": 0}))["jobId"])["error"]["code"]
            == "simulated_failure"
        )
    finally:
        stack.close()


SPINS = '''
import asyncio

from msgspec import Struct

from dihedral.bridge.tasks.registry import TaskContext, task


class Nothing(Struct):
    pass


@task(id="spins", timeout_seconds=3600)
async def spins(params: Nothing, ctx: TaskContext) -> None:
    """Computes on the event loop, for ever."""
    while True:
        pass
'''


def _runs(stack: Stack, job: str) -> bool:
    return stack.nodes(job)["a"] == "running"


def test_a_task_that_blocks_the_event_loop_is_named_and_ended_and_the_others_go_on(tmp_path: Path) -> None:
    """Before, its worker was frozen for good: no time-out, no cancel, SIGTERM ignored, and the next start began it again."""
    (tmp_path / "spins.py").write_text(SPINS)
    stack = Stack(tmp_path, DIHEDRAL_WORKER__CANCEL_GRACE_MS="300")
    try:
        worker = stack.worker("--slots", "1", "--tasks", "spins")
        other = stack.post("/api/jobs", simulate({"id": "other", "steps": 200, "stepSeconds": 0.05}))["jobId"]
        for number, how in enumerate(("timeout", "cancel")):
            becomes(lambda: stack.nodes(other)["other"] == "running")
            node = {"id": "a", "task": "spins", "plane": "python", "timeoutSeconds": 1 if how == "timeout" else 3000}
            job = stack.post("/api/jobs", {"graph": {"schema": "langgraph.v1", "nodes": [node], "edges": []}})["jobId"]
            if how == "cancel":  # the other may be over between two looks
                becomes(partial(_runs, stack, job))
                stack.post(f"/api/jobs/{job}/cancel", status=202)
            assert worker.wait() == 70
            log = (tmp_path / f"data_plane-{number}.log").read_text()
            assert "task spins of node a blocks the event loop" in log
            ended = stack.ended(job)
            assert ended["status"] == ("failed" if how == "timeout" else "cancelled")
            (row,) = stack.get(f"/api/jobs/{job}/graph")["nodes"]
            assert row["error"]["code"] == "event_loop_blocked"
            assert "while True" in row["error"]["details"]["stack"]
            worker = stack.worker("--slots", "1", "--tasks", "spins")
        assert stack.ended(other)["status"] == "completed"
        left: Any = Redis.from_url(stack.redis_url).hget(f"job:{other}", "n:other")
        record = left.decode()
        assert record.split(" ")[3] == "0", "given back, and not counted as a loss"
    finally:
        stack.close()


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_server_that_evicts_is_refused_at_start(tmp_path: Path, policy: str) -> None:
    process, url = start_server(tmp_path, "--maxmemory", "100mb", "--maxmemory-policy", policy)
    try:
        command = [sys.executable, "-P", "-m", "dihedral.data_plane", "--redis-url", url]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
        assert done.returncode != 0
        assert f"maxmemory-policy {policy}" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        process.kill()
        process.wait()


def test_sentinel_is_refused_by_name(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "dihedral.data_plane",
        "--redis-url",
        "redis+sentinel://127.0.0.1:26379/main",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, cwd=tmp_path)
    assert done.returncode != 0
    assert "Sentinel" in done.stderr
    assert "Traceback" not in done.stderr
