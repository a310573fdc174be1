"""A frame of a video, from pictures, grain, spectrum and caption to planar Y′CbCr 4:2:0, in one pass.

Per sample of a plane, luma and chroma alike (values as in `colour`, positions in the frame's pixels from its upper left corner):

1. the layers: Catmull–Rom samples of the pictures' planes, summed by weight (a cross-fade, and two sizes of one pyramid);
2. luma only, grain: v + s · g/32 · 4n(1 − n), n = v/219 in 0..1: strongest in the middle tones, none in black and white;
3. the spectrum: with d the distance to a bar's middle line and r half its width, first a shadow, v + h·(dark − v) with
   h = a'·clip(2 − d/2r, 0, 1), then the bar, v + k·(white − v) with k = a·clip((r − d)/w + ½, 0, 1), w = 1 for luma and 2 for chroma, so
   the rims are smooth; bars end round;
4. the caption: v + o·b·(box − v), then v + o·t·(text − v), with b and t the masks of box and text, o the caption's opacity; in the
   rectangle of the word that is spoken the text's colour is `glow` of the way to the accent;
5. the offset, cut to 16..235 (luma) or 16..240 (chroma), rounded.

`render` runs NumPy's body, which is the reference, or the CUDA kernel of SOURCE, one thread to 2×2 pixels with their chroma; both in float32.
Expected difference: at most 1 of 255, where a value lies next to a rounding border.

Chroma is sited as H.264 has it by default: on even columns, between two rows. Frames are (3/2·height, width) uint8: the rows of Y, then Cb
and Cr with half the width and height each, which is what encoders call yuv420p.
"""

from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels import cuda, grain
from dihedral.data_plane.kernels.colour import CHROMA_OFFSET, CHROMA_RANGE, LUMA_OFFSET, LUMA_RANGE, code_of
from dihedral.data_plane.kernels.sampling import Layer, sample

MOST_LAYERS = 4  # two pictures in a cross-fade, each between two sizes
WHITE, ACCENT, DARK = code_of(0.98, 0.98, 0.98), code_of(1.0, 0.82, 0.28), code_of(0.05, 0.05, 0.07)
BOX_OPACITY, BAR_OPACITY, SHADOW_OPACITY = 0.62, 0.9, 0.4
_ROWS = 64  # worked on at a time behind the sampling: they stay in the processor's cache


class Bars(NamedTuple):
    """The place of the spectrum's bars, in pixels: `left` of the first, one every `pitch`, half as wide as 2·radius, from `base` up to `tallest`."""

    number: int
    left: float
    pitch: float
    radius: float
    base: float
    tallest: float


class Stage(NamedTuple):
    """The values that are the same for all frames. size: (height, width), even; grain: `grain.field`, None: none; strength: its deviation in luma codes."""

    size: tuple[int, int]
    grain: Array | None
    strength: float
    bars: Bars


class Masks(NamedTuple):
    """A caption's: (h, w) uint8 at (top, left) of the frame, all four even, and (h/2, w/2) for chroma (`colour.sited`)."""

    top: int
    left: int
    box: Array
    text: Array
    chroma_box: Array
    chroma_text: Array


class Caption(NamedTuple):
    """word: (top, left, bottom, right) in the frame's pixels, even, of the word that is lit; glow: how much, 0..1."""

    masks: Masks
    opacity: float
    word: tuple[int, int, int, int]
    glow: float


class Frame(NamedTuple):
    """chroma: layers of two planes. corner: in the grain's field. levels: (bars,) float32 in 0..1, None: no spectrum."""

    luma: list[Layer]
    chroma: list[Layer]
    corner: tuple[int, int]
    levels: Array | None
    caption: Caption | None


def render(frame: Frame, stage: Stage, xp: ArrayModule) -> Array:
    """(3/2·height, width) uint8, on the device of `xp`."""
    return _by_kernel(frame, stage, xp) if cuda.fused(xp) else reference(frame, stage, xp)


# The reference ------------------------------------------------------------------------------------------------------


