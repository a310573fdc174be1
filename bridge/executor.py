"""Runs the nodes of one delivery: what is ready first, then whatever each end makes ready here.

`run(node)` runs one node to its end, commits the outcome, and answers with the nodes that this delivery goes on with; they
are already started. So the order is the graph's, decided by whoever commits; here is only the concurrency. A straight run is
called directly. As soon as two nodes are in flight LangGraph's functional API takes over: each node is a LangGraph task that
starts when its own parents are done. Its StateGraph has a barrier after each superstep, which makes a short branch wait for
an unrelated long one, and a raising node there cancels its siblings; neither may happen.

LangGraph is imported when the first graph that needs it arrives (0.7 s, 70 MB).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import cache
from typing import Any

RunNode = Callable[[str], Awaitable[Sequence[str]]]


async def execute(first: Sequence[str], run: RunNode) -> None:
    """Returns when every node of the delivery has ended; `run` must not raise but for a bug, which ends the delivery."""
    ready = first
    while len(ready) == 1:
        ready = await run(ready[0])
    if ready:
        flow = _flow() if _flow.cache_info().currsize else await asyncio.to_thread(_flow)  # nobody waits for the import
        await flow.ainvoke((list(ready), run), config={"recursion_limit": 10_000})


@cache
def _flow() -> Any:
    """The LangGraph workflow of every delivery that forks: one for all, since graph and state live with `run`."""
    from langgraph.func import entrypoint, task

    @task
    async def node(name: str, run: RunNode) -> Sequence[str]:
        return await run(name)

    @entrypoint()
    async def delivery(call: tuple[list[str], RunNode]) -> None:
        names, run = call
        running = {asyncio.ensure_future(node(name, run)) for name in names}
        try:
            while running:
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for ended in done:
                    running |= {asyncio.ensure_future(node(name, run)) for name in ended.result()}
        finally:
            for left in running:
                left.cancel()

    return delivery
