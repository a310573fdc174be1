"""Task `lip_sync`: a face says what is heard. A drawn storyteller, a user's own drawn mouths, or a photograph whose mouth is warped."""

import time
from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta

from dihedral.bridge.errors import StoreError
from dihedral.bridge.tasks.params import Picture, Recording
from dihedral.bridge.tasks.registry import TaskContext, TaskError, invalid_input, task
from dihedral.data_plane.device import Array, ArrayModule, array_module, to_host
from dihedral.data_plane.kernels import spectra
from dihedral.data_plane.media import faces, soundtrack, visemes
from dihedral.data_plane.media.decode import (
    ByteArray,
    FloatArray,
    jpeg,
    picture_shape,
    read_cut_out,
    read_picture,
    read_recording,
)
from dihedral.data_plane.media.video_file import EncoderChoice, chosen_encoder, write_video
from dihedral.data_plane.media.visemes import SHAPES, Pose, Shape
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef

BUCKET = "videos"
LONGEST_SECONDS = 600.0
MOST_SIDE = 4096  # pixels of a picture in memory
USUAL_SIZE = (720, 1280)
CLIPPED_SHARE = 0.01  # of the samples, at full scale at least CLIPPED_RUN after one another: audible as distortion
CLIPPED_RUN = 4
FULL_SCALE = 0.999
PREVIEW_SECONDS = 1.0  # of wall time between previews, at least
PREVIEW_SHARE = 0.01  # of the time gone between previews, at least: the event log is bounded
PREVIEW_WIDTH = 320
MOST_VISEMES = 10_000  # in the output, whose size is bounded; a film of ten minutes has about 7,000

Share = Annotated[float, Meta(ge=0, le=1)]
Side = Annotated[int, Meta(ge=64, le=3840, multiple_of=2)]


class SpokenSound(Strict, kw_only=True, rename="camel"):
    """A phoneme in time, as `speak` gives them."""

    symbol: Annotated[str, Meta(max_length=16, description="IPA, as misaki, espeak and Kokoro write it, or ARPAbet")]
    start: Annotated[float, Meta(ge=0, le=LONGEST_SECONDS, description="Seconds")]
    end: Annotated[float, Meta(ge=0, le=LONGEST_SECONDS, description="Seconds")]


class MouthPlace(Strict, kw_only=True, rename="camel"):
    """Where the mouth of a portrait is, in fractions of the picture's sides."""

    x: Annotated[Share, Meta(description="Its middle, from the left")]
    y: Annotated[Share, Meta(description="Its middle, from the top")]
    width: Annotated[float, Meta(gt=0.005, le=1, description="Between its corners, of the picture's width")]


class Character(Strict, kw_only=True, rename="camel"):
    """Nine pictures by the names of Rhubarb Lip Sync's shapes: whole faces of one size, or mouths to be laid over the portrait."""

    A: Annotated[Picture, Meta(title="Mouth A", description="Closed: p, b, m")] = msgspec.field(name="A")
    B: Annotated[Picture, Meta(title="Mouth B", description="Teeth together: most consonants, ee")] = msgspec.field(
        name="B"
    )
    C: Annotated[Picture, Meta(title="Mouth C", description="Open: e, a in 'cat'")] = msgspec.field(name="C")
    D: Annotated[Picture, Meta(title="Mouth D", description="Wide open: a in 'father'")] = msgspec.field(name="D")
    E: Annotated[Picture, Meta(title="Mouth E", description="Rounded: o, er")] = msgspec.field(name="E")
    F: Annotated[Picture, Meta(title="Mouth F", description="Puckered: oo, w")] = msgspec.field(name="F")
    G: Annotated[Picture, Meta(title="Mouth G", description="Upper teeth on the lip: f, v")] = msgspec.field(name="G")
    H: Annotated[Picture, Meta(title="Mouth H", description="Tongue up: l")] = msgspec.field(name="H")
    X: Annotated[Picture, Meta(title="Mouth X", description="At rest")] = msgspec.field(name="X")


