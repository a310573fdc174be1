"""One line on top of a new job: what somebody wants becomes a graph with its reasons, is changed in a form, and runs."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.steps import findings, upload
from tests.support.stack import Stack


def test_a_goal_is_planned_changed_and_run(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new")
    line = page.get_by_role("textbox", name="What do you want?")
    line.fill('say "Good evening." aloud')
    plan = page.get_by_role("region", name="The plan")
    expect(plan.get_by_role("button", name=re.compile("^speak"))).to_be_visible()
    expect(page.get_by_role("region", name="Why")).to_contain_text("speak")
    assert findings(page) == []
    plan.get_by_role("button", name=re.compile("^speak")).click()
    form = page.get_by_role("region", name="Parameters of speak")
    form.locator("summary").filter(has_text="Voice").click()
    form.get_by_label("Speed", exact=True).fill("1.5")
    expect(page.get_by_role("region", name="Why")).to_contain_text("changed by you")
    page.get_by_role("region", name="Say what you want").get_by_role("button", name="Run").click()
    expect(page).to_have_url(re.compile("/console/jobs/"))
    job = page.url.rsplit("/", 1)[1]
    speak = next(node for node in house.get(f"/api/jobs/{job}/graph")["nodes"] if node["task"] == "speak")
    assert (speak["params"]["speed"], "Good evening." in str(speak["params"])) == (1.5, True)


def test_what_a_file_is_good_for_is_suggested(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    meta = upload(house, "shore.png", files["picture"].read_bytes(), "image/png")
    page = tab.page
    page.goto(f"/console/new?use={meta['bucket']}/{meta['key']}")
    chips = page.get_by_role("group", name="What can be done with it")
    chips.get_by_role("button", name="Talking picture").click()
    expect(page.get_by_role("region", name="The plan").get_by_role("button")).not_to_have_count(0)


def test_an_open_question_is_asked_and_nothing_runs_before(open_tab: Callable[..., Tab]) -> None:
    page = open_tab().page
    page.goto("/console/new")
    page.get_by_role("textbox", name="What do you want?").fill("read something aloud")
    question = page.locator(".question").first
    expect(question).to_be_visible()
    answer = question.get_by_role("textbox").first
    answer.fill("The stars come out.")
    question.get_by_role("button", name="Answer").click()
    expect(page.locator(".question")).to_have_count(0)
    expect(page.get_by_role("region", name="Say what you want").get_by_role("button", name="Run")).to_be_enabled()
