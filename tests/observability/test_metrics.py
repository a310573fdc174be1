"""What both planes expose: every name, bounded labels, and numbers that agree with what was done."""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from dihedral.bridge import metrics
from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.measured import MeasuredStore
from dihedral.bridge.artifacts.store import ArtifactNotFound
from dihedral.control_plane.scheduler import Scheduler
from dihedral.data_plane.gpu_memory import readings as memory
from dihedral.data_plane.process_groups import descendants
from dihedral.schemas.structs.settings import Settings
from tests.bridge.world import World, batch
from tests.observability.sound import tone
from tests.support.polling import at_this_load, becomes, becomes_async
from tests.support.stack import Stack, simulate

KEPT = {
    "websocket_clients_connected", "websocket_connections_total", "websocket_messages_received_total",
    "websocket_messages_sent_total", "websocket_errors_total", "websocket_client_lifetime_seconds_count",
    "worker_active_tasks", "worker_jobs_total", "worker_job_duration_seconds_count",
}  # fmt: skip
BOTH = {
    "worker_active_tasks", "worker_jobs_total", "worker_job_duration_seconds_bucket", "dihedral_node_duration_seconds_bucket",
    "dihedral_queue_wait_seconds_bucket", "dihedral_deliveries_total", "dihedral_lease_losses_total", "dihedral_worker_slots",
    "dihedral_worker_slots_busy", "dihedral_redis_round_trips_total", "dihedral_redis_script_seconds_bucket",
    "dihedral_artifact_bytes_total", "dihedral_artifact_seconds_bucket", "dihedral_artifact_errors_total",
    "dihedral_event_loop_lag_seconds_bucket", "dihedral_build_info", "process_resident_memory_bytes",
}  # fmt: skip
CONTROL = BOTH | KEPT | {
    "dihedral_http_requests_total", "dihedral_http_request_duration_seconds_bucket", "dihedral_jobs", "dihedral_jobs_ended_total",
    "dihedral_jobs_submitted_total", "dihedral_queue_depth", "dihedral_queue_pending", "dihedral_queue_oldest_seconds",
    "dihedral_workers", "dihedral_redeliveries_total", "dihedral_dead_letters_total", "dihedral_dead_letters_kept",
    "dihedral_cancelling_oldest_seconds", "dihedral_redis_up", "dihedral_redis_memory_used_bytes",
    "dihedral_redis_memory_limit_bytes", "dihedral_hub_lag_seconds_bucket", "dihedral_hub_drops_total",
    "dihedral_hub_rereads_total", "dihedral_hub_watched_jobs", "dihedral_hub_subscriptions",
}  # fmt: skip
DATA = BOTH | {
    "dihedral_device_seconds_total", "dihedral_device_memory_used_bytes", "dihedral_device_memory_peak_bytes", "dihedral_device_utilisation_ratio",
    "dihedral_device_memory_total_bytes",
}  # fmt: skip
LABELS = {
    "method", "route", "status", "type", "task", "outcome", "plane", "pool", "word", "device", "pipeline", "result", "reason",
    "operation", "bucket", "code", "script", "kind", "le", "version",
    "generation", "implementation", "major", "minor", "patchlevel",  # the client library's own
}  # fmt: skip


class Samples:
    def __init__(self, text: str) -> None:
        self.all = [sample for family in text_string_to_metric_families(text) for sample in family.samples]

    @property
    def names(self) -> set[str]:
        return {sample.name for sample in self.all}

    def sum(self, name: str, **labels: str) -> float:
        return sum(s.value for s in self.all if s.name == name and labels.items() <= s.labels.items())


def scrape(url: str) -> Samples:
    answer = httpx.get(url, timeout=60)
    assert answer.status_code == 200
    return Samples(answer.text)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    made = Stack(tmp_path_factory.mktemp("metrics"))
    made.worker("--slots", "1")
    yield made
    made.close()


def of_worker(house: Stack) -> Samples:
    workers = house.get("/api/workers")["workers"]
    return scrape(next(worker["metricsUrl"] for worker in workers if worker["plane"] == "python"))


