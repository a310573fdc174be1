"""What was made is looked through, kept, used again and compared."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import expect

from tests.console.browser import PHONE, Tab
from tests.console.filming import png
from tests.console.steps import name, store_examples, upload
from tests.support.stack import Stack


def test_files_are_tiles_to_look_through_keep_and_use(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    mark = name("tile")
    picture = f"{mark}-a.png"
    upload(house, f"{mark}-b.wav", files["recording"].read_bytes(), "audio/wav")
    upload(house, picture, files["picture"].read_bytes(), "image/png")
    page = tab.page
    page.goto(f"/console/artifacts?q={mark}")
    tiles = page.get_by_role("listitem").filter(has=page.locator(".tile-name"))
    expect(tiles).to_have_count(2)
    expect(tiles.nth(0).locator("img")).to_be_visible()
    expect(tiles.nth(1).locator("canvas")).to_be_visible()
    page.get_by_role("button", name="Pictures").click()
    expect(tiles).to_have_count(1)
    tiles.nth(0).hover()
    page.get_by_role("button", name=f"Add {picture} to the favourites").click()
    page.get_by_role("button", name="Pictures").click()
    page.get_by_role("button", name="Favourites", exact=True).click()
    expect(tiles).to_have_count(1)
    page.reload()
    expect(tiles).to_have_count(1)
    page.get_by_role("button", name="Favourites", exact=True).click()
    tiles.nth(0).hover()
    page.get_by_role("button", name=f"Show {picture} on the full screen").click()
    shown = page.get_by_role("dialog", name=picture)
    expect(shown.get_by_role("img", name=picture)).to_be_visible()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("dialog", name=f"{mark}-b.wav").locator("audio")).to_be_visible()
    page.keyboard.press("Escape")
    tiles.nth(0).hover()
    page.get_by_role("link", name=f"Use {picture} as input").click()
    expect(page.get_by_role("region", name="Say what you want")).to_contain_text(picture)


def test_pictures_of_one_point_and_of_many_break_no_tile(tab: Tab, house: Stack) -> None:
    mark = name("odd")
    upload(house, f"{mark}-{'x' * 180}.png", png(1), "image/png")
    upload(house, f"{mark}-<b>bold<i>.png", b"no picture", "image/png")
    page = tab.page
    page.goto(f"/console/artifacts?q={mark}")
    expect(page.locator(".tile")).to_have_count(2)
    assert page.evaluate("document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth")
    page.set_viewport_size(PHONE)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def filmed(house: Stack, signals: Path, pictures: int) -> str:
    for number in range(1, pictures + 1):
        (signals / str(number)).touch()
    params = {"signals": str(signals), "pictures": pictures}
    job: dict[str, Any] = house.post("/api/jobs", {"task": "film", "params": params, "name": f"{pictures} pictures"})
    house.ended(job["jobId"])
    return str(job["jobId"])


def test_jobs_are_compared_by_parameters_curves_and_results(tab: Tab, house: Stack, tmp_path: Path) -> None:
    jobs = [filmed(house, tmp_path, pictures) for pictures in (2, 3)]
    page = tab.page
    page.goto(f"/console/compare?jobs={','.join(jobs)}")
    differ = page.get_by_role("region", name="Parameters that differ").first
    expect(differ.get_by_role("row", name=re.compile("^Pictures"))).to_contain_text(re.compile("2.*3"))
    expect(differ.get_by_text(str(tmp_path))).to_have_count(0)
    line = page.get_by_role("slider", name="Where the line is")
    line.fill("25")
    expect(page.locator(".over-side")).to_have_attribute("style", re.compile(r"inset\(0.* 25%\)"))
    curves = page.get_by_role("region", name="Curves").get_by_role("img", name=re.compile("gain · 2 components: "))
    expect(curves).to_have_accessible_name(re.compile("2 pictures 2, 3 pictures 3"))
    page.get_by_role("button", name="Log scale").click()
    expect(page.get_by_role("button", name="Log scale")).to_have_attribute("aria-pressed", "true")


PEAKS = """async () => {
  const { thinned, smoothed } = await import("/console/curves.js");
  const points = Array.from({ length: 100000 }, (_, x) => [x, x === 31415 ? 9 : x === 77777 ? -9 : Math.sin(x)]);
  const kept = thinned(points);
  return [kept.length <= 800, Math.max(...kept.map((p) => p[1])), Math.min(...kept.map((p) => p[1])), kept.every((p, i) => !i || p[0] > kept[i - 1][0]),
    smoothed([[0, 5], [1, 5], [2, 5]], 0.9).every((p) => Math.abs(p[1] - 5) < 1e-9)];
}"""


def test_no_peak_is_lost_where_points_are_left_out(tab: Tab) -> None:
    tab.page.goto("/console/workers")
    assert tab.page.evaluate(PEAKS) == [True, 9, -9, True, True]


GRADE = """async () => {
  const { gradeMatrix } = await import("/console/widgets.js");
  const rows = gradeMatrix({ exposure: 0.7, contrast: 1.3, saturation: 0.4, temperature: 0.5 });
  return [[0.2, 0.5, 0.8], [0.4, 0.45, 0.5]].map((rgb) => rows.map(([r, g, b, , o]) => Math.min(1, Math.max(0, r * rgb[0] + g * rgb[1] + b * rgb[2] + o))));
}"""


def test_the_colours_beside_the_sliders_are_those_that_are_rendered(tab: Tab) -> None:
    import numpy as np

    from dihedral.data_plane.kernels.colour import Grade, graded

    tab.page.goto("/console/workers")
    picture = np.array([[[0.2, 0.5, 0.8], [0.4, 0.45, 0.5]]], dtype=np.float32)
    rendered = graded(picture, Grade(exposure=0.7, contrast=1.3, saturation=0.4, temperature=0.5), np)[0]
    assert np.abs(np.array(tab.page.evaluate(GRADE)) - rendered).max() < 1e-3


def test_a_workflow_dropped_anywhere_becomes_a_form(open_tab: Callable[..., Tab], house: Stack) -> None:
    page = open_tab().page
    page.goto("/")
    drop(page, "portrait.json", WORKFLOW)
    expect(page.get_by_role("heading", name="portrait")).to_be_visible()
    expect(page.get_by_label("Positive: text")).to_have_value("a <b>lake</b>")
    page.get_by_label("KSampler: seed").fill("123456789012345678901")
    page.get_by_text("Same request as").first.click()
    expect(page.locator(".same pre")).to_contain_text('"3.seed": 123456789012345678901')
    expect(page.get_by_label("LoadImage: image")).to_have_attribute("type", "file")
    drop(
        page, "saved.json", '{"last_node_id": 3, "nodes": [{"id": 1, "type": "KSampler", "pos": [0, 0]}], "links": []}'
    )
    dialog = page.get_by_role("dialog", name="A workflow that cannot be run")
    expect(dialog).to_contain_text("Export (API)")
    dialog.get_by_role("button", name="Close").click()
    drop(
        page,
        "graph.json",
        '{"schema": "langgraph.v1", "nodes": [{"id": "dropped", "task": "simulate", "plane": "python"}]}',
    )
    expect(page.get_by_role("textbox", name="Graph as JSON")).to_have_value(re.compile("dropped"))
    expect(page.get_by_text("Valid.")).to_be_visible()
    drop(page, "request.json", '{"pipeline": "simulate", "params": {"steps": 17}}')
    expect(page.get_by_label("Steps", exact=True)).to_have_value("17")


WORKFLOW = """{"3": {"class_type": "KSampler", "inputs": {"seed": 7, "steps": 20, "model": ["4", 0], "positive": ["6", 0]}},
 "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd.safetensors"}},
 "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "a <b>lake</b>", "clip": ["4", 1]}, "_meta": {"title": "Positive"}},
 "10": {"class_type": "LoadImage", "inputs": {"image": "a.png"}}}"""


def drop(page: Any, file: str, text: str) -> None:
    page.evaluate(
        """([name, text]) => {
          const data = new DataTransfer();
          data.items.add(new File([text], name, { type: "application/json" }));
          document.querySelector("main").dispatchEvent(new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true }));
        }""",
        [file, text],
    )


def test_examples_are_shown_to_who_asks_for_them(tab: Tab, house: Stack) -> None:
    store_examples(house)
    mine = f"{name('mine')}.txt"
    upload(house, mine, b"words", "text/plain")
    page = tab.page
    page.goto("/console/artifacts")
    tiles = page.get_by_role("listitem").locator(".tile-name")
    expect(tiles.first).to_have_text(mine)
    assert not [each for each in tiles.evaluate_all("all => all.map((each) => each.title)") if "examples/" in each]
    page.get_by_role("combobox", name="Origin").select_option("example")
    expect(tiles.first).to_have_attribute("title", re.compile("^examples/"))
    page.get_by_role("combobox", name="Origin").select_option("made")
    expect(page).to_have_url(re.compile("origin=made"))
    expect(page.get_by_text(mine)).to_have_count(0)
