"""Scenes: when each is seen, the camera's way over its picture, and the frames that come of it.

Scene i fades in over the one before, which goes on moving until the fade is over, so at most two are seen at a time. A picture is read,
given its look, graded and turned into a pyramid when its scene begins, and forgotten when it has ended: memory does not grow with the
number of scenes.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import NamedTuple

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels import grain
from dihedral.data_plane.kernels.frame import Bars, Frame, Stage
from dihedral.data_plane.kernels.pyramid import Pyramid, Window, chroma_layers, luma_layers
from dihedral.data_plane.media.captions import Drawn, Page
from dihedral.data_plane.media.footage import Footage
from dihedral.data_plane.media.speech_timing import Span

ZOOM = 1.16  # of the camera's way where the request gives none: slow enough for a scene of two seconds
FADE_SECONDS = 0.6
GRAIN_CODES = 8.0  # luma codes of deviation in the middle tones, at full grain
BAR_COUNT = 48
BARS_WIDE, BARS_TALL, BARS_LOW = 0.5, 0.075, 0.035  # of the frame's width, height, and height again, below them


class View(NamedTuple):
    """zoom: 1 = as much of the picture as fills the frame; x, y: 0..1 from the left or upper end of what the window can move."""

    x: float
    y: float
    zoom: float


class Shot(NamedTuple):
    """A scene in time: seen from start to end (seconds), fading in for `fade` seconds from its start."""

    start: float
    end: float
    fade: float
    begin: View
    finish: View


class Look(NamedTuple):
    """The layers over the pictures. grain: 0..1; levels: (frames, BAR_COUNT) in 0..1 on the device, None: no spectrum; pages: in order of time."""

    grain: float
    seed: int
    levels: Array | None
    pages: list[Page]


def default_views(number: int) -> tuple[View, View]:
    """Towards the picture and away from it, in turns, drifting across."""
    if number % 2 == 0:
        return View(0.25, 0.15, 1.0), View(0.75, 0.7, ZOOM)
    return View(0.7, 0.65, ZOOM), View(0.3, 0.3, 1.0)


def spans_of(lengths: list[float | None], weights: list[int], seconds: float) -> list[Span]:
    """Returns when each scene begins and the next one does: lengths as given, the rest of `seconds` shared out by the weights.

    Raises: ValueError where what is given leaves nothing for the others, or does not fill the time.
    """
    given = sum(length for length in lengths if length is not None)
    free = [weight for length, weight in zip(lengths, weights, strict=True) if length is None]
    rest = seconds - given
    if free and rest <= 0:
        raise ValueError(
            f"{given:g} s are given to some scenes, nothing of {seconds:g} s is left for the other {len(free)}"
        )
    if not free and abs(rest) > 1e-3:
        raise ValueError(f"the scenes last {given:g} s, the video {seconds:g} s")
    spans, start = [], 0.0
    for length, weight in zip(lengths, weights, strict=True):
        end = start + (length if length is not None else rest * weight / sum(free))
        spans.append(Span(start, end))
        start = end
    return spans


def shots_of(spans: list[Span], fades: list[float], views: list[tuple[View, View]]) -> list[Shot]:
    """A fade is as long as its scene at most: the scene after it has not begun, so no third one shows through."""
    fades = [min(fade, end - start) for fade, (start, end) in zip(fades, spans, strict=True)]
    after = [*fades[1:], 0.0]
    return [
        Shot(*span, fade, *way)._replace(end=span.end + more)
        for span, fade, more, way in zip(spans, fades, after, views, strict=True)
    ]


def scale_of(view: View, shape: tuple[int, int], size: tuple[int, int]) -> float:
    """The picture's pixels to a pixel of the frame, both (height, width)."""
    return min(shape[0] / size[0], shape[1] / size[1]) / view.zoom


