"""A whole house of real processes: Valkey, a control plane, workers; killed and started as a test likes."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from tests.support.polling import becomes
from tests.support.ports import free_port
from tests.support.servers import start_server


class Stack:
    def __init__(self, directory: Path, redis_url: str | None = None, **environment: str) -> None:
        """`redis_url`: a server or cluster that is not the house's own."""
        self.directory = directory
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.server: subprocess.Popen[bytes] | None = None
        if redis_url is None:
            self.server, redis_url = start_server(directory, "--appendonly", "yes")
        self.redis_url = redis_url
        self.environ = {
            **os.environ,
            "DIHEDRAL_ARTIFACTS__DIRECTORY": str(directory / "artifacts"),
            "DIHEDRAL_JOBS__LEASE_MS": "1500",
            "DIHEDRAL_JOBS__DRAIN_SECONDS": "1",
            **environment,
        }
        self.workers: list[subprocess.Popen[bytes]] = []
        self.control = self.start("control_plane", "--port", str(self.port))
        self.http = httpx.Client(base_url=self.url, timeout=120)
        try:
            becomes(self._ready)
        except AssertionError:
            self.close()
            raise

    def _ready(self) -> bool:
        try:
            return self.http.get("/health/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", f"dihedral.{module}", "--redis-url", self.redis_url, *arguments]
        with (self.directory / f"{module}-{len(self.workers)}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=self.environ, stdout=log, stderr=log, start_new_session=True, cwd=self.directory
            )

    def worker(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = self.start("data_plane", *arguments)
        self.workers.append(process)
        becomes(lambda: process.pid in {each["pid"] for each in self.get("/api/workers")["workers"]})
        return process

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """As the kernel does it: the process and what it started, without a word."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def get(self, path: str, **params: Any) -> Any:
        answer = self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, document: Any = None, status: int = 201) -> Any:
        answer = self.http.post(path, json=document)
        assert answer.status_code == status, answer.text
        return answer.json()

    def upload(self, path: Path) -> dict[str, str]:
        with path.open("rb") as file:
            answer = self.http.post("/api/artifacts", files={"file": (path.name, file)})
        assert answer.status_code == 201, answer.text
        meta = answer.json()
        return {"bucket": meta["bucket"], "key": meta["key"]}

    def ended(self, job: str, seconds: float = 60) -> Any:
        def done() -> Any:
            found = self.get(f"/api/jobs/{job}")
            return found if found["status"] in ("completed", "failed", "cancelled") else None

        return becomes(done, seconds)

    def nodes(self, job: str) -> dict[str, str]:
        return {node["id"]: node["status"] for node in self.get(f"/api/jobs/{job}/graph")["nodes"]}

    def events(self, job: str) -> list[dict[str, Any]]:
        return list(self.get(f"/api/jobs/{job}/events")["events"])

    def close(self) -> None:
        self.http.close()
        for process in [*self.workers, self.control]:
            if process.poll() is None:
                self.kill(process)
        if self.server is not None:
            self.server.kill()
            self.server.wait()


def simulate(*nodes: dict[str, Any], edges: list[tuple[str, str]] = [], job: str | None = None) -> dict[str, Any]:  # noqa: B006
    """A submission of simulate nodes: {"id", **params}."""
    graph: dict[str, Any] = {
        "schema": "langgraph.v1",
        "nodes": [
            {
                "id": node["id"],
                "task": "simulate",
                "plane": "python",
                "params": {name: value for name, value in node.items() if name != "id"},
            }
            for node in nodes
        ],
        "edges": [{"from": a, "to": b} for a, b in edges],
    }
    if job is not None:
        graph["workflowId"] = job
    return {"graph": graph}
