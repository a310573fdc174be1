"""A new job, as somebody who has read nothing makes one: by a form with files, or as a graph whose mistakes stand at their lines."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.console.browser import PHONE, Tab
from tests.console.steps import name, open_groups
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate


def test_files_and_a_press_become_a_finished_video(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    page = tab.page
    page.goto("/")
    page.get_by_role("link", name="New job").click()
    page.get_by_role("link", name=re.compile("^Talking picture")).click()
    expect(page.get_by_role("group", name="Planned graph of 4 nodes")).to_be_visible()
    page.get_by_label("Prompt").fill("Dusk over the hills")
    open_groups(page)
    page.get_by_label("Background picture", exact=True).set_input_files(files["picture"])
    page.get_by_label("Sounds like", exact=True).set_input_files(files["recording"])
    for file in ("picture", "recording"):  # its name may stand in the list of stored files too
        expect(page.locator("span").get_by_text(files[file].name, exact=True)).to_be_visible()
    page.get_by_label("Length (seconds)").fill("1")
    page.get_by_label("Width").fill("160")
    page.get_by_label("Height").fill("120")
    page.get_by_role("button", name="Run").click()
    expect(page).to_have_url(re.compile("/console/jobs/"))
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible(timeout=240_000)
    job = page.url.rsplit("/", 1)[1]
    assert house.get(f"/api/jobs/{job}/graph")["nodes"][0]["params"] == {"prompt": "Dusk over the hills"}
    video = page.locator(".lead video[src*='/video.mp4']")
    video.evaluate("video => { video.muted = true; return video.play() }")
    becomes(lambda: video.evaluate("video => video.currentTime") > 0.2)


def test_what_is_required_is_said_at_its_field(tab: Tab) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=train_lora")
    page.get_by_role("button", name="Run").click()
    expect(page.get_by_text("Required.")).to_have_count(2)


def test_limits_are_shown_and_a_number_beyond_them_is_refused_at_its_field(tab: Tab) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=simulate")
    field = page.get_by_label("Steps", exact=True)
    expect(page.get_by_text("How many steps · 0 to 1000000 · default 10")).to_be_visible()
    expect(field).to_have_value("10")
    field.fill("-4")
    expect(page.get_by_text("-4 is less than the minimum of 0")).to_be_visible()
    expect(field).to_have_attribute("aria-invalid", "true")
    field.fill("many")
    expect(page.get_by_text("Enter a number.")).to_be_visible()
    field.fill("2")
    expect(field).not_to_have_attribute("aria-invalid", "true")
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()


def test_a_file_is_dropped_seen_and_sent(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=train_image_lora")
    page.locator(".drop").evaluate(
        """async (drop) => {
          const canvas = Object.assign(document.createElement("canvas"), { width: 64, height: 64 });
          canvas.getContext("2d").fillRect(0, 0, 32, 32);
          const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
          const data = new DataTransfer();
          for (const name of ["one.png", "two.png"]) data.items.add(new File([blob], name, { type: "image/png" }));
          drop.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }"""
    )
    expect(page.locator(".chosen img")).to_have_count(2)
    becomes(lambda: page.locator(".chosen img").first.evaluate("image => image.naturalWidth") == 64)
    page.get_by_role("button", name="Remove one.png").click()
    expect(page.locator(".chosen")).to_have_count(1)
    page.get_by_role("link", name="All pipelines and tasks").click()
    page.get_by_role("link", name=re.compile("^Simulate work$|^Simulate work One node")).first.click()
    page.go_back()
    page.go_back()
    expect(page.locator(".chosen")).to_contain_text("two.png")


def test_every_problem_of_a_graph_stands_at_its_line(tab: Tab) -> None:
    page = tab.page
    page.goto("/console/new?graph")
    editor = page.get_by_role("textbox", name="Graph as JSON")
    editor.fill(
        json.dumps({**simulate({"id": "a", "steps": -1}, {"id": "b"}, edges=[("a", "nobody")])["graph"]}, indent=1)
    )
    text = editor.input_value().split("\n")
    problems = page.get_by_role("list", name="Problems")
    expect(problems).to_contain_text(f"line {line_of(text, 'steps')}-1 is less than the minimum of 0")
    expect(problems).to_contain_text(f"line {line_of(text, 'nobody')}there is no node 'nobody'")
    expect(page.get_by_role("button", name="Run")).to_be_disabled()
    problems.get_by_role("button", name=re.compile("nobody")).click()
    assert "nobody" in editor.evaluate("area => area.value.slice(area.selectionStart, area.selectionEnd)")
    editor.fill('{\n "nodes": [\n  {"id": "a" "task": "simulate"}\n ]\n}')
    expect(problems).to_contain_text('line 3a comma or } is missing before "\\""')


def line_of(text: list[str], word: str) -> int:
    return next(number for number, line in enumerate(text, start=1) if word in line)


def test_a_planned_graph_is_drawn_before_it_runs(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new?graph")
    page.get_by_role("button", name="Insert example").click()
    expect(page.get_by_role("group", name="Planned graph of 4 nodes")).to_be_visible()
    expect(page.get_by_text("Valid.")).to_be_visible()
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()


def test_a_job_is_run_again_with_changes(tab: Tab, house: Stack) -> None:
    job = name("first")
    house.post("/api/jobs", simulate({"id": "a", "failAt": 0}, job=job))
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    page.get_by_role("link", name="Run again", exact=True).click()
    editor = page.get_by_role("textbox", name="Graph as JSON")
    expect(editor).to_have_value(re.compile('"failAt": 0'))
    editor.fill(editor.input_value().replace('"failAt": 0', '"steps": 3'))
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()
    assert job not in page.url


def test_one_press_is_one_job_although_the_answer_is_lost(tab: Tab, house: Stack) -> None:
    """The first answer never arrives; the second press sends the same key."""
    page = tab.page
    mark = name("once")
    page.goto("/console/new?graph")
    page.get_by_role("textbox", name="Graph as JSON").fill(json.dumps({**simulate({"id": mark, "steps": 1})["graph"]}))
    expect(page.get_by_text("Valid.")).to_be_visible()
    lost = []

    def lose(route: Any) -> None:
        route.fetch()
        lost.append(route)
        route.abort()

    def is_lost() -> list[Any]:
        page.wait_for_timeout(50)
        return lost

    page.route("**/api/jobs", lose, times=1)
    page.get_by_role("button", name="Run").click()
    becomes(is_lost)
    expect(page.get_by_text("The server cannot be reached.")).to_be_visible()
    page.get_by_role("button", name="Run").click()
    expect(page).to_have_url(re.compile("/console/jobs/"))
    jobs = [job["jobId"] for job in house.get("/api/jobs", limit=50)["jobs"]]
    assert sum(house.nodes(job).keys() == {mark} for job in jobs) == 1


def test_a_phone_makes_a_job_too(open_tab: Callable[..., Tab]) -> None:
    page = open_tab(viewport=PHONE).page
    page.goto("/console/new?pipeline=simulate")
    expect(page.get_by_label("Steps", exact=True)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    page.get_by_role("button", name="Run").click()
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()


def test_a_seed_beyond_what_browsers_count_stays_what_it_is(tab: Tab, house: Stack) -> None:
    """The tools around draw seeds from all 64 bits; a rounded one makes another picture."""
    seed = 1234567890123456789
    document = house.post("/api/jobs", simulate({"id": "a", "steps": 0}) | {"metadata": {"seed": seed}})
    house.ended(document["jobId"])
    page = tab.page
    page.goto(f"/console/new?from={document['jobId']}")
    expect(page.get_by_role("textbox").first).to_have_value(re.compile(str(seed)))
    page.goto(f"/console/jobs/{document['jobId']}")
    expect(page.get_by_text(str(seed)).first).to_be_attached()
