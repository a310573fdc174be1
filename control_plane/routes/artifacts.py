"""Artifacts over REST. Uploads are streamed from the socket into the store, never held whole; downloads honour ranges."""

import base64
import re
import uuid
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, Router, delete, get, post, put
from litestar.datastructures import State
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromPath, FromQuery, QueryParameter
from litestar.response import Redirect, Stream
from msgspec import UnsetType
from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header

from dihedral.bridge.artifacts.owned import OwnedStore
from dihedral.bridge.artifacts.store import (
    BUCKETS,
    ArtifactNotFound,
    ArtifactStore,
    BadContentType,
    BadKey,
    TooLarge,
)
from dihedral.control_plane.access import principal
from dihedral.control_plane.body import too_large
from dihedral.control_plane.gallery import KINDS, ORIGINS, Filter, Gallery, Moment
from dihedral.control_plane.head import is_head
from dihedral.control_plane.inert import display_name, disposition, plain_name, shown_as
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.query import known_once, refused
from dihedral.control_plane.root import address
from dihedral.schemas.structs.artifact import ArtifactList, ArtifactMeta, Limits

Req = Request[Any, Any, State]

FORM_BYTES = 64 * 1024
SETTING = "artifacts.maxUploadBytes"
STAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
YEARS = range(1970, 2286)  # the index of a store on S3 names no others
_RANGE = re.compile(r"bytes=([0-9]{0,100})-([0-9]{0,100})")  # int() refuses thousands of digits


def _store(request: Req) -> ArtifactStore:
    """Returns the store as the caller sees it: only with the artifacts visible to them."""
    found = principal(request)
    return OwnedStore(request.app.state.store, found.visible_owner, found.name)


BYTES = ResponseSpec(data_container=bytes, media_type="*/*", description="Its bytes", generate_examples=False)


@post(
    "/api/artifacts",
    scope="submit",
    is_long=True,
    summary="Upload a file (multipart: bucket, then file)",
    responses=answers(413, 415, 507, _201=ArtifactMeta),
)
async def upload(request: Req, bucket: FromQuery[str] = "inputs") -> Response[bytes]:
    """Uploads an artifact. `bucket` (default inputs) comes before `file`, as a field or in the query; the field wins."""
    limit = request.app.state.settings.artifacts.max_upload_bytes
    announced = request.headers.get("content-length", "")
    if announced.isascii() and announced.isdigit() and int(announced) > limit + FORM_BYTES:
        raise too_large(limit, SETTING)
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != "multipart/form-data" or not options.get("boundary"):
        raise ApiProblem(415, "unsupported_media_type", "the body must be multipart/form-data with a part named file")
    try:
        form = _Form(request.stream(), options["boundary"], bucket, limit)
        file = await form.file()
        if form.bucket not in BUCKETS:
            raise ApiProblem(
                422, "unknown_bucket", f"there is no bucket {form.bucket[:100]!r}; there are {', '.join(BUCKETS)}"
            )
        name = plain_name(file.filename or "file")
        meta = await _store(request).put(
            form.bucket,
            f"{uuid.uuid4().hex}/{name}",
            form.data(),
            dict(file.headerlist).get("Content-Type", "").strip(),
            limit=limit,
            name=display_name(file.filename or "file"),
        )
    except MultipartError as error:
        raise ApiProblem(400, "bad_multipart", f"the body is not well-formed multipart: {error}") from error
    except TooLarge as error:
        raise too_large(limit, SETTING) from error
    except BadContentType as error:
        raise ApiProblem(422, error.code, f"the part named file: {error}") from error
    return Response(msgspec.json.encode(meta), status_code=201, media_type="application/json",
                    headers={"Location": address(request.scope, f"/api/artifacts/{meta.bucket}/{meta.key}")})  # fmt: skip


@get(
    "/api/limits",
    scope="submit",
    summary="Get what a request may carry, to be asked before a large one",
    responses=answers(),
)
async def limits(request: Req) -> Limits:
    settings = request.app.state.settings
    return Limits(upload_bytes=settings.artifacts.max_upload_bytes, body_bytes=settings.control.body_limit_bytes)


