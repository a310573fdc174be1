"""A speech recogniser that knows nothing of what was said: PocketSphinx with its own language model."""

import re
from difflib import SequenceMatcher
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from dihedral.data_plane.kernels import spectra

TEXT = (
    "The old man walked slowly along the beach. He was looking at the water and thinking about his family. "
    "It was a cold morning, and there was no one else to be seen."
)


@cache
def _decoder() -> Any:
    from pocketsphinx import Decoder

    return Decoder(samprate=spectra.RATE, loglevel="FATAL")


def heard(path: Path) -> list[str]:
    samples, rate = soundfile.read(path, dtype="float32")
    pcm = (np.clip(spectra.resample(samples, rate, spectra.RATE, np), -1, 1) * 32767).astype("<i2").tobytes()
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw(pcm, full_utt=True)
    decoder.end_utt()
    return decoder.hyp().hypstr.split() if decoder.hyp() else []


def share_heard(text: str, path: Path) -> float:
    """Of the text's words, in order."""
    said = re.findall(r"[a-z']+", text.lower())
    matches = SequenceMatcher(None, said, heard(path), autojunk=False).get_matching_blocks()
    return sum(block.size for block in matches) / len(said)
