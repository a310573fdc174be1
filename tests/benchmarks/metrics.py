"""What the metrics cost a submission: two control planes in one process, one of them with everything taken out that measures.

They take turns every BLOCK submissions, because the machine's speed changes more between two processes, or two minutes, than metrics
cost. CPU time of this process (HTTP left out: the application is called), and time within the server's scripts by its own count.
"""

import asyncio
import json
import re
import statistics
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import uvloop
from prometheus_client import Counter, Gauge, Histogram

from dihedral.bridge.fabric import functions
from dihedral.control_plane import app as control
from dihedral.schemas.structs.settings import Settings
from tests.benchmarks.bench import Row, Server, Table, dihedral_env, module, running, wait_for
from tests.benchmarks.fabric import request

JOBS = 8_000
BLOCK = 100
COUNTING = ((Counter, "inc"), (Gauge, "inc"), (Gauge, "dec"), (Gauge, "set"), (Histogram, "observe"))


def run(jobs: int, rounds: int) -> tuple[list[Table], Any]:
    with TemporaryDirectory() as directory, Server() as server:
        with running(
            module("data_plane"), dihedral_env(server.url)
        ) as process:  # it announces the task, then it is gone
            wait_for(lambda: server.redis.hlen("capabilities"), process)
        settings = Settings()
        settings.redis.url = server.url
        settings.artifacts.directory = str(Path(directory) / "artifacts")
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            pairs = runner.run(_compare(settings, server, jobs * rounds // (2 * BLOCK)))
    rows, notes = [], []
    for name, index in (("with metrics", 0), ("without", 1)):
        rows.append({"": name, **{key: statistics.median(pair[index][key] for pair in pairs) for key in pairs[0][0]}})
    for key in pairs[0][0]:
        ratios = sorted(pair[0][key] / pair[1][key] - 1 for pair in pairs)
        quarter = len(ratios) // 4
        notes.append(
            f"{key}: metrics cost {statistics.median(ratios):+.1%} (half of the pairs {ratios[quarter]:+.1%} to {ratios[-quarter - 1]:+.1%})"
        )
    return [Table(f"One submission, {len(pairs)} pairs of {BLOCK}", rows, notes)], pairs


async def _compare(settings: Settings, server: Server, count: int) -> list[tuple[Row, Row]]:
    measured = control.create_app(settings)
    with _taken_out():
        plain = control.create_app(settings)
    async with _alive(measured), _alive(plain):
        pairs: list[tuple[Row, Row]] = []
        for number in range(count + 5):
            found: dict[str, Row] = {}
            for name in ("measured", "plain") if number % 2 else ("plain", "measured"):
                if name == "measured":
                    found[name] = await _block(measured, server)
                else:
                    with _taken_out():
                        found[name] = await _block(plain, server)
            pairs.append((found["measured"], found["plain"]))
    return pairs[5:]


@asynccontextmanager
async def _alive(app: Any) -> AsyncIterator[None]:
    async with app.lifespan():
        yield


async def _block(app: Any, server: Server) -> Row:
    """BLOCK submissions, one after the other: µs a job of this process, and of the server in its scripts."""
    body = request()
    before, began = _script_microseconds(server), time.process_time()
    for _ in range(BLOCK):
        await _post(app, body)
    own = time.process_time() - began
    return {"process µs/job": own / BLOCK * 1e6, "scripts µs/job": (_script_microseconds(server) - before) / BLOCK}


def _script_microseconds(server: Server) -> float:
    found: Any = server.redis.info("commandstats")
    return float(found.get("cmdstat_fcall", {}).get("usec", 0))


async def _post(app: Any, body: bytes) -> None:
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    await app(
        {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/api/jobs",
            "raw_path": b"/api/jobs", "query_string": b"", "root_path": "", "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2),
            "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())], "state": {},
        },
        receive,
        send,
    )  # fmt: skip
    assert status == 201, json.dumps(status)


class _taken_out:
    """Within it nothing is counted: not by the client library, not by the middleware of an application made here, not by the scripts."""

    def __enter__(self) -> None:
        self._kept = [(kind, name, getattr(kind, name)) for kind, name in COUNTING]
        self._measured, self._library = control._measured, functions.library
        for kind, name in COUNTING:
            setattr(kind, name, lambda *_, **__: None)
        control._measured = lambda app: app
        text = functions.body()
        plain = re.sub(r"^.*\bcount\((?!tonumber).*\n", "", text, flags=re.M)
        assert text.count("\n") - plain.count("\n") >= 5, "the scripts count otherwise now"
        library = functions.make(plain)
        functions.library = lambda: library  # type: ignore[assignment]

    def __exit__(self, *_: object) -> None:
        for kind, name, method in self._kept:
            setattr(kind, name, method)
        control._measured = self._measured
        functions.library = self._library