def test_both_planes_expose_every_name_with_numbers_that_agree(house: Any, tmp_path: Path) -> None:
    jobs = [house.post("/api/jobs", simulate({"id": "a", "steps": 2}))["jobId"] for _ in range(5)]
    jobs.append(house.post("/api/jobs", simulate({"id": "a", "failAt": 0}))["jobId"])
    (tmp_path / "voice.wav").write_bytes(tone())
    voice = house.upload(tmp_path / "voice.wav")
    heavy = house.post("/api/jobs", {"pipeline": "train_voice", "params": {"recording": voice}})["jobId"]
    house.post("/api/jobs", {"graph": {}}, status=422)
    assert [house.ended(job)["status"] for job in jobs] == ["completed"] * 5 + ["failed"]
    assert house.ended(heavy)["status"] == "completed"
    stored = sum(each["size_bytes"] for each in house.get(f"/api/jobs/{heavy}")["artifacts"])

    control, data = scrape(f"{house.url}/metrics"), of_worker(house)
    assert CONTROL - control.names == set()
    becomes(lambda: DATA - of_worker(house).names == set())  # a look at the devices may take its time
    assert control.sum("dihedral_jobs_ended_total", status="completed", pipeline="graph") == 5
    assert control.sum("dihedral_jobs_ended_total", status="completed", pipeline="train_voice") == 1
    assert control.sum("dihedral_jobs_ended_total", status="failed") == 1
    assert control.sum("dihedral_jobs") == 0
    assert control.sum("dihedral_jobs_submitted_total", result="ok") == 7
    assert control.sum("dihedral_http_requests_total", route="/api/jobs", method="POST", status="201") == 7
    assert control.sum("dihedral_http_requests_total", route="/api/jobs", method="POST", status="422") == 1
    assert control.sum("dihedral_artifact_bytes_total", operation="put", bucket="inputs") == len(tone())
    assert control.sum("dihedral_workers", plane="python") == 1
    assert data.sum("dihedral_node_duration_seconds_count", task="simulate", outcome="completed") == 5
    assert data.sum("dihedral_node_duration_seconds_count", task="simulate", outcome="failed") == 1
    assert data.sum("worker_jobs_total", type="simulate") == 6
    assert data.sum("worker_job_duration_seconds_count", type="simulate") == 6
    assert data.sum("worker_job_duration_seconds_bucket", type="simulate", le="+Inf") == 6
    assert data.sum("dihedral_queue_wait_seconds_count", plane="python", pool="default") == 7
    assert data.sum("dihedral_deliveries_total", word="ok") == 7
    assert 0 < data.sum("dihedral_device_seconds_total", task="train_voice", device="cpu") < 60
    assert data.sum("dihedral_worker_slots", kind="heavy") == 1
    # What a slot, a process of its own, has moved is counted by its worker.
    assert data.sum("dihedral_artifact_bytes_total", operation="put", bucket="voices") == stored
    assert data.sum("dihedral_artifact_bytes_total", operation="read", bucket="inputs") == len(tone())
    becomes(
        lambda: of_worker(house).sum("dihedral_device_memory_used_bytes", device="cpu") > 10 << 20
    )  # looked at every second
    data = of_worker(house)
    used, peak, there = (
        data.sum(f"dihedral_device_memory_{what}_bytes", device="cpu") for what in ("used", "peak", "total")
    )
    assert used <= peak < there


def test_labels_are_bounded(house: Any) -> None:
    job = house.post("/api/jobs", simulate({"id": "node-of-mine"}, job="job-of-mine"))["jobId"]
    house.ended(job)
    house.http.request("BREW", "/api/jobs")
    house.http.get("/api/nowhere/of-mine")
    house.http.get("/api/jobs/unknown-of-mine")
    house.http.get("/api/artifacts/bucket-of-mine/key")
    for samples in (scrape(f"{house.url}/metrics"), of_worker(house)):
        assert {label for sample in samples.all for label in sample.labels} <= LABELS
        values = {value for sample in samples.all for value in sample.labels.values()}
        assert [value for value in values if "of-mine" in value or value == "BREW"] == []


def test_metrics_of_a_control_plane_without_redis_say_so(tmp_path: Path) -> None:
    house = Stack(tmp_path)
    try:
        assert scrape(f"{house.url}/metrics").sum("dihedral_redis_up") == 1
        assert house.server is not None
        house.server.kill()
        house.server.wait()
        deadline = time.monotonic() + at_this_load(10)
        while (samples := scrape(f"{house.url}/metrics")).sum("dihedral_redis_up"):
            assert time.monotonic() < deadline
        assert "dihedral_redis_up" in samples.names
        assert "dihedral_jobs" not in samples.names  # an old number would look like a quiet system
    finally:
        house.close()


