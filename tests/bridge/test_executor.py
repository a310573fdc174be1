"""The executor alone: what runs beside what, and that deliveries which share a LangGraph run do not meet."""

import asyncio
import threading
import time
from collections.abc import Sequence
from functools import cache
from typing import Any

import pytest

from dihedral.bridge.worker import branches
from dihedral.bridge.worker.branches import RUN_TASKS, Executor


@pytest.fixture(autouse=True)
def _with_langgraph() -> None:
    branches._langgraph()


class Nodes:
    """A graph by hand: `after[node]` is what its end makes ready; a join is ready at the last of its parents' ends."""

    def __init__(self, after: dict[str, list[str]], joins: dict[str, int] | None = None) -> None:
        self.after = after
        self.left = dict(joins or {})
        self.began: dict[str, asyncio.Event] = {}
        self.hold: dict[str, asyncio.Event] = {}
        self.ended: list[str] = []
        self.cancelled: list[str] = []

    def has_begun(self, node: str) -> asyncio.Event:
        return self.began.setdefault(node, asyncio.Event())

    async def run(self, node: str) -> Sequence[str]:
        self.has_begun(node).set()
        try:
            if node in self.hold:
                await self.hold[node].wait()
            else:
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(node)
            raise
        if node.startswith("bug"):
            raise RuntimeError(node)
        self.ended.append(node)
        ready = []
        for following in self.after.get(node, ()):
            if following in self.left:
                self.left[following] -= 1
                if self.left[following]:
                    continue
            ready.append(following)
        return ready


def held(*names: str) -> dict[str, asyncio.Event]:
    return {name: asyncio.Event() for name in names}


async def test_a_straight_run_needs_no_langgraph() -> None:
    executor = Executor()
    nodes = Nodes({"a": ["b"], "b": ["c"]})
    await executor.execute(["a"], nodes.run)
    assert nodes.ended == ["a", "b", "c"]
    assert executor._forks is None


async def test_a_branch_that_only_lets_the_loop_turn_does_not_wait() -> None:
    """Else a busy machine would import LangGraph for nodes that wait for nothing."""
    executor = Executor()
    turned: list[str] = []

    async def run(node: str) -> Sequence[str]:
        asyncio.get_running_loop().call_soon(turned.append, node)
        time.sleep(1.5 * branches.TURN_SECONDS)  # noqa: ASYNC251 - a node that never waits
        return ["b", "c", "d"] if node == "a" else []

    await executor.execute(["a"], run)
    assert len(turned) > 1
    assert executor._forks is None


async def test_branches_run_beside_each_other_and_a_join_once() -> None:
    nodes = Nodes({"a": ["b", "c", "d"], "b": ["e"], "c": ["e"], "d": ["e"]}, {"e": 3})
    nodes.hold = held("b", "c", "d")
    running = asyncio.create_task(Executor().execute(["a"], nodes.run))
    for node in "bcd":
        await nodes.has_begun(node).wait()
    for node in "dbc":
        nodes.hold[node].set()
    await running
    assert nodes.ended.count("e") == 1
    assert nodes.ended[-1] == "e"


async def test_a_short_branch_does_not_wait_for_a_long_one() -> None:
    nodes = Nodes({"a": ["long", "s1"], "s1": ["s2"], "s2": ["s3", "s4"]})
    nodes.hold = held("long")
    running = asyncio.create_task(Executor().execute(["a"], nodes.run))
    await nodes.has_begun("s4").wait()
    assert "long" not in nodes.ended
    nodes.hold["long"].set()
    await running
    assert set(nodes.ended) == {"a", "long", "s1", "s2", "s3", "s4"}


async def test_branches_that_come_in_one_turn_share_a_task_of_one_run() -> None:
    executor = Executor()
    before = Nodes({})
    before.hold = held("x", "y")
    beside = asyncio.create_task(executor.execute(["x", "y"], before.run))
    await before.has_begun("y").wait()
    first = executor._forks
    many = [f"w{number}" for number in range(2 * RUN_TASKS)]
    deliveries = [Nodes({}) for _ in range(3)]
    await asyncio.gather(*(executor.execute(many, nodes.run) for nodes in deliveries))
    assert executor._forks is first  # with a task for each, several runs would have been used up
    assert all(sorted(nodes.ended) == sorted(many) for nodes in deliveries)
    for event in before.hold.values():
        event.set()
    await beside


async def test_after_so_many_turns_a_new_run_begins_beside_what_the_old_one_still_carries() -> None:
    executor = Executor()
    long = Nodes({})
    long.hold = held("x", "y")
    beside = asyncio.create_task(executor.execute(["x", "y"], long.run))
    await long.has_begun("y").wait()
    first = executor._forks
    for _ in range(RUN_TASKS):
        nodes = Nodes({})
        await executor.execute(["a", "b"], nodes.run)
        assert sorted(nodes.ended) == ["a", "b"]
    assert executor._forks is not first
    for event in long.hold.values():
        event.set()
    await beside
    assert sorted(long.ended) == ["x", "y"]


async def test_a_bug_ends_its_own_delivery_and_cancels_its_branches() -> None:
    executor = Executor()
    other = Nodes({})
    other.hold = held("x", "y")
    beside = asyncio.create_task(executor.execute(["x", "y"], other.run))
    await other.has_begun("y").wait()
    nodes = Nodes({})
    nodes.hold = held("long", "longer")
    with pytest.raises(RuntimeError, match="bug"):
        await executor.execute(["bug", "long", "longer"], nodes.run)
    with pytest.raises(RuntimeError, match="bug"):
        await executor.execute(["a", "bug"], Nodes({}).run)
    for event in other.hold.values():
        event.set()
    await beside
    assert sorted(other.ended) == ["x", "y"]
    assert nodes.ended == []


async def test_a_cancelled_delivery_leaves_those_that_share_its_run() -> None:
    executor = Executor()
    one, two = Nodes({}), Nodes({})
    one.hold, two.hold = held("a", "b", "c"), held("x", "y")
    first = asyncio.create_task(executor.execute(["a", "b", "c"], one.run))
    second = asyncio.create_task(executor.execute(["x", "y"], two.run))
    await asyncio.gather(*(one.has_begun(node).wait() for node in "abc"), two.has_begun("y").wait())
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    for event in two.hold.values():
        event.set()
    await second
    assert sorted(two.ended) == ["x", "y"]
    assert sorted(one.cancelled) == ["a", "b", "c"]
    await executor.execute(["p", "q"], (later := Nodes({})).run)
    assert sorted(later.ended) == ["p", "q"]


async def test_nobody_waits_for_the_import_of_langgraph(monkeypatch: pytest.MonkeyPatch) -> None:
    there = threading.Event()

    @cache
    def slow() -> Any:
        there.wait()
        return None

    monkeypatch.setattr(branches, "_langgraph", slow)
    branches._import_langgraph.cache_clear()
    nodes = Nodes({"a": ["b", "c", "d"], "b": ["e"], "c": ["e"], "d": ["e"]}, {"e": 3})
    executor = Executor()
    await executor.execute(["a"], nodes.run)
    assert sorted(nodes.ended) == ["a", "b", "c", "d", "e"]
    assert executor._forks is None
    there.set()
    branches._import_langgraph().join()
    branches._import_langgraph.cache_clear()


async def test_nodes_that_never_wait_run_in_one_task() -> None:
    tasks = set()

    async def run(node: str) -> Sequence[str]:
        tasks.add(asyncio.current_task())
        return {"a": ["b", "c"], "b": ["d"]}.get(node, [])

    await Executor().execute(["a"], run)
    assert tasks == {asyncio.current_task()}
