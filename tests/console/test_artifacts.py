"""Artifacts: heard, seen, read and never run."""

import hashlib
import json
import re
import struct
from pathlib import Path

from playwright.sync_api import expect

from tests.console.browser import Tab
from tests.console.steps import upload, view
from tests.support.polling import becomes
from tests.support.stack import Stack


def test_a_recording_is_heard_and_its_waveform_leads_the_player(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    meta = upload(house, "voice.wav", files["recording"].read_bytes(), "audio/wav")
    page = tab.page
    page.goto("/console/artifacts?bucket=inputs&view=list")
    page.get_by_role("row").filter(has_text="audio/wav").get_by_role("link", name="voice.wav").first.click()
    wave = page.get_by_role("img", name="Waveform of voice.wav")
    expect(wave).to_be_visible()
    player = page.locator("audio")
    becomes(lambda: player.evaluate("audio => audio.duration") or 0 > 5)
    box = wave.bounding_box()
    assert box
    wave.click(position={"x": box["width"] / 2, "y": 10})
    becomes(lambda: abs(player.evaluate("audio => audio.currentTime") - 3) < 0.5)
    player.evaluate("audio => { audio.muted = true; return audio.play() }")
    becomes(lambda: player.evaluate("audio => audio.currentTime") > 3.2)
    expect(page.get_by_role("region", name="About it")).to_contain_text(meta["sha256"])
    expect(page.get_by_role("region", name="About it")).to_contain_text("an upload")


def test_a_picture_is_seen_and_deleted(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    meta = upload(house, "dusk.png", files["picture"].read_bytes(), "image/png")
    page = tab.page
    page.goto(view(meta))
    becomes(lambda: page.get_by_role("img", name="dusk.png").evaluate("image => image.naturalWidth") > 0)
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert Path(download.value.path()).read_bytes() == files["picture"].read_bytes()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_role("heading", name="Artifacts")).to_be_visible()
    assert house.http.get(f"/api/artifacts/{meta['bucket']}/{meta['key']}").status_code == 404
    page.goto(view(meta))
    expect(page.get_by_role("alert")).to_contain_text("Not found")


def safetensors(header: object, announced: int | None = None) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if announced is None else announced) + text + b"\0" * 64


def test_the_header_of_a_safetensors_file_is_read_and_no_more(tab: Tab, house: Stack) -> None:
    tensors = {
        "a<b>": {"dtype": "F32", "shape": [2, 8], "data_offsets": [0, 64]},
        "__metadata__": {"steps": "<i>300</i>"},
    }
    page = tab.page
    page.goto(view(upload(house, "adapter.safetensors", safetensors(tensors), "application/octet-stream")))
    expect(page.get_by_role("region", name="Tensors")).to_contain_text("a<b>")
    expect(page.get_by_text("2 × 8")).to_be_visible()
    expect(page.get_by_text("1 tensor, 16 parameters")).to_be_visible()
    expect(page.get_by_text("<i>300</i>")).to_be_visible()


def test_files_that_lie_are_said_to(tab: Tab, house: Stack) -> None:
    page = tab.page
    for content, said in (
        (safetensors({}, announced=2**62), "it says that its header has"),
        (b"abc", "it is no safetensors file"),
        (struct.pack("<Q", 4) + b"nope", "cannot be read"),
    ):
        page.goto(view(upload(house, "x.safetensors", content, "application/octet-stream")))
        expect(page.get_by_text(re.compile(said))).to_be_visible()
    page.goto(view(upload(house, "no.png", b"this is no picture", "image/png")))
    expect(page.get_by_text("This browser cannot show no.png")).to_be_visible()


def test_a_page_or_a_drawing_with_a_script_in_it_is_only_text_or_a_picture(tab: Tab, house: Stack) -> None:
    page = tab.page
    attack = b"<html><script>document.title='owned';top.owned=1</script><h1>hello</h1></html>"
    page.goto(view(upload(house, "evil.html", attack, "text/html")))
    expect(page.get_by_text("<script>document.title='owned'")).to_be_visible()
    drawing = b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><script>top.owned=1</script></svg>"
    page.goto(view(upload(house, "evil.svg", drawing, "image/svg+xml")))
    becomes(lambda: page.get_by_role("img", name="evil.svg").evaluate("image => image.naturalWidth") == 9)
    expect(page).to_have_title("evil.svg · Dihedral")
    assert page.evaluate("window.owned") is None


def test_what_a_job_has_made_says_where_it_came_from(tab: Tab, house: Stack, files: dict[str, Path]) -> None:
    recording = house.upload(files["recording"])
    job = house.post("/api/jobs", {"pipeline": "train_voice", "params": {"recording": recording, "iterations": 2}})[
        "jobId"
    ]
    assert house.ended(job)["status"] == "completed"
    page = tab.page
    page.goto(f"/console/artifacts?jobId={job}")
    page.get_by_role("link", name="voice.safetensors", exact=True).click()
    origin = page.get_by_role("group", name="Where voice.safetensors comes from")
    expect(origin.get_by_role("button", name=re.compile("^train_voice, completed"))).to_be_visible()
    expect(origin.get_by_role("button", name=re.compile(f"^{re.escape(files['recording'].name)}"))).to_be_visible()
    digest = hashlib.sha256(files["recording"].read_bytes()).hexdigest()
    expect(page.get_by_role("region", name="Files it was made of")).to_contain_text(digest[:16])
    about = page.get_by_role("region", name="About it")
    expect(about).to_contain_text("node train_voice of job")
    about.get_by_role("link", name="train_voice").click()
    expect(page.get_by_role("region", name="Node train_voice")).to_be_visible()
