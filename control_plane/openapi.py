"""Documents for OpenAPI what it cannot see where a handler reads its raw body: the shape of the body, and of the problems."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from litestar import Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIType
from litestar.types.internal_types import PathParameterDefinition

from dihedral.schemas.structs.problem import Problem
from dihedral.schemas.structs.request import JobChange, JobRequest, PresetRequest, RetryRequest, TrainRequest

ANYWHERE = (400, 422, 503)
"""The statuses of any request: an incomplete body, a parameter that cannot be applied, a job store that is away."""


def body(stem: str, name: str, description: str) -> type[Operation]:
    """Describes an operation whose JSON body is `name` of the source schema `stem`, published at /schemas/{stem}.json."""

    @dataclass  # otherwise the inherited __init__ does not call __post_init__
    class WithBody(Operation):
        def __post_init__(self) -> None:
            schema = Schema(
                title=name,
                description=f"{description} Its schema: /schemas/{stem}.json#/$defs/{name}",
                type=OpenAPIType.OBJECT,
            )
            self.request_body = RequestBody(
                content={"application/json": OpenAPIMediaType(schema=schema)}, required=True
            )

    return WithBody


def answers(*statuses: int, **documents: Any) -> Mapping[int, ResponseSpec]:
    """Returns problem responses for `statuses` and for those of any request, and documents for arguments such as `_201=Job`; of a union, any."""
    found = {
        status: ResponseSpec(
            data_container=Problem, media_type="application/problem+json", description="Problem details"
        )
        for status in {*ANYWHERE, *statuses}
    }
    for name, struct in documents.items():
        description = " or ".join(each.__name__ for each in get_args(struct) or (struct,))
        found[int(name[1:])] = ResponseSpec(data_container=struct, description=description, generate_examples=False)
    return found


# The whole document -----------------------------------------------------------------------------------------------------

BODIES = (JobRequest, JobChange, PresetRequest, RetryRequest, TrainRequest, Problem)
OPERATIONS = {
    "submit": "submitJob", "submit_batch": "submitJobs", "plan": "planJob", "list_jobs": "listJobs", "read_job": "getJob",
    "read_graph": "getJobGraph", "read_events": "getJobEvents", "cancel": "cancelJob", "finish": "finishNode", "retry": "retryJob",
    "delete_job": "deleteJob", "train": "trainTalkingPicture", "read_status": "getJobStatus", "upload": "uploadArtifact",
    "list_artifacts": "listArtifacts", "read_meta": "getArtifactMeta", "download": "downloadArtifact", "delete_artifact": "deleteArtifact",
    "capabilities": "listCapabilities", "pipelines": "listPipelines", "workers": "listWorkers", "queues": "listQueues",
    "dead_letters": "listDeadLetters", "read_dead_letter": "getDeadLetter", "requeue_dead_letter": "requeueDeadLetter",
    "drop_dead_letter": "dropDeadLetter", "live": "isLive", "ready": "isReady", "metrics": "getMetrics", "schema": "getSchema", "read": "getSession",
    "begin": "signIn", "end": "signOut", "limits": "getUploadLimits", "worker_usage": "getWorkerUsage", "statistics": "getStatistics",
    "waiting_jobs": "listWaitingJobs", "read_preset": "getPreset", "put_preset": "savePreset",
    "read_provenance": "getProvenance", "read_file_provenance": "readProvenance",
}  # fmt: skip
"""The names of operations, by handler; a handler that is not here has its own name, written as one word."""


def operation_id(handler: HTTPRouteHandler, method: str, path: Sequence[str | PathParameterDefinition]) -> str:
    """Returns the name that generated clients give an operation. One handler with two paths gets a name for each."""
    first, *rest = handler.handler_name.split("_")
    name = OPERATIONS.get(handler.handler_name, first + "".join(word.capitalize() for word in rest))
    again = len(handler.paths) > 1 and len(path) < max(len(each.strip("/").split("/")) for each in handler.paths)
    return f"{name}Short" if again else name


TAGS = {
    "Jobs": ("Submit, follow, change and end jobs.", ("jobs", "plans")),
    "Artifacts": (
        "Files that jobs take and make.",
        ("artifacts", "artifacts-meta", "provenance", "favourites", "limits"),
    ),
    "Pipelines and tasks": (
        "What can be run, with which parameters.",
        ("pipelines", "capabilities", "presets", "statistics"),
    ),
    "Queues and workers": (
        "What waits, what runs it, and what failed for good.",
        ("queues", "workers", "dead-letters"),
    ),
    "Keys and sessions": ("Who may do what.", ("keys", "session")),
    "Service": ("Health, metrics, schemas.", ("health", "metrics", "schemas")),
    "Old clients": ("Kept for clients of earlier versions.", ("train", "status")),
}
"""The groups of operations, in the order of the reference: what is in it, and the first words of its paths below /api."""
KEY = "apiKey"


def tag_of(path: str) -> str:
    """Returns the group of a path; Service where TAGS has none for it."""
    word = path.removeprefix("/api/").strip("/").partition("/")[0]
    return next((tag for tag, (_, words) in TAGS.items() if word in words), "Service")


class WithBodies(JsonRenderPlugin):
    """Renders the document with the schemas of the bodies, which handlers that read their raw body cannot declare, with groups and the API key."""

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        _grouped(openapi_schema)
        schemas = openapi_schema.setdefault("components", {}).setdefault("schemas", {})
        _, found = msgspec.json.schema_components(BODIES, ref_template="#/components/schemas/{name}")
        for name, each in found.items():
            schemas.setdefault(name, each)
        jobs = {"type": "array", "items": {"$ref": "#/components/schemas/JobRequest"}}
        schemas["JobBatch"] = {
            "title": "JobBatch",
            "type": "object",
            "required": ["jobs"],
            "additionalProperties": False,
            "properties": {"jobs": jobs},
        }
        for path, operations in openapi_schema["paths"].items():
            for operation in operations.values():
                content = operation.get("requestBody", {}).get("content", {}).get("application/json")
                if content and (name := content["schema"].get("title")) in schemas:
                    named = "JobBatch" if path == "/api/jobs/batch" else name
                    operation["requestBody"]["description"] = content["schema"]["description"]
                    content["schema"] = {"$ref": f"#/components/schemas/{named}"}
        _mended(openapi_schema, schemas)
        return super().render(request, openapi_schema)


def _grouped(document: dict[str, Any]) -> None:
    """Adds, in place, the tags and the key, which a client may do without: a server on loopback asks for none."""
    document["tags"] = [{"name": name, "description": about} for name, (about, _) in TAGS.items()]
    document["security"] = [{KEY: []}, {}]
    described = "An API key, where the server asks for one: type it alone (dhk_…), the word Bearer is added to it."
    schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
    schemes[KEY] = {"type": "http", "scheme": "bearer", "description": described}
    for path, operations in document["paths"].items():
        for operation in operations.values():
            operation["tags"] = [tag_of(path)]


def _mended(value: Any, schemas: Mapping[str, Any]) -> None:
    """Shortens, in place, the references that Litestar leaves with a module's path where the schema itself got its short name.

    An array of anything gets `items`, without which OpenAPI 3.0 and generators of clients refuse it.
    """
    if isinstance(value, dict):
        if value.get("type") == "array":
            value.setdefault("items", {})
        name = value["$ref"].rpartition("/")[2] if isinstance(value.get("$ref"), str) else ""
        if name and name not in schemas:
            value["$ref"] = f"#/components/schemas/{name.rpartition('_')[2]}"
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _mended(each, schemas)
