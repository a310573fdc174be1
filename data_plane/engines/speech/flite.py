"""flite, where it is installed: English, a few small voices, plain but clear. It prints when each phoneme ends."""

import tempfile
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path

from dihedral.data_plane.engines.speech import process
from dihedral.data_plane.engines.speech.engine import Spoken, VoiceEntry, unavailable
from dihedral.data_plane.engines.speech.phonemes import ARPABET
from dihedral.data_plane.media.speech_timing import Timed


@cache
def voices() -> list[VoiceEntry]:
    said = process.listed(["flite", "-lv"])
    names = sorted(set(said.partition(":")[2].split()), key=lambda name: (name != "slt", name))
    return [VoiceEntry(f"flite:{name}", f"flite {name}", "en-US") for name in names if not name.startswith("awb_")]


class Flite:
    name = "flite"
    longest = 400
    scripts = frozenset({"LATIN"})
    language = "en-US"

    def __init__(self, voice: str) -> None:
        """Raises: TaskError `voice_unavailable`."""
        known = [each.id.partition(":")[2] for each in voices()]
        voice = voice or next(iter(known), "slt")
        self.voice = f"flite:{voice}"
        if voice not in known:
            raise unavailable(
                self.voice, f"there are {', '.join(known)}" if known else "flite is not installed (apt install flite)"
            )

    def speak(self, sentence: str, speed: float, seed: int, check: Callable[[], None]) -> Spoken:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "speech.wav")
            (Path(folder) / "text").write_text(sentence)
            command = ["flite", "-voice", self.voice.partition(":")[2], "--setf", f"duration_stretch={1 / speed:.3f}", "-psdur",
                       "-f", "text", "-o", "speech.wav"]  # fmt: skip
            said = process.run(self.name, command, "", Path(folder), check)
            samples, rate = process.recording(self.name, path)
        ends = [(symbol, float(end)) for symbol, _, end in (each.partition(":") for each in said.split()) if end]
        phonemes = [
            Timed(ARPABET[symbol], start, end)
            for (_, start), (symbol, end) in pairwise([("", 0.0), *ends])
            if symbol in ARPABET
        ]
        return Spoken(samples, rate, None, phonemes)
