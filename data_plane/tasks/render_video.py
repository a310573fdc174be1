"""Task `render_video`: a picture in the look of an adapter, a slow camera over it, captions, a recording underneath.

The recording is equalised towards the mean spectrum of a voice. Adapter and voice are what training made of other
media, or of the same: swapping the one changes every frame, swapping the other changes the sound.
"""

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from bridge.tasks import TaskContext, TaskError, task
from data_plane import captions
from data_plane.device import Array, ArrayModule, array_module, to_host
from data_plane.kernels import low_rank, spectra
from data_plane.kernels.low_rank import Adapter
from data_plane.kernels.patches import luma, map_patches
from data_plane.kernels.sampling import pan_zoom
from data_plane.media import ByteArray, FloatArray, read_picture, read_recording, write_video
from data_plane.weights import Voice, read_adapter, read_voice
from schemas.strict import Strict
from schemas.structs.artifact import ArtifactRef

LONGEST_SECONDS = 60.0  # of a video whose length nobody gave
SOUND_RATE = 48_000  # Hz, what video players expect
LOOK = 0.5  # share of the adapter in the colours; the rest is the picture itself
TONE = 0.25  # share of the adapter in the lights and darks: more would blur, the map knows no fine detail
ZOOM = 0.16  # of the frame's width is gone at the end of the camera's way
MARGIN = 1.25  # source pixels per output pixel at the start: enough for the zoom, too few to alias
STRONGEST_DB = 12.0  # of the equaliser, either way: beyond it noise comes up
ANALYSED_SECONDS = 60  # of the sound: its mean spectrum is known by then
SMOOTHING = (1 / 9, 2 / 9, 3 / 9, 2 / 9, 1 / 9)  # over bands: the low ones resolve single harmonics of the pitch
FADE_SECONDS = 0.05


Line = Annotated[str, Meta(max_length=1000)]


class RenderVideo(Strict, kw_only=True, rename="camel"):
    picture: ArtifactRef
    audio: ArtifactRef
    adapter: ArtifactRef
    voice: ArtifactRef
    script: Annotated[list[Line], Meta(max_length=200, description="Lines of narration, shown as captions")]
    seconds: Annotated[
        Annotated[float, Meta(gt=0, le=600)] | None, Meta(description="Length; null: the recording's, at most a minute")
    ] = None
    width: Annotated[int, Meta(ge=32, le=3840, multiple_of=2)] = 320
    height: Annotated[int, Meta(ge=32, le=2160, multiple_of=2)] = 240
    fps: Annotated[int, Meta(ge=1, le=60)] = 24


class RenderVideoOutput(Strict, kw_only=True, rename="camel"):
    video: ArtifactRef
    frames: int
    seconds: float
    width: int
    height: int
    fps: int
    device: str


@task(
    id="render_video",
    label="Render a video",
    description="Renders picture, adapter, narration and sound into an MP4 (H.264, AAC) in the bucket videos.",
    kind="gpu",
    memory_mib=1024,
    examples=[
        {
            "picture": {"bucket": "inputs", "key": "dusk.png"},
            "audio": {"bucket": "inputs", "key": "speaker-low.wav"},
            "adapter": {"bucket": "loras", "key": "example/adapter/1/adapter.safetensors"},
            "voice": {"bucket": "voices", "key": "example/voice/1/voice.safetensors"},
            "script": ["The sun goes down over the lake."],
        }
    ],
)
def render_video(params: RenderVideo, ctx: TaskContext) -> RenderVideoOutput:
    xp, device, _ = array_module()
    size = params.height, params.width
    recorded, rate = read_recording(ctx.fetch(params.audio), max(params.seconds or LONGEST_SECONDS, 1.0))
    picture = read_picture(ctx.fetch(params.picture), round(max(size) * MARGIN * 2))
    adapter = read_adapter(ctx.fetch(params.adapter), xp)
    voice = read_voice(ctx.fetch(params.voice), xp)
    count = round((params.seconds or recorded.size / rate) * params.fps)
    if count < 1:
        raise TaskError("the video would be shorter than one frame", code="invalid_input", retryable=False)
    ctx.progress(0.05)
    ctx.check_cancelled()
    sound = soundtrack(xp.asarray(recorded), rate, voice, count / params.fps, xp)
    looking = restyle(xp.asarray(picture), adapter, xp)
    ctx.progress(0.15)

    def watched() -> Iterator[ByteArray]:
        for number, frame in enumerate(frames(looking, params.script, count, params.fps, size, xp)):
            ctx.check_cancelled()
            if number % params.fps == 0:
                ctx.progress(0.15 + 0.8 * number / count)
            yield frame

    path = ctx.workdir / "video.mp4"
    write_video(path, watched(), params.fps, sound, SOUND_RATE)
    stored = ctx.store("videos", "video.mp4", path, "video/mp4")
    ctx.progress(1.0)
    return RenderVideoOutput(
        video=ArtifactRef(bucket=stored.bucket, key=stored.key),
        frames=count,
        seconds=count / params.fps,
        width=params.width,
        height=params.height,
        fps=params.fps,
        device=device,
    )


