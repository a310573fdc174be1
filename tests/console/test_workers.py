"""Workers and queues: what runs where, what waits, and what was given up."""

import re

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.conftest import WORKER
from tests.console.steps import name, submit
from tests.support import lethal
from tests.support.polling import becomes
from tests.support.stack import Stack


def test_what_runs_is_seen_at_its_worker(tab: Tab, house: Stack) -> None:
    job = submit(house, name("seen"), steps=600, stepSeconds=0.1)
    page = tab.page
    page.goto("/console/workers")
    data = page.get_by_role("article").filter(has_text="CPU (")
    run = data.get_by_role("listitem").filter(has=page.locator(f'a[href*="{job}"]'))
    expect(run).to_contain_text("simulate")
    run.get_by_role("link").click()
    expect(page.get_by_role("heading", name=job)).to_be_visible()
    house.post(f"/api/jobs/{job}/cancel", status=202)


def test_memory_and_utilisation_are_numbers_of_each_device(tab: Tab, house: Stack) -> None:
    def told() -> bool:
        """After a node in a slot: one that ended idle, as it does after a lease without a beat, comes back with the next node."""
        house.ended(house.post("/api/jobs", {"graph": in_a_slot})["jobId"])
        workers = house.get("/api/workers")["workers"]
        return any(each["memory"] and each["memory"][0]["usedBytes"] for each in workers)

    node = {"id": "a", "task": "simulate_gpu", "plane": "python", "params": {"steps": 1, "stepSeconds": 0}}
    in_a_slot = {"schema": "langgraph.v1", "nodes": [node]}
    becomes(told)
    page = tab.page
    page.goto("/console/workers")
    data = page.get_by_role("article").filter(has_text="CPU (")
    expect(data.first).to_contain_text(re.compile(r"Memory\s*[\d.]+ [MG]iB of [\d.]+ [GT]iB\s*slots, \d+ % busy"))
    control = page.get_by_role("article").filter(has_text="Control plane")
    expect(control).not_to_contain_text("Memory")


def test_queues_name_every_place_with_its_slots(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    places = tab.page.get_by_role("region", name="Queues")
    expect(places.get_by_role("row").filter(has_text="Data plane")).to_contain_text("default")
    expect(places.get_by_role("row").filter(has_text="Control plane")).to_contain_text("16")


def test_a_dead_letter_is_queued_again_or_dropped(tab: Tab, house: Stack) -> None:
    """A node that kills its worker is given up; in this house after one death. The deaths are real."""
    job = name("poison")
    house.post("/api/jobs", lethal.submission(job))
    given_up(house, job)
    page = tab.page
    page.goto("/console/workers")
    row = page.get_by_role("region", name="Failed deliveries").get_by_role("row").filter(has_text=job)
    expect(row).to_contain_text("its workers died again and again")
    row.get_by_role("button", name="Requeue").click()
    expect(page.get_by_text(f"{job} runs again")).to_be_visible()
    given_up(house, job)
    assert house.get(f"/api/jobs/{job}")["attempt"] == 2
    row.get_by_role("button", name="Drop").click()
    expect(row).to_have_count(0)
    assert all(letter["jobId"] != job for letter in house.get("/api/dead-letters")["deadLetters"])


def given_up(house: Stack, job: str) -> None:
    """Starts a worker for each that died, until the job has failed and its letter is there."""

    def failed() -> bool:
        for process in house.workers:
            if process.poll() is not None:
                house.workers.remove(process)
                house.worker(*WORKER)
        letters = house.get("/api/dead-letters")["deadLetters"]
        return house.get(f"/api/jobs/{job}")["status"] == "failed" and any(letter["jobId"] == job for letter in letters)

    becomes(failed, 60)


def test_light_nodes_take_no_slot(tab: Tab, house: Stack) -> None:
    jobs = [submit(house, name("light"), steps=600, stepSeconds=0.1) for _ in range(3)]
    tab.page.goto("/console/workers")
    data = tab.page.get_by_role("article").filter(has_text=re.compile("[3-9] light nodes beside them"))
    expect(data).to_contain_text("0 of 2 slots")
    for job in jobs:
        house.post(f"/api/jobs/{job}/cancel", status=202)


def test_what_jobs_take_stands_on_their_form_and_a_worker_has_its_last_hour(tab: Tab, house: Stack) -> None:
    job = house.post("/api/jobs", {"pipeline": "simulate", "params": {"steps": 1, "stepSeconds": 0}})["jobId"]
    assert house.ended(job)["status"] == "completed"
    becomes(lambda: len([each for each in house.get("/api/workers")["workers"] if each["plane"] == "python"]) == 1)
    page = tab.page
    page.goto("/console/new?pipeline=simulate")
    expect(page.locator(".statistics")).to_contain_text(re.compile(r"median .* · [1-9][0-9]* of [1-9][0-9]* succeeded"))
    page.goto("/console/workers")
    page.get_by_role("article").filter(has_text="CPU (").get_by_text("The last hour").click()
    expect(page.get_by_role("img", name=re.compile("^Busy slots"))).to_be_visible()
    used = page.locator("figure.curve", has_text="Utilisation in %")
    expect(used).to_contain_text("slots")  # of one line, too, it is said whose it is
    assert used.locator(".y span").all_inner_texts() == ["100", "0"], "full use is not drawn on the base line"
