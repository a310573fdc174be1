"""Values of users that JavaScript takes for something else break no view."""

from typing import Any

import pytest
from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.support.stack import Stack, simulate

HOSTILE: list[Any] = [
    {"toString": 0},
    {"valueOf": 0, "toString": 0},
    {"constructor": 0},
    {"length": 3},
    {"__proto__": {"a": 1}},
    {"toJSON": 0},
    {"rawJSON": 1},
    {"then": 1},
    {"type": "script", "props": {}, "key": None},
]


@pytest.mark.parametrize("value", HOSTILE, ids=str)
def test_an_object_with_names_of_javascripts_own_breaks_no_view(tab: Tab, house: Stack, value: Any) -> None:
    metadata = {"title": value, "x": [value], "toString": 0, "note": value}
    body = simulate({"id": "a", "steps": 0}, {"id": "toString", "failAt": 0}) | {"metadata": metadata}
    merge = {"lists": [[{"plane": "node", "id": "x", "more": value, "toString": 0}]]}
    body["graph"]["nodes"].append({"id": "valueOf", "task": "merge_capabilities", "plane": "node", "params": merge})
    job = house.post("/api/jobs", body)["jobId"]
    house.ended(job)
    page = tab.page
    for path in (
        f"/console/jobs/{job}",
        f"/console/jobs/{job}?node=valueOf",
        f"/console/jobs/{job}?node=toString",
        "/",
        f"/console/new?from={job}",
    ):
        page.goto(path)
        expect(page.locator("h1").first).to_be_visible()
        page.wait_for_timeout(300)
        expect(page.get_by_text("This view has failed")).to_have_count(0)
