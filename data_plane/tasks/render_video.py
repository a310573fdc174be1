"""Task `render_video`: scenes from pictures, narration and sound become an MP4.

The camera moves over each picture, scenes fade into each other, the narration's words stand below while they are spoken, and the sound's
spectrum under them. An adapter gives the pictures its look, a voice the narration its colour; both are what training made of other media,
or of the same: swapping the one changes every frame, swapping the other changes the sound.

Large because a render is one pass over one set of streams.
"""

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from math import ceil, sqrt
from pathlib import Path
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta

from dihedral.bridge.errors import StoreError
from dihedral.bridge.tasks.params import LookModel, Picture, Recording, Video, VoiceModel
from dihedral.bridge.tasks.registry import TaskContext, invalid_input, task
from dihedral.data_plane.device import Array, ArrayModule, array_module, to_host
from dihedral.data_plane.kernels import bars, colour, low_rank
from dihedral.data_plane.kernels.frame import render
from dihedral.data_plane.kernels.low_rank import Adapter
from dihedral.data_plane.kernels.patches import luma, map_patches
from dihedral.data_plane.kernels.pyramid import Pyramid, pyramid
from dihedral.data_plane.media import captions, scenes, soundtrack
from dihedral.data_plane.media import speech_timing as timing
from dihedral.data_plane.media.decode import ByteArray, FloatArray, jpeg, picture_shape, read_picture, read_recording
from dihedral.data_plane.media.footage import Footage, facts
from dihedral.data_plane.media.speech_timing import Span, Timed
from dihedral.data_plane.media.video_file import EncoderChoice, chosen_encoder, write_video
from dihedral.data_plane.model_files import Voice, read_adapter, read_voice
from dihedral.schemas.strict import Strict
from dihedral.schemas.structs.artifact import ArtifactRef
from dihedral.schemas.structs.capability import Check

BUCKET = "videos"
LONGEST_SECONDS = 600.0
MOST_SCENES = 100
LONGEST_UNASKED_SECONDS = 60.0  # of a video whose length the request does not give
SCENE_SECONDS = 4.0  # of a scene to which nothing gives a length
LEAST_SCENE_SECONDS = (
    1.0  # that a narration has to leave to each such scene, else it does not decide the length of the video
)
CUT_SECONDS = 0.1  # of a narration that may go unheard without a word
LOOK = 0.5  # share of the adapter in the colours; the rest is the picture itself
TONE = 0.25  # share of the adapter in the lights and darks: more would blur, the map knows no fine detail
MOST_LETTERS = 100_000  # of all lines: a second's work, and ten times what is read aloud in LONGEST_SECONDS
MOST_PIXELS = 24_000_000  # of a picture in memory: a panorama is as long as it likes otherwise
STRIP_PIXELS = 500_000  # of a picture that are given their look at once
PREVIEW_SECONDS = 1.0  # of wall time between previews, at least
PREVIEW_SHARE = 0.01  # of the time gone between previews, at least: the event log is bounded
PREVIEW_WIDTH = 320

Line = Annotated[str, Meta(max_length=1000)]
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(gt=0, le=LONGEST_SECONDS)]


class View(Strict, kw_only=True, rename="camel"):
    """What the camera sees of a picture."""

    x: Annotated[Share, Meta(description="From the left end of what the view can move, 0..1")] = 0.5
    y: Annotated[Share, Meta(description="From the upper end, 0..1")] = 0.5
    zoom: Annotated[float, Meta(ge=1, le=8, description="1: as much of the picture as fills the frame")] = 1.0


class SpokenWord(Strict, kw_only=True):
    """As `speak` tells it: in seconds of the narration."""

    text: Annotated[str, Meta(max_length=1000)]
    start: Annotated[float, Meta(ge=0)]
    end: Annotated[float, Meta(ge=0)]


