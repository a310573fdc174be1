"""`/docs`: the API reference, a viewer of npm over the OpenAPI document. It may load from this origin alone, as the console may.

The viewer writes styles and markup of its own, so the policy allows inline styles and no trusted types, and still no inline script and no `eval`. What it
shows is the document of this server; answers to requests that are tried out are shown as text.
"""

import asyncio
from importlib.resources import files
from typing import Any

from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.routes.console import HEADERS, File, answer, file_of, read_files

Req = Request[Any, Any, State]

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def reference_routes(root: str = "") -> list[HTTPRouteHandler]:
    """Returns the routes of the reference. `root`: control.rootPath. Its files are read and compressed at the first request: few ask, and it takes a tenth of a second."""
    headers = {"Content-Security-Policy": POLICY, **HEADERS}
    found: dict[str, File] = {}
    reading = asyncio.Lock()

    def read() -> None:
        made = dict(read_files(files("dihedral.control_plane") / "reference"))
        made["index.html"] = file_of("text/html", made["index.html"].text.replace(b'="/', f'="{root}/'.encode()))
        found.update(made)

    async def answered(request: Req, name: str) -> Response[bytes]:
        async with reading:
            if not found:
                await asyncio.to_thread(read)
        if name not in found:
            raise ApiProblem(404, "not_found", "the reference has no such file")
        return answer(request, found[name], headers)

    @get("/docs", include_in_schema=False)
    async def reference(request: Req) -> Response[bytes]:
        return await answered(request, "index.html")

    @get("/docs/{name:str}", include_in_schema=False)
    async def reference_file(request: Req, name: FromPath[str]) -> Response[bytes]:
        return await answered(request, name)

    return [reference, reference_file]
