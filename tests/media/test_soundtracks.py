"""The sound under a video, and its spectrum as bars."""

from pathlib import Path

import numpy as np
import pytest

from dihedral.data_plane.kernels import bars, mixture, spectra
from dihedral.data_plane.media.decode import read_recording
from dihedral.data_plane.media.soundtrack import BACKGROUND_FADE_SECONDS, LOUDEST, RATE, mixed, narration
from dihedral.data_plane.model_files import Voice
from dihedral.examples.speech import LOW, Speaker, speak

FLAT = mixture.Mixture(
    np.ones(1), np.zeros((1, spectra.BANDS)), np.ones((1, spectra.BANDS))
)  # an equaliser does not look at it


def voice_of(path: Path) -> Voice:
    samples, rate = read_recording(path, 10)
    spoken = spectra.speech_frames(spectra.resample(samples, rate, spectra.RATE, np), np)
    return Voice(FLAT, spoken.mean(axis=0), None)


def test_swapping_the_voice_changes_the_sound_towards_it(inputs: dict[str, Path]) -> None:
    samples, rate = read_recording(inputs["recording"], 3)
    voices = [voice_of(inputs[name]) for name in ("recording", "second_recording")]
    heard = []
    for voice in voices:
        sound = narration(samples, rate, voice, np)
        heard.append(spectra.speech_frames(spectra.resample(sound, RATE, spectra.RATE, np), np).mean(axis=0))
    for own, other in ((0, 1), (1, 0)):
        near = np.abs(heard[own] - voices[own].mean_log_mel).mean()
        assert near < 0.75 * np.abs(heard[own] - voices[other].mean_log_mel).mean()


def test_without_a_voice_a_recording_is_itself(inputs: dict[str, Path]) -> None:
    samples, _ = read_recording(inputs["recording"], 1)
    assert narration(samples, RATE, None, np) is samples


@pytest.mark.parametrize("rate", [8_000, 96_000])
def test_a_soundtrack_is_made_from_any_rate(rate: int) -> None:
    seconds = np.arange(2 * rate) / rate
    samples = (0.3 * np.sin(2 * np.pi * 150 * seconds) + 0.1 * np.sin(2 * np.pi * 1500 * seconds)).astype(np.float32)
    spoken = spectra.speech_frames(speak(Speaker(150, 1, 1), 1.0, 0).astype(np.float32), np)
    sound = narration(samples, rate, Voice(FLAT, spoken.mean(axis=0), LOW.pitch_hz), np)
    assert sound.shape == (2 * RATE,)
    assert np.isfinite(sound).all()
    assert (sound**2).mean() == pytest.approx((samples**2).mean(), rel=0.02)


def test_what_is_too_short_is_followed_by_silence_and_what_is_too_long_fades_out() -> None:
    spoken = np.full(RATE, 0.5, dtype=np.float32)
    longer = mixed(spoken, None, 0.0, 2.0)
    assert longer.shape == (2 * RATE,)
    assert (longer[: RATE // 2] == 0.5).all()
    assert np.abs(longer[RATE:]).max() == 0
    shorter = mixed(spoken, None, 0.0, 0.5)
    assert shorter.shape == (RATE // 2,)
    assert shorter[-1] == 0
    assert spoken.min() == 0.5  # what came in is not changed


def test_a_background_lies_under_it_all_at_its_level() -> None:
    tone = np.sin(np.arange(RATE // 4) * 0.05).astype(np.float32)
    under = mixed(np.zeros(0, np.float32), tone, -20.0, 3.0)
    steady = under[: round((3.0 - BACKGROUND_FADE_SECONDS) * RATE)]
    assert np.abs(steady).max() == pytest.approx(0.1, rel=1e-3)
    np.testing.assert_array_equal(steady[: tone.size], steady[tone.size : 2 * tone.size])
    assert under[-1] == 0


def test_a_sum_that_would_clip_becomes_quieter() -> None:
    loud = np.ones(RATE, dtype=np.float32)
    assert np.abs(mixed(loud, loud, 20.0, 1.0)).max() == pytest.approx(LOUDEST)


def test_a_tone_raises_its_own_bar_and_loud_noise_all_of_them() -> None:
    seconds = np.arange(2 * RATE) / RATE
    for hertz in (80.0, 440.0, 6_000.0):
        heights = bars.levels(np.sin(2 * np.pi * hertz * seconds).astype(np.float32), RATE, 10, 20, 48, np)
        assert heights.shape == (20, 48)
        wanted = 48 * np.log(hertz / bars.LOWEST_HZ) / np.log(bars.HIGHEST_HZ / bars.LOWEST_HZ)
        assert abs(heights[10].argmax() + 0.5 - wanted) < 1.1
        assert heights[10].max() > 0.95
    noise = np.random.default_rng(0).normal(0, 0.1, 2 * RATE).astype(np.float32)
    assert bars.levels(noise, RATE, 10, 20, 48, np)[2:].min() > 0.2


def test_bars_jump_up_and_sink() -> None:
    sound = np.zeros(2 * RATE, dtype=np.float32)
    sound[RATE // 2 : RATE] = np.random.default_rng(0).normal(0, 0.3, RATE // 2)
    heights = bars.levels(sound, RATE, 30, 60, 16, np)
    assert heights[10].max() == 0
    assert heights[20].min() > 0.5
    falling = heights[31:45, 8]
    assert (np.diff(falling) <= 0).all()
    assert falling[2] > 0.2
    assert falling[-1] == 0


def test_silence_has_no_bars() -> None:
    assert bars.levels(np.zeros(RATE, np.float32), RATE, 24, 24, 48, np).max() == 0
    assert bars.levels(np.zeros(3, np.float32), RATE, 24, 2, 48, np).shape == (2, 48)
