"""What happens at the limits: a full queue, a server out of memory, read-only, failing over, or away."""

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import websockets

from tests.control_plane.served import checked, made_settings, new_id, node, serve, submission
from tests.support.planes import gate
from tests.support.polling import at_this_load
from tests.support.servers import start_server

pytestmark = pytest.mark.asyncio(loop_scope="session")


KEPT = ("--appendonly", "yes")


@contextlib.asynccontextmanager
async def alone(directory: Any, **jobs: Any) -> AsyncIterator[Any]:
    """An application on a server of its own; (it, the server's process)."""
    process, url = start_server(directory, *KEPT)
    made = made_settings(url, directory)
    for name, value in jobs.items():
        setattr(made.jobs, name, value)
    try:
        async with serve(made) as served:
            await served.planes.start("python")
            await served.becomes(lambda: accepted(served, "/api/plans"))
            yield served, process
    finally:
        process.kill()
        process.wait()


async def accepted(served: Any, path: Any = "/api/jobs") -> Any:
    answer = await served.http.post(path, json=submission(node("a")))
    return answer.json() if answer.status_code in (200, 201) else None


async def test_a_full_queue_refuses_and_takes_again_when_there_is_room(tmp_path: Path) -> None:
    async with alone(tmp_path, max_queued=2) as (served, _):
        held = [await served.submit(node("a", wait=(name := new_id())), job=new_id()) for _ in range(2)]
        key, body = new_id("key"), submission(node("a"))
        answer = await served.http.post("/api/jobs", json=body, headers={"idempotency-key": key})
        assert answer.status_code == 429
        assert checked(answer)["code"] == "queue_full"
        assert int(answer.headers["retry-after"]) > 0
        found = await served.post("/api/jobs/batch", {"jobs": [body, body]}, expect=200)
        assert [each["status"] for each in found["jobs"]] == [429, 429]
        await served.post("/api/plans", body, expect=200)
        for job in held:
            assert (await served.job(job))["status"] in ("queued", "running")
        gate(name).set()
        await served.ended(held[1])
        again = await served.post("/api/jobs", body, idempotency_key=key)
        assert (await served.ended(again["jobId"]))["status"] == "completed"


async def test_with_partitions_no_more_jobs_are_alive_than_the_limit(tmp_path: Path) -> None:
    """Each partition has its share, so the queue may be full a little earlier, and never later."""
    process, url = start_server(tmp_path, *KEPT)
    made = made_settings(url, tmp_path)
    made.redis.partitions, made.jobs.max_queued = 4, 8
    try:
        async with serve(made) as served:
            await served.planes.start("python")
            await served.becomes(lambda: accepted(served, "/api/plans"))
            name = new_id()
            answers = [
                (await served.http.post("/api/jobs", json=submission(node("a", wait=name)))).status_code
                for _ in range(80)
            ]
            assert set(answers) == {201, 429}
            assert answers.count(201) == 8
            body = {"jobs": [submission(node("a"))] * 40}
            assert {each["status"] for each in (await served.post("/api/jobs/batch", body, expect=200))["jobs"]} == {
                429
            }
            gate(name).set()
            await served.becomes(lambda: accepted(served))
    finally:
        process.kill()
        process.wait()


async def test_a_repeat_with_its_key_is_answered_also_when_the_queue_is_full(tmp_path: Path) -> None:
    async with alone(tmp_path, max_queued=1) as (served, _):
        body, name = submission(node("a", wait=(gated := new_id()))), new_id("key")
        first = await served.post("/api/jobs", body, idempotency_key=name)
        assert (await served.post("/api/jobs", submission(node("a")), expect=429))["code"] == "queue_full"
        again = await served.http.post("/api/jobs", json=body, headers={"idempotency-key": name})
        assert (again.status_code, again.json()["jobId"]) == (200, first["jobId"])
        assert (await served.post(f"/api/jobs/{first['jobId']}/cancel", expect=202))["jobId"] == first["jobId"]
        await served.in_status(first["jobId"], "cancelled")
        gate(gated).set()
        second = await served.post("/api/jobs", submission(node("a")))
        assert (await served.ended(second["jobId"]))["status"] == "completed"


