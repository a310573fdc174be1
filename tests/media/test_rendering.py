"""`render_video` as a worker runs it: what it makes of its params, what it refuses, and that its slot can go on."""

import json
import time
import tracemalloc
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors.numpy import save_file

from dihedral.data_plane.kernels import low_rank
from dihedral.data_plane.kernels.low_rank import Adapter
from dihedral.data_plane.media import captions, scenes
from dihedral.data_plane.media.decode import read_picture
from dihedral.data_plane.media.speech_timing import Span
from dihedral.data_plane.model_files import adapter_bytes
from dihedral.data_plane.tasks import render_video
from dihedral.data_plane.tasks.train_image_lora import BASE_SEED, split
from tests.support.in_process import TaskRunner
from tests.support.polling import at_this_load

SMALL = {"width": 64, "height": 48, "fps": 10}
LINES = ["The sun goes down over the lake.", "Nothing moves but the water."]


@pytest.fixture
def picture(place: TaskRunner, inputs: dict[str, Path]) -> dict[str, str]:
    return place.upload(inputs["picture"])


def sound(place: TaskRunner, seconds: float, folder: Path, name: str = "tone.wav", gain: float = 0.3) -> dict[str, str]:
    samples = gain * np.sin(np.arange(round(seconds * 16_000)) * 2 * np.pi * 220 / 16_000)
    soundfile.write(folder / name, samples.astype(np.float32), 16_000, subtype="FLOAT")
    return place.upload(folder / name)


def shown(place: TaskRunner, video: dict[str, str], folder: Path) -> Any:
    """(n, height, width, 3) uint8."""
    with av.open(str(place.download(video, folder / "seen.mp4"))) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


# What it makes ---------------------------------------------------------------------------------------------------------


def test_scenes_with_everything_become_a_video(place: TaskRunner, inputs: dict[str, Path], tmp_path: Path) -> None:
    pictures = [place.upload(inputs[name]) for name in ("picture", "second_picture")]
    recordings = [place.upload(inputs[name]) for name in ("recording", "second_recording")]
    adapter = place.output("train_image_lora", {"pictures": pictures, "steps": 20})[0]["adapter"]
    voice = place.output("train_voice", {"recording": recordings[1], "iterations": 2})[0]["voice"]
    scenes = [
        {"picture": pictures[0], "lines": LINES[:1], "from": {"zoom": 3, "x": 0.7}, "to": {"zoom": 1}},
        {"picture": pictures[1], "lines": LINES[1:], "fade": 0.3},
    ]
    params: dict[str, Any] = {
        "scenes": scenes,
        "narration": recordings,
        "background": recordings[0],
        "adapter": adapter,
    }
    params |= {
        "voice": voice,
        "grade": {"saturation": 1.2, "temperature": 0.3},
        "grain": 0.4,
        "seed": 5,
        "seconds": 3.0,
    }
    made, heard = place.output("render_video", params | SMALL)
    assert (made["frames"], made["seconds"], made["fps"], made["encoder"]) == (30, 3.0, 10, "libx264")
    assert len(heard.fractions) > 30  # a frame each
    assert heard.lines == [("info", "the narration is longer than the video can be; it is cut at 3 s")]
    frames = shown(place, made["video"], tmp_path)
    assert frames.shape == (30, 48, 64, 3)
    again, _ = place.output("render_video", params | SMALL)
    apart = np.abs(shown(place, again["video"], tmp_path).astype(int) - frames)
    assert (
        apart.mean() < 2
    )  # the frames that are encoded are equal; what x264 makes of them differs now and then on a busy machine


def test_one_picture_is_enough(place: TaskRunner, picture: dict[str, str], tmp_path: Path) -> None:
    made, heard = place.output("render_video", {"scenes": [{"picture": picture}], **SMALL})
    assert (made["frames"], made["seconds"]) == (40, render_video.SCENE_SECONDS)
    assert heard.lines == []
    with av.open(str(place.download(made["video"], tmp_path / "v.mp4"))) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_one_frame_is_a_video(place: TaskRunner, picture: dict[str, str], tmp_path: Path) -> None:
    made, _ = place.output("render_video", {"scenes": [{"picture": picture, "lines": LINES}], "seconds": 0.1, **SMALL})
    assert len(shown(place, made["video"], tmp_path)) == made["frames"] == 1


