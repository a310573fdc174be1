"""What a slot does to a node, and what a node may do to its slot: all with real processes."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dihedral.bridge.artifacts import open_store
from dihedral.bridge.tasks.registry import collect
from dihedral.bridge.tasks.runs import NodeRun, RunControl
from dihedral.control_plane.planning import plan as planning
from dihedral.data_plane.process_groups import members
from dihedral.data_plane.slots.pool import SlotPool
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.submission import GraphSubmission
from tests.data_plane import slot_tasks
from tests.support.in_process import RecordedEvents
from tests.support.outcomes import Seen, ended
from tests.support.polling import at_this_load

MODULE = "tests.data_plane.slot_tasks"


def settings(tmp_path: Path, **jobs: Any) -> Settings:
    return msgspec.convert(
        {
            "artifacts": {"directory": str(tmp_path / "artifacts")},
            "jobs": jobs,
            "worker": {"cancelGraceMs": 300},
        },
        Settings,
    )


def node(task: str, *, timeout_seconds: float = 60, **params: Any) -> NodeRun:
    return NodeRun(
        job_id="job", node_id="n", task=task, attempt=1, nonce="x1", params=params, timeout_seconds=timeout_seconds
    )


@pytest.fixture
async def pool(tmp_path: Path) -> AsyncIterator[SlotPool]:
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=settings(tmp_path)) as pool:
        yield pool


async def test_an_integer_of_any_size_reaches_a_slot(pool: SlotPool) -> None:
    """MessagePack has 64 bits for one, JSON any number."""
    nodes = [{"id": "n", "task": "echo", "plane": "python"}]
    asked = {"schema": "langgraph.v1", "metadata": {"trace": 2**70}, "nodes": nodes, "edges": []}
    graph = planning.normalise(msgspec.convert(asked, GraphSubmission), "job")
    told = msgspec.structs.replace(node("echo", text="a"), request={"params": {"trace": 2**70}}, graph=graph)
    assert output(await ended(pool.run(told, RecordedEvents(), RunControl()))) == {"text": "a"}
    refused = await run(pool, "prints", count=2**70)
    assert (refused.status, refused.error and refused.error.code) == ("failed", "invalid_params")


async def run(pool: SlotPool, task: str, heard: RecordedEvents | None = None, **params: Any) -> Seen:
    return await ended(pool.run(node(task, **params), heard or RecordedEvents(), RunControl()))


def output(outcome: Seen) -> Any:
    assert outcome.status == "completed", outcome
    assert outcome.output is not None
    return msgspec.json.decode(outcome.output)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(at_this_load(10)):
        while not condition():  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(0.005)


def runs(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except FileNotFoundError:
        return False


def exists(path: str) -> bool:
    return Path(path).exists()


async def test_a_slot_is_used_again_by_plain_and_async_tasks(pool: SlotPool) -> None:
    first = output(await run(pool, "pid"))["pid"]
    assert first != os.getpid()
    assert output(await run(pool, "async_pid"))["pid"] == first
    assert output(await run(pool, "pid"))["pid"] == first


@pytest.mark.parametrize(
    ("how", "detail"),
    [("segv", {"signal": "SIGSEGV"}), ("kill", {"signal": "SIGKILL"}), ("exit", {"exitCode": 3})],
)
async def test_a_crash_fails_its_node_alone_and_the_slot_is_replaced(
    pool: SlotPool, how: str, detail: dict[str, Any]
) -> None:
    before = output(await run(pool, "pid"))["pid"]
    outcome = await run(pool, "dies", text=how)
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "slot_crashed"
    assert detail.items() <= outcome.error.details.items()
    assert "last words" in outcome.error.details["stderr"]
    assert outcome.retryable
    assert output(await run(pool, "pid"))["pid"] != before


async def test_a_crash_of_a_task_that_is_not_idempotent_is_not_tried_again(pool: SlotPool) -> None:
    outcome = await run(pool, "dies_after_half")
    assert outcome.error is not None
    assert outcome.error.code == "slot_crashed"
    assert not outcome.retryable


async def test_an_exception_becomes_a_typed_error_with_traceback_and_stderr(pool: SlotPool) -> None:
    outcome = await run(pool, "raises", text="")
    assert outcome.error is not None
    assert outcome.error.code == "task_failed"
    assert outcome.error.message == "ValueError: not ? good"
    assert outcome.error.details["class"] == "ValueError"
    assert "slot_tasks.py" in outcome.error.details["traceback"]
    assert outcome.error.details["stderr"] == "about to raise"
    assert not outcome.retryable


async def test_a_task_says_which_errors_are_worth_another_attempt(pool: SlotPool) -> None:
    foreseen, reset, left = [await run(pool, "raises", text=text) for text in ("foreseen", "connection", "exit")]
    assert foreseen.error is not None
    assert foreseen.error.code == "no_speech"
    assert foreseen.error.details["frames"] == 0
    assert foreseen.retryable
    assert reset.retryable
    assert left.error is not None
    assert left.error.details["class"] == "SystemExit"


async def test_what_a_task_prints_and_logs_becomes_log_lines(pool: SlotPool) -> None:
    heard = RecordedEvents()
    output(await run(pool, "prints", heard, count=3))
    assert [text for level, text in heard.lines if level == "stdout"] == ["line 0", "line 1", "line 2", "no newline"]
    assert ("stderr", "\ufffd from below") in heard.lines
    assert ("warning", "logged") in heard.lines
    assert ("debug", "said") in heard.lines


async def test_a_flood_of_output_is_cut_and_counted_and_blocks_nothing(pool: SlotPool) -> None:
    heard = RecordedEvents()
    output(await run(pool, "prints", heard, count=200_000))
    assert len(heard.lines) < 3_000
    assert any("lines were left out" in text for level, text in heard.lines if level == "warning")


async def test_progress_and_data_arrive_in_order_before_the_end(pool: SlotPool) -> None:
    heard = RecordedEvents()
    output(await run(pool, "reports", heard, count=5_000))
    assert heard.fractions == sorted(heard.fractions)
    assert heard.fractions[-1] == 1.0
    assert len(heard.fractions) <= 1_001
    assert [payload["number"] for _, payload in heard.events] == list(range(5_000))


async def test_an_event_that_no_job_may_keep_does_not_reach_the_worker(pool: SlotPool) -> None:
    """A frame of hundreds of MB would go through the worker, which shares its event loop with others."""
    heard = RecordedEvents()
    output(await run(pool, "emits_large", heard, count=100_000_000))
    assert [name for name, _ in heard.events] == ["small"]
    assert [level for level, text in heard.lines if "was dropped" in text] == ["warning"]


async def test_a_flood_of_events_is_paced_in_its_own_process(pool: SlotPool) -> None:
    begun = time.monotonic()
    output(await run(pool, "reports", count=4_000))
    assert time.monotonic() - begun > 0.9, "2,000 at once, then 2,000 a second"


async def test_large_params_and_output_pass_and_too_large_output_fails(tmp_path: Path) -> None:
    registry = collect([MODULE])
    limits = settings(tmp_path, nodeOutputBytes=30_000_000)
    async with SlotPool(slots=1, registry=registry, modules=[MODULE], settings=limits) as pool:
        assert len(output(await run(pool, "echo", text="x" * 20_000_000))["text"]) == 20_000_000
        outcome = await run(pool, "echo", text="x" * 40_000_000)
        assert outcome.error is not None
        assert outcome.error.code == "output_too_large"


async def test_wrong_params_and_wrong_output_are_refused(pool: SlotPool) -> None:
    unknown, wrong, returned = (
        await run(pool, "pid", surplus=1),
        await run(pool, "echo", text=1),
        await run(pool, "returns_wrong"),
    )
    codes = [outcome.error.code for outcome in (unknown, wrong, returned) if outcome.error is not None]
    assert codes == ["invalid_params", "invalid_params", "invalid_output"]


async def cancel_after_it_began(pool: SlotPool, task: str) -> tuple[Seen, dict[str, Any], RecordedEvents]:
    heard, cancel = RecordedEvents(), RunControl()
    running = asyncio.ensure_future(ended(pool.run(node(task), heard, cancel)))
    began = await heard.began()
    cancel.cancel()
    return await asyncio.wait_for(running, at_this_load(20)), began, heard


@pytest.mark.parametrize("task", ["cooperates", "waits"])
async def test_a_cancel_that_the_task_hears_keeps_the_slot(pool: SlotPool, task: str) -> None:
    outcome, began, _ = await cancel_after_it_began(pool, task)
    assert outcome.status == "cancelled"
    assert output(await run(pool, "pid"))["pid"] == began["pid"]


async def test_a_run_that_stops_for_a_pause_is_preempted_and_keeps_the_slot(pool: SlotPool) -> None:
    heard, control = RecordedEvents(), RunControl()
    running = asyncio.ensure_future(ended(pool.run(node("cooperates"), heard, control)))
    began = await heard.began()
    control.request("pause")
    outcome = await asyncio.wait_for(running, at_this_load(20))
    assert outcome.status == "preempted"
    assert not any(name == "cancelled" for name, _ in heard.events)
    assert output(await run(pool, "pid"))["pid"] == began["pid"]


async def test_a_run_that_is_cancelled_while_it_pauses_is_cancelled(pool: SlotPool) -> None:
    heard, control = RecordedEvents(), RunControl()
    running = asyncio.ensure_future(ended(pool.run(node("never_looks"), heard, control)))
    await heard.began()
    control.request("pause")
    control.cancel()
    assert (await asyncio.wait_for(running, at_this_load(20))).status == "cancelled"


async def test_a_task_that_completes_although_it_was_asked_to_pause_is_completed(pool: SlotPool) -> None:
    control = RunControl()
    control.request("pause")
    outcome = await ended(pool.run(node("pid"), RecordedEvents(), control))
    assert outcome.status == "completed"


async def test_a_task_that_never_looks_is_unwound_by_sigterm(pool: SlotPool) -> None:
    outcome, began, heard = await cancel_after_it_began(pool, "never_looks")
    assert outcome.status == "cancelled"
    assert ("info", "unwound") in heard.lines
    assert not runs(began["pid"])


async def test_a_stubborn_task_is_cancelled_only_when_it_and_its_children_are_gone(pool: SlotPool) -> None:
    outcome, began, _ = await cancel_after_it_began(pool, "stubborn")
    assert outcome.status == "cancelled"
    assert not runs(began["pid"])
    assert not runs(began["child"])
    assert not members(began["pid"])
    assert output(await run(pool, "pid"))["pid"] != began["pid"]


async def test_children_that_a_cancelled_task_left_behind_are_killed(pool: SlotPool) -> None:
    outcome, began, _ = await cancel_after_it_began(pool, "leaves_a_child")
    assert outcome.status == "cancelled"
    assert not runs(began["child"])


@pytest.mark.parametrize("task", ["cooperates", "stubborn", "waits"])
async def test_a_node_whose_time_is_over_fails_with_timeout(pool: SlotPool, task: str) -> None:
    output(await run(pool, "pid"))
    outcome = await ended(pool.run(node(task, timeout_seconds=0.2), RecordedEvents(), RunControl()))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "timeout"
    output(await run(pool, "pid"))


async def test_a_node_cancelled_while_it_waits_for_a_slot_never_starts(pool: SlotPool) -> None:
    first, second, heard = RunControl(), RunControl(), RecordedEvents()
    running = asyncio.ensure_future(ended(pool.run(node("cooperates"), heard, first)))
    await heard.began()
    waiting_heard = RecordedEvents()
    waiting = asyncio.ensure_future(ended(pool.run(node("reports", count=1), waiting_heard, second)))
    await asyncio.sleep(0)
    second.cancel()
    assert (await waiting).status == "cancelled"
    assert not waiting_heard.events
    first.cancel()
    assert (await running).status == "cancelled"
    output(await run(pool, "pid"))


async def test_garbage_on_the_pipe_fails_the_node_and_replaces_the_slot(pool: SlotPool) -> None:
    outcome = await run(pool, "talks_garbage")
    assert outcome.error is not None
    assert outcome.error.code == "slot_crashed"
    assert "no message" in outcome.error.message
    output(await run(pool, "pid"))


async def test_a_slot_whose_modules_do_not_load_says_why(tmp_path: Path) -> None:
    async with SlotPool(
        slots=1, registry=collect([MODULE]), modules=["no_such_module"], settings=settings(tmp_path)
    ) as pool:
        outcome = await run(pool, "pid")
        assert outcome.error is not None
        assert outcome.error.code == "slot_start_failed"
        assert "no_such_module" in outcome.error.message
        assert outcome.retryable


async def test_closing_the_pool_kills_what_runs(tmp_path: Path) -> None:
    heard = RecordedEvents()
    pool = SlotPool(slots=2, registry=collect([MODULE]), modules=[MODULE], settings=settings(tmp_path))
    async with pool:
        running = asyncio.ensure_future(ended(pool.run(node("stubborn"), heard, RunControl())))
        began = await heard.began()
    await asyncio.wait({running}, timeout=at_this_load(10))
    assert not runs(began["pid"])
    assert not runs(began["child"])
    assert asyncio.all_tasks() == {asyncio.current_task()}, "a closed pool starts nothing anew"


PARENT = """
import asyncio, sys
from pathlib import Path
from dihedral.bridge.tasks.runs import RunControl
from dihedral.bridge.tasks.registry import collect
from dihedral.data_plane.slots.pool import SlotPool
from tests.data_plane.test_slots import MODULE, node, settings
from tests.support.in_process import RecordedEvents

