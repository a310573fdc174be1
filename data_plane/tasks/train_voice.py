"""Task `train_voice`: what one speaker sounds like, as a mixture of cepstra, a mean spectrum and a pitch."""

from collections.abc import Sequence
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from dihedral.bridge.tasks.params import Recording
from dihedral.bridge.tasks.registry import TaskContext, invalid_input, task
from dihedral.data_plane.device import Array, ArrayModule, array_module
from dihedral.data_plane.kernels import mixture, spectra
from dihedral.data_plane.kernels.mixture import Mixture
from dihedral.data_plane.model_files import Voice, voice_bytes
from dihedral.data_plane.voice.features import LONGEST_SECONDS, SpeakerFeatures, hear
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef

SIZES = (1, 2, 4, 8, 16, 32)  # of the mixtures that are tried where the request gives none
FRAMES_PER_COMPONENT = 4  # fewer do not show the spread of a component
VARIANCE_FLOOR = 0.01  # of a coefficient's variance over all frames: no component may sit on a single frame
LEAST_VARIANCE = 1e-4  # nats², where all frames are alike
HEARD, FITTED = 0.4, 0.95  # of the progress


class TrainVoice(Strict, kw_only=True, rename="camel"):
    recording: Annotated[
        Recording | None,
        Meta(
            description="The speaker, in WAV, FLAC, MP3, M4A or the like",
            extra_json_schema={"x-one-of": "A recording of the speaker", "x-given": True},
        ),
    ] = None
    recordings: Annotated[
        list[Recording],
        Meta(
            max_length=64,
            title="More recordings",
            description="More of the same speaker",
            extra_json_schema={"x-one-of": "A recording of the speaker", "x-given": True},
        ),
    ] = msgspec.field(default_factory=list)
    components: Annotated[
        Annotated[int, Meta(ge=1, le=64)] | None,
        Meta(title="Mixture components", description="Gaussians in the mixture; null: 1 to 32, as BIC decides"),
    ] = None
    iterations: Annotated[int, Meta(ge=1, le=1000, description="Rounds of expectation and maximisation")] = 25
    seed: Annotated[int, Meta(ge=0, title="Random seed", description="Of the first means")] = 0


class TrainVoiceOutput(Strict, kw_only=True, rename="camel"):
    """log_likelihood: nats per frame of speech; bic: of the mixture, the less the better; f0_hz: null where nothing was voiced."""

    voice: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["voice"]})]
    components: int
    log_likelihood: float
    bic: float
    f0_hz: float | None
    frames: int
    seconds: float
    device: str


class Fitted(NamedTuple):
    """curve: mean log-likelihood per frame after each iteration."""

    mixture: Mixture
    curve: list[float]
    bic: float


@task(
    id="train_voice",
    version="2",
    label="Train a voice",
    description="Learns a speaker's spectra and pitch from recordings and stores them in the bucket voices.",
    kind="gpu",
    memory_mib=1024,
    time_by=("iterations", "recordings"),
    keywords=[
        "learn voice",
        "voice model",
        "train speaker",
        "learn speaker",
        "clone voice",
        "voice training",
        "teach voice",
        "voice from recording",
        "voice profile",
        "voice print",
    ],
    examples=[
        {"recording": {"bucket": "inputs", "key": "speaker-low.wav"}},
        {"recordings": [{"bucket": "inputs", "key": f"speaker-low-{take}.wav"} for take in (1, 2)], "components": 8},
    ],
    groups={"Speaker": ("recording", "recordings"), "Model": ("components", "iterations", "seed")},
)
def train_voice(params: TrainVoice, ctx: TaskContext) -> TrainVoiceOutput:
    """Raises: TaskError `invalid_input`: no recording, one that is no speech, recordings of different bandwidths, too little speech."""
    xp, device, _ = array_module()
    heard = listen_to_all(params, ctx, xp)
    frames = xp.concatenate([each.cepstra for each in heard])
    hertz = xp.concatenate([each.hertz for each in heard])
    f0_hz = float(xp.median(hertz)) if hertz.size else None
    wanted = (params.components,) if params.components else SIZES
    sizes = [size for size in wanted if len(frames) >= FRAMES_PER_COMPONENT * size]
    if not sizes:
        spoken = len(frames) * spectra.HOP / spectra.RATE
        raise invalid_input(f"{spoken:.2f} s of speech are too little for {params.components} components")
    best = fit_best(frames, sizes, params, ctx, xp)
    components = best.mixture.weights.size
    notes = {"log_likelihood": repr(best.curve[-1]), "frames": str(len(frames)), "seed": str(params.seed)}
    mean = sum(each.mean_log_mel * len(each.cepstra) for each in heard) / len(frames)
    spread = float(xp.log(hertz).std()) if hertz.size else None
    voice = Voice(best.mixture, mean, f0_hz, heard[0].bandwidth_hz, spread)
    stored = ctx.store("voices", "voice.safetensors", voice_bytes(voice, notes), "application/octet-stream")
    ctx.progress(1.0)
    return TrainVoiceOutput(
        voice=ArtifactRef(bucket=stored.bucket, key=stored.key),
        components=components,
        log_likelihood=best.curve[-1],
        bic=best.bic,
        f0_hz=f0_hz,
        frames=len(frames),
        seconds=sum(each.seconds for each in heard),
        device=device,
    )


