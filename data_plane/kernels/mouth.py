"""A photograph's mouth, opened: the pixels around it are moved, and the gap between the lips is filled with what is inside a mouth.

Places are in widths of the mouth from its middle, u to the right and v downwards. With o the opening, w the wideness, and
s(t) = t²(3 − 2t), t cut to 0..1, a place of the frame shows this place of the picture:

    W  = s((1 − |u|)/0.5) · s((v + 0.75)/0.35) · s((1.2 − v)/0.45)           1 at the mouth, 0 at the rim of the box and beyond
    L  = s((1 − |u|)/0.5) · s((v + 0.5)/0.35) · s((0.75 − v)/0.45)           the same about the lips: neither nose nor jaw get narrower
    u' = u · (1 − 0.25 w L)                                                  narrower or wider, by a quarter at most
    p  = max(0, 1 − (u'/0.46)²)                                              the gap, a lens
    a  = −0.2 o p,  b = 0.8 o p                                              its upper and its lower edge
    v' = v + 0.2 o p W s(1 − (a − v)/0.45)                                   above the gap
    v' = v − 0.8 o (p + (e^−(1.7 u)² − p) s((v − b)/0.5)) W s(1 − (v − b))   below it: the lip, and with it, wider, the chin
    v' = 0                                                                   inside

The picture is sampled bilinearly, so where nothing moves, nothing changes. Into the gap come, one over the other, the dark, the tongue (an
ellipse that stands on the lower edge) and the upper teeth (a band below the upper edge), under the shadow of the upper lip; all edges are
a sample wide.

`paint` runs NumPy's body, which is the reference, or the CUDA kernel of SOURCE, one thread to 2×2 pixels with their chroma; both in float32.
Expected difference: at most 1 of 255. Frames are planar 4:2:0, chroma sited as in `kernels.frame`.
"""

from math import ceil, floor
from typing import Any, NamedTuple

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels import cuda
from dihedral.data_plane.kernels.colour import CHROMA_OFFSET, LUMA_OFFSET, code_of

UP, DOWN, SIDE = 0.75, 1.2, 1.0  # how far the box goes from the mouth's middle, in its widths
WIDEST = 0.36  # height of a gap that is fully open, in widths
INSIDE = (
    (0.16, 0.05, 0.06),
    (0.60, 0.27, 0.27),
    (0.85, 0.82, 0.77),
)  # RGB of the dark, the tongue and the teeth in full light
THREADS = (32, 8)


class Mouth(NamedTuple):
    """x, y: its middle, width: between its corners, in the frame's pixels; box: (top, left, bottom, right) of what may change, even.

    colours: code values of the dark, the tongue and the teeth, each luma, Cb, Cr.
    """

    x: float
    y: float
    width: float
    box: tuple[int, int, int, int]
    colours: tuple[float, ...]


class Shown(NamedTuple):
    """opening: height of the gap in widths of the mouth; wide: −1..1; teeth, tongue: 0..1."""

    opening: float
    wide: float
    teeth: float
    tongue: float


