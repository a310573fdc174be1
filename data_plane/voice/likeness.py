"""A recording brought nearer to a speaker, as far as pitch and timbre go. Not a clone: the articulation stays the recording's.

1. Pitch: log F0 gets the speaker's mean and spread (Chappell & Hansen 1998), by overlapping periods at new distances (TD-PSOLA, Moulines &
   Charpentier 1990), which leaves the spectral envelope and every word's time as they are.
2. Throat: the frequency axis is stretched by the one of FACTORS whose cepstra are most likely under the speaker's mixture (Lee & Rose
   1996, there the other way round). The envelope alone moves: each frame's is its liftered cepstrum.
3. Mean spectrum: an equaliser between the two means, bounded (`soundtrack.gains_db`).
"""

from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.kernels import mixture, pitch, spectra
from dihedral.data_plane.media import soundtrack
from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.model_files import Voice

FACTORS = tuple(1.025**step for step in range(-6, 4))
"""0.86 to 1.08, as far as words stay clear: at 1.16 a recogniser recognised 61 % of the words of the installed voice, at 1.1 85 %, at 0.9 97 %."""
USUAL_SPREAD = 0.18  # of log F0 in read speech, for voices that do not store theirs
STRONGEST_SHIFT = 1.8  # times the pitch, either way: beyond it periods hardly overlap
ANALYSED_SECONDS = 60
UNVOICED_SECONDS = 0.005  # between marks where there is no period
_FRAME, _HOP = 1024, 256
_QUEFRENCIES = 0.0012  # seconds of the cepstrum that are the envelope: below the period of 500 Hz
_FRAMES_HEARD = 2000  # of the recording, for the choice of the factor


class Change(NamedTuple):
    """semitones: that the pitch moved; 0 where one of the two has none. factor: on the formants."""

    semitones: float
    factor: float


def resembled(samples: FloatArray, rate: int, voice: Voice) -> tuple[FloatArray, Change]:
    """(n,) -> (n,), with the same words at the same times."""
    heard = spectra.resample(samples, rate, spectra.RATE, np)
    moved, semitones = _with_pitch(samples, rate, heard, voice)
    factor = _likeliest_factor(spectra.resample(moved[: ANALYSED_SECONDS * rate], rate, spectra.RATE, np), voice)
    shaped = _with_envelope(moved, rate, factor)
    for _ in range(2):  # the first time smooths and bounds away a part of what is left
        gains = soundtrack.gains_db(shaped, rate, voice, np)
        shaped = spectra.equalise(shaped, rate, gains, np)
    power, before = ((each.astype(np.float64) ** 2).mean() for each in (shaped, samples))
    return (shaped * np.sqrt(before / (power + 1e-20))).astype(np.float32), Change(semitones, factor)


# Pitch --------------------------------------------------------------------------------------------------------------


def _with_pitch(samples: FloatArray, rate: int, heard: FloatArray, voice: Voice) -> tuple[FloatArray, float]:
    if voice.f0_hz is None or heard.size < pitch.FRAME:
        return samples, 0.0
    hertz = pitch.yin(heard, np)
    known = hertz[np.isfinite(hertz)]
    if known.size < 10:
        return samples, 0.0
    centre = float(np.median(known))
    logs = np.log(hertz / centre)
    logs[np.abs(logs) > 0.7] = np.nan  # an octave wrong
    spread = float(np.nanstd(logs)) or USUAL_SPREAD
    wider = np.clip((voice.f0_spread or USUAL_SPREAD) / spread, 0.5, 2.0)
    shift = float(np.clip(voice.f0_hz / centre, 1 / STRONGEST_SHIFT, STRONGEST_SHIFT))
    wanted = centre * shift * np.exp(logs * wider)
    own = centre * np.exp(logs)
    times = (np.arange(hertz.size) * spectra.HOP + pitch.FRAME / 2) / spectra.RATE
    return _overlapped(samples, rate, times, own, wanted), float(12 * np.log2(shift))


