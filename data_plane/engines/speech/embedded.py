"""The voice that is installed with Dihedral: hibari-tts, English, run by ONNX Runtime. No other file depends on that package.

The network computes how long each phoneme lasts (25 ms steps) and keeps that to itself. A graph file is a protobuf message, and a message that
is appended to another is merged into it, so one more output is declared by appending a few bytes. The name of that tensor belongs to the
exact version that pyproject.toml names. Without the tensor the voice still speaks, and words are placed by other means.
"""

import re
from collections.abc import Callable, Iterator
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from dihedral.data_plane.engines.speech.engine import Spoken, VoiceEntry, engine_failed, unavailable
from dihedral.data_plane.engines.speech.phonemes import MISAKI, MODIFIERS, arpabet_of
from dihedral.data_plane.engines.speech.placing import matched
from dihedral.data_plane.media.speech_timing import Timed

RATE = 24_000
STEP_SECONDS = 0.025
EARLY_SECONDS = 0.06  # a phoneme sounds so much earlier than the network's count claims
_LONG_NUMBER = re.compile(r"\d[\d,]{17,}")  # has no name as a number: its figures are read
_DURATIONS = b"/Cast_32_output_0"


def voices() -> list[VoiceEntry]:
    """Returns the voices whose files lie here: one comes with the package, users may have fetched others. Nothing is downloaded."""
    if find_spec("hibari") is None or find_spec("onnxruntime") is None:
        return []
    from hibari.voices import VOICES, cache_dir

    here = [name for name, each in VOICES.items() if each.get("bundled") or Path(cache_dir(), each["file"]).exists()]
    return [VoiceEntry(f"embedded:{name}", f"{name.capitalize()} ({VOICES[name]['accent']})", "en-GB" if VOICES[name]["british"] else "en-US")
            for name in here]  # fmt: skip


def arpabet(word: str) -> list[str]:
    """Returns the pronunciation of the word, in CMU's names; empty where no dictionary here has it."""
    return arpabet_of(_g2p()(word)) if voices() else []


@cache
def _g2p() -> Any:
    from hibari.g2p import G2P

    return G2P()


class Embedded:
    name = "embedded"
    longest = 280  # letters, some 300 phonemes; the network was made for 400
    scripts = frozenset({"LATIN"})

    def __init__(self, voice: str) -> None:
        """Raises: TaskError `voice_unavailable`."""
        known = [each.id.partition(":")[2] for each in voices()]
        voice = voice or next(iter(known), "")
        if voice not in known:
            advice = (
                f"there are {', '.join(known)}"
                if known
                else "hibari-tts is not installed (pip install hibari-tts==0.2.1)"
            )
            raise unavailable(f"embedded:{voice}", advice)
        from hibari.voices import voice_path

        self._name = voice
        self.voice = f"embedded:{voice}"
        self.language = next(each.language for each in voices() if each.id == self.voice)
        self._model = Path(voice_path(voice, download_missing=False)).read_bytes()

    @cached_property
    def _loaded(self) -> Any:
        """Loads the voice with the first sentence, so that a refusal costs nothing."""
        from hibari import Hibari

        try:
            return Hibari(voice=self._name, model=self._model + _one_more_output(_DURATIONS))
        except Exception:  # ONNX Runtime raises classes of its library when no tensor has that name
            return Hibari(voice=self._name, model=self._model)

    def speak(self, sentence: str, speed: float, seed: int, check: Callable[[], None]) -> Spoken:
        tokens = self._tokens(sentence)
        letters = "".join(phonemes + space for _, phonemes, space in tokens)
        phonemes = letters.strip()
        ids = self._loaded.ids(phonemes)
        if len(ids) < 3:
            return Spoken(np.zeros(0, np.float32), RATE, [], [])
        inputs = {"ids": np.asarray([ids], np.int64), "speed": np.asarray([speed], np.float32)}
        from hibari import dsp

        outs = self._loaded.sess.run(None, inputs)
        samples = dsp.synth(*(out[0] for out in outs[:6]), np.random.default_rng(seed))
        if len(outs) < 7:
            return Spoken(samples, RATE)
        ends = np.cumsum(outs[6].ravel()) * STEP_SECONDS - EARLY_SECONDS
        times = iter(
            zip(ends[:-2].tolist(), ends[1:-1].tolist(), strict=True)
        )  # without the first and last id, which are silence
        spans = [next(times) if letter in self._loaded.vocab else None for letter in phonemes]
        lead = len(letters) - len(letters.lstrip())
        chunks = _chunks(tokens, [None] * lead + spans + [None] * (len(letters) - lead - len(spans)))
        return Spoken(samples, RATE, matched(sentence.split(), chunks), list(_phonemes(phonemes, spans)))

    def _tokens(self, sentence: str) -> list[tuple[str, str, str]]:
        """(text, phonemes, the space behind): what is spoken, which is the sentence with its figures and short forms written out."""
        from hibari.g2p import normalize

        g2p = self._loaded.g2p
        readable = _LONG_NUMBER.sub(lambda found: " ".join(filter(str.isdigit, found.group())), sentence)
        try:
            tokens = g2p.phonemize_tokens(g2p.tokenize(normalize(readable)))
        except Exception as error:  # its rules raise IndexError and KeyError at what they did not foresee
            raise engine_failed(
                "the embedded voice", f"cannot read {sentence[:60]!r}: write it in other words"
            ) from error
        return [(each.text, each.phonemes or "", " " if each.whitespace else "") for each in tokens]


