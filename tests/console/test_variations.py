"""One form, several jobs: values to sweep, presets, and the files that jobs have made."""

import base64
import re
from pathlib import Path

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.steps import name, open_groups
from tests.support.stack import Stack

DROP = """async ([name, data]) => {
  const files = new DataTransfer();
  files.items.add(new File([Uint8Array.from(atob(data), (char) => char.charCodeAt(0))], name));
  document.querySelector("main").dispatchEvent(new DragEvent("drop", { dataTransfer: files, bubbles: true, cancelable: true }));
}"""


def test_several_values_are_several_jobs_that_are_compared(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=simulate")
    open_groups(page)
    steps = page.locator(".field").filter(has=page.locator("label[for=f-steps]"))
    steps.get_by_role("button", name="Several values").click()
    steps.get_by_role("textbox").fill("1, 2, three")
    page.get_by_role("button", name="Run", exact=True).click()
    expect(steps).to_contain_text("Enter numbers, separated by commas.")
    steps.get_by_role("textbox").fill("1, 2, -5")
    expect(steps.locator(".wrong")).not_to_be_empty()
    expect(steps.locator(".wrong")).not_to_contain_text("Enter numbers")
    steps.get_by_role("textbox").fill("1, 2, 3")
    expect(page.locator(".same pre")).to_contain_text(re.compile(r'"sweep": \{\s+"steps": \['))
    page.get_by_label("Seconds per step").fill("0")
    page.get_by_label("Name", exact=True).fill(name("swept"))
    page.get_by_role("button", name="Run 3 jobs").click()
    expect(page.get_by_role("heading", name="Compare")).to_be_visible()
    differ = page.locator("tr.differs").filter(has_text="Steps")
    expect(differ).to_contain_text(re.compile("1.*2.*3"))
    ids = re.findall(r"[\w-]{16,}", page.url.split("jobs=")[1])
    assert [house.ended(job)["params"]["steps"] for job in ids] == [1, 2, 3]


def test_a_preset_is_saved_chosen_replaced_and_deleted(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new?pipeline=simulate")
    open_groups(page)
    page.get_by_label("Steps", exact=True).fill("17")
    called = name("fast 快")

    def save() -> None:
        page.get_by_role("button", name="Save as preset").click()
        page.get_by_role("dialog").get_by_label("Name").fill(called)
        page.get_by_role("dialog").get_by_role("button", name="Save").click()
        expect(page.get_by_role("dialog")).to_have_count(0)

    save()
    chip = page.get_by_role("group", name="Presets").get_by_role("button", name=called, exact=True)
    expect(chip).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Steps", exact=True).fill("18")
    expect(chip).to_have_attribute("aria-pressed", "false")
    save()
    page.reload()
    expect(page.get_by_label("Steps", exact=True)).not_to_have_value("18")
    chip.click()
    expect(page.get_by_label("Steps", exact=True)).to_have_value("18")
    page.goto("/console/new?task=simulate")
    expect(page.get_by_role("button", name="Save as preset")).to_be_visible()
    expect(chip).to_have_count(0)
    page.goto("/console/new?pipeline=simulate")
    page.get_by_role("button", name=f"Delete the preset {called}").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(chip).to_have_count(0)
    assert called not in [each["name"] for each in house.get("/api/presets", pipeline="simulate")["presets"]]


def test_a_file_that_a_job_has_made_restores_its_form(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    picture = house.upload(files["picture"])
    scenes = [{"picture": picture, "lines": ["Hello"]}]
    film = {"scenes": scenes, "width": 64, "height": 48, "seconds": 0.5}
    requests = [
        ("train_image_lora", {"pictures": [picture], "steps": 3}, ".safetensors"),
        ("render_video", film, ".mp4"),
        ("speak", {"text": "A word."}, ".wav"),
    ]
    jobs = [house.post("/api/jobs", {"pipeline": name, "params": params})["jobId"] for name, params, _ in requests]
    page = tab.page
    for (pipeline, params, ending), job_id in zip(requests, jobs, strict=True):
        job = house.ended(job_id, 120)
        assert job["status"] == "completed", job["error"]
        made = next(each for each in job["artifacts"] if each["key"].endswith(ending))
        said = house.get("/api/provenance", bucket=made["bucket"], key=made["key"])
        assert (said["jobId"], said["pipeline"], said["params"]) == (job_id, pipeline, params)
        data = house.http.get(f"/api/artifacts/{made['bucket']}/{made['key']}").content
        page.goto("/")
        expect(page.get_by_role("heading", name="Jobs")).to_be_visible()
        page.evaluate(DROP, [f"saved{ending}", base64.b64encode(data).decode()])
        expect(page).to_have_url(re.compile("/console/new"))
        expect(page.get_by_text(f"As saved{ending} was made")).to_be_visible()
        if ending == ".safetensors":
            open_groups(page)
            expect(page.get_by_label("Steps", exact=True)).to_have_value("3")
            expect(page.locator(".chosen").first).to_contain_text(files["picture"].name)
        else:
            shown = "Hello" if ending == ".mp4" else "A word."
            expect(page.locator("textarea").first).to_have_value(re.compile(shown))
