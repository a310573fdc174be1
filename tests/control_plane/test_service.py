"""What serves the jobs: capabilities, pipelines, workers, queues, dead letters, health, metrics, OpenAPI."""

import asyncio
import gzip
import json
import re
import shutil
import socket
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral.bridge.version import VERSION
from dihedral.control_plane.app import create_app
from dihedral.schemas.structs.capability import Voice
from tests.control_plane.served import PROBLEM, Served, checked, made_settings, new_id, node, serve, worker_info
from tests.support.planes import RUNS, gate

pytestmark = pytest.mark.asyncio(loop_scope="session")


# What there is --------------------------------------------------------------------------------------------------------


async def test_capabilities_are_those_of_both_planes(served: Any) -> None:
    found = await served.get("/api/capabilities")
    assert set(found) == {"capabilities", "sources", "generatedAt"}
    planes = {each["id"]: each["plane"] for each in found["capabilities"]}
    assert (
        planes.items() >= {"act": "python", "heavy": "python", "light_node": "node", "generate_script": "node"}.items()
    )
    assert list(planes) == sorted(planes)
    assert datetime.fromisoformat(found["generatedAt"]).tzinfo is not None
    script = next(each for each in found["capabilities"] if each["id"] == "generate_script")
    assert set(script) - {"keywords", "checks"} == {
        "id", "label", "description", "version", "plane", "runtime", "io", "parameters", "examples", "telemetry", "security", "contracts",
    }  # fmt: skip


async def test_sources_are_the_workers_that_announced_capabilities(served: Any) -> None:
    alive = {worker["workerId"]: worker["plane"] for worker in (await served.get("/api/workers"))["workers"]}
    sources = (await served.get("/api/capabilities"))["sources"]
    assert set(sources) == {"node", "python"}
    for worker, plane in alive.items():
        assert worker in sources[plane]


async def test_a_capability_outlives_its_worker(served: Any) -> None:
    async with served.no_worker():
        found = await served.get("/api/capabilities")
        assert "act" in {each["id"] for each in found["capabilities"]}
        assert found["sources"]["python"]


async def test_pipelines_are_whole_documents_in_order(served: Any) -> None:
    found = (await served.get("/api/pipelines"))["pipelines"]
    assert [each["id"] for each in found] == sorted(each["id"] for each in found)
    assert {"talking_picture", "simulate", "held"} <= {each["id"] for each in found}
    for each in found:
        assert set(each) - {"keywords"} == {"id", "label", "description", "params", "graph"}
        assert each["params"]["type"] == "object"


async def test_workers_are_those_that_live(served: Any) -> None:
    other = worker_info(new_id("worker"), "act")
    await served.planes.jobs.workers.announce(other, [])
    found = {each["workerId"]: each for each in (await served.get("/api/workers"))["workers"]}
    assert found[other.worker_id]["tasks"] == ["act"]
    assert set(found[other.worker_id]) == {
        "workerId", "host", "pid", "plane", "pool", "slots", "running", "device", "metricsUrl", "startedAt", "lastSeen", "version",
        "protocol", "tasks", "devices", "memory", "draining", "gpuTasksOnCpu",
    }  # fmt: skip
    ours = next(each for each in found.values() if each["plane"] == "node")
    assert ours["version"] == VERSION
    assert ours["host"] == socket.gethostname()
    await served.planes.jobs.workers.depart(other.worker_id)
    assert other.worker_id not in {each["workerId"] for each in (await served.get("/api/workers"))["workers"]}


async def test_queues_say_what_waits_and_for_how_long(served: Any) -> None:
    async def data_plane() -> Any:
        found = {(each["plane"], each["pool"]): each for each in (await served.get("/api/queues"))["queues"]}
        assert ("node", "default") in found
        return found["python", "default"]

    async with served.no_worker():
        before = await data_plane()
        jobs = [await served.submit(node("a")) for _ in range(3)]
        queue = await data_plane()
        assert set(queue) == {"plane", "pool", "depth", "pending", "oldestSeconds", "paused"}
        assert queue["depth"] == before["depth"] + 3
        assert 0 <= queue["oldestSeconds"] < 10
    for job in jobs:
        await served.ended(job)
    held = await served.submit(node("a", wait=(name := new_id())))
    await served.in_status(held, "running")
    assert (await data_plane())["pending"] == 1
    gate(name).set()
    await served.ended(held)

    async def idle() -> Any:
        queue = await data_plane()
        return (queue["depth"], queue["pending"], queue["oldestSeconds"]) == (0, 0, None)

    await served.becomes(idle)


