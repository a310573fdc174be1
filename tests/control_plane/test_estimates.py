"""What is told of how long a job will still take, from how long others took."""

import asyncio
import time
from typing import Any

import msgspec
import pytest

from dihedral.bridge.fabric import durations, keys
from dihedral.bridge.fabric.durations import DurationNotes, kinds
from dihedral.bridge.fabric.jobs import Jobs, JobView
from dihedral.bridge.fabric.scripts import PENDING
from dihedral.bridge.tasks.registry import collect
from dihedral.control_plane.estimates import Estimates, spread
from dihedral.control_plane.planning import plan as planning
from dihedral.schemas.structs.graph import Estimate, Graph
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.submission import GraphSubmission
from dihedral.schemas.structs.worker import DeviceInfo, WorkerInfo
from tests.support.planes import edge

REGISTRY = collect(["dihedral.data_plane.tasks.simulate", "dihedral.data_plane.tasks.simulate_gpu"], plugins=False)
CAPABILITIES = {id: task.capability for id, task in REGISTRY.items()}


def graph(nodes: dict[str, dict[str, Any]], edges: list[dict[str, Any]] = [], task: str = "simulate_gpu") -> Graph:  # noqa: B006
    document = {
        "schema": "langgraph.v1",
        "nodes": [{"id": name, "task": task, "plane": "python", "params": params} for name, params in nodes.items()],
        "edges": edges,
    }
    return planning.normalise(msgspec.convert(document, GraphSubmission), "job")


def worker(slots: int = 1, devices: list[str] = ["A"]) -> WorkerInfo:  # noqa: B006
    return msgspec.convert(
        {
            "workerId": "w", "host": "h", "pid": 1, "plane": "python", "pool": "default", "slots": slots, "running": [], "device": "",
            "metricsUrl": None, "startedAt": "2026-11-24T04:05:06.789Z", "lastSeen": "2026-11-24T04:05:06.789Z", "version": "0",
            "protocol": 1, "tasks": ["simulate_gpu"],
            "devices": [msgspec.to_builtins(DeviceInfo(name=name, memory_mib=1)) for name in devices],
        },
        WorkerInfo,
    )  # fmt: skip


class House:
    """Estimates over what `ran` has noted. `workers`: those that live."""

    def __init__(self, redis: Any) -> None:
        self.redis = redis
        self.jobs = Jobs(redis, Settings())
        self.workers = [worker()]

        async def capabilities() -> Any:
            return CAPABILITIES

        async def workers() -> list[WorkerInfo]:
            return self.workers

        self.estimates = Estimates(self.jobs, capabilities, workers)

    async def ran(self, seconds: list[float], device: str = "A", task: str = "simulate_gpu", **params: Any) -> None:
        made = graph({"a": params}, task=task)
        route = planning.routes(made, CAPABILITIES)["a"]
        for each in seconds:
            notes = DurationNotes()
            notes.note(CAPABILITIES[task], params, each, device, route)
            await notes.write(self.redis)

    async def plan(self, made: Graph) -> Estimate | None:
        return await self.estimates.of_plan(made, planning.routes(made, CAPABILITIES))

    def view(self, made: Graph, **records: Any) -> JobView:
        return JobView(
            "job", "running", 0.0, 1, 0, 1, running=1, graph=msgspec.json.encode(made).decode(), records=records,
            routes=planning.routes(made, CAPABILITIES),
        )  # fmt: skip


TEN = [float(seconds) for seconds in range(1, 11)]


async def test_what_is_not_known_is_absent(redis: Any) -> None:
    house = House(redis)
    await house.ran([5.0, 5.0], steps=10)
    assert await house.plan(graph({"a": {"steps": 10}})) is None, "two runs say nothing"
    await house.ran([5.0], steps=10)
    house = House(redis)
    assert await house.plan(graph({"a": {"steps": 10}})) == Estimate(low=5.0, high=5.0)
    assert await house.plan(graph({"a": {"steps": 10}, "b": {}}, task="simulate")) is None


async def test_the_range_is_that_of_eight_in_ten(redis: Any) -> None:
    house = House(redis)
    await house.ran(TEN, steps=10)
    assert await house.plan(graph({"a": {"steps": 10}})) == Estimate(low=1.0, high=10.0)
    assert spread([(float(n), "A") for n in range(1, 102)], {"A"}, 0.0) == Estimate(low=11.0, high=91.0)


async def test_sizes_are_told_apart_and_a_size_that_never_ran_has_the_range_of_all(redis: Any) -> None:
    house = House(redis)
    await house.ran([1.0] * 5, steps=10, stepSeconds=0.1)
    await house.ran([100.0] * 5, steps=1000, stepSeconds=0.1)
    assert await house.plan(graph({"a": {"steps": 10, "stepSeconds": 0.1}})) == Estimate(low=1.0, high=1.0)
    assert await house.plan(graph({"a": {"steps": 1000, "stepSeconds": 0.1}})) == Estimate(low=100.0, high=100.0)
    assert await house.plan(graph({"a": {"steps": 7, "stepSeconds": 5}})) == Estimate(low=1.0, high=100.0)


