"""Nodes on simulated devices: who gets memory, who waits and is told why, what a fault does. Real processes throughout."""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge import metrics
from dihedral.bridge.tasks.runs import RunControl
from dihedral.data_plane.gpu_memory import simulated
from dihedral.data_plane.gpu_memory.readings import Reading
from dihedral.data_plane.gpu_memory.reservations import SharedReservations
from dihedral.data_plane.process_groups import runs
from tests.devices.rig import GIB, Rig, output, rig, waited
from tests.support.in_process import RecordedEvents
from tests.support.polling import at_this_load


async def test_two_nodes_that_do_not_fit_together_run_one_after_the_other(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=2) as made:
        first = made.start(steps=20, stepSeconds=0.02, memoryMiB=14 * GIB)
        heard = RecordedEvents()
        second = made.start(heard, steps=1, memoryMiB=14 * GIB)
        reason = await waited(heard)
        assert reason.startswith("needs 14.0 GiB, 10.0 free")
        assert not second.done()
        output(await first)
        output(await second)
        assert made.used() == 0


async def test_many_nodes_on_two_devices_never_take_more_than_there_is(tmp_path: Path) -> None:
    """A simulated device refuses what it has not, so every node that completes had its memory."""
    async with rig(tmp_path, "2x24GiB", slots=4) as made:
        sizes = [14, 6, 20, 3, 14, 24, 9, 12, 1, 16]
        nodes = [made.start(steps=2, stepSeconds=0.01, memoryMiB=size * GIB) for size in sizes]
        done = [output(await node) for node in nodes]
        assert [each["memoryMiB"] for each in done] == [size * GIB for size in sizes]  # nobody had to make do with half
        assert {each["device"] for each in done} == {0, 1}


