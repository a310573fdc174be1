"""Real workers, real scripts, one script call at a time in an order that Hypothesis chooses.

Every call of an actor waits at a gate; the machine opens one gate, or opens it and loses the answer, or kills the actor. So
what is explored is exactly what a network and a scheduler can do to the protocol: deaths between any two calls, frozen
owners whose claim is taken over and who go on, lost answers, cancels, retries, changes of priority and pauses in the middle. Leases are 1 ms here and
nobody renews, so any owner may be presumed dead at any time; the tokens must fence it.

Invariants, always: `remaining` and `running` equal what the records say. At the end, when the faults stop: the job has ended;
every node's status follows from its parents' by the table of edge resolution; each node ended once per attempt of the job;
nothing is left in streams, claims or delays.
"""

import asyncio
import json
from typing import Any

import pytest
import redis as redis_sync
import redis.asyncio
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from dihedral.bridge import graphs
from dihedral.bridge.fabric import moving
from dihedral.bridge.fabric.jobs import Jobs, NewJob
from dihedral.bridge.fabric.leases import Reclaimer
from dihedral.bridge.fabric.lifecycle import NODE_ENDED
from dihedral.bridge.fabric.scripts import Depth, Scripts, parse_record, parse_state
from dihedral.bridge.tasks.runs import Cancelled, Completed, Failed, Outcome
from dihedral.bridge.worker import nodes
from dihedral.bridge.worker.loop import Worker
from dihedral.control_plane.scheduler import Scheduler
from dihedral.schemas.structs.graph import NodeError
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.worker import DeviceInfo
from tests.model.tasks import ROUTES, make_graph, registry

URL: list[str] = []


class Gate:
    def __init__(self, owner: str, name: str) -> None:
        self.owner = owner
        self.name = name
        self.open: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self.passed = asyncio.get_running_loop().create_future()


class GatedScripts(Scripts):
    """Scripts of one actor; each call waits for the machine. `open` with True means: run it, but lose the answer."""

    gates: list[Gate]
    owner: str

    async def call_encoded(self, name: str, part: Any, items: Any) -> Any:
        gate = Gate(self.owner, name)
        self.gates.append(gate)
        try:
            lose = await gate.open
            answer = await super().call_encoded(name, part, items)
        finally:
            if gate in self.gates:
                self.gates.remove(gate)
            if not gate.passed.done():
                gate.passed.set_result(None)
        if lose:
            raise redis_sync.ConnectionError("the answer was lost")
        return answer


EDGES = st.sampled_from(["normal", "normal", "on_success", "on_failure"])


