"""Artifacts over REST, with the local store and with a real S3 server behind it: uploads, downloads, and what is refused."""

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import httpx
import pytest
import pytest_asyncio

from dihedral.schemas.structs.settings import StoreKind
from tests.artifacts.place import files_of_at_most
from tests.artifacts.seaweed import of_session
from tests.control_plane.served import PROBLEM, checked, made_settings, new_id, node, serve
from tests.support.polling import becomes_async
from tests.support.servers import start_server

pytestmark = pytest.mark.asyncio(loop_scope="session")

FIELDS = {"bucket", "key", "size_bytes", "content_type", "sha256", "created_at", "job_id", "node_id"}
BOUNDARY = "a-boundary"
FORM = f"multipart/form-data; boundary={BOUNDARY}"
CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="session")
def seaweed(request: pytest.FixtureRequest) -> Any:
    return of_session(request.config)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def remote(seaweed: Any) -> AsyncIterator[Any]:
    """Clients reach the store under another name than the control plane does."""
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    process, url = start_server(directory)
    made = made_settings(url, directory)
    made.jobs.lease_ms = 5000  # nobody dies here, so nobody need look often
    public = seaweed.endpoint.replace("127.0.0.1", "localhost")
    made.artifacts = seaweed.settings(directory=made.artifacts.directory, public_endpoint=public)
    try:
        async with serve(made) as served:
            yield served
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["local", "s3"])
def app(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue("served" if request.param == "local" else "remote")


def is_remote(app: Any) -> Any:
    return app.settings.artifacts.store is StoreKind.s3


def part(name: Any, content: Any, *, filename: Any = None, kind: Any = None, more: Any = "") -> Any:
    disposition = f'form-data; name="{name}"' + ("" if filename is None else f'; filename="{filename}"')
    head = f"--{BOUNDARY}\r\nContent-Disposition: {disposition}\r\n"
    head += "" if kind is None else f"Content-Type: {kind}\r\n"
    return f"{head}{more}\r\n".encode() + content + b"\r\n"


def form(*parts: Any) -> Any:
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode()


def file(content: Any = b"hello", filename: Any = "hello.txt", kind: Any = "text/plain") -> Any:
    return part("file", content, filename=filename, kind=kind)


async def post(app: Any, body: Any, *, kind: Any = FORM, expect: Any = 201, **query: Any) -> Any:
    headers = {} if kind is None else {"content-type": kind}
    answer = await app.http.post("/api/artifacts", content=body, headers=headers, params=query)
    assert answer.status_code == expect, answer.text
    return checked(answer)


async def upload(
    app: Any, content: Any = b"hello", filename: Any = "hello.txt", kind: Any = "text/plain", **query: Any
) -> Any:
    return await post(app, form(file(content, filename, kind)), **query)


def where(meta: Any, root: Any = "/api/artifacts") -> Any:
    return f"{root}/{meta['bucket']}/{meta['key']}"


async def download(app: Any, meta: Any, **headers: Any) -> Any:
    """Over the redirect, where there is one."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await app.http.get(where(meta), headers=named, follow_redirects=True)


async def stored(app: Any) -> Any:
    """The newest, and what lies about: both are other ones when anything was stored, even by half."""
    left = [] if is_remote(app) else os.listdir(Path(app.settings.artifacts.directory) / ".tmp")
    return (await app.get("/api/artifacts", limit=1))["artifacts"], left


async def raw(app: Any, request: bytes) -> Any:
    """(status, head, body) of a request that no client has put in order."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    writer.write(request)
    try:
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    finally:
        writer.close()
        await writer.wait_closed()
    return int(head.split()[1]), head.decode("latin-1"), body


async def test_an_upload_is_answered_with_its_meta_and_where_it_is(app: Any) -> None:
    before = time.time()
    answer = await app.http.post("/api/artifacts", files={"file": ("Ein Bild.PNG", CONTENT, "image/png")})
    assert answer.status_code == 201
    meta = answer.json()
    assert set(meta) == FIELDS | {"name"}
    assert (meta["bucket"], meta["content_type"], meta["size_bytes"]) == ("inputs", "image/png", len(CONTENT))
    assert meta["sha256"] == hashlib.sha256(CONTENT).hexdigest()
    assert (meta["job_id"], meta["node_id"]) == (None, None)
    assert meta["key"].endswith("/Ein-Bild.PNG")
    assert time.strftime("%Y-%m-%dT%H:%M", time.gmtime(before)) <= meta["created_at"]
    assert answer.headers["location"] == where(meta)
    found = await download(app, meta)
    assert (found.status_code, found.content) == (200, CONTENT)
    assert found.headers["content-type"] == "image/png"
    assert int(found.headers["content-length"]) == len(CONTENT)
    assert await app.get(where(meta, "/api/artifacts-meta")) == meta


async def test_an_empty_file_is_an_artifact(app: Any) -> None:
    meta = await upload(app, b"")
    assert (meta["size_bytes"], meta["sha256"]) == (0, hashlib.sha256(b"").hexdigest())
    found = await download(app, meta)
    assert (found.status_code, found.content) == (200, b"")


async def test_two_uploads_of_one_file_are_two_artifacts(app: Any) -> None:
    assert (await upload(app))["key"] != (await upload(app))["key"]


async def test_many_uploads_at_once_are_all_there(app: Any) -> None:
    metas = await asyncio.gather(*(upload(app, f"number {number}".encode()) for number in range(20)))
    found = await asyncio.gather(*(download(app, meta) for meta in metas))
    assert [answer.text for answer in found] == [f"number {number}" for number in range(20)]


async def test_the_bucket_is_a_field_before_the_file_or_in_the_query(app: Any) -> None:
    assert (await post(app, form(part("bucket", b"voices"), file())))["bucket"] == "voices"
    assert (await upload(app, bucket="loras"))["bucket"] == "loras"
    both = await post(app, form(part("bucket", b"voices"), part("note", b"x"), file()), bucket="loras")
    assert both["bucket"] == "voices"


DISOBEYED = [
    (form(file(), part("bucket", b"voices")), "bucket_after_file"),
    (form(file(b"x" * 300_000), part("note", b"x"), part("bucket", b"voices")), "bucket_after_file"),
    (form(file(), file()), "two_files"),
    (form(), "no_file"),
    (form(part("bucket", b"inputs")), "no_file"),
    (form(part("upload", b"x", filename="a.txt")), "no_file"),
    (form(part("files", b"x" * 100_000, filename="a.txt"), file()), "field_too_large"),
    (form(part("bucket", b"x" * 100_000), file()), "field_too_large"),
    (form(part("bucket", b"secrets"), file()), "unknown_bucket"),
    (form(part("bucket", b""), file()), "unknown_bucket"),
    (form(part("bucket", b"../inputs"), file()), "unknown_bucket"),
    (form(part("bucket", b"\xff\x00"), file()), "unknown_bucket"),
    (form(part("bucket", b"inputs\n"), file()), "unknown_bucket"),
    (form(file(kind="text")), "bad_content_type"),
    (form(file(kind="text/плейн")), "bad_content_type"),
    (form(file(kind="text/html\x00")), "bad_content_type"),
]


@pytest.mark.parametrize(("body", "code"), DISOBEYED)
async def test_a_form_that_cannot_be_obeyed_is_refused_and_stores_nothing(served: Any, body: Any, code: Any) -> None:
    await upload(served)
    before = await stored(served)
    assert (await post(served, body, expect=422))["code"] == code
    assert await stored(served) == before


async def test_other_fields_of_a_form_are_no_hindrance(app: Any) -> None:
    body = form(part("note", b"x" * 1000), file(b"kept"), part("submit", b"Upload"))
    assert (await download(app, await post(app, body))).content == b"kept"


async def test_a_file_that_holds_half_a_boundary_is_kept_as_it_is(app: Any) -> None:
    content = f"\r\n--{BOUNDARY[:-1]}\r\n--\r\n\r\r\n--{BOUNDARY}".encode()[:-1] * 50
    assert (await download(app, await upload(app, content))).content == content


@pytest.mark.parametrize("query", [{"bucket": "secrets"}, {"bucket": ""}, {"Bucket": "inputs"}, {"job": "x"}])
async def test_a_query_that_cannot_be_obeyed_is_refused(app: Any, query: Any) -> None:
    await post(app, form(file()), expect=422, **query)


async def test_a_bucket_that_is_named_twice_is_refused(app: Any) -> None:
    answer = await app.http.post(
        "/api/artifacts?bucket=inputs&bucket=loras", content=form(file()), headers={"content-type": FORM}
    )
    assert (answer.status_code, checked(answer)["code"]) == (422, "invalid_parameter")


@pytest.mark.parametrize(
    "kind",
    [None, "application/json", "multipart/form-data", "multipart/form-data; boundary=", "multipart/mixed; boundary=a",
     "application/x-www-form-urlencoded", "multipart", "; boundary=a", "é"],
)  # fmt: skip
async def test_what_is_no_multipart_form_is_an_unsupported_type(served: Any, kind: Any) -> None:
    headers = {} if kind is None else {"content-type": kind.encode()}
    answer = await served.http.post("/api/artifacts", content=form(file()), headers=headers)
    assert (answer.status_code, checked(answer)["code"]) == (415, "unsupported_media_type")


MALFORMED = {
    "empty": b"",
    "no multipart": b"hello",
    "JSON": b'{"file": "hello"}',
    "another boundary": form(file()).replace(BOUNDARY.encode(), b"another"),
    "no last boundary": file(),
    "cut in the file": form(file(b"x" * 100_000))[:50_000],
    "cut in the head": form(file())[:40],
    "cut in the last boundary": form(file())[:-6],
    "line feeds only": form(file()).replace(b"\r\n", b"\n"),
    "no disposition": b"--a-boundary\r\nContent-Type: a/b\r\n\r\nx\r\n--a-boundary--\r\n",
    "another disposition": form(file()).replace(b"form-data", b"attachment"),
    "a head that is none": form(part("file", b"x", more="nonsense\r\n")),
    "a head that is too long": form(part("file", b"x", more=f"X-Long: {'x' * 10_000}\r\n")),
    "a head without an end": b"--a-boundary\r\nX: " + b"x" * 100_000,
    "too many heads": form(part("file", b"x", more="X-More: 1\r\n" * 100)),
    "too many parts": form(*(part(f"field-{number}", b"x") for number in range(100)), file()),
    "a head of no text": form(file(filename="\x80").replace(b"\xc2\x80", b"\xff")),
    "a false length": form(part("file", b"hello", more="Content-Length: 4\r\n")),
    "a length that is none": form(part("file", b"hello", more="Content-Length: -1\r\n")),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
async def test_a_malformed_form_is_refused_and_stores_nothing(served: Any, body: Any) -> None:
    await upload(served)
    before = await stored(served)
    assert (await post(served, body, expect=400))["code"] == "bad_multipart"
    assert await stored(served) == before


async def test_no_refused_form_stores_anything_remotely(remote: Any) -> None:
    before = await stored(remote)
    for body, code in DISOBEYED:
        assert (await post(remote, body, expect=422))["code"] == code
    for name in ("no last boundary", "cut in the file", "a false length", "another boundary"):
        body = MALFORMED[name]
        assert (await post(remote, body, expect=400))["code"] == "bad_multipart"
    assert await stored(remote) == before


@pytest.mark.parametrize("boundary", ['"a b"', "x" * 3000, "'", '"\\""', "=", '"é"'])
async def test_an_odd_boundary_is_no_trouble(served: Any, boundary: Any) -> None:
    answer = await served.http.post(
        "/api/artifacts",
        content=form(file()),
        headers={"content-type": f"multipart/form-data; boundary={boundary}".encode()},
    )
    assert answer.status_code in (400, 415)
    checked(answer)


async def test_an_upload_whose_client_leaves_stores_nothing(app: Any) -> None:
    await upload(app)
    before = await stored(app)
    body = form(file(b"x" * 3_000_000))
    for length in (len(body), len(body) - 1):
        head = f"POST /api/artifacts HTTP/1.1\r\nHost: x\r\nContent-Type: {FORM}\r\nContent-Length: {length}\r\n\r\n"
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(head.encode() + body[:2_000_000])
        await writer.drain()
        writer.transport.abort()
        assert await reader.read() == b""

    async def as_before() -> Any:
        return await stored(app) == before

    await becomes_async(as_before)
    await upload(app)


async def test_an_upload_without_a_length_is_taken(app: Any) -> None:
    async def chunks() -> AsyncIterator[Any]:
        yield form(file(CONTENT))[:100]
        yield form(file(CONTENT))[100:]

    assert (await download(app, await post(app, chunks()))).content == CONTENT


@pytest.mark.parametrize(
    ("filename", "kept"),
    [
        ("../../etc/passwd", "passwd"), ("/etc/passwd", "passwd"), ("C:\\temp\\evil.exe", "evil.exe"),
        ("..\\..\\evil.exe", "evil.exe"), ("..", "file"), (".", "file"), ("", "file"), ("/", "file"), (".bashrc", "bashrc"),
        ("a/", "file"), ("a\x00b.txt", "a-b.txt"), ("%2e%2e%2fa", "2e-2e-2fa"), ("x" * 500 + ".png", "x" * 124 + ".png"),
        ("Zoë 日本.png", "Zo-.png"), ("日本", "file"), ("a'b;c.txt", "a-b-c.txt"), ("-rf", "rf"), ("a\tb", "a-b"),
    ],
)  # fmt: skip
async def test_of_a_file_name_only_a_plain_last_part_is_kept(served: Any, filename: Any, kept: Any) -> None:
    meta = await post(served, form(file(filename=filename)))
    folder, _, name = meta["key"].rpartition("/")
    assert (len(folder), name) == (32, kept)
    answer = await served.http.get(where(meta))
    assert f'filename="{kept}"' in answer.headers["content-disposition"]


async def test_a_file_without_a_name_is_taken(served: Any) -> None:
    assert (await post(served, form(part("file", b"x"))))["key"].endswith("/file")


async def test_more_than_the_limit_is_refused_whether_it_is_announced_or_not(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.settings.artifacts, "max_upload_bytes", 1000)

    async def unannounced(body: Any) -> AsyncIterator[Any]:
        for at in range(0, len(body), 1 << 16):
            yield body[at : at + (1 << 16)]

    assert (await upload(app, b"x" * 1000))["size_bytes"] == 1000
    before = await stored(app)
    trailing = form(file(b"x"), part("note", b"x" * 200_000))
    for body in (form(file(b"x" * 1001)), form(file(b"x" * 5_000_000)), trailing):
        assert (await post(app, body, expect=413))["code"] == "body_too_large"
        assert (await post(app, unannounced(body), expect=413))["code"] == "body_too_large"
    assert await stored(app) == before


async def test_an_upload_that_does_not_fit_is_507(app: Any) -> None:
    await upload(app)
    before = await stored(app)
    with files_of_at_most(100_000):
        problem = await post(app, form(file(b"x" * 300_000)), expect=507)
    assert problem["code"] == "store_full"
    assert await stored(app) == before
    await upload(app, b"x" * 300_000)


async def test_a_store_that_is_down_is_503_until_it_is_back(remote: Any, seaweed: Any) -> None:
    meta = await upload(remote)
    async with seaweed.down():
        answers = await asyncio.gather(
            remote.http.post("/api/artifacts", content=form(file()), headers={"content-type": FORM}),
            remote.http.get("/api/artifacts"),
            remote.http.get(where(meta)),
            remote.http.get(where(meta, "/api/artifacts-meta")),
            remote.http.delete(where(meta)),
        )
        for answer in answers:
            assert (answer.status_code, checked(answer)["code"]) == (503, "store_unavailable")
            assert int(answer.headers["retry-after"]) > 0
    assert (await download(remote, meta)).text == "hello"
    await upload(remote)


async def test_a_local_store_that_cannot_be_used_is_503(tmp_path: Path) -> None:
    """As where its disk is not mounted."""
    process, url = start_server(tmp_path)
    made = made_settings(url, tmp_path)
    made.artifacts.directory = str(tmp_path / "not-a-directory")
    (tmp_path / "not-a-directory").write_bytes(b"")
    try:
        async with serve(made) as served:
            answer = await served.http.post("/api/artifacts", content=form(file()), headers={"content-type": FORM})
            assert (answer.status_code, checked(answer)["code"]) == (503, "store_unavailable")
            assert int(answer.headers["retry-after"]) > 0
    finally:
        process.kill()
        process.wait()


async def test_a_large_upload_is_never_held_in_memory(app: Any) -> None:
    chunk = os.urandom(1 << 20)

    async def body() -> AsyncIterator[Any]:
        yield form(file(b""))[: -len(f"\r\n--{BOUNDARY}--\r\n")]
        for _ in range(60):
            yield chunk
        yield f"\r\n--{BOUNDARY}--\r\n".encode()

    await upload(app, b"x" * 10_000_000)  # what it needs once it keeps
    before = memory("VmRSS")
    forget_peak()
    meta = await post(app, body())
    assert meta["size_bytes"] == 60 << 20
    assert memory("VmHWM") - before < 40 << 20  # a few parts of 8 MiB
    sums = hashlib.sha256()
    async with app.http.stream("GET", where(meta), follow_redirects=True) as answer:
        async for piece in answer.aiter_raw():
            sums.update(piece)
    assert sums.hexdigest() == meta["sha256"]
    assert memory("VmHWM") - before < 40 << 20


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: Any) -> Any:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


SIZE = len(CONTENT)


@pytest.mark.parametrize(
    ("wanted", "first", "end"),
    [("bytes=0-0", 0, 1), ("bytes=10-19", 10, 20), ("bytes=10000-", 10_000, SIZE), ("bytes=-7", SIZE - 7, SIZE),
     ("bytes=0-", 0, SIZE), (f"bytes=100-{SIZE + 99}", 100, SIZE), (f"bytes=-{SIZE + 99}", 0, SIZE),
     (f"bytes={SIZE - 1}-{SIZE - 1}", SIZE - 1, SIZE)],
)  # fmt: skip
async def test_a_range_is_answered_with_that_part(app: Any, wanted: Any, first: Any, end: Any) -> None:
    answer = await download(app, await upload(app, CONTENT), range=wanted)
    assert (answer.status_code, answer.content) == (206, CONTENT[first:end])
    assert answer.headers["content-range"] == f"bytes {first}-{end - 1}/{SIZE}"
    assert int(answer.headers["content-length"]) == end - first
    assert answer.headers["content-type"] == "text/plain"


@pytest.mark.parametrize("wanted", [f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=999999999999999999999999-"])
async def test_a_range_behind_the_end_is_416_and_says_the_size(app: Any, wanted: Any) -> None:
    answer = await download(app, await upload(app, CONTENT), range=wanted)
    assert answer.status_code == 416
    if not is_remote(app):
        assert checked(answer)["code"] == "bad_range"
        assert answer.headers["content-range"] == f"bytes */{SIZE}"


async def test_a_range_of_no_bytes_is_416(served: Any) -> None:
    for content, wanted in ((CONTENT, "bytes=-0"), (b"", "bytes=0-"), (b"", "bytes=-5"), (CONTENT, "bytes=5-2")):
        meta = await upload(served, content)
        assert (await download(served, meta, range=wanted)).status_code == 416


@pytest.mark.parametrize(
    "wanted",
    [
        "bytes=0-1,5-6",
        "bytes",
        "bytes=",
        "bytes=-",
        "bytes=a-b",
        "lines=0-1",
        "bytes=1-2-3",
        "",
        "bytes=" + "9" * 5000 + "-",
    ],
)
async def test_a_range_that_is_not_understood_is_the_whole(served: Any, wanted: Any) -> None:
    answer = await download(served, await upload(served, CONTENT), range=wanted)
    assert (answer.status_code, answer.content) == (200, CONTENT)
    assert "content-range" not in answer.headers
    assert answer.headers["accept-ranges"] == "bytes"


async def test_a_part_is_sent_only_where_it_fits_to_what_the_client_has(served: Any) -> None:
    meta = await upload(served, CONTENT)
    etag = (await download(served, meta)).headers["etag"]
    for tag, status in ((etag, 206), ('"another"', 200), (f"W/{etag}", 200), ("Wed, 21 Oct 2015 07:28:00 GMT", 200)):
        answer = await download(served, meta, range="bytes=0-9", if_range=tag)
        assert (answer.status_code, len(answer.content)) == (status, 10 if status == 206 else SIZE), tag


async def test_what_the_client_has_already_is_not_sent_again(served: Any) -> None:
    meta = await upload(served, CONTENT)
    etag = (await download(served, meta)).headers["etag"]
    for tag in (etag, f'"another", {etag}', f"W/{etag}", "*"):
        answer = await download(served, meta, if_none_match=tag)
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag), tag
    for tag in ('"another"', etag.strip('"'), ""):
        assert (await download(served, meta, if_none_match=tag)).status_code == 200, tag


async def test_a_remote_store_is_redirected_to_at_its_public_address(remote: Any, seaweed: Any) -> None:
    meta = await upload(remote, CONTENT, bucket="videos")
    answer = await remote.http.get(where(meta))
    assert answer.status_code == 302
    link = urlsplit(answer.headers["location"])
    assert f"{link.scheme}://{link.netloc}" == seaweed.endpoint.replace("127.0.0.1", "localhost")
    assert link.path == f"/videos/{meta['key']}"
    assert parse_qs(link.query)["X-Amz-Expires"] == [str(remote.settings.artifacts.presign_seconds)]
    async with httpx.AsyncClient(timeout=120) as anybody:
        found = await anybody.get(answer.headers["location"])
        assert (found.status_code, found.content) == (200, CONTENT)
    missing = await remote.http.get(f"{where(meta)}x")
    assert missing.status_code == 404


@pytest.mark.parametrize(
    ("kind", "how"),
    [("video/mp4", "inline"), ("image/png", "inline"), ("text/html", "attachment"), ("image/svg+xml", "attachment")],
)
async def test_a_remote_store_is_told_what_a_browser_may_show(remote: Any, kind: Any, how: Any) -> None:
    """It sends no policy of ours with a page, so there a page must not be one."""
    meta = await upload(remote, CONTENT, "it.bin", kind)
    link = (await remote.http.get(where(meta))).headers["location"]
    async with httpx.AsyncClient(timeout=120) as anybody:
        assert (await anybody.get(link)).headers["content-disposition"] == f'{how}; filename="it.bin"'
        assert (await anybody.get(link.replace("attachment", "inline").replace("it.bin", "x"))).status_code in (
            403,
            404,
        ) or how == "inline"


async def test_a_list_has_what_was_asked_for_newest_first(app: Any) -> None:
    metas = []
    for bucket in ("voices", "videos", "voices"):
        metas.append(await upload(app, bucket=bucket))
        await becomes_async(lambda: later_than(metas[-1]))
    assert (await app.get("/api/artifacts", limit=3))["artifacts"] == metas[::-1]
    assert (await app.get("/api/artifacts", bucket="voices", limit=2))["artifacts"] == [metas[2], metas[0]]
    assert (await app.get("/api/artifacts", bucket="videos", limit=1))["artifacts"] == [metas[1]]
    for nothing in (
        {"bucket": "nobody"},
        {"bucket": ".."},
        {"bucket": ""},
        {"jobId": new_id()},
        {"jobId": "../.."},
        {"jobId": ""},
    ):
        assert (await app.get("/api/artifacts", **nothing))["artifacts"] == [], nothing


def later_than(meta: Any) -> Any:
    now = time.time()
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now * 1000) % 1000:03}Z" > meta["created_at"]