async def test_devices_are_told_apart(redis: Any) -> None:
    house = House(redis)
    await house.ran([1.0] * 4, device="A", steps=10)
    await house.ran([50.0] * 4, device="cpu", steps=10)
    assert await house.plan(graph({"a": {"steps": 10}})) == Estimate(low=1.0, high=1.0)
    house.workers = [worker(devices=[])]
    assert await house.plan(graph({"a": {"steps": 10}})) == Estimate(low=50.0, high=50.0)


async def test_a_job_takes_its_longest_path_or_all_its_nodes_on_the_slots(redis: Any) -> None:
    house = House(redis)
    await house.ran([10.0] * 4, steps=10)
    nodes = {name: {"steps": 10} for name in "abcd"}
    chain = [edge("a", "b"), edge("b", "c")]
    house.workers = [worker(slots=4)]
    assert await house.plan(graph(nodes, chain)) == Estimate(low=30.0, high=30.0)
    house.workers = [worker(slots=1)]
    assert await house.plan(graph(nodes, chain)) == Estimate(low=40.0, high=40.0)
    rescue = [edge("a", "b", "on_failure"), edge("b", "c")]
    assert await house.plan(graph({name: {"steps": 10} for name in "abc"}, rescue)) == Estimate(low=10.0, high=10.0)


async def test_of_a_node_that_runs_only_longer_runs_count(redis: Any) -> None:
    house = House(redis)
    await house.ran(TEN, steps=10)
    made = graph({"a": {"steps": 10}})
    begun = time.time() * 1000 - 7500
    record = msgspec.structs.replace(PENDING, status="running", started_ms=int(begun))
    left = (await house.estimates.of_nodes(house.view(made, a=record), made))["a"]
    assert left.low == pytest.approx(0.5, abs=0.3)
    assert left.high == pytest.approx(2.5, abs=0.3)
    late = msgspec.structs.replace(PENDING, status="running", started_ms=int(begun - 60_000))
    assert await house.estimates.of_nodes(house.view(made, a=late), made) == {}, "none took so long"
    half = msgspec.structs.replace(late, share=5 * 10**8)
    left = (await house.estimates.of_nodes(house.view(made, a=half), made))["a"]
    assert left.low < 67.5 < left.high


async def test_a_parameter_that_a_parent_decides_leaves_the_size_open(redis: Any) -> None:
    sized, whole = kinds(CAPABILITIES["simulate_gpu"], {"steps": {"$from": "a", "path": "/n"}})
    assert (sized, whole) == ("", "simulate_gpu 1")
    assert kinds(CAPABILITIES["simulate_gpu"], {}) == kinds(
        CAPABILITIES["simulate_gpu"], {"steps": 1, "stepSeconds": 0.0}
    )


async def test_what_is_kept_is_bounded(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durations, "KINDS", 5)
    house = House(redis)
    for size in range(12):
        await house.ran([1.0], steps=4**size, stepSeconds=1)
    await house.ran([float(n) for n in range(70)], steps=1, stepSeconds=1)
    assert await redis.zcard(keys.DURATION_KINDS) == 5
    lists = [name async for name in redis.scan_iter("worker:seconds:*")]
    assert len(lists) == 5
    assert max([await redis.llen(name) for name in lists]) == durations.KEPT
    assert all([await redis.ttl(name) > 0 for name in [*lists, keys.DURATION_KINDS]])


async def test_what_another_request_drops_meanwhile_is_not_known(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lists of many kinds at once: each drops what is beyond the bound, also what the other has just found there."""
    monkeypatch.setattr("dihedral.control_plane.estimates.KEPT_KINDS", 1)
    house = House(redis)
    kept, fresh, other = (graph({"a": {"steps": 4**size, "stepSeconds": 1}}) for size in range(3))
    both = graph({"a": {"steps": 1, "stepSeconds": 1}, "b": {"steps": 4, "stepSeconds": 1}})
    for made in (kept, fresh, other):
        await house.ran(TEN, **made.nodes[0].params)
    for _ in range(20):
        assert await house.plan(kept)
        await asyncio.gather(house.plan(other), house.plan(both), house.plan(fresh))


async def test_a_task_that_runs_often_is_noted_four_times_a_second(redis: Any) -> None:
    notes = DurationNotes()
    made = graph({"a": {}}, task="simulate")
    route = planning.routes(made, CAPABILITIES)["a"]
    begun = time.monotonic()
    for _ in range(5000):
        notes.note(CAPABILITIES["simulate"], {}, 0.001, "cpu", route)
    noted = max(len(texts) for texts in notes._notes.values())
    assert noted <= 1 + (time.monotonic() - begun) / durations.NOTED_SECONDS


async def test_notes_whose_writing_is_cut_expire_all_the_same(redis: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    notes, made = DurationNotes(), graph({"a": {}}, task="simulate")
    notes.note(CAPABILITIES["simulate"], {}, 1.0, "cpu", planning.routes(made, CAPABILITIES)["a"])
    call = redis.execute_command

    async def cut(*command: Any, **options: Any) -> Any:
        if await call("EXISTS", keys.DURATION_KINDS):
            raise ConnectionError("cut")
        return await call(*command, **options)

    monkeypatch.setattr(redis, "execute_command", cut)
    with pytest.raises(ConnectionError):
        await notes.write(redis)
    assert await call("PTTL", keys.DURATION_KINDS) > 0
