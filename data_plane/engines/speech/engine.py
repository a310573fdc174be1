"""The interface of a speech engine, which speaks one sentence with one voice."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.media.speech_timing import Timed


class Spoken(NamedTuple):
    """samples: (n,) mono in −1..1 at `rate` Hz. words: as the sentence has them, split at white space, in seconds from its beginning. An engine that does not know when it
    speaks what leaves out words, phonemes, or both.
    """

    samples: FloatArray
    rate: int
    words: list[Timed] | None = None
    phonemes: list[Timed] | None = None


class Engine(Protocol):
    """One voice, loaded. `name` is the engine's, `voice` the whole id, `language` BCP 47 or empty. `longest`: letters of a sentence that it takes at once. `scripts`: Unicode scripts that the
    voice can read, as the names of letters begin; None where that is not known.
    """

    @property
    def name(self) -> str: ...
    @property
    def voice(self) -> str: ...
    @property
    def language(self) -> str: ...
    @property
    def longest(self) -> int: ...
    @property
    def scripts(self) -> frozenset[str] | None: ...

    def speak(self, sentence: str, speed: float, seed: int, check: Callable[[], None]) -> Spoken:
        """Speaks the sentence. check: called while the engine waits for another process, to end the work by raising. Raises: TaskError."""


class VoiceEntry(NamedTuple):
    """id: `ENGINE:VOICE`, as the parameter `voice` takes it. language: BCP 47, empty where it is not known."""

    id: str
    label: str
    language: str


def unavailable(voice: str, advice: str) -> TaskError:
    return TaskError(f"the voice {voice} is not available on this worker: {advice}", code="voice_unavailable")


def engine_failed(name: str, reason: str, *, retryable: bool = False) -> TaskError:
    return TaskError(f"{name} {reason}", code="speech_failed", retryable=retryable)
