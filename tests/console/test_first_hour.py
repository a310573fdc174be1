"""Defects that somebody found in a first hour with the product, each with the test that would find it again.

A1 an example of another kind                   test_forms::test_a_field_offers_and_takes_only_files_that_fit
A2 what was trained cannot be chosen            test_forms::test_what_a_training_made_can_be_chosen_afterwards
A4 run again is JSON, the pipeline is lost      test_forms::test_run_again_opens_the_form_as_it_was_given
B1 the wrong reason to wait                     below, and tests/control_plane/test_waiting.py
B2 the loud button cures nothing                test_results::test_the_first_button_of_an_error_is_its_cure
B3 names that are not Latin are lost            below, and test_hard_conditions::test_names_of_every_script_…
B4 not every problem at once                    test_new::test_every_problem_of_a_graph_stands_at_its_line
B8 GiB and GB                                   test_workers::test_memory_is_a_number_of_each_device
B9 "cut" where a key is asked for               test_keys::test_a_key_is_created_shown_once_…
C1 labels from the names of code                below
C2 a phone: which form, whole times, errors     test_forms::test_a_phone_shows_which_form_…, and below
C3 names in a graph of forty nodes, colours     below
C4 where the focus falls                        test_results::test_focus_stays_on_the_page_…
C5 the timeline's legend                        below
C6 HEAD, and addresses that a person mistyped   below
C8 local times, how many there are              test_jobs::test_what_a_row_says_of_a_job_that_waits, and below
"""

import re
from collections.abc import Callable

from playwright.sync_api import expect

from tests.console.browser import PHONE, Tab
from tests.console.large import large_graph
from tests.console.steps import fill, name, row, started, submit, upload, view
from tests.support.stack import Stack, simulate

TITLES = """async () => {
  const { plain, propertiesOf, titleOf } = await import("/console/fields.js");
  const [pipelines, tasks] = await Promise.all(["pipelines", "capabilities"].map(async (what) => (await fetch(`/api/${what}`)).json()));
  const found = [];
  const walk = (where, schema) => {
    for (const [name, each] of propertiesOf(schema)) {
      found.push([`${where}.${name}`, titleOf(name, each)]);
      walk(`${where}.${name}`, plain(each).type === "array" ? plain(each).items : each);
    }
  };
  for (const each of pipelines.pipelines) walk(each.id, each.params);
  for (const each of tasks.capabilities) walk(each.id, each.io.input);
  return found;
}"""


def test_a_job_that_waits_says_its_place_and_not_that_all_is_busy(tab: Tab, house: Stack) -> None:
    running = [fill(house, name("fills")) for _ in range(2)]
    for job in running:
        started(house, job)
    waiting = [fill(house, name("third")) for _ in range(2)]
    page = tab.page
    page.goto(f"/console/jobs/{waiting[1]}")
    expect(page.locator(".waiting")).to_contain_text(re.compile("place [1-9] in the queue"))
    page.goto("/console/queue")
    order = page.get_by_role("region", name="Waiting, next first").get_by_role("listitem")
    expect(order).to_contain_text(waiting)
    for job in [*waiting, *running]:
        house.post(f"/api/jobs/{job}/cancel", status=202)
        house.ended(job)


def test_a_file_keeps_its_name_whatever_its_script(tab: Tab, house: Stack) -> None:
    page = tab.page
    for called in ("日本語.txt", "Übung.txt", "Мой голос.txt"):
        page.goto(view(upload(house, called, b"words", "text/plain")))
        expect(page.get_by_role("heading", name=called)).to_be_visible()
        expect(page.get_by_role("link", name="Download")).to_have_attribute("download", called)


