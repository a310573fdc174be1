"""Ten thousand jobs and a thousand nodes are usable. How fast they are drawn is measured in tests/benchmarks/console.py."""

import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.console.browser import Tab
from tests.console.large import frames, large_graph, longest_task_ms, start_tracing, store_many, submit_many
from tests.console.steps import row
from tests.support.polling import becomes
from tests.support.stack import Stack

JOBS = 10_000
NODES = 1_000
FILES = 1_200


@pytest.fixture(scope="module")
def large(browser: Browser) -> Iterator[Stack]:
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    made = Stack(directory)
    try:
        made.worker("--slots", "1")
        made.post("/api/jobs", large_graph(NODES, "large"))
        assert made.ended("large", 90)["status"] == "completed"
        submit_many(made, JOBS)
        yield made
    finally:
        made.close()
        shutil.rmtree(directory, ignore_errors=True)


def test_ten_thousand_jobs_are_scrolled_searched_and_chosen(open_tab: Callable[..., Tab], large: Stack) -> None:
    page = open_tab(large.url).page
    page.goto("/?status=scheduled")
    rows = page.locator(".rows")

    def reached_the_end() -> bool:
        rows.evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
        return bool(page.get_by_text("10,000 jobs", exact=True).count())

    becomes(reached_the_end, 60)
    rows.evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
    expect(page.locator(f'[aria-rowindex="{JOBS + 1}"]')).to_be_visible()
    assert page.locator(".job-row").count() < 60, "only what is in sight is drawn"
    assert frames(page, "scroll", 1.0)["frames"] >= 1
    page.get_by_role("searchbox", name="Search all jobs").fill("many-0421")
    expect(page.get_by_text("10 jobs", exact=True)).to_be_visible()
    expect(row(page, "many-04217")).to_be_visible()
    page.get_by_role("checkbox", name="Choose all").check()
    page.get_by_role("button", name="Cancel 10").click()
    page.get_by_role("dialog").get_by_role("button", name="Cancel 10 jobs").click()
    expect(page.get_by_text("Cancelled: 10 jobs")).to_be_visible()
    assert large.get("/api/jobs/many-04217")["status"] == "cancelled"


def test_a_job_deep_in_the_list_is_found_by_its_id(open_tab: Callable[..., Tab], large: Stack) -> None:
    page = open_tab(large.url).page
    page.goto("/?q=many-00003")
    expect(row(page, "many-00003")).to_be_visible()


def test_a_file_deep_in_the_gallery_is_found_and_nothing_blocks_the_page(
    browser: Browser, open_tab: Callable[..., Tab], large: Stack
) -> None:
    """The search once stopped at the first page of files that brought no other match."""
    store_many(large.directory / "artifacts", FILES)
    page = open_tab(large.url).page
    start_tracing(browser, page)
    page.goto("/console/artifacts?q=0119")
    expect(page.get_by_text("11 files", exact=True)).to_be_visible()
    page.get_by_role("searchbox", name="Search by name").fill("")
    rows = page.locator(".rows")

    def reached_the_end() -> bool:
        rows.evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
        return bool(page.get_by_text(f"{FILES:,} files", exact=True).count())

    becomes(reached_the_end, 60)
    expect(page.get_by_role("link", name="picture-00000.png", exact=True)).to_be_visible()
    assert page.locator(".tile").count() < 80, "only what is in sight is drawn"
    assert longest_task_ms(browser) < 100


def test_a_graph_of_a_thousand_nodes_is_drawn_walked_and_followed(open_tab: Callable[..., Tab], large: Stack) -> None:
    page = open_tab(large.url).page
    page.goto("/console/jobs/large")
    graph = page.get_by_role("group", name="Graph of 1,000 nodes")
    expect(graph.locator(".node")).to_have_count(NODES)
    assert frames(page, "drag", 1.0)["frames"] >= 1
    page.get_by_role("button", name="Show the whole graph").click()
    page.locator('[data-node="n0"]').hover()
    page.keyboard.down("Control")
    page.mouse.wheel(0, -600)
    page.keyboard.up("Control")
    expect(graph.locator(".node .node-name").first).to_be_visible()
    assert graph.locator(".node").count() < NODES
    page.get_by_role("button", name="Show the whole graph").click()
    page.locator('[data-node="n0"]').focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("node=n"))
    expect(page.get_by_role("table", name="Timeline of 1000 nodes")).to_be_visible()
    assert page.locator(".timeline-row").count() < 60
