"""Stores a small text, JSON document or base64 content as an artifact."""

import base64
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.control_plane.tasks import Shape
from dihedral.schemas.structs.artifact import ArtifactRef

_TOKEN = "[A-Za-z0-9!#$&^_.+-]{1,127}"
CONTENT_TYPE = rf"^({_TOKEN}/{_TOKEN}(;[ -~]{{0,127}})?)?$(?!\n)"
"""It becomes a header when the artifact is downloaded."""


class UploadParams(Shape):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)", description="File name")]
    text: Annotated[
        str | None,
        Meta(description="The content, as text", extra_json_schema={"x-kind": ["text"], "x-one-of": "The content"}),
    ] = None
    base64: Annotated[
        str | None, Meta(description="The content, in base64", extra_json_schema={"x-one-of": "The content"})
    ] = None
    document: Annotated[
        Any, Meta(description="The content, as JSON", extra_json_schema={"x-one-of": "The content"})
    ] = None
    bucket: Literal["loras", "voices", "videos", "inputs"] = "inputs"
    content_type: Annotated[str, Meta(pattern=CONTENT_TYPE, description="Empty: by the kind of content")] = ""


class Uploaded(Shape):
    artifact: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["file"]})]
    size_bytes: int
    sha256: str | None


@task(
    plane="node",
    label="Upload an artifact",
    description="Stores a small text, JSON document or base64 content as an artifact.",
    timeout_seconds=300,
    keywords=[
        "store text",
        "save text",
        "upload text",
        "save note",
        "store note",
        "write file",
        "store file",
        "store",
        "save",
        "upload",
    ],
    examples=[{"name": "notes.txt", "text": "Hello"}],
    groups={"File": ("name", "bucket", "contentType"), "Content": ("text", "base64", "document")},
)
async def upload_artifact(params: UploadParams, ctx: TaskContext) -> Uploaded:
    if sum(given is not None for given in (params.text, params.base64, params.document)) > 1:
        raise TaskError("only one of text, base64 and document can be the content", code="invalid_input")
    if params.text is not None:
        content, guessed = params.text.encode(), "text/plain; charset=utf-8"
    elif params.base64 is not None:
        try:
            content, guessed = base64.b64decode(params.base64, validate=True), "application/octet-stream"
        except ValueError as error:
            raise TaskError(f"base64: {error}", code="invalid_input") from error
    elif params.document is not None:
        content, guessed = msgspec.json.encode(params.document), "application/json"
    else:
        raise TaskError("one of text, base64 and document is needed", code="invalid_input")
    kind = params.content_type or guessed
    meta = await ctx.store_async(params.bucket, params.name, content, kind, as_it_is=True)
    return Uploaded(
        artifact=ArtifactRef(bucket=meta.bucket, key=meta.key), size_bytes=meta.size_bytes, sha256=meta.sha256
    )