async def test_a_full_queue_takes_neither_a_retry_nor_a_requeue(tmp_path: Path) -> None:
    """Both make an ended job alive again. Before, thousands of them passed the limit that refused one submission."""
    async with alone(tmp_path, max_queued=2) as (served, _):
        failed = [await served.submit(node("a", fail=True), job=new_id()) for _ in range(2)]
        for job in failed:
            await served.ended(job)
        cancelled = [await served.submit(node("a", wait=new_id()), job=new_id()) for _ in range(2)]
        for job in cancelled:
            await served.post(f"/api/jobs/{job}/cancel", expect=202)
            await served.ended(job)
        for worker in list(served.planes.running):
            await served.planes.stop(worker)
        worker = await served.planes.start("python")
        lost = await served.submit(node("a", task="once", wait=(gated := new_id())), job=new_id())
        await served.in_status(lost, "running")
        await served.planes.kill(worker)
        await served.planes.start("python")
        await served.ended(lost)
        (letter,) = (await served.get("/api/dead-letters"))["deadLetters"]
        held = [await served.submit(node("a", wait=(name := new_id())), job=new_id()) for _ in range(2)]
        for path in (f"/api/jobs/{failed[0]}/retry", f"/api/dead-letters/{letter['id']}/requeue"):
            answer = await served.http.post(path)
            assert (answer.status_code, checked(answer)["code"]) == (429, "queue_full"), path
            assert int(answer.headers["retry-after"]) > 0
        assert (await served.job(failed[0]))["status"] == "failed"
        assert [each["id"] for each in (await served.get("/api/dead-letters"))["deadLetters"]] == [letter["id"]]
        await served.post(f"/api/jobs/{held[0]}/cancel", expect=202)
        await served.in_status(held[0], "cancelled")
        both = await asyncio.gather(*(served.http.post(f"/api/jobs/{job}/retry") for job in cancelled))
        assert sorted(each.status_code for each in both) == [200, 429], "one place, whoever asks at once"
        gate(name).set()
        gate(gated).set()


STATES = {
    "memory": ({"maxmemory-policy": "noeviction", "maxmemory": "1"}, {"maxmemory": "0"}, "out_of_memory"),
    "replicas": ({"min-replicas-to-write": "1"}, {"min-replicas-to-write": "0"}, "redis_unavailable"),
}


@pytest.mark.parametrize("state", STATES)
async def test_a_server_that_takes_no_writes_refuses_jobs_and_ends_no_process(tmp_path: Path, state: Any) -> None:
    """At the memory limit all else goes on: what runs, who watches, a worker that starts."""
    bad, good, code = STATES[state]
    async with alone(tmp_path) as (served, _):
        job = await served.submit(
            node("first", wait=(name := new_id())), node("second"), edges=[{"from": "first", "to": "second"}]
        )
        await served.in_status(job, "running")
        client = served.planes.client
        for option, value in bad.items():
            await client.config_set(option, value)
        key, body = new_id("key"), submission(node("a"))
        for headers in ({}, {"idempotency-key": key}):
            answer = await served.http.post("/api/jobs", json=body, headers=headers)
            assert answer.status_code == 503, answer.text
            assert checked(answer)["code"] == code
            assert int(answer.headers["retry-after"]) > 0
        starting = asyncio.create_task(served.planes.start("python"))
        if state == "memory":
            found = await served.post("/api/jobs/batch", {"jobs": [body, {}]}, expect=200)
            assert [each["code"] for each in found["jobs"]] == ["out_of_memory", "invalid_request"]
            async with websockets.connect(f"ws://127.0.0.1:{served.port}/ws", open_timeout=at_this_load(30)) as socket:
                await socket.send(json.dumps({"action": "subscribe", "jobId": job}))
                gate(name).set()
                async with asyncio.timeout(at_this_load(30)):
                    while json.loads(await socket.recv()).get("status") != "completed":
                        continue
            assert (await served.ended(job))["status"] == "completed", "what runs goes on"
            worker = await starting
            alive = {each["workerId"] for each in (await served.get("/api/workers"))["workers"]}
            assert {each.worker_id for each in served.planes.running} <= alive
        await served.get("/api/jobs")
        assert starting.done() == (state == "memory")
        for option, value in good.items():
            await client.config_set(option, value)
        worker = await starting
        gate(name).set()
        assert (await served.ended(job))["status"] == "completed"
        again = await served.post("/api/jobs", body, idempotency_key=key)
        assert (await served.ended(again["jobId"]))["status"] == "completed"
        assert not any(task.done() for task in served.planes.running.values())
        assert worker.ready


