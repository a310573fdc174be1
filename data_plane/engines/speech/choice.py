"""Which engine a voice belongs to, and which voices there are."""

from collections.abc import Callable, Mapping

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.engines.speech import embedded
from dihedral.data_plane.engines.speech.engine import Engine, VoiceEntry
from dihedral.schemas.strict import Strict

Installed = tuple[Callable[[], list[VoiceEntry]], Callable[[str], Engine]]
INSTALLED: Mapping[str, Installed] = {
    "embedded": (embedded.voices, embedded.Embedded),
}
"""Engines that need no settings, the best first: the first voice of the first is the default."""


class SpeakSettings(Strict, kw_only=True, rename="camel"):
    """[tasks.speak]: engines that the operator names."""


def voices() -> list[VoiceEntry]:
    return [voice for listed, _ in INSTALLED.values() for voice in listed()]


def opened(voice: str, settings: SpeakSettings) -> Engine:
    """Raises: TaskError `voice_unavailable`."""
    if not voice:
        voice = next((each.id for each in voices()), "")
        if not voice:
            raise TaskError(
                "there is no voice on this worker: pip install hibari-tts==0.2.1, or install espeak-ng or flite",
                code="voice_unavailable",
            )
    name, _, rest = voice.partition(":")
    if name in INSTALLED:
        return INSTALLED[name][1](rest)
    known = ", ".join([*INSTALLED])
    raise TaskError(
        f"there is no voice {voice!r}: a voice is written ENGINE:NAME, and the engines are {known}",
        code="voice_unavailable",
    )