@pytest.mark.parametrize(
    ("scenes", "narrated", "asked", "seconds"),
    [
        ([{}], 1.5, None, 1.5),
        ([{}, {"seconds": 0.5}], 1.5, None, 1.5),
        ([{"seconds": 0.5}, {"seconds": 0.7}], 3.0, None, 1.2),  # the sound is cut
        ([{"seconds": 2.0}], 0.5, None, 2.0),  # silence follows
        ([{}], 0.5, 2.0, 2.0),
        ([{"seconds": 0.3}, {}], None, None, 0.3 + render_video.SCENE_SECONDS),
        ([{"seconds": 0.8}, {}], 0.5, None, 0.8 + render_video.SCENE_SECONDS),  # it is over before the second begins
        ([{"seconds": 0.8}, {}], 0.81, None, 0.8 + render_video.SCENE_SECONDS),  # or just behind
        ([{"seconds": 0.8}, {}], 1.79, None, 0.8 + render_video.SCENE_SECONDS),
        ([{"seconds": 0.8}, {}], 1.8, None, 1.8),
    ],
)
def test_a_video_lasts_as_long_as_is_said_most_plainly(
    place: TaskRunner,
    picture: dict[str, str],
    tmp_path: Path,
    scenes: Any,
    narrated: float | None,
    asked: float | None,
    seconds: float,
) -> None:
    params = {"scenes": [{"picture": picture, **scene} for scene in scenes], **SMALL}
    params |= {"narration": [sound(place, narrated, tmp_path)]} if narrated else {}
    params |= {"seconds": asked} if asked else {}
    made, heard = place.output("render_video", params)
    assert made["seconds"] == pytest.approx(seconds)
    assert len(heard.lines) == (narrated is not None and narrated > seconds)  # where it is cut
    with av.open(str(place.download(made["video"], tmp_path / "v.mp4"))) as container:
        assert (container.duration or 0) / 1e6 == pytest.approx(seconds, abs=0.05)


@pytest.mark.parametrize(
    ("lengths", "asked", "frames"),
    [([1.03], None, 25), ([0.7, 0.7], None, 34), ([0.7], 0.7, 17), ([0.31, None], 0.5, 12)],
)
def test_lengths_need_not_be_whole_frames(
    place: TaskRunner, picture: dict[str, str], lengths: list[float | None], asked: float | None, frames: int
) -> None:
    scenes = [{"picture": picture, "seconds": length} for length in lengths]
    made, _ = place.output("render_video", {"scenes": scenes, "seconds": asked, **SMALL, "fps": 24})
    assert (made["frames"], made["seconds"]) == (frames, frames / 24)


def test_scenes_with_lines_begin_with_their_first_word() -> None:
    ref = {"bucket": "inputs", "key": "a"}
    lines = [["one two three four five six"], ["seven"]]
    params = msgspec.convert({"scenes": [{"picture": ref, "lines": each} for each in lines]}, render_video.RenderVideo)
    shots = render_video.plan(params, [60, 8], [Span(1.0, 3.0), Span(4.0, 5.0)], 8.0)
    assert shots[0].start == 0
    assert 4.0 <= shots[1].start < 5.0
    assert shots[1].end == 8.0


@pytest.mark.parametrize(
    "given",
    [
        [{"seconds": 3}, {"seconds": 3, "lines": ["Title of the second"]}],
        [{"seconds": 8, "lines": ["First text"]}, {"seconds": 2, "lines": ["Second text"]}],
        [{"lines": ["日本語" * 20]}, {"lines": ["one two"]}],
        [{"lines": ["a " + "x" * 300]}, {"lines": ["one two"]}],
        [{"lines": LINES}, {}, {"seconds": 1.3, "lines": LINES[:1]}],
    ],
)
def test_without_narration_a_scenes_words_stand_in_its_own_time(
    given: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captions, "FONTS", ())  # so that characters are missing
    ref = {"bucket": "inputs", "key": "a"}
    params = msgspec.convert({"scenes": [{"picture": ref, **each} for each in given]}, render_video.RenderVideo)
    seconds = render_video.length_of(params, np.empty(0, np.float32))
    shots, texts, pages = staged(params, [Span(0, seconds)], seconds, narrated=False)
    ends = [*(shot.start for shot in shots[1:]), seconds]
    assert len(pages) == sum(map(len, texts))
    own = iter(pages)
    for scene, shot, end in zip(texts, shots, ends, strict=True):
        for page in islice(own, len(scene)):
            assert page.rows[0][0].spoken.start >= shot.start - 1e-6
            assert page.rows[-1][-1].spoken.end <= end + 1e-6