@pytest.mark.parametrize(
    "query", ["?limit=0", "?limit=10001", "?limit=many", "?jobid=x", "?job_id=x", "?bucket=inputs&bucket=loras",
     *(f"?cursor={base64.urlsafe_b64encode(text).decode()}" for text in
       (b"", b"\xff", b"yesterday x", b"2026-13-45T00:00:00.000Z x", b"0000-01-01T00:00:00.000Z x",
        b"0001-01-01T00:00:00.000Z x", b"9999-12-31T23:59:59.999Z x"))],
)  # fmt: skip
async def test_a_list_that_cannot_be_answered_as_asked_is_refused(served: Any, query: Any) -> None:
    answer = await served.http.get(f"/api/artifacts{query}")
    assert answer.status_code == 422
    checked(answer)


async def test_what_a_job_has_stored_is_listed_with_it(app: Any) -> None:
    job = await app.submit(
        node("write", task="upload_artifact", plane="node", name="a.txt", text="hello"), job=new_id()
    )
    ended = await app.ended(job)
    assert ended["status"] == "completed", ended
    (meta,) = (await app.get("/api/artifacts", jobId=job))["artifacts"]
    assert (meta["job_id"], meta["node_id"], meta["bucket"]) == (job, "write", "inputs")
    assert ended["artifacts"] == [meta]
    assert (await app.get("/api/artifacts", jobId=job, bucket="loras"))["artifacts"] == []
    assert (await download(app, meta)).text == "hello"