def test_what_alerts_look_at_moves_when_it_happens(tmp_path: Path) -> None:
    """A worker that is frozen for three leases: its entry goes to another, and it says itself that it has lost it."""
    house = Stack(tmp_path)
    try:
        frozen = house.worker()
        job = house.post("/api/jobs", simulate({"id": "a", "steps": 10_000, "stepSeconds": 0.02}))["jobId"]
        becomes(lambda: house.nodes(job) == {"a": "running"})
        place = house.get("/api/workers")["workers"]
        (asleep,) = [worker["metricsUrl"] for worker in place if worker["pid"] == frozen.pid]
        before = scrape(asleep).sum("dihedral_lease_losses_total")
        frozen.send_signal(signal.SIGSTOP)
        house.worker()
        becomes(lambda: scrape(f"{house.url}/metrics").sum("dihedral_redeliveries_total") >= 1)
        frozen.send_signal(signal.SIGCONT)
        becomes(lambda: scrape(asleep).sum("dihedral_lease_losses_total") > before)
        control = scrape(f"{house.url}/metrics")
        assert control.sum("dihedral_jobs", status="running") == 1
        assert control.sum("dihedral_queue_pending", plane="python") == 1
        for samples in (control, scrape(asleep)):
            assert samples.sum("dihedral_redis_round_trips_total") > 10
            assert samples.sum("dihedral_redis_script_seconds_count") > 0
    finally:
        house.close()


async def test_an_unconfirmed_cancel_is_seen_getting_older(redis_url: Any, redis: Any) -> None:
    """A worker took the entry and has said nothing since."""
    settings = Settings()
    settings.redis.url = redis_url
    world = World(redis)
    await world.submit(batches=[batch(["a"])])
    await world.take("w1")
    assert await world.scripts.cancel(world.part, "job", ["a"]) == "cancelling"
    scheduler = Scheduler(settings, sweep_seconds=0.0)
    ages: list[float] = []
    try:
        while len(ages) < 2 or ages[-1] < 0.05:
            await scheduler.sweep()
            age = REGISTRY.get_sample_value("dihedral_cancelling_oldest_seconds")
            assert age is not None
            ages.append(age)
            assert len(ages) < 1000
        assert ages[0] < ages[-1]
    finally:
        await scheduler._client.aclose()


async def test_a_store_tells_what_moved_and_what_failed(tmp_path: Path) -> None:
    told: list[Any] = []
    store = MeasuredStore(LocalStore(tmp_path), told.append)
    await store.put("videos", "a/b", b"12345", "text/plain")
    await store.put("elsewhere", "a/b", b"1", "text/plain")
    assert [chunk async for chunk in store.open("videos", "a/b", 1, 4)] == [b"234"]
    await store.fetch("videos", "a/b", tmp_path / "copy")
    with pytest.raises(ArtifactNotFound):
        await store.meta("videos", "nothing")
    await store.meta("videos", "a/b")
    assert [(t.operation, t.bucket, t.size_bytes, t.code) for t in told] == [
        ("put", "videos", 5, ""), ("put", "other", 1, ""), ("read", "videos", 3, ""), ("read", "videos", 5, ""),
        ("meta", "other", 0, "artifact_not_found"),
    ]  # fmt: skip


async def test_a_reader_that_goes_away_closes_the_file(tmp_path: Path) -> None:
    told: list[Any] = []
    store = MeasuredStore(LocalStore(tmp_path), told.append)
    await store.put("videos", "a", b"x" * (1 << 20), "text/plain")
    reading = store.open("videos", "a")
    first = await anext(reading)
    assert isinstance(reading, AsyncGenerator)
    await reading.aclose()
    assert told[-1].size_bytes == len(first)