def test_a_narrated_scene_begins_with_its_first_word_though_the_font_lacks_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(captions, "FONTS", ())
    ref = {"bucket": "inputs", "key": "a"}
    scenes = [{"picture": ref, "lines": [line]} for line in ("日本語 " * 20 + "one", "a " + "x" * 300, "two three")]
    params = msgspec.convert({"scenes": scenes}, render_video.RenderVideo)
    shots, texts, pages = staged(params, [Span(0.5, 3.0), Span(4.0, 9.0)], 10.0, narrated=True)
    begun = np.cumsum([0, *map(len, texts)])
    assert [shot.start for shot in shots[1:]] == [pages[at].rows[0][0].spoken.start for at in begun[1:-1]]


def staged(
    params: render_video.RenderVideo, spans: list[Span], seconds: float, narrated: bool
) -> tuple[list[scenes.Shot], list[list[captions.Text]], list[captions.Page]]:
    """What the task makes of its scenes, as it does."""
    size = params.height, params.width
    face = captions.face_of([], size)
    texts = [captions.broken(scene.lines, face, size) for scene in params.scenes]
    shots = render_video.plan(params, [sum(captions.weights(each)) for each in texts], spans, seconds)
    return (
        shots,
        texts,
        render_video.pages_of(texts, [[] for _ in texts], face, shots, spans if narrated else None, seconds),
    )


