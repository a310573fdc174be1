"""The task lip_sync: what its films show, measured in their frames, and what it refuses."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image

from dihedral import examples
from dihedral.data_plane.media.storyteller import MOUTH_AT, MOUTH_HALF, Storyteller
from dihedral.data_plane.media.visemes import POSES, SHAPES, Phoneme, is_vowel
from tests.media.test_visemes import words
from tests.support.in_process import TaskRunner

SIZE = (256, 320)


@pytest.fixture(scope="module")
def drawing() -> Storyteller:
    return Storyteller(SIZE)


def whole(drawing: Storyteller, shape: Any) -> Any:
    """The drawn face with its mouth in a shape, 8 bits."""
    made, box = drawing.open_eyed.copy(), drawing.mouth_box
    made[box.top : box.bottom, box.left : box.right] = drawing.mouth(POSES[shape])
    return (np.clip(made, 0, 1) * 255 + 0.5).astype(np.uint8)


def place_of(drawing: Storyteller) -> dict[str, float]:
    height, width = drawing.size
    x, y = (drawing.middle[axis] + MOUTH_AT[axis] * drawing.head for axis in (0, 1))
    return {"x": x / width, "y": y / height, "width": 2 * MOUTH_HALF * drawing.head / width}


def picture(place: TaskRunner, pixels: Any, name: str) -> dict[str, str]:
    path = place.directory.with_name(name)
    Image.fromarray(pixels).save(path)
    return place.upload(path)


def sound(place: TaskRunner, seconds: float, loudness: float = 0.5, name: str = "speech.wav") -> dict[str, str]:
    path, rate = place.directory.with_name(name), 16_000
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(path, loudness * np.sin(2 * np.pi * 180 * time), rate)
    return place.upload(path)


def told(spoken: list[Phoneme]) -> list[dict[str, Any]]:
    return [each._asdict() for each in spoken]


def luma(place: TaskRunner, video: dict[str, str], path: Path) -> Any:
    """(frames, height, width) of the film's codes."""
    with av.open(str(place.download(video, path))) as container:
        planes = [frame.to_ndarray(format="yuv420p") for frame in container.decode(video=0)]
    return np.stack([plane[: plane.shape[0] * 2 // 3] for plane in planes]).astype(int)


def opened(frames: Any, drawing: Storyteller) -> Any:
    """(frames,) how many more pixels are dark where the mouth is than at rest, measured without knowing how it was made."""
    box = drawing.mouth_box
    dark = (frames[:, box.top : box.bottom, box.left : box.right] < 100).sum(axis=(1, 2)).astype(float)
    return np.maximum(0, dark - dark[0])


def faces(kind: str, place: TaskRunner, drawing: Storyteller) -> dict[str, Any]:
    if kind == "drawn":
        return {}
    if kind == "photograph":
        return {"portrait": picture(place, whole(drawing, "X"), "face.png"), "mouth": place_of(drawing)}
    paths = examples.character(place.directory.with_name("character"), drawing.size)
    return {"character": {shape: place.upload(path) for shape, path in paths.items()}}


@pytest.mark.parametrize("kind", ["drawn", "photograph", "character"])
def test_the_mouth_opens_for_vowels_and_closes_for_lips_and_pauses(
    kind: str, place: TaskRunner, drawing: Storyteller, tmp_path: Path
) -> None:
    spoken, seconds = words()
    params = {"audio": sound(place, seconds), "phonemes": told(spoken), "width": SIZE[1], "height": SIZE[0]}
    made, heard = place.output("lip_sync", params | faces(kind, place, drawing))
    assert heard.lines == []
    assert (made["basis"], made["fps"], made["frames"]) == ("phonemes", 25, round(seconds * 25))
    frames = luma(place, made["video"], tmp_path / "video.mp4")
    assert frames.shape == (made["frames"], *SIZE)
    dark = opened(frames, drawing)
    middles = (np.arange(len(dark)) + 0.5) / 25
    vowel = [any(is_vowel(each.symbol) and each.start <= at < each.end for each in spoken) for at in middles]
    assert np.corrcoef(dark, vowel)[0, 1] > 0.8
    closed = [dark[int((each.start + each.end) / 2 * 25)] for each in spoken if each.symbol in "pbm"]
    assert max(closed) < 0.1 * dark.max()
    assert dark[(middles < 0.25) | (middles > seconds - 0.3)].max() < 0.1 * dark.max()
    assert made["visemes"][0] == {"shape": "X", "start": 0.0, "end": 0.3}
    assert made["visemes"][-1]["end"] == pytest.approx(seconds, abs=0.05)


def test_a_film_has_the_sound_that_it_was_made_from(place: TaskRunner, tmp_path: Path) -> None:
    made, _ = place.output("lip_sync", {"audio": sound(place, 1.0), "width": 128, "height": 128})
    with av.open(str(place.download(made["video"], tmp_path / "v.mp4"))) as container:
        heard = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    spectrum = np.abs(np.fft.rfft(heard[4_800:38_400]))
    assert spectrum.argmax() * 48_000 / 33_600 == pytest.approx(180, abs=2)
    assert heard.size / 48_000 == pytest.approx(1.0, abs=0.05)


def test_what_is_around_the_mouth_stays_as_it_is(place: TaskRunner, drawing: Storyteller, tmp_path: Path) -> None:
    """Up to what the encoder makes of it: a frame at rest and one that is open differ in the box alone."""
    face = faces("photograph", place, drawing)
    spoken = [{"symbol": "ɑ", "start": 0.4, "end": 1.0}]
    made, _ = place.output("lip_sync", {"audio": sound(place, 1.0), "phonemes": spoken} | face)
    frames = luma(place, made["video"], tmp_path / "v.mp4")
    box = drawing.mouth_box  # the warp's own box is wider: the chin moves
    height, width = SIZE
    x, y = face["mouth"]["x"] * width, face["mouth"]["y"] * height
    wide = face["mouth"]["width"] * width
    changed = np.abs(frames[-1] - frames[0])
    assert changed[box.top : box.bottom, box.left : box.right].max() > 60
    changed[int(y - 0.75 * wide) - 1 : int(y + 1.2 * wide) + 2, int(x - wide) - 1 : int(x + wide) + 2] = 0
    assert changed.max() <= 14  # of the encoder: blocks of 16×16 that lie over the rim
    assert changed.mean() < 0.3


def test_without_phonemes_the_loudness_opens_the_mouth_and_the_output_says_so(
    place: TaskRunner, drawing: Storyteller, tmp_path: Path
) -> None:
    rate = 16_000
    time = np.arange(2 * rate) / rate
    samples = 0.5 * np.sin(2 * np.pi * 180 * time) * ((time % 1) >= 0.5)
    soundfile.write(tmp_path / "on-off.wav", samples, rate)
    params = {"audio": place.upload(tmp_path / "on-off.wav"), "width": SIZE[1], "height": SIZE[0]}
    made, heard = place.output("lip_sync", params)
    assert made["basis"] == "loudness"
    assert "follows the loudness" in heard.lines[0][1]
    dark = opened(luma(place, made["video"], tmp_path / "v.mp4"), drawing)
    middles = (np.arange(50) + 0.5) / 25 % 1
    assert dark[(middles > 0.6) & (middles < 0.9)].min() > 100
    assert dark[(middles > 0.1) & (middles < 0.4)].max() < 10


def test_mouths_with_transparency_are_laid_over_a_portrait(
    place: TaskRunner, drawing: Storyteller, tmp_path: Path
) -> None:
    character = {}
    for number, shape in enumerate(SHAPES):
        mouth = np.zeros((40, 60, 4), np.uint8)
        mouth[10:30, 10:50] = (20 * number, 0, 0, 255)
        character[shape] = picture(place, mouth, f"{shape}.png")
    portrait = picture(place, np.full((*SIZE, 3), 200, np.uint8), "plain.png")
    params = {"portrait": portrait, "mouth": {"x": 0.5, "y": 0.6, "width": 60 / SIZE[1]}, "character": character}
    made, _ = place.output("lip_sync", {"audio": sound(place, 0.5)} | params)
    frame = luma(place, made["video"], tmp_path / "v.mp4")[3]
    rows, columns = np.nonzero(frame < 120)
    assert (rows.min(), rows.max() + 1) == (pytest.approx(0.6 * 256 - 10, abs=1), pytest.approx(0.6 * 256 + 10, abs=1))
    assert (columns.min(), columns.max() + 1) == (pytest.approx(140, abs=1), pytest.approx(180, abs=1))


def test_the_storyteller_blinks_by_the_seed_and_a_photograph_does_not(
    place: TaskRunner, drawing: Storyteller, tmp_path: Path
) -> None:
    eyes = drawing.eyes_box
    moved = []
    for params in ({"seed": 1}, {"seed": 1}, {"seed": 2}, faces("photograph", place, drawing)):
        size = {"width": SIZE[1], "height": SIZE[0]}
        made, _ = place.output("lip_sync", {"audio": sound(place, 4.0)} | params | size)
        frames = luma(place, made["video"], tmp_path / "v.mp4")[:, eyes.top : eyes.bottom, eyes.left : eyes.right]
        moved.append(np.flatnonzero(np.abs(frames - frames[0]).mean(axis=(1, 2)) > 2).tolist())
    assert moved[0] == moved[1] != moved[2]
    assert 3 <= len(moved[0]) <= 30
    assert moved[3] == []


def test_sizes_follow_what_is_asked_for(place: TaskRunner, drawing: Storyteller) -> None:
    audio, face = sound(place, 0.3), faces("photograph", place, drawing)
    for params, wanted in (
        (face, (320, 256)),
        (face | {"width": 128}, (128, 102)),
        (face | {"width": 200, "height": 100}, (200, 100)),
        ({"height": 360}, (640, 360)),
    ):
        made, _ = place.output("lip_sync", {"audio": audio} | params)
        assert (made["width"], made["height"]) == wanted


# What is refused -----------------------------------------------------------------------------------------------------


def test_a_portrait_without_a_mouth_is_asked_for_one(place: TaskRunner, drawing: Storyteller) -> None:
    face = faces("photograph", place, drawing)
    audio = sound(place, 0.5)
    code, message = place.refusal("lip_sync", {"audio": audio, "portrait": face["portrait"]})
    assert (code, "mouth {x, y, width}" in message) == ("mouth_required", True)
    assert "no portrait" in place.refused("lip_sync", {"audio": audio, "mouth": face["mouth"]})


def test_sounds_that_nobody_could_follow_are_refused(place: TaskRunner, tmp_path: Path) -> None:
    assert "silent" in place.refused("lip_sync", {"audio": sound(place, 1.0, 0.0)})
    code, message = place.refusal("lip_sync", {"audio": sound(place, 1.0, 3.0)})
    assert (code, "lower level" in message) == ("clipped_audio", True)
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 16_000)
    assert "lasts 0.00 s" in place.refused("lip_sync", {"audio": place.upload(tmp_path / "empty.wav")})
    assert "not a recording" in place.refused("lip_sync", {"audio": place.upload(b"RIFF", "no.wav")})


def test_pictures_of_one_pixel_and_of_more_than_can_be_decoded_are_refused(place: TaskRunner, tmp_path: Path) -> None:
    audio, mouth = sound(place, 0.5), {"x": 0.5, "y": 0.5, "width": 0.2}
    Image.new("L", (1, 1)).save(tmp_path / "one.png")
    Image.new("1", (16_001, 16_000)).save(tmp_path / "many.png")
    for name, said in (("one.png", "1×1 pixels"), ("many.png", "256,000,000 pixels")):
        portrait = place.upload(tmp_path / name)
        assert said in place.refused("lip_sync", {"audio": audio, "portrait": portrait, "mouth": mouth})


def test_phonemes_of_another_recording_are_refused(place: TaskRunner) -> None:
    audio = sound(place, 1.0)
    wrong = [{"symbol": "ɑ", "start": 5.0, "end": 6.0}]
    assert "belong to another" in place.refused("lip_sync", {"audio": audio, "phonemes": wrong})
    wrong = [{"symbol": "ɑ", "start": 0.5, "end": 0.2}]
    assert "before it starts" in place.refused("lip_sync", {"audio": audio, "phonemes": wrong})


def test_characters_that_cannot_be_shown_are_refused(place: TaskRunner, drawing: Storyteller) -> None:
    audio, faces_of = sound(place, 0.5), faces("character", place, drawing)["character"]
    small = picture(place, np.zeros((64, 64, 3), np.uint8), "small.png")
    message = place.refused("lip_sync", {"audio": audio, "character": faces_of | {"D": small}})
    assert "the face D has 64×64 pixels, the face X 320×256" in message
    alike = dict.fromkeys(SHAPES, faces_of["X"])
    assert "alike" in place.refused("lip_sync", {"audio": audio, "character": alike})
    code, _ = place.refusal("lip_sync", {"audio": audio, "character": faces_of, "portrait": faces_of["X"]})
    assert code == "mouth_required"
