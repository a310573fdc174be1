"""Mouth shapes of speech: phonemes in time become nine shapes, and those a mouth that moves.

The shapes are the nine that hand-drawn animation has used since the 1930s, by the letters of Rhubarb Lip Sync: A closed for p b m, B teeth
together for most consonants and ee, C open, D wide open, E rounded, F puckered, G teeth on the lip for f v, H the tongue up for l, X at
rest. A vowel has an openness beside its shape: "ee" and "s" are drawn alike, but people open their mouth for the first.

A mouth is never in one shape and then in the next: poses are averages over SMOOTHED_SECONDS, as speech organs take about that long. Two
things must not be averaged away, because viewers notice them: a mouth closes for p, b and m however short they are, and in a pause.
Where the phonemes are not known, the loudness of the sound opens the mouth.
"""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from dihedral.data_plane.media.decode import FloatArray

Shape = Literal["A", "B", "C", "D", "E", "F", "G", "H", "X"]
SHAPES: tuple[Shape, ...] = ("A", "B", "C", "D", "E", "F", "G", "H", "X")

SMOOTHED_SECONDS = 0.05  # of a Hann window; a short vowel of 60 ms still opens the mouth
SHORTEST_PAUSE = 0.12  # seconds; between words that follow on each other the mouth stays as it is
FINE = 200  # moments a second that poses are averaged from
LOUD_DB, QUIET_DB = (
    -4.0,
    -30.0,
)  # below the loud parts: where a mouth that follows the loudness is wide open and where it is closed


class Phoneme(NamedTuple):
    """start, end: seconds."""

    symbol: str
    start: float
    end: float


class Viseme(NamedTuple):
    """start, end: seconds."""

    shape: Shape
    start: float
    end: float


class Pose(NamedTuple):
    """opening: 0 closed to 1; wide: −1 puckered to 1 drawn apart; teeth, tongue: how much of them is seen, 0..1."""

    opening: float
    wide: float
    teeth: float
    tongue: float


class _Sound(NamedTuple):
    shape: Shape
    pose: Pose
    share: float = 1.0  # of its phoneme's time


POSES: dict[Shape, Pose] = {
    "A": Pose(0.0, -0.1, 0.0, 0.0),
    "B": Pose(0.10, 0.25, 1.0, 0.0),
    "C": Pose(0.70, 0.20, 0.8, 0.6),
    "D": Pose(1.00, 0.05, 0.7, 0.7),
    "E": Pose(0.70, -0.45, 0.3, 0.4),
    "F": Pose(0.16, -1.00, 0.0, 0.0),
    "G": Pose(0.10, 0.05, 1.0, 0.0),
    "H": Pose(0.22, 0.05, 0.8, 1.0),
    "X": Pose(0.0, 0.0, 0.0, 0.0),
}

