"""Piper's voices, spoken by the program that the operator has installed: `[tasks.speak] piper = {NAME = "/path/voice.onnx"}`."""

import re
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from dihedral.data_plane.engines.speech import process
from dihedral.data_plane.engines.speech.engine import Spoken, engine_failed, unavailable


class Piper:
    name = "piper"
    longest = 1000
    scripts = None

    def __init__(self, voice: str, files: dict[str, str], command: Sequence[str]) -> None:
        """Raises: TaskError `voice_unavailable`: the operator named no such voice, or its file is not here."""
        self.voice = f"piper:{voice}"
        self._command = command
        if voice not in files:
            known = ", ".join(files) or "none"
            raise unavailable(self.voice, f"settings name {known} in [tasks.speak] piper")
        self._file = Path(files[voice]).expanduser()
        if not self._file.is_file():
            raise unavailable(self.voice, f"there is no file {self._file}")
        self.language = language_of(self._file)

    def speak(self, sentence: str, speed: float, seed: int, check: Callable[[], None]) -> Spoken:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "speech.wav")
            command = [
                *self._command,
                "-m",
                str(self._file.resolve()),
                "-f",
                str(path),
                "--length-scale",
                f"{1 / speed:.3f}",
            ]
            process.run(self.name, command, sentence + "\n", Path(folder), check)
            if not path.is_file():
                raise engine_failed(self.name, "made no recording")
            return Spoken(*process.recording(self.name, path))


def language_of(file: Path) -> str:
    """Returns the language of a voice that is named as Piper's are, en_US-amy-medium.onnx."""
    first = file.name.partition("-")[0]
    return first.replace("_", "-") if re.fullmatch(r"[a-z]{2,3}_[A-Z]{2}", first) else ""
