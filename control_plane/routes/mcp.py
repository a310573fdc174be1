"""`/mcp`: the Model Context Protocol over streamable HTTP, without sessions and streams: a POST is answered with JSON."""

from typing import Any

import msgspec
from litestar import Request, Response, post
from litestar.datastructures import State

from dihedral.control_plane import body, mcp
from dihedral.control_plane.access import Access, principal
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.root import base_url

Req = Request[Any, Any, State]


@post("/mcp", scope="read", is_long=True, include_in_schema=False)
async def ask(request: Req) -> Response[bytes]:
    """Accepts any key that reads; a tool checks the further scopes that it needs. A message may wait for a job, so it is given its turn once it is known
    to do something else, and counts as a socket of its key meanwhile."""
    state, found = request.app.state, principal(request)
    wanted = request.headers.get("mcp-protocol-version", mcp.PROTOCOLS[0])
    if wanted not in mcp.PROTOCOLS:
        detail = f"the protocol {wanted[:40]!r} is not known here; {', '.join(mcp.PROTOCOLS)} are"
        raise ApiProblem(400, "unknown_protocol", detail)
    raw = await body.read(request, state.settings.control.body_limit_bytes)
    access: Access = state.access
    with access.socket(found):
        asked = mcp.Asked(state.queue, state.store, found, base_url(request), state.planner)
        key = found.key.id if found.key else ""
        answer, is_message = await mcp.answer(raw, asked, lambda: access.costly_turns.take(key))
    if answer is None:
        return Response(b"", status_code=202)
    status = 200 if is_message else 400
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")


mcp_routes = [ask]