async def test_what_is_deleted_is_gone(app: Any) -> None:
    meta = await upload(app)
    await app.delete(where(meta))
    for call in (
        app.delete(where(meta), expect=404),
        app.get(where(meta), expect=404),
        app.get(where(meta, "/api/artifacts-meta"), expect=404),
    ):
        problem = await call
        assert problem["code"] == "unknown_artifact"
        assert meta["key"] in problem["detail"]
    assert meta not in (await app.get("/api/artifacts", limit=5))["artifacts"]


@pytest.mark.parametrize(
    "path",
    [
        "inputs/nothing",
        "inputs/a/b/c",
        "nobody/a",
        "x/a",
        "inputs/a b",
        "inputs/%00",
        "inputs/%ff",
        "inputs/.tmp/x",
        "..%2f/a",
        "inputs/" + "x" * 3000,
    ],
)
async def test_what_is_not_there_is_404(app: Any, path: Any) -> None:
    for method, root in (("GET", "/api/artifacts"), ("GET", "/api/artifacts-meta"), ("DELETE", "/api/artifacts")):
        status, head, body = await raw(
            app, f"{method} {root}/{path.replace(' ', '%20')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode()
        )
        assert (status, json.loads(body)["code"]) == (404, "unknown_artifact"), (method, root)
        assert PROBLEM in head


