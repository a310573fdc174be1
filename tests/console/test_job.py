"""The page of a job, before the real system: from its first event to a video that plays, through cuts, reloads and failures."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect

from tests.console.browser import Line, Tab
from tests.console.steps import SLOW, logged, name, show_data, submit
from tests.support.polling import at_this_load, becomes
from tests.support.stack import Stack, simulate

STEP = re.compile(r'step \{"step":\d+,')


def graph_node(page: Page, id: str) -> Locator:
    return page.locator(f'[data-node="{id}"]')


def width(node: Locator) -> float:
    box = node.bounding_box()
    assert box is not None
    return box["width"]


def test_a_video_is_watched_from_its_graph_to_its_first_frames(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    params = {
        "picture": house.upload(files["picture"]),
        "voice": house.upload(files["recording"]),
        "width": 160,
        "height": 120,
    }
    job = house.post("/api/jobs", {"pipeline": "talking_picture", "params": {**params, "seconds": 2}})["jobId"]
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    for id in ("generate_script", "speak", "lip_sync", "render_video"):
        expect(graph_node(page, id)).to_have_accessible_name(re.compile("completed"), timeout=240_000)
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()
    expect(graph_node(page, "render_video")).to_have_accessible_name(re.compile("critical path"))
    expect(page.get_by_role("table", name="Timeline of 4 nodes")).to_contain_text("render_video")
    expect(page.get_by_role("img", name="Waveform of video.mp4")).to_be_visible()
    video = page.locator('.lead video[src*="/video.mp4"]')
    video.evaluate("video => { video.muted = true; return video.play() }")
    becomes(lambda: video.evaluate("video => video.currentTime") > 0.3)
    assert video.evaluate("video => [video.videoWidth, video.videoHeight]") == [160, 120]


def test_a_training_shows_its_curve_and_what_it_made(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    params = {"recording": house.upload(files["recording"]), "components": 8}
    job = house.post("/api/jobs", {"pipeline": "train_voice", "params": params})["jobId"]
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible(timeout=240_000)
    expect(page.locator("[data-node]")).to_have_count(0)  # one node needs no graph
    expect(page.get_by_role("img", name=re.compile("logLikelihood of train_voice: .* at iteration 25"))).to_be_visible()
    panel = page.get_by_role("region", name="Node train_voice")
    expect(panel).to_contain_text("Log likelihood")
    panel.get_by_role("link", name="voice.safetensors").click()
    expect(page.get_by_role("region", name="Tensors")).to_contain_text("F32")


def shown(page: Page) -> dict[str, Any]:
    """What a person sees of the job, without what grows by itself, once the browser has drawn what it has."""
    for _ in range(2):
        page.evaluate("new Promise(requestAnimationFrame)")
    return page.evaluate(
        """() => ({
          nodes: [...document.querySelectorAll("[data-node]")].map((node) => node.getAttribute("aria-label")).sort(),
          rows: document.querySelector(".timeline").getAttribute("aria-label"),
          bars: document.querySelectorAll(".bars i").length,
          curves: [...document.querySelectorAll(".curve svg")].filter((curve) => !curve.closest(".machine")).map((curve) => curve.getAttribute("aria-label")),
          lines: [...document.querySelectorAll(".curve .stroke")].filter((line) => !line.closest(".machine")).map((line) => line.getAttribute("d")),
          events: [...document.querySelectorAll("section[aria-labelledby=h-log] .chip .numbers")].map((each) => +each.textContent),
          log: [...document.querySelectorAll(".log-row")].map((row) => row.textContent),
          state: [...document.querySelectorAll(".job-state .status, .job-state .progress")].map((each) => each.textContent),
          error: document.querySelector(".errors")?.textContent ?? null,
        })"""
    )


def stopped_in_the_middle(house: Stack, job: str) -> None:
    """A job in the middle that says nothing more for a minute: one node done, one failed once, one long step running."""
    graph = simulate(
        {"id": "first", "steps": 4, "output": {"kept": [1, {"deep": "<b>no markup</b>"}]}},
        {"id": "long", "steps": 2, "stepSeconds": 120},
        {"id": "never", "steps": 1},
        edges=[("first", "long"), ("long", "never")],
        job=job,
    )
    house.post("/api/jobs", graph)


def test_a_reload_in_the_middle_shows_exactly_the_same(tab: Tab, house: Stack) -> None:
    job = name("middle")
    stopped_in_the_middle(house, job)
    page = tab.page
    page.goto(f"/console/jobs/{job}?node=first")
    expect(graph_node(page, "long")).to_have_accessible_name(re.compile("running"))
    expect(page.get_by_role("region", name="Node first")).to_contain_text("<b>no markup</b>")
    expect(page.get_by_role("log")).to_be_visible()
    before = shown(page)
    page.reload()
    expect(page.get_by_role("region", name="Node first")).to_contain_text("<b>no markup</b>")
    expect(graph_node(page, "long")).to_have_accessible_name(re.compile("running"))
    expect(page.get_by_role("log")).to_be_visible()  # it comes after the graph
    assert shown(page) == before
    assert sum(before["events"]) == sum(event.get("nodeId") in (None, "first") for event in house.events(job))
    house.post(f"/api/jobs/{job}/cancel", status=202)


def test_a_cut_is_seen_and_what_was_missed_comes_once_and_in_order(open_tab: Callable[..., Tab], house: Stack) -> None:
    line = Line(house.port)
    tab = open_tab(line.url)
    page = tab.page
    job = submit(house, name("cut"), steps=120, stepSeconds=0.1)
    try:
        page.goto(f"/console/jobs/{job}")
        show_data(page)
        expect(page.get_by_role("log")).to_contain_text(STEP)
        line.cut()
        expect(page.get_by_text("Disconnected, reconnecting…")).to_be_visible()
        expect(page.locator(".connection")).to_have_text("Disconnected")
        frozen = page.locator(".job-state").inner_text()
        seen = logged(page)
        at = len(house.events(job))
        while len(house.events(job)) < at + 15:
            page.wait_for_timeout(100)
        assert page.locator(".job-state").inner_text() == frozen, "nothing may go on as if it were live"
        assert logged(page) == seen
        line.mend()
        expect(page.locator(".connection")).to_have_text("Live")
        expect(page.get_by_text("Disconnected, reconnecting…")).to_have_count(0)
        expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()
        whole = len(house.events(job))
        becomes(lambda: logged(page) == whole)
    finally:
        line.close()
        tab.said.clear()  # what a browser says of refused connections


LATE = """
  const wait = window.setTimeout;
  window.setTimeout = (work, ms, ...rest) => wait(work, Math.max(ms || 0, 1000), ...rest);
  window.requestAnimationFrame = (work) => wait(work, 1000);
