"""The console's files on the wire: small, cached by their content, and under a policy that runs nothing of anybody else."""

import gzip
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral.control_plane.routes.console import policy
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind
from tests.control_plane.served import Served, made_settings, serve

CONSOLE = Path(__file__).parents[2] / "control_plane" / "console"
MOST_BYTES = 250_000


def sent() -> Iterator[Path]:
    return (path for path in CONSOLE.rglob("*") if path.suffix in (".js", ".css", ".html", ".svg", ".webp"))


@pytest.fixture
async def served(redis_url: str, redis: Any, tmp_path: Path) -> AsyncIterator[Served]:
    async with serve(made_settings(redis_url, tmp_path)) as made:
        yield made


async def test_the_whole_console_is_small(served: Served) -> None:
    sizes = {}
    for path in sent():
        name = path.relative_to(CONSOLE).as_posix()
        async with served.http.stream("GET", f"/console/{name}", headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(raw) == path.read_bytes()
        sizes[name] = len(raw)
    assert sizes.keys() >= {"index.html", "app.js", "style.css", "vendor/preact.js"}
    assert sum(sizes.values()) <= MOST_BYTES


async def test_every_view_has_an_address(served: Served) -> None:
    for path in (
        "/",
        "/console/jobs/some.job-1",
        "/console/new",
        "/console/artifacts",
        "/console/artifacts/inputs/a/b.png",
        "/console/workers",
        "/console/queue",
        "/console/keys",
        "/console/compare",
    ):
        answer = await served.http.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
        assert answer.text == (CONSOLE / "index.html").read_text()


@pytest.mark.parametrize(
    "path",
    [
        "/console/nothing.js",
        "/console/../app.py",
        "/console/%2e%2e/app.py",
        "/console/vendor/README.md",
        "/console/vendor",
    ],
)
async def test_nothing_else_is_given_away(served: Served, path: str) -> None:
    answer = await served.http.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("path", ["/console/typo", "/jobs", "/nothing/here", "/console/vendor"])
async def test_a_person_at_a_wrong_address_sees_the_console_and_a_program_a_problem(served: Served, path: str) -> None:
    browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
    answer = await served.http.get(path, headers=browser)
    assert (answer.status_code, answer.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert answer.text == (CONSOLE / "index.html").read_text()
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    for headers in ({}, {"Accept": "application/json"}):
        answer = await served.http.get(path, headers=headers)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    assert (await served.http.post(path, headers=browser)).headers["content-type"] == "application/problem+json"
    for api in ("/api/jobs/none", "/api/typo"):
        assert (await served.http.get(api, headers=browser)).headers["content-type"] == "application/problem+json"


async def test_what_has_not_changed_is_not_sent_again(served: Served) -> None:
    answer = await served.http.get("/console/app.js")
    assert answer.headers["cache-control"] == "no-cache"
    again = await served.http.get("/console/app.js", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    plain = await served.http.get("/console/app.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == (CONSOLE / "app.js").read_text()


async def test_the_policy_lets_this_origin_run_and_nobody_else(served: Served) -> None:
    headers = (await served.http.get("/")).headers
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["require-trusted-types-for"] == "'script'"
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("settings", "origin"),
    [
        (ArtifactsSettings(store=StoreKind.s3, endpoint="minio:9000"), "http://minio:9000"),
        (ArtifactsSettings(store=StoreKind.s3, endpoint="minio:9000", secure=True), "https://minio:9000"),
        (
            ArtifactsSettings(store=StoreKind.s3, endpoint="minio:9000", public_endpoint="https://files.example/x"),
            "https://files.example",
        ),
    ],
)
def test_pictures_may_come_from_where_the_store_sends_one(settings: ArtifactsSettings, origin: str) -> None:
    assert f"img-src 'self' blob: {origin};" in policy(settings)
    assert "script-src 'self';" in policy(settings)


def test_no_file_names_another_host_or_runs_a_text() -> None:
    for path in (path for path in sent() if path.suffix != ".webp"):
        text = path.read_text()
        for host in re.findall(r"https?://([^/\"'`)\s]+)", text):
            assert host in ("www.w3.org", "127.0.0.1:8000"), f"{path.name}: {host}"
        if "vendor" not in path.parts:
            assert not re.search(
                r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|\bon[a-z]+=\"", text
            ), path.name


def test_every_module_that_is_imported_is_there_and_every_one_is_used() -> None:
    names = {path.relative_to(CONSOLE).as_posix() for path in CONSOLE.rglob("*.js")}
    page = (CONSOLE / "index.html").read_text()
    started = re.findall(r'<script type="module" src="/console/([^"]+)"', page)
    assert started == ["early.js", "app.js"], "what is asked early is asked before it is wanted"
    imported = set(started)
    for name in (name for name in names if not name.startswith("messages/")):
        for target in re.findall(r"(?:\bfrom ?|\bimport\()\"([^\"\n]+)\"", (CONSOLE / name).read_text()):
            assert target.startswith("./"), f"{name}: {target}"
            imported.add(((CONSOLE / name).parent / target).resolve().relative_to(CONSOLE).as_posix())
    assert imported == names
    asked_early = set(re.findall(r'modulepreload" href="/console/([^"]+)"', page))
    assert asked_early == {name for name in names if not name.startswith("messages/")} - {"app.js"}


async def test_the_address_above_a_jobs_page_leads_to_the_list(served: Served) -> None:
    for path in ("/console", "/console/", "/console/jobs", "/console/jobs/"):
        answer = await served.http.get(f"{path}?status=failed")
        assert (answer.status_code, answer.headers["location"]) == (307, "/?status=failed"), path
