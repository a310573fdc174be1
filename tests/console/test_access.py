"""For everybody: no serious finding by axe-core in either theme, everything by keyboard, nothing that a name can make the page do."""

import re
from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser import PHONE, Tab
from tests.console.steps import findings, name, submit, upload, view
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"


WIDTHS = (360, 768, 1024, 1440, 3840)


class Shown:
    """Every view with something in it, and what is shown when there is nothing: address and what is to be seen there."""

    def __init__(self, house: Stack) -> None:
        job, running = name("judged"), name("runs")
        graph = simulate(
            {"id": "a"}, {"id": "bad", "failAt": 0}, {"id": "b"}, edges=[("a", "bad"), ("bad", "b")], job=job
        )
        house.post("/api/jobs", graph)
        submit(house, running, steps=3600, stepSeconds=1)
        text = upload(house, "notes.txt", b"plain words", "text/plain")
        house.ended(job)
        self.running = running
        self.views = {
            "jobs": (f"/?q={job}", job),
            "no job": ("/?q=nothing-has-this", "No matches"),
            "failed job": (f"/console/jobs/{job}?node=bad", "It was asked to fail"),
            "running job": (f"/console/jobs/{running}", "running"),
            "unknown job": ("/console/jobs/unknown-one", "Not found"),
            "new job": ("/console/new", "Talking picture"),
            "long form": ("/console/new?pipeline=render_video", "Scenes"),
            "short form": ("/console/new?pipeline=simulate", "How many steps"),
            "new graph": ("/console/new?graph", "Insert example"),
            "artifacts": ("/console/artifacts?q=notes", "notes.txt"),
            "list of artifacts": ("/console/artifacts?q=notes&view=list", "notes.txt"),
            "compared": (f"/console/compare?jobs={job},{running}", "Parameters that differ"),
            "queue": ("/console/queue", running),
            "keys": ("/console/keys", "Create a key"),
            "artifact": (view(text), "plain words"),
            "workers": ("/console/workers", "Failed deliveries"),
            "nowhere": ("/console/workers/nowhere", "There is no such page"),
        }


@pytest.fixture(scope="module")
def shown(house: Stack) -> Iterator[Shown]:
    made = Shown(house)
    yield made
    house.http.post(f"/api/jobs/{made.running}/cancel")  # a worker that starved for a lease has lost it


VIEWS = [
    "jobs", "no job", "failed job", "running job", "unknown job", "new job", "short form", "long form", "new graph", "artifacts",
    "list of artifacts", "artifact", "compared", "queue", "keys", "workers", "nowhere",
]  # fmt: skip


@pytest.mark.parametrize("view", VIEWS)
def test_a_view_is_for_everybody(tab: Tab, shown: Shown, view: str) -> None:
    """No serious finding by axe-core, of colours in the dark theme too, and on a phone; at no width is anything cut off."""
    address, there = shown.views[view]
    page = tab.page
    page.emulate_media(reduced_motion="reduce", color_scheme="light")
    page.goto(address)
    expect(page.get_by_text(there).first).to_be_visible()
    found = findings(page)
    page.emulate_media(color_scheme="dark")
    found += findings(page, "color-contrast")
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 800})
        expect(page.get_by_text(there).first).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        becomes(
            lambda: page.evaluate(
                "document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth"
            )
        )
        if width == PHONE["width"]:
            found += findings(page)
    assert found == []


@pytest.mark.parametrize(
    "view", ["jobs", "failed job", "new job", "long form", "artifacts", "queue", "workers", "keys"]
)
def test_a_view_in_german_is_for_everybody(open_tab: Callable[..., Tab], shown: Shown, view: str) -> None:
    page = open_tab(locale="de-DE", reduced_motion="reduce").page
    page.goto(shown.views[view][0])
    expect(page.locator("html")).to_have_attribute("lang", "de")
    expect(page.get_by_role("link", name="Neuer Job").first).to_be_visible()
    expect(page.locator("main .loading")).to_have_count(0)
    found = findings(page)
    for width in (PHONE["width"], 1440):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert found == []


