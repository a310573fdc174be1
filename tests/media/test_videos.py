"""What a rendered video holds: decoded again, frame by frame and sample by sample."""

from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest

from data_plane import captions
from data_plane.kernels import low_rank, mixture, spectra
from data_plane.kernels.low_rank import Adapter
from data_plane.media import read_picture, read_recording, write_video
from data_plane.tasks.render_video import SOUND_RATE, camera, frames, restyle, soundtrack
from data_plane.tasks.train_image_lora import BASE_SEED, split
from data_plane.weights import Voice
from dihedral.examples.speech import LOW, Speaker, speak

SIZE = (120, 160)
FPS, COUNT = 24, 60
LINES = ["The sun goes down over the lake.", "Nothing moves but the water."]


class Decoded(NamedTuple):
    pictures: Any  # (n, height, width, 3) uint8
    pts: list[int]
    samples: Any  # (m,)


def decoded(path: Path) -> Decoded:
    with av.open(str(path)) as container:
        shown = list(container.decode(video=0))
    with av.open(str(path)) as container:
        heard = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    pictures = np.stack([frame.to_ndarray(format="rgb24") for frame in shown])
    return Decoded(pictures, [frame.pts or 0 for frame in shown], np.concatenate(heard))


def adapter_of(path: Path) -> Adapter:
    train, _ = split([read_picture(path, 256)], 8, 0, np)
    before = low_rank.new_adapter(train.reshape(-1, 3).mean(axis=0), 8, 8, 16.0, BASE_SEED, 0, np)
    base = low_rank.base_map(192, BASE_SEED, np)
    *_, (_, _, adapter) = low_rank.train(
        train, base, before, steps=200, batch=64, learning_rate=0.01, seed=0, window=200, xp=np
    )
    return adapter


def voice_of(path: Path) -> Voice:
    samples, rate = read_recording(path, 10)
    spoken = spectra.speech_frames(spectra.resample(samples, rate, spectra.RATE, np), np)
    *_, (_, fitted) = mixture.fit(spoken, 4, 5, 0, 0.01, np)
    return Voice(fitted, spoken.mean(axis=0), None)