# Dead letters ---------------------------------------------------------------------------------------------------------


async def letters(served: Any) -> Any:
    return {each["jobId"]: each for each in (await served.get("/api/dead-letters"))["deadLetters"]}


async def test_a_dead_letter_is_requeued_or_dropped(served: Any) -> None:
    async with served.no_worker():
        worker = await served.planes.start("python")
        jobs = [await served.submit(node("a", task="once", wait=new_id())) for _ in range(2)]
        for job in jobs:
            await served.in_status(job, "running")
        await served.planes.kill(worker)
    for job in jobs:
        assert (await served.in_status(job, "failed"))["error"]["code"] == "worker_lost"
    found = await letters(served)
    first, second = found[jobs[0]], found[jobs[1]]
    assert set(first) == {"id", "jobId", "nodeId", "attempt", "reason", "detail", "created"}
    assert (first["nodeId"], first["attempt"], first["reason"]) == ("a", 1, "worker_lost")
    assert first["detail"] == "its worker was lost 1 time while it ran, and its task must not run twice"
    assert await served.get(f"/api/dead-letters/{first['id']}") == first

    RUNS.clear()
    job = await served.post(f"/api/dead-letters/{first['id']}/requeue", expect=200)
    assert (job["jobId"], job["attempt"]) == (jobs[0], 2)
    assert jobs[0] not in await letters(served)
    await served.in_status(jobs[0], "running")
    assert RUNS == [("begin", "a")]

    await served.delete(f"/api/dead-letters/{second['id']}")
    assert jobs[1] not in await letters(served)
    assert (await served.job(jobs[1]))["attempt"] == 1
    assert (await served.delete(f"/api/dead-letters/{second['id']}", expect=404))["code"] == "unknown_dead_letter"
    await served.post(f"/api/jobs/{jobs[0]}/cancel", expect=202)


async def test_garbage_on_a_stream_is_a_letter_that_can_only_be_dropped(served: Any) -> None:
    client = served.planes.client
    await client.xadd("stream:process:data", {"nonsense": b"\xff\x00"})

    async def letter() -> Any:
        return (await letters(served)).get("")

    found = await served.becomes(letter)
    assert (found["reason"], found["detail"]) == ("malformed_entry", "nonsense=\ufffd\x00")
    assert (await served.post(f"/api/dead-letters/{found['id']}/requeue", expect=409))["code"] == "job_gone"
    await served.delete(f"/api/dead-letters/{found['id']}")
    job = await served.submit(node("a"))
    assert (await served.ended(job))["status"] == "completed"


async def test_the_letter_of_a_job_that_runs_again_cannot_be_requeued(served: Any) -> None:
    async with served.no_worker():
        worker = await served.planes.start("python")
        job = await served.submit(node("a", task="once", wait=(name := new_id())))
        await served.in_status(job, "running")
        await served.planes.kill(worker)
    await served.in_status(job, "failed")
    letter = (await letters(served))[job]["id"]
    gate(name).set()
    await served.post(f"/api/jobs/{job}/retry", expect=200)
    assert (await served.in_status(job, "completed"))["attempt"] == 2
    assert (await served.post(f"/api/dead-letters/{letter}/requeue", expect=409))["code"] == "not_retryable"
    await served.delete(f"/api/dead-letters/{letter}")


async def given_up(served: Any, *nodes: Any, **more: Any) -> Any:
    """A job whose nodes have died with their worker; its id."""
    async with served.no_worker():
        worker = await served.planes.start("python")
        job = await served.submit(*nodes, **more)
        await served.becomes(lambda: all_run(served, job))
        await served.planes.kill(worker)
    await served.in_status(job, "failed")
    return job


async def all_run(served: Any, job: Any) -> Any:
    return {each["status"] for each in (await served.nodes(job)).values()} == {"running"}


async def test_a_requeue_drops_every_letter_of_its_job(served: Any) -> None:
    name = new_id()
    job = await given_up(served, *(node(each, task="once", wait=name) for each in ("a", "b")))
    both = [each for each in (await served.get("/api/dead-letters"))["deadLetters"] if each["jobId"] == job]
    assert {each["nodeId"] for each in both} == {"a", "b"}
    gate(name).set()
    assert (await served.post(f"/api/dead-letters/{both[0]['id']}/requeue", expect=200))["attempt"] == 2
    for each in both:
        problem = await served.post(f"/api/dead-letters/{each['id']}/requeue", expect=404)
        assert problem["code"] == "unknown_dead_letter"
    assert (await served.ended(job))["status"] == "completed"


