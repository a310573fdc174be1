"""Workers and queues: what runs where, what waits, and what was given up."""

import re

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.test_jobs import name, submit
from tests.house import House, becomes


def test_what_runs_is_seen_at_its_worker(tab: Tab, house: House) -> None:
    job = submit(house, name("seen"), steps=600, stepSeconds=0.1)
    page = tab.page
    page.goto("/console/workers")
    data = page.get_by_role("article").filter(has_text="Data plane")
    expect(data).to_contain_text("CPU")
    run = data.get_by_role("listitem").filter(has=page.locator(f'a[href*="{job}"]'))
    expect(run).to_contain_text("simulate")
    run.get_by_role("link").click()
    expect(page.get_by_role("heading", name=job)).to_be_visible()
    house.post(f"/api/jobs/{job}/cancel", status=202)


def test_queues_name_every_place_with_its_slots(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    places = tab.page.get_by_role("region", name="Queues")
    expect(places.get_by_role("row").filter(has_text="Data plane")).to_contain_text("default")
    expect(places.get_by_role("row").filter(has_text="Control plane")).to_contain_text("16")


def test_a_dead_letter_is_queued_again_or_dropped(tab: Tab, house: House) -> None:
    """A node that kills its worker is given up after three deaths; here every death is real."""
    spare = house.worker("--slots", "1")
    job = name("poison")
    house.post(
        "/api/jobs",
        {
            "graph": {
                "schema": "langgraph.v1",
                "workflowId": job,
                "nodes": [{"id": "deadly", "task": "simulate", "plane": "python", "params": {"crashAt": 0}}],
                "edges": [],
            }
        },
    )

    def given_up() -> bool:
        for process in house.workers:
            if process.poll() is not None:
                house.workers.remove(process)
                house.worker("--slots", "2")
        return any(letter["jobId"] == job for letter in house.get("/api/dead-letters")["deadLetters"])

    becomes(given_up, 60)
    assert spare.pid
    page = tab.page
    page.goto("/console/workers")
    letters = page.get_by_role("region", name="Dead letters")
    row = letters.get_by_role("row").filter(has_text=job)
    expect(row).to_contain_text("deadly")
    row.get_by_role("button", name="Drop").click()
    expect(page.get_by_text(job)).to_have_count(0)
    assert all(letter["jobId"] != job for letter in house.get("/api/dead-letters")["deadLetters"])
    house.post(f"/api/jobs/{job}/retry", status=200)
    becomes(given_up, 60)
    expect(row).to_be_visible()
    row.get_by_role("button", name="Requeue").click()
    expect(page.get_by_text(f"{job} runs again")).to_be_visible()
    assert house.get(f"/api/jobs/{job}")["attempt"] == 3
    house.http.post(f"/api/jobs/{job}/cancel")
    becomes(lambda: re.match("cancelled|failed", house.get(f"/api/jobs/{job}")["status"]) or (given_up() and False), 60)
