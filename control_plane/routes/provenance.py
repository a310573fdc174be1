"""What a file says about its origin, over REST: of a stored artifact, or of bytes that the caller sends. Nothing is stored, and only the ends of a file are read."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from litestar import Request, Router, get, post
from litestar.datastructures import State
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema
from litestar.openapi.spec.enums import OpenAPIFormat, OpenAPIType
from litestar.params import FromQuery

from dihedral.bridge.artifacts.metadata import HEAD_BYTES, TAIL_BYTES
from dihedral.bridge.artifacts.owned import OwnedStore
from dihedral.bridge.artifacts.provenance import read
from dihedral.bridge.artifacts.store import ArtifactNotFound, BadKey
from dihedral.control_plane.access import principal
from dihedral.control_plane.body import BODY_SECONDS, CLOSE
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.query import known_once
from dihedral.schemas.structs.artifact import Provenance

Req = Request[Any, Any, State]
ENDS = f"its first {HEAD_BYTES:,} bytes, followed by its last {TAIL_BYTES:,}"


@dataclass
class AnyBytes(Operation):
    """Describes a body of any bytes."""

    def __post_init__(self) -> None:
        schema = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.BINARY, description=f"A file, or {ENDS}")
        self.request_body = RequestBody(
            content={"application/octet-stream": OpenAPIMediaType(schema=schema)}, required=True
        )


@post(
    "/api/provenance",
    scope="read",
    is_costly=True,
    status_code=200,
    summary="Get what a file says about its origin",
    operation_class=AnyBytes,
    responses=answers(404, 408, 413, 415, _200=Provenance),
)
async def read_file_provenance(request: Req) -> Provenance:
    """Returns what a PNG, WAV, MP4 or safetensors file of a job says: the job, the node, the request and its params. The body is the file itself, or, of a larger one, its first 256 KiB followed by its last 64 KiB.

    Anyone can write this into a file: it is checked for its form only. A file without it is a 404 `no_provenance`.
    """
    if request.headers.get("content-type", "").lower().startswith("multipart/"):
        raise ApiProblem(415, "unsupported_media_type", "the body must be the file itself, without a form around it")
    limit = request.app.state.settings.control.body_limit_bytes
    head, tail, size = bytearray(), bytearray(), 0
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limit:
                    detail = f"the body has more than {limit} bytes, which control.bodyLimitBytes allows; of a larger file send {ENDS}"
                    raise ApiProblem(413, "body_too_large", detail)
                head += chunk[: HEAD_BYTES - len(head)]
                tail = (tail + chunk)[-TAIL_BYTES:]
    except TimeoutError as error:
        raise ApiProblem(408, "incomplete_body", "the body did not come in time", headers=CLOSE) from error
    return _said(bytes(head), bytes(tail), size)


@get("/api/provenance", is_costly=True, summary="Get what an artifact says about its origin", responses=answers(404))
async def read_provenance(request: Req, bucket: FromQuery[str], key: FromQuery[str]) -> Provenance:
    """Returns what an artifact says about its origin, as POST does of a file; an artifact without it is a 404 `no_provenance`."""
    found = principal(request)
    store = OwnedStore(request.app.state.store, found.visible_owner, found.name)
    try:
        size = (await store.meta(bucket, key)).size_bytes
    except BadKey as error:
        raise ArtifactNotFound(str(error)) from error
    head = await _bytes(store.open(bucket, key, 0, min(size, HEAD_BYTES)))
    tail = await _bytes(store.open(bucket, key, max(0, size - TAIL_BYTES), size))
    return _said(head, tail, size)


async def _bytes(chunks: AsyncIterator[bytes]) -> bytes:
    async with aclosing(chunks) as read_once:  # type: ignore[type-var]
        return b"".join([chunk async for chunk in read_once])


def _said(head: bytes, tail: bytes, size: int) -> Provenance:
    found = read(head, tail, size)
    if found is None:
        raise ApiProblem(404, "no_provenance", "this file does not say what made it")
    return found


provenance_routes = Router("/", before_request=known_once, route_handlers=[read_file_provenance, read_provenance])
