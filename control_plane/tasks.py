"""The light tasks of the control plane: write a script, look assets over, store a small one, merge capabilities."""

import base64
import binascii
import json
from contextvars import ContextVar
from typing import Annotated, Any

import httpx
import msgspec
from msgspec import Meta, Struct

from bridge.tasks import TaskContext, TaskError, task
from schemas.structs.artifact import ArtifactMeta, ArtifactRef
from schemas.structs.control_plane import LlmKind, LlmSettings

llm: ContextVar[LlmSettings] = ContextVar("llm")
"""Set by the executor around every run: the task has no settings of its own."""

MAX_LINE = 300
MAX_ANSWER_BYTES = 1 << 20


class Shape(Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """The base of the params and outputs here."""


# generate_script -------------------------------------------------------------------------------------------------------


class ScriptParams(Shape):
    prompt: Annotated[str, Meta(min_length=1, max_length=10_000, description="What the narration is about")]
    lines: Annotated[int, Meta(ge=1, le=50, description="How many lines")] = 4


class Script(Shape):
    title: str
    lines: list[str]


class WrittenScript(Shape):
    script: Script
    source: Annotated[str, Meta(description="template, ollama or openai")]
    model: Annotated[str | None, Meta(description="None where the template wrote it")] = None


@task(
    plane="node",
    label="Write a script",
    description="Writes the narration for a prompt with an LLM; without an endpoint a template does, and the output says so.",
    timeout_seconds=600,
    examples=[{"prompt": "A walk by the sea", "lines": 3}],
)
async def generate_script(params: ScriptParams, ctx: TaskContext) -> WrittenScript:
    settings = llm.get(LlmSettings())
    if not settings.endpoint:
        ctx.log("no LLM endpoint is set (llm.endpoint); the template writes the script")
        return WrittenScript(script=from_template(params.prompt, params.lines), source="template")
    text = await _ask(settings, params)
    return WrittenScript(script=_parse(text, params), source=str(settings.kind), model=settings.model)


def from_template(prompt: str, lines: int) -> Script:
    """The same prompt always gives the same lines."""
    subject = " ".join(prompt.split())[:120].rstrip(".!?") or "this picture"
    stock = [
        f"Look closely: {subject}.",
        "The light settles, and the colours begin to speak.",
        "Nothing hurries here; every detail has its moment.",
        "And so the picture tells its story.",
        "Stay a little longer, and it tells another.",
    ]
    return Script(title=subject[:60], lines=[stock[number % len(stock)] for number in range(lines)])


async def _ask(settings: LlmSettings, params: ScriptParams) -> str:
    """The model's answer; raises a retryable TaskError where the endpoint is the one that fails."""
    wish = (
        f"Write a narration of exactly {params.lines} short spoken lines about: {params.prompt}\n"
        'Answer with JSON only: {"title": "...", "lines": ["...", "..."]}'
    )
    base = settings.endpoint.rstrip("/")
    headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
    if settings.kind == LlmKind.ollama:
        url = f"{base}/api/generate"
        body: dict[str, Any] = {"model": settings.model, "prompt": wish, "stream": False, "format": "json"}
    else:
        url = f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"
        body = {"model": settings.model, "messages": [{"role": "user", "content": wish}]}
    try:
        async with httpx.AsyncClient(timeout=settings.timeout_seconds) as client:
            response = await client.post(url, json=body, headers=headers)
    except httpx.HTTPError as error:
        raise TaskError(
            f"the LLM endpoint cannot be reached: {type(error).__name__}", code="llm_unavailable", retryable=True
        ) from error
    if response.status_code != 200:
        raise TaskError(
            f"the LLM endpoint answered {response.status_code}: {response.text[:200]}",
            code="llm_refused",
            retryable=response.status_code == 429 or response.status_code >= 500,
        )
    try:
        answer = json.loads(response.content[:MAX_ANSWER_BYTES])
        text = answer["response"] if settings.kind == LlmKind.ollama else answer["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise TaskError("the LLM endpoint's answer has not the expected form", code="llm_bad_answer") from error
    return str(text)


def _parse(text: str, params: ScriptParams) -> Script:
    """JSON as asked for, or plain lines, which small models give; never an empty script."""
    try:
        found = json.loads(text[text.index("{") : text.rindex("}") + 1])
        title, lines = str(found.get("title", "")), [str(line) for line in found["lines"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        title, lines = "", text.splitlines()
    kept = [" ".join(line.split()).lstrip("-*0123456789. ")[:MAX_LINE] for line in lines]
    kept = [line for line in kept if line][: params.lines]
    if not kept:
        raise TaskError("the LLM wrote no line", code="llm_bad_answer", retryable=True)
    return Script(title=title[:120] or params.prompt[:60], lines=kept)


# Assets ---------------------------------------------------------------------------------------------------------------


class AssetParams(Shape):
    assets: Annotated[list[ArtifactRef], Meta(min_length=1, max_length=1000)]


class Assets(Shape):
    assets: list[ArtifactMeta]
    total_bytes: int


@task(
    plane="node",
    label="Prepare assets",
    description="Makes sure that every artifact is there, before anything expensive starts, and says what it is.",
    timeout_seconds=300,
    examples=[{"assets": [{"bucket": "inputs", "key": "examples/picture.png"}]}],
)
async def prepare_assets(params: AssetParams, ctx: TaskContext) -> Assets:
    store = ctx._artifacts()
    found = []
    for number, asset in enumerate(params.assets, 1):
        found.append(await store.meta(asset.bucket, asset.key))
        ctx.progress(number / len(params.assets))
    return Assets(assets=found, total_bytes=sum(meta.size_bytes for meta in found))


class UploadParams(Shape):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="File name")]
    text: Annotated[str | None, Meta(description="The content, as text")] = None
    base64: Annotated[str | None, Meta(description="The content, in base64")] = None
    document: Annotated[Any, Meta(description="The content, as JSON")] = None
    bucket: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$")] = "inputs"
    content_type: str = ""


class Uploaded(Shape):
    artifact: ArtifactRef
    size_bytes: int
    sha256: str


@task(
    plane="node",
    label="Upload an artifact",
    description="Stores a small text, JSON document or base64 content as an artifact.",
    timeout_seconds=300,
    examples=[{"name": "notes.txt", "text": "Hello"}],
)
async def upload_artifact(params: UploadParams, ctx: TaskContext) -> Uploaded:
    if sum(given is not None for given in (params.text, params.base64, params.document)) > 1:
        raise TaskError("only one of text, base64 and document can be the content", code="invalid_input")
    if params.text is not None:
        content, guessed = params.text.encode(), "text/plain; charset=utf-8"
    elif params.base64 is not None:
        try:
            content, guessed = base64.b64decode(params.base64, validate=True), "application/octet-stream"
        except binascii.Error as error:
            raise TaskError(f"base64: {error}", code="invalid_input") from error
    elif params.document is not None:
        content, guessed = msgspec.json.encode(params.document), "application/json"
    else:
        raise TaskError("one of text, base64 and document is needed", code="invalid_input")
    meta = await ctx.store_async(params.bucket, params.name, content, params.content_type or guessed)
    return Uploaded(
        artifact=ArtifactRef(bucket=meta.bucket, key=meta.key), size_bytes=meta.size_bytes, sha256=meta.sha256
    )


# merge_capabilities ---------------------------------------------------------------------------------------------------


class MergeParams(Shape):
    lists: Annotated[list[list[dict[str, Any]]], Meta(max_length=1000, description="Lists of manifest entries")] = []
    capabilities: Annotated[list[dict[str, Any]], Meta(description="One more list, for example a parent's output")] = []


class Merged(Shape):
    capabilities: list[dict[str, Any]]


@task(
    plane="node",
    label="Merge capabilities",
    description="Merges lists of capabilities by id and plane; of two versions the later in the lists wins.",
    timeout_seconds=60,
    examples=[{"lists": [[], []]}],
)
async def merge_capabilities(params: MergeParams, ctx: TaskContext) -> Merged:
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    for each in [*params.lists, params.capabilities]:
        for entry in each:
            merged[str(entry.get("plane", "")), str(entry.get("id", ""))] = entry
    return Merged(capabilities=[merged[key] for key in sorted(merged)])
