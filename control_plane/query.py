"""Reads headers, and accepts or refuses query parameters: ignoring a misspelt filter would answer a different question."""

from datetime import datetime
from typing import Any

import msgspec
from litestar import Request
from litestar.params import QueryParameter
from litestar.types import Scope

from dihedral.control_plane.problems import ApiProblem
from dihedral.schemas.strict import AwareDateTime


def header(scope: Scope, name: bytes) -> str | None:
    """Returns the first header of this name, which is in lower case. Litestar would make a mapping of all of them, anew for each of its objects."""
    for each, value in scope["headers"]:
        if each == name:
            return value.decode("latin-1")
    return None


async def known_once(request: Request[Any, Any, Any]) -> None:
    """Checks the parameters, as a `before_request` hook. Raises 422 for a parameter that the handler does not declare, or that comes twice."""
    if not request.scope["query_string"]:
        return
    parameters = request.route_handler.parsed_fn_signature.parameters
    known = {name for name, each in parameters.items() if isinstance(each.kwarg_definition, QueryParameter)}
    given = [name for name, _ in request.query_params.multi_items()]
    for name in dict.fromkeys(given):
        if name not in known:
            there = f"there are: {', '.join(sorted(known))}" if known else "there are none here"
            raise refused(name[:100], f"there is no such parameter; {there}")
        if given.count(name) > 1:
            raise refused(name, "it can be given once only")


def moment_ms(name: str, text: str | None) -> int | None:
    """Converts RFC 3339 to epoch ms. Raises 422, also for a `+` that was not escaped and so has become a space."""
    if text is None:
        return None
    try:
        moment: datetime = msgspec.convert(text, AwareDateTime)
        return int(moment.timestamp() * 1000)
    except (msgspec.ValidationError, OverflowError, ValueError) as error:
        raise refused(name, "a moment is like 2026-01-31T12:00:00Z, with its zone") from error


def refused(name: str, detail: str) -> ApiProblem:
    return ApiProblem(422, "invalid_parameter", f"{name}: {detail}")
