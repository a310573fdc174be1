"""Forms that can be trusted: files that fit, widgets in place of JSON, every task, and the same request elsewhere that really runs."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser import PHONE, Tab
from tests.console.steps import name, open_groups, payload, upload
from tests.support.polling import becomes
from tests.support.stack import Stack

DROP = """async (box, names) => {
  const data = new DataTransfer();
  for (const [index, name] of names.entries()) {
    const canvas = Object.assign(document.createElement("canvas"), { width: 64 + index, height: 48 });
    canvas.getContext("2d").fillRect(0, 0, 32, 32);
    data.items.add(new File([await new Promise((resolve) => canvas.toBlob(resolve, "image/png"))], name, { type: "image/png" }));
  }
  box.dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
}"""


PRESS = """(box, [x, y]) => {
  const at = box.getBoundingClientRect();
  box.setPointerCapture = () => {};
  box.dispatchEvent(new PointerEvent("pointerdown", { bubbles: true, clientX: at.x + at.width * x, clientY: at.y + at.height * y }));
}"""


def request(page: Page) -> Any:
    """What the page would send, read from its `curl`."""
    return page.locator(".same pre").inner_text()


def submitted(page: Page, house: Stack) -> Any:
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page).to_have_url(re.compile("/console/jobs/"))
    return house.get(f"/api/jobs/{page.url.rsplit('/', 1)[1]}")


def test_a_field_offers_and_takes_only_files_that_fit(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    weights = f"{name('base')}.safetensors"
    upload(house, weights, b"\2\0\0\0\0\0\0\0{}", "application/octet-stream")
    upload(house, "a-sound.wav", files["recording"].read_bytes(), "audio/wav")
    page = tab.page
    page.goto("/console/new?pipeline=train_lora")
    box = page.get_by_label("Weights", exact=True)
    assert ".safetensors" in (box.get_attribute("accept") or "")
    box.set_input_files(files["recording"])
    expect(page.get_by_text(re.compile("is not of a kind that this field takes"))).to_be_visible()
    field = page.locator(".field").filter(has=page.locator("label[for=f-weights]"))
    field.get_by_role("button", name="Stored files").click()
    shelf = page.get_by_role("dialog", name="Weights: stored files")
    expect(shelf.get_by_role("button", name=re.compile(re.escape(weights)))).to_be_visible()
    expect(shelf.get_by_text(re.compile(r"\.wav|\.png"))).to_have_count(0)
    shelf.get_by_role("button", name=re.compile(re.escape(weights))).click()
    expect(field.locator(".chosen")).to_contain_text(weights)


def test_what_a_training_made_can_be_chosen_afterwards(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    params = {"pictures": [house.upload(files["picture"])], "steps": 2}
    job = house.post("/api/jobs", {"pipeline": "train_image_lora", "params": params})["jobId"]
    made = house.ended(job)["artifacts"][0]
    page = tab.page
    page.goto("/console/new?pipeline=render_video")
    open_groups(page)
    field = page.locator(".field").filter(has=page.get_by_label("Look", exact=True))
    field.get_by_role("button", name="Stored files").click()
    page.get_by_role("dialog").get_by_role("button", name=re.compile("^adapter.safetensors")).first.click()
    page.get_by_text("Same request as").first.click()
    expect(page.locator(".same pre")).to_contain_text(made["key"])


def test_scenes_are_dropped_written_and_put_in_order(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=render_video")
    scenes = page.get_by_role("group", name="Scenes")
    page.get_by_label("Add to Scenes").evaluate("input => (window.box = input.closest('.drop'))")
    page.locator(".list > .drop").evaluate(DROP, ["one.png", "two.png", "three.png"])
    expect(scenes.locator(".item")).to_have_count(3)
    scenes.locator(".item").nth(1).get_by_label("Lines").fill("The second\nends here")
    scenes.get_by_role("button", name="Move 2 up").click()
    expect(scenes.locator(".item").nth(0)).to_contain_text("two.png")
    carried = {"dataTransfer": page.evaluate_handle("new DataTransfer()")}
    scenes.locator(".grip").nth(2).dispatch_event("dragstart", carried)
    for event in ("dragover", "drop"):
        expect(scenes.locator(".item").nth(2)).to_have_class(re.compile("held-item"))
        scenes.locator(".item").nth(0).dispatch_event(event, carried)
    expect(scenes.locator(".item").nth(0)).to_contain_text("three.png")
    open_groups(page)
    page.get_by_role("slider", name="Exposure").fill("1")
    expect(page.get_by_role("img", name="The picture with these colours")).to_have_attribute(
        "style", re.compile("filter: url")
    )
    for label, value in (("Width", "64"), ("Height", "48"), ("Length (seconds)", "0.5")):
        page.get_by_label(label, exact=True).last.fill(value)
    params = submitted(page, house)["params"]
    assert [scene["picture"]["key"].rsplit("/", 1)[1] for scene in params["scenes"]] == [
        "three.png",
        "two.png",
        "one.png",
    ]
    assert params["scenes"][1]["lines"] == ["The second", "ends here"]
    assert params["grade"] == {"exposure": 1}


def test_modules_are_ticked_and_a_mouth_is_placed_on_the_picture(
    tab: Tab, house: Stack, files: dict[str, Path]
) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=train_lora")
    open_groups(page)
    page.get_by_role("checkbox", name="o_proj").check()
    page.get_by_text("Same request as").first.click()
    expect(page.locator(".same pre")).to_contain_text(re.compile(r'"o_proj",\s+"q_proj",\s+"v_proj"'))
    page.goto("/console/new?pipeline=talking_picture")
    open_groups(page)
    page.get_by_label("Portrait", exact=True).set_input_files(files["picture"])
    picture = page.get_by_role("application", name=re.compile("^Place the mouth"))
    becomes(lambda: (picture.bounding_box() or {"height": 0})["height"] > 50)
    picture.evaluate(PRESS, [0.5, 0.75])
    picture.press("ArrowRight")
    page.get_by_text("Same request as").first.click()
    found = re.search(r'"mouth": \{\s+"x": ([\d.]+),\s+"y": ([\d.]+),\s+"width": ([\d.]+)', request(page))
    assert found
    assert [round(float(part), 2) for part in found.groups()] == pytest.approx([0.5, 0.75, 0.2], abs=0.02)


def test_every_task_has_a_form_also_ones_own(tab: Tab, house: Stack, tmp_path: Path) -> None:
    page = tab.page
    page.goto("/console/new")
    page.get_by_role("searchbox", name="Search pipelines and tasks").fill("film")
    page.get_by_role("link", name=re.compile("^Film")).click()
    expect(page.get_by_role("heading", name="Film")).to_be_visible()
    (tmp_path / "1").touch()
    page.get_by_label("Signals").fill(str(tmp_path))
    page.get_by_label("Pictures", exact=True).fill("1")
    page.get_by_label("Name", exact=True).fill("Übung 日本語 <b>x</b>")
    page.get_by_label("Tags").fill("first, 二番")
    job = submitted(page, house)
    assert (job["task"], job["params"]["pictures"], job["tags"]) == ("film", 1, ["first", "二番"])
    expect(page.get_by_role("heading", name="Übung 日本語 <b>x</b>")).to_be_visible()
    expect(page).to_have_title(re.compile(re.escape("Übung 日本語 <b>x</b> · Dihedral") + "$"))
    expect(page.locator(".job-state").get_by_text("completed")).to_be_visible()


def test_the_same_request_runs_from_curl_python_and_the_command_line(
    open_tab: Callable[..., Tab], house: Stack
) -> None:
    page = open_tab(permissions=["clipboard-read", "clipboard-write"]).page
    page.goto("/console/new?pipeline=simulate")
    page.get_by_label("Steps", exact=True).fill("1")
    title = name('it\'s "quoted"')
    page.get_by_label("Name", exact=True).fill(title)
    page.get_by_text("Same request as").first.click()
    tools = str(Path(sys.executable).parent)
    for way in ("curl", "Python", "Command line"):
        if way == "Command line":
            page.get_by_label("Name", exact=True).fill("")
        page.locator(".same").get_by_role("button", name=way).click()
        page.locator(".same").get_by_role("button", name="Copy").click()
        expect(page.locator(".same").get_by_text("Copied")).to_be_visible()
        text = page.evaluate("navigator.clipboard.readText()")
        command = [sys.executable, "-c", text] if way == "Python" else ["bash", "-c", text]
        ran = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=120,
            env={**house.environ, "PATH": f"{tools}:/usr/bin:/bin"},
        )
        assert ran.returncode == 0, ran.stderr
    found = house.get("/api/jobs", q=title)["jobs"]
    assert [(job["pipeline"], job["params"]["steps"], job["given"]) for job in found] == [
        ("simulate", 1, ["steps"])
    ] * 2


def test_run_again_opens_the_form_as_it_was_given(tab: Tab, house: Stack) -> None:
    body = {"pipeline": "simulate", "params": {"steps": 3, "stepSeconds": 0}, "name": name("origin"), "tags": ["kept"]}
    first = house.post("/api/jobs", body)
    house.ended(first["jobId"])
    page = tab.page
    page.goto(f"/console/jobs/{first['jobId']}")
    page.get_by_role("link", name="Run again", exact=True).click()
    expect(page.get_by_role("heading", name="Simulate work")).to_be_visible()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("3")
    expect(page.get_by_label("Tags")).to_have_value("kept")
    page.get_by_label("Steps", exact=True).fill("4")
    again = submitted(page, house)
    assert (again["pipeline"], again["rerunOf"], again["params"]["steps"]) == ("simulate", first["jobId"], 4)
    assert sorted(again["given"]) == ["stepSeconds", "steps"]


def test_a_phone_shows_which_form_it_is_and_all_of_it(open_tab: Callable[..., Tab]) -> None:
    page = open_tab(viewport=PHONE).page
    page.goto("/console/new")
    page.get_by_role("link", name=re.compile("^Render a video")).first.click()
    expect(page.get_by_role("heading", name="Render a video")).to_be_in_viewport()
    open_groups(page)
    form = page.get_by_role("form", name="Render a video")
    width = form.bounding_box()
    assert width
    assert width["width"] > 300
    assert page.evaluate("document.querySelector('main').scrollWidth") <= PHONE["width"]


def test_every_recording_has_a_choice_of_voices_and_keeps_it(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=compare_voice")
    open_groups(page)
    speakers = page.locator(".k-places")
    expect(speakers).to_contain_text("Choose first: Recordings, Voices.")
    sound = files["recording"].read_bytes()
    page.get_by_label("Recordings", exact=True).first.set_input_files(
        [payload(f"{each}.wav", "audio/wav", sound) for each in ("anna", "ben", "carl")]
    )
    page.get_by_label("Voices", exact=True).first.set_input_files(
        {"name": "first.safetensors", "mimeType": "application/octet-stream", "buffer": b"\2\0\0\0\0\0\0\0{}"}
    )
    voices = page.locator(".k-files").filter(has=page.locator("label[for=f-voices]"))
    expect(voices.locator(".chosen")).to_have_count(1)  # else the second one may be there first
    voices.get_by_role("button", name="On the workers").click()
    voices.get_by_role("textbox").fill("voices/second.safetensors")
    voices.get_by_role("textbox").press("Enter")
    expect(voices.locator(".chosen")).to_have_count(2)
    page.get_by_text("Same request as").first.click()
    speakers.get_by_label("anna.wav").select_option(label="1. first.safetensors")
    speakers.get_by_label("ben.wav").select_option(label="2. second.safetensors")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(speakers).to_contain_text("Choose for every one of them, or for none.")
    speakers.get_by_label("carl.wav").select_option(label="none of them")
    expect(page.locator(".same pre")).to_contain_text(re.compile(r'"speakers": \[\s+0,\s+1,\s+null'))
    expect(page.locator(".same pre")).to_contain_text(re.compile(r'"local": "voices/second.safetensors"'))
    page.get_by_role("button", name="Remove anna.wav").click()
    expect(page.locator(".same pre")).to_contain_text(re.compile(r'"speakers": \[\s+1,\s+null\s+\]'))


def test_files_of_a_tool_have_names_and_timed_words_are_a_table(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new?task=run_tool")
    open_groups(page)
    page.get_by_label("Add to Files").set_input_files(
        [payload(f"{each}.png", "image/png", b"\x89PNG") for each in ("one", "two")]
    )
    names = page.get_by_role("group", name="Files", exact=True).get_by_role("textbox")
    expect(names).to_have_count(2)
    names.nth(0).fill("train/two.png")
    names.nth(1).fill("train/two.png")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(page.get_by_text("Two files are called train/two.png.")).to_be_visible()
    names.nth(0).fill("train/one.png")
    page.get_by_text("Same request as").first.click()
    expect(page.locator(".same pre")).to_contain_text(re.compile(r'"train/one.png": \{\s+"bucket": "inputs"'))
    page.goto("/console/new?task=lip_sync")
    open_groups(page)
    phonemes = page.locator(".k-rows").filter(has_text="Phonemes")
    for _ in range(2):
        phonemes.get_by_role("button", name="Add a row").click()
    for label, value in {"Symbol 1": "a", "Start 1": "0", "End 1": "0.5", "Symbol 2": "m", "Start 2": "x"}.items():
        phonemes.get_by_label(label, exact=True).fill(value)
    expect(phonemes).to_contain_text("Enter a number.")
    phonemes.get_by_role("button", name="Remove 2").click()
    page.get_by_text("Same request as").first.click()
    expect(page.locator(".same pre")).to_contain_text(
        re.compile(r'"phonemes": \[\s+\{\s+"symbol": "a",\s+"start": 0,\s+"end": 0.5\s+\}\s+\]')
    )