def test_previews_are_one_artifact_that_is_written_over(
    place: TaskRunner, picture: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_video, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(render_video, "PREVIEW_SHARE", 0.0)
    outcome, heard = place.run("render_video", {"scenes": [{"picture": picture}], "seconds": 1, **SMALL})
    previews = heard.told("preview")
    assert [payload["frame"] for payload in previews] == list(range(10))
    (where,) = {(payload["bucket"], payload["key"]) for payload in previews}
    assert where == ("videos", "job/render_video/preview.jpg")
    kept = read_picture(place.download(dict(zip(("bucket", "key"), where, strict=True)), tmp_path / "p.jpg"), 320)
    assert kept.shape == (48, 64, 3)
    assert [meta.key for meta in outcome.artifacts] == ["job/render_video/n1/video.mp4"]
    listed = place.wait(place.store.list("videos"))
    assert len(listed) == 2


def test_a_preview_that_cannot_be_stored_does_not_end_the_work(
    place: TaskRunner, picture: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render_video, "PREVIEW_SECONDS", 0.0)
    place.wait(place.store.put("videos", "job/render_video/preview.jpg/in-the-way", b"x", "x/y"))
    outcome, heard = place.run("render_video", {"scenes": [{"picture": picture}], "seconds": 0.2, **SMALL})
    assert outcome.status == "completed"
    assert {level for level, _ in heard.lines} == {"warning"}
    assert "no preview" in heard.lines[0][1]


def test_a_cancel_is_heard_within_a_frame(place: TaskRunner, picture: dict[str, str]) -> None:
    looks = 0

    def cancelled() -> bool:
        nonlocal looks
        looks += 1
        return looks > 30

    begun = time.monotonic()
    outcome, heard = place.run("render_video", {"scenes": [{"picture": picture}], "seconds": 600, **SMALL}, cancelled)
    assert (outcome.status, outcome.artifacts) == ("cancelled", [])
    assert looks < 40
    assert heard.fractions[-1] < 0.2
    assert time.monotonic() - begun < at_this_load(20)


def test_characters_that_no_font_has_are_told_of(place: TaskRunner, picture: dict[str, str]) -> None:
    scene = {"picture": picture, "lines": ["A 🦄 in the اليوم של evening " + "x" * 500]}
    outcome, heard = place.run("render_video", {"scenes": [scene], "seconds": 0.5, **SMALL})
    assert outcome.status == "completed"
    assert [level for level, _ in heard.lines] == ["warning"]
    assert "🦄" in heard.lines[0][1]


# The look ----------------------------------------------------------------------------------------------------------------


def adapter_of(path: Path) -> Adapter:
    train, _ = split([read_picture(path, 256)], 8, 0, np)
    before = low_rank.new_adapter(train.reshape(-1, 3).mean(axis=0), 8, 8, 16.0, BASE_SEED, 0, np)
    base = low_rank.base_map(192, BASE_SEED, np)
    *_, (_, _, adapter) = low_rank.train(
        train, base, before, steps=200, batch=64, learning_rate=0.01, seed=0, window=200, xp=np
    )
    return adapter


def test_the_pictures_own_adapter_keeps_it_recognisable(inputs: dict[str, Path]) -> None:
    picture = read_picture(inputs["picture"], 400)
    looking = looked_at(picture, adapter_of(inputs["picture"]))
    assert np.abs(looking - picture).mean() < 0.05
    assert np.corrcoef(looking.mean(axis=2).ravel(), picture.mean(axis=2).ravel())[0, 1] > 0.98


def looked_at(picture: Any, adapter: Adapter) -> Any:
    return np.concatenate([rows for _, rows in render_video.strips(picture, adapter, np)])


@pytest.mark.parametrize(("patch", "height"), [(4, 61), (8, 64), (8, 103), (16, 40)])
def test_a_picture_in_strips_looks_as_in_one_piece(patch: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, dim = np.random.default_rng(0), patch * patch * 3
    picture = rng.random((height, 50, 3)).astype(np.float32)
    adapter = low_rank.new_adapter(np.full(3, 0.4), patch, 4, 4.0, 1, 0, np)
    adapter = adapter._replace(b=rng.normal(0, 0.1, (dim, 4)).astype(np.float32))
    whole = looked_at(picture, adapter)
    monkeypatch.setattr(render_video, "STRIP_PIXELS", 50 * 20)
    assert len(list(render_video.strips(picture, adapter, np))) > 2
    np.testing.assert_allclose(looked_at(picture, adapter), whole, atol=1e-5)
    np.testing.assert_array_equal(np.concatenate([rows for _, rows in render_video.strips(picture, None, np)]), picture)


@pytest.mark.parametrize("styled", [False, True])
def test_memory_is_bounded_by_the_picture_whatever_is_made_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, styled: bool
) -> None:
    """24 bytes a pixel for it and its planes, and some for a strip; what Pillow holds is not counted."""
    monkeypatch.setattr(render_video, "STRIP_PIXELS", 20_000)
    shape = (600, 800)
    Image.effect_noise(shape[::-1], 80).convert("RGB").save(tmp_path / "p.png")
    params = msgspec.convert(
        {
            "scenes": [{"picture": {"bucket": "inputs", "key": "k"}}],
            "width": 400,
            "height": 300,
            "grade": {"contrast": 2},
        },
        render_video.RenderVideo,
    )
    shot = scenes.Shot(0, 1, 0, scenes.View(0, 0, 1), scenes.View(0, 0, 2))
    adapter = low_rank.new_adapter(np.zeros(3), 8, 8, 16.0, 1, 0, np) if styled else None
    read_picture(tmp_path / "p.png", 800)  # so that Pillow's modules are loaded
    tracemalloc.start()
    try:
        kept = render_video.prepared(tmp_path / "p.png", shape, shot, params, adapter, lambda: None, np)
        assert tracemalloc.get_traced_memory()[1] < 24 * 600 * 800 + 300 * 20_000
        assert tracemalloc.get_traced_memory()[0] < 8 * 600 * 800  # luma, and chroma of half the size
    finally:
        tracemalloc.stop()
    assert kept.luma[0].shape == (1, *shape)


def test_swapping_the_adapter_changes_every_frame(place: TaskRunner, inputs: dict[str, Path], tmp_path: Path) -> None:
    picture, seen = place.upload(inputs["picture"]), []
    for name in ("picture", "second_picture"):
        (tmp_path / "adapter").write_bytes(adapter_bytes(adapter_of(inputs[name]), {}))
        params = {
            "scenes": [{"picture": picture}],
            "adapter": place.upload(tmp_path / "adapter"),
            "seconds": 0.6,
            **SMALL,
        }
        seen.append(shown(place, place.output("render_video", params)[0]["video"], tmp_path).astype(float))
    assert np.abs(seen[0] - seen[1]).mean(axis=(1, 2, 3)).min() > 8  # of 255: seen at a glance


def test_captions_change_the_lower_part_and_nothing_else(
    place: TaskRunner, picture: dict[str, str], tmp_path: Path
) -> None:
    params = {"seconds": 0.5, "width": 320, "height": 240, "fps": 2, "grain": 0}
    bare, titled = (
        shown(
            place,
            place.output("render_video", {"scenes": [{"picture": picture, **more}], **params})[0]["video"],
            tmp_path,
        )
        for more in ({}, {"lines": ["Words"]})
    )
    change = np.abs(bare[0].astype(int) - titled[0])
    assert change[:120].max() < 12  # the encoder's
    assert change[150:].max() > 100


@pytest.mark.parametrize("size", [(100, 300), (300, 100), (20, 900), (17, 16)])
def test_a_picture_of_any_shape_fills_the_frame(place: TaskRunner, tmp_path: Path, size: tuple[int, int]) -> None:
    Image.new("RGB", size, (200, 150, 100)).save(tmp_path / "p.png")
    params = {"scenes": [{"picture": place.upload(tmp_path / "p.png")}], "seconds": 0.5, "grain": 0, **SMALL}
    frames = shown(place, place.output("render_video", params)[0]["video"], tmp_path)
    assert np.abs(frames.astype(int) - (200, 150, 100)).max() <= 5


def test_large_pictures_take_no_more_memory_than_the_closest_view_needs(tmp_path: Path) -> None:
    Image.effect_noise((3000, 2000), 80).convert("RGB").save(tmp_path / "p.jpg")
    params = msgspec.convert(
        {"scenes": [{"picture": {"bucket": "inputs", "key": "k"}}], **SMALL}, render_video.RenderVideo
    )
    for zoom, width in ((1.0, 72), (4.0, 4 * 72)):
        shot = scenes.Shot(0, 1, 0, scenes.View(0, 0, 1), scenes.View(0, 0, zoom))
        made = render_video.prepared(tmp_path / "p.jpg", (2000, 3000), shot, params, None, lambda: None, np)
        assert abs(made.luma[0].shape[2] - width) <= 2
        assert len(made.luma) == (1 if zoom == 1 else 3)  # for the widest view


# What it refuses -----------------------------------------------------------------------------------------------------------

Params = Callable[[TaskRunner, Path, dict[str, str]], dict[str, Any]]


def damaged(place: TaskRunner, folder: Path, content: bytes, name: str) -> dict[str, str]:
    (folder / name).write_bytes(content)
    return place.upload(folder / name)


def hollow(folder: Path) -> bytes:
    Image.effect_noise((200, 200), 80).convert("RGB").save(folder / "whole.png")
    return (folder / "whole.png").read_bytes()[:5000]


def bad_adapter(folder: Path, **changes: Any) -> bytes:
    metadata = {"format": "dihedral.image-adapter.v1", "rank": "2", "alpha": "1.0", "patch": "8", "base_seed": "1"}
    tensors = {
        "A": np.zeros((2, 192), np.float32),
        "B": np.zeros((192, 2), np.float32),
        "mean": np.zeros(3, np.float32),
    }
    save_file(tensors | changes, folder / "bent", metadata=metadata)
    return (folder / "bent").read_bytes()


REFUSED: dict[str, tuple[Params, str]] = {
    "no scene": (lambda place, folder, ref: {"scenes": []}, "give `scenes` or `pictures`"),
    "a scene without a picture": (lambda place, folder, ref: {"scenes": [{}]}, "neither a picture nor a video"),
    "no picture": (lambda place, folder, ref: {"scenes": [{"picture": damaged(place, folder, b"text", "a.png")}]}, "not a picture"),
    "a picture that is cut off": (lambda place, folder, ref: {"scenes": [{"picture": damaged(place, folder, hollow(folder), "a.png")}]}, "damaged"),
    "the second picture": (lambda place, folder, ref: {"scenes": [{"picture": ref}, {"picture": damaged(place, folder, b"text", "a.png")}]}, "not a picture"),
    "a silent narration": (lambda place, folder, ref: {"scenes": [{"picture": ref}], "narration": [sound(place, 2, folder, gain=0.0)]}, "silent"),
    "an empty narration": (lambda place, folder, ref: {"scenes": [{"picture": ref}], "narration": [sound(place, 0, folder)]}, "lasts 0.00 s"),
    "a silent background": (lambda place, folder, ref: {"scenes": [{"picture": ref}], "background": sound(place, 2, folder, gain=0.0)}, "silent"),
    "a second narration behind the end": (
        lambda place, folder, ref: {"scenes": [{"picture": ref}], "seconds": 1, "narration": [sound(place, 2, folder), damaged(place, folder, b"no", "b.wav")]},
        "not a recording",
    ),
    "a voice without a narration": (lambda place, folder, ref: {"scenes": [{"picture": ref}], "voice": ref}, "voice"),
    "an adapter with wrong shapes": (
        lambda place, folder, ref: {"scenes": [{"picture": ref}], "adapter": damaged(place, folder, bad_adapter(folder, A=np.zeros((2, 191), np.float32)), "a")},
        "do not fit",
    ),
    "an adapter with a NaN": (
        lambda place, folder, ref: {"scenes": [{"picture": ref}], "adapter": damaged(place, folder, bad_adapter(folder, mean=np.full(3, np.nan, np.float32)), "a")},
        "no numbers",
    ),
    "scenes that are longer than the video": (lambda place, folder, ref: {"scenes": [{"picture": ref, "seconds": 5}, {"picture": ref}], "seconds": 4}, "nothing of 4 s is left"),
    "scenes that do not fill the video": (lambda place, folder, ref: {"scenes": [{"picture": ref, "seconds": 5}], "seconds": 8}, "the scenes last 5 s"),
    "scenes that last too long": (lambda place, folder, ref: {"scenes": [{"picture": ref, "seconds": 400}, {"picture": ref, "seconds": 400}]}, "800 s; 600"),
    "a book": (lambda place, folder, ref: {"scenes": [{"picture": ref, "lines": ["x" * 1000] * 101}]}, "101,000 letters"),
    "less than a frame": (lambda place, folder, ref: {"scenes": [{"picture": ref}], "seconds": 0.01}, "shorter than one frame"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_bad_input_is_told_in_a_sentence_and_the_next_video_is_made(
    place: TaskRunner, picture: dict[str, str], tmp_path: Path, name: str
) -> None:
    params, words = REFUSED[name]
    assert words in place.refused("render_video", params(place, tmp_path, picture) | SMALL)
    place.output("render_video", {"scenes": [{"picture": picture}], "seconds": 0.1, **SMALL})


@pytest.mark.parametrize(
    "params",
    [
        {"width": 63},
        {"scenes": [{"fade": -1}]},
        {"scenes": [{"from": {"zoom": 0.5}}]},
        {"scenes": [{"from": {"zoom": 1e999}}]},
        {"grain": 2},
        {"encoder": "mpeg2video"},
    ],
)
def test_params_that_make_no_sense_are_refused_before_anything_is_read(
    place: TaskRunner, params: dict[str, Any]
) -> None:
    given = {"scenes": [{"picture": {"bucket": "inputs", "key": "nowhere"}}], **params}
    outcome, _ = place.run("render_video", json.loads(json.dumps(given)))
    assert outcome.status == "failed"
    assert outcome.error is not None
    assert outcome.error.code == "invalid_params"


def test_a_picture_that_is_not_there_is_told(place: TaskRunner) -> None:
    outcome, _ = place.run("render_video", {"scenes": [{"picture": {"bucket": "inputs", "key": "nowhere.png"}}]})
    assert outcome.error is not None
    assert outcome.error.code == "artifact_not_found"