def test_no_field_is_called_by_its_name_in_code(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    titles = tab.page.evaluate(TITLES)
    assert len(titles) > 100
    bad = [
        each
        for each in titles
        if re.search(r"[a-z][A-Z]|_| (mi|gi) b$|^(Fps|Db)$|^[^A-Z0-9]", re.sub(r"dB|MiB|GiB", "", each[1]))
    ]
    own = ("film.", "wide.", "lethal.", "die.")  # of this house's test tasks: made of the name, as words
    assert [each for each in bad if not each[0].startswith(own)] == []


def test_a_phone_shows_errors_in_the_list_and_whole_times_in_the_log(
    open_tab: Callable[..., Tab], house: Stack
) -> None:
    job = submit(house, name("broken"), failAt=0)
    house.ended(job)
    page = open_tab(viewport=PHONE).page
    page.goto(f"/?q={job}")
    expect(row(page, job).get_by_text(re.compile("simulated_failure"))).to_be_visible()
    page.goto(f"/console/jobs/{job}")
    times = page.locator(".log-time")
    expect(times.first).to_have_text(re.compile(r"\d\d:\d\d:\d\d"))
    assert times.evaluate_all("all => all.every((each) => each.scrollWidth <= each.clientWidth + 1)")


def test_forty_nodes_have_names_and_a_chosen_one_keeps_its_colour(tab: Tab, house: Stack) -> None:
    job = name("forty")
    house.post("/api/jobs", large_graph(40, job) | {"startAt": "2099-01-01T00:00:00Z"})
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    nodes = page.locator(".graph .node")
    expect(nodes).to_have_count(40)
    assert [each for each in nodes.all_inner_texts() if not each.strip()] == []
    first = page.locator('[data-node="n0"]')
    colour = "node => getComputedStyle(node).backgroundColor"
    before = first.evaluate(colour)
    first.click()
    expect(first).to_have_attribute("aria-pressed", "true")
    page.mouse.move(0, 0)
    assert first.evaluate(colour) == before
    house.post(f"/api/jobs/{job}/cancel", status=202)


def test_the_flagships_names_are_not_cut(tab: Tab) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=look")
    names = page.locator(".graph .node-name")
    expect(names.first).to_be_visible()
    assert names.evaluate_all("all => all.filter((each) => each.scrollWidth > each.clientWidth).length") == 0


def test_the_legend_of_a_timeline_names_what_is_in_it(tab: Tab, house: Stack) -> None:
    job = name("legend")
    house.post("/api/jobs", simulate({"id": "a", "steps": 1}, {"id": "b", "failAt": 0}, edges=[("a", "b")], job=job))
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}")
    legend = page.locator(".timeline .legend")
    for word in ("queued", "completed", "failed", "time at work, then time in the queue"):
        expect(legend).to_contain_text(word)


def test_every_address_answers_a_person_and_an_uptime_check(tab: Tab, house: Stack) -> None:
    assert house.http.head("/").status_code == 200
    for address in ("/console/typo", "/jobs"):
        answer = house.http.get(address, headers={"Accept": "text/html"}, follow_redirects=True)
        assert "text/html" in answer.headers["content-type"], address
    tab.page.goto("/console/typo")
    expect(tab.page.get_by_text("There is no such page")).to_be_visible()


def test_a_list_that_goes_on_does_not_count_what_it_has(tab: Tab, house: Stack) -> None:
    far = "2099-01-01T00:00:00Z"
    mark = name("count")
    jobs = [simulate({"id": "a"}, job=f"{mark}-{index:03}") | {"startAt": far} for index in range(120)]
    house.post("/api/jobs/batch", {"jobs": jobs}, status=200)
    page = tab.page
    page.goto(f"/?q={mark}")
    expect(page.locator(".title")).to_contain_text(re.compile("more than 100 jobs|120 jobs"))
    page.locator(".rows").evaluate("rows => { rows.scrollTop = rows.scrollHeight }")
    expect(page.locator(".title")).to_contain_text("120 jobs")
    for each in jobs:
        house.post(f"/api/jobs/{each['graph']['workflowId']}/cancel", status=202)
