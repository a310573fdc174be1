"""Asks the language model that the settings name, through the guard of outgoing requests."""

import asyncio
import importlib
import ssl
from collections.abc import Sequence
from contextvars import ContextVar
from functools import cache
from typing import Annotated, Any

import httpx
import msgspec
from msgspec import Meta, Struct

from dihedral.bridge.guarded_transport import GuardedTransport
from dihedral.bridge.outgoing import Forbidden, own_guard
from dihedral.bridge.tasks.registry import TaskError
from dihedral.schemas.structs.control_plane import LlmKind, LlmSettings

llm: ContextVar[LlmSettings] = ContextVar("llm")
"""The settings, which the executor sets around every run: the task itself has none."""
allowed: ContextVar[Sequence[str]] = ContextVar("allowed")
"""The value of outgoing.allow, set in the same way."""
MAX_ANSWER_BYTES = 1 << 20


class Limits(Struct, frozen=True):
    """What an answer may be. `schema`: JSON Schema that the endpoint holds the answer to; `tokens`: 0 = as the endpoint likes."""

    schema: dict[str, Any] | None = None
    tokens: int = 0


async def ask(settings: LlmSettings, prompt: str, limits: Limits = Limits(), system: str = "") -> str:  # noqa: B008 - frozen
    """Returns the text that the model wrote, within `llm.timeoutSeconds` from the first byte sent to the last one read.

    Raises:
        TaskError: retryable where another attempt may go better; `details.status` of `llm_refused`: the status. None has a cause: httpx
            quotes headers, and one is the key.
    """
    url, body = _request(settings, prompt, limits, system)
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
            details={"status": response.status_code},
        )
    return _text(settings.kind, content)


REFUSES_SHAPE = (400, 404, 415, 422, 501)
"""Statuses of an endpoint that may only not know `response_format`."""


async def ask_in_shape(settings: LlmSettings, prompt: str, limits: Limits, system: str = "") -> str:
    """Asks once; once more without the schema where the endpoint refuses it. An answer of the wrong form is an empty one, since another may be right."""
    try:
        return await ask(settings, prompt, limits, system)
    except TaskError as error:
        if error.code == "llm_bad_answer":
            return ""
        if error.details.get("status") not in REFUSES_SHAPE:
            raise
    try:
        return await ask(settings, prompt, Limits(None, limits.tokens), system)
    except TaskError as error:
        if error.code == "llm_bad_answer":
            return ""
        raise


def _request(settings: LlmSettings, prompt: str, limits: Limits, system: str) -> tuple[str, dict[str, Any]]:
    base = settings.endpoint.rstrip("/")
    if settings.kind == LlmKind.ollama:
        body: dict[str, Any] = {
            "model": settings.model,
            "prompt": prompt,
            "stream": False,
            "format": limits.schema or "json",
        }
        body |= {"system": system} if system else {}
        return f"{base}/api/generate", body | ({"options": {"num_predict": limits.tokens}} if limits.tokens else {})
    url = f"{base}/chat/completions" if base.endswith("/v1") else f"{base}/v1/chat/completions"
    messages = [{"role": "system", "content": system}] if system else []
    body = {"model": settings.model, "messages": [*messages, {"role": "user", "content": prompt}]}
    if limits.schema is not None:
        shape = {"name": "answer", "strict": False, "schema": limits.schema}
        body["response_format"] = {"type": "json_schema", "json_schema": shape}
    return url, body | ({"max_tokens": limits.tokens} if limits.tokens else {})


def _authorization(settings: LlmSettings) -> dict[str, str]:
    key = settings.api_key.strip()  # a key that was read from a file ends with a newline
    if not (key.isascii() and key.isprintable()):
        raise TaskError("llm.apiKey has characters that no header can carry", code="llm_misconfigured")
    return {"Authorization": f"Bearer {key}"} if key else {}


@cache
def _trust() -> ssl.SSLContext:
    """Loads the certificates, and what httpx imports with its first request, outside the event loop: 30 and 40 ms."""
    importlib.import_module("httpcore")
    return httpx.create_ssl_context()


def prepare() -> None:
    """Does what would else make the first question slower."""
    _trust()


async def _beginning(response: httpx.Response) -> bytes:
    """Reads the body; stops where it exceeds MAX_ANSWER_BYTES."""
    content = bytearray()
    async for chunk in response.aiter_bytes():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            break
    return bytes(content)


def _without(key: str, text: str) -> str:
    """Removes the key from an error: some servers quote the key that they refuse."""
    return text.replace(key, "***") if key else text


class Generated(Struct):
    """The answer of Ollama, as far as it is read here."""

    response: str


class Message(Struct):
    content: str


class Choice(Struct):
    message: Message


class Completion(Struct):
    """The answer of an OpenAI-compatible endpoint, as far as it is read here."""

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