class Scene(Strict, kw_only=True, rename="camel"):
    picture: Annotated[Picture | None, Meta(description="What is seen, or what a video stands before")] = None
    video: Annotated[Video | None, Meta(description="In place of a picture; its sound is not heard")] = None
    seconds: Annotated[
        Seconds | None,
        Meta(title="Length (seconds)", description="Length; null: its share of the video's, by its lines"),
    ] = None
    lines: Annotated[list[Line], Meta(max_length=200, description="Narration, shown as captions")] = msgspec.field(
        default_factory=list
    )
    words: Annotated[
        list[SpokenWord], Meta(max_length=20_000, description="Captions at the times when they are spoken")
    ] = msgspec.field(default_factory=list)
    from_: Annotated[View | None, Meta(title="Camera from", description="Where the camera begins; null: chosen")] = (
        msgspec.field(default=None, name="from")
    )
    to: Annotated[View | None, Meta(title="Camera to", description="Where it ends; null: chosen")] = None
    fade: Annotated[
        Annotated[float, Meta(ge=0, le=10)] | None,
        Meta(
            title="Cross-fade (seconds)",
            description="Seconds of cross-fade from the scene before, the first one from black; null: 0.6, the first one 0",
        ),
    ] = None


class Grade(Strict, kw_only=True, rename="camel"):
    exposure: Annotated[float, Meta(ge=-4, le=4, description="Stops of light")] = 0.0
    contrast: Annotated[float, Meta(ge=0, le=4, description="Slope around the middle")] = 1.0
    saturation: Annotated[float, Meta(ge=0, le=4, description="0: grey")] = 1.0
    temperature: Annotated[float, Meta(ge=-2, le=2, description="Stops that red gains on blue")] = 0.0


SEEN = {"x-one-of": "What is to be seen"}


class RenderVideo(Strict, kw_only=True, rename="camel"):
    scenes: Annotated[list[Scene], Meta(max_length=100, extra_json_schema=SEEN)] = msgspec.field(default_factory=list)
    pictures: Annotated[
        list[Picture], Meta(max_length=100, description="More scenes, a picture each", extra_json_schema=SEEN)
    ] = msgspec.field(default_factory=list)
    words: Annotated[
        list[SpokenWord],
        Meta(
            max_length=20_000,
            title="Words in time",
            description="The narration's words in time, shared out over the scenes",
            extra_json_schema={"x-kind": ["captions"]},
        ),
    ] = msgspec.field(default_factory=list)
    narration: Annotated[list[Recording], Meta(max_length=100, description="Recordings, heard one after another")] = (
        msgspec.field(default_factory=list)
    )
    background: Annotated[
        Recording | None,
        Meta(
            title="Background sound",
            description="Sound under the narration, from its start, again and again",
            extra_json_schema={"x-kind": ["music"]},
        ),
    ] = None
    background_db: Annotated[
        float, Meta(ge=-80, le=20, title="Background level (dB)", description="Its gain in decibels")
    ] = -18.0
    adapter: Annotated[
        LookModel | None, Meta(title="Look", description="Image adapter that gives the pictures its look")
    ] = None
    voice: Annotated[VoiceModel | None, Meta(description="Voice that the narration is equalised towards")] = None
    seconds: Annotated[
        Seconds | None,
        Meta(
            title="Length (seconds)", description="Length; null: the scenes', or the narration's, then at most a minute"
        ),
    ] = None
    width: Annotated[int, Meta(ge=32, le=3840, multiple_of=2)] = 1280
    height: Annotated[int, Meta(ge=32, le=2160, multiple_of=2)] = 720
    fps: Annotated[int, Meta(title="Frames per second", ge=1, le=60)] = 24
    spectrum: Annotated[bool, Meta(title="Show the spectrum", description="Whether the sound's spectrum is shown")] = (
        True
    )
    grade: Annotated[Grade, Meta(title="Colour grade", description="Of the pictures' colours")] = msgspec.field(
        default_factory=Grade
    )
    grain: Annotated[Share, Meta(title="Film grain", description="Film grain, 0..1")] = 0.15
    seed: Annotated[int, Meta(ge=0, le=2**53, title="Random seed", description="Of the grain")] = 0
    encoder: EncoderChoice = "auto"


