"""espeak-ng, where it is installed: over a hundred languages, small and mechanical. It is a separate program (GPL-3); nothing of it is loaded here."""

import json
import re
import sys
import tempfile
from bisect import bisect_right
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from dihedral.data_plane.engines.speech import process
from dihedral.data_plane.engines.speech.engine import Spoken, VoiceEntry, unavailable
from dihedral.data_plane.media.speech_timing import Span, Timed, spread, weight

EVENTS = str(Path(__file__).with_name("espeak_events.py"))
USUAL_WORDS_A_MINUTE = 175  # the program's default, at speed 1
_LATIN = frozenset({"LATIN"})
_SCRIPTS = {
    **dict.fromkeys(("ru", "uk", "bg", "mk", "be", "kk", "ky", "tt", "ba", "cv"), frozenset({"LATIN", "CYRILLIC"})),
    **dict.fromkeys(("sr", "bs"), frozenset({"LATIN", "CYRILLIC"})), **dict.fromkeys(("el", "grc"), frozenset({"LATIN", "GREEK"})),
    **dict.fromkeys(("ar", "fa", "ur", "sd", "ug"), frozenset({"LATIN", "ARABIC"})), "he": frozenset({"LATIN", "HEBREW"}),
    "ja": frozenset({"LATIN", "HIRAGANA", "KATAKANA"}), **dict.fromkeys(("cmn", "yue", "hak"), frozenset({"LATIN", "CJK"})),
    "ko": frozenset({"LATIN", "HANGUL"}), **dict.fromkeys(("hi", "mr", "ne", "kok"), frozenset({"LATIN", "DEVANAGARI"})),
    **dict.fromkeys(("en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "nb", "fi", "pl", "cs", "sk", "hu", "ro", "tr", "ca", "hr", "sl", "et",
                     "lv", "lt", "sq", "is", "id", "ms", "vi", "sw", "cy", "ga", "eu", "af", "eo", "la"), _LATIN),
}  # fmt: skip
"""The scripts that a voice reads; voices of languages that are not listed are not judged. Of 世界 the Japanese one says "Chinese letter" twice."""


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
        rate = str(round(USUAL_WORDS_A_MINUTE * speed))
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            heard = json.loads(
                process.run(
                    self.name, [sys.executable, "-S", "-E", EVENTS, self.language, rate], sentence, folder, check
                )
            )
            if heard:
                samples, hertz = process.recording(self.name, folder / "speech.wav")
                words = words_at(sentence, heard["words"], heard["phonemes"], heard["ms"])
                return Spoken(samples, hertz, words, phonemes_at(heard["phonemes"], heard["ms"]))
            command = ["espeak-ng", "-v", self.language, "-s", rate, "-b", "1", "-w", "speech.wav", "--stdin"]
            process.run(self.name, command, sentence, folder, check)
            return Spoken(*process.recording(self.name, folder / "speech.wav"))


def words_at(sentence: str, events: list[list[int]], phonemes: list[list[Any]], ends_ms: int) -> list[Timed]:
    """The words as they are written, from the first to the last sound of what espeak-ng said for each. `events`: (position, letters, ms).

    It says several words for one that is written (7:30), and one for several (of the), which share its time by letters.
    """
    written = [(found.start(), found.group()) for found in re.finditer(r"\S+", sentence)]
    starts = [start for start, _ in written]
    sounds = phonemes_at(phonemes, ends_ms)
    heard: dict[int, Span] = {}
    for number, (position, _, begins_ms) in enumerate(events):
        until_ms = events[number + 1][2] if number + 1 < len(events) else ends_ms
        own = [sound for sound in sounds if begins_ms / 1000 <= sound.start < until_ms / 1000]
        if not own:  # a sign, or a word that was said with the one before
            continue
        place = max(0, bisect_right(starts, position) - 1)
        if place + 1 < len(written) and position >= starts[place] + len(written[place][1]):
            place += 1  # it points before the word
        known = heard.get(place, Span(own[0].start, own[-1].end))
        heard[place] = Span(min(known.start, own[0].start), max(known.end, own[-1].end))
    together: dict[int, list[int]] = {}  # by the word that is heard, those that are heard with it
    for place, (_, word) in enumerate(written):
        if place in heard or not together:
            together[place] = [place]
        elif any(letter.isalnum() for letter in word):
            together[max(together)].append(place)
    spans: dict[int, Span] = {}
    for first, places in together.items():
        shares = spread([weight(written[place][1]) for place in places], [heard.get(first, Span(0.0, 0.0))])
        spans |= dict(zip(places, shares, strict=True))
    found, at = [], 0.0
    for place, (_, word) in enumerate(written):
        span = spans.get(place, Span(at, at))
        start = max(at, span.start)
        at = max(start, span.end)
        found.append(Timed(word, start, at))
    return found


def phonemes_at(events: list[list[Any]], ends_ms: int) -> list[Timed]:
    """Without pauses, stress and the names of languages that espeak-ng switches to, such as (en)."""
    times = [ms for _, ms in events] + [ends_ms]
    named = [(symbol.strip("ˈˌ"), begins, until) for (symbol, begins), until in zip(events, times[1:], strict=True)]
    return [
        Timed(symbol, begins / 1000, until / 1000)
        for symbol, begins, until in named
        if symbol and symbol[0] not in "(_" and until > begins
    ]
