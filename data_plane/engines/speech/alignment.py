"""The time of each word in a known sentence, found by PocketSphinx (extra `align`): English, for engines that do not report times themselves.

A word that its dictionary lacks would fail the whole sentence, so it is added first, pronounced as the embedded voice would.
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from dihedral.data_plane.engines.speech import embedded
from dihedral.data_plane.engines.speech.phonemes import ARPABET
from dihedral.data_plane.kernels import spectra
from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.media.speech_timing import Timed

FRAME_SECONDS = 0.01


def installed() -> bool:
    return find_spec("pocketsphinx") is not None


def aligned(words: list[str], samples: FloatArray, rate: int) -> tuple[list[Timed], list[Timed]] | None:
    """Returns (words, phonemes) in time; None where a word cannot be pronounced, or the sound is not that sentence."""
    decoder = _decoder()
    names = [_plain(word) for word in words]
    for name, word in zip(names, words, strict=True):
        if name and decoder.lookup_word(name) is None:
            sounds = " ".join(embedded.arpabet(word))
            if not sounds:
                return None
            decoder.add_word(name, sounds)
    heard = spectra.resample(samples, rate, spectra.RATE, np)
    pcm = (np.clip(heard, -1, 1) * 32767).astype("<i2").tobytes()
    try:
        decoder.set_align_text(" ".join(filter(None, names)))
        _hear(decoder, pcm)
        decoder.set_alignment()
        _hear(decoder, pcm)
        found = _timed(decoder)
    except RuntimeError:  # its only class: no path through the sound fits the text
        return None
    placed, phonemes = found
    if len(placed) != len([name for name in names if name]):
        return None
    times, spans, at = iter(placed), [], 0.0
    for name, word in zip(names, words, strict=True):
        start, at = next(times) if name else (at, at)
        spans.append(Timed(word, start, at))
    return spans, phonemes


@cache
def _decoder() -> Any:
    """Keeps the decoder for the life of the process, a slot's: words once added stay, and loading takes a third of a second."""
    from pocketsphinx import Decoder

    return Decoder(samprate=spectra.RATE, lm=None, loglevel="FATAL", bestpath=False)


def _hear(decoder: Any, pcm: bytes) -> None:
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()


def _timed(decoder: Any) -> tuple[list[tuple[float, float]], list[Timed]]:
    """The alignment is walked, never made a list: its entries are gone with the next step."""
    words: list[tuple[float, float]] = []
    phonemes: list[Timed] = []
    alignment = decoder.get_alignment()
    if alignment is None:
        return [], []
    for word in alignment:
        if word.name not in ("<sil>", "<s>", "</s>", "(NULL)") and not word.name.startswith("["):
            words.append((word.start * FRAME_SECONDS, (word.start + word.duration) * FRAME_SECONDS))
            for each in word:
                if sound := ARPABET.get(each.name.lower()):
                    phonemes.append(
                        Timed(sound, each.start * FRAME_SECONDS, (each.start + each.duration) * FRAME_SECONDS)
                    )
    return words, phonemes


def _plain(word: str) -> str:
    """Returns the word as the dictionary writes it; a word of other signs gets an invented name, a word without a sound gets none."""
    return "".join(letter for letter in word.lower().replace("’", "'") if letter.isalnum() or letter in "'-").strip(
        "'-"
    )