class _Form:
    """A multipart body read as it comes: fields up to the file, then the file's bytes."""

    def __init__(self, stream: AsyncIterator[bytes], boundary: str, bucket: str, limit: int) -> None:
        self.bucket = bucket
        self._limit = limit
        self._stream = stream
        self._parser = PushMultipartParser(boundary, max_header_count=16, max_segment_count=16)
        self._parts = self._parse()

    async def _parse(self) -> AsyncIterator[Any]:
        size = 0
        async for chunk in self._stream:
            size += len(chunk)
            if size > self._limit + FORM_BYTES:  # counts everything that follows the file too
                raise too_large(self._limit, SETTING)
            for part in self._parser.parse(chunk) if chunk else ():
                yield part
        self._parser.close()  # raises where the last boundary is missing

    async def file(self) -> MultipartSegment:
        """Reads up to the head of the part named file; uses a bucket field before it."""
        name, text = "", b""
        async for part in self._parts:
            if isinstance(part, MultipartSegment):
                name, text = part.name, b""
                if name == "file":
                    return part
            elif part:
                text += part
                if len(text) > FORM_BYTES:
                    raise ApiProblem(422, "field_too_large", f"the field {name!r} is too large")
            elif name == "bucket":
                self.bucket = text.decode("utf-8", "replace")
        raise ApiProblem(422, "no_file", "there is no part named file")

    async def data(self) -> AsyncIterator[bytes]:
        """Yields the file's bytes. Raises ApiProblem where a field follows that can no longer be applied."""
        within = True
        async for part in self._parts:
            if isinstance(part, MultipartSegment):
                if part.name == "file":
                    raise ApiProblem(422, "two_files", "there is more than one part named file: upload them one by one")
                if part.name == "bucket":
                    raise ApiProblem(
                        422, "bucket_after_file", "the field bucket has to come before the part named file"
                    )
                within = False
            elif not part:
                within = False
            elif within:
                yield bytes(part)


@get("/api/artifacts", is_costly=True, summary="List artifacts, newest first", responses=answers())
async def list_artifacts(
    request: Req,
    bucket: FromQuery[str | None] = None,
    jobId: FromQuery[str | None] = None,
    kind: FromQuery[str | None] = None,
    pipeline: FromQuery[str | None] = None,
    tag: FromQuery[str | None] = None,
    origin: FromQuery[str | None] = None,
    favourite: FromQuery[bool | None] = None,
    limit: Annotated[int, QueryParameter(ge=1, le=10_000)] = 1000,
    cursor: FromQuery[str | None] = None,
) -> ArtifactList:
    """Lists artifacts. `cursor`: the `next` of the previous page; with `kind` and the ones below a page may be empty and still have a `next`.

    `kind`: picture, video, audio, model, text or other. `origin`: made, uploaded or example. `favourite`: only the caller's favourites, or only others.
    `pipeline`: that, or the task, of the artifact's job; `tag`: one or several that the job must all have, comma separated: while the server has the job.
    """
    for name, value, known in (("kind", kind, KINDS), ("origin", origin, ORIGINS)):
        if value is not None and value not in known:
            raise refused(name, f"there is no {value[:100]!r}; there are {', '.join(known)}")
    wanted = Filter(
        kind or "", origin or "", pipeline or "", frozenset(each for each in (tag or "").split(",") if each)
    )
    before = None if cursor is None else _moment(cursor)
    found, last = await _gallery(request).page(
        wanted, favourite=favourite, bucket=bucket, job_id=jobId, limit=limit, before=before
    )
    return ArtifactList(artifacts=found, next=None if last is None else _cursor(last))


def _gallery(request: Req) -> Gallery:
    return Gallery(request.app.state.queue.jobs, _store(request), principal(request).name)


@put(
    "/api/favourites/{bucket:str}/{key:path}",
    scope="submit",
    status_code=204,
    summary="Add an artifact to the caller's favourites",
    responses=answers(404, 409),
)
async def add_favourite(request: Req, bucket: FromPath[str], key: FromPath[str]) -> None:
    await _gallery(request).add(await _found(_store(request), bucket, key))


@delete(
    "/api/favourites/{bucket:str}/{key:path}",
    scope="submit",
    status_code=204,
    summary="Remove an artifact from the caller's favourites",
    responses=answers(404),
)
async def remove_favourite(request: Req, bucket: FromPath[str], key: FromPath[str]) -> None:
    if not await _gallery(request).remove(bucket, key.lstrip("/")):
        await _found(_store(request), bucket, key)


def _cursor(last: Moment) -> str:
    return base64.urlsafe_b64encode(" ".join(last).encode()).decode()


