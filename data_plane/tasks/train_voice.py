"""Task `train_voice`: what one speaker sounds like, as a mixture of spectra, a mean spectrum and a pitch."""

from typing import Annotated

from msgspec import Meta

from bridge.tasks import TaskContext, TaskError, task
from data_plane.device import array_module
from data_plane.kernels import mixture, spectra
from data_plane.media import read_recording
from data_plane.weights import Voice, voice_bytes
from schemas.strict import Strict
from schemas.structs.artifact import ArtifactRef

LONGEST_SECONDS = 120.0  # of the recording, the rest is not read: a voice is known by then
FRAMES_PER_COMPONENT = 4  # fewer cannot say what a component's spread is
VARIANCE_FLOOR = 0.01  # nats², 0.4 dB: no component may sit on a single frame


class TrainVoice(Strict, kw_only=True, rename="camel"):
    recording: ArtifactRef
    components: Annotated[int, Meta(ge=1, le=64, description="Gaussians in the mixture")] = 8
    iterations: Annotated[int, Meta(ge=1, le=1000, description="Rounds of expectation and maximisation")] = 25
    seed: Annotated[int, Meta(ge=0, description="Of the first means")] = 0


class TrainVoiceOutput(Strict, kw_only=True, rename="camel"):
    """log_likelihood: nats per frame of speech; f0_hz: null where nothing was voiced."""

    voice: ArtifactRef
    log_likelihood: float
    f0_hz: float | None
    frames: int
    seconds: float
    device: str


@task(
    id="train_voice",
    label="Train a voice",
    description="Learns a speaker's spectra and pitch from a recording and stores them in the bucket voices.",
    kind="gpu",
    memory_mib=512,
    examples=[{"recording": {"bucket": "inputs", "key": "speaker-low.wav"}, "components": 8}],
)
def train_voice(params: TrainVoice, ctx: TaskContext) -> TrainVoiceOutput:
    xp, device, _ = array_module()
    recorded, rate = read_recording(ctx.fetch(params.recording), LONGEST_SECONDS)
    ctx.progress(0.1)
    samples = spectra.resample(xp.asarray(recorded), rate, spectra.RATE, xp)
    frames = spectra.speech_frames(samples, xp)
    if len(frames) < FRAMES_PER_COMPONENT * params.components:
        raise TaskError(
            f"the recording has {len(frames) * spectra.HOP / spectra.RATE:.2f} s of speech, "
            f"too little for {params.components} components",
            code="invalid_input",
            retryable=False,
        )
    ctx.check_cancelled()
    f0_hz = spectra.fundamental_hz(samples, xp)
    ctx.progress(0.4)
    likelihood, best = 0.0, None
    rounds = mixture.fit(frames, params.components, params.iterations, params.seed, VARIANCE_FLOOR, xp)
    for iteration, (likelihood, fitted) in enumerate(rounds, start=1):
        best = fitted
        ctx.data("logLikelihood", {"iteration": iteration, "logLikelihood": likelihood})
        ctx.progress(0.4 + 0.55 * iteration / params.iterations)
        ctx.check_cancelled()
    assert best is not None  # iterations >= 1
    notes = {"log_likelihood": repr(likelihood), "frames": str(len(frames)), "seed": str(params.seed)}
    voice = Voice(best, frames.mean(axis=0), f0_hz)
    stored = ctx.store("voices", "voice.safetensors", voice_bytes(voice, notes), "application/octet-stream")
    ctx.progress(1.0)
    return TrainVoiceOutput(
        voice=ArtifactRef(bucket=stored.bucket, key=stored.key),
        log_likelihood=likelihood,
        f0_hz=f0_hz,
        frames=len(frames),
        seconds=recorded.size / rate,
        device=device,
    )
