"""A LangGraph graph of your own that calls Dihedral: a node that is a durable job.

    film = JobNode("render_video", lambda state: {"pictures": state["pictures"]}, url="http://127.0.0.1:8000")
    graph = StateGraph(State).add_node("film", film.ainvoke) …

The node submits one job, streams its progress as custom events (`stream_mode="custom"`) and returns {"job", "outputs"} under the node's own key.
The job's id is made of the thread, the step and the node, so a graph that a checkpointer resumes after a crash goes on with the same job instead of
submitting another; a run that is cancelled cancels its job.

`langgraph` comes with Dihedral. This module is imported as `dihedral.langgraph`, and imports it when the first node is made.
"""

import asyncio
import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from dihedral.client import DEFAULT_URL, AsyncClient, ClientError, Refused

Object = dict[str, Any]
CANCEL_SECONDS = 10.0


class JobFailed(Exception):
    """The job ended otherwise than completed; `.job` is its document."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        error = job.get("error") or {}
        super().__init__(f"the job {job['jobId']} is {job['status']}: {error.get('message', '')}".rstrip(": "))
        self.job = dict(job)


def JobNode(
    task: str | None = None,
    params: Callable[[Any], Mapping[str, Any]] | Mapping[str, Any] | None = None,
    *,
    pipeline: str | None = None,
    goal: Callable[[Any], str] | str | None = None,
    key: str | None = None,
    url: str = DEFAULT_URL,
    api_key: str | None = None,
) -> Any:
    """Makes a Runnable that runs a task, a pipeline or a goal as a job. `params`: of the state, or fixed; `key`: under which the state gets the
    result, default the task's, the pipeline's, or `goal`.

    Its `ainvoke` raises JobFailed where the job does not complete, and Refused with every problem of the submission.
    """
    from langchain_core.runnables import RunnableConfig, RunnableLambda
    from langgraph.config import get_stream_writer

    if sum(each is not None for each in (task, pipeline, goal)) != 1:
        raise ValueError("a JobNode runs exactly one of task, pipeline and goal")
    under = key or task or pipeline or "goal"

    async def run(state: Any, config: RunnableConfig) -> Object:
        given = params(state) if callable(params) else params
        body: Object = {"pipeline": pipeline} if pipeline is not None else {"task": task}
        if goal is not None:
            body = {"goal": goal(state) if callable(goal) else goal}
        elif given is not None:
            body["params"] = dict(given)
        try:
            write = get_stream_writer()
        except RuntimeError:  # invoked outside a graph
            write = lambda _: None  # noqa: E731
        async with AsyncClient(url, api_key=api_key) as client:
            job = await client.submit_document(body, idempotency_key=job_key(config, under))
            try:
                async for event in client.watch(job["jobId"]):
                    write({"job": job["jobId"], "node": under, "event": event})
            except asyncio.CancelledError:
                with suppress(ClientError, TimeoutError):
                    async with asyncio.timeout(CANCEL_SECONDS):
                        await asyncio.shield(client.cancel(job["jobId"]))
                raise
            ended = await client.job(job["jobId"])
            if ended["status"] != "completed":
                raise JobFailed(ended)
            graph = await client.graph(job["jobId"])
            return {under: {"job": ended, "outputs": {node["id"]: node.get("output") for node in graph["nodes"]}}}

    run.__annotations__["config"] = RunnableConfig
    return RunnableLambda(run, name=under)


def job_key(config: Mapping[str, Any], under: str) -> str:
    """Returns the Idempotency-Key of a step: the same for the same thread, checkpoint and node, so that a resumed run finds its job."""
    metadata, configured = config.get("metadata") or {}, config.get("configurable") or {}
    parts = [
        configured.get("thread_id"),
        metadata.get("langgraph_step"),
        metadata.get("langgraph_node"),
        configured.get("checkpoint_ns", "").split(":")[0],
        under,
    ]
    if configured.get("thread_id") is None:  # without a checkpointer nothing is resumed
        parts.append(str(config.get("run_id") or id(config)))
    return "langgraph-" + hashlib.sha256("\n".join(map(str, parts)).encode()).hexdigest()[:48]


__all__ = ["JobFailed", "JobNode", "Refused", "job_key"]
