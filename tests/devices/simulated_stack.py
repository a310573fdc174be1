"""`dihedral up --simulate-gpus` as its users have it: asked over HTTP."""

import json
import urllib.error
import urllib.request
from typing import Any

from tests.front_door.running import SECONDS, Up
from tests.support.polling import becomes

GIB = 1024


class Stack:
    def __init__(self, running: Up) -> None:
        self.running = running
        self._jobs = 0

    def ask(self, path: str, body: Any = None, expect: int = 200, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.running.url + path, data, method=method)
        if body is not None:
            request.add_header("content-type", "application/json")
        try:
            answer = urllib.request.urlopen(request, timeout=SECONDS)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            text = answer.read().decode()
        assert answer.status == expect, text
        return json.loads(text)

    def submit(self, **params: Any) -> str:
        self._jobs += 1
        job = f"job-{self._jobs}"
        self.ask("/api/jobs", graph(job, **params), expect=201)
        return job

    def job(self, job: str) -> Any:
        return self.ask(f"/api/jobs/{job}")

    def ended(self, job: str) -> Any:
        return becomes(lambda: (found := self.job(job))["status"] in ("completed", "failed", "cancelled") and found)

    def output(self, job: str) -> Any:
        assert self.ended(job)["status"] == "completed"
        return self.ask(f"/api/jobs/{job}/graph")["nodes"][0]["output"]

    def events(self, job: str, kind: str) -> list[Any]:
        return [each for each in self.ask(f"/api/jobs/{job}/events")["events"] if each["type"] == kind]


def graph(job: str, attempts: int = 1, **params: Any) -> dict[str, Any]:
    node = {
        "id": "a",
        "task": "simulate_gpu",
        "plane": "python",
        "params": params,
        "retries": {"maxAttempts": attempts},
    }
    return {"graph": {"schema": "langgraph.v1", "workflowId": job, "nodes": [node], "edges": []}}
