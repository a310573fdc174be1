"""The choice of a speech engine: which engine a voice belongs to, and which voices there are."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.engines.speech import embedded, espeak_ng, flite
from dihedral.data_plane.engines.speech.engine import Engine, VoiceEntry
from dihedral.data_plane.engines.speech.openai import Endpoint, OpenAi
from dihedral.data_plane.engines.speech.piper import Piper, language_of
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.capability import Voice

Installed = tuple[Callable[[], list[VoiceEntry]], Callable[[str], Engine]]
INSTALLED: Mapping[str, Installed] = {
    "embedded": (embedded.voices, embedded.Embedded),
    "flite": (flite.voices, flite.Flite),
    "espeak": (espeak_ng.voices, espeak_ng.EspeakNg),
}
"""Engines that need no settings, the best first: the first voice of the first is the default."""


class SpeakSettings(Strict, kw_only=True, rename="camel"):
    """[tasks.speak]: engines that the operator names. A job names a voice of an endpoint as NAME:VOICE."""

    endpoints: Annotated[
        dict[str, Endpoint], Meta(description="Servers with OpenAI's /v1/audio/speech, by the name that jobs use")
    ] = msgspec.field(default_factory=dict)
    piper: Annotated[
        dict[str, str], Meta(description="Piper voices: the path of the .onnx by the name that jobs use")
    ] = msgspec.field(default_factory=dict)
    piper_command: Annotated[list[str], Meta(min_length=1, description="How Piper is started")] = msgspec.field(
        default_factory=lambda: ["piper"]
    )


def voices(settings: SpeakSettings) -> list[Voice]:
    """Returns the voices of this worker. Of an endpoint only the one that is spoken with where a job names none: servers do not list theirs."""
    installed = [voice for listed, _ in INSTALLED.values() for voice in listed()]
    files = [
        VoiceEntry(f"piper:{name}", name, language_of(Path(path)))
        for name, path in settings.piper.items()
        if Path(path).expanduser().is_file()
    ]
    asked = [
        VoiceEntry(f"{name}:{each.voice}", f"{each.voice} ({name})", each.language)
        for name, each in settings.endpoints.items()
    ]
    return [
        Voice(id=each.id, label=each.label, language=each.language, engine=each.id.partition(":")[0])
        for each in (*installed, *files, *asked)
    ]


def opened(voice: str, settings: SpeakSettings) -> Engine:
    """Raises: TaskError `voice_unavailable`."""
    if not voice:
        voice = next((found[0].id for listed, _ in INSTALLED.values() if (found := listed())), "")
        if not voice:
            raise TaskError(
                "there is no voice on this worker: pip install hibari-tts==0.2.1, or install espeak-ng or flite",
                code="voice_unavailable",
            )
    name, _, rest = voice.partition(":")
    if name in settings.endpoints:
        return OpenAi(name, rest, settings.endpoints[name])
    if name == "piper":
        return Piper(rest, settings.piper, settings.piper_command)
    if name in INSTALLED:
        return INSTALLED[name][1](rest)
    known = ", ".join([*INSTALLED, "piper", *settings.endpoints])
    raise TaskError(
        f"there is no voice {voice!r}: a voice is written ENGINE:NAME, and the engines are {known}",
        code="voice_unavailable",
    )
