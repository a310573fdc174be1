"""A driver that does not answer: whoever needs device memory waits and is told so, and nothing else does."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge.tasks.runs import RunControl
from dihedral.data_plane.gpu_memory import readings as memory
from dihedral.data_plane.gpu_memory.locked import locked
from dihedral.data_plane.gpu_memory.readings import Reading
from dihedral.data_plane.gpu_memory.reservations import SharedReservations
from tests.devices.rig import GIB, Rig, output, rig
from tests.support.in_process import RecordedEvents
from tests.support.polling import at_this_load, becomes_async


class Driver:
    """Passes readings on, after it has been let go on; counts the looks, and how many there were at once at the most."""

    def __init__(self) -> None:
        self.answers = threading.Event()
        self.answers.set()
        self.error: Exception | None = None
        self.looks = self.at_once = self.most_at_once = 0

    def __call__(self, reading: Reading) -> Reading:
        self.looks += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.answers.wait(60)
        self.at_once -= 1
        if self.error is not None:
            raise self.error
        return reading


@contextlib.asynccontextmanager
async def silent(tmp_path: Path, slots: int = 2, grace_ms: int = 200) -> AsyncIterator[tuple[Rig, Driver]]:
    driver = Driver()
    try:
        async with rig(tmp_path, "1x24GiB", slots=slots, changed=driver, grace_ms=grace_ms) as made:
            yield made, driver
            driver.answers.set()
    finally:
        driver.answers.set()


def said_of(heard: RecordedEvents, *beginnings: str) -> bool:
    return any(reason.startswith(beginnings) for reason in heard.reasons)


async def longest_pause(work: Awaitable[Any]) -> float:
    """Seconds for which the loop stood still at the most, until the work was done."""
    done, longest = asyncio.ensure_future(work), 0.0
    while not done.done():
        before = time.monotonic()
        await asyncio.sleep(0.01)
        longest = max(longest, time.monotonic() - before)
    await done
    return longest


@pytest.fixture
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is told after a moment instead of seconds."""
    monkeypatch.setattr("dihedral.data_plane.slots.seats.SILENT_SECONDS", 0.5)


async def test_a_driver_that_hangs_keeps_a_node_waiting_and_nothing_else(tmp_path: Path, quickly: None) -> None:
    async with silent(tmp_path) as (made, driver):
        output(await made.start(memoryMiB=GIB))
        assert made.pool.problems() == []
        looking = made.pool._seats._looking
        await becomes_async(
            lambda: looking is not None and looking.done()
        )  # its last look could still serve the next node
        driver.answers.clear()
        heard = RecordedEvents()
        node = made.start(heard, memoryMiB=GIB)
        before = driver.looks

        async def said() -> None:
            await becomes_async(
                lambda: said_of(heard, "the device does not answer (1 s)", "the device does not answer (2 s)")
            )

        assert await longest_pause(said()) < 3
        assert made.pool.problems()[0].startswith("the device does not answer (")
        assert (await made.start(task="plain")).status == "completed"
        assert driver.looks - before <= 1  # one thread hangs, not one for each question
        assert driver.most_at_once == 1
        assert not node.done()
        driver.answers.set()
        output(await node)
        assert made.pool.problems() == []


async def test_a_node_that_waits_is_not_told_otherwise_because_a_look_takes_a_moment(tmp_path: Path) -> None:
    """Told nothing in between, it said each time anew in its job's log why it waits."""
    async with silent(tmp_path) as (made, driver), made.stranger("20GiB"):
        said: list[str] = []

        class Says(RecordedEvents):
            def waits(self, reason: str) -> None:
                said.append(reason)

        cancel = RunControl()
        node = made.start(Says(), cancel, memoryMiB=14 * GIB)
        await becomes_async(lambda: said)
        driver.answers.clear()
        await becomes_async(lambda: driver.at_once)
        assert made.pool._seats._answers
        await becomes_async(lambda: not made.pool._seats._answers)
        driver.answers.set()
        await becomes_async(lambda: made.pool._seats._answers)
        assert "" not in said
        cancel.cancel()
        await node


async def test_a_running_node_goes_on_and_ends_while_the_driver_hangs(tmp_path: Path) -> None:
    async with silent(tmp_path) as (made, driver):
        heard = RecordedEvents()
        node = made.start(heard, memoryMiB=GIB, steps=30, stepSeconds=0.02)
        await heard.began()
        driver.answers.clear()
        output(await node)


async def test_of_a_cancelled_node_nothing_is_said_that_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dihedral.data_plane.slots.pool.MEMORY_BACK_SECONDS", 0.3)
    async with silent(tmp_path, grace_ms=60_000) as (made, driver):
        heard, cancel = RecordedEvents(), RunControl()
        node = made.start(heard, cancel, memoryMiB=GIB, steps=1000, stepSeconds=0.02)
        await heard.began()
        driver.answers.clear()
        cancel.cancel()
        assert (await node).status == "cancelled"
        (said,) = heard.told("cancelled")
        assert said.keys() == {"seconds", "slotReplaced"}
        assert not said["slotReplaced"]