def _overlapped(samples: FloatArray, rate: int, times: Any, own: Any, wanted: Any) -> FloatArray:
    """times: (frames,) seconds, at which the pitch is `own` and shall be `wanted`, NaN where there is none."""
    step = times[1] - times[0] if times.size > 1 else 0.01
    frame_of = np.clip(np.round((np.arange(samples.size) / rate - times[0]) / step).astype(int), 0, times.size - 1)
    period = np.where(np.isfinite(own), rate / own, UNVOICED_SECONDS * rate)[frame_of]
    target = np.where(np.isfinite(wanted), rate / wanted, UNVOICED_SECONDS * rate)[frame_of]
    voiced = np.isfinite(own)[frame_of]
    marks = _marks(samples, period, voiced)
    if not marks.size:
        return samples
    out = np.zeros(samples.size, np.float32)
    weight = np.zeros(samples.size, np.float32)
    at, nearest = float(marks[0]), 0
    while at < samples.size:
        while nearest + 1 < marks.size and abs(marks[nearest + 1] - at) <= abs(marks[nearest] - at):
            nearest += 1
        mark, middle = int(marks[nearest]), round(at)
        half = int(period[mark])
        start, end = max(-half, -mark, -middle), min(half, samples.size - mark, samples.size - middle)
        window = np.hanning(2 * half + 1)[half + start : half + end].astype(np.float32)
        out[middle + start : middle + end] += samples[mark + start : mark + end] * window
        weight[middle + start : middle + end] += window
        at += float(target[min(middle, samples.size - 1)])
    return np.asarray(out / np.maximum(weight, np.float32(0.6)), dtype=np.float32)


def _marks(samples: FloatArray, period: Any, voiced: Any) -> Any:
    """Returns where a period begins: the loudest sample near the place that the last one and its length predict."""
    found: list[int] = []
    at = 0
    while at < samples.size:
        if voiced[at]:
            reach = max(1, int(0.3 * period[at]))
            first = max(found[-1] + 1 if found else 0, at - reach)
            near = samples[first : at + reach]
            at = first + int(near.argmax()) if near.size else at
        found.append(at)
        at += max(1, int(period[at]))
    return np.array(found)


# Timbre -------------------------------------------------------------------------------------------------------------


def _likeliest_factor(heard: FloatArray, voice: Voice) -> float:
    frames = spectra.frames_of(heard, spectra.FRAME, spectra.HOP, np)
    power = np.abs(np.fft.rfft(frames * np.hanning(spectra.FRAME + 1)[:-1], axis=1)) ** 2
    plain = spectra.log_energy(power @ spectra.mel_filters(np).T, np)
    spoken = np.flatnonzero(spectra.is_speech(plain, np))
    power = power[spoken[:: max(1, spoken.size // _FRAMES_HEARD)]]
    bins = np.arange(power.shape[1])

    def likelihood(factor: float) -> float:
        stretched = np.stack([np.interp(bins / factor, bins, row) for row in power])
        log_mel = spectra.audible(spectra.log_energy(stretched @ spectra.mel_filters(np).T, np), np)
        return mixture.log_likelihood(spectra.cepstra(log_mel, np).astype(np.float64), voice.mixture, np)

    return max(FACTORS, key=likelihood)


def _with_envelope(samples: FloatArray, rate: int, factor: float) -> FloatArray:
    """Moves formants to `factor` times their frequency: each frame is filtered by its stretched envelope over the original one."""
    window = np.hanning(_FRAME + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, (_FRAME, 2 * _FRAME))
    out, weight = np.zeros(padded.size, np.float32), np.zeros(padded.size, np.float32)
    lifter = np.zeros(_FRAME)
    kept = int(_QUEFRENCIES * rate)
    lifter[:kept] = lifter[-kept + 1 :] = 1
    bins = np.arange(_FRAME // 2 + 1)
    source = np.clip(bins / factor, 0, bins[-1])
    low = source.astype(int)
    share = source - low
    high = np.minimum(low + 1, bins[-1])
    for start in range(0, padded.size - _FRAME, _HOP):
        spectrum = np.fft.rfft(padded[start : start + _FRAME] * window)
        log = np.log(np.abs(spectrum) + 1e-6)
        envelope = np.fft.rfft(np.fft.irfft(log) * lifter).real
        gain = np.exp(np.clip(envelope[low] * (1 - share) + envelope[high] * share - envelope, -4, 4))
        out[start : start + _FRAME] += np.fft.irfft(spectrum * gain).astype(np.float32) * window
        weight[start : start + _FRAME] += window * window
    return np.asarray((out / np.maximum(weight, 1e-3))[_FRAME : _FRAME + samples.size], dtype=np.float32)
