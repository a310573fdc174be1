"""Speech-like sound of a speaker who does not exist: harmonics of a gliding pitch under the formants of vowels.

Source and filter (Fant 1960): the k-th harmonic of the pitch has the amplitude of the glottal slope times the formant
resonances at its frequency. Syllables have an envelope, every third or so begins with a hiss, phrases end in a pause.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Signal = np.ndarray[Any, np.dtype[np.float64]]

RATE = 22_050  # Hz

# First three formants in Hz of an adult man's vowels: Peterson & Barney, "Control methods" (1952), table II.
_VOWELS = np.array(
    [(270, 2290, 3010), (530, 1840, 2480), (660, 1720, 2410), (730, 1090, 2440), (570, 840, 2410), (300, 870, 2240)]
)
_BANDWIDTHS = np.array((60, 90, 150))  # Hz


class Speaker(NamedTuple):
    """pitch_hz: mean fundamental; formants: factor on them (shorter throat > 1); slope: harmonics fall by 1/k^slope."""

    pitch_hz: float
    formants: float
    slope: float


LOW = Speaker(pitch_hz=112.0, formants=1.0, slope=1.5)  # a dark voice
HIGH = Speaker(pitch_hz=208.0, formants=1.17, slope=0.8)  # a bright one


def speak(speaker: Speaker, seconds: float, seed: int) -> Signal:
    """Returns (seconds · RATE,) in −0.7..0.7: another seed gives other words in the same voice."""
    rng = np.random.default_rng(seed)
    count = int(seconds * RATE)
    formants, loudness, hiss = _plan(rng, count)
    time = np.arange(count) / RATE
    # The pitch swings around its mean by a few per cent: melody, and a slow drift, as in speech.
    pitch = speaker.pitch_hz * (1 + 0.04 * np.sin(2 * np.pi * 0.7 * time) + 0.015 * np.sin(2 * np.pi * 2.3 * time + 1))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    voice = np.zeros(count)
    centres = np.ascontiguousarray(
        (formants * speaker.formants).T
    )  # a row a formant: loops over samples, not over three
    for harmonic in range(1, int(0.45 * RATE / speaker.pitch_hz / 1.06) + 1):
        response = _resonance(harmonic * pitch, centres)
        voice += response / harmonic**speaker.slope * np.sin(harmonic * phase)
    voice *= loudness / np.abs(voice).max()
    noise = np.diff(rng.standard_normal(count + 2), n=2)  # twice differenced: a bright hiss
    sound = voice + 0.03 * hiss * noise + 0.0005 * rng.standard_normal(count)
    return np.asarray(0.7 * sound / np.abs(sound).max())


def write(sound: Signal, path: Path) -> None:
    """Writes a mono 16-bit WAV at RATE."""
    import soundfile

    soundfile.write(path, sound, RATE, subtype="PCM_16")


def _plan(rng: np.random.Generator, count: int) -> tuple[Signal, Signal, Signal]:
    """Formants (count, 3) in Hz, loudness of the voice (count,) and of the hiss (count,), over syllables and pauses."""
    formants = np.empty((count, 3))
    loudness, hiss = np.zeros(count), np.zeros(count)
    vowel, at, spoken = _VOWELS[3], 0, 0
    while at < count:
        if spoken >= rng.integers(5, 9):  # a phrase of five to eight syllables, then a breath
            pause = int(rng.uniform(0.18, 0.3) * RATE)
            formants[at : at + pause] = vowel
            at, spoken = at + pause, 0
            continue
        length = int(rng.uniform(0.14, 0.26) * RATE)
        following = _VOWELS[rng.integers(len(_VOWELS))]
        glide = np.clip(np.linspace(0, 2.5, length), 0, 1)[:, None]  # 40 % of the syllable moves to its vowel
        end = min(at + length, count)
        formants[at:end] = (vowel + (following - vowel) * glide)[: end - at]
        loudness[at:end] = (np.sin(np.pi * np.linspace(0, 1, length)) ** 0.6 * rng.uniform(0.6, 1.0))[: end - at]
        if rng.random() < 0.35:
            onset = min(int(0.06 * RATE), end - at)
            hiss[at : at + onset] = np.hanning(onset) if onset > 2 else 0
            loudness[at : at + onset] *= np.linspace(0, 1, onset) ** 2
        vowel, at, spoken = following, end, spoken + 1
    return formants, loudness, hiss


def _resonance(frequency: Signal, centres: Signal) -> Signal:
    """(count,) Hz under formants centred at (3, count) Hz -> (count,): parallel second-order resonators, the higher weaker."""
    squared = frequency * frequency
    response = np.zeros_like(frequency)
    for centre, bandwidth, weight in zip(centres, _BANDWIDTHS, (1.0, 0.6, 0.35), strict=True):
        away = centre * centre - squared
        response += weight * bandwidth * centre / np.sqrt(away * away + bandwidth**2 * squared)
    return response