TRAVERSALS = [
    "../secret.txt", "inputs/../../secret.txt", "inputs/..%2f..%2fsecret.txt", "inputs/%2e%2e/%2e%2e/secret.txt",
    "inputs/%2e%2e%2f%2e%2e%2fsecret.txt", "inputs/..%5c..%5csecret.txt", "inputs/..\\..\\secret.txt", "inputs//{secret}",
    "inputs/{secret}", "inputs/%2f{secret}", "../../../../../../../../{secret}", "%2e%2e/secret.txt", "..%2fsecret.txt", "..;/secret.txt",
    "inputs/%252e%252e/%252e%252e/secret.txt", "inputs/....//....//secret.txt", "inputs/..%00/secret.txt", "inputs/secret.txt%00.png",
    "inputs/..%c0%af..%c0%afsecret.txt", "inputs/\xff\xfe/../../secret.txt", "inputs/a/../../../secret.txt", ".meta/inputs/known.json",
    "%2emeta/inputs/known.json", ".tmp/known", "inputs/.meta/known", "inputs/a%0d%0aX-Evil: 1", "inputs/known.json%0a",
    "./../secret.txt", "//{secret}", "inputs/../.meta/inputs/known.json", "inputs/%2e%2e/.meta/inputs/known.json",
]  # fmt: skip


