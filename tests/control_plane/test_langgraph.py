"""A LangGraph graph of a user's own whose node is a job: progress as events, the same job after a crash, cancelled with its run."""

import asyncio
import sys
from typing import Any, TypedDict

import pytest
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from dihedral.langgraph import JobFailed, JobNode
from tests.control_plane.served import Served, new_id
from tests.support.planes import gate

pytestmark = pytest.mark.asyncio(loop_scope="session")


class State(TypedDict, total=False):
    wait: str
    act: Any
    after: str


def compiled(served: Served, saver: Any = None, after: Any = None, **more: Any) -> Any:
    node = JobNode("act", lambda state: {"wait": state["wait"]} | more, url=f"http://127.0.0.1:{served.port}")
    made: Any = StateGraph(State)
    made.add_node("work", node)
    made.add_node("after", after or (lambda state: {"after": state["act"]["job"]["jobId"]}))
    made.add_edge(START, "work")
    made.add_edge("work", "after")
    made.add_edge("after", END)
    return made.compile(checkpointer=saver)


async def test_a_job_runs_as_a_node_and_its_progress_is_streamed(served: Served) -> None:
    graph = compiled(served, output={"answer": 42})
    events, state = [], {}
    async for mode, chunk in graph.astream({"wait": ""}, stream_mode=["custom", "values"]):
        if mode == "custom":
            events.append(chunk)
        else:
            state = chunk
    assert state["act"]["job"]["status"] == "completed"
    assert state["act"]["outputs"]["act"]["answer"] == 42
    assert state["after"] == state["act"]["job"]["jobId"]
    assert {each["job"] for each in events} == {state["after"]}
    assert any(each["event"]["type"] == "node" and each["event"]["status"] == "completed" for each in events)


CRASHES = """
import asyncio, sys
from typing import Any, TypedDict
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from dihedral.langgraph import JobNode
class State(TypedDict, total=False):
    wait: str
    act: Any
port, thread, name = sys.argv[1:]
made = StateGraph(State)
made.add_node("work", JobNode("act", lambda state: {"wait": state["wait"]}, url=f"http://127.0.0.1:{port}"))
made.add_edge(START, "work")
made.add_edge("work", END)
async def main():
    config = {"configurable": {"thread_id": thread}}
    async for chunk in made.compile(checkpointer=InMemorySaver()).astream({"wait": name}, config, stream_mode="custom"):
        print(chunk["job"], flush=True)
asyncio.run(main())
"""


async def test_a_run_whose_process_was_killed_goes_on_with_the_same_job(served: Served) -> None:
    name, thread = new_id("lg"), new_id("thread")
    killed = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CRASHES, str(served.port), thread, name, stdout=asyncio.subprocess.PIPE
    )
    assert killed.stdout is not None
    first = (await killed.stdout.readline()).decode().strip()
    killed.kill()
    await killed.wait()
    gate(name).set()
    config = {"configurable": {"thread_id": thread}}
    state = await compiled(served, InMemorySaver()).ainvoke({"wait": name}, config)
    assert state["after"] == first
    other = await compiled(served, InMemorySaver()).ainvoke(
        {"wait": ""}, {"configurable": {"thread_id": new_id("thread")}}
    )
    assert other["after"] != first


async def test_a_run_that_is_cancelled_cancels_its_job(served: Served) -> None:
    name, started = new_id("lg"), asyncio.Event()
    jobs: list[str] = []

    async def running() -> None:
        async for chunk in compiled(served).astream({"wait": name}, stream_mode="custom"):
            jobs.append(chunk["job"])
            started.set()

    task = asyncio.create_task(running())
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    ended = await served.in_status(jobs[0], "cancelled", "cancelling", "completed")
    gate(name).set()
    assert ended["status"] != "completed"


async def test_a_job_that_fails_fails_its_node_with_its_document(served: Served) -> None:
    with pytest.raises(JobFailed) as caught:
        await compiled(served, fail=True).ainvoke({"wait": ""})
    assert caught.value.job["status"] == "failed"


async def test_a_node_runs_one_thing() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        JobNode("act", pipeline="held")
