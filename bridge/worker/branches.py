"""Runs the nodes of one delivery: first the ready nodes, then those that each end makes ready here.

`run(node)` runs one node to its end, commits the outcome, and returns the nodes with which this delivery continues; they
are already started. So the order is the graph's, decided by the code that commits; this module adds only concurrency. A straight run is
called directly. Where it forks, it goes on with the first branch itself, and LangGraph's functional API runs each of the others as a task
beside it, which may fork again: a node starts when its own parents are done. LangGraph's StateGraph has a barrier after
each superstep, which makes a short branch wait for an unrelated long one, and a raising node there cancels its siblings; neither
may happen.

A LangGraph task costs 0.3 ms whatever it does, and a run as much as two of them. So one run carries the branches of all deliveries, and
each of its tasks those that came in the same turn of the loop. The next run begins when one is empty or has had 128 tasks: what it
remembers of them it looks through again and again.

LangGraph is imported when the first graph that needs it arrives (0.7 s, 70 MB).
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import cache
from typing import Any

RunNode = Callable[[str], Awaitable[Sequence[str]]]

RUN_TASKS = 128


class Executor:
    """Runs deliveries of one event loop."""

    def __init__(self) -> None:
        self._forks: _Forks | None = None

    async def execute(self, first: Sequence[str], run: RunNode) -> None:
        """Returns when every node of the delivery has ended; an exception of `run` is a bug and ends the delivery."""
        ready = first
        branches: list[_Branch] = []
        try:
            while ready:
                if len(ready) > 1:
                    branches += [await self._fork(node, run) for node in ready[1:]]
                ready = await run(ready[0])
            if branches:
                await asyncio.gather(*(branch.ended for branch in branches))
        except BaseException:
            for branch in branches:
                branch.cancel()
            raise

    async def _fork(self, node: str, run: RunNode) -> "_Branch":
        if not _langgraph.cache_info().currsize:
            await asyncio.to_thread(_langgraph)  # the event loop does not wait for the import
        if self._forks is None or not self._forks.open:
            self._forks = _Forks()
        branch = _Branch(lambda: self.execute([node], run))
        self._forks.put(branch)
        return branch


class _Branch:
    """A part of a delivery that runs beside the rest of it. `ended`: None, or the exception that it raised."""

    def __init__(self, execute: Callable[[], Awaitable[None]]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._execute = execute
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        """Runs the branch without raising its errors: in LangGraph a task that raises ends the others of its run (a cancelled one does not)."""
        if self.ended.done():
            return
        self._task = asyncio.current_task()
        try:
            await self._execute()
        except asyncio.CancelledError:
            self.ended.cancel()
            raise
        except Exception as error:
            if not self.ended.done():
                self.ended.set_exception(error)
        else:
            if not self.ended.done():
                self.ended.set_result(None)

    def cancel(self) -> None:
        self.ended.cancel()
        if self._task is not None:
            self._task.cancel()


class _Forks:
    """One LangGraph run, and the branches that it carries."""

    def __init__(self) -> None:
        self.open = True
        self._live: set[_Branch] = set()
        self._waiting: list[_Branch] = []
        self._changed = asyncio.Event()
        self._run = asyncio.create_task(_langgraph().ainvoke(self._batches(), config={"recursion_limit": 10_000}))
        self._run.add_done_callback(self._over)

    def put(self, branch: _Branch) -> None:
        self._live.add(branch)
        branch.ended.add_done_callback(lambda _: self._leave(branch))
        self._waiting.append(branch)
        self._changed.set()

    async def _batches(self) -> AsyncIterator[list[_Branch]]:
        """Yields the branches of each turn of the loop, until none is alive or the run has carried enough."""
        for number in range(1, RUN_TASKS + 1):
            await self._changed.wait()
            self._changed.clear()
            self.open = self.open and number < RUN_TASKS
            batch, self._waiting = self._waiting, []
            if batch:
                yield batch
            if not self.open:
                return

    def _leave(self, branch: _Branch) -> None:
        self._live.discard(branch)
        if not self._live:
            self.open = False
            self._changed.set()

    def _over(self, run: "asyncio.Task[Any]") -> None:
        self.open = False
        failure = None if run.cancelled() else run.exception()
        for branch in list(self._live):
            if failure is None:
                branch.ended.cancel()
            else:
                branch.ended.set_exception(failure)


@cache
def _langgraph() -> Any:
    """The LangGraph workflow whose tasks run the branches. A task function that can be imported by its name is compiled once."""
    from langgraph.func import entrypoint, task

    branches_task = task(_run_all)

    @entrypoint()
    async def forks(batches: AsyncIterator[list[_Branch]]) -> None:
        async for batch in batches:
            branches_task(batch)

    return forks


async def _run_all(branches: list[_Branch]) -> None:
    await asyncio.gather(*(branch.run() for branch in branches), return_exceptions=True)
