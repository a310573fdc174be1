"""What a request asks to run: a graph as it is, a pipeline filled in, or one task alone; and again what another job ran."""

from collections.abc import Mapping
from typing import Any

import msgspec

from dihedral.bridge.artifacts.metadata import MAX_BYTES
from dihedral.bridge.artifacts.owned import OWNER
from dihedral.bridge.artifacts.provenance import REQUEST
from dihedral.control_plane.identity import About
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.problems import ApiProblem, refused
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.pipeline import Pipeline
from dihedral.schemas.structs.request import JobRequest
from dihedral.schemas.structs.submission import GraphSubmission


class Wanted(msgspec.Struct):
    """`given`, `defaults`: the params of a pipeline or task; a param runs as it is given, else by its default."""

    submission: GraphSubmission
    pipeline: str | None = None
    task: str = ""
    given: dict[str, Any] = {}
    defaults: dict[str, Any] = {}

    def pointer(self, pointer: str) -> str:
        """Translates a pointer into the graph to one into the request."""
        if self.task:
            return pointer.removeprefix("/nodes/0")
        return ("/pipeline" if self.pipeline else "/graph") + pointer

    def made(self) -> dict[str, Any]:
        """Returns the pipeline or task and its params, for the files that the job makes; empty for a graph, and for more than such a file has room for."""
        name, what = ("task", self.task) if self.task else ("pipeline", self.pipeline)
        if not what or len(msgspec.json.encode(self.given)) > MAX_BYTES:
            return {}
        return {name: what, "params": self.given}


def wanted(request: JobRequest, pipelines: Mapping[str, Pipeline], capabilities: Mapping[str, Capability]) -> Wanted:
    """Returns what the request asks to run. Raises ApiProblem."""
    if not isinstance(request.goal, msgspec.UnsetType):
        detail = "a goal is planned by itself, with POST /api/jobs or POST /api/plans"
        raise _refused("a goal is no item of a batch", "/goal", "goal_in_batch", detail)
    if not isinstance(request.sweep, msgspec.UnsetType):
        detail = "a sweep is submitted by itself, with POST /api/jobs or POST /api/plans"
        raise _refused("a sweep is no item of a batch", "/sweep", "sweep_in_batch", detail)
    named = [
        name for name in ("graph", "pipeline", "task") if not isinstance(getattr(request, name), msgspec.UnsetType)
    ]
    if len(named) != 1:
        raise _refused(
            "a submission has a graph, a pipeline or a task",
            "",
            "graph_or_pipeline",
            "exactly one of graph, pipeline and task is needed; none of them only with rerunOf",
        )
    params = request.params if isinstance(request.params, dict) else {}
    if isinstance(request.graph, GraphSubmission):
        if isinstance(request.params, dict):
            raise _refused("params belong to a pipeline or a task", "/params", "unknown_field", "a graph has no params")
        return Wanted(request.graph)
    if isinstance(request.task, str):
        return _of_task(request.task, params, capabilities)
    pipeline = pipelines.get(str(request.pipeline))
    if pipeline is None:
        known = ", ".join(sorted(pipelines)) or "none"
        meant = planning.meant(str(request.pipeline), pipelines)
        raise _refused(
            "there is no such pipeline",
            "/pipeline",
            "unknown_pipeline",
            f"no pipeline {request.pipeline!r}{meant or f'; there are: {known}'}",
        )
    submission, found = planning.expand(pipeline, params)
    if submission is None:
        raise refused(f"the parameters of {pipeline.id} do not fit", found)
    return Wanted(submission, pipeline.id, given=params, defaults=defaults_of(pipeline.params))


def _of_task(task: str, params: dict[str, Any], capabilities: Mapping[str, Capability]) -> Wanted:
    capability = capabilities.get(task)
    if capability is None:
        detail = f"there is no task {task!r}{planning.meant(task, capabilities)}"
        raise _refused("there is no such task", "/task", "unknown_task", detail)
    node = {"id": task, "task": task, "plane": capability.plane, "params": params}
    submission = msgspec.convert({"schema": "langgraph.v1", "nodes": [node]}, GraphSubmission)
    return Wanted(submission, task=task, given=params, defaults=defaults_of(capability.io.input))


def defaults_of(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: each["default"]
        for name, each in schema.get("properties", {}).items()
        if isinstance(each, dict) and "default" in each
    }


def again(
    request: JobRequest, about: About, pipeline: str | None, graph: str, pipelines: Mapping[str, Pipeline]
) -> JobRequest:
    """Completes a request that only names the job to repeat: with what that job ran, its name, its tags, and its params under the new ones.

    A job of an earlier version stored no params: it is repeated by its graph.
    """
    changes = request.params if isinstance(request.params, dict) else {}
    given = {
        name: value for name, value in {**about.given, **changes}.items() if value is not None or name not in changes
    }
    more: dict[str, Any] = {}
    if about.name and isinstance(request.name, msgspec.UnsetType):
        more["name"] = about.name
    if about.tags and isinstance(request.tags, msgspec.UnsetType):
        more["tags"] = about.tags
    if about.pool and isinstance(request.pool, msgspec.UnsetType):
        more["pool"] = about.pool
    if about.task and not about.cut:
        return msgspec.structs.replace(request, task=about.task, params=given, **more)
    template = pipelines.get(pipeline or "")
    stored = bool(about.given or about.defaults) or (template is not None and not defaults_of(template.params))
    if pipeline and stored and not about.cut:
        return msgspec.structs.replace(request, pipeline=pipeline, params=given, **more)
    document = msgspec.json.decode(graph)
    document.pop("workflowId", None)
    for name in (OWNER, REQUEST, "traceparent"):
        document["metadata"].pop(name, None)
    return msgspec.structs.replace(request, graph=msgspec.convert(document, GraphSubmission), **more)


def _refused(summary: str, pointer: str, code: str, detail: str) -> ApiProblem:
    return refused(summary, [planning.Problem(pointer, code, detail)])
