"""Large but allowed requests cost their own bytes and little more, and nobody else waits for them: a control plane in a process of its own."""

import asyncio
import itertools
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from dihedral.bridge.fabric.connection import connect
from dihedral.control_plane import api_keys
from tests.control_plane.served import edge, graph, node
from tests.support.polling import at_this_load, held_up
from tests.support.ports import free_port
from tests.support.servers import start_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

MIB = 1 << 20


@asynccontextmanager
async def apart(directory: Any) -> AsyncIterator[Any]:
    """(client of alice, client of bob, process id)."""
    server, url = start_server(directory)
    port = free_port()
    redis = connect(url)
    tokens = {
        name: (await api_keys.create(redis, name, ["submit", "read"], max_alive=most))[1]
        for name, most in (("alice", 2000), ("bob", 0), ("few", 2), ("fewer", 2))
    }
    environ = {
        **os.environ,
        "DIHEDRAL_REDIS__URL": url,
        "DIHEDRAL_CONTROL__PORT": str(port),
        "DIHEDRAL_WORKER__TASKS": "tests.support.planes",
        "DIHEDRAL_ARTIFACTS__DIRECTORY": str(directory / "artifacts"),
    }
    log = (directory / "log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "dihedral.control_plane"], env=environ, stderr=log)  # noqa: ASYNC220
    clients = {
        name: httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}", timeout=at_this_load(120), headers={"Authorization": f"Bearer {token}"}
        )
        for name, token in tokens.items()
    }
    try:
        async with asyncio.timeout(at_this_load(60)):
            while True:
                try:
                    if (await clients["bob"].get("/health/ready")).status_code == 200:
                        break
                except httpx.HTTPError:
                    await asyncio.sleep(0.1)
        yield clients, process.pid
    finally:
        for client in clients.values():
            await client.aclose()
        process.terminate()
        process.wait()
        await redis.aclose()
        server.kill()
        server.wait()
        log.close()


def mib(pid: Any, name: Any) -> Any:
    return int(re.findall(rf"^{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.M)[0]) / 1024


async def bystander(client: Any, stop: Any) -> Any:
    """The longest time that a request of another key took."""
    worst = 0.0
    while not stop.is_set():
        begun = time.monotonic()
        assert (await client.get("/api/jobs", params={"limit": 1})).status_code == 200
        worst = max(worst, time.monotonic() - begun)
        await asyncio.sleep(0.02)
    return worst


def wide(nodes: Any) -> Any:
    names = [f"n{number}" for number in range(nodes)]
    return graph(
        *(node(name, task="merge_capabilities", plane="node") for name in names),
        edges=[edge(*pair) for pair in itertools.pairwise(names)],
    )


def batch(items: Any, megabytes: Any) -> Any:
    """`items` submissions of together so many MiB: many nodes, as a graph is costly, and padding. None starts, so each counts as alive."""
    one = {"graph": wide(40), "startAt": "2100-01-01T00:00:00Z", "metadata": {"text": ""}}
    one["metadata"]["text"] = "x" * max(0, megabytes * MIB // items - len(json.dumps(one)))
    return json.dumps({"jobs": [one] * items}).encode()


async def test_batches_of_62_mib_cost_little_more_and_hold_up_nobody_and_so_does_a_burst_of_reads(
    tmp_path: Path,
) -> None:
    """Three after each other, of which the first has to fit into what the process took before; then many read what the last one left."""
    headers = {"content-type": "application/json"}
    async with apart(tmp_path) as (clients, pid):
        before = mib(pid, "VmRSS")
        for who, items, accepted in (("few", 1000, 2), ("fewer", 16, 2), ("alice", 1000, 1000)):
            body = batch(items, 61)
            stop, times = asyncio.Event(), held_up(pid)
            watching = asyncio.ensure_future(bystander(clients["bob"], stop))
            answer = await clients[who].post("/api/jobs/batch", content=body, headers=headers)
            stop.set()
            worst = await watching
            assert answer.status_code == 200, answer.text[:300]
            jobs = answer.json()["jobs"]
            assert sum("jobId" in each for each in jobs) == accepted, [each for each in jobs if "jobId" not in each][:1]
            assert mib(pid, "VmHWM") - before < 5 * 61
            assert worst < max(at_this_load(1.0), times())

        stop, times = asyncio.Event(), held_up(pid)
        watching = asyncio.ensure_future(bystander(clients["bob"], stop))
        burst = [clients["alice"].get("/api/jobs", params={"limit": 500}) for _ in range(60)]
        answers = await asyncio.gather(*burst)
        stop.set()
        assert {answer.status_code for answer in answers} == {200}
        assert await watching < max(at_this_load(1.0), times())
