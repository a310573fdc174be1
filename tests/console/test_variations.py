"""One form, several jobs: values to sweep, and presets."""

import re

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.steps import name, open_groups
from tests.support.stack import Stack


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