def reference(frame: Frame, stage: Stage, xp: ArrayModule) -> Array:
    height, width = stage.size
    out = xp.empty((height * 3 // 2, width), dtype=xp.uint8)
    luma = sample(frame.luma, stage.size, xp)[0]
    chroma = sample(frame.chroma, (height // 2, width // 2), xp)
    if stage.grain is not None:
        _grain(luma, stage.grain, frame.corner, stage.strength, xp)
    for component, plane in enumerate((luma, chroma[0], chroma[1])):
        if frame.levels is not None:
            _bars(plane, frame.levels, stage.bars, component, xp)
        if frame.caption is not None:
            _caption(plane, frame.caption, component, xp)
    _quantise(luma, out[:height], 0.0, LUMA_RANGE, LUMA_OFFSET, xp)
    for plane, rows in zip(chroma, out[height:].reshape(2, height // 2, width // 2), strict=True):
        _quantise(plane, rows, -CHROMA_RANGE / 2, CHROMA_RANGE / 2, CHROMA_OFFSET, xp)
    return out


def _grain(luma: Array, field: Array, corner: tuple[int, int], strength: float, xp: ArrayModule) -> None:
    height, width = luma.shape
    field = field[corner[0] : corner[0] + height, corner[1] : corner[1] + width]
    factor = xp.float32(4 * strength / grain.DEVIATION / LUMA_RANGE**2)
    for start in range(0, height, _ROWS):
        rows = luma[start : start + _ROWS]
        tone = xp.clip(rows, 0, xp.float32(LUMA_RANGE))
        tone *= xp.float32(LUMA_RANGE) - tone
        tone *= field[start : start + _ROWS]
        tone *= factor
        rows += tone


def _bars(plane: Array, levels: Array, bars: Bars, component: int, xp: ArrayModule) -> None:
    wide = 1 if component == 0 else 2  # pixels to a sample
    around = 4 * bars.radius + 2  # as far as the shadow goes from the middle line
    top = max(0, int((bars.base - bars.tallest - bars.radius - around) / wide))
    first, last = (
        max(0, int((bars.left - around) / wide)),
        int((bars.left + bars.number * bars.pitch + around) / wide) + 1,
    )
    region = plane[top : int((bars.base + around) / wide) + 1, first:last]
    x = xp.arange(first, first + region.shape[1], dtype=xp.float32) * xp.float32(wide) + xp.float32(0.5)
    y = xp.arange(top, top + region.shape[0], dtype=xp.float32)[:, None] * xp.float32(wide) + xp.float32(wide / 2)
    number = xp.clip(xp.floor((x - xp.float32(bars.left)) / xp.float32(bars.pitch)), 0, bars.number - 1)
    beside = x - (xp.float32(bars.left) + (number + xp.float32(0.5)) * xp.float32(bars.pitch))
    foot = xp.float32(bars.base - bars.radius)
    head = foot - levels[number.astype(xp.int64)] * xp.float32(bars.tallest)
    along = xp.maximum(xp.maximum(head - y, y - foot), xp.float32(0))
    distance = xp.sqrt(beside * beside + along * along)
    shadow = xp.clip(2 - distance / xp.float32(2 * bars.radius), 0, 1) * xp.float32(SHADOW_OPACITY)
    region += shadow * (xp.float32(DARK[component]) - region)
    cover = xp.clip((xp.float32(bars.radius) - distance) / xp.float32(wide) + xp.float32(0.5), 0, 1)
    region += cover * xp.float32(BAR_OPACITY) * (xp.float32(WHITE[component]) - region)


def _caption(plane: Array, caption: Caption, component: int, xp: ArrayModule) -> None:
    masks, wide = caption.masks, 1 if component == 0 else 2
    box, text = (masks.box, masks.text) if component == 0 else (masks.chroma_box, masks.chroma_text)
    top, left = masks.top // wide, masks.left // wide
    region = plane[top : top + box.shape[0], left : left + box.shape[1]]
    colour = xp.full(region.shape, WHITE[component], dtype=xp.float32)
    rows = slice(*(max(0, edge // wide - top) for edge in caption.word[::2]))
    columns = slice(*(max(0, edge // wide - left) for edge in caption.word[1::2]))
    colour[rows, columns] += xp.float32(caption.glow * (ACCENT[component] - WHITE[component]))
    region += (xp.float32(DARK[component]) - region) * (box * xp.float32(caption.opacity * BOX_OPACITY / 255))
    region += (colour - region) * (text * xp.float32(caption.opacity / 255))


def _quantise(plane: Array, out: Array, lowest: float, highest: float, offset: float, xp: ArrayModule) -> None:
    for start in range(0, plane.shape[0], _ROWS):
        rows = xp.clip(plane[start : start + _ROWS], xp.float32(lowest), xp.float32(highest))
        rows += xp.float32(offset + 0.5)
        out[start : start + _ROWS] = rows.astype(xp.uint8)  # cuts, so it rounds to the nearest


# The kernel ---------------------------------------------------------------------------------------------------------

_LAYER = np.dtype(
    [
        ("planes", np.uint64),
        ("row_start", np.int64),
        ("row_step", np.int64),
        ("column_start", np.int64),
        ("column_step", np.int64),
        ("height", np.int32),
        ("width", np.int32),
        ("weight", np.float32),
        ("unused", np.int32),
    ],
    align=True,
)
_FRAME = np.dtype(
    [
        ("luma", _LAYER, MOST_LAYERS),
        ("chroma", _LAYER, MOST_LAYERS),
        ("grain", np.uint64),
        ("levels", np.uint64),
        ("box", np.uint64),
        ("text", np.uint64),
        ("chroma_box", np.uint64),
        ("chroma_text", np.uint64),
        ("height", np.int32),
        ("width", np.int32),
        ("luma_layers", np.int32),
        ("chroma_layers", np.int32),
        ("grain_stride", np.int32),
        ("grain_factor", np.float32),
        ("bars", np.int32),
        ("bar_left", np.float32),
        ("bar_pitch", np.float32),
        ("bar_radius", np.float32),
        ("bar_base", np.float32),
        ("bar_tallest", np.float32),
        ("caption", np.int32, 4),
        ("word", np.int32, 4),
        ("opacity", np.float32),
        ("glow", np.float32),
    ],
    align=True,
)
THREADS = (32, 8)

_BODY = r"""
// As the dtypes of the Python side: pointers and 64-bit numbers first, so that neither has gaps.
struct Layer {
    const float* planes;  // (1 or 2, height, width)
    long long row_start, row_step, column_start, column_step;  // 32.32 fixed point
    int height, width;
    float weight;
    int unused;
};
struct Frame {
    Layer luma[4], chroma[4];
    const signed char* grain;  // at the frame's corner of the field; null: none
    const float* levels;  // of the bars; null: no spectrum
    const unsigned char *box, *text, *chroma_box, *chroma_text;  // null: no caption
    int height, width, luma_layers, chroma_layers, grain_stride;
    float grain_factor;
    int bars;
    float bar_left, bar_pitch, bar_radius, bar_base, bar_tallest;
    int caption[4], word[4];  // top, left, height, width; top, left, bottom, right
    float opacity, glow;
};
static_assert(sizeof(Layer) == LAYER_BYTES && sizeof(Frame) == FRAME_BYTES, "the Python side packs otherwise");

__device__ inline int clamp(long long at, int length) { return at < 0 ? 0 : at >= length ? length - 1 : (int)at; }

// The weights of the four pixels around a position, t behind the second of them.
__device__ inline void cubic(long long position, float weights[4]) {
    float t = (float)((position & 0xffffffffLL) >> 8) * 0x1p-24f;
    weights[0] = ((-0.5f * t + 1.0f) * t - 0.5f) * t;
    weights[1] = (1.5f * t - 2.5f) * t * t + 1.0f;
    weights[2] = ((-1.5f * t + 2.0f) * t + 0.5f) * t;
    weights[3] = (0.5f * t - 0.5f) * t * t;
}

__device__ inline float sample(const Layer& layer, int plane, int row, int column) {
    long long y = layer.row_start + row * layer.row_step, x = layer.column_start + column * layer.column_step;
    float down[4], across[4];
    cubic(y, down);
    cubic(x, across);
    const float* pixels = layer.planes + (long long)plane * layer.height * layer.width;
    int columns[4];
    for (int i = 0; i < 4; i++) columns[i] = clamp((x >> 32) + i - 1, layer.width);
    float sum = 0;
    for (int j = 0; j < 4; j++) {
        const float* line = pixels + (long long)clamp((y >> 32) + j - 1, layer.height) * layer.width;
        float part = 0;
        for (int i = 0; i < 4; i++) part += across[i] * line[columns[i]];
        sum += down[j] * part;
    }
    return sum * layer.weight;
}

// How far a place is from the middle line of the bar of its column.
__device__ inline float distance(const Frame& frame, float y, float x) {
    float number = floorf((x - frame.bar_left) / frame.bar_pitch);
    number = fminf(fmaxf(number, 0.0f), (float)(frame.bars - 1));
    float beside = x - (frame.bar_left + (number + 0.5f) * frame.bar_pitch);
    float foot = frame.bar_base - frame.bar_radius;
    float head = foot - frame.levels[(int)number] * frame.bar_tallest;
    float along = fmaxf(fmaxf(head - y, y - foot), 0.0f);
    return sqrtf(beside * beside + along * along);
}

__device__ inline float cut(float value) { return fminf(fmaxf(value, 0.0f), 1.0f); }

// Spectrum and caption over the value of a sample; wide: pixels to it, 1 or 2.
__device__ inline float laid_over(const Frame& frame, float value, int row, int column, int wide, float white, float accent, float dark) {
    if (frame.levels) {
        float y = row * wide + 0.5f * wide, x = column * wide + 0.5f;
        if (y > frame.bar_base - frame.bar_tallest - 5 * frame.bar_radius) {  // above it there is not even a shadow
            float away = distance(frame, y, x);
            value += cut(2 - away / (2 * frame.bar_radius)) * SHADOW_OPACITY * (dark - value);
            value += cut((frame.bar_radius - away) / wide + 0.5f) * BAR_OPACITY * (white - value);
        }
    }
    if (frame.box) {
        int down = row - frame.caption[0] / wide, across = column - frame.caption[1] / wide;
        int height = frame.caption[2] / wide, width = frame.caption[3] / wide;
        if (down >= 0 && down < height && across >= 0 && across < width) {
            int at = down * width + across;
            float box = (wide == 1 ? frame.box : frame.chroma_box)[at];
            float text = (wide == 1 ? frame.text : frame.chroma_text)[at];
            bool lit = row >= frame.word[0] / wide && row < frame.word[2] / wide
                && column >= frame.word[1] / wide && column < frame.word[3] / wide;
            float colour = lit ? white + frame.glow * (accent - white) : white;
            value += (dark - value) * (box * (frame.opacity * (BOX_OPACITY / 255)));
            value += (colour - value) * (text * (frame.opacity / 255));
        }
    }
    return value;
}

__device__ inline unsigned char luma_code(const Frame& frame, int row, int column) {
    float value = 0;
    for (int i = 0; i < frame.luma_layers; i++) value += sample(frame.luma[i], 0, row, column);
    if (frame.grain) {
        float tone = fminf(fmaxf(value, 0.0f), 219.0f);
        float noise = frame.grain[(long long)row * frame.grain_stride + column];
        value += tone * (219.0f - tone) * noise * frame.grain_factor;
    }
    value = laid_over(frame, value, row, column, 1, WHITE_0, ACCENT_0, DARK_0);
    return (unsigned char)(fminf(fmaxf(value, 0.0f), 219.0f) + 16.5f);
}

__device__ inline unsigned char chroma_code(const Frame& frame, int plane, int row, int column) {
    float value = 0;
    for (int i = 0; i < frame.chroma_layers; i++) value += sample(frame.chroma[i], plane, row, column);
    value = plane == 0 ? laid_over(frame, value, row, column, 2, WHITE_1, ACCENT_1, DARK_1)
                       : laid_over(frame, value, row, column, 2, WHITE_2, ACCENT_2, DARK_2);
    return (unsigned char)(fminf(fmaxf(value, -112.0f), 112.0f) + 128.5f);
}

// One thread to 2×2 pixels; blocks over (width / 2, height / 2).
extern "C" __global__ void render_frame(const Frame* __restrict__ frames, unsigned char* __restrict__ out) {
    const Frame& frame = *frames;
    int column = blockIdx.x * blockDim.x + threadIdx.x, row = blockIdx.y * blockDim.y + threadIdx.y;
    int height = frame.height, width = frame.width;
    if (column >= width / 2 || row >= height / 2) return;
    for (int j = 0; j < 2; j++) {
        unsigned short left = luma_code(frame, 2 * row + j, 2 * column), right = luma_code(frame, 2 * row + j, 2 * column + 1);
        reinterpret_cast<unsigned short*>(out)[(long long)(2 * row + j) * (width / 2) + column] = left | right << 8;
    }
    unsigned char* chroma = out + (long long)height * width;
    for (int plane = 0; plane < 2; plane++)
        chroma[(long long)plane * (height / 2) * (width / 2) + (long long)row * (width / 2) + column] =
            chroma_code(frame, plane, row, column);
}
"""


def _constants() -> str:
    values: dict[str, Any] = {
        "BOX_OPACITY": f"{BOX_OPACITY!r}f",
        "BAR_OPACITY": f"{BAR_OPACITY!r}f",
        "SHADOW_OPACITY": f"{SHADOW_OPACITY!r}f",
    }
    values |= {"LAYER_BYTES": _LAYER.itemsize, "FRAME_BYTES": _FRAME.itemsize}
    for name, colour in (("WHITE", WHITE), ("ACCENT", ACCENT), ("DARK", DARK)):
        values |= {f"{name}_{component}": f"{value:.9e}f" for component, value in enumerate(colour)}
    return "".join(f"#define {name} {value}\n" for name, value in values.items())


SOURCE = _constants() + _BODY


def packed(frame: Frame, stage: Stage) -> "np.ndarray[tuple[int], np.dtype[np.uint8]]":
    """The kernel's argument: the bytes of its struct Frame, with the addresses of the arrays, which have to outlive the launch.

    Raises: ValueError where an array is not what the kernel takes it for.
    """
    if len(frame.luma) > MOST_LAYERS or len(frame.chroma) > MOST_LAYERS:
        raise ValueError(f"{len(frame.luma)} and {len(frame.chroma)} layers; {MOST_LAYERS} fit")
    made = np.zeros((), dtype=_FRAME)
    for name, layers in (("luma", frame.luma), ("chroma", frame.chroma)):
        for number, layer in enumerate(layers):
            address, (_, height, width) = _address(layer.planes, "float32"), layer.planes.shape
            made[name][number] = (address, *layer.rows, *layer.columns, height, width, layer.weight, 0)
        made[f"{name}_layers"] = len(layers)
    made["height"], made["width"] = stage.size
    if stage.grain is not None:
        made["grain_stride"] = stage.grain.shape[1]
        made["grain"] = _address(stage.grain, "int8") + frame.corner[0] * stage.grain.shape[1] + frame.corner[1]
        made["grain_factor"] = 4 * stage.strength / grain.DEVIATION / LUMA_RANGE**2
    if frame.levels is not None:
        made["levels"] = _address(frame.levels, "float32")
        made["bars"], made["bar_left"], made["bar_pitch"], made["bar_radius"], made["bar_base"], made["bar_tallest"] = (
            stage.bars
        )
    if frame.caption is not None:
        masks = frame.caption.masks
        for name in ("box", "text", "chroma_box", "chroma_text"):
            made[name] = _address(getattr(masks, name), "uint8")
        made["caption"] = (masks.top, masks.left, *masks.box.shape)
        made["word"], made["opacity"], made["glow"] = frame.caption.word, frame.caption.opacity, frame.caption.glow
    return made.reshape(1).view(np.uint8)


def _address(array: Array, dtype: str) -> int:
    if array.dtype != dtype or not array.flags.c_contiguous:
        raise ValueError(f"an array of {array.dtype} and strides {array.strides} where contiguous {dtype} is needed")
    return int(array.data.ptr if hasattr(array.data, "ptr") else array.ctypes.data)


def _by_kernel(frame: Frame, stage: Stage, xp: ArrayModule) -> Array:
    height, width = stage.size
    out = xp.empty((height * 3 // 2, width), dtype=xp.uint8)
    blocks = tuple(-(-length // 2 // threads) for length, threads in zip((width, height), THREADS, strict=True))
    cuda.launch(cuda.kernel(xp, SOURCE, "render_frame"), blocks, THREADS, xp.asarray(packed(frame, stage)), out)
    return out
