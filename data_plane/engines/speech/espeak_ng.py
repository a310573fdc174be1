"""espeak-ng, where it is installed: over a hundred languages, small and mechanical. It is a separate program (GPL-3); nothing of it is loaded here."""

import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

from dihedral.data_plane.engines.speech import process
from dihedral.data_plane.engines.speech.engine import Spoken, VoiceEntry, unavailable

USUAL_WORDS_A_MINUTE = 175  # the program's default, at speed 1
_LATIN = frozenset({"LATIN"})
_SCRIPTS = {
    **dict.fromkeys(("ru", "uk", "bg", "mk", "be", "kk", "ky", "tt", "ba", "cv"), frozenset({"LATIN", "CYRILLIC"})),
    **dict.fromkeys(("sr", "bs"), frozenset({"LATIN", "CYRILLIC"})), **dict.fromkeys(("el", "grc"), frozenset({"LATIN", "GREEK"})),
    **dict.fromkeys(("ar", "fa", "ur", "sd", "ug"), frozenset({"LATIN", "ARABIC"})), "he": frozenset({"LATIN", "HEBREW"}),
    "ja": frozenset({"LATIN", "HIRAGANA", "KATAKANA", "CJK"}), **dict.fromkeys(("cmn", "yue", "hak"), frozenset({"LATIN", "CJK"})),
    "ko": frozenset({"LATIN", "HANGUL"}), **dict.fromkeys(("hi", "mr", "ne", "kok"), frozenset({"LATIN", "DEVANAGARI"})),
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "nb", "fi", "pl", "cs", "sk", "hu", "ro", "tr", "ca", "hr", "sl", "et",
                     "lv", "lt", "sq", "is", "id", "ms", "vi", "sw", "cy", "ga", "eu", "af", "eo", "la"), _LATIN),
}  # fmt: skip
"""The scripts that a voice reads; voices of languages that are not listed are not judged."""


@cache
def voices() -> list[VoiceEntry]:
    rows = [line.split() for line in process.listed(["espeak-ng", "--voices"]).splitlines()[1:]]
    return [VoiceEntry(f"espeak:{row[1]}", row[3].replace("_", " "), row[1]) for row in rows if len(row) >= 4]


class EspeakNg:
    name = "espeak"
    longest = 1000

    def __init__(self, voice: str) -> None:
        """Raises: TaskError `voice_unavailable`."""
        known = [each.language for each in voices()]
        voice = voice or "en-gb"
        self.voice, self.language = f"espeak:{voice}", voice
        if not known:
            raise unavailable(self.voice, "espeak-ng is not installed (apt install espeak-ng)")
        if voice not in known:
            raise unavailable(self.voice, f"espeak-ng has {', '.join(known[:40])} and others (espeak-ng --voices)")
        self.scripts = _SCRIPTS.get(voice.partition("-")[0])

    def speak(self, sentence: str, speed: float, seed: int, check: Callable[[], None]) -> Spoken:
        with tempfile.TemporaryDirectory() as folder:
            rate = str(round(USUAL_WORDS_A_MINUTE * speed))
            command = ["espeak-ng", "-v", self.language, "-s", rate, "-b", "1", "-w", "speech.wav", "--stdin"]
            process.run(self.name, command, sentence, Path(folder), check)
            return Spoken(*process.recording(self.name, Path(folder, "speech.wav")))
