"""The web console: files of `control_plane/console/` as they are, held in memory and compressed once.

Every view has a path of its own below `/console/`, and all of them answer the same page. The policy lets the page load from this origin alone; only where the
store answers downloads with a redirect, pictures, sound and headers of files may come from there too.
"""

import gzip
import hashlib
from collections.abc import Callable, Iterator, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from typing import Any
from urllib.parse import urlsplit

import msgspec
from litestar import Request, Response, get
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from dihedral.control_plane import problems
from dihedral.control_plane.problems import ApiProblem
from dihedral.control_plane.root import address
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind

Req = Request[Any, Any, State]

NotFound = Callable[[Req, Exception], Response[bytes]]

VIEWS = ("jobs/", "new", "artifacts", "workers", "queue", "keys", "compare")
"""The beginnings of the views' paths; `to` in `control_plane/console/router.js` has the full paths."""
SERVED = {
    ".webp": "image/webp",
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
}

HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
    "Vary": "Accept-Encoding",
}


class File(msgspec.Struct, frozen=True):
    media_type: str
    text: bytes
    compressed: bytes
    etag: str


def console_routes(artifacts: ArtifactsSettings, root: str = "") -> tuple[list[HTTPRouteHandler], NotFound]:
    """Returns the routes of the console, and the answer to an address that no route has. `root`: control.rootPath; modules find it by their own address, the page must be told."""
    found = dict(read_files(files("dihedral.control_plane") / "console"))
    page = found["index.html"].text.replace(b'="/', f'="{root}/'.encode())
    found["index.html"] = file_of("text/html", page)
    headers = {"Content-Security-Policy": policy(artifacts), **HEADERS}

    def not_found(request: Req, error: Exception) -> Response[bytes]:
        """Shows a person the console's own page, where a program gets a problem."""
        is_for_people = request.scope["method"] == "GET" and "text/html" in request.headers.get("accept", "")
        if not is_for_people or request.scope["path"].startswith("/api/"):
            return problems.handle(request, error)
        page = found["index.html"]
        return Response(page.text, status_code=404, headers=headers, media_type=page.media_type)

    @get("/", include_in_schema=False)
    async def home(request: Req) -> Response[bytes]:
        return answer(request, found["index.html"], headers)

    @get(["/console", "/console/{path:path}"], include_in_schema=False)
    async def below(request: Req, path: FromPath[str] = "") -> Response[bytes]:
        name = path.lstrip("/")
        if name.rstrip("/") in ("", "jobs"):  # what a person types who has seen the address of a job
            query = request.scope["query_string"].decode("latin-1")
            where = address(request.scope, "/") + (f"?{query}" if query else "")
            return Response(b"", status_code=307, headers={**HEADERS, "Location": where})
        file = found.get(name) or (found["index.html"] if name.startswith(VIEWS) else None)
        if file is None:
            return not_found(request, ApiProblem(404, "not_found", "the console has no such file"))
        return answer(request, file, headers)

    return [home, below], not_found


def answer(request: Req, file: File, headers: Mapping[str, str]) -> Response[bytes]:
    """Answers with a file, compressed where the browser takes that, or says that it has not changed."""
    if request.headers.get("if-none-match") == file.etag:
        return Response(b"", status_code=304, headers={**headers, "ETag": file.etag}, media_type=file.media_type)
    text, more = file.text, {"ETag": file.etag}
    if "gzip" in request.headers.get("accept-encoding", ""):
        text, more = file.compressed, {**more, "Content-Encoding": "gzip"}
    return Response(text, headers={**headers, **more}, media_type=file.media_type)


def policy(artifacts: ArtifactsSettings) -> str:
    """Returns the Content-Security-Policy of the page. `blob:` is for previews of files before their upload."""
    store = ""
    if artifacts.store == StoreKind.s3:
        place = artifacts.public_endpoint or artifacts.endpoint
        named = place if "://" in place else f"http{'s' if artifacts.secure else ''}://{place}"
        parts = urlsplit(named)
        store = f" {parts.scheme}://{parts.netloc}"
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:{store}; media-src 'self' blob:{store}; "
        f"connect-src 'self'{store}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )


def read_files(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, File]]:
    for each in sorted(folder.iterdir(), key=lambda each: each.name):
        if each.is_dir():
            yield from read_files(each, f"{prefix}{each.name}/")
            continue
        suffix = each.name[each.name.rfind(".") :]
        if suffix in SERVED:
            yield prefix + each.name, file_of(SERVED[suffix], each.read_bytes())


def file_of(media_type: str, text: bytes) -> File:
    etag = f'"{hashlib.sha256(text).hexdigest()[:32]}"'
    return File(media_type, text, gzip.compress(text, 9, mtime=0), etag)
