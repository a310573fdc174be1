"""The queue as a place where one acts: order, urgency, pools that pause, workers that drain, and what a job is called afterwards."""

import re

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.steps import fill, name, row, started, submit
from tests.support.polling import becomes
from tests.support.stack import Stack


def test_a_waiting_job_is_moved_to_the_front_and_made_urgent(tab: Tab, house: Stack) -> None:
    busy = [fill(house, name("busy")) for _ in range(2)]
    for job in busy:
        started(house, job)
    waiting = [fill(house, name(f"waits-{index}")) for index in range(3)]
    page = tab.page
    page.goto("/console/queue")
    order = page.get_by_role("region", name="Waiting, next first").get_by_role("listitem")
    expect(order).to_contain_text(waiting)
    page.get_by_role("button", name=f"Move {waiting[2]} to the front").click()
    expect(order).to_contain_text([waiting[2], waiting[0], waiting[1]])
    page.get_by_role("combobox", name=f"Priority of {waiting[1]}").select_option("high")
    becomes(lambda: house.get(f"/api/jobs/{waiting[1]}")["priority"] == "high")
    for job in busy + waiting:
        house.post(f"/api/jobs/{job}/cancel", status=202)
    for job in busy + waiting:
        house.ended(job)


def test_a_pool_is_paused_and_what_waits_for_it_says_so(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/queue")
    page.get_by_role("button", name="Pause default of Data plane").click()
    expect(page.locator(".pool.paused")).to_contain_text("paused")
    job = submit(house, name("held"), steps=0)
    page.goto(f"/console/jobs/{job}")
    expect(page.locator(".waiting")).to_contain_text("Waits for its pool to be resumed:")
    page.locator(".waiting").get_by_role("link", name="the queue").click()
    page.get_by_role("button", name="Resume default of Data plane").click()
    expect(page.locator(".pool.paused")).to_have_count(0)
    assert house.ended(job)["status"] == "completed"


def test_a_worker_is_drained_and_takes_nodes_again(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/workers")
    worker = page.get_by_role("article").filter(has_text="CPU (").last
    worker.get_by_role("button", name=re.compile("^Drain")).click()
    expect(worker).to_contain_text("drains")
    job = submit(house, name("undrained"), steps=0)
    worker.get_by_role("button", name=re.compile("^Resume")).click()
    expect(worker).not_to_contain_text("drains")
    assert house.ended(job)["status"] == "completed"


def test_name_tags_and_priority_are_changed_afterwards(tab: Tab, house: Stack) -> None:
    job = submit(house, name("renamed"), steps=0)
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    page.get_by_role("button", name="Edit name, tags and priority").click()
    form = page.get_by_role("dialog")
    form.get_by_label("Name").fill("A better name")
    form.get_by_label("Tags").fill("kept, 雨")
    expect(form.get_by_label("Priority")).to_have_count(0)
    form.get_by_role("button", name="Save").click()
    expect(page.get_by_role("heading", name="A better name")).to_be_visible()
    expect(page.get_by_role("link", name="雨")).to_be_visible()
    found = house.get(f"/api/jobs/{job}")
    assert (found["name"], found["tags"]) == ("A better name", ["kept", "雨"])


def test_chosen_jobs_are_tagged_together(tab: Tab, house: Stack) -> None:
    mark = name("tagged")
    jobs = [submit(house, f"{mark}-{index}", steps=0) for index in range(2)]
    for job in jobs:
        house.ended(job)
    page = tab.page
    page.goto(f"/?q={mark}")
    for job in jobs:
        expect(row(page, job)).to_be_visible()
    page.get_by_role("checkbox", name="Choose all").check()
    page.get_by_role("button", name="Tag 2").click()
    page.get_by_role("dialog").get_by_label("Tags").fill("series")
    page.get_by_role("dialog").get_by_role("button", name="Add").click()
    expect(page.get_by_text("Tagged: 2 jobs")).to_be_visible()
    assert [house.get(f"/api/jobs/{job}")["tags"] for job in jobs] == [["series"]] * 2
