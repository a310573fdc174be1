"""For agents: `/mcp`, the Model Context Protocol over streamable HTTP, without sessions, and `/llms.txt`.

A POST is answered with JSON. Only a wait for a job whose client asks for progress (`_meta.progressToken`) and takes an event stream has one: its
notifications, and the answer as the last event.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from litestar import Request, Response, get, post
from litestar.datastructures import State
from litestar.response import Stream

from dihedral.control_plane import body, mcp
from dihedral.control_plane.access import Access, principal
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.root import base_url

Req = Request[Any, Any, State]


@post("/mcp", scope="read", is_long=True, include_in_schema=False)
async def ask(request: Req) -> Response[Any]:
    """Accepts any key that reads; a tool checks the further scopes that it needs. A message may wait for a job, so it is given its turn once it is known
    to do something else, and counts as a socket of its key meanwhile."""
    state, found = request.app.state, principal(request)
    wanted = request.headers.get("mcp-protocol-version", mcp.PROTOCOLS[0])
    if wanted not in mcp.PROTOCOLS:
        detail = f"the protocol {wanted[:40]!r} is not known here; {', '.join(mcp.PROTOCOLS)} are"
        raise ApiProblem(400, "unknown_protocol", detail)
    raw = await body.read(request, state.settings.control.body_limit_bytes)
    access: Access = state.access
    asked = mcp.Asked(state.queue, state.store, found, base_url(request), state.planner, wanted)
    key = found.key.id if found.key else ""
    if "text/event-stream" in request.headers.get("accept", "") and mcp.wants_progress(raw):
        request.scope["state"]["until_end"].enter_context(access.socket(found))
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return Stream(
            _told(raw, asked, lambda: access.costly_turns.take(key)),
            status_code=200,
            media_type="text/event-stream",
            headers=headers,
        )
    with access.socket(found):
        answer, is_message = await mcp.answer(raw, asked, lambda: access.costly_turns.take(key))
    if answer is None:
        return Response(b"", status_code=202)
    status = 200 if is_message else 400
    return Response(msgspec.json.encode(answer), status_code=status, media_type="application/json")


async def _told(raw: bytes, asked: mcp.Asked, turn: mcp.Turn) -> AsyncIterator[bytes]:
    """Yields the notifications as they come, and the answer."""
    notes: asyncio.Queue[mcp.Object | None] = asyncio.Queue()
    answering = asyncio.create_task(mcp.answer(raw, asked._replace(notify=notes.put_nowait), turn))
    answering.add_done_callback(lambda _: notes.put_nowait(None))
    try:
        while (note := await notes.get()) is not None:
            yield _event(note)
        yield _event((await answering)[0])
    finally:
        answering.cancel()  # the client has gone: nobody waits any more


def _event(message: mcp.Object | None) -> bytes:
    return b"event: message\ndata: " + msgspec.json.encode(message) + b"\n\n"


@get("/llms.txt", include_in_schema=False, media_type="text/plain")
async def llms(request: Req) -> str:
    """Tells an agent that has found this address what is here (the convention of llmstxt.org)."""
    return LLMS.format(url=base_url(request))


LLMS = """# Dihedral

> Runs media pipelines (speech, films, LoRA training, ComfyUI workflows, command-line tools) as durable jobs on GPU and CPU workers.

Requests under /api and /mcp carry `Authorization: Bearer KEY` where this server has API keys. Say what you want in words with `POST /api/plans {{"goal": …}}`:
it answers a graph, its reasons and what is open, and costs nothing. `POST /api/jobs` runs a pipeline, a task, a graph or a goal.

## For agents

- [Model Context Protocol]({url}/mcp): streamable HTTP; one tool for each pipeline, and plan_job, submit_job, wait_job, get_job, cancel_job, upload, download

## HTTP

- [OpenAPI]({url}/schema): every route, its body and its answers
- [Tasks]({url}/api/capabilities): what a graph may name, with schemas and examples
- [Pipelines]({url}/api/pipelines): ready graphs with parameters
- [Schema of a submission]({url}/schemas/request.json)
- [Schema of a job]({url}/schemas/job.json)
"""

mcp_routes = [ask, llms]