async def test_no_path_leads_out_of_the_store(app: Any) -> None:
    """As a client sends them that puts nothing in order; what they aim at is there."""
    with secrets_around(Path(app.settings.artifacts.directory)) as (secret, unharmed):
        for traversal in TRAVERSALS:
            target = traversal.replace("{secret}", str(secret).lstrip("/")).replace(" ", "%20")
            for method, route in (("GET", "artifacts"), ("GET", "artifacts-meta"), ("DELETE", "artifacts")):
                request = f"{method} /api/{route}/{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
                status, head, body = await raw(app, request.encode("latin-1"))
                assert status in (400, 404, 405, 422), (method, target, status)
                assert status == 400 or PROBLEM in head, (method, target, head)
                assert b"top secret" not in body
                assert "x-evil" not in head.lower()
        assert unharmed()


@contextlib.contextmanager
def secrets_around(root: Any) -> Iterator[Any]:
    """(one outside of the store, whether all are still there)."""
    secret = root.parent / "secret.txt"
    paths = [secret, root / ".meta" / "inputs" / "known.json", root / ".tmp" / "known", root / "secret.txt"]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("top secret")
    try:
        yield secret, lambda: all(path.read_text() == "top secret" for path in paths)
    finally:
        for path in paths:
            path.unlink()


