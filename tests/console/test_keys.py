"""Where the server wants a key the console asks for it once, and keeps it for this tab alone."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import redis
from playwright.sync_api import Browser, Page, expect

from dihedral.bridge.fabric import keys
from tests.console.browser import Tab
from tests.console.steps import name, show_data
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate


@pytest.fixture(scope="module")
def locked(browser: Browser) -> Iterator[tuple[Stack, str]]:
    """A house that wants a key, and the one that it knows."""
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    made = Stack(directory)
    try:
        made.worker("--slots", "1")
        scopes = ["read", "submit", "cancel", "admin"]
        token = made.post("/api/keys", {"owner": "somebody", "scopes": scopes})["token"]
        becomes(lambda: made.http.get("/api/jobs").status_code == 401)
        made.http.headers["Authorization"] = f"Bearer {token}"
        yield made, token
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


def test_a_key_is_asked_for_once_and_all_that_waited_goes_on(
    open_tab: Callable[..., Tab], locked: tuple[Stack, str]
) -> None:
    house, token = locked
    job = name("locked")
    house.post("/api/jobs", simulate({"id": "a", "steps": 600, "stepSeconds": 0.1}, job=job))
    tab = open_tab(house.url)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    dialog = page.get_by_role("dialog", name="Sign in")
    expect(dialog).to_be_visible()
    expect(page.get_by_text(re.compile("cut|[Dd]isconnected"))).to_have_count(0)
    dialog.get_by_label("API key").fill("dih_wrong")
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog.get_by_role("alert")).to_contain_text("Invalid API key.")
    dialog.get_by_label("API key").fill(token)
    dialog.get_by_role("button", name="Sign in").click()
    expect(page.locator(".job-state").get_by_text("running")).to_be_visible()
    expect(page.locator(".connection")).to_have_text("Live")
    show_data(page)
    expect(page.get_by_role("log")).to_contain_text('step {"step":')
    page.reload()
    expect(page.locator(".job-state").get_by_text("running")).to_be_visible()
    expect(dialog).to_have_count(0)
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".job-state").get_by_text("cancelled")).to_be_visible()
    assert page.evaluate("document.cookie") == ""
    assert page.evaluate("Object.values(localStorage).join()").find(token) == -1
    other = open_tab(house.url)
    other.page.goto("/")
    expect(other.page.get_by_role("dialog", name="Sign in")).to_be_visible()
    for each in (tab, other):
        each.said = [line for line in each.said if not re.search("WebSocket", line)]


def test_a_key_is_created_shown_once_and_revoked_while_its_page_is_open(
    open_tab: Callable[..., Tab], locked: tuple[Stack, str]
) -> None:
    house, token = locked
    tab = open_tab(house.url)
    page = tab.page
    page.goto("/console/keys")
    sign_in(page, token)
    page.get_by_role("button", name="Create a key").click()
    form = page.get_by_role("dialog", name="Create a key")
    form.get_by_role("textbox", name="Owner").fill("ada")
    form.get_by_role("spinbutton", name="Jobs a minute").fill("7")
    form.get_by_role("checkbox", name=re.compile("^cancel")).uncheck()
    form.get_by_role("button", name="Create").click()
    shown = page.get_by_role("dialog", name="The key of ada")
    made = shown.locator("code").inner_text()
    shown.get_by_role("button", name="Done").click()
    line = page.get_by_role("row").filter(has_text="ada")
    expect(line).to_contain_text("7 jobs a minute")
    assert made not in page.content()
    other = open_tab(house.url)
    other.page.goto("/console/keys")
    sign_in(other.page, made)
    expect(other.page.locator(".failure")).to_contain_text("Only a key with the scope admin sees the keys.")
    other.page.goto("/console/new?pipeline=simulate")
    expect(other.page.get_by_label("Steps", exact=True)).to_be_visible()
    line.get_by_role("button", name="Revoke").click()
    page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
    expect(line).to_contain_text("revoked")
    becomes(lambda: house.http.get("/api/jobs", headers={"Authorization": f"Bearer {made}"}).status_code == 401)
    other.page.get_by_role("button", name="Run", exact=True).click()
    expect(other.page.get_by_role("dialog", name="Sign in")).to_be_visible()
    expect(other.page.locator(".connection")).to_have_text("Signed out")
    page.get_by_role("button", name=re.compile("^Menu")).click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("dialog", name="Sign in")).to_be_visible()
    for each in (tab, other):
        each.said = [line for line in each.said if not re.search("WebSocket", line)]


def test_who_signs_out_in_one_tab_has_signed_out_in_all(
    open_tab: Callable[..., Tab], locked: tuple[Stack, str]
) -> None:
    house, token = locked
    tab = open_tab(house.url)
    page = tab.page
    page.goto("/")
    sign_in(page, token)
    other = tab.context.new_page()
    other.goto("/console/workers")
    expect(other.get_by_role("heading", name=re.compile("[0-9]+ worker"))).to_be_visible()
    page.get_by_role("button", name=re.compile("^Menu")).click()
    page.get_by_role("button", name="Sign out").click()
    for each in (page, other):
        expect(each.get_by_role("dialog", name="Sign in")).to_be_visible()
    expect(other.locator("article.worker")).to_have_count(0)
    tab.said = [line for line in tab.said if not re.search("WebSocket", line)]


def test_a_session_that_ended_before_its_tab_is_begun_anew(
    open_tab: Callable[..., Tab], locked: tuple[Stack, str]
) -> None:
    house, token = locked
    tab = open_tab(house.url)
    page = tab.page
    page.goto("/")
    sign_in(page, token)
    expect(page.locator(".connection")).to_have_text("Live")
    tab.context.clear_cookies()
    tab.context.set_offline(True)
    expect(page.locator(".connection")).to_have_text("Disconnected")
    tab.context.set_offline(False)
    expect(page.locator(".connection")).to_have_text("Live")
    tab.said = [line for line in tab.said if not re.search("WebSocket", line)]


def test_what_a_key_may_do_no_more_is_refused_and_offered_no_more(
    open_tab: Callable[..., Tab], locked: tuple[Stack, str]
) -> None:
    house, _ = locked
    made = house.post("/api/keys", {"owner": "eve", "scopes": ["read", "submit", "cancel"]})
    token = made["token"]
    job = name("scoped")
    key = {"Authorization": f"Bearer {token}"}
    body = simulate({"id": "a", "steps": 600, "stepSeconds": 0.1}, job=job)
    becomes(lambda: house.http.get("/api/jobs", headers=key).status_code == 200)
    assert house.http.post("/api/jobs", json=body, headers=key).status_code == 201
    tab = open_tab(house.url)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    with page.expect_response(
        lambda answer: answer.request.method == "GET" and answer.url.endswith("/api/session") and answer.ok
    ):
        sign_in(page, token)
    cancel = page.get_by_role("button", name="Cancel", exact=True)
    expect(cancel).to_be_visible()
    with redis.Redis.from_url(house.redis_url) as client:
        stored = msgspec.json.decode(client.hget(keys.API_KEYS, made["key"]["id"]))
        client.hset(keys.API_KEYS, made["key"]["id"], msgspec.json.encode(stored | {"scopes": ["submit", "read"]}))
        client.incr(keys.API_KEYS_VERSION)
    becomes(lambda: "cancel" not in house.http.get("/api/session", headers=key).json()["scopes"])
    cancel.click()
    expect(page.locator(".notice")).to_contain_text("cancel")
    expect(cancel).to_have_count(0)
    expect(page.get_by_role("link", name="Run again", exact=True)).to_be_visible()
    assert house.get(f"/api/jobs/{job}")["status"] == "running"
    house.post(f"/api/jobs/{job}/cancel", status=202)
    expect(page.locator(".job-state").get_by_text("cancelled")).to_be_visible()
    tab.said = [line for line in tab.said if not re.search("WebSocket", line)]


def sign_in(page: Page, token: str) -> None:
    dialog = page.get_by_role("dialog", name="Sign in")
    dialog.get_by_label("API key").fill(token)
    dialog.get_by_role("button", name="Sign in").click()
    expect(dialog).to_have_count(0)
