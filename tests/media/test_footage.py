"""A video as a scene, and captions at the times of their words."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from dihedral.data_plane.media import footage
from dihedral.data_plane.media.video_file import write_video
from dihedral.data_plane.tasks.render_video import SpokenWord, shared_out
from tests.media.test_rendering import SMALL, picture, sound
from tests.support.in_process import TaskRunner

__all__ = ["picture"]


def clip(path: Path, size: tuple[int, int] = (120, 160), fps: int = 10, count: int = 20) -> Path:
    """Each frame is as bright as its number says."""
    frames = []
    for number in range(count):
        planes = np.full((size[0] * 3 // 2, size[1]), 128, np.uint8)
        planes[: size[0]] = 40 + 8 * number
        frames.append(planes)
    write_video(path, frames, fps, None, 48_000, "libx264")
    return path


def brightness(place: TaskRunner, made: dict[str, Any], folder: Path) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    with av.open(str(place.download(made["video"], folder / "out.mp4"))) as container:
        return [
            np.asarray(frame.to_ndarray(format="yuv420p")[: frame.height], np.uint8)
            for frame in container.decode(video=0)
        ]


def test_a_video_fills_the_frame_and_lasts_as_long_as_it_does(place: TaskRunner, tmp_path: Path) -> None:
    video = place.upload(clip(tmp_path / "clip.mp4"))
    made, _ = place.output("render_video", {"scenes": [{"video": video}], **SMALL, "grain": 0})
    assert made["seconds"] == 2.0
    seen = brightness(place, made, tmp_path)
    for number, luma in enumerate(seen):
        assert np.abs(luma.astype(int) - (40 + 8 * number)).max() <= 3


def test_a_narrow_video_stands_above_the_captions_before_a_picture(place: TaskRunner, tmp_path: Path) -> None:
    video = place.upload(clip(tmp_path / "clip.mp4", (160, 120)))
    found = footage._place((160, 120), (720, 1280), 150, False)
    top, left, height, width = found.target
    assert top + height <= 720 - 150
    assert left == pytest.approx((1280 - width) / 2, abs=2)
    assert height / width == pytest.approx(160 / 120, rel=0.02)
    words = [{"text": "Here", "start": 0.2, "end": 0.5}]
    params = {"scenes": [{"video": video, "words": words}], "width": 320, "height": 240, "fps": 10, "grain": 0}
    made, _ = place.output("render_video", params)
    luma = brightness(place, made, tmp_path)[19].astype(int)
    middle = luma[20:120, 140:180]
    assert np.abs(middle - (40 + 8 * 19)).max() <= 3
    assert luma[:, :40].max() < 110, "beside it lies its own first frame, dimmed"


def test_words_are_shown_when_they_are_spoken(place: TaskRunner, picture: dict[str, str], tmp_path: Path) -> None:
    words = [{"text": "First.", "start": 0.5, "end": 0.9}, {"text": "Then", "start": 2.0, "end": 2.2}]
    narration = sound(place, 3, tmp_path)
    with_words = {"scenes": [{"picture": picture, "words": words}], "narration": [narration], "spectrum": False}
    size = {"width": 320, "height": 240, "fps": 10, "grain": 0}
    made, _ = place.output("render_video", with_words | size, nonce="words")
    seen = brightness(place, made, tmp_path)
    bare, _ = place.output("render_video", {**with_words, "scenes": [{"picture": picture}]} | size, nonce="bare")
    other = brightness(place, bare, tmp_path)
    changed = [bool(np.abs(one.astype(int) - two).max() > 60) for one, two in zip(seen, other, strict=True)]
    assert (changed[3], changed[8], changed[16], changed[21]) == (False, True, False, True)


def test_pictures_share_the_words_by_sentences(place: TaskRunner, picture: dict[str, str], tmp_path: Path) -> None:
    texts = ["One", "two", "three.", "Four", "five.", "Six", "seven", "eight.", "Nine", "ten."]
    words = [SpokenWord(text=text, start=number, end=number + 0.9) for number, text in enumerate(texts)]
    parts = shared_out(words, 3)
    assert [part[0].text for part in parts] == ["One", "Four", "Nine"] or [part[0].text for part in parts] == [
        "One",
        "Four",
        "Six",
    ]
    assert [word for part in parts for word in part] == words
    assert [len(part) for part in shared_out(words[:2], 3)] == [1, 1, 0]
    assert [len(part) for part in shared_out(words[:3], 2)] in ([1, 2], [2, 1])


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"scenes": [{"video": "text"}]}, "not a video"),
        ({"scenes": [{"video": "sound"}]}, "only sound"),
        ({"scenes": [{"video": "cut"}]}, "no frames that can be read"),
        ({"scenes": [{"video": "clip"}], "grade": {"exposure": 1}}, "pictures only"),
        ({"scenes": [{"video": "clip", "lines": ["a"]}], "words": [{"text": "a", "start": 0, "end": 1}]}, "one of them"),
        (
            {"scenes": [{"video": "clip", "words": [{"text": "b", "start": 2, "end": 3}]},
                        {"video": "clip", "words": [{"text": "a", "start": 1, "end": 2}]}]},
            "in the order of time",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_a_scene_is_refused(
    place: TaskRunner, tmp_path: Path, params: dict[str, Any], told: str
) -> None:
    files = {
        "text": place.upload(b"<html>", "a.mp4"),
        "sound": sound(place, 1, tmp_path),
        "clip": place.upload(clip(tmp_path / "clip.mp4")),
        "cut": place.upload((tmp_path / "clip.mp4").read_bytes()[:900], "cut.mp4"),
    }
    for scene in params["scenes"]:
        scene["video"] = files[scene["video"]]
    assert told in place.refused(
        "render_video", params | SMALL | ({"narration": [files["sound"]]} if "order" in told else {})
    )