# By letters of the IPA: whatever language, a letter's shape is the same. Diphthongs are two letters.
_CONSONANTS: dict[str, tuple[Shape, Pose]] = {
    **dict.fromkeys("pbmɓʙ", ("A", POSES["A"])),
    **dict.fromkeys("fvʋⱱɱ", ("G", POSES["G"])),
    **dict.fromkeys("lɫɭʎɬɮɺ", ("H", POSES["H"])),
    **dict.fromkeys("wʍɥ", ("F", POSES["F"])),
    **dict.fromkeys("ʃʒʂʐɹɻʤʧɕʑ", ("B", POSES["B"]._replace(wide=-0.4))),
}
_VOWELS: dict[str, tuple[Shape, float]] = {
    **dict.fromkeys("iɪᵻɨ", ("B", 0.65)),
    **dict.fromkeys("yʏuʊʉɯ", ("F", 0.65)),
    **dict.fromkeys("oɔøœɤɵɞɜɝɚ", ("E", 0.75)),
    **dict.fromkeys("əᵊɐʌɘ", ("C", 0.65)),
    **dict.fromkeys("eɛ", ("C", 0.75)),
    **dict.fromkeys("æ", ("C", 0.9)),
    **dict.fromkeys("aɑɒɶ", ("D", 1.0)),
}
# What Kokoro's alphabet (misaki) writes as one capital letter.
_MISAKI = {"A": "eɪ", "I": "aɪ", "W": "aʊ", "Y": "ɔɪ", "O": "oʊ", "Q": "əʊ", "T": "ɾ", "R": "r", "S": "s"}
# ARPAbet, as flite and pocketsphinx write it, in letters of the IPA.
_ARPABET = {
    **{"aa": "ɑ", "ae": "æ", "ah": "ʌ", "ao": "ɔ", "aw": "aʊ", "ax": "ə", "axr": "ɚ", "ay": "aɪ", "eh": "ɛ", "er": "ɜ"},
    **{"ey": "eɪ", "ih": "ɪ", "ix": "ɨ", "iy": "i", "ow": "oʊ", "oy": "ɔɪ", "uh": "ʊ", "uw": "u", "ux": "ʉ"},
    **{"ch": "ʧ", "dh": "ð", "dx": "ɾ", "el": "l", "em": "m", "en": "n", "hh": "h", "jh": "ʤ", "ng": "ŋ", "sh": "ʃ"},
    **{"th": "θ", "zh": "ʒ", "y": "j"},
}
_SILENT = {"", "pau", "sil", "sp", "spn", "nsn", "h#", "#", "_", "_:", "ssil", "brth"}
_MARKS = "ˈˌ'ːˑ.,;:!?…—–-|‖ʰʲˠˤ̩̯̃͡‿^~*\"“”„()«»¡¿↗↘→ \t\n0123456789"
_VOWEL_BY_TIME = 0.6  # share of the first half of a diphthong: it is the stressed one


def visemes(phonemes: Iterable[Phoneme], seconds: float) -> list[Viseme]:
    """Shapes from 0 to `seconds` without gaps, X in pauses."""
    found: list[Viseme] = []
    for sound, start, end in _sounds(list(phonemes), seconds):
        if found and found[-1].shape == sound.shape:
            found[-1] = found[-1]._replace(end=end)
        else:
            found.append(Viseme(sound.shape, start, end))
    return found


def poses(phonemes: Iterable[Phoneme], seconds: float, fps: float, count: int) -> FloatArray:
    """(count, 4) float32: a Pose for each frame, in the middle of its time."""
    timed = _sounds(list(phonemes), seconds)
    moments = np.zeros((max(1, round(seconds * FINE)), 4), dtype=np.float32)
    for sound, start, end in timed:
        moments[round(start * FINE) : max(round(end * FINE), round(start * FINE) + 1)] = sound.pose
    made = _sampled(moments, fps, count)
    for sound, start, end in timed:
        if sound.shape == "A":  # at least the frame in whose time the middle of it lies
            middle = int((start + end) / 2 * fps)
            made[max(0, min(middle, round(start * fps))) : max(middle + 1, round(end * fps)), 0] = 0
    return made


