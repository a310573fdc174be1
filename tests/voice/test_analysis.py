"""What the analysis hears, on the kernels alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from dihedral.data_plane.device import to_host
from dihedral.data_plane.kernels import pitch, spectra
from dihedral.data_plane.media.decode import read_recording
from dihedral.data_plane.voice import features as voices
from dihedral.examples import speech
from dihedral.examples.speech import HIGH, LOW, Speaker


def analysed(speaker: Speaker, seed: int, xp: Any, seconds: float = 4.0) -> Any:
    """(n,) at the analysis rate."""
    sound = speech.speak(speaker, seconds, seed).astype(np.float32)
    return spectra.resample(xp.asarray(sound), speech.RATE, spectra.RATE, xp)


@pytest.mark.parametrize("pitch_hz", [85.0, 112.0, 160.0, 208.0, 290.0])
def test_the_fundamental_is_within_a_twentieth(pitch_hz: float, xp: Any) -> None:
    heard = to_host(pitch.yin(analysed(Speaker(pitch_hz, 1.1, 1.2), 3, xp), xp))
    assert np.nanmedian(heard) == pytest.approx(pitch_hz, rel=0.05)
    assert 0.3 < np.isfinite(heard).mean() < 0.95, "there are pauses, and what is no pause is mostly voiced"


@settings(deadline=None, max_examples=30)
@given(hertz=st.floats(60, 480), level=st.floats(1e-3, 1), phase=st.floats(0, 6.2))
def test_a_steady_tone_of_harmonics_is_heard_within_a_thousandth(hertz: float, level: float, phase: float) -> None:
    time = np.arange(4000) / spectra.RATE
    tone: Any = sum(np.sin(2 * np.pi * k * hertz * time + phase * k) / k for k in range(1, 9))
    np.testing.assert_allclose(pitch.yin((level * tone).astype(np.float32), np), hertz, rtol=1e-3)


@pytest.mark.parametrize(("loudness", "heard_hz"), [(0.001, 200), (0.5, 100)])
def test_a_hum_far_below_the_voice_is_not_heard_however_long_it_is_alone(
    loudness: float, heard_hz: float, xp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(voices, "_PIECE_SECONDS", 1.0)
    time = np.arange(spectra.RATE) / spectra.RATE
    voice, hum = (sum(np.sin(2 * np.pi * k * hertz * time) / k for k in range(1, 9)) / 4 for hertz in (200, 100))
    soundfile.write(tmp_path / "a.wav", np.concatenate([voice, *3 * [loudness * hum]]), spectra.RATE, subtype="FLOAT")
    heard = voices.listen(tmp_path / "a.wav", 60, lambda: None, xp)
    assert float(xp.median(heard.hertz)) == pytest.approx(heard_hz, rel=0.01)


def test_noise_and_silence_have_no_fundamental(xp: Any) -> None:
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    assert np.isfinite(to_host(pitch.yin(xp.asarray(noise), xp))).mean() < 0.02
    assert not np.isfinite(to_host(pitch.yin(xp.zeros(16_000, dtype=xp.float32), xp))).any()


def test_in_whatever_blocks_it_is_analysed_the_numbers_stay(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = analysed(LOW, 1, xp, 1.0)
    whole = to_host(spectra.mel_energy(samples, xp)), to_host(pitch.yin(samples, xp))
    monkeypatch.setattr(spectra, "_BLOCK", 7)
    monkeypatch.setattr(pitch, "_BLOCK", 7)
    for before, now in zip(whole, (spectra.mel_energy(samples, xp), pitch.yin(samples, xp)), strict=True):
        np.testing.assert_allclose(to_host(now), before, rtol=1e-4, atol=1e-5)


def test_cepstra_do_not_know_the_level_and_keep_distances_of_spectra(xp: Any) -> None:
    log_mel = np.random.default_rng(0).normal(size=(50, spectra.BANDS))
    found = to_host(spectra.cepstra(xp.asarray(log_mel), xp))
    np.testing.assert_allclose(to_host(spectra.cepstra(xp.asarray(log_mel + 3), xp)), found, atol=1e-12)
    centred = log_mel - log_mel.mean(axis=1, keepdims=True)
    assert ((found**2).sum(axis=1) <= (centred**2).sum(axis=1)).all(), "an orthonormal transform, some of it left out"


def test_a_few_words_in_a_long_pause_are_the_speech_of_it(xp: Any) -> None:
    words = analysed(LOW, 1, xp, 2.0)
    pause = xp.asarray(np.random.default_rng(0).standard_normal(100 * spectra.RATE).astype(np.float32) * 1e-5)
    log_mel = spectra.log_mel(xp.concatenate([pause, words]), xp)
    speech = to_host(spectra.is_speech(log_mel, xp))
    assert not speech[: 100 * spectra.RATE // spectra.HOP - 3].any()
    assert speech.sum() > 50


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
