"""Speakers who do not exist, by source and filter (Fant 1960): glottal pulses, each of which rings in the formants of a vowel.

Unlike dihedral/examples/speech.py, which adds harmonics, the source is a train of pulses in time: their distances jitter, their
strengths shimmer, and breath is noise under the same formants, so two sentences of a speaker are never alike.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Signal = np.ndarray[Any, np.dtype[np.float64]]

RATE = 16_000
RINGING = np.arange(400) / RATE  # 25 ms, after which the widest bandwidths have died away
# Formants in Hz of an adult man's vowels: Peterson & Barney, "Control methods" (1952), table II; the fourth as in Klatt (1980).
VOWELS = np.array(
    [
        (270, 2290, 3010, 3600),
        (530, 1840, 2480, 3500),
        (660, 1720, 2410, 3500),
        (730, 1090, 2440, 3500),
        (570, 840, 2410, 3400),
        (300, 870, 2240, 3400),
    ]
)
BANDWIDTHS = np.array((60, 90, 150, 200))  # Hz


class Person(NamedTuple):
    """pitch_hz: mean fundamental; throat: factor on the formants; tilt: a formant's strength falls by (F/500 Hz)^−tilt; breath: noise to voice."""

    pitch_hz: float
    throat: float
    tilt: float
    breath: float


def people(count: int, seed: int = 0) -> list[Person]:
    """Pitch and throat go together, as in people, but loosely: neighbours differ by a few per cent."""
    rng = np.random.default_rng(seed)
    found = []
    for along in np.linspace(0, 1, count):
        throat = 0.9 + 0.28 * along + rng.uniform(-0.03, 0.03)
        found.append(Person(95 * 2.4**along, throat, rng.uniform(0.5, 1.2), rng.uniform(0.01, 0.06)))
    return found


def say(person: Person, seconds: float, seed: int) -> Signal:
    """(seconds · RATE,) in −0.7..0.7: another seed is another sentence, in another mood: pitch and effort drift."""
    rng = np.random.default_rng([seed, round(1000 * person.pitch_hz)])
    pitch_hz, tilt = person.pitch_hz * rng.uniform(0.95, 1.05), person.tilt + rng.uniform(-0.1, 0.1)
    times, formants, strength = _pulses(rng, pitch_hz, person.throat, seconds)
    level = (formants / 500) ** -tilt * np.array((1.0, 0.7, 0.4, 0.3))
    start = np.ceil(times * RATE).astype(int)
    since = start[:, None] / RATE + RINGING - times[:, None]  # a pulse falls between samples
    rings = np.zeros_like(since)
    for each in range(formants.shape[1]):
        decay = np.exp(-np.pi * BANDWIDTHS[each] * since)
        rings += level[:, each, None] * decay * np.sin(2 * np.pi * formants[:, each, None] * since)
    noise = rng.standard_normal(rings.shape) * np.abs(rings)  # breath: loudest behind the pulse, coloured by nothing
    sound = np.zeros(int(seconds * RATE) + RINGING.size)
    np.add.at(sound, start[:, None] + np.arange(RINGING.size), strength[:, None] * (rings + person.breath * noise))
    sound = sound[: int(seconds * RATE)]
    sound += 0.001 * np.abs(sound).max() * rng.standard_normal(sound.size)  # the room
    return np.asarray(0.7 * sound / np.abs(sound).max())


def _pulses(rng: np.random.Generator, pitch_hz: float, throat: float, seconds: float) -> tuple[Signal, Signal, Signal]:
    """Times (n,), formants (n, 4) and strengths (n,) of the pulses: syllables that glide from vowel to vowel, then a breath."""
    times, formants, strength = [], [], []
    at, vowel = 0.02, VOWELS[rng.integers(len(VOWELS))]
    while at < seconds - 0.01:
        length, following = rng.uniform(0.12, 0.26), VOWELS[rng.integers(len(VOWELS))]
        begin, loud = at, rng.uniform(0.5, 1.0)
        melody = 1 + 0.08 * rng.standard_normal()
        while at < min(begin + length, seconds - 0.01):
            along = (at - begin) / length
            times.append(at)
            formants.append((vowel + (following - vowel) * min(1, 2.5 * along)) * throat)
            strength.append(loud * np.sin(np.pi * along) ** 0.5 * (1 + 0.05 * rng.standard_normal()))
            at += (1 + 0.01 * rng.standard_normal()) / (pitch_hz * melody * (1.05 - 0.1 * along))
        vowel = following
        if rng.random() < 0.2:
            at += rng.uniform(0.1, 0.3)
    return np.array(times), np.array(formants), np.array(strength)


def write(sound: Signal, path: Path, rate: int = RATE) -> Path:
    import soundfile

    soundfile.write(path, sound, rate, subtype="PCM_16")
    return path