async def test_a_node_can_be_cancelled_while_the_driver_hangs(tmp_path: Path) -> None:
    async with silent(tmp_path) as (made, driver):
        driver.answers.clear()
        cancel = RunControl()
        node = made.start(None, cancel, memoryMiB=GIB)
        await becomes_async(lambda: driver.at_once)
        cancel.cancel()
        assert not (await node).began


async def test_nothing_is_admitted_on_a_reading_that_is_old(tmp_path: Path, quickly: None) -> None:
    """A stranger came while the driver took its time: what it said is of before."""
    async with silent(tmp_path) as (made, driver):
        driver.answers.clear()
        old = made.gpus[0].reading()

        def late() -> Reading:
            driver.answers.wait(60)
            return old

        seats = made.pool._seats
        assert seats._probe is not None
        ask, seats._probe._ask = seats._probe._ask, lambda: [late()]
        heard = RecordedEvents()
        node = made.start(heard, memoryMiB=20 * GIB)
        await becomes_async(lambda: said_of(heard, "the device does not answer ("))
        async with made.stranger("12GiB"):
            seats._probe._ask = ask
            driver.answers.set()
            await becomes_async(lambda: any(reason.startswith("needs 20.0 GiB, 12.0 free") for reason in heard.reasons))
            assert not node.done()
        output(await node)


async def test_a_driver_that_answers_with_errors_is_said_with_its_error(tmp_path: Path, quickly: None) -> None:
    async with silent(tmp_path) as (made, driver):
        driver.error = OSError("GPU is lost")
        heard = RecordedEvents()
        node = made.start(heard, memoryMiB=GIB)
        await becomes_async(lambda: said_of(heard, "the device does not answer (1 s): OSError: GPU is lost"))
        assert (await made.start(task="plain")).status == "completed"
        assert made.pool.problems() != []
        driver.error = None
        output(await node)
        assert made.pool.problems() == []


async def test_an_error_that_nobody_asks_about_any_more_is_no_problem(tmp_path: Path, quickly: None) -> None:
    async with silent(tmp_path) as (made, driver):
        driver.error = OSError("GPU is lost")
        cancel = RunControl()
        node = made.start(None, cancel, memoryMiB=GIB)
        await becomes_async(made.pool.problems)
        cancel.cancel()
        await node
        await becomes_async(lambda: not made.pool.problems())


async def test_a_younger_node_that_needs_no_memory_takes_no_seat_from_one_that_is_looked_for(tmp_path: Path) -> None:
    async with silent(tmp_path, slots=1) as (made, _):
        ended: list[str] = []
        first, second = made.start(memoryMiB=GIB), made.start(task="plain")
        first.add_done_callback(lambda _: ended.append("first"))
        second.add_done_callback(lambda _: ended.append("second"))
        await asyncio.gather(first, second)
        assert ended == ["first", "second"]


async def test_a_worker_that_is_frozen_while_it_decides_keeps_only_those_waiting_who_need_memory(
    tmp_path: Path, quickly: None
) -> None:
    file = tmp_path / "promises0.json"
    async with rig(tmp_path, "1x24GiB", slots=2, shared=SharedReservations([file], os.getpid())) as made:
        heard = RecordedEvents()
        with locked(file, wait=True):
            node = made.start(heard, memoryMiB=GIB)
            await becomes_async(
                lambda: said_of(heard, "another worker keeps the reservations of this device locked (1 s)")
            )
            assert made.pool.problems() != []
            assert (await made.start(task="plain")).status == "completed"
            assert not node.done()
        output(await node)
        await becomes_async(lambda: not made.pool.problems())


async def test_a_pool_ends_while_the_driver_hangs(tmp_path: Path) -> None:
    driver = Driver()
    try:
        async with asyncio.timeout(at_this_load(20)), rig(tmp_path, "1x24GiB", slots=1, changed=driver) as made:
            driver.answers.clear()
            node = made.start(memoryMiB=GIB)
            await becomes_async(lambda: driver.at_once)
            node.cancel()
            await asyncio.wait({node})
    finally:
        driver.answers.set()


async def test_a_node_that_needs_no_device_memory_asks_no_driver(tmp_path: Path) -> None:
    async with silent(tmp_path) as (made, driver):
        assert driver.looks == 1  # of the start
        for _ in range(3):
            assert (await made.start(task="plain")).status == "completed"
        assert driver.looks == 1


async def test_the_metrics_do_not_wait_for_a_driver_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SILENT_SECONDS", 0.1)
    driver, latest = Driver(), memory.Sample()
    watch = asyncio.create_task(
        memory.watch(list, latest, lambda: [driver(Reading(total=80, free=70, holders={}))])
    )  # fmt: skip
    try:
        await becomes_async(lambda: latest == {"simulated0": (10, 80, None)})
        driver.answers.clear()
        assert await longest_pause(becomes_async(lambda: not latest)) < 3
        driver.answers.set()
        await becomes_async(lambda: latest)
    finally:
        driver.answers.set()
        watch.cancel()
