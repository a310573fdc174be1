"""What a task shows of itself while it runs: its newest picture, and its numbers as curves."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from tests.console.browser import PHONE, Tab
from tests.console.steps import findings, name, show_data
from tests.support.polling import becomes
from tests.support.stack import Stack


class Film:
    """A job that shows picture after picture (see filming.py), each when it is told to."""

    def __init__(self, house: Stack, signals: Path, pictures: int = 3) -> None:
        self.job = name("film")
        self._signals = signals
        params = {"signals": str(signals), "pictures": pictures}
        nodes = [{"id": "shot", "name": "The <b>shot</b>", "task": "film", "plane": "python", "params": params}]
        graph = {"schema": "langgraph.v1", "workflowId": self.job, "nodes": nodes, "edges": []}
        house.post("/api/jobs", {"graph": graph})

    def go_on(self, number: int) -> None:
        (self._signals / str(number)).touch()


@pytest.fixture
def film(house: Stack, tmp_path: Path) -> Film:
    return Film(house, tmp_path)


def picture(page: Page, frame: int) -> Any:
    """Waits until picture `frame` is there; its width is as it was drawn."""
    found = page.get_by_role("img", name=f"Preview of The <b>shot</b>, frame {frame}", exact=True)
    expect(found).to_be_visible()
    assert found.evaluate("image => [image.complete, image.naturalWidth]") == [True, 100 * frame]
    return found


def test_the_newest_picture_is_shown_until_there_is_a_result(tab: Tab, house: Stack, film: Film) -> None:
    page = tab.page
    page.goto(f"/console/jobs/{film.job}")
    first = picture(page, 1).get_attribute("src")
    film.go_on(1)
    assert picture(page, 2).get_attribute("src") != first, "the key is the same, the address must not be"
    page.reload()
    picture(page, 2)
    assert findings(page) == []
    page.set_viewport_size(PHONE)
    picture(page, 2)
    assert findings(page) == []
    for number in (2, 3):
        film.go_on(number)
    expect(page.get_by_role("region", name="Result").get_by_role("img", name="still.png")).to_be_visible()
    expect(page.get_by_role("region", name="So far")).to_have_count(0)
    page.reload()
    expect(page.get_by_role("region", name="Result").get_by_role("img", name="still.png")).to_be_visible()
    expect(page.get_by_role("region", name="So far")).to_have_count(0)


def test_a_picture_stays_until_the_next_is_there(tab: Tab, film: Film) -> None:
    page = tab.page
    held: list[Route] = []
    page.goto(f"/console/jobs/{film.job}")
    picture(page, 1)
    page.route(re.compile("/checkpoint"), lambda route: route.continue_() if held else held.append(route))
    film.go_on(1)

    def is_held() -> list[Route]:
        page.wait_for_timeout(20)
        return held

    becomes(is_held)
    picture(page, 1)
    film.go_on(2)
    show_data(page)
    expect(page.get_by_role("log")).to_contain_text('"frame":3')
    picture(page, 1)
    held[0].abort()
    picture(page, 3)
    film.go_on(3)


def test_a_cancelled_node_shows_no_picture(tab: Tab, house: Stack, film: Film) -> None:
    page = tab.page
    page.goto(f"/console/jobs/{film.job}")
    picture(page, 1)
    house.post(f"/api/jobs/{film.job}/cancel", status=202)
    expect(page.locator(".job-state").get_by_text("cancelled")).to_be_visible()
    expect(page.get_by_role("region", name="So far")).to_have_count(0)


def test_a_picture_that_is_gone_leaves_no_hole(open_tab: Callable[..., Tab], house: Stack, film: Film) -> None:
    page = open_tab().page
    page.route(re.compile("/checkpoint"), lambda route: route.fulfill(status=404))
    page.goto(f"/console/jobs/{film.job}")
    show_data(page)
    expect(page.get_by_role("log")).to_contain_text('"frame":1')
    film.go_on(1)
    expect(page.get_by_role("log")).to_contain_text('"frame":2')
    expect(page.locator(".live img:not(.coming)")).to_have_count(0)
    page.unroute(re.compile("/checkpoint"))
    film.go_on(2)
    picture(page, 3)
    film.go_on(3)


def test_every_number_has_a_curve_and_every_size_its_own(tab: Tab, house: Stack, film: Film) -> None:
    for number in (1, 2, 3):
        film.go_on(number)
    house.ended(film.job)
    tab.page.goto(f"/console/jobs/{film.job}")
    curves = tab.page.get_by_role("region", name="Curves").get_by_role("img")
    expect(curves).to_have_count(5)
    assert sorted(curve.get_attribute("aria-label") or "" for curve in curves.all()) == [
        "bic of shot: 12.5 at components 8, from 50",
        "fit · error · 2 components of shot: 0.6667 at step 3, from 2",
        "fit · error · 4 components of shot: 1.333 at step 3, from 4",
        "fit · gain · 2 components of shot: 3 at step 3, from 1",
        "fit · gain · 4 components of shot: 3 at step 3, from 1",
    ]