async def test_a_node_waits_for_memory_that_a_stranger_holds_and_says_so(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        heard = RecordedEvents()
        async with made.stranger("12GiB") as pid:
            node = made.start(heard, memoryMiB=14 * GIB)
            assert await waited(heard) == f"needs 14.0 GiB, 12.0 free, 12.0 held by pid {pid}"
            await asyncio.sleep(0.3)
            assert not node.done()
        output(await node)


def nameless(reading: Reading) -> Reading:
    """As a driver tells it in a container: no process is named, and some memory is never free."""
    return Reading(total=reading.total, free=max(0, reading.free - GIB * 2**19), holders={})


async def test_nobody_waits_for_ever_for_what_a_driver_keeps(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=2, changed=nameless, cushion_mib=GIB) as made:
        output(await made.start(memoryMiB=20 * GIB))
        output(await made.start(memoryMiB=24 * GIB))


async def test_idle_processes_that_the_driver_does_not_name_go_where_a_node_needs_their_memory(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=3, changed=nameless) as made:
        idle = [made.start(task="hide", memoryMiB=4 * GIB, stepSeconds=0.3) for _ in range(3)]
        pids = [output(await node)["pid"] for node in idle]
        assert len(set(pids)) == 3
        output(await made.start(memoryMiB=22 * GIB))
        assert not any(runs(pid) for pid in pids)


async def test_a_model_is_its_nodes_to_use_where_the_driver_names_nobody(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1, changed=nameless) as made:
        output(await made.start(model="a", memoryMiB=10 * GIB, modelMiB=10 * GIB))
        assert not output(await made.start(model="a", memoryMiB=20 * GIB, modelMiB=10 * GIB))["cold"]


async def test_an_idle_model_makes_room_where_the_driver_names_nobody(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=2, changed=nameless) as made:
        both = [
            made.start(model=name, steps=5, stepSeconds=0.02, memoryMiB=10 * GIB, modelMiB=10 * GIB) for name in "ab"
        ]
        pids = {output(await node)["pid"] for node in both}
        output(await made.start(memoryMiB=14 * GIB))
        assert set(made.pool.pids()) == pids  # the model went, not its process


async def test_a_node_goes_to_the_device_with_room(tmp_path: Path) -> None:
    async with rig(tmp_path, "2x24GiB", slots=2) as made, made.stranger("20GiB", index=0):
        assert {output(await made.start(memoryMiB=8 * GIB))["device"] for _ in range(3)} == {1}


async def test_the_cushion_stays_free(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=2, cushion_mib=2 * GIB) as made:
        heard = RecordedEvents()
        first = made.start(steps=10, stepSeconds=0.02, memoryMiB=14 * GIB)
        second = made.start(heard, memoryMiB=9 * GIB)
        await waited(heard)
        output(await first)
        output(await second)


async def test_a_small_node_passes_a_large_one_only_where_it_keeps_nobody_waiting(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=4) as made:
        ended: list[str] = []

        def start(name: str, heard: RecordedEvents | None = None, **params: Any) -> "asyncio.Task[Any]":
            node = made.start(heard, **params)
            node.add_done_callback(lambda _: ended.append(name))
            return node

        large_heard, blocked_heard = RecordedEvents(), RecordedEvents()
        first = start("first", steps=40, stepSeconds=0.02, memoryMiB=14 * GIB)
        large = start("large", large_heard, memoryMiB=20 * GIB)
        await waited(large_heard)
        blocked = start("blocked", blocked_heard, memoryMiB=6 * GIB)  # would fit now, and keep the large one waiting
        small = start("small", memoryMiB=4 * GIB)
        assert "kept for an older node that needs 20.0" in await waited(blocked_heard)
        for node in (first, large, blocked, small):
            output(await node)
        assert ended.index("small") < ended.index("first") < ended.index("large") < ended.index("blocked")


async def test_what_fits_no_device_here_is_not_begun(tmp_path: Path) -> None:
    async with rig(tmp_path, "2x24GiB", slots=2) as made:
        outcome = await made.start(memoryMiB=25 * GIB)
        assert (outcome.status, outcome.began) == ("declined", False)
        assert outcome.reason == "needs 25.0 GiB, more than any device of this worker has (24.0)"


async def test_a_node_cancelled_while_it_waits_for_memory_leaves_no_trace(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=2) as made:
        first = made.start(steps=20, stepSeconds=0.02, memoryMiB=14 * GIB)
        heard, cancel = RecordedEvents(), RunControl()
        second = made.start(heard, cancel, memoryMiB=14 * GIB)
        await waited(heard)
        cancel.cancel()
        held = metrics.device_seconds_total.labels("simulate_gpu", "gpu")._value.get()
        outcome = await second
        assert (outcome.status, outcome.began) == ("cancelled", False)
        assert metrics.device_seconds_total.labels("simulate_gpu", "gpu")._value.get() == held
        output(await first)
        assert metrics.device_seconds_total.labels("simulate_gpu", "gpu")._value.get() > held
        output(await made.start(memoryMiB=24 * GIB))


async def test_out_of_memory_is_tried_once_more_with_less(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB,oom@1", slots=1) as made:
        heard = RecordedEvents()
        done = output(await made.start(heard, memoryMiB=8 * GIB))
        assert done["memoryMiB"] == 4 * GIB
        assert ("warning", 'out of memory; once more with less: {"memoryMiB":4096}') in heard.lines


async def test_what_is_tried_with_less_is_said_of_defaults_too(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        heard = RecordedEvents()
        output(await made.start(heard, task="modest"))
        assert heard.lines == [("warning", 'out of memory; once more with less: {"steps":0}')]


async def test_a_smaller_variant_that_cannot_be_made_leaves_it_at_out_of_memory(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        heard = RecordedEvents()
        outcome = await made.start(heard, task="greedy")
        assert outcome.error is not None
        assert outcome.error.code == "out_of_memory"
        assert heard.lines == [("warning", "out of memory, and no smaller variant: ZeroDivisionError: no half of it")]


async def test_out_of_memory_twice_fails_typed_and_the_slot_goes_on(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB,oom@1,oom@2", slots=1) as made:
        outcome = await made.start(memoryMiB=8 * GIB)
        assert outcome.status == "failed"
        assert outcome.error is not None
        assert outcome.error.code == "out_of_memory"
        assert not outcome.retryable
        assert made.used() == 0
        output(await made.start(memoryMiB=8 * GIB))


async def test_a_poisoned_process_is_replaced(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB,poison@2", slots=1) as made:
        before = output(await made.start(memoryMiB=GIB))["pid"]
        outcome = await made.start(memoryMiB=GIB)
        assert outcome.error is not None
        assert outcome.error.code == "device_poisoned"
        assert outcome.retryable  # another process may do it, and the task may run again
        after = output(await made.start(memoryMiB=GIB))["pid"]
        assert after != before
        assert not runs(before)


async def test_a_hung_device_is_cancelled_and_its_memory_is_back(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB,hang@3", slots=1) as made:
        first = output(await made.start(memoryMiB=2 * GIB, model="m", modelMiB=GIB))  # two allocations; the model stays
        assert made.used() == GIB
        heard, cancel = RecordedEvents(), RunControl()
        node = made.start(heard, cancel, memoryMiB=2 * GIB, model="m", modelMiB=GIB)
        await asyncio.sleep(0.5)
        cancel.cancel()
        asked = time.monotonic()
        outcome = await node
        assert outcome.status == "cancelled"
        assert time.monotonic() - asked < at_this_load(5)
        assert not runs(first["pid"])
        (said,) = [payload for name, payload in heard.events if name == "cancelled"]
        assert said["memoryHeldMiB"] == GIB
        assert said["memoryLeftMiB"] == 0
        assert said["slotReplaced"]
        assert 0.2 <= said["seconds"] < 5
        assert made.used() == 0
        output(await made.start(memoryMiB=24 * GIB))


async def test_a_cancel_says_how_long_it_took_and_that_the_memory_is_back(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1, grace_ms=60_000) as made:
        heard, cancel = RecordedEvents(), RunControl()
        node = made.start(heard, cancel, steps=1000, stepSeconds=0.02, memoryMiB=14 * GIB)
        await heard.began()
        cancel.cancel()
        assert (await node).status == "cancelled"
        name, said = heard.events[-1]
        assert name == "cancelled"
        assert said | {"seconds": 0} == {
            "seconds": 0,
            "slotReplaced": False,
            "memoryHeldMiB": 14 * GIB,
            "memoryLeftMiB": 0,
        }
        assert made.used() == 0


async def test_a_process_that_died_gives_its_memory_back(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        heard = RecordedEvents()
        node = made.start(heard, steps=1000, stepSeconds=0.02, memoryMiB=14 * GIB)
        await heard.began()
        (pid,) = made.pool.pids()
        os.kill(pid, signal.SIGKILL)
        outcome = await node
        assert outcome.error is not None
        assert outcome.error.code == "slot_crashed"
        output(await made.start(memoryMiB=24 * GIB))


async def test_a_node_that_is_asked_for_its_best_ends_early_and_completes(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        heard, cancel = RecordedEvents(), RunControl()
        node = made.start(heard, cancel, steps=10_000, stepSeconds=0.01, memoryMiB=GIB)
        await heard.began()
        cancel.request("finish")
        done = output(await node)
        assert done["early"]
        assert 0 < done["steps"] < 10_000
        assert not output(await made.start(steps=2))["early"]  # the wish was for that node alone


# Models that stay loaded ----------------------------------------------------------------------------------------------


async def test_a_model_stays_loaded_and_its_slot_is_preferred(tmp_path: Path) -> None:
    async with rig(tmp_path, "2x24GiB", slots=2) as made:
        model: dict[str, Any] = {"memoryMiB": 8 * GIB, "modelMiB": 6 * GIB}
        nodes = [made.start(model=name, steps=5, stepSeconds=0.02, **model) for name in ("a", "b")]
        a, b = [output(await node) for node in nodes]
        assert a["cold"] and b["cold"]  # noqa: PT018
        assert a["pid"] != b["pid"]
        for _ in range(2):
            for name, before in (("a", a), ("b", b)):
                again = output(await made.start(model=name, **model))
                assert again["pid"] == before["pid"]
                assert not again["cold"]


async def test_a_model_goes_when_another_comes(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        assert output(await made.start(model="a", memoryMiB=20 * GIB, modelMiB=20 * GIB))["cold"]
        assert output(await made.start(model="b", memoryMiB=20 * GIB, modelMiB=20 * GIB))["cold"]
        assert output(await made.start(model="a", memoryMiB=20 * GIB, modelMiB=20 * GIB))["cold"]
        assert made.used() == 20 * GIB


async def test_an_idle_model_makes_room_for_a_node_that_needs_it(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=2) as made:
        both = [
            made.start(model=name, steps=5, stepSeconds=0.02, memoryMiB=10 * GIB, modelMiB=10 * GIB) for name in "ab"
        ]
        for node in both:
            output(await node)
        assert made.used() == 20 * GIB
        output(await made.start(memoryMiB=22 * GIB))


async def test_what_an_idle_process_holds_goes_with_it_where_a_node_needs_it(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=2) as made:
        both = [made.start(task="leak", memoryMiB=8 * GIB, stepSeconds=0.2) for _ in range(2)]
        pids = {output(await node)["pid"] for node in both}
        assert made.used() == 16 * GIB
        assert output(await made.start(memoryMiB=14 * GIB))["memoryMiB"] == 14 * GIB
        assert len({pid for pid in pids if runs(pid)}) < 2


async def test_a_cancelled_process_that_keeps_memory_is_replaced(tmp_path: Path) -> None:
    """The task itself ends in time, so nothing but its memory says that the process is spent."""
    async with rig(tmp_path, "1x24GiB", slots=1, grace_ms=60_000) as made:
        heard, cancel = RecordedEvents(), RunControl()
        node = made.start(heard, cancel, task="leak", memoryMiB=8 * GIB, steps=1000, stepSeconds=0.01)
        pid = (await heard.began())["pid"]
        cancel.cancel()
        assert (await node).status == "cancelled"
        assert heard.events[-1][1] | {"seconds": 0} == {
            "seconds": 0,
            "slotReplaced": True,
            "memoryHeldMiB": 8 * GIB,
            "memoryLeftMiB": 8 * GIB,
        }
        output(await made.start(memoryMiB=24 * GIB))
        assert not runs(pid)


async def test_what_the_first_use_of_a_device_leaves_behind_is_no_leak(tmp_path: Path) -> None:
    """A context and the modules of libraries stay in a process: its first cancel passed for a leak."""
    async with rig(tmp_path, "1x24GiB", slots=1, grace_ms=60_000) as made:
        heard, cancel = RecordedEvents(), RunControl()
        node = made.start(heard, cancel, task="leak", memoryMiB=600, steps=1000, stepSeconds=0.01)
        pid = (await heard.began())["pid"]
        cancel.cancel()
        await node
        said = heard.events[-1][1]
        assert (said["slotReplaced"], said["memoryLeftMiB"]) == (False, 600)
        assert said["seconds"] < at_this_load(1.5)
        assert runs(pid)


async def test_nobody_waits_behind_younger_ones_that_want_a_model_which_is_loaded(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        wanted: dict[str, Any] = {"model": "a", "memoryMiB": GIB, "modelMiB": GIB, "steps": 5, "stepSeconds": 0.02}
        output(await made.start(**wanted))
        running = made.start(**wanted)
        other = made.start(model="b", memoryMiB=GIB, modelMiB=GIB)
        following = made.start(**wanted)
        output(await running)
        output(await other)
        assert not following.done()
        output(await following)


async def test_a_process_that_gives_its_model_back_is_not_killed_for_the_next_in_line(tmp_path: Path) -> None:
    """Asked to forget, it held memory without a model for a moment; another node's look killed it then."""
    async with rig(tmp_path, "1x24GiB", slots=3) as made:
        both = [
            made.start(model=name, steps=5, stepSeconds=0.02, memoryMiB=10 * GIB, modelMiB=10 * GIB) for name in "ab"
        ]
        pids = {output(await node)["pid"] for node in both}
        nodes = [made.start(memoryMiB=22 * GIB, steps=1) for _ in range(2)]
        await asyncio.gather(*nodes)
        assert pids <= set(made.pool.pids())


@pytest.mark.parametrize("steps", [12])
async def test_a_node_goes_on_from_its_checkpoint_in_another_process(tmp_path: Path, steps: int) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        heard, cancel = RecordedEvents(), RunControl()
        node = made.start(heard, cancel, steps=1000, stepSeconds=0.02, memoryMiB=GIB, checkpointEvery=2)
        while len(heard.events) < 5:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        cancel.cancel()
        await node
        done = output(await made.start(steps=steps, memoryMiB=GIB, checkpointEvery=2))
        assert 4 <= done["resumedAt"] <= steps


def urgency(rank: int, may_pause: bool = True) -> RunControl:
    token = RunControl()
    token.rank = rank
    token.may_pause = lambda: may_pause and not token.requests
    return token


async def test_what_is_less_urgent_gives_its_memory_to_the_urgent_and_to_nobody_else(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=3) as made:
        low, urgent, first = urgency(2), urgency(0), RecordedEvents()
        runs_now = made.start(first, low, steps=100_000, stepSeconds=0.01, memoryMiB=20 * GIB)
        await first.began()
        older = made.start(RecordedEvents(), urgency(2), steps=1, memoryMiB=20 * GIB)
        heard = RecordedEvents()
        now = made.start(heard, urgent, steps=20, stepSeconds=0.01, memoryMiB=20 * GIB)
        assert (await waited(heard)).startswith("needs 20.0 GiB")
        assert (await runs_now).status == "preempted"
        assert low.requests == ["pause"]
        output(await now)
        assert not older.done()
        output(await older)


async def test_nobody_pauses_for_memory_that_would_not_be_enough(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=3) as made:
        equal, low = urgency(0), urgency(2)
        running = []
        for token, size in ((equal, 12), (low, 2)):
            heard = RecordedEvents()
            running.append(made.start(heard, token, steps=100_000, stepSeconds=0.01, memoryMiB=size * GIB))
            await heard.began()
        waits = RecordedEvents()
        urgent = made.start(waits, urgency(0), memoryMiB=20 * GIB)
        await waited(waits)
        await asyncio.sleep(1.6)  # longer than it waits before others are asked
        equal.cancel()
        output(await urgent)
        assert not low.requests
        low.cancel()
        await asyncio.gather(*running)


async def test_what_runs_have_used_is_learnt(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        task = made.registry["simulate_gpu"]
        bucket = task.size_bucket({"memoryMiB": 3 * GIB})
        for _ in range(5):
            output(await made.start(memoryMiB=3 * GIB))
        await asyncio.sleep(0)  # it is noted beside
        assert made.peaks._seen == {bucket: [3 * GIB * 2**20] * 5}


async def test_of_a_smaller_variant_nothing_is_learnt(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB,oom@1", slots=1) as made:
        output(await made.start(memoryMiB=8 * GIB))
        await asyncio.sleep(0)
        assert made.peaks._seen == {}


async def test_a_peak_that_nobody_saw_does_not_undercut_what_was_declared(tmp_path: Path) -> None:
    async with rig(tmp_path, "1x24GiB", slots=1) as made:
        for _ in range(5):
            output(await made.start(task="quick"))
        await asyncio.sleep(0)
        assert made.peaks.need_bytes(made.registry["quick"], {}) == 2 * GIB * 2**20


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_happens_everything_ends_and_the_devices_are_whole_again(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with rig(tmp_path, "2x24GiB,oom@2,poison@4", slots=4) as made:
        nodes, cancels = [], []
        for _ in range(24):
            cancel = RunControl()
            size, model = rng.choice([1, 3, 6, 10, 14, 20, 24]), rng.choice(["", "", "a", "b"])
            half: dict[str, Any] = {"model": model, "modelMiB": size * GIB // 2, "steps": rng.randint(0, 8)}
            nodes.append(made.start(None, cancel, memoryMiB=size * GIB, stepSeconds=0.02, **half))
            cancels.append(cancel)
        while not all(node.done() for node in nodes):
            await asyncio.sleep(rng.uniform(0.01, 0.15))
            what = rng.random()
            if what < 0.15:
                rng.choice(cancels).cancel()
            elif what < 0.25 and made.pool.pids():
                os.kill(rng.choice(made.pool.pids()), signal.SIGKILL)
        outcomes = [await node for node in nodes]
        failures = {outcome.error.code for outcome in outcomes if outcome.error is not None}
        assert failures <= {"out_of_memory", "device_poisoned", "slot_crashed"}
        assert any(outcome.status == "completed" for outcome in outcomes)
        await asyncio.sleep(0.3)  # a process that was killed just now passes for an idle one until it is reaped
        counts = [json.loads((made.directory / f"gpu{index}.json").read_text())["allocations"] for index in (0, 1)]
        assert min(counts) > 4  # the scripted faults are behind
        whole = [
            output(await node) for node in [made.start(steps=5, stepSeconds=0.02, memoryMiB=24 * GIB) for _ in range(2)]
        ]
        assert [each["memoryMiB"] for each in whole] == [24 * GIB] * 2
        assert made.pool._seats._ledger is not None
        while made.pool._seats._ledger.reservations:  # noqa: ASYNC110 (until the next look)
            await asyncio.sleep(0.01)


def test_memory_that_is_collected_under_the_lock_waits_for_nobody(tmp_path: Path) -> None:
    """An allocation's end took the lock again, which this process held: it never returned."""
    (gpu,) = simulated.open_gpus(simulated.parse("1x24GiB"), tmp_path)
    held = [gpu.allocate(2**20)]

    def collect() -> None:
        with gpu._state():
            held.clear()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(at_this_load(5))
    assert not thread.is_alive()
    gpu.give_memory_back()
    assert gpu.reading().holders == {}


# Several workers on one device ----------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def two_workers(tmp_path: Path, slots: int) -> AsyncIterator[list[Rig]]:
    """Of one device of 24 GiB, which see each other's promises."""
    file = tmp_path / "promises0.json"
    async with (
        rig(tmp_path, "1x24GiB", slots=slots, shared=SharedReservations([file], os.getpid())) as one,
        rig(tmp_path, "1x24GiB", slots=slots, shared=SharedReservations([file], os.getpid())) as two,
    ):
        yield [one, two]


async def test_two_workers_do_not_give_the_same_memory_away(tmp_path: Path) -> None:
    """Each node takes nearly all of its memory late, so that a look alone shows the device empty."""
    async with two_workers(tmp_path, slots=2) as workers:
        late: dict[str, Any] = {"model": "m", "modelMiB": 1, "loadSeconds": 0.1}
        sizes = [14, 8, 14, 6, 20, 3, 22, 12]
        nodes = [
            workers[number % 2].start(**late, memoryMiB=size * GIB, steps=2, stepSeconds=0.01)
            for number, size in enumerate(sizes)
        ]
        assert [output(await node)["memoryMiB"] for node in nodes] == [size * GIB for size in sizes]


async def test_a_node_is_told_what_another_worker_has_promised(tmp_path: Path) -> None:
    async with two_workers(tmp_path, slots=1) as (one, two):
        first = one.start(memoryMiB=14 * GIB, model="m", modelMiB=1, loadSeconds=0.5)
        await asyncio.sleep(0.1)
        heard = RecordedEvents()
        second = two.start(heard, memoryMiB=14 * GIB)
        assert "promised to running nodes" in await waited(heard)
        output(await first)
        output(await second)


async def test_what_a_worker_had_promised_is_free_when_it_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "promises0.json"
    async with rig(tmp_path, "1x24GiB", slots=1, shared=SharedReservations([file], os.getpid())) as stays:
        async with rig(tmp_path, "1x24GiB", slots=1, shared=SharedReservations([file], os.getpid())) as goes:
            heard = RecordedEvents()
            running = goes.start(heard, memoryMiB=14 * GIB, steps=1000, stepSeconds=0.1)
            await heard.began()
            waits = RecordedEvents()
            node = stays.start(waits, memoryMiB=24 * GIB)
            await waited(waits)
            running.cancel()
        output(await node)


async def test_a_tool_has_the_memory_that_the_operator_has_declared_for_it(tmp_path: Path) -> None:
    """It is a process of its own below the slot: what it holds is what was reserved, and is not counted twice."""
    holds = [
        sys.executable,
        "-P",
        "-m",
        "dihedral.data_plane.gpu_memory.simulated",
        str(tmp_path / "gpus"),
        "0",
        "14GiB",
    ]
    table = {
        "argv": holds,
        "cwd": str(Path(__file__).parents[2]),
        "result": ["output/*"],
        "memoryMib": 14 * GIB,
        "graceSeconds": 0.2,
    }
    async with rig(tmp_path, "1x24GiB", slots=3, tasks={"run_tool": {"tools": {"trainer": table}}}) as made:
        control, told = RunControl(), RecordedEvents()
        tool = made.start(told, control, task="run_tool", tool="trainer")
        async with asyncio.timeout(at_this_load(30)):
            while made.used() < 14 * GIB and not tool.done():  # noqa: ASYNC110 (another process takes it)
                await asyncio.sleep(0.01)
        assert not tool.done()
        output(await made.start(memoryMiB=9 * GIB))
        heard = RecordedEvents()
        larger = made.start(heard, memoryMiB=12 * GIB)
        assert (await waited(heard)).startswith("needs 12.0 GiB, 10.0 free, 14.0 held by pid")
        control.cancel()
        assert (await tool).status == "cancelled"
        output(await larger)