class Machine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.settings = Settings()
        self.settings.redis.url = URL[0]
        self.settings.jobs.lease_ms = 1
        self.gates: list[Gate] = []
        self.nodes: list[tuple[str, str, asyncio.Future[Outcome]]] = []
        self.workers: dict[str, tuple[Worker, list[asyncio.Task[Any]]]] = {}
        self.runs: set[tuple[str, str]] = set()
        self.doubled: list[str] = []
        self.born = 0
        self.cancels = 0

    def do(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    @initialize(
        count=st.integers(1, 6),
        links=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), EDGES), max_size=9),
        heavy=st.lists(st.booleans(), min_size=6, max_size=6),
    )
    def begin(self, count: int, links: list[tuple[int, int, str]], heavy: list[bool]) -> None:
        self.graph = make_graph(count, links, heavy)
        self.topology = graphs.Topology(self.graph)
        self.do(self._begin())

    async def _begin(self) -> None:
        self.client = redis.asyncio.Redis.from_url(URL[0])
        await self.client.flushall()
        self.jobs = Jobs(self.client, self.settings)
        import msgspec

        new = NewJob(
            job_id="job", graph=(text := msgspec.json.encode(self.graph)), digest="d",
            plan=graphs.Plan(self.topology, {node.id: ROUTES[node.task] for node in self.graph.nodes}, len(text)),
        )  # fmt: skip
        assert await self.jobs.submit(new) == "ok"
        for _ in range(2):
            await self._hire()

    async def _hire(self, device: bool = False) -> None:
        self.born += 1
        name = f"w{self.born}"
        devices = [DeviceInfo(name="gpu", memory_mib=1)] if device else []

        async def run_node(run: Any, emit: Any, cancel: Any) -> Outcome:
            future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
            if (run.nonce, run.node_id) in self.runs:
                self.doubled.append(run.node_id)
            self.runs.add((run.nonce, run.node_id))
            self.nodes.append((name, run.node_id, future))
            emit.progress(0.5)
            cancelled = Cancelled()
            cancel.on_cancel(lambda: None if future.done() else future.set_result(cancelled))
            return await future

        worker = Worker(
            settings=self.settings, plane="python", registry=registry(), run_node=run_node, slots=1, light=4,
            devices=devices,
        )  # fmt: skip
        if device:
            await self.client.zadd(self.jobs.scripts.partitions[0].devices("default"), {name: 10**15})
        scripts = GatedScripts(worker._client)
        scripts.gates, scripts.owner = self.gates, name
        worker._scripts = worker._jobs.scripts = worker._taker._scripts = scripts
        tasks: list[asyncio.Task[Any]] = []
        for writer in worker._writers:
            writer._scripts = scripts
            tasks.append(asyncio.ensure_future(writer.run()))
        tasks.append(asyncio.ensure_future(worker.nodes.flushes()))
        worker._tasks = self._group(tasks)
        self.workers[name] = (worker, tasks)

    def _group(self, tasks: list[asyncio.Task[Any]]) -> Any:
        class Group:
            def create_task(self, work: Any, name: str = "") -> asyncio.Task[Any]:
                task = asyncio.ensure_future(work)
                tasks.append(task)
                return task

        return Group()

    async def _settle(self) -> None:
        for _ in range(30):
            await asyncio.sleep(0)

    async def _pass(self, gate: Gate, lose: bool) -> None:
        if not gate.open.done():
            gate.open.set_result(lose)
            await gate.passed
        await self._settle()

    @rule(which=st.integers(0, 50), lose=st.sampled_from([False, False, False, True]))
    def open_a_gate(self, which: int, lose: bool) -> None:
        if self.gates:
            self.do(self._pass(self.gates[which % len(self.gates)], lose))

    @rule(which=st.integers(0, 5))
    def take(self, which: int) -> None:
        self.do(self._take(which))

    async def _take(self, which: int, recover: bool = False) -> None:
        worker, tasks = list(self.workers.values())[which % len(self.workers)]

        async def once() -> None:
            try:
                if recover:
                    worker._accept(await worker._taker.recover(*worker.capacity.free()))
                else:
                    _, deliveries = await worker._taker.take(*worker.capacity.free())
                    worker._accept(deliveries)
            except redis_sync.ConnectionError:
                pass

        tasks.append(asyncio.ensure_future(once()))
        await self._settle()

    @rule(which=st.integers(0, 5))
    def recover(self, which: int) -> None:
        self.do(self._take(which, recover=True))

    @rule(which=st.integers(0, 20), how=st.sampled_from(["completed", "completed", "failed", "retryable"]))
    def end_a_node(self, which: int, how: str) -> None:
        if self.nodes:
            self.do(self._end(which, how))

    async def _end(self, which: int, how: str) -> None:
        _, node, future = self.nodes.pop(which % len(self.nodes))
        if not future.done():
            error = NodeError(code="boom", message="it broke", details={})
            failed = Failed(error=error, retryable=how == "retryable")
            completed = Completed(output=json.dumps({"from": node}).encode())
            future.set_result(completed if how == "completed" else failed)
        await self._settle()

    @rule(which=st.integers(0, 5), device=st.booleans())
    def kill(self, which: int, device: bool) -> None:
        """The device of a dead worker keeps its lane closed until `a_heartbeat_expires`."""
        self.do(self._kill(list(self.workers)[which % len(self.workers)]))
        self.do(self._hire(device))

    @rule()
    def a_heartbeat_expires(self) -> None:
        self.do(self._expire())

    async def _expire(self) -> None:
        devices = self.jobs.scripts.partitions[0].devices("default")
        members: list[Any] = await self.client.zrange(devices, 0, -1)
        for member in members:
            if member.decode() not in self.workers:
                await self.client.zrem(devices, member)

    async def _kill(self, name: str) -> None:
        worker, tasks = self.workers.pop(name)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.gates[:] = [gate for gate in self.gates if gate.owner != name]
        self.nodes = [row for row in self.nodes if row[0] != name]
        await worker._client.aclose()
        await worker._taker.aclose()

    @rule()
    def presume_owners_dead(self) -> None:
        self.do(self._reclaim())

    async def _reclaim(self) -> None:
        scheduler = Scheduler(self.settings)
        writers = [asyncio.ensure_future(writer.run()) for writer in scheduler._writers]
        reclaimer = Reclaimer(self.jobs, "reclaimer", scheduler._write)
        reclaimer.slow_seconds = 10.0
        try:
            for part in self.jobs.scripts.partitions:
                for _ in range(2):
                    await reclaimer.look(part, part.every_stream("python", "default"))
                    await asyncio.sleep(0.002)
        finally:
            for writer in writers:
                writer.cancel()
            await asyncio.gather(*writers, return_exceptions=True)
            await scheduler._client.aclose()
        await self._settle()

    @rule(which=st.integers(0, 5))
    def a_tick(self, which: int) -> None:
        worker, _ = list(self.workers.values())[which % len(self.workers)]
        self.do(self._tick(worker))

    async def _tick(self, worker: Worker) -> None:
        for delivery in worker.held.values():
            worker.nodes.mark(delivery)
        await self._settle()

    @rule()
    def time_passes(self) -> None:
        self.do(self._due())

    async def _due(self) -> None:
        members: list[Any] = await self.client.zrange("delays", 0, -1)
        for member in members:
            await self.client.zadd("delays", {member: 1})
        await self.jobs.scripts.due(self.jobs.scripts.partitions[0])

    @precondition(lambda self: self.cancels < 2)
    @rule()
    def cancel(self) -> None:
        self.cancels += 1
        self.do(self._cancel())

    async def _cancel(self) -> None:
        await self.jobs.cancel("job")
        for worker, _ in self.workers.values():
            worker.nodes.cancel(lambda delivery: True)
        await self._settle()

    @rule()
    def retry(self) -> None:
        self.do(self.jobs.retry("job"))

    @rule(priority=st.sampled_from(["high", "normal", "low"]))
    def change_the_priority(self, priority: str) -> None:
        self.do(self._change_the_priority(priority))

    async def _change_the_priority(self, priority: str) -> None:
        await moving.set_priority(self.jobs, "job", priority)
        for worker, _ in self.workers.values():
            await worker._receive(["/priority", "job", priority])

    @rule()
    def move_to_the_front(self) -> None:
        self.do(moving.move_to_front(self.jobs, "job"))

    @rule(which=st.integers(0, 5), paused=st.booleans())
    def pause(self, which: int, paused: bool) -> None:
        worker, _ = list(self.workers.values())[which % len(self.workers)]
        worker.capacity.paused = paused

    @invariant()
    def counters_equal_the_records(self) -> None:
        if not hasattr(self, "client"):
            return
        fields = self.do(self.client.hgetall("job:job"))
        records = [parse_record(value.decode()) for name, value in fields.items() if name.startswith(b"n:")]
        ended = sum(record.status in NODE_ENDED for record in records)
        state = parse_state(fields[b"state"].decode())
        assert int(state["running"]) == sum(record.status == "running" for record in records)
        assert int(state["remaining"]) == len(self.graph.nodes) - ended

    def teardown(self) -> None:
        if hasattr(self, "client"):
            self.do(self._finish())
        self.loop.close()

    async def _finish(self) -> None:
        try:
            for _ in range(400):
                if await self._quiet():
                    break
            else:
                view = await self.jobs.read("job", depth=Depth.outputs)
                pytest.fail(f"the job never ended: {view}")
            await self._check_end()
        finally:
            for name in list(self.workers):
                await self._kill(name)
            await self.client.aclose()

    async def _quiet(self) -> bool:
        """One round without faults; True when the job has ended and nothing moves any more."""
        for worker, _ in self.workers.values():
            worker.capacity.paused = False
        while self.gates:
            await self._pass(self.gates[0], False)
        while self.nodes:
            await self._end(0, "completed")
        view = await self.jobs.read("job", depth=Depth.outputs)
        assert view is not None
        busy = any(worker.held for worker, _ in self.workers.values())
        if view.ended and not busy and not self.gates and not await self._left():
            return True
        await self._due()
        await self._expire()
        for which in range(len(self.workers)):
            await self._take(which)
        while self.gates:
            await self._pass(self.gates[0], False)
        if not self.nodes:
            await self._reclaim()
        return False

    async def _left(self) -> list[str]:
        names: list[Any] = await self.client.hkeys("job:job")
        left = [name.decode() for name in names if name.startswith((b"c:", b"e:"))]
        for stream in self.jobs.scripts.partitions[0].every_stream("python", "default"):
            if await self.client.exists(stream):
                for group in await self.client.xinfo_groups(stream):
                    if group["pending"] or group["lag"]:
                        left.append(f"{stream}: {group}")
        return left + [str(member) for member in await self.client.zrange("delays", 0, -1)]

    async def _check_end(self) -> None:
        view = await self.jobs.read("job", 0, Depth.outputs)
        assert view is not None
        events = [json.loads(event) for event in view.events]
        assert [event["seq"] for event in events] == list(range(1, view.seq + 1))
        ends = [
            event
            for event in events
            if event["type"] == "status" and event["status"] in ("completed", "failed", "cancelled")
        ]
        assert len(ends) == view.attempt, "one terminal event per attempt of the job"
        attempt = 1
        assert not self.doubled, "a node ran twice under one claim"
        ended: set[str] = set()
        for event in events:
            if (
                event["type"] == "status"
                and event["status"] == "queued"
                and event["seq"] > 1
                and event["attempt"] > attempt
            ):
                attempt, ended = event["attempt"], set()
            if event["type"] == "node" and event["status"] in NODE_ENDED:
                assert event["nodeId"] not in ended, f"{event['nodeId']} ended twice"
                ended.add(event["nodeId"])
        states = view.states()
        assert set(states) == {node.id for node in self.graph.nodes}
        if view.status != "cancelled":
            self._check_table(states)
            unhandled = [n for n, (status, _) in states.items() if status == "failed" and not self.topology.handled(n)]
            assert view.status == ("failed" if unhandled else "completed")
        if view.status == "completed":
            assert view.progress == 1

    def _check_table(self, states: dict[str, tuple[str, str]]) -> None:
        for node, (status, reason) in states.items():
            verdicts = [edge_verdict(self.topology, edge, states) for edge in self.topology.incoming.get(node, ())]
            if "broken" in verdicts:
                assert (status, reason) == ("skipped", "broken"), node
            elif verdicts and "satisfied" not in verdicts:
                assert (status, reason) == ("skipped", "not_taken"), node
            else:
                assert status in ("completed", "failed"), (node, status, verdicts)


def edge_verdict(topology: Any, edge: Any, states: dict[str, tuple[str, str]]) -> str:
    """The table of edge resolution, row by row."""
    status, reason = states[edge.from_]
    on_failure = edge.kind == "on_failure"
    if status == "completed":
        return "not_taken" if on_failure else "satisfied"
    if status == "failed" and topology.handled(edge.from_):
        return "satisfied" if on_failure else "not_taken"
    if status == "skipped" and reason == "not_taken":
        return "not_taken"
    return "broken"


def explore(redis_url: str, examples: int, steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    URL[:] = [redis_url]
    monkeypatch.setattr(nodes, "FLUSH_SECONDS", 0.0)
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=examples, stateful_step_count=steps, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_no_interleaving_loses_or_doubles_a_node(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    explore(redis_url, 100, 30, monkeypatch)


@pytest.mark.long
@pytest.mark.timeout(36000)
def test_no_interleaving_loses_or_doubles_a_node_in_10000_examples(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    explore(redis_url, 10_000, 60, monkeypatch)
