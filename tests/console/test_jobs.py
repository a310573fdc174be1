"""The list of jobs: it lives, its filters are its address, and many jobs are one press."""

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.console.browser import PHONE, Tab
from tests.console.steps import SLOW, name, row, submit
from tests.support.stack import Stack, simulate


def test_a_job_appears_moves_and_ends_without_a_reload(tab: Tab, house: Stack) -> None:
    tab.page.goto("/")
    expect(tab.page.get_by_role("heading", name="Jobs")).to_be_visible()
    job = submit(house, name("moves"), steps=80, stepSeconds=0.1)
    bar = row(tab.page, job).get_by_role("progressbar")
    expect(bar).to_have_attribute("aria-valuenow", re.compile("^[1-9][0-9]?$"))
    expect(row(tab.page, job)).to_contain_text("running")
    expect(bar).to_have_attribute("aria-valuenow", "100")
    expect(row(tab.page, job)).to_contain_text("completed")


def test_filters_are_the_address_and_the_way_back_works(tab: Tab, house: Stack) -> None:
    good, bad = submit(house, name("good")), submit(house, name("bad"), failAt=0)
    house.ended(good)
    house.ended(bad)
    page = tab.page
    page.goto("/")
    expect(row(page, good)).to_be_visible()
    page.get_by_role("button", name="failed").click()
    expect(page).to_have_url(re.compile(r"\?status=failed$"))
    expect(row(page, bad)).to_contain_text("simulated_failure: asked to fail at step 0")
    expect(row(page, good)).to_have_count(0)
    row(page, bad).get_by_role("link").click()
    expect(page.get_by_role("heading", name=bad)).to_be_visible()
    page.go_back()
    expect(row(page, bad)).to_be_visible()
    expect(page.get_by_role("button", name="failed")).to_have_attribute("aria-pressed", "true")
    expect(row(page, good)).to_have_count(0)
    page.go_back()
    expect(row(page, good)).to_be_visible()
    page.go_forward()
    expect(row(page, good)).to_have_count(0)
    page.reload()
    expect(row(page, bad)).to_be_visible()
    expect(row(page, good)).to_have_count(0)


def test_a_job_is_found_by_the_beginning_of_its_id_or_by_the_whole(tab: Tab, house: Stack) -> None:
    one, other = submit(house, name("needle")), submit(house, name("straw"))
    page = tab.page
    page.goto("/")
    expect(row(page, other)).to_be_visible()
    box = page.get_by_role("searchbox", name="Search all jobs")
    box.fill(one[:11])
    expect(row(page, other)).to_have_count(0)
    expect(row(page, one)).to_be_visible()
    box.fill(one)
    box.press("Enter")
    expect(page.get_by_role("heading", name=one)).to_be_visible()
    page.goto("/?q=there-is-none")
    expect(page.get_by_role("heading", name="No matches")).to_be_visible()
    page.get_by_role("button", name="Show all jobs").click()
    expect(row(page, one)).to_be_visible()


def test_many_jobs_are_cancelled_and_run_again_with_one_press(tab: Tab, house: Stack) -> None:
    mark = name("bulk")
    jobs = [submit(house, f"{mark}-{index}", **SLOW) for index in range(5)]
    page = tab.page
    page.goto(f"/?q={mark}")
    for job in jobs:
        expect(row(page, job)).to_be_visible()
    page.get_by_role("checkbox", name="Choose all").check()
    page.get_by_role("button", name="Cancel 5").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel 5 jobs").click()
    expect(page.get_by_text("Cancelled: 5 jobs")).to_be_visible()
    for job in jobs:
        expect(row(page, job)).to_contain_text("cancelled")
        assert house.ended(job)["status"] == "cancelled"
    page.get_by_role("checkbox", name="Choose all").check()
    page.get_by_role("button", name="Retry 5").click()
    expect(page.get_by_text("Retried: 5 jobs")).to_be_visible()
    for job in jobs:
        expect(row(page, job)).to_contain_text(re.compile("running|queued"))
        assert house.get(f"/api/jobs/{job}")["attempt"] == 2
        house.post(f"/api/jobs/{job}/cancel", status=202)


def test_what_a_row_says_of_a_job_that_waits(tab: Tab, house: Stack) -> None:
    job = name("later")
    house.post("/api/jobs", simulate({"id": "a"}, job=job) | {"startAt": "2099-01-01T00:00:00Z"})
    tab.page.goto(f"/?q={job}")
    expect(row(tab.page, job)).to_contain_text("scheduled")
    expect(row(tab.page, job)).to_contain_text(re.compile(r"starts 1 Jan 2099, 00:00, in \d+ d"))
    house.post(f"/api/jobs/{job}/cancel", status=202)


def test_a_phone_shows_the_same_jobs(open_tab: Callable[..., Tab], house: Stack) -> None:
    job = submit(house, name("phone"), steps=5)
    page = open_tab(viewport=PHONE).page
    page.goto("/")
    expect(row(page, job)).to_be_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    row(page, job).get_by_role("link").click()
    expect(page.get_by_role("heading", name=job)).to_be_visible()
    page.get_by_role("navigation").get_by_role("link", name="Workers").click()
    expect(page.get_by_role("heading", name="Workers and queues")).to_be_visible()


def test_whoever_comes_first_is_told_where_to_begin(open_tab: Callable[..., Tab], house: Stack) -> None:
    tab = open_tab()
    tab.page.goto("/?status=cancelling&period=1h")
    expect(tab.page.get_by_role("heading", name="No matches")).to_be_visible()
