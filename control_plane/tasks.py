"""The light tasks of the control plane: write a script, look assets over, store a small one, merge capabilities."""

import asyncio
import base64
import re
import ssl
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from typing import Annotated, Any, Literal

import httpx
import msgspec
from msgspec import Meta, Struct

from dihedral.bridge.outgoing import Forbidden, GuardedTransport, own_guard
from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.schemas.structs.artifact import ArtifactMeta, ArtifactRef
from dihedral.schemas.structs.control_plane import LlmKind, LlmSettings

llm: ContextVar[LlmSettings] = ContextVar("llm")
"""Set by the executor around every run: the task has no settings of its own."""
allowed: ContextVar[Sequence[str]] = ContextVar("allowed")
"""Set likewise: outgoing.allow."""

MAX_LINE = 300
MAX_ANSWER_BYTES = 1 << 20
MARKER = re.compile(r"^(?:[-*•]+|`{3}\w*|[0-9]+[.)])(?:\s+|$)")
"""What a list or a fence puts before a line; "1984 was cold." begins with none."""


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
    """The text that the model wrote, within `llm.timeoutSeconds` from the first byte sent to the last one read.

    Raises:
        TaskError: retryable where another attempt may go better. None has a cause: httpx quotes headers, and one is the key.
    """
    wish = (
        f"Write a narration of exactly {params.lines} short spoken lines about: {params.prompt}\n"
        'Answer with JSON only: {"title": "...", "lines": ["...", "..."]}'
    )
    base = settings.endpoint.rstrip("/")
    if settings.kind == LlmKind.ollama:
        url = f"{base}/api/generate"
        body: dict[str, Any] = {"model": settings.model, "prompt": wish, "stream": False, "format": "json"}
    else:
        url = f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"
        body = {"model": settings.model, "messages": [{"role": "user", "content": wish}]}
    headers = _authorization(settings)
    trust = await asyncio.to_thread(_trust)
    transport = GuardedTransport(own_guard(settings.endpoint, allowed.get(())), verify=trust)
    try:
        async with (
            asyncio.timeout(settings.timeout_seconds),
            httpx.AsyncClient(timeout=None, transport=transport) as client,
            client.stream("POST", url, json=body, headers=headers) as response,
        ):
            content = await _beginning(response)
    except (httpx.InvalidURL, httpx.UnsupportedProtocol):
        raise TaskError("llm.endpoint is no http or https address", code="llm_misconfigured") from None
    except Forbidden as error:
        raise TaskError(f"llm.endpoint may not be asked: {error}", code="llm_misconfigured") from None
    except TimeoutError:
        message = f"the LLM endpoint did not answer within {settings.timeout_seconds:g} s (llm.timeoutSeconds)"
        raise TaskError(message, code="llm_unavailable", retryable=True) from None
    except httpx.HTTPError as error:
        message = f"the LLM endpoint cannot be reached: {type(error).__name__}"
        raise TaskError(message, code="llm_unavailable", retryable=True) from None
    if response.status_code != 200:
        said = _without(settings.api_key.strip(), content.decode("utf-8", "replace"))
        raise TaskError(
            f"the LLM endpoint answered {response.status_code}: {said[:200]}",
            code="llm_refused",
            retryable=response.status_code in (408, 429) or response.status_code >= 500,
        )
    return _text(settings.kind, content)


def _authorization(settings: LlmSettings) -> dict[str, str]:
    key = settings.api_key.strip()  # a key that was read from a file ends with a newline
    if not (key.isascii() and key.isprintable()):
        raise TaskError("llm.apiKey has characters that no header can carry", code="llm_misconfigured")
    return {"Authorization": f"Bearer {key}"} if key else {}


@cache
def _trust() -> ssl.SSLContext:
    """Reading all certificates takes 30 ms, which the event loop has not."""
    return httpx.create_ssl_context()


async def _beginning(response: httpx.Response) -> bytes:
    """The body; one that is larger than MAX_ANSWER_BYTES is left where it exceeds that."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            break
    return bytes(content)


def _without(key: str, text: str) -> str:
    """Some servers quote the key that they refuse."""
    return text.replace(key, "***") if key else text


class Generated(Struct):
    """What Ollama answers, as far as it is read here."""

    response: str


class Message(Struct):
    content: str


class Choice(Struct):
    message: Message


class Completion(Struct):
    """What an OpenAI-compatible endpoint answers, as far as it is read here."""

    choices: Annotated[list[Choice], Meta(min_length=1)]


def _text(kind: LlmKind, content: bytes) -> str:
    if len(content) > MAX_ANSWER_BYTES:
        raise TaskError(f"the LLM endpoint answered more than {MAX_ANSWER_BYTES} bytes", code="llm_bad_answer")
    try:
        if kind == LlmKind.ollama:
            return msgspec.json.decode(content, type=Generated).response
        return msgspec.json.decode(content, type=Completion).choices[0].message.content
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise TaskError("the LLM endpoint's answer has not the expected form", code="llm_bad_answer") from error


def _parse(text: str, params: ScriptParams) -> Script:
    """JSON as asked for, or plain lines, which small models give; never an empty script, never bits of broken JSON."""
    title, lines = _written(text)
    kept = [MARKER.sub("", " ".join(line.split()))[:MAX_LINE] for line in lines if isinstance(line, str)]
    kept = [line for line in kept if line][: params.lines]
    if not kept:
        raise TaskError("the LLM wrote no line", code="llm_bad_answer", retryable=True)
    named = " ".join(title.split())[:120] if isinstance(title, str) else ""
    return Script(title=named or params.prompt[:60], lines=kept)


def _written(text: str) -> tuple[Any, list[Any]]:
    """(title, lines) as far as they can be told apart in what a model wrote; neither need be of its type."""
    try:
        found = msgspec.json.decode(text[text.index("{") : text.rindex("}") + 1])
        title, lines = found.get("title"), found["lines"]
    except (ValueError, KeyError, RecursionError):
        broken = '"lines"' in text or text.lstrip().startswith(("{", "["))
        return None, [] if broken else text.splitlines()
    if isinstance(lines, str):
        return title, lines.splitlines()
    return title, lines if isinstance(lines, list) else []


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


_TOKEN = "[A-Za-z0-9!#$&^_.+-]{1,127}"
CONTENT_TYPE = rf"^({_TOKEN}/{_TOKEN}(;[ -~]{{0,127}})?)?$(?!\n)"
"""It becomes a header when the artifact is downloaded."""


class UploadParams(Shape):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$(?!\n)", description="File name")]
    text: Annotated[str | None, Meta(description="The content, as text")] = None
    base64: Annotated[str | None, Meta(description="The content, in base64")] = None
    document: Annotated[Any, Meta(description="The content, as JSON")] = None
    bucket: Literal["loras", "voices", "videos", "inputs"] = "inputs"
    content_type: Annotated[str, Meta(pattern=CONTENT_TYPE, description="Empty: by the kind of content")] = ""


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
        except ValueError as error:
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
    named = [(f"/lists/{number}", each) for number, each in enumerate(params.lists)]
    for name, each in [*named, ("/capabilities", params.capabilities)]:
        for number, entry in enumerate(each):
            plane, id = entry.get("plane"), entry.get("id")
            if not (isinstance(plane, str) and plane and isinstance(id, str) and id):
                raise TaskError(f"{name}/{number} is no capability: id and plane are needed", code="invalid_input")
            merged[plane, id] = entry
    return Merged(capabilities=[merged[key] for key in sorted(merged)])