@pytest.fixture(scope="module")
def video(inputs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    picture = restyle(read_picture(inputs["picture"], 400), adapter_of(inputs["picture"]), np)
    samples, rate = read_recording(inputs["recording"], COUNT / FPS)
    sound = soundtrack(samples, rate, voice_of(inputs["recording"]), COUNT / FPS, np)
    assert write_video(path, frames(picture, LINES, COUNT, FPS, SIZE, np), FPS, sound, SOUND_RATE) == COUNT
    return path


def test_the_video_has_exactly_its_frames_and_its_length(video: Path) -> None:
    with av.open(str(video)) as container:
        shown, heard = container.streams.video[0], container.streams.audio[0]
        assert (shown.codec_context.name, shown.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (shown.width, shown.height, shown.average_rate) == (160, 120, FPS)
        assert heard.codec_context.name == "aac"
        assert shown.frames == COUNT
        assert shown.start_time == 0
        assert float(shown.duration * shown.time_base) == pytest.approx(COUNT / FPS, abs=1e-3)
        assert float(heard.duration * heard.time_base) == pytest.approx(COUNT / FPS, abs=0.03)
        assert container.duration / 1e6 == pytest.approx(COUNT / FPS, abs=0.03)
    read = decoded(video)
    assert len(read.pictures) == COUNT
    assert all(later > earlier for earlier, later in pairwise(read.pts))


def test_the_index_comes_before_the_media_so_that_a_browser_starts_at_once(video: Path) -> None:
    content = video.read_bytes()
    assert 0 < content.index(b"moov") < content.index(b"mdat")


def test_seeking_lands_on_the_frame_that_was_asked_for(video: Path) -> None:
    read = decoded(video)
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        for wanted in (50, 5, 30):
            container.seek(read.pts[wanted], stream=stream)
            found = next(frame for frame in container.decode(stream) if frame.pts == read.pts[wanted])
            np.testing.assert_array_equal(found.to_ndarray(format="rgb24"), read.pictures[wanted])


def test_the_camera_moves_and_stays_inside_the_picture() -> None:
    for shape in [(300, 400, 3), (900, 300, 3), (200, 1000, 3), (60, 80, 3)]:
        positions = [camera(along, shape, SIZE) for along in np.linspace(0, 1, 25).tolist()]
        for centre, scale in positions:
            for axis in (0, 1):
                first = centre[axis] - (SIZE[axis] - 1) / 2 * scale
                last = centre[axis] + (SIZE[axis] - 1) / 2 * scale
                assert -0.5 <= first < last <= shape[axis] - 0.5
        assert positions[0][1] > positions[-1][1]
        assert positions[0][0] != positions[-1][0]


def test_swapping_the_adapter_changes_every_frame(inputs: dict[str, Path]) -> None:
    picture = read_picture(inputs["picture"], 400)
    own, other = (
        np.stack(list(frames(restyle(picture, adapter_of(inputs[name]), np), [], 6, FPS, SIZE, np)))
        for name in ("picture", "second_picture")
    )
    change = np.abs(own.astype(float) - other.astype(float)).mean(axis=(1, 2, 3))
    assert change.min() > 8  # of 255: seen at a glance


def test_the_pictures_own_adapter_keeps_it_recognisable(inputs: dict[str, Path]) -> None:
    picture = read_picture(inputs["picture"], 400)
    looking = restyle(picture, adapter_of(inputs["picture"]), np)
    assert np.abs(looking - picture).mean() < 0.05
    assert np.corrcoef(looking.mean(axis=2).ravel(), picture.mean(axis=2).ravel())[0, 1] > 0.98


def test_swapping_the_voice_changes_the_sound_towards_it(inputs: dict[str, Path], tmp_path: Path) -> None:
    samples, rate = read_recording(inputs["recording"], 3)
    voices = [voice_of(inputs[name]) for name in ("recording", "second_recording")]
    heard = []
    for number, voice in enumerate(voices):
        path = tmp_path / f"{number}.mp4"
        black = (np.zeros((*SIZE, 3), dtype=np.uint8) for _ in range(3 * FPS))
        write_video(path, black, FPS, soundtrack(samples, rate, voice, 3.0, np), SOUND_RATE)
        sound = decoded(path).samples
        spoken = spectra.speech_frames(spectra.resample(sound, SOUND_RATE, spectra.RATE, np), np)
        heard.append(spoken.mean(axis=0))
    for own, other in ((0, 1), (1, 0)):
        near = np.abs(heard[own] - voices[own].mean_log_mel).mean()
        assert near < 0.75 * np.abs(heard[own] - voices[other].mean_log_mel).mean()


def test_sound_shorter_than_the_video_is_followed_by_silence_and_never_clips(inputs: dict[str, Path]) -> None:
    samples, rate = read_recording(inputs["recording"], 1)
    sound = soundtrack(samples * 1.4, rate, voice_of(inputs["second_recording"]), 2.0, np)
    assert sound.shape == (2 * SOUND_RATE,)
    assert np.abs(sound).max() <= 1
    assert np.abs(sound[: SOUND_RATE - 4000]).max() > 0.1
    assert np.abs(sound[SOUND_RATE + 10 :]).max() == 0


@pytest.mark.parametrize("rate", [8_000, 96_000])
def test_a_soundtrack_is_made_from_any_rate(rate: int) -> None:
    seconds = np.arange(2 * rate) / rate
    samples = (0.3 * np.sin(2 * np.pi * 150 * seconds) + 0.1 * np.sin(2 * np.pi * 1500 * seconds)).astype(np.float32)
    spoken = spectra.speech_frames(speak(Speaker(150, 1, 1), 1.0, 0).astype(np.float32), np)
    flat = mixture.Mixture(np.ones(1), np.zeros((1, spectra.BANDS)), np.ones((1, spectra.BANDS)))
    sound = soundtrack(samples, rate, Voice(flat, spoken.mean(axis=0), LOW.pitch_hz), 2.0, np)
    assert sound.shape == (2 * SOUND_RATE,)
    assert np.isfinite(sound).all()
    assert 0.1 < np.abs(sound).max() <= 1


def test_every_word_is_shown_in_order_and_fits() -> None:
    lines = ["A first line that is long enough to be broken into several rows of text.", "", "Second.", "x" * 300]
    planned = captions.schedule(lines, 10.0, SIZE)
    shown = [word for caption in planned for row in caption.rows for word in row.split()]
    assert " ".join(shown[:16]) == f"{lines[0]} Second."
    assert "".join(shown[16:]) == lines[3]
    assert planned[0].start == 0
    assert planned[-1].end == pytest.approx(10.0)
    assert all(before.end == after.start for before, after in pairwise(planned))
    for caption in planned:
        text, _ = captions.mask(caption, SIZE, np)
        assert text.max() > 0.9
        assert text[:, [0, -1]].max() == 0
        assert text[-1].max() == 0


def test_captions_change_the_lower_part_and_nothing_else(inputs: dict[str, Path]) -> None:
    picture = read_picture(inputs["picture"], 400)
    bare = next(frames(picture, [], 1, 2, SIZE, np)).astype(int)
    titled = next(frames(picture, ["Words"], 1, 2, SIZE, np)).astype(int)
    assert np.abs(titled - bare)[: SIZE[0] // 2].max() == 0
    assert titled[SIZE[0] * 3 // 4 :].max() > 200


def test_a_portrait_is_cut_to_a_landscape_frame() -> None:
    portrait = np.random.default_rng(0).random((300, 100, 3)).astype(np.float32)
    assert next(frames(portrait, [], 1, FPS, SIZE, np)).shape == (*SIZE, 3)
