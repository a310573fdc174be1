"""What a voice learns, and what the analysis hears, on the kernels alone."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_plane.device import to_host
from data_plane.kernels import mixture, spectra
from data_plane.media import read_recording
from dihedral.examples import speech
from dihedral.examples.speech import HIGH, LOW, Speaker


def analysed(speaker: Speaker, seed: int, xp: Any, seconds: float = 4.0) -> Any:
    """(n,) at the analysis rate."""
    sound = speech.speak(speaker, seconds, seed).astype(np.float32)
    return spectra.resample(xp.asarray(sound), speech.RATE, spectra.RATE, xp)


def test_the_likelihood_rises_in_every_iteration(xp: Any) -> None:
    frames = spectra.speech_frames(analysed(LOW, 1, xp), xp)
    rounds = [likelihood for likelihood, _ in mixture.fit(frames, 8, 25, 0, 0.01, xp)]
    assert all(after >= before - 1e-9 for before, after in pairwise(rounds))
    assert rounds[-1] > rounds[0] + 0.5


def test_a_mixture_finds_the_clusters_that_were_drawn(xp: Any) -> None:
    rng = np.random.default_rng(0)
    centres = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 9.0]])
    frames = xp.asarray(np.concatenate([rng.normal(c, 1.0, (400, 2)) for c in centres]))
    *_, (_, fitted) = mixture.fit(frames, 3, 50, 1, 0.01, xp)
    found = to_host(fitted.means)
    assert max(np.abs(found - centre).sum(axis=1).min() for centre in centres) < 0.3
    np.testing.assert_allclose(to_host(fitted.weights), 1 / 3, atol=0.05)
    np.testing.assert_allclose(to_host(fitted.variances), 1.0, atol=0.3)


@pytest.mark.parametrize(("speaker", "other"), [(LOW, HIGH), (HIGH, LOW)])
def test_held_out_speech_of_the_speaker_scores_above_anothers(speaker: Speaker, other: Speaker, xp: Any) -> None:
    *_, (_, fitted) = mixture.fit(spectra.speech_frames(analysed(speaker, 1, xp), xp), 8, 25, 0, 0.01, xp)
    own = mixture.log_likelihood(spectra.speech_frames(analysed(speaker, 5, xp), xp), fitted, xp)
    foreign = mixture.log_likelihood(spectra.speech_frames(analysed(other, 5, xp), xp), fitted, xp)
    assert own > foreign + 1.0


@pytest.mark.parametrize("pitch_hz", [85.0, 112.0, 160.0, 208.0, 290.0])
def test_the_fundamental_is_within_a_twentieth(pitch_hz: float, xp: Any) -> None:
    heard = spectra.fundamental_hz(analysed(Speaker(pitch_hz, 1.1, 1.2), 3, xp), xp)
    assert heard == pytest.approx(pitch_hz, rel=0.05)


def test_noise_has_no_fundamental(xp: Any) -> None:
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    assert spectra.fundamental_hz(xp.asarray(noise), xp) is None


def test_a_louder_copy_is_the_same_voice(xp: Any) -> None:
    samples = analysed(LOW, 1, xp)
    quiet, loud = spectra.speech_frames(samples * 0.05, xp), spectra.speech_frames(samples, xp)
    np.testing.assert_allclose(to_host(quiet), to_host(loud), atol=1e-3)


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 44_100, 48_000, 96_000])
def test_a_tone_survives_resampling(rate: int, xp: Any) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(rate) / rate).astype(np.float32)
    heard = to_host(spectra.resample(xp.asarray(tone), rate, spectra.RATE, xp))
    assert heard.shape == (spectra.RATE,)
    expected = np.sin(2 * np.pi * 440 * np.arange(spectra.RATE) / spectra.RATE)
    np.testing.assert_allclose(heard[800:-800], expected[800:-800], atol=0.01)


def test_the_equaliser_lifts_the_bands_it_was_told_to(xp: Any) -> None:
    noise = xp.asarray(np.random.default_rng(0).standard_normal(32_000).astype(np.float32))
    gains = np.where(spectra.band_centres_hz() > 2000, 9.0, -9.0)
    lifted = spectra.log_mel(spectra.equalise(noise, spectra.RATE, gains, xp), xp) - spectra.log_mel(noise, xp)
    gained_db = to_host(lifted.mean(axis=0)) * 10 / np.log(10)
    np.testing.assert_allclose(gained_db[3:12], -9, atol=1.5)
    np.testing.assert_allclose(gained_db[-8:], 9, atol=1.5)


def test_flat_gains_change_nothing_and_delay_nothing(xp: Any) -> None:
    noise = xp.asarray(np.random.default_rng(0).standard_normal(8_000).astype(np.float32))
    same = spectra.equalise(noise, 22_050, np.zeros(spectra.BANDS), xp)
    np.testing.assert_allclose(to_host(same), to_host(noise), atol=1e-4)


def test_stereo_in_any_rate_is_heard_as_mono(tmp_path: Path) -> None:
    import soundfile

    sound = speech.speak(HIGH, 2.0, 1)
    soundfile.write(tmp_path / "two.flac", np.stack([sound, sound], axis=1), 44_100)
    samples, rate = read_recording(tmp_path / "two.flac", 1.0)
    assert (samples.shape, rate) == ((44_100,), 44_100)
    np.testing.assert_allclose(samples, sound[:44_100], atol=1e-4)
