"""A control plane below a path of another host: REST, WebSocket, event streams, MCP, links and cookies, by a proxy that strips the path and one that does not."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from dihedral import AsyncClient
from dihedral.control_plane import api_keys
from dihedral.schemas.structs.settings import Settings
from tests.control_plane.served import Served, made_settings, node, serve, submission
from tests.support.reverse_proxy import ReverseProxy

ROOT = "/media/dihedral"


def below(url: str, directory: Path) -> Settings:
    made = made_settings(url, directory)
    made.control.root_path = ROOT
    return made


@pytest.fixture(params=["stripped", "kept"])
async def served(
    redis_url: str, redis: Any, tmp_path: Path, request: pytest.FixtureRequest
) -> AsyncIterator[tuple[Served, ReverseProxy]]:
    async with serve(below(redis_url, tmp_path)) as made:
        await made.planes.start("python")
        await made.becomes(lambda: _knows(made))
        proxy = ReverseProxy(made.port, ROOT, is_stripping=request.param == "stripped")
        try:
            yield made, proxy
            assert proxy.strays == [], "a link that leads beside the path"
        finally:
            proxy.close()


async def _knows(made: Served) -> bool:
    return "act" in {each["id"] for each in (await made.get("/api/capabilities"))["capabilities"]}


async def test_the_client_does_all_its_work_below_a_path(served: tuple[Served, ReverseProxy], tmp_path: Path) -> None:
    _, proxy = served
    (tmp_path / "words.txt").write_text("of hers")
    async with AsyncClient(proxy.url) as client:
        assert await client.ready()
        meta = await client.upload(tmp_path / "words.txt")
        job = await client.submit(graph=submission(node("a"), node("b"))["graph"])
        seen = [event["type"] async for event in client.watch(job["jobId"])]
        assert "node" in seen
        assert (await client.job(job["jobId"]))["status"] == "completed"
        assert len((await client.graph(job["jobId"]))["nodes"]) == 2
        copied = await client.download(meta, tmp_path / "copy.txt")
        assert copied.read_text() == "of hers"
        assert (await client.mcp({"jsonrpc": "2.0", "id": 1, "method": "ping"}))["result"] == {}


async def test_what_a_client_is_handed_has_the_path(served: tuple[Served, ReverseProxy]) -> None:
    _, proxy = served
    origin = f"http://127.0.0.1:{proxy.port}"
    async with httpx.AsyncClient(base_url=proxy.url, timeout=30) as http:
        made = await http.post("/api/jobs", json=submission(node("a")))
        assert made.headers["location"] == f"{ROOT}/api/jobs/{made.json()['jobId']}"
        assert (await http.get(f"{origin}{made.headers['location']}")).status_code == 200
        uploaded = await http.post("/api/artifacts", files={"file": ("a.txt", b"text")})
        assert (await http.get(f"{origin}{uploaded.headers['location']}")).text == "text"
        lost = (await http.get("/api/jobs/none")).json()
        assert lost["instance"] == f"{ROOT}/api/jobs/none"
        assert (await http.get("/nothing")).json()["instance"] == f"{ROOT}/nothing"
        batch = (await http.post("/api/jobs/batch", json={"jobs": [{}]})).json()
        assert batch["jobs"][0]["instance"].startswith(f"{ROOT}/api/jobs/batch#")
        described = (await http.get("/schema/openapi.json")).json()
        assert described["servers"] == [{"url": ROOT}]
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "upload", "arguments": {}}}
        told = (await http.post("/mcp", json=call)).json()["result"]["structuredContent"]
        assert told["url"] == f"{origin}{ROOT}/api/artifacts"
        secure = await http.post("/mcp", json=call, headers={"x-forwarded-proto": "https"})
        assert secure.json()["result"]["structuredContent"]["url"].startswith("https://")
        for path in ("", "/", "/console/new"):
            page = await http.get(f"{proxy.url}{path}")
            assert page.status_code == 200, path
            assert f'src="{ROOT}/console/app.js"' in page.text
            assert '="/console' not in page.text
        assert (await http.head("/health/live")).status_code == 200
        events = await http.get(f"/api/jobs/{made.json()['jobId']}/events", headers={"accept": "text/event-stream"})
        assert "event: status" in events.text


async def test_a_sessions_cookie_is_for_the_path_alone(redis_url: str, redis: Any, tmp_path: Path) -> None:
    async with serve(below(redis_url, tmp_path)) as made:
        _, token = await api_keys.create(redis, "alice", ["read"])
        proxy = ReverseProxy(made.port, ROOT, is_stripping=True)
        try:
            async with httpx.AsyncClient(base_url=proxy.url, timeout=30) as http:
                held = {"Authorization": f"Bearer {token}"}
                await made.becomes(lambda: _opens(http, held))
                begun = await http.post("/api/session", headers=held)
                assert f"path={ROOT};" in begun.headers["set-cookie"].lower() + ";"
                assert (await http.get("/api/jobs")).status_code == 200, "by the cookie"
                ended = await http.delete("/api/session")
                assert f"path={ROOT};" in ended.headers["set-cookie"].lower() + ";"
                assert (await http.get("/api/jobs")).status_code == 401
                problem = json.loads((await http.get("/api/jobs")).text)
                assert problem["instance"] == f"{ROOT}/api/jobs"
        finally:
            proxy.close()


async def _opens(http: httpx.AsyncClient, held: dict[str, str]) -> bool:
    return (await http.get("/api/jobs", headers=held)).status_code == 200


async def test_a_path_that_only_begins_alike_is_not_below_it(redis_url: str, redis: Any, tmp_path: Path) -> None:
    async with serve(below(redis_url, tmp_path)) as made:
        for path in (f"{ROOT}s/api/jobs", f"{ROOT}{ROOT}/api/jobs", f"{ROOT}api/jobs"):
            assert (await made.http.get(path)).status_code == 404, path
        for path in (f"{ROOT}/health/live", "/health/live", ROOT, "/"):
            assert (await made.http.get(path)).status_code == 200, path
