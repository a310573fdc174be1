"""A result one can use: it leads the page, outputs are tables, an error's cure is its first button, and a job ends well and tells of it."""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.steps import SLOW, name, row, show_data, submit
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate


def test_an_output_document_is_a_table(tab: Tab, house: Stack) -> None:
    rows = [{"word": f"w{index}", "length": index, "toString": 0} for index in range(30)]
    job = house.post("/api/jobs", simulate({"id": "a", "output": {"words": 30, "rows": rows, "valueOf": 0}}))["jobId"]
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    output = page.get_by_role("region", name="Output of a")
    expect(output.get_by_role("row").nth(3)).to_contain_text("w2")
    assert output.get_by_role("row").count() == 21, "what is small is shown, the rest on demand"
    output.get_by_role("button", name="10 more").click()
    expect(output.get_by_role("row")).to_have_count(31)
    expect(page.locator("[data-node]")).to_have_count(0)


def test_the_first_button_of_an_error_is_its_cure(tab: Tab, house: Stack, tmp_path: Path) -> None:
    text = tmp_path / "speech.wav"
    text.write_text("this is no sound")
    wrong = house.post("/api/jobs", {"pipeline": "train_voice", "params": {"recording": house.upload(text)}})["jobId"]
    house.ended(wrong)
    page = tab.page
    page.goto(f"/console/jobs/{wrong}")
    cure = page.get_by_role("region", name="What went wrong").locator(".primary")
    expect(cure).to_have_text("Change Recording")
    cure.click()
    expect(page.get_by_role("heading", name="Train a voice")).to_be_visible()
    expect(page.locator(".chosen")).to_contain_text("speech.wav")


def test_a_job_that_can_is_finished_now(tab: Tab, house: Stack) -> None:
    job = submit(house, name("finish"), **SLOW)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    page.get_by_role("button", name="Finish now").click()
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()
    assert house.ended(job)["status"] == "completed"


WATCHED = """
  window.notes = [];
  window.Notification = class { static permission = "granted"; static requestPermission = async () => "granted";
    constructor(title, options) { window.notes.push([title, options.body]); } };
"""


def test_a_tab_tells_of_its_jobs(open_tab: Callable[..., Tab], house: Stack) -> None:
    page = open_tab().page
    page.add_init_script(WATCHED)
    job = submit(house, name("told"), steps=3000, stepSeconds=0.1)
    page.goto(f"/console/jobs/{job}")
    page.get_by_role("button", name="Notify me when jobs end").click()
    becomes(lambda: re.match("[1-9][0-9]* % · ", page.title()))
    icon = page.locator("link[rel=icon]")
    expect(icon).to_have_attribute("href", re.compile("^blob:"))
    page.get_by_role("link", name="Jobs", exact=True).click()
    expect(row(page, job)).to_be_visible()
    house.post(f"/api/jobs/{job}/nodes/a/finish", status=202)
    expect(icon).to_have_attribute("href", re.compile("mark.svg$"))
    becomes(lambda: page.evaluate("window.notes.length"))
    assert page.evaluate("window.notes") == [[job, "completed"]]


def test_a_log_is_searched_filtered_and_taken_along(tab: Tab, house: Stack) -> None:
    job = submit(house, name("logged"), steps=20, stepSeconds=0)
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    log = page.get_by_role("log")
    expect(log).to_contain_text("completed")
    expect(log).not_to_contain_text('"step"')
    show_data(page)
    expect(log).to_contain_text('"step":20')
    page.get_by_role("searchbox", name="Search the log").fill('"step":7,')
    expect(log.get_by_role("button")).to_have_count(1)
    page.get_by_role("searchbox", name="Search the log").fill("")
    page.get_by_role("button", name="Wrap lines").click()
    expect(page.locator(".wrapped .log-line")).to_have_count(20)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the log").click()
    assert Path(download.value.path()).read_text().count("\n") == 20


def test_focus_stays_on_the_page_after_what_was_pressed_is_gone(tab: Tab, house: Stack) -> None:
    job = submit(house, name("focus"), **SLOW)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    page.get_by_role("button", name="Cancel", exact=True).focus()
    page.keyboard.press("Enter")
    expect(page.locator(".job-state").get_by_text("cancelled")).to_be_visible()
    becomes(lambda: page.evaluate("document.activeElement !== document.body"))


def test_many_jobs_are_deleted_with_one_press(tab: Tab, house: Stack) -> None:
    mark = name("gone")
    jobs = [submit(house, f"{mark}-{index}", steps=0) for index in range(3)]
    for job in jobs:
        house.ended(job)
    page = tab.page
    page.goto(f"/?q={mark}")
    for job in jobs:
        expect(row(page, job)).to_contain_text("completed")
    page.get_by_role("checkbox", name="Choose all").check()
    page.get_by_role("button", name="Delete 3").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete 3 jobs").click()
    expect(page.get_by_text("Deleted: 3 jobs")).to_be_visible()
    assert all(house.http.get(f"/api/jobs/{job}").status_code == 404 for job in jobs)


def test_jobs_are_found_by_name_tag_and_parameter(tab: Tab, house: Stack) -> None:
    title = name("Дождь über Köln")
    steps = 4321
    job = house.post(
        "/api/jobs",
        {"pipeline": "simulate", "params": {"steps": steps, "stepSeconds": 0}, "name": title, "tags": ["雨"]},
    )["jobId"]
    page = tab.page
    for words in (title.lower(), "雨", str(steps), job[:10]):
        page.goto("/")
        page.get_by_role("searchbox", name="Search all jobs").fill(words)
        expect(row(page, title)).to_be_visible()
    row(page, title).get_by_role("link").click()
    page.get_by_role("link", name="雨").click()
    expect(page).to_have_url(re.compile("tag="))
    expect(row(page, title)).to_be_visible()