def _moment(cursor: str) -> Moment:
    try:
        moment, _, key = base64.urlsafe_b64decode(cursor).decode().partition(" ")
        is_time = STAMP.fullmatch(moment) is not None and datetime.fromisoformat(moment).year in YEARS
    except ValueError as error:
        raise refused("cursor", "not a cursor of this list") from error
    if not is_time:
        raise refused("cursor", "not a cursor of this list")
    return moment, key


@get("/api/artifacts-meta/{bucket:str}/{key:path}", summary="Get what is known of an artifact", responses=answers(404))
async def read_meta(request: Req, bucket: FromPath[str], key: FromPath[str]) -> ArtifactMeta:
    return await _found(_store(request), bucket, key)


@get(
    "/api/artifacts/{bucket:str}/{key:path}",
    summary="Download an artifact; ranges are honoured",
    responses={**answers(404, 416), 200: BYTES, 206: BYTES},
)
async def download(
    request: Req, bucket: FromPath[str], key: FromPath[str], seq: FromQuery[int | None] = None
) -> Response[Any]:
    """Downloads an artifact. `seq`, the event that announced it, only makes the address unique, so that a cache does not show an overwritten artifact."""
    store = _store(request)  # one store per request: it remembers that this artifact is visible
    meta = await _found(store, bucket, key)
    how, content_type = shown_as(meta.content_type)
    link = await store.link(meta.bucket, meta.key, _disposition(how, meta), content_type)
    if link is not None:
        return Redirect(link, status_code=302)
    headers = _headers(meta)
    if _is_known(request.headers.get("if-none-match", ""), headers["ETag"]):
        return Response(b"", status_code=304, headers=headers)
    start, end, status = 0, meta.size_bytes, 200
    wanted = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if request.headers.get("if-range", headers["ETag"]) != headers["ETag"]:
        wanted = None  # the range would not match the part that the client already has
    if wanted is not None and any(wanted.groups()):
        start, end = _span(wanted, meta.size_bytes)
        if start >= end:
            raise ApiProblem(
                416,
                "bad_range",
                f"it has {meta.size_bytes} bytes",
                headers={"Content-Range": f"bytes */{meta.size_bytes}"},
            )
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{meta.size_bytes}"
        status = 206
    headers["Content-Length"] = str(end - start)
    bytes_ = nothing() if is_head(request.scope) else store.open(meta.bucket, meta.key, start, end)
    return Stream(bytes_, status_code=status, headers=headers)


@delete(
    "/api/artifacts/{bucket:str}/{key:path}",
    scope="cancel",
    status_code=204,
    summary="Delete an artifact",
    responses=answers(404),
)
async def delete_artifact(request: Req, bucket: FromPath[str], key: FromPath[str]) -> None:
    try:
        await _store(request).delete(bucket, key.lstrip("/"))
    except BadKey as error:
        raise ArtifactNotFound(str(error)) from error


async def _found(store: ArtifactStore, bucket: str, key: str) -> ArtifactMeta:
    try:
        return await store.meta(bucket, key.lstrip("/"))
    except BadKey as error:  # no store accepts such a key
        raise ArtifactNotFound(str(error)) from error


def _headers(meta: ArtifactMeta) -> dict[str, str]:
    """Returns headers that keep a user's file from being sniffed or run in the control plane's origin."""
    how, content_type = shown_as(meta.content_type)
    return {
        "Content-Type": content_type,  # as a header: as a media type Litestar would add a charset to text
        "ETag": f'"{meta.sha256 or meta.created_at}"',
        "Accept-Ranges": "bytes",
        "Content-Disposition": _disposition(how, meta),
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "sandbox",
        "Cache-Control": "private, max-age=3600",
    }


def _disposition(how: str, meta: ArtifactMeta) -> str:
    plain = plain_name(meta.key)
    return disposition(how, plain, plain if isinstance(meta.name, UnsetType) else meta.name)


async def nothing() -> AsyncIterator[bytes]:
    return
    yield


def _is_known(if_none_match: str, etag: str) -> bool:
    tags = [tag.strip().removeprefix("W/") for tag in if_none_match.split(",")]
    return etag in tags or tags == ["*"]


def _span(wanted: "re.Match[str]", size: int) -> tuple[int, int]:
    first, last = wanted.groups()
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(size, int(last) + 1) if last else size


artifact_routes = [
    Router(
        "/",
        before_request=known_once,
        route_handlers=[
            upload,
            limits,
            list_artifacts,
            read_meta,
            download,
            delete_artifact,
            add_favourite,
            remove_favourite,
        ],
    )
]
