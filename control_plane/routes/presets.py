"""Presets over REST: named params of a pipeline or a task, of the caller alone."""

from typing import Any

import msgspec
from litestar import Request, Response, Router, delete, get, put
from litestar.datastructures import State
from litestar.params import FromPath, FromQuery

from dihedral.control_plane import body
from dihedral.control_plane.access import principal
from dihedral.control_plane.job_queue import JobQueue
from dihedral.control_plane.openapi import answers
from dihedral.control_plane.openapi import body as with_body
from dihedral.control_plane.presets import Presets
from dihedral.control_plane.query import known_once
from dihedral.schemas.structs.pipeline import Preset, PresetList
from dihedral.schemas.structs.request import PresetRequest

Req = Request[Any, Any, State]
ONE = "/api/presets/{kind:str}/{of:str}/{name:str}"


def _presets(request: Req) -> Presets:
    queue: JobQueue = request.app.state.queue
    return queue.presets


@get("/api/presets", is_costly=True, summary="List the caller's presets, by name", responses=answers())
async def list_presets(
    request: Req, pipeline: FromQuery[str | None] = None, task: FromQuery[str | None] = None
) -> PresetList:
    """Lists presets. `pipeline`, `task`: only those of it."""
    found = await _presets(request).all(principal(request).name)
    return PresetList(
        presets=[each for each in found if pipeline in (None, each.pipeline) and task in (None, each.task)]
    )


@get(ONE, summary="Get a preset", responses=answers(404))
async def read_preset(request: Req, kind: FromPath[str], of: FromPath[str], name: FromPath[str]) -> Preset:
    """Returns a preset. `kind`: `pipelines` or `tasks`; `of`: the id of one."""
    return await _presets(request).get(principal(request).name, kind, of, name)


@put(
    ONE,
    scope="submit",
    summary="Save a preset; one of the same name is replaced",
    operation_class=with_body("request", "PresetRequest", "The params; they are checked when the preset is used."),
    responses=answers(404, 409, 413, 415, _200=Preset, _201=Preset),
)
async def put_preset(request: Req, kind: FromPath[str], of: FromPath[str], name: FromPath[str]) -> Response[bytes]:
    raw = await body.read(request, request.app.state.settings.control.body_limit_bytes)
    try:
        wanted = msgspec.json.decode(raw, type=PresetRequest)
    except body.DECODE_ERRORS as error:
        raise await body.refusal(raw, error, "request", "PresetRequest") from error
    preset, created = await _presets(request).put(principal(request).name, kind, of, name, wanted.params)
    return Response(msgspec.json.encode(preset), status_code=201 if created else 200, media_type="application/json")


@delete(ONE, scope="submit", status_code=204, summary="Delete a preset", responses=answers(404))
async def delete_preset(request: Req, kind: FromPath[str], of: FromPath[str], name: FromPath[str]) -> None:
    await _presets(request).delete(principal(request).name, kind, of, name)


preset_routes = Router(
    "/",
    before_request=known_once,
    route_handlers=[list_presets, read_preset, put_preset, delete_preset],
)