class Says(RecordedEvents):
    def data(self, name, payload):
        print(payload["pid"], flush=True)

async def main():
    limits = settings(Path(sys.argv[1]), leaseMs=600)
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=limits) as pool:
        await pool.run(node(sys.argv[2]), Says(), RunControl())

asyncio.run(main())
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_a_dead_or_frozen_parent_takes_its_slots_along(tmp_path: Path, how: signal.Signals) -> None:
    parent = subprocess.Popen(  # noqa: ASYNC220
        [sys.executable, "-c", PARENT, str(tmp_path), "never_looks"], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    with parent.stdout:
        child = int(await asyncio.to_thread(parent.stdout.readline))
        assert runs(child)
        parent.send_signal(how)
        try:
            await until(lambda: not runs(child))
        finally:
            parent.kill()
            parent.wait()


@pytest.mark.parametrize("task", ["copies", "copies_async"])
async def test_a_slot_fetches_and_stores_artifacts(tmp_path: Path, task: str) -> None:
    from dihedral.bridge.artifacts import open_store

    limits = settings(tmp_path)
    store = open_store(limits.artifacts)
    await store.put("inputs", "given.bin", b"given", content_type="application/octet-stream", job_id=None, node_id=None)
    heard = RecordedEvents()
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=limits) as pool:
        outcome = await run(pool, task, heard, source={"bucket": "inputs", "key": "given.bin"})
        output(outcome)
        [meta] = outcome.artifacts
        assert meta.key == f"job/n/x1/{'twice.bin' if task == 'copies' else 'same.bin'}"
        assert meta == await store.meta(meta.bucket, meta.key)
        assert meta.size_bytes == (10 if task == "copies" else 5)
        assert not any(exists(payload["path"]) for _, payload in heard.events)
        missing = await run(pool, task, source={"bucket": "inputs", "key": "absent.bin"})
        assert missing.error is not None
        assert missing.error.code == "artifact_not_found"
    await store.close()