def listen_to_all(params: TrainVoice, ctx: TaskContext, xp: ArrayModule) -> list[SpeakerFeatures]:
    """Reads the recordings in their order until LONGEST_SECONDS are reached: by then a voice is known, and memory is bounded."""
    recordings = [*([params.recording] if params.recording else []), *params.recordings]
    if not recordings:
        raise invalid_input("a voice is learnt from a recording, or from several: none was given")
    heard: list[SpeakerFeatures] = []
    left = LONGEST_SECONDS
    for number, recording in enumerate(recordings, start=1):
        if left < 1:
            ctx.log(
                f"{LONGEST_SECONDS:.0f} s of sound were read; the other {len(recordings) - len(heard)} recordings are not"
            )
            break
        heard.append(hear(ctx, recording, left, xp))
        if heard[-1].bandwidth_hz != heard[0].bandwidth_hz:
            bandwidths = " and ".join(f"{each.bandwidth_hz:.0f} Hz" for each in (heard[0], heard[-1]))
            raise invalid_input(
                f"{recording.bucket}/{recording.key}: a voice needs one bandwidth, here are {bandwidths}"
            )
        left -= heard[-1].seconds
        ctx.progress(HEARD * number / len(recordings))
    return heard


def fit_best(frames: Array, sizes: Sequence[int], params: TrainVoice, ctx: TaskContext, xp: ArrayModule) -> Fitted:
    """The mixture of the least BIC. Its curve is published: as it rises where there is one size, else once it has won.

    Sizes are fitted one after the other: nearly all of the work is elementwise over frames and components, which a batch would not save.
    """
    floor = xp.maximum(VARIANCE_FLOOR * frames.var(axis=0), LEAST_VARIANCE)
    best: Fitted | None = None
    done, work = 0, sum(sizes) * params.iterations
    for size in sizes:
        fitted: Mixture | None = None
        curve: list[float] = []
        for likelihood, improved in mixture.fit(frames, size, params.iterations, params.seed, floor, xp):
            fitted = improved
            curve.append(likelihood)
            if len(sizes) == 1:
                publish(ctx, len(curve), likelihood)
            done += size
            ctx.progress(HEARD + (FITTED - HEARD) * done / work)
            ctx.check_cancelled()
        assert fitted is not None  # iterations >= 1
        one = Fitted(fitted, curve, mixture.bic(curve[-1], len(frames), fitted))
        if len(sizes) > 1:
            ctx.data("bic", {"components": size, "bic": one.bic})
        if best is None or one.bic < best.bic:
            best = one
    assert best is not None
    if len(sizes) > 1:
        for iteration, likelihood in enumerate(best.curve, start=1):
            publish(ctx, iteration, likelihood)
    return best


def publish(ctx: TaskContext, iteration: int, likelihood: float) -> None:
    ctx.data("logLikelihood", {"iteration": iteration, "logLikelihood": likelihood})
