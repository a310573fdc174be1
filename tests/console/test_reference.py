"""The API reference at `/docs`: it draws every operation, tries one out, and asks no other host."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.control_plane.served import Served, made_settings, serve
from tests.support.stack import Stack


def test_the_menu_of_the_console_leads_to_the_reference_and_it_asks_no_other_host(
    house: Stack, open_tab: Callable[..., Tab]
) -> None:
    tab = open_tab(house.url, color_scheme="light")
    page = tab.page
    page.goto("/")
    page.get_by_role("button", name="Menu: theme, account, shortcuts").click()
    page.get_by_role("link", name="API reference").click()
    expect(page.get_by_text("Submit a job").first).to_be_visible()
    assert page.locator("rapi-doc").get_attribute("theme") == "light"
    assert_only(house, tab)
    page.get_by_role("link", name="← Console").click()
    expect(page).to_have_title("Jobs · Dihedral")


def test_an_operation_has_an_address_and_is_tried_out_on_a_phone(house: Stack, open_tab: Callable[..., Tab]) -> None:
    tab = open_tab(house.url, viewport={"width": 390, "height": 900}, color_scheme="dark")
    page = tab.page
    page.add_init_script("sessionStorage.setItem('key', 'dih_of_this_tab')")
    page.goto("/docs#get-/api/limits")
    with page.expect_response("**/api/limits") as answered:
        page.get_by_role("button", name="Try").click()
    assert answered.value.ok
    assert answered.value.request.headers["authorization"] == "Bearer dih_of_this_tab"
    expect(page.get_by_text(f'"uploadBytes": {answered.value.json()["uploadBytes"]}').first).to_be_visible()
    assert page.locator("rapi-doc").get_attribute("theme") == "dark"
    assert_only(house, tab)


def assert_only(house: Stack, tab: Tab) -> None:
    assert {urlsplit(url).netloc for url in tab.asked if not url.startswith("data:")} == {urlsplit(house.url).netloc}
    assert tab.said == []


async def test_its_files_are_compressed_cached_and_under_a_policy(
    redis_url: str, redis: object, tmp_path: Path
) -> None:
    async with serve(made_settings(redis_url, tmp_path)) as made:
        await _served(made)


async def _served(served: Served) -> None:
    for name in ("", "/reference.js", "/reference.css", "/rapidoc.js"):
        async with served.http.stream("GET", f"/docs{name}", headers={"Accept-Encoding": "gzip"}) as answer:
            raw = b"".join([chunk async for chunk in answer.aiter_raw()])
        assert (answer.status_code, answer.headers["content-encoding"]) == (200, "gzip"), name
        assert len(raw) < 230_000
        policy = answer.headers["content-security-policy"]
        assert "script-src 'self';" in policy
        assert "unsafe-eval" not in policy
        again = await served.http.get(f"/docs{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert (await served.http.get("/docs/absent.js")).status_code == 404
    assert (await served.http.get("/docs/..%2Fapp.py")).status_code == 404
