"""Defects that somebody found in a first hour with the product, each with the test that would find it again.

A1 an example of another kind                   test_forms::test_a_field_offers_and_takes_only_files_that_fit, and below
A2 what was trained cannot be chosen            test_forms::test_what_a_training_made_can_be_chosen_afterwards
A3 --file cannot fill a list                    test_cli::test_files_of_one_param_are_a_list, test_job_commands::test_lists_of_files_are_given_to_a_task_a3,
                                                test_client::test_a_param_that_is_a_list_takes_a_list_of_files
A3 uploads of a refused submission stay         test_client::test_what_was_uploaded_for_a_refused_submission_is_deleted_again
A4 run again is JSON, the pipeline is lost      test_forms::test_run_again_opens_the_form_as_it_was_given, test_job_commands::test_again_repeats_a_job_with_changes_a4,
                                                test_identity::test_run_again_keeps_the_pipeline_the_params_and_the_origin_a4
A5 no Client in Jupyter                         test_client::test_the_blocking_client_works_inside_a_running_event_loop,
                                                test_job_commands::test_the_client_runs_waits_repeats_and_draws_a_job_in_a_notebook
A6 no import beside the clone                   test_names_of_users::test_a_script_beside_a_clone_called_dihedral_imports_it
A7 a user's schemas.py shadows ours             test_names_of_users::test_modules_of_a_script_called_like_our_folders_break_nothing,
                                                test_names_of_users::test_modules_of_tasks_called_like_our_folders_break_nothing_on_either_plane_or_in_a_slot
B1 the wrong reason to wait                     below, and test_submit::test_what_a_job_waits_for_is_true
B2 the loud button cures nothing                test_results::test_the_first_button_of_an_error_is_its_cure
B3 names that are not Latin are lost            below, and test_hard_conditions::test_names_of_every_script_and_200_characters_fit_everywhere
B4 not every problem at once, edges required    test_new::test_every_problem_of_a_graph_stands_at_its_line, test_submit::test_a_graph_of_one_node_needs_no_edges,
                                                test_bad_input::test_every_problem_of_the_plan_is_named_at_once
B5 defaults as Python writes them               test_job_commands::test_a_value_is_typed_as_it_is_printed_b5
B6 logs: a name that is none, lines of JSON     test_terminals::test_logs_print_no_sequence_and_no_more_than_the_lines_asked_for,
                                                test_terminals::test_logs_of_the_planes_are_sentences_and_other_lines_stay_as_they_are
B7 demo and up have two data directories        test_cli::test_the_demo_up_and_the_logs_have_one_data_directory
B8 GiB and GB, two devices as one               test_workers::test_memory_and_utilisation_are_numbers_of_each_device, test_cli::test_up_counts_the_devices_that_it_names
B9 "cut" where a key is asked for               test_keys::test_a_key_is_asked_for_once_and_all_that_waited_goes_on
B9 no sign-out, no page for keys                test_keys::test_a_key_is_created_shown_once_and_revoked_while_its_page_is_open,
                                                test_keys::test_who_signs_out_in_one_tab_has_signed_out_in_all
B10 bodies, names and a page of the API         test_service::test_openapi_describes_bodies_answers_and_problems, test_service::test_operations_have_names_that_a_generated_client_can_use_b10,
                                                test_generated_client::test_a_generated_client_submits_a_job_and_reads_it,
                                                test_reference::test_the_menu_of_the_console_leads_to_the_reference_and_it_asks_no_other_host
C1 labels from the names of code                below
C2 a phone: which form, whole times, errors     test_forms::test_a_phone_shows_which_form_it_is_and_all_of_it, and below
C3 names in a graph of forty nodes, colours     below
C4 where the focus falls                        test_results::test_focus_stays_on_the_page_after_what_was_pressed_is_gone
C4 a cancel that was not meant                  test_job::test_a_job_is_cancelled_and_tried_again, test_large::test_ten_thousand_jobs_are_scrolled_searched_and_chosen
C5 the timeline's legend, an attempt's number   below
C6 HEAD, and addresses that a person mistyped   below, and test_served::test_the_address_above_a_jobs_page_leads_to_the_list
C7 up without --pipelines, tasks by a path      test_up::test_a_changed_task_or_pipeline_is_loaded_again_and_a_mistake_costs_nothing,
                                                test_job_commands::test_a_task_of_ones_own_runs_by_its_name_and_shows_what_it_returns
C8 local times, how many there are              test_jobs::test_what_a_row_says_of_a_job_that_waits, and below; test_cli::test_a_scheduled_job_is_shown_with_its_countdown
C9 nothing is typed                             test_client::test_a_type_checker_knows_the_documents_and_the_arguments,
                                                test_client::test_the_blocking_client_has_the_methods_of_the_async_one_with_their_signatures

C10, light nodes that start late beside slots that load, is the worker's.
"""

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.console.browser import PHONE, Tab
from tests.console.large import large_graph
from tests.console.steps import fill, name, row, started, store_examples, submit, upload, view
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


def test_every_defect_above_names_tests_that_are_there() -> None:
    written: dict[str, str] = {}
    for path in Path(__file__).parents[1].rglob("test_*.py"):
        written[path.stem] = written.get(path.stem, "") + path.read_text()
    named = re.findall(r"(test_\w+)::(test_\w+)", str(__doc__))
    assert len(named) > 40
    assert [test for module, test in named if f"def {test}(" not in written.get(module, "")] == []
    assert {
        f"{letter}{number}" for letter, most in (("A", 7), ("B", 10), ("C", 9)) for number in range(1, most + 1)
    } <= set(re.findall(r"^([ABC]\d+) ", str(__doc__), re.MULTILINE))


def test_the_example_of_a_field_is_of_its_format_and_a_field_without_one_has_no_button(tab: Tab, house: Stack) -> None:
    store_examples(house)
    page = tab.page
    page.goto("/console/new?pipeline=train_lora")
    buttons = page.get_by_role("button", name="Use the example")
    expect(buttons).to_have_count(4)
    for left in range(3, -1, -1):
        buttons.first.click()
        expect(buttons).to_have_count(left)
    chosen = page.locator(".chosen").all_inner_texts()
    assert [re.search(r"\w+\.\w+", each)[0] for each in chosen] == [  # type: ignore[index]
        "config.json", "weights.safetensors", "tokenizer.json", "dataset.jsonl",
    ]  # fmt: skip
    page.goto("/console/new?pipeline=render_video")
    look = page.locator(".field").filter(has=page.get_by_label("Look", exact=True))
    expect(look).to_have_count(1)
    expect(look.get_by_role("button", name="Use the example")).to_have_count(0)


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
    request = simulate({"id": "a", "steps": 1}, {"id": "b", "failAt": 0}, edges=[("a", "b")], job=job)
    request["graph"]["nodes"][1]["retries"] = {"maxAttempts": 2}
    house.post("/api/jobs", request)
    house.ended(job)
    page = tab.page
    page.goto(f"/console/jobs/{job}?node=b")
    expect(page.get_by_role("region", name="Node b")).to_contain_text(re.compile(r"Attempt\s*2 of 2, 2 runs"))
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
