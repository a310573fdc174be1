"""A picture as luma and chroma planes in halving sizes, so that a window of any width is sampled without aliasing.

The interpolation looks at four pixels, so a step of more than about 1.3 pixels skips detail, which flickers when the camera moves.
Wider windows are sampled from a plane that was halved (mean of 2×2 pixels) often enough, and between two sizes from both, in shares
that move with the logarithm of the step (Williams 1983, "Pyramidal parametrics").

Chroma has half the luma's resolution from the start, as the frame has, except where the picture is magnified.
"""

from math import floor, log2
from typing import NamedTuple

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.sampling import ONE, Axis, Layer

SHARP = 1.3  # pixels to a sample that the interpolation takes without visible aliasing


class Window(NamedTuple):
    """The part of a picture that a frame shows: its upper left corner and how much a frame's pixel covers, in the picture's pixels."""

    top: float
    left: float
    scale: float


class Pyramid(NamedTuple):
    """luma[i]: (1, H / 2ⁱ, W / 2ⁱ), chroma[i]: (2, …) of the same sizes, or from the second on where `first` is 1; float32."""

    luma: list[Array]
    chroma: list[Array]
    first: int


def pyramid(planes: Array, finest: float, widest: float, xp: ArrayModule) -> Pyramid:
    """planes: (3, H, W) float32, luma first; finest, widest: the smallest and the largest scale it will be seen at."""
    luma, chroma, first = [planes[:1]], [planes[1:]], 0
    if finest > 1 / SHARP:
        chroma, first = [halved(planes[1:], xp)], 1
        luma = [planes[:1].copy()]  # a view would keep the chroma of full size
    while widest > SHARP * 2 ** (len(luma) - 1):
        luma.append(halved(luma[-1], xp))
    while 2 * widest > SHARP * 2 ** (first + len(chroma) - 1):
        chroma.append(halved(chroma[-1], xp))
    return Pyramid(luma, chroma, first)


def halved(planes: Array, xp: ArrayModule) -> Array:
    """(n, H, W) -> (n, ceil(H/2), ceil(W/2)): means of 2×2 pixels; an odd rim is repeated."""
    if planes.shape[1] % 2 or planes.shape[2] % 2:
        planes = xp.pad(planes, ((0, 0), (0, planes.shape[1] % 2), (0, planes.shape[2] % 2)), mode="edge")
    rows = planes[:, ::2] + planes[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) * xp.float32(0.25)


def luma_layers(picture: Pyramid, window: Window, weight: float) -> list[Layer]:
    """Returns one or two layers of the frame's luma, sampled at the pixels' centres."""
    return _layers(picture.luma, 0, window, 1, (0.5, 0.5), weight)


def chroma_layers(picture: Pyramid, window: Window, weight: float) -> list[Layer]:
    """Samples like luma_layers, for chroma at half the size, sited as H.264 has it by default: on even columns, between two rows."""
    return _layers(picture.chroma, picture.first, window, 2, (1.0, 0.5), weight)


def _layers(
    levels: list[Array], first: int, window: Window, stride: int, site: tuple[float, float], weight: float
) -> list[Layer]:
    """site: (y, x) of the first sample in the frame, in its pixels from the upper left corner."""
    depth = log2(max(1e-6, stride * window.scale / SHARP))
    depth = min(max(depth, first), first + len(levels) - 1)
    upper, share = floor(depth), depth - floor(depth)
    found = []
    for level, part in ((upper, 1 - share), (upper + 1, share)):
        if part > 0:
            at = [corner + offset * window.scale for corner, offset in zip(window[:2], site, strict=True)]
            step = round(stride * window.scale / 2**level * ONE)
            rows, columns = (Axis(round((start / 2**level - 0.5) * ONE), step) for start in at)
            found.append(Layer(levels[level - first], rows, columns, weight * part))
    return found
