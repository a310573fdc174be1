"""A load that keeps its own ledger: what it asked for and was answered, to hold the dashboards against."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import redis
from websockets.sync.client import connect

from tests.observability.sound import tone
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate

BACKLOG = 7
POOL_TASK = """
from dihedral import TaskContext, task
import msgspec

class Nothing(msgspec.Struct, forbid_unknown_fields=True):
    pass

@task(id="on_a100", label="On an A100", description="For a pool of its own.", timeout_seconds=60, pool="a100")
async def on_a100(params: Nothing, ctx: TaskContext) -> dict[str, str]:
    return {}
"""


class Load:
    def __init__(self, house: Stack) -> None:
        self.house = house
        self.posted: Counter[str] = Counter()  # by HTTP status, of POST /api/jobs
        self.ended: Counter[tuple[str, str]] = Counter()  # by status and pipeline
        self.ran: Counter[str] = Counter()  # nodes by task
        self.messages = 0
        self.stored: Counter[tuple[str, str]] = Counter()  # bytes by operation and bucket

    def post(self, document: Any, status: int = 201) -> str:
        self.posted[str(status)] += 1
        return str(self.house.post("/api/jobs", document, status).get("jobId", ""))

    def run(self, seconds: float) -> None:
        """Small jobs, some of which fail, for `seconds`; one that is cancelled, one that is watched, one that takes a slot and files."""
        voice = tone()
        path = self.house.directory / "voice.wav"
        path.write_bytes(voice)
        recording = self.house.upload(path)
        self.stored["put", "inputs"] += len(voice)
        heavy = self.post({"pipeline": "train_voice", "params": {"recording": recording}})
        self.watch()
        self.cancel()
        self.overfill()
        jobs: list[tuple[str, str]] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            jobs += [(self.post(simulate({"id": "a", "steps": 2, "stepSeconds": 0.02})), "completed") for _ in range(3)]
            jobs.append((self.post(simulate({"id": "a", "failAt": 0})), "failed"))
            self.post({"graph": graph([])}, 422)
            time.sleep(0.2)
        self.overfill()
        for job, status in jobs:
            assert self.house.ended(job)["status"] == status
            self.ended[status, "graph"] += 1
            self.ran["simulate"] += 1
        found = self.house.ended(heavy)
        assert found["status"] == "completed", found
        self.ended["completed", "train_voice"] += 1
        self.ran["train_voice"] += 1
        self.stored["read", "inputs"] += len(voice)
        for artifact in found["artifacts"]:
            self.stored["put", artifact["bucket"]] += artifact["size_bytes"]

    def watch(self) -> None:
        with connect(f"ws://127.0.0.1:{self.house.port}/ws", proxy=None) as socket:
            job = self.post(simulate({"id": "a", "steps": 3, "stepSeconds": 0.05}))
            socket.send(json.dumps({"action": "subscribe", "jobId": job}))
            while True:
                message = json.loads(socket.recv(timeout=120))
                self.messages += 1
                if message["type"] == "update" and message["status"] == "completed":
                    break
        self.ended["completed", "graph"] += 1
        self.ran["simulate"] += 1

    def cancel(self) -> None:
        job = self.post(simulate({"id": "a", "steps": 1000, "stepSeconds": 0.1}))
        becomes(lambda: self.house.get(f"/api/jobs/{job}")["status"] == "running")
        self.house.post(f"/api/jobs/{job}/cancel", status=202)
        assert self.house.ended(job)["status"] == "cancelled"
        self.ended["cancelled", "graph"] += 1
        self.ran["simulate"] += 1

    def overfill(self) -> None:
        """A submission while the server is at its memory limit."""
        with redis.Redis.from_url(self.house.redis_url) as server:
            server.config_set("maxmemory", 1)
            self.post(simulate({"id": "a", "steps": 0}), 503)
            server.config_set("maxmemory", 1 << 30)

    def pile_up(self) -> None:
        """A backlog for a pool whose only worker has gone."""
        Path(self.house.directory / "a100_tasks.py").write_text(POOL_TASK)
        worker = self.house.start("data_plane", "--pool", "a100", "--tasks", "a100_tasks", "--slots", "1")
        becomes(lambda: any(each["pool"] == "a100" for each in self.house.get("/api/workers")["workers"]))
        worker.terminate()
        assert worker.wait() == 0
        for _ in range(BACKLOG):
            self.post({"graph": graph([{"id": "a", "task": "on_a100", "plane": "python"}])})


def graph(nodes: list[dict[str, Any]]) -> dict[str, Any]:
    return {"schema": "langgraph.v1", "nodes": nodes, "edges": []}