@pytest.mark.parametrize(
    "kind", ["text/plain", "text/plain; charset=iso-8859-1", "text/html;charset=utf-8", "image/png", "Image/PNG"]
)
async def test_a_content_type_comes_back_as_it_was_given(app: Any, kind: Any) -> None:
    """A charset that somebody adds makes another text of it."""
    meta = await upload(app, "é".encode("latin-1"), kind=kind)
    assert meta["content_type"] == kind
    assert (await download(app, meta)).headers["content-type"] == kind
    if not is_remote(app):
        assert (await download(app, meta, range="bytes=0-0")).headers["content-type"] == kind


async def test_a_file_without_a_content_type_is_bytes(app: Any) -> None:
    meta = await post(app, form(part("file", b"x", filename="a")))
    assert meta["content_type"] == "application/octet-stream"
    assert (await download(app, meta)).headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("filename", "kind", "content"),
    [("a.html", "text/html", b"<script>alert(document.domain)</script>"), ("a.svg", "image/svg+xml", b"<svg onload='alert(1)'/>"),
     ("a.xhtml", "application/xhtml+xml", b"<html/>"), ("a.xml", "text/xml", b"<?xml-stylesheet href='a.xsl'?>"),
     ("a.js", "text/javascript", b"alert(1)"), ("a.txt", "text/plain", b"<script>alert(1)</script>"),
     ("a", "application/octet-stream", b"<html><script>alert(1)</script>"), ("a.html", "text/html", b"")],
)  # fmt: skip
async def test_a_users_file_never_runs_in_our_origin(served: Any, filename: Any, kind: Any, content: Any) -> None:
    """Sandboxed, a page has an origin of its own and runs no script; not sniffed, bytes never become a page."""
    meta = await upload(served, content, filename, kind)
    ranges = [{}, {"range": "bytes=0-3"}] if content else [{}]
    for headers in ranges:
        answer = await download(served, meta, **headers)
        assert answer.status_code in (200, 206)
        assert answer.headers["content-type"].split(";")[0] == kind
        assert answer.headers["x-content-type-options"] == "nosniff"
        policy = [word.strip() for word in answer.headers["content-security-policy"].split(";")]
        assert "sandbox" in policy  # with nothing allowed behind the word
        shown = kind == "text/plain"
        assert answer.headers["content-disposition"].startswith("inline" if shown else "attachment")
        assert answer.headers["cache-control"].startswith("private")