@pytest.mark.parametrize("task", ["copies", "copies_async"])
async def test_a_slot_stores_for_the_owner_of_the_job_and_fetches_nothing_of_others(tmp_path: Path, task: str) -> None:
    from dihedral.bridge.artifacts import open_store

    limits = settings(tmp_path)
    store = open_store(limits.artifacts)
    for owner in ("alice", "bob"):
        await store.put("inputs", f"{owner}.bin", b"given", content_type="text/plain", owner=owner)
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=limits) as pool:

        async def copied(of: str, owner: str) -> Seen:
            wanted = node(task, source={"bucket": "inputs", "key": f"{of}.bin"})
            return await ended(pool.run(msgspec.structs.replace(wanted, owner=owner), RecordedEvents(), RunControl()))

        assert [meta.owner for meta in (await copied("alice", "alice")).artifacts] == ["alice"]
        refused = await copied("alice", "bob")
        assert refused.error is not None
        assert refused.error.code == "artifact_not_found"
        assert (await copied("alice", "")).status == "completed", "nobody's job: an open control plane"
    await store.close()


async def test_settings_of_a_task_reach_it_in_its_slot_and_stand_in_no_argument_or_variable(tmp_path: Path) -> None:
    made = settings(tmp_path)
    made.tasks["speaks"] = {"folder": "/voices", "apiKey": "the-secret"}
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=made) as pool:
        assert output(await run(pool, "speaks"))["text"] == "/voices 4 True False"


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "tasks.speaks: Object missing required field `folder`"),
        ({"folder": "x", "most": 0}, "tasks.speaks.most: Expected `int` >= 1"),
        ({"folder": "x", "apiKey": 5}, "tasks.speaks.apiKey: Expected `str`, got `int`"),
        ({"folder": "x", "api_key": "the-secret"}, "tasks.speaks.api_key: there is no such setting"),
    ],
)
async def test_wrong_settings_fail_the_node_with_path_and_reason(
    tmp_path: Path, table: dict[str, Any], said: str
) -> None:
    made = settings(tmp_path)
    made.tasks["speaks"] = table
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=made) as pool:
        outcome = await run(pool, "speaks")
    assert outcome.error is not None
    assert (outcome.error.code, outcome.error.message) == ("invalid_settings", said)


