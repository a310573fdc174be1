"""API keys over REST, for admins: list, create, revoke. A key itself is in the answer to its creation and in no other."""

from typing import Annotated, Any

import msgspec
from litestar import Request, delete, get, post
from litestar.datastructures import State
from litestar.params import FromPath
from msgspec import Meta

from dihedral.bridge.times import rfc3339
from dihedral.control_plane import api_keys, body
from dihedral.control_plane.api_keys import ApiKey, KeyRefused
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.problems import ApiProblem

Req = Request[Any, Any, State]

BODY_BYTES = 4096


class KeyView(msgspec.Struct, rename="camel"):
    """A key as its document shows it. `jobs_per_minute` and `max_alive`: 0 means no limit."""

    id: str
    owner: str
    scopes: list[str]
    created: str
    expires: str | None
    revoked: str | None
    jobs_per_minute: int
    max_alive: int


class KeyList(msgspec.Struct):
    keys: list[KeyView]


class NewKey(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    owner: str
    scopes: list[str]
    days: Annotated[float, Meta(gt=0, le=36500)] | None = None
    jobs_per_minute: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    max_alive: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


_decode = msgspec.json.Decoder(NewKey).decode


class CreatedKey(msgspec.Struct, rename="camel"):
    key: KeyView
    token: str


def _view(key: ApiKey) -> KeyView:
    return KeyView(
        id=key.id,
        owner=key.owner,
        scopes=key.scopes,
        created=key.created,
        expires=None if key.expires_ms is None else rfc3339(key.expires_ms),
        revoked=None if key.revoked_ms is None else rfc3339(key.revoked_ms),
        jobs_per_minute=key.jobs_per_minute,
        max_alive=key.max_alive,
    )


@get(
    "/api/keys", scope="admin", summary="List API keys, newest first, also those that were revoked", responses=answers()
)
async def list_keys(request: Req) -> KeyList:
    return KeyList(keys=[_view(key) for key in reversed(await api_keys.stored(request.app.state.access.client))])


@post("/api/keys", scope="admin", status_code=201, summary="Create an API key", responses=answers(400, 413, 415, 422))
async def create_key(request: Req) -> CreatedKey:
    """Creates a key. `token` is shown in this answer alone. From the first key on, every request needs one."""
    raw = await body.read(request, BODY_BYTES)
    try:
        data = _decode(raw)
    except body.DECODE_ERRORS as error:
        raise await body.refusal(raw, error) from error
    try:
        key, token = await api_keys.create(
            request.app.state.access.client,
            data.owner,
            data.scopes,
            expires_seconds=None if data.days is None else data.days * 86400,
            jobs_per_minute=data.jobs_per_minute,
            max_alive=data.max_alive,
        )
    except KeyRefused as error:
        raise ApiProblem(422, "invalid_key", str(error)) from error
    return CreatedKey(key=_view(key), token=token)


@delete("/api/keys/{key_id:str}", scope="admin", status_code=200, summary="Revoke an API key", responses=answers(404))
async def revoke_key(request: Req, key_id: FromPath[str]) -> KeyView:
    try:
        return _view(await api_keys.revoke(request.app.state.access.client, key_id))
    except KeyRefused as error:
        raise ApiProblem(404, "unknown_key", str(error)) from error


key_routes = [list_keys, create_key, revoke_key]