async def test_a_client_that_leaves_in_the_middle_of_a_download_leaves_no_file_open(served: Any) -> None:
    meta = await upload(served, b"x" * 8_000_000)
    path = str(Path(served.settings.artifacts.directory) / meta["bucket"] / meta["key"])

    def is_open() -> Any:
        descriptors = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        return path in {os.readlink(each) for each in descriptors if os.path.islink(each)}

    reader, writer = await asyncio.open_connection("127.0.0.1", served.port)
    writer.write(f"GET {where(meta)} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    await reader.readexactly(100)
    await becomes_async(is_open)
    writer.transport.abort()
    await becomes_async(lambda: not is_open())


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain;a=, text/html",
        'text/plain; charset="x, text/html',
        "text/plain; charset=utf-8; x=y",
        "image/svg+xml;x=image/png",
        "application/xhtml+xml",
        "image/png;,text/html",
    ],
)
async def test_a_type_that_browsers_read_otherwise_is_never_shown(served: Any, kind: Any) -> None:
    meta = await upload(served, b"<script>1</script>", "a.txt", kind)
    answer = await download(served, meta)
    assert "," not in answer.headers["content-type"]
    assert answer.headers["content-disposition"].startswith("attachment") or (
        answer.headers["content-type"] == "text/plain; charset=utf-8"
    )


