"""Runs the nodes of one delivery: first the ready nodes, then those that each end makes ready here.

`run(node)` runs one node to its end, commits the outcome, and returns the nodes with which this delivery continues; they
are already started. So the order is the graph's, decided by the code that commits; this module adds only concurrency. What is ready
waits in a queue, and one asyncio task runs it node by node. When a node waits for something, the queue is passed on: another task runs the rest
beside it. So what never waits needs no task of its own, and a node starts when its own parents are done. LangGraph's StateGraph has a barrier after
each superstep, which makes a short branch wait for an unrelated long one, and a raising node there cancels its siblings; neither
may happen.

LangGraph's functional API carries those other tasks. A LangGraph task costs 0.3 ms whatever it does, and a run as much as two of them. So one
run carries the branches of all deliveries, and each of its tasks those that came in the same turn of the loop. The next run begins when one is
empty or has had 128 tasks: what it remembers of them it looks through again and again.

LangGraph is imported, in a thread, when the first branch that needs it arrives (0.7 s, 70 MB). No node waits for it: until it is there asyncio
carries the branches.
"""

import asyncio
import gc
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from functools import cache
from typing import Any

from dihedral.bridge.awaiting import UntilItWaits

RunNode = Callable[[str], Coroutine[Any, Any, Sequence[str]]]

RUN_TASKS = 128
TURN_SECONDS = 0.02  # for which nodes that never wait may hold the loop
IMPORT_SWITCH_SECONDS = 0.0005  # the event loop gets the interpreter's lock back this soon while LangGraph is imported


class Executor:
    """Runs deliveries of one event loop."""

    def __init__(self) -> None:
        self._forks: _Forks | None = None
        self._turn_began = 0.0

    def is_late(self) -> bool:
        """Returns whether nodes that never wait have held the loop for TURN_SECONDS, so that it must turn: a chain of thousands is one step of it otherwise."""
        now = time.monotonic()
        if not self._turn_began:
            self._turn_began = now
            asyncio.get_running_loop().call_soon(self._end_turn)
        return now - self._turn_began > TURN_SECONDS

    def _end_turn(self) -> None:
        self._turn_began = 0.0

    async def execute(self, first: Sequence[str], run: RunNode) -> None:
        """Returns when every node of the delivery has ended; an exception of `run` is a bug and ends the delivery."""
        ready = first
        while len(ready) == 1:
            ready = await run(ready[0])
            if ready and self.is_late():
                await asyncio.sleep(0)
        if ready:
            await _Fork(self, run, ready).execute()

    def spawn(self, work: Callable[[], Awaitable[None]]) -> "_Branch":
        """Runs a part of a delivery beside the rest of it."""
        branch = _Branch(work)
        if not _langgraph.cache_info().currsize:
            _import_langgraph()
            branch.start()
            return branch
        if self._forks is None or not self._forks.open:
            self._forks = _Forks()
        self._forks.put(branch)
        return branch


class _Fork:
    """The ready nodes of a delivery that has forked. A class, since two functions that know each other would be freed late, by the collector."""

    __slots__ = ("_beside", "_executor", "_ready", "_run")

    def __init__(self, executor: Executor, run: RunNode, ready: Sequence[str]) -> None:
        self._executor = executor
        self._run = run
        self._ready = deque(ready)
        self._beside: list[_Branch] = []

    async def execute(self) -> None:
        try:
            await self._go_on()
            joined = 0
            while joined < len(self._beside):
                ended = [each.ended for each in self._beside[joined:]]
                joined += len(ended)
                await asyncio.gather(*ended)
        except BaseException:
            for each in self._beside:
                each.cancel()
            raise

    async def _go_on(self) -> None:
        while self._ready:
            self._ready.extend(await UntilItWaits(self._run(self._ready.popleft()), self._pass_on))
            if self._ready and self._executor.is_late():
                await asyncio.sleep(0)

    def _pass_on(self) -> None:
        if self._ready:
            self._beside.append(self._executor.spawn(self._go_on))


class _Branch:
    """A part of a delivery that runs beside the rest of it. `ended`: None, or the exception that it raised."""

    def __init__(self, execute: Callable[[], Awaitable[None]]) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._execute = execute
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        """Runs the branch in a task of its own."""
        self._task = asyncio.create_task(self.run())

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
def _import_langgraph() -> threading.Thread:
    """Imports LangGraph in a thread, beside which the event loop goes on."""

    def work() -> None:
        usual = sys.getswitchinterval()
        sys.setswitchinterval(IMPORT_SWITCH_SECONDS)
        gc.disable()  # a collection of all that is imported would hold the loop for 50 ms, now or at the end
        try:
            _langgraph()
        finally:
            gc.freeze()
            gc.enable()
            sys.setswitchinterval(usual)

    thread = threading.Thread(target=work, name="import of langgraph", daemon=True)
    thread.start()
    return thread


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