def test_a_tool_with_many_processes_is_looked_at_in_part() -> None:
    tool = subprocess.Popen(
        ["sh", "-c", f"for i in $(seq {memory.MOST_BELOW + 50}); do sleep 3600 & done; wait"], start_new_session=True
    )
    try:
        becomes(lambda: len(descendants(tool.pid)) == memory.MOST_BELOW + 50)
        assert len(descendants(tool.pid, memory.MOST_BELOW)) == memory.MOST_BELOW
        looks = memory.Processes()
        looks.look([tool.pid])
        assert len(looks.seconds) == 1 + memory.MOST_BELOW
    finally:
        os.killpg(tool.pid, signal.SIGKILL)
        tool.wait()


async def test_the_lag_of_the_loop_is_seen() -> None:
    watching = asyncio.create_task(metrics.watch_loop())
    before = _lags_over(0.25)
    await asyncio.sleep(0)
    time.sleep(metrics.LAG_EVERY_SECONDS + 0.6)  # noqa: ASYNC251 - it is what a bad task does
    await asyncio.sleep(0.01)
    watching.cancel()
    assert _lags_over(0.25) == before + 1


def _lags_over(seconds: float) -> float:
    (lags,) = metrics.event_loop_lag_seconds.collect()
    buckets = {s.labels["le"]: s.value for s in lags.samples if "le" in s.labels}
    return buckets["+Inf"] - buckets[str(seconds)]


def test_gpus_are_asked_for_their_memory_and_utilisation() -> None:
    """The driver's library is not ours, and no GPU is here: this fake answers as NVML does, for the second GPU as for a part of one."""

    def rates(handle: int) -> Any:
        if handle:
            raise RuntimeError("Not Supported")
        return SimpleNamespace(gpu=37, memory=5)

    nvml = SimpleNamespace(
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetMemoryInfo=lambda handle: SimpleNamespace(used=handle + 1, total=80, free=79 - handle),
        nvmlDeviceGetUtilizationRates=rates,
    )
    assert memory.of_gpus(nvml) == {"gpu0": (1, 80, 0.37), "gpu1": (2, 80, None)}


def test_slots_are_read_with_their_share_of_the_cores_and_what_runs_in_them() -> None:
    """`busy`: a shell that waits for its child."""
    idle, busy = (
        subprocess.Popen(["sh", "-c", code], start_new_session=True)
        for code in ("sleep 3600", "while :; do :; done & wait")
    )
    try:
        looks = memory.Processes()
        assert looks.look([idle.pid, busy.pid])["cpu"].utilisation is None
        (child,) = becomes(lambda: descendants(busy.pid))
        becomes(lambda: looks.look([idle.pid, busy.pid])["cpu"].utilisation)
        began, before = time.monotonic(), _cpu_seconds(child)
        looks.look([idle.pid, busy.pid])
        becomes(lambda: _cpu_seconds(child) - before > 0.5)
        share = looks.look([idle.pid, busy.pid])["cpu"].utilisation
        assert share is not None
        spent, seconds = _cpu_seconds(child) - before, time.monotonic() - began
        assert share * seconds * len(os.sched_getaffinity(0)) == pytest.approx(spent, rel=0.5)
        becomes(lambda: looks.look([idle.pid])["cpu"].utilisation == 0)
        looks.look([idle.pid, busy.pid])
        used = sum(looks.seconds.values())
        looks.look([])
        share = looks.look([idle.pid, busy.pid])["cpu"].utilisation
        assert share is not None
        assert used > 0.5
        assert share == 0, "what it used before it was first read is no second's"
    finally:
        for each in (idle, busy):
            os.killpg(each.pid, signal.SIGKILL)
            each.wait()
    assert looks.look([idle.pid])["cpu"] == (0, looks.look([])["cpu"].total, 0)


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def test_no_name_of_a_process_ends_the_readings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel cuts a name at 15 bytes, also within a letter, and a name may hold a line's end."""
    names = ["umlautnamen-14\u00fc", "a\rVmRSS: q"]
    monkeypatch.setattr(memory, "_nvml", lambda: None)
    for name in names:
        shutil.copy("/bin/sleep", tmp_path / name)
    tools = [await asyncio.create_subprocess_exec(tmp_path / name, "3600") for name in names]
    latest: memory.Sample = {}
    watching = asyncio.create_task(memory.watch(lambda: [os.getpid()], latest))
    try:
        await becomes_async(lambda: latest)
        assert latest["cpu"].used > 0
        latest.clear()
        await becomes_async(lambda: latest)
    finally:
        watching.cancel()
        for each in tools:
            each.kill()
            await each.wait()