async def test_without_redis_every_request_is_503_at_once_until_it_is_back(tmp_path: Path) -> None:
    async with alone(tmp_path) as (served, process):
        process.kill()
        process.wait()
        begun = time.monotonic()
        for method, path in [
            ("GET", "/api/jobs"), ("GET", "/api/jobs/x"), ("GET", "/api/jobs/x/events"), ("POST", "/api/jobs/x/cancel"), ("GET", "/api/workers"),
            ("GET", "/api/queues"), ("GET", "/api/dead-letters"), ("DELETE", "/api/jobs/x"),
        ]:  # fmt: skip
            answer = await served.http.request(method, path)
            assert (answer.status_code, checked(answer)["code"]) == (503, "redis_unavailable"), path
            assert int(answer.headers["retry-after"]) > 0
        answer = await served.http.post("/api/jobs", json=submission(node("a")), headers={"idempotency-key": "k"})
        assert (answer.status_code, checked(answer)["code"]) == (503, "redis_unavailable")
        problem = await served.get("/health/ready", expect=503)
        assert problem["detail"].startswith("redis: ")
        await served.get("/health/live")
        assert (await served.http.get("/metrics")).status_code == 200
        assert time.monotonic() - begun < at_this_load(5)
        back, _ = start_server(tmp_path, *KEPT)
        try:
            job = await served.becomes(lambda: accepted(served))
            assert (await served.ended(job["jobId"]))["status"] == "completed"
            assert (await served.get("/health/ready"))["status"] == "ok"
        finally:
            back.kill()
            back.wait()


async def test_a_control_plane_starts_without_redis_and_serves_when_it_comes(tmp_path: Path) -> None:
    made = made_settings(f"unix://{tmp_path}/redis.sock?db=0", tmp_path)
    async with serve(made) as served:
        await served.get("/health/ready", expect=503)
        await served.get("/health/live")
        found = await served.get("/api/pipelines", expect=503)
        assert found["code"] == "redis_unavailable", "whether there are API keys is not known yet, so nobody is let in"
        process, _ = start_server(tmp_path)
        try:
            await served.becomes(lambda: ready(served))
            pipelines = (await served.get("/api/pipelines"))["pipelines"]
            assert "held" in {each["id"] for each in pipelines}
            found = await served.get("/api/capabilities")
            assert {"generate_script", "light_node"} <= {each["id"] for each in found["capabilities"]}, (
                "its own, at once"
            )
            job = await served.submit(node("a", task="light_node"))
            assert (await served.ended(job))["status"] == "completed"
        finally:
            process.kill()
            process.wait()


async def ready(served: Any) -> Any:
    return (await served.http.get("/health/ready")).status_code == 200


async def test_a_server_that_hangs_holds_no_request_for_long(tmp_path: Path) -> None:
    async with alone(tmp_path) as (served, process):
        os.kill(process.pid, signal.SIGSTOP)
        try:
            begun = time.monotonic()
            health, job = await asyncio.gather(served.http.get("/health/ready"), served.http.get("/api/jobs/x"))
            assert (health.status_code, job.status_code) == (503, 503)
            assert checked(job)["code"] == "redis_unavailable"
            assert checked(health)["detail"].startswith("redis: ")
            assert time.monotonic() - begun < at_this_load(6)
        finally:
            os.kill(process.pid, signal.SIGCONT)
        assert await served.becomes(lambda: accepted(served))