# What a task that ended well leaves behind ----------------------------------------------------------------------------


@pytest.mark.parametrize("what", [*slot_tasks.LEAVES, "event loop", "to_thread"])
async def test_what_a_completed_task_leaves_behind_is_not_found_by_the_next_one(pool: SlotPool, what: str) -> None:
    before = output(await run(pool, "state"))
    task = "leaves_async" if what in ("event loop", "to_thread") else "leaves"
    left = await run(pool, task, text=what)
    assert left.status == "completed", left
    heard = RecordedEvents()
    after = output(await run(pool, "state", heard))
    assert after["seen"] == before["seen"]
    assert sorted(heard.lines) == [("info", "logged"), ("stderr", "printed to stderr"), ("stdout", "printed")]


@pytest.mark.parametrize(
    "what", ["tee", "process", "working directory", "environment", "umask", "logging", "event loop"]
)
async def test_a_slot_whose_state_can_be_put_back_stays_warm(pool: SlotPool, what: str) -> None:
    task = "leaves_async" if what == "event loop" else "leaves"
    first = output(await run(pool, task, text=what))["pid"]
    assert output(await run(pool, "pid"))["pid"] == first


async def test_a_slot_that_is_replaced_says_why(pool: SlotPool) -> None:
    heard = RecordedEvents()
    first = output(await run(pool, "leaves", heard, text="thread"))["pid"]
    assert ("info", "the slot's process is replaced: threads were left running: Thread-1 (talks_later)") in heard.lines
    assert output(await run(pool, "pid"))["pid"] != first


