"""The features of a speaker: the same for a recording to learn a voice from and one to compare with voices."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dihedral.bridge.tasks.models import shown
from dihedral.bridge.tasks.registry import TaskContext, TaskError
from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels import pitch, spectra
from dihedral.data_plane.media.decode import recording_pieces
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

LONGEST_SECONDS = 7_200.0  # what a task reads of recordings at most; two hours of speech are some 700 MiB here
LEAST_SECONDS = 0.25  # of speech in a recording; less is a click or a word that was cut
_PIECE_SECONDS = 60.0  # analysed at a time; the frames across its ends are left out


class SpeakerFeatures(NamedTuple):
    """cepstra: (frames, COEFFICIENTS) float64 of the frames that are no pause. mean_log_mel: (BANDS,) float64, their mean, the level
    taken out. hertz: (voiced frames,) float64 fundamentals of the same frames. seconds: that were read. bandwidth_hz: up to where there
    can be sound, HIGHEST_HZ at most.
    """

    cepstra: Array
    mean_log_mel: Array
    hertz: Array
    seconds: float
    bandwidth_hz: float


def hear(
    ctx: TaskContext, recording: ArtifactRef | ModelRef, longest_seconds: float, xp: ArrayModule
) -> SpeakerFeatures:
    """Fetches a recording and listens to it, looking for a cancel every minute of sound.

    Raises: TaskError `invalid_input`, which names the recording.
    """
    try:
        return listen(ctx.fetch(recording), longest_seconds, ctx.check_cancelled, xp)
    except TaskError as error:
        raise TaskError(f"{shown(recording)}: {error}", code=error.code) from error


def listen(path: Path, longest_seconds: float, between: Callable[[], None], xp: ArrayModule) -> SpeakerFeatures:
    """Reads at most the first `longest_seconds` of a recording; `between` is called after each minute.

    Raises: TaskError `invalid_input` where the file is no sound, too short, silent, or has less than LEAST_SECONDS of speech.
    """
    energies, hertz, seconds, rate = [], [], 0.0, 0
    for recorded, rate in recording_pieces(path, _PIECE_SECONDS, longest_seconds):
        samples = spectra.resample(xp.asarray(recorded), rate, spectra.RATE, xp)
        seconds += recorded.size / rate
        if samples.size >= pitch.FRAME:  # else what is left of the last minute is no frame
            energies.append(spectra.mel_energy(samples, xp))
            found = pitch.yin(samples, xp)  # fewer: its frames are longer
            hertz.append(xp.concatenate([found, xp.full(len(energies[-1]) - len(found), xp.nan)]))
        between()
    log_mel = spectra.log_energy(xp.concatenate(energies), xp)
    is_speech = spectra.is_speech(log_mel, xp)
    spoken = log_mel[is_speech]
    if len(spoken) * spectra.HOP < LEAST_SECONDS * spectra.RATE:
        told = f"{len(spoken) * spectra.HOP / spectra.RATE:.2f} s of speech; at least {LEAST_SECONDS} s are needed"
        raise TaskError(f"the recording has {told}", code="invalid_input")
    pitches = xp.concatenate(hertz)[is_speech]
    mean = spoken.mean(axis=0, dtype=np.float64)
    return SpeakerFeatures(
        spectra.cepstra(spectra.audible(log_mel, xp)[is_speech], xp).astype(xp.float64),
        mean - mean.mean(),
        pitches[~xp.isnan(pitches)],
        seconds,
        min(rate / 2, spectra.HIGHEST_HZ),
    )
