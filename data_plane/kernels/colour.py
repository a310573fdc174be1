"""Colour: a grade, and RGB to the Y′CbCr code values of ITU-R BT.709 with limited range, which HD video uses.

    Y′ = 0.2126 R + 0.7152 G + 0.0722 B,   Cb = (B − Y′) / 1.8556,   Cr = (R − Y′) / 1.5748
    luma code = 16 + 219 Y′,               chroma code = 128 + 224 C

The planes here hold 219 Y′ and 224 C as float32, without the offsets: black is zero, so planes add up in shares (cross-fades), and
as the conversion is linear, sampling, fading and laying over come to the same behind it, at half the work of three colours.
"""

from typing import NamedTuple

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.patches import LUMA, luma

DISPLAY_GAMMA = 2.4  # ITU-R BT.1886: light = value^2.4, so a gain of light is a gain of values
CB, CR = 1.8556, 1.5748
LUMA_RANGE, CHROMA_RANGE = 219.0, 224.0
LUMA_OFFSET, CHROMA_OFFSET = 16.0, 128.0


class Grade(NamedTuple):
    """exposure: stops of light; contrast: slope around the middle; saturation: 0 = grey; temperature: stops that red gains on blue."""

    exposure: float = 0.0
    contrast: float = 1.0
    saturation: float = 1.0
    temperature: float = 0.0


def graded(picture: Array, grade: Grade, xp: ArrayModule) -> Array:
    """(H, W, 3) in 0..1 -> the same: gains of light, then contrast, then saturation, cut to 0..1 at the end."""
    if grade == Grade():
        return picture
    stops = [grade.exposure + grade.temperature / 2, grade.exposure, grade.exposure - grade.temperature / 2]
    gains = xp.asarray([2 ** (stop / DISPLAY_GAMMA) for stop in stops], dtype=xp.float32)
    shown = picture * gains
    shown = (shown - xp.float32(0.5)) * xp.float32(grade.contrast) + xp.float32(0.5)
    grey = luma(shown, xp)[:, :, None]
    return xp.clip(grey + (shown - grey) * xp.float32(grade.saturation), 0, 1)


def to_planes(picture: Array, xp: ArrayModule) -> Array:
    """(H, W, 3) in 0..1 -> (3, H, W) float32: 219 Y′, 224 Cb, 224 Cr."""
    red, green, blue = LUMA
    matrix = [
        [LUMA_RANGE * red, LUMA_RANGE * green, LUMA_RANGE * blue],
        [CHROMA_RANGE / CB * part for part in (-red, -green, 1 - blue)],
        [CHROMA_RANGE / CR * part for part in (1 - red, -green, -blue)],
    ]
    height, width, _ = picture.shape
    return (xp.asarray(matrix, dtype=xp.float32) @ picture.reshape(-1, 3).T).reshape(3, height, width)


def code_of(red: float, green: float, blue: float) -> tuple[float, float, float]:
    """A colour in 0..1 as the planes hold it."""
    light = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
    return LUMA_RANGE * light, CHROMA_RANGE * (blue - light) / CB, CHROMA_RANGE * (red - light) / CR


def to_rgb(luma_codes: Array, chroma_codes: Array, xp: ArrayModule) -> Array:
    """Codes (H, W) and (2, H, W), as stored in a video, -> (H, W, 3) uint8: the way back, for looking at a frame."""
    light = (luma_codes.astype(xp.float32) - LUMA_OFFSET) / LUMA_RANGE
    blueness, redness = (chroma_codes.astype(xp.float32) - CHROMA_OFFSET) / CHROMA_RANGE
    blue, red = light + CB * blueness, light + CR * redness
    green = (light - LUMA[0] * red - LUMA[2] * blue) / LUMA[1]
    return (xp.clip(xp.stack((red, green, blue), axis=-1), 0, 1) * 255 + 0.5).astype(xp.uint8)


def sited(mask: Array, xp: ArrayModule) -> Array:
    """(h, w) uint8 -> (h/2, w/2) uint8 at the chroma's places: means of two rows, columns weighted ¼ ½ ¼ around each even one."""
    rows = mask[::2].astype(xp.uint16) + mask[1::2]
    left = xp.pad(rows, ((0, 0), (1, 0)), mode="edge")[:, :-1]
    return ((left[:, ::2] + 2 * rows[:, ::2] + rows[:, 1::2] + 4) >> 3).astype(xp.uint8)
