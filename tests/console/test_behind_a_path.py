"""The console below a path of another host: every view, every file and the WebSocket stay below it."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Tab
from tests.support.reverse_proxy import ReverseProxy
from tests.support.stack import Stack, simulate

ROOT = "/media/dihedral"


@pytest.fixture
def behind(browser: Browser) -> Iterator[tuple[Stack, ReverseProxy]]:
    with tempfile.TemporaryDirectory(prefix="dih-") as directory:
        stack = Stack(Path(directory), DIHEDRAL_CONTROL__ROOT_PATH=ROOT)
        try:
            stack.worker("--slots", "1")
            proxy = ReverseProxy(stack.port, ROOT, is_stripping=True)
            yield stack, proxy
            proxy.close()
        finally:
            stack.close()


def test_every_view_and_the_socket_stay_below_the_path(
    browser: Browser, open_tab: Callable[..., Tab], behind: tuple[Stack, ReverseProxy]
) -> None:
    stack, proxy = behind
    tab = open_tab(f"{proxy.url}/")
    page, sockets = tab.page, []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    meta: Any = stack.http.post("/api/artifacts", files={"file": ("notes.txt", b"plain words")}).json()
    job = stack.post("/api/jobs", simulate({"id": "a", "steps": 60_000, "stepSeconds": 0.01}))["jobId"]
    page.goto("")
    page.get_by_role("link", name=job).click()
    expect(page.locator("h1").first).to_be_visible()
    assert page.url.startswith(f"{proxy.url}/console/jobs/{job}")
    page.reload()
    expect(page.locator("h1").first).to_be_visible()
    expect(page.get_by_text("running").first).to_be_visible()
    for name in ("Artifacts", "Workers", "Jobs"):
        page.get_by_role("navigation").get_by_role("link", name=name).click()
        expect(page.locator("h1").first).to_be_attached()
        assert page.url.startswith(proxy.url)
    page.goto(f"{proxy.url}/console/artifacts/{meta['bucket']}/{meta['key']}")
    expect(page.get_by_text("plain words")).to_be_visible()
    page.goto(f"{proxy.url}/console/new?pipeline=simulate")
    page.get_by_role("button", name="Run").click()
    page.wait_for_url("**/console/jobs/*")
    assert page.url.startswith(f"{proxy.url}/console/jobs/")
    expect(page.get_by_text("completed").first).to_be_visible()
    page.go_back()
    assert page.url.startswith(f"{proxy.url}/console/new")
    page.goto(f"{proxy.url}/docs#get-/api/limits")
    with page.expect_response(f"{proxy.url}/api/limits") as answered:
        page.get_by_role("button", name="Try").click()
    assert answered.value.ok
    assert sockets
    assert all(url == f"ws://127.0.0.1:{proxy.port}{ROOT}/ws" for url in sockets)
    assert proxy.strays == []
    assert [url for url in tab.asked if not url.startswith((f"{proxy.url}/", "blob:"))] == []
    stack.post(f"/api/jobs/{job}/cancel", status=202)