class RenderVideoOutput(Strict, kw_only=True, rename="camel"):
    video: Annotated[ArtifactRef, Meta(extra_json_schema={"x-kind": ["video"]})]
    frames: int
    seconds: float
    width: int
    height: int
    fps: int
    device: str
    encoder: str


@task(
    checks=[
        Check(
            id="duration",
            label="as long as asked",
            value="/seconds",
            least="params/seconds",
            most="params/seconds",
            tolerance=0.05,
        ),
        Check(id="width", label="as wide as asked", value="/width", least="params/width", most="params/width"),
        Check(id="height", label="as high as asked", value="/height", least="params/height", most="params/height"),
    ],
    id="render_video",
    version="2",
    label="Render a video",
    description="Renders scenes from pictures, narration and sound into an MP4 (H.264, AAC) in the bucket videos.",
    kind="gpu",
    memory_mib=1024,
    time_by=("width", "height", "fps", "seconds", "scenes"),
    memory_by=("width", "height"),
    keywords=[
        "apply it to",
        "film",
        "movie",
        "clip",
        "slideshow",
        "slide show",
        "montage",
        "animation",
        "show",
        "postcard",
        "album",
        "trailer",
        "reel",
        "mp4",
        "ken burns",
        "captions",
        "subtitles",
        "put together",
        "combine",
        "join",
        "assemble",
        "stitch",
        "stitch together",
    ],
    examples=[
        {
            "scenes": [
                {"picture": {"bucket": "inputs", "key": "dusk.png"}, "lines": ["The sun goes down over the lake."]},
                {"picture": {"bucket": "inputs", "key": "night.png"}, "lines": ["Then the stars come out."]},
            ],
            "narration": [{"bucket": "inputs", "key": "speaker-low.wav"}],
            "adapter": {"bucket": "loras", "key": "example/adapter/1/adapter.safetensors"},
            "voice": {"bucket": "voices", "key": "example/voice/1/voice.safetensors"},
            "width": 1920,
            "height": 1080,
        }
    ],
    groups={
        "Scenes": ("scenes", "pictures", "words"),
        "Sound": ("narration", "background", "backgroundDb", "voice", "spectrum"),
        "Colours": ("adapter", "grade", "grain"),
        "Format": ("seconds", "width", "height", "fps", "encoder", "seed"),
    },
)
def render_video(params: RenderVideo, ctx: TaskContext) -> RenderVideoOutput:
    """Raises: TaskError `invalid_input`, `encoder_unavailable`, `disk_full`."""
    xp, device, _ = array_module()
    params = msgspec.structs.replace(params, scenes=scenes_of(params))
    encoder = chosen_encoder(params.encoder, device == "cupy", (params.height, params.width), params.fps)
    pictures = [None if scene.picture is None else ctx.fetch(scene.picture) for scene in params.scenes]
    videos = [None if scene.video is None else ctx.fetch(scene.video) for scene in params.scenes]
    shapes = [None if picture is None else picture_shape(picture) for picture in pictures]
    params = with_lengths(params, videos)
    adapter = None if params.adapter is None else read_adapter(ctx.fetch(params.adapter), xp)
    voice = None if params.voice is None else read_voice(ctx.fetch(params.voice), xp)
    if voice is not None and not params.narration:
        raise invalid_input("there is a voice, and no narration that it could be heard in")
    spoken = narration(params, voice, ctx, xp)
    length = length_of(params, spoken)
    count = round(length * params.fps)
    if count < 1:
        raise invalid_input("the video would be shorter than one frame")
    seconds = count / params.fps
    spans = speech(spoken, length)
    face, texts, times = captions_of(params, ctx)
    weights = [sum(captions.weights(text)) for text in texts]
    shots = plan(params, weights, spans, length)  # not `seconds`: the scenes' lengths need not be whole frames
    ctx.progress(0.05)
    ctx.check_cancelled()
    background = None if params.background is None else recording(ctx.fetch(params.background), seconds, None, xp)
    silent = background is None and not params.narration
    sound = None if silent else soundtrack.mixed(spoken, background, params.background_db, seconds)
    pages = pages_of(texts, times, face, shots, spans if params.narration else None, length)
    look = scenes.Look(params.grain, params.seed, levels(params, sound, count, xp), pages)
    ctx.progress(0.1)

    size = params.height, params.width
    below = ceil(scenes.rows_below(size, look.levels is not None) + captions.rows_of_a_page(size))

    def seen(number: int) -> Pyramid | Footage:
        ctx.check_cancelled()
        picture, video, shape = pictures[number], videos[number], shapes[number]
        if video is not None:
            return Footage(video, size, below, picture, xp)
        assert picture is not None
        assert shape is not None
        return prepared(picture, shape, shots[number], params, adapter, ctx.check_cancelled, xp)

    path = ctx.workdir / "video.mp4"
    stage = scenes.stage_of(look, size, xp)
    planned = scenes.frames(shots, seen, look, count, params.fps, stage, xp)
    made = (render(each, stage, xp) for each in planned)
    write_video(path, watched(made, count, ctx), params.fps, sound, soundtrack.RATE, encoder)
    stored = ctx.store(BUCKET, "video.mp4", path, "video/mp4")
    ctx.progress(1.0)
    return RenderVideoOutput(
        video=ArtifactRef(bucket=stored.bucket, key=stored.key),
        frames=count,
        seconds=seconds,
        width=params.width,
        height=params.height,
        fps=params.fps,
        device=device,
        encoder=encoder,
    )


