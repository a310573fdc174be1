"""What real use brings: pictures that would fill the memory, long names in every script, a slow line and none, forms and graphs of any size."""

import io
import re
import struct
import zlib
from collections.abc import Callable

from playwright.sync_api import expect

from tests.console.browser import PHONE, Tab
from tests.console.steps import name, open_groups, row, upload, view
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate

SCRIPTS = "Übung Ελλάδα Дождь עברית العربية हिन्दी ไทย 日本語 한국어 👩‍👩‍👧 ﷽ "
LONG = (SCRIPTS * 10)[:200]
SLOW_3G = {"offline": False, "latency": 400, "downloadThroughput": 50_000, "uploadThroughput": 50_000}


def png(width: int, height: int) -> bytes:
    """A grey picture of one bit a pixel: a hundred megapixels are a dozen kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = zlib.compressobj(9)
    line = b"\0" + b"\xff" * ((width + 7) // 8)
    packed = io.BytesIO()
    for _ in range(height):
        packed.write(rows.compress(line))
    packed.write(rows.flush())
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed.getvalue()) + chunk(b"IEND", b"")


def test_a_picture_of_a_hundred_megapixels_is_not_decoded(tab: Tab, house: Stack) -> None:
    mark = name("huge")
    data = png(12_000, 9_000)
    assert len(data) < 50_000
    huge = upload(house, f"{mark}.png", data, "image/png")
    fine = upload(house, f"{mark}-fine.png", png(400, 300), "image/png")
    page = tab.page
    page.goto(f"/console/artifacts?q={mark}")
    tiles = page.get_by_role("listitem")
    expect(tiles.filter(has_text=f"{mark}-fine").locator("img.thumb")).to_be_visible()
    expect(tiles.filter(has_text=f"{mark}.png").locator(".thumb.blank .icon")).to_be_visible()
    expect(tiles.locator("img")).to_have_count(1)
    page.goto(view(huge))
    expect(page.get_by_text(re.compile("12,000 × 9,000 pixels: it is not drawn here"))).to_be_visible()
    expect(page.locator("main img")).to_have_count(0)
    page.goto("/console/new?pipeline=render_video")
    page.get_by_label("Add to Scenes").set_input_files(
        {"name": f"{mark}-local.png", "mimeType": "image/png", "buffer": data}
    )
    expect(page.locator(".item")).to_contain_text(f"{mark}-local.png")
    expect(page.locator(".item .look .blank")).to_be_visible()
    expect(page.locator(".item img")).to_have_count(0)
    page.goto(view(fine))
    expect(page.locator("main .media img")).to_be_visible()


def test_a_picture_of_one_pixel_can_be_seen(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto(view(upload(house, "dot.png", png(1, 1), "image/png")))
    becomes(lambda: (page.locator("main .media img").bounding_box() or {"width": 0})["width"] >= 100)


SIZES = """async (files) => {
  const { sizeIn } = await import("/console/pixels.js");
  return files.map((file) => sizeIn(Uint8Array.from(atob(file), (char) => char.charCodeAt(0)).buffer));
}"""


def test_the_size_of_every_kind_of_picture_is_read_from_its_first_bytes(tab: Tab) -> None:
    import base64

    from PIL import Image

    tab.page.goto("/console/workers")
    kinds = ["PNG", "JPEG", "GIF", "BMP", "WEBP"]
    files = []
    for kind, more in [*((kind, {}) for kind in kinds), ("WEBP", {"lossless": True}), ("JPEG", {"progressive": True})]:
        made = io.BytesIO()
        Image.new("RGB", (321, 123), (1, 2, 3)).save(made, kind, **more)
        files.append(base64.b64encode(made.getvalue()[:4096]).decode())
    files += [base64.b64encode(data).decode() for data in (b"", b"\x89PNG", b"\xff\xd8\xff\xe0\0\0", b"plain text")]
    assert tab.page.evaluate(SIZES, files) == [{"width": 321, "height": 123}] * 7 + [None] * 4


def test_names_of_every_script_and_200_characters_fit_everywhere(open_tab: Callable[..., Tab], house: Stack) -> None:
    job = house.post(
        "/api/jobs", {"pipeline": "simulate", "params": {"steps": 0}, "name": LONG, "tags": [LONG[:50], "タグ"]}
    )["jobId"]
    house.ended(job)
    file = upload(house, f"{LONG[:90]}.txt", b"words", "text/plain")
    page = open_tab().page
    for address in (
        f"/?q={job}",
        f"/console/jobs/{job}",
        view(file),
        f"/console/compare?jobs={job},{job}",
        "/console/artifacts",
    ):
        page.goto(address)
        expect(page.locator("main .loading")).to_have_count(0)
        expect(page.get_by_text(re.compile("Дождь")).first).to_be_visible()
        for width in (PHONE["width"], 1280):
            page.set_viewport_size({"width": width, "height": 800})
            becomes(lambda: page.evaluate("document.documentElement.scrollWidth <= innerWidth"))
            becomes(
                lambda: page.evaluate(
                    "document.querySelector('main').scrollWidth <= document.querySelector('main').clientWidth"
                )
            )


def test_on_a_slow_line_the_frame_comes_before_the_rest(tab: Tab, house: Stack) -> None:
    job = house.post("/api/jobs", simulate({"id": "a", "steps": 0}, job=name("slow")))["jobId"]
    page = tab.page
    tab.context.new_cdp_session(page).send("Network.emulateNetworkConditions", SLOW_3G)
    page.goto("/", wait_until="commit")
    page.wait_for_selector(".boot")
    expect(row(page, job)).to_be_visible()
    expect(page.locator(".boot")).to_have_count(0)
    page.locator("main").evaluate("main => { window.gap = innerHeight - main.getBoundingClientRect().bottom }")
    assert page.evaluate("window.gap") <= 1, "the view has all of the page"
    expect(page.locator(".connection")).to_have_text("Live")


def test_without_a_line_a_page_says_so_and_goes_on_when_it_is_back(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/")
    expect(page.locator(".connection")).to_have_text("Live")
    tab.context.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text("Disconnected, reconnecting…")
    page.get_by_role("link", name="Workers", exact=True).click()
    expect(page.get_by_text("The server cannot be reached.")).to_be_visible()
    tab.context.set_offline(False)
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name=re.compile("[0-9]+ workers?"))).to_be_visible()
    expect(page.locator(".connection")).to_have_text("Live")
    tab.said = [line for line in tab.said if "WebSocket" not in line]


def test_a_line_whose_end_is_never_answered_is_cut_at_once(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/")
    expect(page.locator(".connection")).to_have_text("Live")
    page.evaluate("WebSocket.prototype.close = () => {}")
    tab.context.set_offline(True)
    expect(page.get_by_role("alert")).to_contain_text("Disconnected, reconnecting…", timeout=10_000)
    tab.context.set_offline(False)
    expect(page.locator(".connection")).to_have_text("Live")
    tab.said = [line for line in tab.said if "WebSocket" not in line and "ERR_INTERNET" not in line]


def test_a_form_of_a_hundred_fields_is_in_groups_and_takes_what_is_typed(tab: Tab, house: Stack) -> None:
    page = tab.page
    page.goto("/console/new?task=wide")
    expect(page.locator("details.group").nth(7)).to_be_attached()
    open_groups(page)
    page.get_by_label("Parameter 97", exact=True).fill("the last text")
    page.get_by_label("Parameter 4", exact=True).fill("41")
    page.get_by_text("Same request as").first.click()
    expect(page.locator(".same pre")).to_contain_text(re.compile('"p4": 41,\\s+"p97": "the last text"'))