def by_loudness(samples: FloatArray, rate: int, fps: float, count: int) -> FloatArray:
    """(count, 4) float32: poses of a mouth that opens as the sound gets louder, drawn apart where it hisses."""
    hop = max(1, round(rate / FINE))
    frames = np.resize(samples, max(1, -(-samples.size // hop)) * hop).reshape(-1, hop).astype(np.float64)
    decibels = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    loud = (decibels - np.percentile(decibels, 95) - QUIET_DB) / (LOUD_DB - QUIET_DB)
    opening = np.clip(loud, 0, 1) * (decibels > -60)
    hiss = (
        (np.diff(np.signbit(frames), axis=1)).mean(axis=1) * rate / 8000
    )  # zero crossings: about 1 in an s, 0.2 in an o
    hissing = np.clip(2 * hiss - 0.6, 0, 1) * (opening > 0)
    opening *= 1 - 0.8 * hissing
    moments = np.stack((opening, 0.5 * hissing - 0.15 * opening, np.ones_like(opening), opening), axis=1)
    return _sampled((moments * (opening > 0)[:, None]).astype(np.float32), fps, count)


def shapes_of(frames: FloatArray, fps: float) -> list[Viseme]:
    """The shapes that come nearest to poses which no phonemes are behind; frames: (count, 4)."""
    found: list[Viseme] = []
    for number, (opening, wide, _, _) in enumerate(frames.tolist()):
        shape: Shape = "X" if opening < 0.05 else "B" if opening < 0.3 or wide > 0.2 else "C" if opening < 0.75 else "D"
        if found and found[-1].shape == shape:
            found[-1] = found[-1]._replace(end=(number + 1) / fps)
        else:
            found.append(Viseme(shape, number / fps, (number + 1) / fps))
    return found


def is_vowel(symbol: str, arpabet: bool = False) -> bool:
    return any(letter in _VOWELS for letter in letters(symbol, arpabet))


def letters(symbol: str, arpabet: bool) -> str:
    """A phoneme's symbol in letters of the IPA, without marks; nothing where it is silent."""
    if symbol.lower() in _SILENT:
        return ""
    if arpabet:
        bare = symbol.rstrip("0123456789").lower()
        return _ARPABET.get(bare, bare)
    return "".join(_MISAKI.get(letter, letter) for letter in symbol if letter not in _MARKS)


def in_arpabet(phonemes: Iterable[Phoneme]) -> bool:
    """Returns True when symbols are ARPAbet's: it is the only alphabet with these pairs of letters."""
    return any(len(bare := each.symbol.rstrip("012").lower()) > 1 and bare in _ARPABET for each in phonemes)


def _sounds(phonemes: list[Phoneme], seconds: float) -> list[tuple[_Sound, float, float]]:
    """Fills 0 to `seconds` without gaps: short gaps belong to what is before them, long ones are at rest."""
    arpabet, rest = in_arpabet(phonemes), _Sound("X", POSES["X"])
    found: list[tuple[_Sound, float, float]] = []
    reached = 0.0
    for each in sorted(phonemes, key=lambda phoneme: phoneme.start):
        spoken = letters(each.symbol, arpabet)
        start, end = max(each.start, reached), min(each.end, seconds)
        if not spoken or end <= start:
            continue
        if start - reached >= SHORTEST_PAUSE or not found:
            if start > 0:
                found.append((rest, reached, start))
        else:
            found[-1] = (*found[-1][:2], start)
        parts = [_sound(letter) for letter in spoken]
        if len(parts) == 2:
            parts = [parts[0]._replace(share=_VOWEL_BY_TIME), parts[1]._replace(share=1 - _VOWEL_BY_TIME)]
        whole, at = sum(part.share for part in parts), start
        for part in parts:
            until = end if part is parts[-1] else at + (end - start) * part.share / whole
            found.append((part, at, until))
            at = until
        reached = end
    if reached < seconds:
        found.append((rest, reached, seconds))
    return found


def _sound(letter: str) -> _Sound:
    if letter in _VOWELS:
        shape, opening = _VOWELS[letter]
        return _Sound(shape, POSES[shape]._replace(opening=opening, teeth=min(POSES[shape].teeth, 0.8)))
    return _Sound(*_CONSONANTS.get(letter, ("B", POSES["B"])))


def _sampled(moments: FloatArray, fps: float, count: int) -> FloatArray:
    """(n, 4) at FINE a second -> (count, 4) in the middle of each frame: averaged by a Hann window, beyond the end as at the end."""
    width = round(SMOOTHED_SECONDS * FINE / 2) * 2 + 1
    window: Any = np.hanning(width + 2)[1:-1]
    window /= window.sum()
    padded = np.pad(moments, ((width // 2, width // 2), (0, 0)), mode="edge")
    smooth = np.stack([np.convolve(padded[:, column], window, mode="valid") for column in range(4)], axis=1)
    middles = np.minimum(((np.arange(count) + 0.5) / fps * FINE).astype(int), len(smooth) - 1)
    sampled: FloatArray = smooth[middles].astype(np.float32)
    return sampled