def watched(frames: Iterator[Array], count: int, ctx: TaskContext) -> Iterator[ByteArray]:
    """Yields the frames on the host, and reports progress and previews; at least one, of the middle, so that there is a picture of a short film too."""
    begun = shown = time.monotonic()
    for number, frame in enumerate(frames):
        ctx.check_cancelled()
        host: ByteArray = to_host(frame)
        yield host
        now = time.monotonic()
        ctx.progress(0.1 + 0.88 * (number + 1) / count)
        is_first = shown == begun and number == count // 2
        if is_first or now - shown > max(PREVIEW_SECONDS, PREVIEW_SHARE * (now - begun)):
            shown = now
            show(host, number, ctx)


def show(frame: ByteArray, number: int, ctx: TaskContext) -> None:
    """A preview that cannot be stored is no reason to end the work."""
    try:
        kept = ctx.keep_preview(BUCKET, "preview.jpg", jpeg(frame, PREVIEW_WIDTH), "image/jpeg")
    except StoreError as error:
        ctx.log(f"no preview: {error}", "warning")
    else:
        ctx.data("preview", {"bucket": kept.bucket, "key": kept.key, "frame": number})


# Scenes -------------------------------------------------------------------------------------------------------------


def scenes_of(params: RenderVideo) -> list[Scene]:
    """Those of `scenes` and `pictures`, each with its share of `words`."""
    found = [*params.scenes, *(Scene(picture=picture) for picture in params.pictures)]
    if not 1 <= len(found) <= MOST_SCENES:
        raise invalid_input(
            f"a video has 1 to {MOST_SCENES} scenes; here are {len(found)}: give `scenes` or `pictures`"
        )
    for number, scene in enumerate(found):
        if scene.picture is None and scene.video is None:
            raise invalid_input(f"scene {number} has neither a picture nor a video")
        if scene.lines and (scene.words or params.words):
            raise invalid_input(f"scene {number} has lines, and words in time: give one of them")
        if scene.words and params.words:
            raise invalid_input(f"scene {number} has words of its own, and there are `words` of all: give one of them")
        if scene.video is not None and (params.adapter is not None or params.grade != Grade()):
            raise invalid_input(
                f"scene {number} is a video: a look (`adapter`) and a `grade` can be given to pictures only"
            )
    starts = [word.start for words in [*(scene.words for scene in found), params.words] for word in words]
    if starts != sorted(starts):
        raise invalid_input("the words are not in the order of time")
    if not params.words:
        return found
    shares = shared_out(params.words, len(found))
    return [msgspec.structs.replace(scene, words=words) for scene, words in zip(found, shares, strict=True)]