def window_of(along: float, shot: Shot, shape: tuple[int, int], size: tuple[int, int]) -> Window:
    """Returns the view at `along` 0..1 of the camera's way, which it begins and ends gently. It never leaves the picture.

    The zoom goes on by equal factors, not by equal steps: so it looks even.
    """
    eased = along * along * (3 - 2 * along)
    begin, finish = shot.begin, shot.finish
    view = View(
        begin.x + (finish.x - begin.x) * eased,
        begin.y + (finish.y - begin.y) * eased,
        begin.zoom * (finish.zoom / begin.zoom) ** eased,
    )
    scale = scale_of(view, shape, size)
    return Window((shape[0] - size[0] * scale) * view.y, (shape[1] - size[1] * scale) * view.x, scale)


def bars_of(size: tuple[int, int]) -> Bars:
    """Returns the place of the spectrum in a frame of size = (height, width)."""
    height, width = size
    pitch = width * BARS_WIDE / BAR_COUNT
    return Bars(
        BAR_COUNT, width * (1 - BARS_WIDE) / 2, pitch, 0.31 * pitch, height * (1 - BARS_LOW), height * BARS_TALL
    )


def rows_below(size: tuple[int, int], has_spectrum: bool) -> float:
    """Returns the height that the spectrum takes at the frame's lower rim, in pixels."""
    bars = bars_of(size)
    return size[0] - bars.base + bars.tallest + 2 * bars.radius if has_spectrum else 0.0


def stage_of(look: Look, size: tuple[int, int], xp: ArrayModule) -> Stage:
    strength = look.grain * GRAIN_CODES
    return Stage(size, grain.field(size, look.seed, xp) if strength else None, strength, bars_of(size))


def frames(
    shots: list[Shot],
    source: Callable[[int], Pyramid | Footage],
    look: Look,
    count: int,
    fps: int,
    stage: Stage,
    xp: ArrayModule,
) -> Iterator[Frame]:
    """Renders `count` frames, each as things are in the middle of its time.

    source: makes the pyramid of a scene's picture, or opens its video; called once for each that is seen, in order.
    """
    size = stage.size
    below = rows_below(size, look.levels is not None)
    sources: dict[int, Pyramid | Footage] = {}
    drawn: Drawn | None = None
    for number in range(count):
        seconds = (number + 0.5) / fps
        seen = [at for at, shot in enumerate(shots) if shot.start <= seconds < shot.end] or [len(shots) - 1]
        for gone in [at for at in sources if at not in seen]:
            del sources[gone]
        luma, chroma = [], []
        for at in seen:
            if at not in sources:
                sources[at] = source(at)
            shot, seen_of, share = shots[at], sources[at], _share(shots, at, seen, seconds)
            if isinstance(seen_of, Footage):
                layers = seen_of.layers(seconds - shot.start, share)
            else:
                along = min(1.0, (seconds - shot.start) / (shot.end - shot.start))
                window = window_of(along, shot, seen_of.luma[0].shape[1:], size)
                layers = luma_layers(seen_of, window, share), chroma_layers(seen_of, window, share)
            luma += layers[0]
            chroma += layers[1]
        begun = bisect_right(look.pages, seconds, key=lambda page: page.start)
        caption = None
        if begun and seconds < (page := look.pages[begun - 1]).end:
            if drawn is None or drawn.page is not page:
                drawn = Drawn(page, size, below, xp)
            caption = drawn.at(seconds)
        levels = None if look.levels is None else look.levels[number]
        yield Frame(luma, chroma, grain.corner(look.seed, number), levels, caption)


def _share(shots: list[Shot], at: int, seen: list[int], seconds: float) -> float:
    """Returns the scene's share of the frame; the first scene fades in from black, as nothing is under it."""
    share = 1.0
    if shots[at].fade > 0:
        along = min(1.0, (seconds - shots[at].start) / shots[at].fade)
        share = along * along * (3 - 2 * along)
    return share * (1 - _share(shots, at + 1, seen, seconds)) if at + 1 in seen else share