class LipSync(Strict, kw_only=True, rename="camel"):
    audio: Annotated[Recording, Meta(title="Speech", description="The speech")]
    phonemes: Annotated[
        list[SpokenSound],
        Meta(max_length=20_000, description="When which sound is spoken; none: the mouth follows the loudness"),
    ] = msgspec.field(default_factory=list)
    portrait: Annotated[
        Picture | None,
        Meta(
            description="Picture of a face from the front; null: a drawn storyteller",
            extra_json_schema={"x-kind": ["portrait", "picture"]},
        ),
    ] = None
    mouth: Annotated[
        MouthPlace | None,
        Meta(
            title="Mouth position",
            description="Where its mouth is, closed if possible",
            extra_json_schema={"x-with": "portrait"},
        ),
    ] = None
    character: Annotated[Character | None, Meta(description="Nine drawn mouths or faces")] = None
    fps: Annotated[int, Meta(title="Frames per second", ge=10, le=60)] = 25
    width: Annotated[Side | None, Meta(description="null: the picture's, at most 1280; the storyteller's is 1280")] = (
        None
    )
    height: Annotated[Side | None, Meta(description="null: the picture's; the storyteller's is 720")] = None
    strength: Annotated[float, Meta(ge=0, le=2, description="How far the mouth opens; 1: as in speech")] = 1.0
    seed: Annotated[int, Meta(ge=0, le=2**53, title="Random seed", description="Of the storyteller's blinks")] = 0
    encoder: EncoderChoice = "auto"


class ShapeInTime(Strict, kw_only=True, rename="camel"):
    shape: Shape
    start: float
    end: float


class LipSyncOutput(Strict, kw_only=True, rename="camel"):
    video: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["video"]})]
    visemes: Annotated[list[ShapeInTime], Meta(description="The shapes of the mouth, from the start to the end")]
    basis: Annotated[Literal["phonemes", "loudness"], Meta(description="What the mouth follows")]
    frames: int
    seconds: float
    width: int
    height: int
    fps: int
    device: str
    encoder: str


@task(
    id="lip_sync",
    version="1",
    label="Let a face speak",
    description="Moves the mouth of a drawn or photographed face to a speech and its phonemes; an MP4 in the bucket videos.",
    kind="gpu",
    memory_mib=512,
    time_by=("width", "height", "fps", "phonemes"),
    memory_by=("width", "height"),
    keywords=[
        "lip sync",
        "lipsync",
        "talking head",
        "talking face",
        "talking portrait",
        "avatar",
        "mouth",
        "lips",
        "animate",
        "storyteller",
        "speaking face",
        "presenter",
        "let talk",
        "let speak",
        "portrait say",
        "face say",
        "photo say",
        "picture say",
        "portrait speak",
        "photo speak",
        "picture speak",
        "portrait talk",
        "photo talk",
        "picture talk",
        "face speak",
        "face talk",
        "man say",
        "woman say",
        "make speak",
        "make talk",
    ],
    examples=[
        {
            "audio": {"bucket": "inputs", "key": "speaker-low.wav"},
            "phonemes": [
                {"symbol": "h", "start": 0.0, "end": 0.08},
                {"symbol": "ə", "start": 0.08, "end": 0.15},
                {"symbol": "l", "start": 0.15, "end": 0.24},
                {"symbol": "O", "start": 0.24, "end": 0.5},
            ],
        },
        {
            "audio": {"bucket": "inputs", "key": "speaker-low.wav"},
            "portrait": {"bucket": "inputs", "key": "portrait.png"},
            "mouth": {"x": 0.5, "y": 0.62, "width": 0.15},
            "width": 512,
            "height": 512,
        },
    ],
    groups={
        "Speech": ("audio", "phonemes"),
        "Face": ("portrait", "mouth", "character", "strength"),
        "Format": ("width", "height", "fps", "encoder", "seed"),
    },
)
def lip_sync(params: LipSync, ctx: TaskContext) -> LipSyncOutput:
    """Raises: TaskError `invalid_input`, `mouth_required`, `clipped_audio`, `encoder_unavailable`, `disk_full`."""
    xp, device, _ = array_module()
    sound = speech(params, ctx, xp)
    count = max(1, round(sound.size / soundtrack.RATE * params.fps))
    seconds = count / params.fps
    if params.phonemes:
        spoken = phonemes(params, seconds)
        shapes = visemes.visemes(spoken, seconds)
        moves = visemes.poses(spoken, seconds, params.fps, count)
    else:
        ctx.log("no phonemes were given: the mouth follows the loudness of the sound")
        moves = visemes.by_loudness(sound, soundtrack.RATE, params.fps, count)
        shapes = visemes.shapes_of(moves, params.fps)
    if len(shapes) > MOST_VISEMES:
        raise invalid_input(f"the phonemes make {len(shapes):,} shapes of a mouth; {MOST_VISEMES:,} are possible")
    ctx.progress(0.05)
    ctx.check_cancelled()
    size, face = made_face(params, ctx, xp)
    encoder = chosen_encoder(params.encoder, device == "cupy", size, params.fps)
    ctx.progress(0.1)
    path = ctx.workdir / "video.mp4"
    shown = frames(face, moves, faces.blinks(seconds, params.fps, count, params.seed), xp)
    write_video(path, watched(shown, count, ctx), params.fps, sound, soundtrack.RATE, encoder)
    stored = ctx.store(BUCKET, "face.mp4", path, "video/mp4")
    ctx.progress(1.0)
    return LipSyncOutput(
        video=ArtifactRef(bucket=stored.bucket, key=stored.key),
        visemes=[ShapeInTime(shape=each.shape, start=round(each.start, 3), end=round(each.end, 3)) for each in shapes],
        basis="phonemes" if params.phonemes else "loudness",
        frames=count,
        seconds=seconds,
        width=size[1],
        height=size[0],
        fps=params.fps,
        device=device,
        encoder=encoder,
    )


