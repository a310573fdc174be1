"""Reads a request's body: bounded, JSON by its content type, and as the received bytes, which are kept unchanged."""

import asyncio
from typing import Any

import msgspec
from litestar import Request

from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.query import header
from dihedral.schemas.documents import problems_of
from dihedral.schemas.structs.problem import ProblemDetail

BODY_SECONDS, LEAST_BYTES_PER_SECOND = 30.0, 64 * 1024
CLOSE = {"Connection": "close"}
DECODE_ERRORS = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""The errors of a decoder; `refusal` turns them into a problem for the client."""


async def read(request: Request[Any, Any, Any], limit: int, *, optional: bool = False) -> bytes:
    """Reads the raw body. Raises ApiProblem: 413 beyond `limit` bytes, 429 or 503 where too many are held already, 415 not JSON; an empty one is b"" where `optional`."""
    announced = header(request.scope, b"content-length") or ""
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    hold = request.scope["state"]["hold_body"]
    chunks: list[bytes] = []
    size = 0

    async def more() -> bool:
        nonlocal size
        message: Any = await request.receive()
        if message["type"] != "http.request":
            raise ApiProblem(400, "incomplete_body", "the connection ended before the body did")
        chunk = message["body"]
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        if chunk:
            hold(len(chunk))
        chunks.append(chunk)
        return bool(message.get("more_body"))

    if await more():  # a body usually comes with its head; a connection on which none comes is closed in its own time
        try:
            async with asyncio.timeout(BODY_SECONDS + limit / LEAST_BYTES_PER_SECOND):
                while await more():
                    pass
        except TimeoutError as error:
            raise ApiProblem(408, "incomplete_body", "the body did not come in time", headers=CLOSE) from error
    body = b"".join(chunks)
    if not body and optional:
        return body
    kind = (header(request.scope, b"content-type") or "").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiProblem(
            415,
            "unsupported_media_type",
            f"the body must be application/json, this is {kind or 'without Content-Type'}",
        )
    return body


def too_large(limit: int, setting: str = "control.bodyLimitBytes") -> ApiProblem:
    return ApiProblem(413, "body_too_large", f"the body has more than {limit} bytes, which {setting} allows")


async def refusal(raw: bytes | memoryview, error: Exception, stem: str = "", name: str = "") -> ApiProblem:
    """Returns the problem of a refused body: 400 not JSON, else 422 with every problem by the schema `name` of `stem`, if it exists."""
    return await asyncio.to_thread(_refusal, raw, error, stem, name)


def _refusal(raw: bytes | memoryview, error: Exception, stem: str, name: str) -> ApiProblem:
    try:
        # A decoder for a type stops at the first wrong field, before what is no JSON at all.
        document = msgspec.json.decode(raw)
    except RecursionError:
        detail = ProblemDetail(pointer="", code="too_deep", detail="more than 64 levels")
        return ApiProblem(422, "too_deep", "the body is nested too deeply", [detail])
    except msgspec.ValidationError as wrong:  # JSON, but with a number that no type here can hold
        return _unfit([("", "invalid", str(wrong))])
    except (msgspec.DecodeError, UnicodeDecodeError) as wrong:
        return ApiProblem(400, "not_json", f"the body is not JSON: {wrong}")
    return _unfit((problems_of(document, stem, name) if stem else []) or [("", "invalid", str(error))])


def _unfit(rows: list[tuple[str, str, str]]) -> ApiProblem:
    errors = [ProblemDetail(pointer=at, code=code, detail=detail) for at, code, detail in rows]
    return ApiProblem(422, "invalid_request", f"the body does not fit: {errors[0].detail}", errors)