async def test_the_letter_of_an_earlier_attempt_retries_no_later_one(served: Any) -> None:
    """Whoever looks at an old list must not begin the third attempt of a job whose second failed for another reason."""
    job = await given_up(served, node("a", task="once", wait=(name := new_id()), fail=True))
    letter = (await letters(served))[job]["id"]
    gate(name).set()
    await served.post(f"/api/jobs/{job}/retry", expect=200)
    assert (await served.in_status(job, "failed"))["attempt"] == 2
    problem = await served.post(f"/api/dead-letters/{letter}/requeue", expect=409)
    assert problem["code"] == "not_retryable"
    assert "attempt 1" in problem["detail"]
    assert (await served.job(job))["attempt"] == 2
    await served.delete(f"/api/dead-letters/{letter}")


async def test_two_requeues_at_once_retry_once(served: Any) -> None:
    job = await given_up(served, node("a", task="once", wait=(name := new_id())))
    letter = (await letters(served))[job]["id"]
    path = f"/api/dead-letters/{letter}/requeue"
    answers = [each.status_code for each in await asyncio.gather(*(served.http.post(path) for _ in range(5)))]
    assert answers.count(200) == 1, answers
    assert set(answers) <= {200, 404, 409}
    gate(name).set()
    assert (await served.ended(job))["attempt"] == 2


async def test_the_letter_of_a_job_that_is_gone_can_only_be_dropped(served: Any) -> None:
    job = await given_up(served, node("a", task="once", wait=new_id()))
    letter = (await letters(served))[job]["id"]
    await served.delete(f"/api/jobs/{job}")
    assert (await served.post(f"/api/dead-letters/{letter}/requeue", expect=409))["code"] == "job_gone"
    assert (await served.get(f"/api/dead-letters/{letter}"))["jobId"] == job
    await served.delete(f"/api/dead-letters/{letter}")
    await served.get(f"/api/dead-letters/{letter}", expect=404)


async def test_what_a_drain_gives_up_is_a_letter_too(served: Any) -> None:
    async with served.no_worker():
        worker = await served.planes.start("python")
        job = await served.submit(node("drained", task="once", wait=new_id()))
        await served.becomes(lambda: ("begin", "drained") in RUNS)  # else it would only go back
        await served.planes.stop(worker)
    assert (await served.in_status(job, "failed"))["error"]["code"] == "worker_lost"
    letter = (await letters(served))[job]
    assert letter["detail"] == "its worker was stopped while it ran, and its task must not run twice"
    await served.delete(f"/api/dead-letters/{letter['id']}")


async def test_letters_come_in_pages_newest_first(served: Any) -> None:
    await drop_all(served)
    assert await served.get("/api/dead-letters") == {"deadLetters": [], "next": None}
    for number in range(5):
        await served.planes.client.xadd("stream:process:data", {"number": number})
    await served.becomes(lambda: all_there(served, 5))
    seen, cursor = [], None
    while True:
        page = await served.get("/api/dead-letters", limit=2, **({"cursor": cursor} if cursor else {}))
        seen += [each["detail"] for each in page["deadLetters"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert seen == [f"number={number}" for number in (4, 3, 2, 1, 0)]
    await drop_all(served)


async def drop_all(served: Any) -> None:
    while found := (await served.get("/api/dead-letters"))["deadLetters"]:
        for each in found:
            await served.delete(f"/api/dead-letters/{each['id']}")


async def all_there(served: Any, count: Any) -> Any:
    return len((await served.get("/api/dead-letters"))["deadLetters"]) == count


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "cursor=", "cursor=x", "cursor=0-0-0", "cursor=1-1-1", "page=2", "limit=1&limit=2",
              "cursor=0-" + "9" * 20 + "-0"],
)  # fmt: skip
async def test_a_page_of_letters_that_cannot_be_is_refused(served: Any, query: Any) -> None:
    answer = await served.http.get(f"/api/dead-letters?{query}")
    assert (answer.status_code, checked(answer)["code"]) == (422, "invalid_parameter")


@pytest.mark.parametrize(
    "letter",
    [
        "x",
        "0-0-0",
        "0-007-1",
        "0-",
        "0-x",
        "0-1",
        "0--",
        "0-+",
        "9-1-1",
        "0-1-1",
        "9" * 5000 + "-1-1",
        "0-" + "9" * 20 + "-1",
        "٠-1-1",
        "0-(1-1",
    ],
)
async def test_an_unknown_letter_is_404(served: Any, letter: Any) -> None:
    await served.post(f"/api/dead-letters/{letter}/requeue", expect=404)
    await served.get(f"/api/dead-letters/{letter}", expect=404)
    answer = await served.http.delete(f"/api/dead-letters/{letter}")
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_dead_letter")


