"""`python -m dihedral.data_plane` as a process: ready, drained, stopped hard, and refused in one line."""

import asyncio
import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.support.polling import at_this_load
from tests.support.ports import free_port


async def start(tmp_path: Path, *flags: str, **environ: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "dihedral.data_plane", *flags, cwd=tmp_path, stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environ},
    )  # fmt: skip


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


async def until(port: int, status: int) -> dict[str, Any]:
    """Waits until /health/ready answers with this status."""
    async with asyncio.timeout(at_this_load(90)):
        while True:
            try:
                seen, body = await asyncio.to_thread(get, port, "/health/ready")
                if seen == status:
                    found: dict[str, Any] = json.loads(body)
                    return found
            except OSError:
                pass
            await asyncio.sleep(0.02)


async def end(worker: asyncio.subprocess.Process) -> str:
    assert worker.stderr is not None
    if worker.returncode is None:
        worker.kill()
    said = (await worker.stderr.read()).decode()
    await worker.wait()
    return said


async def test_a_worker_becomes_ready_measures_itself_and_drains(tmp_path: Path, redis_url: str, redis: Any) -> None:
    """It ends although a thread of it holds the lock of all imports. `redis`: an empty server; one whose jobs are laid out otherwise is refused."""
    port = free_port()
    flags = ["--redis-url", redis_url, "--port", str(port), "--slots", "1", "--tasks", "tests.support.held_imports"]
    worker = await start(tmp_path, *flags)
    try:
        assert await until(port, 200) == {"status": "ready", "problems": []}
        assert (await asyncio.to_thread(get, port, "/health/live"))[0] == 200
        status, text = await asyncio.to_thread(get, port, "/metrics")
        assert status == 200
        for name in ("worker_active_tasks", "worker_jobs_total", "worker_job_duration_seconds"):
            assert name in text
        assert (await asyncio.to_thread(get, port, "/elsewhere"))[0] == 404
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), at_this_load(20)) == 0
    finally:
        assert "Traceback" not in await end(worker)


async def test_an_unreachable_redis_is_waited_for_and_said(tmp_path: Path) -> None:
    port = free_port()
    worker = await start(tmp_path, "--redis-url", f"unix://{tmp_path}/none.sock", "--port", str(port), "--slots", "1")
    try:
        problems = (await until(port, 503))["problems"]
        assert problems
        worker.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(worker.wait(), at_this_load(20)) == 0
    finally:
        assert "Traceback" not in await end(worker)


async def refused(tmp_path: Path, *flags: str) -> tuple[int | None, str]:
    worker = await start(tmp_path, *flags)
    try:
        await asyncio.wait_for(worker.wait(), at_this_load(20))
    finally:
        said = await end(worker)
    return worker.returncode, said


async def test_a_local_store_with_redis_elsewhere_is_refused_in_one_line(tmp_path: Path) -> None:
    code, said = await refused(tmp_path, "--redis-url", "redis://redis.example:6379/0")
    assert code == 3
    assert len(said.splitlines()) == 1
    assert "artifacts.store" in said


async def test_a_busy_port_is_refused_in_one_line(tmp_path: Path, redis_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, said = await refused(tmp_path, "--redis-url", redis_url, "--port", str(port))
    assert code == 3
    assert len(said.splitlines()) == 1
    assert str(port) in said


@pytest.mark.parametrize("flags", [("--tasks", "no_such_module"), ("--slots", "-1")])
async def test_settings_that_cannot_work_are_refused_in_one_line(
    tmp_path: Path, redis_url: str, flags: tuple[str, str]
) -> None:
    code, said = await refused(tmp_path, "--redis-url", redis_url, *flags)
    assert code in (2, 3)
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(("directory", "said"), [("", [False, True]), ("gpus", [False, False])])
async def test_a_worker_says_when_another_of_its_machine_has_gpus_and_does_not_share_them(
    tmp_path: Path, redis_url: str, redis: Any, directory: str, said: list[bool]
) -> None:
    ports = [free_port(), free_port()]
    started: list[asyncio.subprocess.Process] = []
    try:
        for port in ports:
            flags = ("--redis-url", redis_url, "--port", str(port), "--simulate-gpus", "1x24GiB")
            started.append(await start(tmp_path, *flags, DIHEDRAL_WORKER__SIMULATE_DIRECTORY=directory))
            await until(port, 200)
    finally:
        texts = [await end(worker) for worker in started]
    assert ["has GPUs too" in text for text in texts] == said