def _one_more_output(name: bytes) -> bytes:
    """The bytes that declare a tensor as an output: ModelProto.graph (7) { GraphProto.output (12) { ValueInfoProto.name (1) } }."""
    value = b"\x0a" + bytes([len(name)]) + name
    graph = b"\x62" + bytes([len(value)]) + value
    return b"\x3a" + bytes([len(graph)]) + graph


def _chunks(tokens: list[tuple[str, str, str]], spans: list[tuple[float, float] | None]) -> list[Timed]:
    """The text between two spaces, from its first sound to its last; punctuation is a pause, and has none."""
    chunks: list[Timed] = []
    text, times, at = "", [], 0
    for token, phonemes, space in tokens:
        text += token
        heard = zip(phonemes, spans[at : at + len(phonemes)], strict=True)
        times += [span for letter, span in heard if span is not None and _is_sound(letter)]
        at += len(phonemes) + len(space)
        if space:
            chunks.append(_chunk(text, times, chunks))
            text, times = "", []
    if text:
        chunks.append(_chunk(text, times, chunks))
    return chunks


def _chunk(text: str, times: list[tuple[float, float]], before: list[Timed]) -> Timed:
    at = before[-1].end if before else 0.0
    return Timed(text, max(0.0, times[0][0]), times[-1][1]) if times else Timed(text, at, at)


def _phonemes(phonemes: str, spans: list[tuple[float, float] | None]) -> Iterator[Timed]:
    """A stress mark's time belongs to the phoneme behind it, a length mark's to the one before."""
    pending: Timed | None = None
    begins: float | None = None
    for letter, span in zip(phonemes, spans, strict=True):
        if span is None:
            continue
        if letter in "ˈˌ":
            begins = span[0]
        elif letter in MODIFIERS and pending is not None:
            pending = Timed(pending.text + letter, pending.start, span[1])
        else:
            if pending is not None:
                yield pending
            start = span[0] if begins is None else begins
            pending, begins = (
                (Timed(MISAKI.get(letter, letter), max(0.0, start), span[1]) if _is_sound(letter) else None),
                None,
            )
    if pending is not None:
        yield pending


def _is_sound(letter: str) -> bool:
    return letter.isalpha() or letter in MODIFIERS
