"""A LangGraph graph whose second node is a durable job: `dihedral up`, then `python examples/langgraph_node.py`.

Stop it with Ctrl-C and start it again with the same THREAD: with a checkpointer that outlives the process it goes on with the same job.
"""

import asyncio
import sys
from typing import Any, TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph

from dihedral.client import DEFAULT_URL
from dihedral.langgraph import JobNode

THREAD = "example"


class State(TypedDict, total=False):
    subject: str
    text: str
    speak: Any


def write(state: State) -> State:
    return {"text": f"Here is a word about {state['subject']}. It is spoken by a job."}


def graph(url: str = DEFAULT_URL) -> Any:
    made: Any = StateGraph(State)
    made.add_node("write", write)
    made.add_node("say", JobNode("speak", lambda state: {"text": state["text"]}, url=url))
    made.add_edge(START, "write")
    made.add_edge("write", "say")
    made.add_edge("say", END)
    return made.compile(checkpointer=InMemorySaver())


async def main(subject: str) -> None:
    config = {"configurable": {"thread_id": THREAD}}
    async for mode, chunk in graph().astream({"subject": subject}, config, stream_mode=["custom", "values"]):
        if mode == "custom":
            print(chunk["event"]["type"], chunk["event"].get("status", ""))
        elif "speak" in chunk:
            print(chunk["speak"]["outputs"]["speak"]["audio"])


if __name__ == "__main__":
    asyncio.run(main(" ".join(sys.argv[1:]) or "bees"))