"""


def test_a_connection_that_opens_before_the_page_listens_is_seen(tab: Tab) -> None:
    tab.page.add_init_script(LATE)
    tab.page.goto("/console/new")
    expect(tab.page.locator(".connection")).to_have_text("Live", timeout=at_this_load(8) * 1000)


def test_a_control_plane_that_died_is_waited_for(tab: Tab, house: Stack) -> None:
    page = tab.page
    job = submit(house, name("restart"), steps=120, stepSeconds=0.1)
    page.goto(f"/console/jobs/{job}")
    show_data(page)
    expect(page.get_by_role("log")).to_contain_text(STEP)
    house.kill(house.control)
    expect(page.get_by_text("Disconnected, reconnecting…")).to_be_visible()
    house.control = house.start("control_plane", "--port", str(house.port))
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()
    becomes(lambda: logged(page) == len(house.events(job)))
    tab.said.clear()


def test_a_job_is_cancelled_and_tried_again(tab: Tab, house: Stack) -> None:
    page = tab.page
    job = submit(house, name("again"), **SLOW)
    page.goto(f"/console/jobs/{job}")
    expect(page.locator(".job-state").get_by_text("running")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".job-state").get_by_text("cancelled")).to_be_visible()
    assert house.ended(job)["status"] == "cancelled"
    page.get_by_role("button", name="Retry", exact=True).click()
    expect(page.locator(".job-state").get_by_text("running")).to_be_visible()
    expect(page.locator(".job-state").get_by_text("attempt 2")).to_be_visible()
    page.get_by_role("button", name="Cancel", exact=True).click()
    expect(page.locator(".job-state").get_by_text("cancelled")).to_be_visible()
    page.get_by_role("button", name="Delete job").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete job").click()
    expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
    assert house.http.get(f"/api/jobs/{job}").status_code == 404


def test_an_error_says_its_class_and_what_to_do(tab: Tab, house: Stack) -> None:
    job = name("broken")
    graph = simulate({"id": "bad", "failAt": 0}, {"id": "after"}, {"id": "other"}, edges=[("bad", "after")], job=job)
    house.post("/api/jobs", graph)
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    wrong = page.get_by_role("region", name="What went wrong")
    expect(wrong).to_contain_text("simulated_failure")
    expect(wrong).to_contain_text("It was asked to fail, and did.")
    wrong.get_by_text("Traceback", exact=True).click()
    expect(wrong).to_contain_text("TaskError")
    expect(graph_node(page, "after")).to_have_accessible_name(re.compile("skipped"))
    expect(graph_node(page, "other")).to_have_accessible_name(re.compile("completed"))
    graph_node(page, "after").click()
    expect(page.get_by_role("region", name="Node after")).to_contain_text("a node before it failed")


def test_why_a_job_waits_is_said(tab: Tab, house: Stack) -> None:
    job = name("waits")
    house.post("/api/jobs", simulate({"id": "a"}, job=job) | {"startAt": "2099-01-01T00:00:00Z"})
    tab.page.goto(f"/console/jobs/{job}")
    expect(tab.page.get_by_text("Waits for its start time:")).to_be_visible()
    house.post(f"/api/jobs/{job}/cancel", status=202)


def test_the_graph_is_walked_by_keyboard_and_zoomed(tab: Tab, house: Stack) -> None:
    job = name("keys")
    house.post("/api/jobs", simulate({"id": "a"}, {"id": "b"}, {"id": "c"}, edges=[("a", "b"), ("b", "c")], job=job))
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    graph_node(page, "a").focus()
    page.keyboard.press("ArrowRight")
    expect(graph_node(page, "b")).to_be_focused()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("node=c"))
    expect(page.get_by_role("region", name="Node c")).to_be_visible()
    wide = width(graph_node(page, "c"))
    page.keyboard.press("+")
    becomes(lambda: width(graph_node(page, "c")) > wide * 1.2)
    page.keyboard.press("0")
    becomes(lambda: abs(width(graph_node(page, "c")) - wide) < 1)
    page.keyboard.press("Enter")
    expect(page).not_to_have_url(re.compile("node="))


def test_a_job_that_is_not_there_is_said_so(tab: Tab) -> None:
    tab.page.goto("/console/jobs/nobody-knows-it")
    expect(tab.page.get_by_role("alert")).to_contain_text("there is no job 'nobody-knows-it'")
    tab.page.get_by_role("link", name="All jobs").click()
    expect(tab.page.get_by_role("heading", name="Jobs")).to_be_visible()
