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


WORDS = "\x1b[2J\x1b]0;owned\x07\x9b31m \u202egnp.exe\u2066 \x00end\ttab"
SHOWN = "\\x1b[2J\\x1b]0;owned\\x07\\x9b31m \\u202egnp.exe\\u2066 \\x00end\ttab"


def test_control_characters_of_outputs_errors_and_files_are_written_out(tab: Tab, house: Stack) -> None:
    """They are invisible in a page, and an override of direction makes exe.png of gnp.exe."""
    job = house.post("/api/jobs", simulate({"id": "a", "output": {"text": WORDS}}))["jobId"]
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}?node=a")
    expect(page.get_by_text("gnp.exe").first).to_be_attached()
    text = page.locator("body").evaluate("element => element.textContent")
    assert not set(WORDS) - set("\t") & {
        character for character in text if ord(character) < 32 and character not in "\n\t"
    }
    assert "\u202e" not in text
    assert "\u2066" not in text
    assert "\\u202egnp.exe\\u2066" in text
    meta: Any = house.http.post("/api/artifacts", files={"file": ("notes.txt", WORDS.encode(), "text/plain")}).json()
    page.goto(f"/console/artifacts/{meta['bucket']}/{meta['key']}")
    expect(page.locator("pre.text")).to_have_text(SHOWN)