@pytest.mark.long
@pytest.mark.parametrize("language", ["en-GB", "de-DE"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_view_in_both_themes_and_languages(
    open_tab: Callable[..., Tab], shown: Shown, theme: str, language: str
) -> None:
    """All of axe's rules; what CI leaves out of them depends on no theme and no language as far as is known."""
    page = open_tab(locale=language, reduced_motion="reduce", color_scheme=theme).page
    found = []
    for each in VIEWS:
        page.goto(shown.views[each][0])
        expect(page.get_by_role("heading", level=1).first).to_be_visible()
        expect(page.locator("main .loading")).to_have_count(0)
        found += [f"{each}: {line}" for line in findings(page)]
    assert page.evaluate("document.documentElement.lang") == language[:2]
    assert found == []


def test_axe_would_find_something(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    expect(tab.page.get_by_role("heading", name="Workers and queues")).to_be_visible()
    expect(tab.page.locator("main .loading")).to_have_count(0)  # until then the picture is all that `main` would scroll
    tab.page.evaluate(
        "document.querySelector('main').append(Object.assign(document.createElement('img'), {src: '/console/mark.svg'}))"
    )
    assert [line.partition(":")[0] for line in findings(tab.page)] == ["image-alt"]


def test_what_scrolls_inside_a_page_is_reached_by_keyboard(tab: Tab, house: Stack) -> None:
    job = name("scrolls")
    house.post("/api/jobs", simulate({"id": "a", "output": {"numbers": list(range(10**9, 10**9 + 200))}}, job=job))
    house.ended(job)
    page = tab.page
    page.set_viewport_size(PHONE)
    page.goto(f"/console/jobs/{job}?node=a")
    numbers = page.locator(".output-list").first
    expect(numbers).to_be_visible()
    assert numbers.evaluate("each => each.scrollHeight > each.clientHeight")
    assert findings(page) == []


def test_the_whole_way_is_gone_by_keyboard(tab: Tab) -> None:
    page = tab.page
    page.goto("/")
    expect(page.get_by_role("link", name="New job")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    reach(page, "New job")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    reach(page, "Simulate work")
    page.keyboard.press("Enter")
    expect(page.get_by_label("Steps", exact=True)).to_be_visible()
    reach(page, "Run")
    page.keyboard.press("Enter")
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()


def reach(page: Page, label: str) -> None:
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.textContent").strip().startswith(label):
            return
    raise AssertionError(f"{label} cannot be reached by keyboard")


def test_names_with_markup_are_names(tab: Tab, house: Stack) -> None:
    job = name("hostile")
    graph = simulate({"id": "a", "output": {HOSTILE: [HOSTILE]}}, {"id": "bad", "failAt": 0}, job=job)["graph"]
    graph["nodes"][0]["name"] = HOSTILE
    graph["nodes"][1]["name"] = "'\"><svg/onload=alert(1)>" + "\u202e" + "x" * 100
    graph["metadata"] = {"__proto__": HOSTILE, "constructor": {"prototype": 1}, "": HOSTILE}
    graph["context"] = {"toString": HOSTILE}
    house.post("/api/jobs", {"graph": graph})
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}?node=a")
    expect(page.get_by_role("region", name="Node a")).to_contain_text(HOSTILE)
    expect(page.locator('[data-node="a"]')).to_have_accessible_name(re.compile(re.escape(HOSTILE)))
    upload(house, "<b>bold</b>.txt", HOSTILE.encode(), "text/plain")
    page.goto(f"/?q={HOSTILE}")
    expect(page.get_by_role("heading", name="No matches")).to_be_visible()
    page.goto("/console/jobs/%3Cimg%20src=x%20onerror=alert(1)%3E")
    expect(page.get_by_role("alert")).to_be_visible()
    page.goto("/console/jobs/%E0%A4%A")
    expect(page.get_by_role("alert")).to_be_visible()
    page.goto(f"/console/new?pipeline={HOSTILE}&from=")
    expect(page.get_by_role("heading", name="New job")).to_be_visible()
    assert page.locator("main img[src='x'], main script").count() == 0
    assert "owned" not in page.title()


def test_the_theme_is_the_systems_until_one_is_chosen(open_tab: Callable[..., Tab]) -> None:
    page = open_tab(color_scheme="dark").page
    page.goto("/")
    ground = "getComputedStyle(document.body).backgroundColor"
    menu = page.get_by_role("button", name=re.compile("^Menu"))
    menu.click()
    expect(page.get_by_role("button", name="As the system")).to_have_attribute("aria-pressed", "true")
    dark = page.evaluate(ground)
    page.get_by_role("button", name="Light", exact=True).click()
    light = page.evaluate(ground)
    assert light != dark
    page.reload()
    menu.click()
    expect(page.get_by_role("button", name="Light", exact=True)).to_have_attribute("aria-pressed", "true")
    assert page.evaluate(ground) == light


def test_nothing_moves_for_who_wants_no_motion(open_tab: Callable[..., Tab], house: Stack) -> None:
    job = submit(house, name("still"), steps=100, stepSeconds=0.1)
    page = open_tab(reduced_motion="reduce").page
    page.goto(f"/console/jobs/{job}")
    expect(page.locator(".job-state").get_by_text("running")).to_be_visible()
    assert page.evaluate("document.getAnimations().length") == 0
    house.post(f"/api/jobs/{job}/cancel", status=202)


def test_an_exact_time_is_behind_every_relative_one(tab: Tab, house: Stack) -> None:
    job = submit(house, name("when"))
    created = house.ended(job)["created"]
    tab.page.goto(f"/console/jobs/{job}")
    time = tab.page.locator(".job-state time")
    expect(time).to_have_text(re.compile("ago|just now"))
    expect(time).to_have_attribute("datetime", created)
    expect(time).to_have_attribute("title", re.compile(created[:4]))