def shared_out(words: list[SpokenWord], count: int) -> list[list[SpokenWord]]:
    """Splits the words into `count` parts that last about as long, cut behind sentences where there are enough of them."""
    ends = [at + 1 for at, word in enumerate(words[:-1]) if captions.ends_sentence(word.text)]
    if len(ends) < count - 1:
        ends = list(range(1, len(words)))
    cuts = [0]
    for number in range(1, count):
        later = [at for at in ends if at > cuts[-1]]
        possible = later[: max(1, len(later) - (count - 1 - number))]  # each scene behind it needs one too
        wanted = words[-1].end * number / count
        cuts.append(min(possible, key=lambda at: abs(words[at].start - wanted), default=len(words)))
    return [words[start:end] for start, end in pairwise([*cuts, len(words)])]


def with_lengths(params: RenderVideo, videos: list[Path | None]) -> RenderVideo:
    """Returns params in which a scene of a video lasts as long as the video, where there is no narration."""
    if params.narration:
        return params
    scenes = [
        msgspec.structs.replace(scene, seconds=facts(video).seconds) if video and scene.seconds is None else scene
        for scene, video in zip(params.scenes, videos, strict=True)
    ]
    return msgspec.structs.replace(params, scenes=scenes)


# Sound and time -----------------------------------------------------------------------------------------------------


def narration(params: RenderVideo, voice: Voice | None, ctx: TaskContext, xp: ArrayModule) -> FloatArray:
    """(n,) at soundtrack.RATE: the recordings, as far as the video can last."""
    fixed, free = fixed_and_free(params)
    unasked = LONGEST_SECONDS if any(scene.words for scene in params.scenes) else LONGEST_UNASKED_SECONDS
    left = params.seconds or min(LONGEST_SECONDS, fixed + unasked * (free > 0))
    parts: list[FloatArray] = []
    cut = False
    for reference in params.narration:
        part = recording(ctx.fetch(reference), max(left, 0.0), voice, xp)
        cut = cut or part.size > (left + CUT_SECONDS) * soundtrack.RATE
        if left > 0:
            parts.append(part[: ceil(left * soundtrack.RATE)])
        left -= part.size / soundtrack.RATE
        ctx.check_cancelled()
    if cut:
        ctx.log(
            f"the narration is longer than the video can be; it is cut at {sum(p.size for p in parts) / soundtrack.RATE:g} s"
        )
    return np.concatenate([np.empty(0, np.float32), *parts])


def recording(path: Path, seconds: float, voice: Voice | None, xp: ArrayModule) -> FloatArray:
    """(n,) at soundtrack.RATE: up to a second more than `seconds`, so that whether it is silent, or goes on, is seen."""
    samples, rate = read_recording(path, seconds + 1.0)
    return soundtrack.narration(xp.asarray(samples), rate, voice, xp)


def length_of(params: RenderVideo, spoken: FloatArray) -> float:
    """Returns the seconds of the video: as requested, else the narration's where it leaves time for every scene, else the sum of the scenes."""
    fixed, free = fixed_and_free(params)
    if params.seconds is not None:
        return params.seconds
    heard = spoken.size / soundtrack.RATE
    if free and heard >= fixed + LEAST_SCENE_SECONDS * free:
        return heard
    seconds = fixed + SCENE_SECONDS * free
    if seconds > LONGEST_SECONDS:
        raise invalid_input(f"the scenes last {seconds:g} s; {LONGEST_SECONDS:g} s are possible")
    return seconds


