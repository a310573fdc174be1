"""Reading a request's body: bounded, JSON by its content type, and as the bytes that came, which are kept as they are."""

from typing import Any

from litestar import Request

from control_plane.problems import ApiProblem


async def read(request: Request[Any, Any, Any], limit: int, *, optional: bool = False) -> bytes:
    """The raw body. Raises ApiProblem: 413 beyond `limit` bytes, 415 not JSON; an empty one is b"" where `optional`."""
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > limit:
        raise too_large(limit)
    chunks = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > limit:
            raise too_large(limit)
        chunks.append(chunk)
    body = b"".join(chunks)
    if not body and optional:
        return body
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiProblem(
            415,
            "unsupported_media_type",
            f"the body must be application/json, this is {kind or 'without Content-Type'}",
        )
    return body


def too_large(limit: int) -> ApiProblem:
    return ApiProblem(413, "body_too_large", f"the body has more than {limit} bytes")