# Health and metrics ---------------------------------------------------------------------------------------------------


async def test_health_says_that_all_is_well(served: Any) -> None:
    assert await served.get("/health/live") == {"status": "ok"}
    for path in ("/health/ready", "/health"):
        assert await served.get(path) == {"status": "ok", "checks": {"redis": "ok", "store": "ok"}}


async def test_health_says_that_the_store_cannot_be_used(served: Any) -> None:
    directory = served.settings.artifacts.directory
    shutil.move(directory, directory + ".away")
    try:
        await asyncio.to_thread(Path(directory).write_bytes, b"")
        problem = await served.get("/health/ready", expect=503)
        assert problem["code"] == "not_ready"
        assert problem["detail"].startswith("store: ")
        assert "redis" not in problem["detail"]
        await served.get("/health/live")
    finally:
        await asyncio.to_thread(Path(directory).unlink)
        shutil.move(directory + ".away", directory)
    await served.get("/health/ready")


async def test_metrics_have_the_names_that_dashboards_know(served: Any) -> None:
    await served.ended(await served.submit(node("light", task="light_node")))
    answer = await served.http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    text = answer.text
    for name in (
        "websocket_clients_connected", "websocket_connections_total", "websocket_messages_received_total",
        "websocket_messages_sent_total", "websocket_errors_total", "worker_active_tasks",
    ):  # fmt: skip
        assert re.search(rf"^{name} [0-9]", text, re.M), name
    for name in ("websocket_client_lifetime_seconds_count", 'worker_job_duration_seconds_count{type="light_node"}'):
        assert re.search(rf"^{re.escape(name)} [0-9]", text, re.M), name
    assert re.search(r'^worker_jobs_total\{type="light_node"\} [1-9]', text, re.M)
    assert f'dihedral_build_info{{version="{VERSION}"}} 1.0' in text


async def test_no_job_id_becomes_a_label(served: Any) -> None:
    job = await served.submit(node("a"))
    for path in ("", "/graph", "/events"):
        await served.get(f"/api/jobs/{job}{path}")
    text = (await served.http.get("/metrics")).text
    assert job not in text
    assert 'route="/api/jobs/{job_id}/graph",status="200"' in text


# Addresses ------------------------------------------------------------------------------------------------------------


async def test_the_root_is_the_console_and_says_where_the_api_is_described(served: Any) -> None:
    answer = await served.http.get("/")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert 'href="/schema"' in answer.text


async def test_openapi_lists_every_route(served: Any) -> None:
    document = await served.get("/schema")
    assert document["openapi"].startswith("3.1")
    assert document["info"] == {"title": "Dihedral", "version": VERSION, "description": document["info"]["description"]}
    routes = set()
    for route in create_app(served.settings).routes:
        path = re.sub(r":\w+}", "}", route.path)
        if not path.startswith(("/schema", "/console", "/docs")) and path not in (
            "/",
            "/ws",
            "/mcp",
            "/llms.txt",
        ):  # a socket, a page, and what describes itself
            routes |= {(path, method.lower()) for method in route.methods if method not in ("OPTIONS", "HEAD")}
    listed = {(path, method) for path, item in document["paths"].items() for method in item}
    assert routes - listed == set()
    assert len(routes) > 25


async def test_openapi_describes_bodies_answers_and_problems(served: Any) -> None:
    document = await served.get("/schema")
    submit = document["paths"]["/api/jobs"]["post"]
    assert "/schemas/request.json#/$defs/JobRequest" in str(submit["requestBody"])
    schemas = document["components"]["schemas"]
    assert submit["requestBody"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/JobRequest"}
    assert {"graph", "pipeline", "task", "params", "name", "tags", "rerunOf"} <= schemas["JobRequest"][
        "properties"
    ].keys()
    for reference in re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(document)):
        assert reference in schemas
    assert {"200", "201", "400", "409", "413", "415", "422", "429", "503"} <= set(submit["responses"])
    assert PROBLEM in submit["responses"]["422"]["content"]
    names = {each["name"]: each["schema"] for each in document["paths"]["/api/jobs"]["get"]["parameters"]}
    assert set(names) == {"status", "pipeline", "q", "tag", "since", "until", "limit", "cursor"}
    assert "date-time" in str(names["since"])