def frames(face: faces.Face, moves: FloatArray, blinks: FloatArray, xp: ArrayModule) -> Iterator[Array]:
    for pose, blink in zip(moves.tolist(), blinks.tolist(), strict=True):
        yield face.show(Pose(*pose), blink, xp)


def watched(frames: Iterator[Array], count: int, ctx: TaskContext) -> Iterator[ByteArray]:
    """The frames on the host, while progress and previews are emitted."""
    begun = shown = time.monotonic()
    for number, frame in enumerate(frames):
        ctx.check_cancelled()
        host: ByteArray = to_host(frame)
        yield host
        now = time.monotonic()
        ctx.progress(0.1 + 0.88 * (number + 1) / count)
        if now - shown > max(PREVIEW_SECONDS, PREVIEW_SHARE * (now - begun)):
            shown = now
            try:
                kept = ctx.keep_preview(BUCKET, "preview.jpg", jpeg(host, PREVIEW_WIDTH), "image/jpeg")
            except StoreError as error:  # no reason to end the work
                ctx.log(f"no preview: {error}", "warning")
            else:
                ctx.data("preview", {"bucket": kept.bucket, "key": kept.key, "frame": number})


# Sound --------------------------------------------------------------------------------------------------------------


def speech(params: LipSync, ctx: TaskContext, xp: ArrayModule) -> FloatArray:
    """(n,) at soundtrack.RATE."""
    samples, rate = read_recording(ctx.fetch(params.audio), LONGEST_SECONDS + 1)
    if samples.size > LONGEST_SECONDS * rate:
        raise invalid_input(f"the recording is longer than {LONGEST_SECONDS:g} s; cut it at a pause")
    if (share := clipped(samples)) > CLIPPED_SHARE:
        raise TaskError(
            f"the recording is clipped: {share:.0%} of it is at full scale; record it again at a lower level",
            code="clipped_audio",
            retryable=False,
        )
    resampled: FloatArray = to_host(spectra.resample(xp.asarray(samples), rate, soundtrack.RATE, xp))
    return resampled


def clipped(samples: FloatArray) -> float:
    """The share of samples at full scale in runs of at least CLIPPED_RUN."""
    full = np.concatenate(([False], np.abs(samples) >= FULL_SCALE, [False])).astype(np.int8)
    edges = np.flatnonzero(np.diff(full))
    runs = edges[1::2] - edges[::2]
    return float(runs[runs >= CLIPPED_RUN].sum() / max(1, samples.size))


def phonemes(params: LipSync, seconds: float) -> list[visemes.Phoneme]:
    for number, each in enumerate(params.phonemes):
        if each.end < each.start:
            raise invalid_input(
                f"phoneme {number} ({each.symbol!r}) ends at {each.end:g} s, before it starts at {each.start:g} s"
            )
    if (latest := min(each.start for each in params.phonemes)) >= seconds:
        raise invalid_input(
            f"the phonemes start at {latest:g} s, the recording ends at {seconds:g} s: they belong to another one"
        )
    return [visemes.Phoneme(each.symbol, each.start, each.end) for each in params.phonemes]