def fixed_and_free(params: RenderVideo) -> tuple[float, int]:
    """Returns the seconds that scenes request, and the number of scenes that request none."""
    given = [scene.seconds for scene in params.scenes if scene.seconds is not None]
    return sum(given), len(params.scenes) - len(given)


def speech(spoken: FloatArray, seconds: float) -> list[Span]:
    """Returns when there is speech; all the time where there is no narration."""
    heard = spoken[: round(seconds * soundtrack.RATE)]
    return timing.speech(heard, soundtrack.RATE) or [Span(0.0, heard.size / soundtrack.RATE or seconds)]


def plan(params: RenderVideo, weights: list[int], spans: list[Span], seconds: float) -> list[scenes.Shot]:
    """Places the scenes in time: as long as they request; where none requests a length and all have lines, each begins with its first word.

    weights: of what each scene's captions show.
    """
    lengths = [scene.seconds for scene in params.scenes]
    try:
        if all(scene.words for scene in params.scenes) and not any(lengths):
            starts = [0.0, *(scene.words[0].start for scene in params.scenes[1:]), seconds]
            if any(after <= before for before, after in pairwise(starts)):
                raise invalid_input("the scenes' words begin at one time, or behind the end of the video")
            times = [Span(*each) for each in pairwise(starts)]
        elif all(weights) and not any(lengths):
            starts = [0.0, *(span.start for span in timing.spread(weights, spans)[1:]), seconds]
            times = [Span(*each) for each in pairwise(starts)]
        else:
            usual = max(1, sum(weights) // max(1, sum(map(bool, weights))))
            times = scenes.spans_of(lengths, [weight or usual for weight in weights], seconds)
    except ValueError as error:
        raise invalid_input(str(error)) from error
    fades = [
        scene.fade if scene.fade is not None else scenes.FADE_SECONDS * (at > 0)
        for at, scene in enumerate(params.scenes)
    ]
    return scenes.shots_of(times, fades, [views_of(scene, at) for at, scene in enumerate(params.scenes)])


def views_of(scene: Scene, number: int) -> tuple[scenes.View, scenes.View]:
    begin, finish = scenes.default_views(number)
    if scene.from_ is not None:
        begin = scenes.View(scene.from_.x, scene.from_.y, scene.from_.zoom)
    if scene.to is not None:
        finish = scenes.View(scene.to.x, scene.to.y, scene.to.zoom)
    return begin, finish


def captions_of(
    params: RenderVideo, ctx: TaskContext
) -> tuple[captions.Face, list[list[captions.Text]], list[list[Span]]]:
    """Returns the font, each scene's pages, and the times of their words where they are known. Text that no font has a picture of is logged."""
    lines = [line for scene in params.scenes for line in [*scene.lines, *(word.text for word in scene.words)]]
    if (letters := sum(map(len, lines))) > MOST_LETTERS:
        raise invalid_input(f"the lines have {letters:,} letters together; {MOST_LETTERS:,} are possible")
    size = params.height, params.width
    face = captions.face_of(lines, size)
    if missing := face.missing(lines):
        ctx.log(
            f"no font here has these characters, they are left out of the captions: {' '.join(missing[:50])}", "warning"
        )
    if captions.wrongly_shaped(lines):
        ctx.log(
            "libfribidi is missing on this machine: Arabic and Hebrew are drawn letter by letter, from left to right",
            "warning",
        )
    texts, times = [], []
    for scene in params.scenes:
        broken, known = captions.broken(scene.lines, face, size), list[Span]()
        if scene.words:
            spoken = [Timed(word.text, word.start, max(word.start, word.end)) for word in scene.words]
            broken, known = captions.broken_in_time(spoken, face, size)
        texts.append(broken)
        times.append(known)
    return face, texts, times


def pages_of(
    texts: list[list[captions.Text]],
    times: list[list[Span]],
    face: captions.Face,
    shots: list[scenes.Shot],
    spans: list[Span] | None,
    seconds: float,
) -> list[captions.Page]:
    """Places words at their times; else the scenes' texts while there is speech; without speech (`spans` None), each scene's until the next begins."""
    if spans is not None and not any(times):
        together = [text for scene in texts for text in scene]
        return captions.schedule([(together, spans)], face)
    starts = [*(shot.start for shot in shots), seconds]
    own = [Span(*each) for each in pairwise(starts)]
    return captions.schedule_words(
        [
            (text, known or captions.spread_over(text, [span]))
            for text, known, span in zip(texts, times, own, strict=True)
        ],
        face,
    )


def levels(params: RenderVideo, sound: FloatArray | None, count: int, xp: ArrayModule) -> Array | None:
    """(frames, bars) of the spectrum, None where none is shown."""
    if not params.spectrum or sound is None:
        return None
    return xp.asarray(bars.levels(xp.asarray(sound), soundtrack.RATE, params.fps, count, scenes.BAR_COUNT, xp))


# Pictures -----------------------------------------------------------------------------------------------------------


def prepared(
    path: Path,
    shape: tuple[int, int],
    shot: scenes.Shot,
    params: RenderVideo,
    adapter: Adapter | None,
    check: Callable[[], None],
    xp: ArrayModule,
) -> Pyramid:
    """The picture as it will be sampled: no larger than the closest view needs, in the adapter's look, graded, as planes.

    check: called for every strip, which takes some tenths of a second on a CPU, to end the work by raising.
    """
    size = params.height, params.width
    views = shot.begin, shot.finish
    needed = 1 / min(scenes.scale_of(view, shape, size) for view in views)
    largest = sqrt(MOST_PIXELS / (shape[0] * shape[1]))
    picture = read_picture(path, ceil(max(shape) * min(1.0, needed, largest)))
    grade = colour.Grade(*msgspec.structs.astuple(params.grade))
    planes = xp.empty((3, *picture.shape[:2]), dtype=xp.float32)
    for at, strip in strips(picture, adapter, xp):
        check()
        planes[:, at : at + len(strip)] = colour.to_planes(colour.graded(strip, grade, xp), xp)
    del picture, strip  # as large as the planes
    scales = [scenes.scale_of(view, planes.shape[1:], size) for view in views]
    return pyramid(planes, min(scales), max(scales), xp)


def strips(picture: FloatArray, adapter: Adapter | None, xp: ArrayModule) -> Iterator[tuple[int, Array]]:
    """(first row, rows in the adapter's look) on the device, from above: what is made on the way is as large as a strip, not as the picture.

    A strip begins on the adapter's grid and is seen with half a patch more on either side, so that it looks as in the whole picture.
    """
    side, half = (1, 0) if adapter is None else (adapter.patch, adapter.patch // 2)
    base = None if adapter is None else low_rank.base_map(adapter.b.shape[0], adapter.base_seed, xp)
    rows = max(side, STRIP_PIXELS // picture.shape[1] // side * side)
    for at in range(0, len(picture), rows):
        first = max(0, at - half)
        seen = xp.asarray(picture[first : at + rows + half])
        if adapter is not None:
            seen = restyle(seen, adapter, base, xp)
        yield at, seen[at - first : at - first + rows]


def restyle(picture: Array, adapter: Adapter, base: Array, xp: ArrayModule) -> Array:
    """(H, W, 3) in 0..1 -> the same: colours and tones as base and adapter see them, laid over the picture's own."""
    mapped = map_patches(picture, adapter.patch, lambda patches: low_rank.predict(patches, base, adapter, xp), xp)
    own, seen = luma(picture, xp)[:, :, None], luma(mapped, xp)[:, :, None]
    colours = (picture - own) + LOOK * ((mapped - seen) - (picture - own))
    return xp.clip(own + TONE * (seen - own) + colours, 0, 1)