async def test_a_process_that_belongs_to_a_kept_model_stays_as_long_as_the_model(pool: SlotPool) -> None:
    child = output(await run(pool, "serves", text="a"))["pid"]
    assert output(await run(pool, "leaves", text="process"))["pid"] != child
    assert output(await run(pool, "serves", text="a"))["pid"] == child
    other = output(await run(pool, "serves", text="b"))["pid"]
    assert other != child
    assert not runs(child)
    assert runs(other)


async def test_a_cancel_ends_processes_that_have_left_the_group(pool: SlotPool) -> None:
    heard, cancel = RecordedEvents(), RunControl()
    running = asyncio.ensure_future(ended(pool.run(node("daemonises"), heard, cancel)))
    child = (await heard.began())["child"]
    cancel.cancel()
    assert (await running).status == "cancelled"
    await until(lambda: not runs(child))


# Much to print -------------------------------------------------------------------------------------------------------


async def test_the_last_lines_are_told_and_the_whole_output_is_an_artifact_when_it_was_cut(tmp_path: Path) -> None:
    made = settings(tmp_path)
    store = open_store(made.artifacts)
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=made, store=store) as pool:
        heard = RecordedEvents()
        outcome = await run(pool, "prints", heard, count=20_000)
        said = [text for level, text in heard.lines if level == "stdout"]
        assert said[0] == "line 0"
        assert {"line 19999", "no newline"} <= set(said)
        assert said[-1] in ("line 19999", "no newline")
        assert len(said) < 2_500
        [meta] = outcome.artifacts
        assert meta.key == "job/n/x1/output.txt"
        whole = b"".join([part async for part in store.open(meta.bucket, meta.key)]).decode("utf-8", "replace")
        assert [line for line in whole.splitlines() if line.startswith("line")] == [f"line {n}" for n in range(20_000)]
        assert (await run(pool, "prints", count=10)).artifacts == []


async def test_a_progress_bar_does_not_use_up_the_log(pool: SlotPool) -> None:
    heard = RecordedEvents()
    output(await run(pool, "draws_a_bar", heard, count=30_000))
    said = [text for level, text in heard.lines if level == "stderr"]
    assert said[-1] == "100%"
    assert 1 < len(said) < 20
    assert ("stdout", "FINAL 0.93") in heard.lines
    assert not any("left out" in text for _, text in heard.lines)


async def test_a_slot_allocates_no_more_memory_than_it_may_and_lives_on(tmp_path: Path) -> None:
    made = settings(tmp_path)
    made.worker.slot_memory_mib = 600
    async with SlotPool(slots=1, registry=collect([MODULE]), modules=[MODULE], settings=made) as pool:
        first = output(await run(pool, "pid"))["pid"]
        outcome = await run(pool, "allocates", count=2_000)
        assert outcome.error is not None
        assert outcome.error.code == "out_of_memory"
        assert output(await run(pool, "allocates", count=100)) == {"count": 100}
        assert output(await run(pool, "pid"))["pid"] == first
