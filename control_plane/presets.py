"""Presets: named params of a pipeline or a task, kept for their owner.

They are bounded in number and size, and are not checked when they are stored: the pipeline may change until they are used, and a job
that uses one is planned like any other.
"""

import re
from typing import Any

import msgspec

from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client
from dihedral.bridge.times import now_rfc3339
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.problems import ApiProblem, refused
from dihedral.schemas.structs.pipeline import Preset
from dihedral.schemas.structs.request import JobRequest

MOST = 200
MAX_BYTES = 64 * 1024
MAX_NAME = 100
KINDS = {"pipelines": "pipeline", "tasks": "task"}
"""The kinds of what a preset is of, as routes spell them, and the field of a submission."""
_NAME = re.compile(
    r"(?=[^\S\n]*\S)[^\u0000-\u001f\u007f-\u009f\u2028\u2029\u202a-\u202e\u2066-\u2069/]{1,100}"  # MAX_NAME
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_decode = msgspec.json.Decoder(Preset).decode


class Presets:
    """`kind`: `pipelines` or `tasks`; `of`: the id of one. Owners have their own; without keys they belong to all."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def all(self, owner: str) -> list[Preset]:
        """Lists an owner's presets, by what they are of and by name."""
        rows = await self._client.hgetall(keys.presets(owner))
        found = [_decode(row) for row in rows.values()]
        return sorted(found, key=lambda each: (each.pipeline or "", each.task or "", each.name.casefold(), each.name))

    async def get(self, owner: str, kind: str, of: str, name: str) -> Preset:
        """Raises ApiProblem: 404."""
        row = await self._client.hget(keys.presets(owner), _field(kind, of, name))
        if row is None:
            raise _unknown(name)
        return _decode(row)

    async def put(self, owner: str, kind: str, of: str, name: str, params: dict[str, Any]) -> tuple[Preset, bool]:
        """Stores a preset; returns it and whether it is new. Raises ApiProblem: 409 beyond MOST, 413 beyond MAX_BYTES, 422 for a name that cannot be one."""
        if not _NAME.fullmatch(name):
            detail = f"a name has 1 to {MAX_NAME} characters, and neither slash nor control characters"
            raise ApiProblem(422, "bad_name", detail)
        field, key = _field(kind, of, name), keys.presets(owner)
        if planning.too_deep(params):
            raise refused(
                "the params are nested too deep", [planning.Problem("/params", "too_deep", "nested too deep")]
            )
        before, now = await self._client.hget(key, field), now_rfc3339()
        preset = Preset(
            name=name,
            pipeline=of if kind == "pipelines" else None,
            task=of if kind == "tasks" else None,
            params=params,
            created=now if before is None else _decode(before).created,
            updated=now,
        )
        encoded = msgspec.json.encode(preset)
        if len(encoded) > MAX_BYTES:
            raise ApiProblem(
                413, "preset_too_large", f"a preset has at most {MAX_BYTES} bytes, this one {len(encoded)}"
            )
        word = await functions.call(self._client, "keep", key, MOST, field, encoded)
        if word < 0:
            raise ApiProblem(409, "too_many_presets", f"an owner has at most {MOST} presets; delete one first")
        return preset, word == 1

    async def delete(self, owner: str, kind: str, of: str, name: str) -> None:
        """Raises ApiProblem: 404."""
        if not await self._client.hdel(keys.presets(owner), _field(kind, of, name)):
            raise _unknown(name)

    async def applied(self, request: JobRequest, owner: str) -> JobRequest:
        """Returns the request with the params of its preset under its own. Raises ApiProblem: 422 where there is no such preset."""
        if not isinstance(request.preset, str):
            return request
        if isinstance(request.pipeline, str):
            kind, of = "pipelines", request.pipeline
        elif isinstance(request.task, str):
            kind, of = "tasks", request.task
        else:
            raise _refused("no_pipeline", "a preset is one of a pipeline or a task, and neither is named")
        row = await self._client.hget(keys.presets(owner), _field(kind, of, request.preset))
        if row is None:
            names = [
                each.name for each in await self.all(owner) if of in (each.pipeline, each.task)
            ]  # fmt: skip
            meant = planning.meant(request.preset, names)
            raise _refused("unknown_preset", f"{of} has no preset {request.preset!r}{meant}")
        given = request.params if isinstance(request.params, dict) else {}
        return msgspec.structs.replace(request, params={**_decode(row).params, **given}, preset=msgspec.UNSET)


def _field(kind: str, of: str, name: str) -> str:
    """Returns the field of a preset. Raises 404 for what can be none."""
    if kind not in KINDS:
        kinds = " and ".join(map(repr, KINDS))
        raise ApiProblem(404, "unknown_preset", f"presets are those of {kinds}, and not of {kind[:MAX_NAME]!r}")
    if not _ID.fullmatch(of) or len(name) > MAX_NAME:
        raise _unknown(name)
    return f"{kind}/{of}/{name}"


def _unknown(name: str) -> ApiProblem:
    return ApiProblem(404, "unknown_preset", f"there is no preset {name[:MAX_NAME]!r} here")


def _refused(code: str, detail: str) -> ApiProblem:
    return refused(detail, [planning.Problem("/preset", code, detail)])