async def test_a_remote_store_shows_no_type_that_browsers_read_otherwise(remote: Any) -> None:
    meta = await upload(remote, CONTENT, "it.bin", "text/plain;a=, text/html")
    link = (await remote.http.get(where(meta))).headers["location"]
    async with httpx.AsyncClient(timeout=120) as anybody:
        answer = await anybody.get(link)
    assert answer.headers["content-disposition"].startswith("attachment")
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("данные.jsonl", "file.jsonl"),
        ("数据.JSONL", "file.JSONL"),
        ("Übung.wav", "bung.wav"),
        ("日本語.wav", "file.wav"),
        ("Мой голос 2.wav", "2.wav"),
        ("../../etc/passwd.png", "passwd.png"),
        (".bashrc", "bashrc"),
        ("a" * 300 + ".safetensors", "a" * 116 + ".safetensors"),
    ],
)
async def test_a_file_keeps_its_ending_and_its_own_name(served: Any, name: Any, key: Any) -> None:
    meta = await upload(served, b"x", name, "application/octet-stream")
    assert meta["key"].rsplit("/", 1)[1] == key
    shown = meta.get("name", key)
    assert shown == name.rsplit("/", 1)[-1][-200:] or len(name) > 200
    header = (await download(served, meta)).headers["content-disposition"]
    assert f'filename="{key}"' in header
    if not name.isascii():
        assert header.endswith("filename*=UTF-8''" + quote(name, safe=""))


async def test_head_is_answered_where_get_is_without_a_body(served: Any) -> None:
    meta = await upload(served, b"x" * 1_000_000, "a.bin", "application/octet-stream")
    for path in (where(meta), "/health/live", "/health/ready", "/", "/metrics", "/schema", "/api/jobs"):
        head = await served.http.head(path)
        full = await served.http.get(path)
        assert (head.status_code, head.content) == (full.status_code, b""), path
        assert head.headers.get("content-type") == full.headers.get("content-type")
    assert (await served.http.head(where(meta))).headers["content-length"] == "1000000"
    assert (await served.http.head(f"{where(meta)}x")).status_code == 404
    assert (await served.http.head("/health/live")).status_code == 200, "the connection goes on"
