"""Task `compare_voice`: how well each recording fits each voice, and how often a threshold on that would be wrong."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from dihedral.bridge.tasks.models import shown
from dihedral.bridge.tasks.params import Recording, VoiceModel
from dihedral.bridge.tasks.registry import TaskContext, TaskError, invalid_input, task
from dihedral.data_plane.device import ArrayModule, array_module
from dihedral.data_plane.kernels import mixture, spectra
from dihedral.data_plane.model_files import Voice, read_voice
from dihedral.data_plane.voice.features import LONGEST_SECONDS, hear
from dihedral.data_plane.voice.verification import equal_error, ratios
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

Speaker = Annotated[int, Meta(ge=0)] | None


class CompareVoice(Strict, kw_only=True, rename="camel"):
    recordings: Annotated[list[Recording], Meta(min_length=1, max_length=256, description="Of one speaker each")]
    voices: Annotated[
        list[VoiceModel],
        Meta(min_length=1, max_length=64, description="As train_voice stores them", extra_json_schema={"x-least": 2}),
    ]
    background: Annotated[
        VoiceModel | None,
        Meta(title="Background voice", description="A voice of many speakers to compare with; null: the other voices"),
    ] = None
    speakers: Annotated[
        list[Speaker] | None,
        Meta(
            description="Whose each recording is: the voice's place, from 0, or null for none of them; for the error rate",
            extra_json_schema={"x-places": {"of": "recordings", "in": "voices"}},
        ),
    ] = None


class CompareVoiceOutput(Strict, kw_only=True, rename="camel"):
    """scores: a row for each recording, a column for each voice, log-likelihood ratios in nats per frame. closest: the place of each
    recording's highest. seconds: of speech in each. equal_error_rate: 0..1, and the score at which it is reached; null without `speakers`.
    """

    scores: list[list[float]]
    closest: list[int]
    seconds: list[float]
    equal_error_rate: float | None
    threshold: float | None
    device: str


@task(
    id="compare_voice",
    label="Compare voices",
    description="Scores recordings against voices by their log-likelihood ratio; with the speakers given, tells the equal error rate.",
    kind="gpu",
    memory_mib=1024,
    keywords=[
        "who is it",
        "sound like",
        "who speaks",
        "who is speaking",
        "recognise speaker",
        "identify speaker",
        "which voice",
        "which of these voices",
        "whose voice",
        "who",
        "whose",
        "speaker verification",
        "same speaker",
        "same person",
        "score recording",
        "match voice",
    ],
    examples=[
        {
            "recordings": [{"bucket": "inputs", "key": "who-is-it.wav"}],
            "voices": [{"bucket": "voices", "key": f"example/{name}/1/voice.safetensors"} for name in ("low", "high")],
        },
        {
            "recordings": [{"bucket": "inputs", "key": f"{name}.wav"} for name in ("low", "high", "somebody-else")],
            "voices": [{"bucket": "voices", "key": f"example/{name}/1/voice.safetensors"} for name in ("low", "high")],
            "background": {"bucket": "voices", "key": "example/everybody/1/voice.safetensors"},
            "speakers": [0, 1, None],
        },
    ],
    groups={"What is compared": ("recordings", "voices", "background"), "Evaluation": ("speakers",)},
)
def compare_voice(params: CompareVoice, ctx: TaskContext) -> CompareVoiceOutput:
    """Raises: TaskError `invalid_input`: a file is no voice or no speech, bandwidths differ, speakers that do not fit the lists."""
    xp, device, _ = array_module()
    own = _is_own(params)
    references = [*params.voices, *([params.background] if params.background else [])]
    voices = [_read(ctx, each, xp) for each in references]
    _of_one_bandwidth(references, [voice.bandwidth_hz for voice in voices])
    likelihoods = np.empty((len(params.recordings), len(voices)))
    seconds = []
    for number, recording in enumerate(params.recordings):
        heard = hear(ctx, recording, LONGEST_SECONDS, xp)
        _of_one_bandwidth([references[0], recording], [voices[0].bandwidth_hz, heard.bandwidth_hz])
        for place, voice in enumerate(voices):
            likelihoods[number, place] = mixture.log_likelihood(heard.cepstra, voice.mixture, xp)
        seconds.append(len(heard.cepstra) * spectra.HOP / spectra.RATE)
        ctx.progress(0.99 * (number + 1) / len(params.recordings))
        ctx.check_cancelled()
    count = len(params.voices)
    scores = ratios(likelihoods[:, :count], likelihoods[:, count] if params.background else None)
    error = equal_error(scores[own], scores[~own]) if own is not None else None
    ctx.progress(1.0)
    return CompareVoiceOutput(
        scores=scores.tolist(),
        closest=scores.argmax(axis=1).tolist(),
        seconds=seconds,
        equal_error_rate=error and error.rate,
        threshold=error and error.threshold,
        device=device,
    )


def _is_own(params: CompareVoice) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]] | None:
    """Returns (recordings, voices): True where a recording stands before the voice of its speaker; None where the speakers are not named."""
    if len(params.voices) < 2 and params.background is None:
        raise invalid_input("one voice alone has nothing to be compared with: give a second one or a background")
    if params.speakers is None:
        return None
    if len(params.speakers) != len(params.recordings):
        raise invalid_input(f"{len(params.speakers)} speakers are given for {len(params.recordings)} recordings")
    own = np.zeros((len(params.recordings), len(params.voices)), dtype=np.bool_)
    for number, place in enumerate(params.speakers):
        if place is not None and place >= len(params.voices):
            raise invalid_input(
                f"speaker {place} of recording {number} is none of the {len(params.voices)} voices, from 0"
            )
        if place is not None:
            own[number, place] = True
    if own.all() or not own.any():
        raise invalid_input(
            "an error rate needs a recording of one of the voices, and a voice that is not its speaker's"
        )
    return own


def _read(ctx: TaskContext, reference: ModelRef, xp: ArrayModule) -> Voice:
    try:
        return read_voice(ctx.fetch(reference), xp)
    except TaskError as error:
        raise invalid_input(f"{shown(reference)}: {error}") from error


def _of_one_bandwidth(references: Sequence[ArtifactRef | ModelRef], bandwidths_hz: list[float]) -> None:
    for reference, bandwidth_hz in zip(references, bandwidths_hz, strict=True):
        if bandwidth_hz != bandwidths_hz[0]:
            raise invalid_input(
                f"{shown(reference)} holds sound up to {bandwidth_hz:.0f} Hz, {shown(references[0])} up to "
                f"{bandwidths_hz[0]:.0f} Hz: what is compared needs one bandwidth"
            )
