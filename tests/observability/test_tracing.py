"""One trace per job, across both planes; and nothing of it where it is off."""

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from dihedral.bridge import tracing
from dihedral.bridge.errors import SettingsError
from dihedral.bridge.tracing import Tracing
from dihedral.schemas.structs.settings import Settings
from tests.control_plane.served import edge, made_settings, node, serve, submission

CLIENTS_TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
async def traced(redis_url: Any, redis: Any, tmp_path: Path) -> AsyncIterator[Any]:
    """A control plane and a worker, each with a provider of its own, whose spans come together."""
    spans = InMemorySpanExporter()

    def provider() -> Tracing:
        made = TracerProvider()
        made.add_span_processor(SimpleSpanProcessor(spans))
        return Tracing(made)

    async with serve(made_settings(redis_url, tmp_path), provider()) as served:
        served.planes.tracing = provider()
        await served.planes.start("python")
        yield served, spans


async def test_a_job_is_one_trace_across_both_planes(traced: Any) -> None:
    served, exporter = traced
    graph = submission(
        node("a"), node("b", task="light_node"), node("c", fail=True), edges=[edge("a", "b"), edge("b", "c")]
    )
    job = await served.submit(*graph["graph"]["nodes"], edges=graph["graph"]["edges"])
    assert (await served.ended(job))["status"] == "failed"
    spans = {span.attributes.get("dihedral.node", span.name): span for span in exporter.get_finished_spans()}
    assert set(spans) == {"POST /api/jobs", "a", "b", "c"}
    root = spans.pop("POST /api/jobs")
    for span in spans.values():
        assert span.context.trace_id == root.context.trace_id
        assert span.parent.span_id == root.context.span_id
        assert span.attributes["dihedral.job"] == job
    assert [spans[name].attributes["dihedral.plane"] for name in "abc"] == ["python", "node", "python"]
    assert spans["a"].attributes["dihedral.worker"] != spans["b"].attributes["dihedral.worker"]
    assert spans["a"].attributes["dihedral.outcome"] == "completed"
    assert spans["c"].attributes["dihedral.outcome"] == "failed"
    assert spans["c"].status.description == "boom"
    sent = (await served.get(f"/api/jobs/{job}/graph"))["metadata"]["traceparent"]
    assert sent.startswith(f"00-{root.context.trace_id:032x}-{root.context.span_id:016x}-")


async def test_a_client_that_traces_finds_the_job_in_its_own_trace(traced: Any) -> None:
    served, exporter = traced
    traceparent = f"00-{CLIENTS_TRACE}-b7ad6b7169203331-01"
    job = (await served.post("/api/jobs", submission(node("a")), traceparent=traceparent))["jobId"]
    await served.ended(job)
    assert {f"{span.context.trace_id:032x}" for span in exporter.get_finished_spans()} == {CLIENTS_TRACE}


async def test_jobs_of_one_request_are_told_apart_and_jobs_of_two_are_two_traces(traced: Any) -> None:
    served, exporter = traced
    for _ in range(2):
        await served.ended(await served.submit(node("a")))
    assert len({span.context.trace_id for span in exporter.get_finished_spans()}) == 2
    exporter.clear()
    answer = await served.post("/api/jobs/batch", {"jobs": [submission(node("a")), submission(node("a"))]}, expect=200)
    jobs = [job["jobId"] for job in answer["jobs"]]
    for job in jobs:
        await served.ended(job)
    runs = [span for span in exporter.get_finished_spans() if span.name == "run act"]
    assert sorted(span.attributes["dihedral.job"] for span in runs) == sorted(jobs)
    assert len({span.context.trace_id for span in runs}) == 1


async def test_a_traceparent_that_is_none_does_no_harm(traced: Any) -> None:
    served, _ = traced
    headers = [("content-type", "application/json"), ("traceparent", b"\xff what")]
    answer = await served.http.post("/api/jobs", json=submission(node("a")), headers=headers)
    assert answer.status_code == 201
    assert (await served.ended(answer.json()["jobId"]))["status"] == "completed"


def test_nothing_is_imported_where_it_is_off() -> None:
    """redis-py looks for OpenTelemetry's API by itself, so here it cannot be found; ours would fail if it were asked for."""
    code = "import sys\nsys.modules['opentelemetry'] = sys.modules['pynvml'] = None\n"
    code += "import dihedral.control_plane.app, dihedral.data_plane.service\nfrom dihedral.bridge import tracing\nfrom dihedral.schemas.structs.settings import Settings\n"
    code += "assert tracing.start(Settings(), 'node') is None"
    assert subprocess.run([sys.executable, "-P", "-c", code]).returncode == 0


def test_an_endpoint_without_the_extra_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter", None)
    settings = Settings()
    settings.tracing.endpoint = "http://127.0.0.1:4318/v1/traces"
    with pytest.raises(SettingsError, match=r"dihedral\[otel\]"):
        tracing.start(settings, "node")