# Faces --------------------------------------------------------------------------------------------------------------


def made_face(params: LipSync, ctx: TaskContext, xp: ArrayModule) -> tuple[tuple[int, int], faces.Face]:
    """The frame's (height, width) and the face."""
    if params.character is not None:
        return pictured(params, params.character, ctx, xp)
    if params.portrait is None:
        if params.mouth is not None:
            raise invalid_input("there is a mouth and no portrait that it belongs to")
        size = size_of(params, USUAL_SIZE)
        return size, faces.DrawnFace(size, xp)
    if params.mouth is None:
        raise _no_mouth("where the portrait's mouth is was not given")
    path = ctx.fetch(params.portrait)
    shape = picture_shape(path)
    size = size_of(params, shape)
    picture = read_picture(path, MOST_SIDE)
    place = params.mouth
    window = faces.covering(picture.shape[:2], size, (place.x, place.y))
    x = (place.x * picture.shape[1] - window.left) / window.scale
    y = (place.y * picture.shape[0] - window.top) / window.scale
    width = place.width * picture.shape[1] / window.scale
    try:
        return size, faces.PhotographedFace(xp.asarray(picture), size, window, (x, y, width), params.strength, xp)
    except ValueError as error:
        raise invalid_input(str(error)) from error


def size_of(params: LipSync, shape: tuple[int, int]) -> tuple[int, int]:
    """Returns (height, width) of the frame: as requested, the other side by the shape; else the shape, at most USUAL_SIZE's width, even."""
    height, width = params.height, params.width
    if height is None and width is None:
        scale = min(1.0, USUAL_SIZE[1] / max(shape))
        height, width = (max(64, round(side * scale / 2) * 2) for side in shape)
    elif height is None and width is not None:
        height = min(3840, max(64, round(width * shape[0] / shape[1] / 2) * 2))
    elif width is None and height is not None:
        width = min(3840, max(64, round(height * shape[1] / shape[0] / 2) * 2))
    assert height is not None
    assert width is not None
    return height, width


def pictured(
    params: LipSync, character: Character, ctx: TaskContext, xp: ArrayModule
) -> tuple[tuple[int, int], faces.Face]:
    """Returns the frame's size and the face: whole faces as they are; mouths laid over the portrait, as wide as its mouth, their middles on its middle."""
    paths = {shape: ctx.fetch(getattr(character, shape)) for shape in SHAPES}
    whole = params.portrait is None
    under = paths["X"] if params.portrait is None else ctx.fetch(params.portrait)
    if whole and params.mouth is not None:
        raise invalid_input("there is a mouth and no portrait that it belongs to")
    if not whole and params.mouth is None:
        raise _no_mouth("the character's mouths are laid over a portrait; without one they are whole faces")
    size = size_of(params, picture_shape(under))
    base = read_picture(under, MOST_SIDE)
    at = params.mouth or MouthPlace(x=0.5, y=0.5, width=1)
    window = faces.covering(base.shape[:2], size, (at.x, at.y))
    stills: dict[Shape, Array] = {}
    for shape, path in paths.items():
        ctx.check_cancelled()
        picture = (
            read_picture(path, MOST_SIDE)
            if whole
            else faces.laid_over(base, read_cut_out(path, MOST_SIDE), at.x, at.y, at.width)
        )
        if picture.shape != base.shape:
            sizes = [f"{each.shape[1]}×{each.shape[0]}" for each in (picture, base)]
            raise invalid_input(
                f"the face {shape} has {sizes[0]} pixels, the face X {sizes[1]}: all nine need the same"
            )
        stills[shape] = faces.still(xp.asarray(picture), size, window, xp)
    try:
        return size, faces.PicturedFace(stills, xp)
    except ValueError as error:
        raise invalid_input(str(error)) from error


def _no_mouth(reason: str) -> TaskError:
    text = "give mouth {x, y, width} as fractions of the picture, from corner to corner"
    return TaskError(f"{reason}; {text}", code="mouth_required", retryable=False)