def restyle(picture: Array, adapter: Adapter, xp: ArrayModule) -> Array:
    """(H, W, 3) in 0..1 -> the same: colours and tones as base and adapter see them, laid over the picture's own."""
    base = low_rank.base_map(adapter.b.shape[0], adapter.base_seed, xp)
    mapped = map_patches(picture, adapter.patch, lambda patches: low_rank.predict(patches, base, adapter, xp), xp)
    own, seen = luma(picture, xp)[:, :, None], luma(mapped, xp)[:, :, None]
    colour = (picture - own) + LOOK * ((mapped - seen) - (picture - own))
    return xp.clip(own + TONE * (seen - own) + colour, 0, 1)


def frames(
    picture: Array, lines: list[str], count: int, fps: int, size: tuple[int, int], xp: ArrayModule
) -> Iterator[ByteArray]:
    """(H, W, 3) -> `count` frames (height, width, 3) uint8 on the host: the camera's way, captions over it."""
    planned = captions.schedule(lines, count / fps, size)
    shade = captions.scrim(size, xp) if planned else None
    shown: captions.Caption | None = None
    text: Array = None  # of the caption shown, drawn once
    shadow: Array = None
    for number in range(count):
        seconds = (number + 0.5) / fps
        frame = pan_zoom(picture, *camera(number / max(1, count - 1), picture.shape, size), size, xp)
        if shade is not None:
            frame = frame * shade
            caption = next((c for c in planned if seconds < c.end), planned[-1])
            if caption is not shown:
                shown, (text, shadow) = caption, captions.mask(caption, size, xp)
            opacity = caption.opacity(seconds)
            frame = frame * (1 - 0.55 * opacity * shadow)
            frame = frame + (0.97 - frame) * (opacity * text)
        yield to_host((xp.clip(frame, 0, 1) * 255 + 0.5).astype(xp.uint8))


def camera(along: float, shape: tuple[int, ...], size: tuple[int, int]) -> tuple[tuple[float, float], float]:
    """`(centre (y, x) in source pixels, source pixels per output pixel)` at `along` 0..1 of the camera's way.

    The window never leaves the picture: it starts as large as fits, eases in and out, drifts downwards and to the right
    through what the zoom sets free, and further where the picture is taller or wider than the frame.
    """
    eased = along * along * (3 - 2 * along)
    scale = min(shape[0] / size[0], shape[1] / size[1]) * (1 - ZOOM * eased)
    free = [shape[axis] - size[axis] * scale for axis in (0, 1)]
    path = [0.15 + 0.55 * eased, 0.25 + 0.5 * eased]
    centre = [free[axis] * path[axis] + size[axis] * scale / 2 - 0.5 for axis in (0, 1)]
    return (centre[0], centre[1]), scale


def soundtrack(samples: Array, rate: int, voice: Voice, seconds: float, xp: ArrayModule) -> FloatArray:
    """(n,) at rate -> (round(seconds · SOUND_RATE),) on the host: equalised, as loud as before, then silence."""
    shaped = spectra.equalise(samples, rate, to_host(gains_db(samples, rate, voice, xp)), xp)
    power, shaped_power = ((x.astype(xp.float64) ** 2).mean() for x in (samples, shaped))
    shaped = shaped * xp.sqrt(power / (shaped_power + 1e-20))
    shaped = shaped * xp.minimum(1.0, 0.95 / (xp.abs(shaped).max() + 1e-12))  # no sample may clip
    sound = np.zeros(round(seconds * SOUND_RATE), dtype=np.float32)
    resampled = to_host(spectra.resample(shaped.astype(xp.float32), rate, SOUND_RATE, xp))[: sound.size]
    sound[: resampled.size] = resampled
    fade = min(round(FADE_SECONDS * SOUND_RATE), resampled.size)
    sound[resampled.size - fade : resampled.size] *= np.linspace(1, 0, fade, dtype=np.float32)  # a cut would click
    return np.clip(sound, -1, 1)


def gains_db(samples: Array, rate: int, voice: Voice, xp: ArrayModule) -> Array:
    """(BANDS,) dB: from the mean spectrum of the samples' speech to the voice's, smoothed over neighbours and bounded.

    Levels are aligned by the median band, so that bands which one of the two recordings lacks do not lift all others.
    """
    analysed = spectra.resample(samples[: ANALYSED_SECONDS * rate], rate, spectra.RATE, xp)
    spoken = spectra.speech_frames(analysed, xp)
    wanted = (xp.asarray(voice.mean_log_mel) - spoken.mean(axis=0)) * (10 / np.log(10))
    padded = xp.pad(wanted - xp.median(wanted), 2, mode="edge")
    smooth = sum(weight * padded[at : at + wanted.size] for at, weight in enumerate(SMOOTHING))
    return xp.clip(smooth, -STRONGEST_DB, STRONGEST_DB)
