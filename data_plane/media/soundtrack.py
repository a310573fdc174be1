"""The sound under a video: recordings one after another, brought near to a voice, over a background."""

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule, to_host
from dihedral.data_plane.kernels import spectra
from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.model_files import Voice

RATE = 48_000  # Hz, what video players expect
LOUDEST = 0.95  # peak: the codec may overshoot a little
STRONGEST_DB = 12.0  # of the equaliser, either way: beyond it noise comes up
ANALYSED_SECONDS = 60  # of the sound: its mean spectrum is stable by then
SMOOTHING = (1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9)  # over bands: the low ones resolve single harmonics of the pitch
FADE_SECONDS = 0.05  # where a recording is cut: a jump would click
BACKGROUND_FADE_SECONDS = 1.0


def narration(samples: Array, rate: int, voice: Voice | None, xp: ArrayModule) -> FloatArray:
    """(n,) at rate -> (ceil(n·RATE/rate),) on the host: equalised towards the voice, as loud as before."""
    if voice is not None:
        shaped = spectra.equalise(samples, rate, to_host(gains_db(samples, rate, voice, xp)), xp)
        power, shaped_power = ((x.astype(xp.float64) ** 2).mean() for x in (samples, shaped))
        samples = (shaped * xp.sqrt(power / (shaped_power + 1e-20))).astype(xp.float32)
    resampled: FloatArray = to_host(spectra.resample(samples, rate, RATE, xp))
    return resampled


def mixed(spoken: FloatArray, background: FloatArray | None, gain_db: float, seconds: float) -> FloatArray:
    """Both at RATE -> (round(seconds · RATE),): what is too long is faded out and cut, a background that is too short begins anew.

    The whole becomes quieter where it would clip.
    """
    sound = np.zeros(round(seconds * RATE), dtype=np.float32)
    heard = min(spoken.size, sound.size)
    sound[:heard] = spoken[:heard]
    _fade_out(sound[:heard], FADE_SECONDS)
    if background is not None:
        under = np.resize(background, sound.size) * np.float32(10 ** (gain_db / 20))
        _fade_out(under, BACKGROUND_FADE_SECONDS)
        sound += under
    loudest = float(np.abs(sound).max(initial=0.0))
    return sound * np.float32(LOUDEST / loudest) if loudest > LOUDEST else sound


def gains_db(samples: Array, rate: int, voice: Voice, xp: ArrayModule) -> Array:
    """(BANDS,) dB: from the mean spectrum of the samples' speech to the voice's, smoothed over neighbours and bounded.

    Levels are aligned by the median band, so that bands which one of the two recordings lacks do not lift all others.
    """
    analysed = spectra.resample(samples[: ANALYSED_SECONDS * rate], rate, spectra.RATE, xp)
    spoken = spectra.speech_frames(analysed, xp)
    wanted = (xp.asarray(voice.mean_log_mel) - spoken.mean(axis=0)) * (10 / np.log(10))
    padded = xp.pad(wanted - xp.median(wanted), 2, mode="edge")
    smooth = sum(weight * padded[at : at + wanted.size] for at, weight in enumerate(SMOOTHING))
    return xp.clip(smooth, -STRONGEST_DB, STRONGEST_DB)


def _fade_out(samples: FloatArray, seconds: float) -> None:
    length = min(round(seconds * RATE), samples.size)
    samples[samples.size - length :] *= np.linspace(1, 0, length, dtype=np.float32)
