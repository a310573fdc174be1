"""A speech engine that is a program: run for a sentence, ended with the work, its failure explained in a sentence."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from dihedral.data_plane.engines.speech.engine import engine_failed
from dihedral.data_plane.media.decode import FloatArray

LONGEST_SECONDS = 120.0  # for one sentence; a program that takes longer hangs
ANSWER_SECONDS = 10.0  # to a question about its voices
LOOK_SECONDS = 0.1  # how late a cancel may be noticed


def run(name: str, command: Sequence[str], text: str, folder: Path, check: Callable[[], None]) -> str:
    """Returns what the program printed. The text goes to its standard input, where nothing in it is taken for an option.

    Raises: TaskError `speech_failed`: it is not there, hangs, or exits with another code than 0.
    """
    try:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise engine_failed(name, f"cannot be started: {error.strerror}") from error
    ends = time.monotonic() + LONGEST_SECONDS
    waiting: str | None = text
    try:
        while True:
            try:
                said, wrong = process.communicate(waiting, timeout=LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                waiting = None  # it has been given already
                check()
                if time.monotonic() > ends:
                    raise engine_failed(name, f"did not end within {LONGEST_SECONDS:g} s") from None
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    if process.returncode != 0:
        last = (wrong.strip() or said.strip() or "it said nothing").splitlines()[-1]
        raise engine_failed(name, f"exited with code {process.returncode}: {last[:300]}")
    return said


def listed(command: Sequence[str]) -> str:
    """Returns what a program prints about itself; empty where it is not there or does not answer."""
    try:
        return subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=ANSWER_SECONDS, check=False
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return ""


def recording(name: str, path: Path) -> tuple[FloatArray, int]:
    """(samples (n,), rate) of the WAV that an engine made. A length in its header that is wrong, as streams have it, does not matter.

    Raises: TaskError `speech_failed`: it is none, or holds nothing.
    """
    import soundfile

    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, OSError, ValueError) as error:
        raise engine_failed(name, "made no recording that can be read") from error
    if not samples.size or not np.isfinite(samples).all():
        raise engine_failed(name, "made a recording without sound")
    mono: FloatArray = samples.mean(axis=1)
    return mono, int(rate)