def placed(x: float, y: float, width: float, size: tuple[int, int], light: float) -> Mouth:
    """A mouth in a frame of size = (height, width); light: of the face, 0..1, by which what is inside is lit.

    Raises: ValueError where nothing of the box lies in the frame.
    """
    edges = (floor(y - UP * width), floor(x - SIDE * width), ceil(y + DOWN * width), ceil(x + SIDE * width))
    top, left = (max(0, edge // 2 * 2) for edge in edges[:2])
    bottom, right = (min(length, -(-edge // 2) * 2) for edge, length in zip(edges[2:], size, strict=True))
    if bottom - top < 2 or right - left < 2:
        raise ValueError(f"a mouth at {x:g}, {y:g} does not lie in {size[1]}×{size[0]} pixels")
    lit = min(1.0, max(0.2, light / 0.55))
    codes = [code_of(*(lit * part for part in colour)) for colour in INSIDE]
    offsets = (LUMA_OFFSET, CHROMA_OFFSET, CHROMA_OFFSET)
    colours = tuple(value + offset for code in codes for value, offset in zip(code, offsets, strict=True))
    return Mouth(x, y, width, (top, left, bottom, right), colours)


def paint(picture: Array, shown: Shown, mouth: Mouth, out: Array, xp: ArrayModule) -> None:
    """Writes the mouth's box of `out`. picture, out: (3/2·height, width) uint8; `out` has the picture's pixels outside the box."""
    (_by_kernel if cuda.fused(xp) else reference)(picture, shown, mouth, out, xp)


# The reference ------------------------------------------------------------------------------------------------------


def reference(picture: Array, shown: Shown, mouth: Mouth, out: Array, xp: ArrayModule) -> None:
    height = picture.shape[0] * 2 // 3
    _plane([picture[:height]], [out[:height]], shown, mouth, 1, xp)
    _plane(_chroma(picture, height), _chroma(out, height), shown, mouth, 2, xp)


def _chroma(frame: Array, height: int) -> list[Array]:
    return list(frame[height:].reshape(2, height // 2, frame.shape[1] // 2))


def _plane(planes: list[Array], outs: list[Array], shown: Shown, mouth: Mouth, wide: int, xp: ArrayModule) -> None:
    """Luma, or both planes of chroma, whose samples lie at the same places. wide: pixels to a sample."""
    f = xp.float32
    top, left, bottom, right = (edge // wide for edge in mouth.box)
    x = xp.arange(left, right, dtype=f) * f(wide) + f(0.5)
    y = xp.arange(top, bottom, dtype=f)[:, None] * f(wide) + f(wide / 2)
    u, v = (x - f(mouth.x)) * f(1 / mouth.width), (y - f(mouth.y)) * f(1 / mouth.width)
    beside = _smooth((f(1) - abs(u)) * f(2), xp)
    window = beside * (_smooth((v + f(UP)) * f(1 / 0.35), xp) * _smooth((f(DOWN) - v) * f(1 / 0.45), xp))
    lips = beside * (_smooth((v + f(0.5)) * f(1 / 0.35), xp) * _smooth((f(0.75) - v) * f(1 / 0.45), xp))
    source_u = u * (f(1) - f(0.25 * shown.wide) * lips)
    lens = xp.maximum(f(0), f(1) - (source_u * f(1 / 0.46)) ** 2)
    upper, lower = lens * f(-0.2 * shown.opening), lens * f(0.8 * shown.opening)
    above, below = upper - v, v - lower
    lifted = lens * f(0.2 * shown.opening) * window * _smooth(f(1) - above * f(1 / 0.45), xp)
    chin = lens + (xp.exp(-((u * f(1.7)) ** 2)) - lens) * _smooth(below * f(2), xp)
    dropped = chin * f(0.8 * shown.opening) * window * _smooth(f(1) - below, xp)
    source_v = xp.where(above > 0, v + lifted, xp.where(below > 0, v - dropped, f(0)))

    step = f(mouth.width / wide)  # samples to a width
    cover = xp.clip(f(0.5) - above * step, 0, 1) * xp.clip(f(0.5) - below * step, 0, 1)
    cover *= xp.clip((lower - upper) * step, 0, 1)
    tongue_height = 0.75 * shown.opening * shown.tongue
    away = xp.sqrt((source_u * f(1 / 0.34)) ** 2 + ((lower - v) * f(1 / max(1e-3, tongue_height))) ** 2)
    tongue = xp.clip((f(1) - away) * (f(max(1e-3, tongue_height)) * step) + f(0.5), 0, 1) * f(
        min(1.0, 8 * tongue_height)
    )
    band = xp.minimum(f(0.13), f(0.45) * (lower - upper)) * f(shown.teeth)
    teeth = xp.clip((band - (v - upper)) * step + f(0.5), 0, 1) * xp.clip((lens - f(0.25)) * f(3), 0, 1)

    lit = f(0.6) + f(0.4) * _smooth((v - upper) * f(12), xp)

    columns = xp.clip((source_u * f(mouth.width) + f(mouth.x) - f(0.5)) * f(1 / wide), 0, planes[0].shape[1] - 1)
    rows = xp.clip((source_v * f(mouth.width) + f(mouth.y) - f(wide / 2)) * f(1 / wide), 0, planes[0].shape[0] - 1)
    column, row = xp.floor(columns), xp.floor(rows)
    across, down = columns - column, rows - row
    column, row = column.astype(xp.int32), row.astype(xp.int32)
    width = planes[0].shape[1]
    first = row * width
    second = first + xp.where(row + 1 < planes[0].shape[0], width, 0).astype(xp.int32)
    following = xp.minimum(column + 1, width - 1)
    places = (first + column, first + following, second + column, second + following)
    for number, (plane, out) in enumerate(zip(planes, outs, strict=True)):
        component = number + wide - 1
        flat = plane.reshape(-1)
        a, b, c, d = (flat.take(place).astype(f) for place in places)
        upper_row, lower_row = a + (b - a) * across, c + (d - c) * across
        value = upper_row + (lower_row - upper_row) * down
        inside = _mixed(mouth.colours[component::3], tongue, teeth, xp)
        black = f(LUMA_OFFSET if component == 0 else CHROMA_OFFSET)
        inside = black + (inside - black) * lit
        value += (inside - value) * cover
        out[top:bottom, left:right] = (value + f(0.5)).astype(xp.uint8)  # of codes: in range


def _mixed(colours: tuple[float, ...], tongue: Array, teeth: Array, xp: ArrayModule) -> Array:
    f = xp.float32
    dark, red, white = (f(colour) for colour in colours)
    inside = dark + (red - dark) * tongue
    return inside + (white - inside) * teeth


def _smooth(t: Array, xp: ArrayModule) -> Array:
    t = xp.clip(t, 0, 1)
    return t * t * (xp.float32(3) - xp.float32(2) * t)


# The kernel ---------------------------------------------------------------------------------------------------------

SOURCE = r"""
__device__ inline float cut(float t) { return fminf(fmaxf(t, 0.0f), 1.0f); }
__device__ inline float smooth(float t) { t = cut(t); return t * t * (3.0f - 2.0f * t); }

// A mouth and how it is shown, as in the Python side.
struct Mouth { float x, y, width, opening, wide, teeth, tongue; };

// What a place shows: which place of the picture, and how much of what is inside lies over it.
struct Place { float u, v, cover, tongue, teeth, lit; };

__device__ inline Place place(const Mouth& mouth, float x, float y, int wide) {
    float u = (x - mouth.x) * (1.0f / mouth.width), v = (y - mouth.y) * (1.0f / mouth.width), o = mouth.opening;
    float beside = smooth((1.0f - fabsf(u)) * 2.0f);
    float window = beside * (smooth((v + 0.75f) * (1.0f / 0.35f)) * smooth((1.2f - v) * (1.0f / 0.45f)));
    float lips = beside * (smooth((v + 0.5f) * (1.0f / 0.35f)) * smooth((0.75f - v) * (1.0f / 0.45f)));
    Place found;
    found.u = u * (1.0f - 0.25f * mouth.wide * lips);
    float lens = fmaxf(0.0f, 1.0f - (found.u * (1.0f / 0.46f)) * (found.u * (1.0f / 0.46f)));
    float upper = lens * (-0.2f * o), lower = lens * (0.8f * o), above = upper - v, below = v - lower;
    float lifted = lens * (0.2f * o) * window * smooth(1.0f - above * (1.0f / 0.45f));
    float chin = lens + (expf(-((u * 1.7f) * (u * 1.7f))) - lens) * smooth(below * 2.0f);
    float dropped = chin * (0.8f * o) * window * smooth(1.0f - below);
    found.v = above > 0 ? v + lifted : below > 0 ? v - dropped : 0.0f;
    float step = mouth.width / wide;
    found.cover = cut(0.5f - above * step) * cut(0.5f - below * step) * cut((lower - upper) * step);
    float height = 0.75f * o * mouth.tongue, high = fmaxf(1e-3f, height);
    float across = found.u * (1.0f / 0.34f), down = (lower - v) * (1.0f / high);
    found.tongue = cut((1.0f - sqrtf(across * across + down * down)) * (high * step) + 0.5f) * fminf(1.0f, 8.0f * height);
    float band = fminf(0.13f, 0.45f * (lower - upper)) * mouth.teeth;
    found.teeth = cut((band - (v - upper)) * step + 0.5f) * cut((lens - 0.25f) * 3.0f);
    found.lit = 0.6f + 0.4f * smooth((v - upper) * 12.0f);
    return found;
}

__device__ inline unsigned char shown(const unsigned char* plane, long long height, long long width, const Mouth& mouth, const Place& at,
                                      int wide, float dark, float red, float white) {
    float x = (at.u * mouth.width + mouth.x - 0.5f) * (1.0f / wide), y = (at.v * mouth.width + mouth.y - 0.5f * wide) * (1.0f / wide);
    x = fminf(fmaxf(x, 0.0f), (float)(width - 1));
    y = fminf(fmaxf(y, 0.0f), (float)(height - 1));
    long long column = (long long)floorf(x), row = (long long)floorf(y);
    float across = x - (float)column, down = y - (float)row;
    long long beside = column + 1 < width ? column + 1 : column, below = row + 1 < height ? row + 1 : row;
    float a = plane[row * width + column], b = plane[row * width + beside];
    float c = plane[below * width + column], d = plane[below * width + beside];
    float upper = a + (b - a) * across, lower = c + (d - c) * across;
    float value = upper + (lower - upper) * down;
    float inside = dark + (red - dark) * at.tongue;
    inside = inside + (white - inside) * at.teeth;
    float black = wide == 1 ? 16.0f : 128.0f;
    inside = black + (inside - black) * at.lit;
    value += (inside - value) * at.cover;
    return (unsigned char)(value + 0.5f);
}

// One thread to 2×2 pixels of the box; blocks over (columns / 2, rows / 2) of it.
extern "C" __global__ void open_mouth(const unsigned char* __restrict__ picture, unsigned char* __restrict__ out, long long height, long long width,
                                      long long top, long long left, long long rows, long long columns, float x, float y, float size,
                                      float opening, float wide, float teeth, float tongue, float dark_0, float dark_1, float dark_2,
                                      float red_0, float red_1, float red_2, float white_0, float white_1, float white_2) {
    long long across = blockIdx.x * blockDim.x + threadIdx.x, down = blockIdx.y * blockDim.y + threadIdx.y;
    if (across >= columns / 2 || down >= rows / 2) return;
    Mouth mouth = {x, y, size, opening, wide, teeth, tongue};
    for (int j = 0; j < 2; j++)
        for (int i = 0; i < 2; i++) {
            long long row = top + 2 * down + j, column = left + 2 * across + i;
            Place at = place(mouth, (float)column + 0.5f, (float)row + 0.5f, 1);
            out[row * width + column] = shown(picture, height, width, mouth, at, 1, dark_0, red_0, white_0);
        }
    long long row = top / 2 + down, column = left / 2 + across, plane = height / 2 * (width / 2), at = row * (width / 2) + column;
    Place there = place(mouth, 2.0f * (float)column + 0.5f, 2.0f * (float)row + 1.0f, 2);
    const unsigned char* chroma = picture + height * width;
    out[height * width + at] = shown(chroma, height / 2, width / 2, mouth, there, 2, dark_1, red_1, white_1);
    out[height * width + plane + at] = shown(chroma + plane, height / 2, width / 2, mouth, there, 2, dark_2, red_2, white_2);
}
"""


def _by_kernel(picture: Array, shown: Shown, mouth: Mouth, out: Array, xp: ArrayModule) -> None:
    height, width = picture.shape[0] * 2 // 3, picture.shape[1]
    top, left, bottom, right = mouth.box
    blocks = tuple(
        -(-length // 2 // threads) for length, threads in zip((right - left, bottom - top), THREADS, strict=True)
    )
    place = (height, width, top, left, bottom - top, right - left)
    numbers: list[Any] = [float(value) for value in (*mouth[:3], *shown, *mouth.colours)]
    cuda.launch(cuda.kernel(xp, SOURCE, "open_mouth"), blocks, THREADS, picture, out, *place, *numbers)