async def test_operations_have_names_that_a_generated_client_can_use_b10(served: Any) -> None:
    document = await served.get("/schema")
    names = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    assert [name for name in names if not re.fullmatch(r"[a-z][A-Za-z]{3,}", name)] == []
    assert {"submitJob", "getJob", "listJobs", "cancelJob", "retryJob", "uploadArtifact", "downloadArtifact"} <= set(
        names
    )


async def test_operations_are_grouped_and_the_key_is_one_word(served: Any) -> None:
    document = await served.get("/schema")
    operations = [operation for item in document["paths"].values() for operation in item.values()]
    assert {tag for each in operations for tag in each["tags"]} == {each["name"] for each in document["tags"]}
    paths = {
        path for path, item in document["paths"].items() if any(each["tags"] == ["Service"] for each in item.values())
    }
    assert paths == {"/health", "/health/live", "/health/ready", "/metrics", "/schemas/{name}"}
    assert document["security"] == [{"apiKey": []}, {}]
    scheme = document["components"]["securitySchemes"]["apiKey"]
    assert (scheme["type"], scheme["scheme"]) == ("http", "bearer")


async def test_the_document_is_compressed_for_who_takes_that(served: Any) -> None:
    async with served.http.stream("GET", "/schema/openapi.json", headers={"Accept-Encoding": "gzip"}) as answer:
        raw = b"".join([chunk async for chunk in answer.aiter_raw()])
    assert answer.headers["content-encoding"] == "gzip"
    assert len(raw) < 30_000
    plain = await served.http.get("/schema", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert json.loads(gzip.decompress(raw)) == plain.json()


async def test_every_source_schema_is_published(served: Any) -> None:
    for name in (
        "graph",
        "submission",
        "request",
        "job",
        "events",
        "websocket",
        "problem",
        "pipeline",
        "capability",
        "artifact",
    ):
        document = await served.get(f"/schemas/{name}.json")
        assert document["$id"] == f"dihedral:{name}"
    assert checked(await served.http.get("/schemas/none.json"))["code"] == "unknown_schema"


async def test_a_store_that_cannot_be_used_is_told_without_its_place(
    redis_url: str, redis: Any, tmp_path: Path
) -> None:
    """The route asks for no key; the log has the path."""
    made = made_settings(redis_url, tmp_path)
    async with serve(made) as served:
        await served.becomes(lambda: _is_ready(served))
        directory = Path(made.artifacts.directory)
        shutil.rmtree(directory)
        directory.write_text("a file where the folder was")
        for path in ("/health/ready", "/health"):
            answer = await served.http.get(path)
            assert answer.status_code == 503
            assert "store" in checked(answer)["detail"]
            for secret in (str(tmp_path), directory.name, redis_url, "Error"):
                assert secret not in answer.text, secret


async def _is_ready(served: Served) -> bool:
    return (await served.http.get("/health/ready")).status_code == 200


async def test_voices_of_a_task_are_those_of_all_live_workers(served: Any) -> None:
    """Machines differ in what is installed; the one that announced the task last must not hide the voices of the others."""
    act = served.planes.registry["act"].capability
    announced = {
        "machine-a": [("flite:slt", "Slt"), ("espeak:de", "German")],
        "machine-b": [("flite:slt", "Slt"), ("flite:rms", "Rms")],
    }
    workers = served.planes.jobs.workers
    for worker_id, voices in announced.items():
        has = [Voice(id=id, label=label, language="", engine="e") for id, label in voices]
        speak = msgspec.structs.replace(act, id="speak-here", voices=has)
        await workers.announce(worker_info(worker_id, "speak-here"), [speak])

    async def known() -> Any:
        found = (await served.get("/api/capabilities"))["capabilities"]
        voices: list[Any] = next((each["voices"] for each in found if each["id"] == "speak-here"), [])
        return {each["id"]: each["workers"] for each in voices} == {
            "espeak:de": ["machine-a"],
            "flite:rms": ["machine-b"],
            "flite:slt": ["machine-a", "machine-b"],
        }

    await served.becomes(known)
    await workers.depart("machine-b")

    async def without_b() -> Any:
        found = (await served.get("/api/capabilities"))["capabilities"]
        voices = next(each["voices"] for each in found if each["id"] == "speak-here")
        return [each["id"] for each in voices] == ["espeak:de", "flite:slt"]

    await served.becomes(without_b)
    await workers.depart("machine-a")
