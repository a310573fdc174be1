"""Pictures that a mouth moves in: each gives a frame for a pose, and changes nothing of it outside its boxes.

Frames are planar 4:2:0 (`kernels.frame`). Drawn mouths and mouth pictures become codes once and are laid into a copy of the frame; a
photograph's mouth is warped (`kernels.mouth`).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule, to_host
from dihedral.data_plane.kernels import colour, frame, mouth
from dihedral.data_plane.kernels.pyramid import Window, chroma_layers, luma_layers, pyramid
from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.media.storyteller import Box, Storyteller
from dihedral.data_plane.media.visemes import POSES, SHAPES, Pose, Shape

POSES_APART = 24  # steps of a drawn mouth between closed and open: finer ones are not seen
DRAWN_POSES = 512  # kept; a mouth of 170×170 pixels has 45 KB
MARGIN = 4  # pixels around a part that is converted by itself, so that its chroma is as in the whole


class Face(Protocol):
    still: Array
    """(3/2·height, width) uint8: the frame at rest, eyes open."""

    def show(self, pose: Pose, blink: float, xp: ArrayModule) -> Array:
        """A new frame. blink: 0 eyes open to 1 closed."""


class Codes(NamedTuple):
    """A part of a frame: luma (h, w) and chroma (2, h/2, w/2), uint8."""

    luma: Array
    chroma: Array


def still(picture: Array, size: tuple[int, int], window: Window, xp: ArrayModule) -> Array:
    """(H, W, 3) in 0..1 -> (3/2·height, width) uint8: what the window shows of it."""
    made = pyramid(colour.to_planes(picture, xp), window.scale, window.scale, xp)
    shown = frame.Frame(luma_layers(made, window, 1.0), chroma_layers(made, window, 1.0), (0, 0), None, None)
    return frame.render(shown, frame.Stage(size, None, 0.0, frame.Bars(1, 0.0, 1.0, 0.3, 1.0, 1.0)), xp)


def codes(picture: Array, inner: Box, corner: tuple[int, int], xp: ArrayModule) -> Codes:
    """Converts the inner box of a picture (h, w, 3), even, whose upper left corner is at `corner` of the frame."""
    height, width = picture.shape[:2]
    made = still(picture, (height, width), Window(0.0, 0.0, 1.0), xp)
    top, left = corner
    return cut_out(made, Box(inner.top - top, inner.left - left, inner.bottom - top, inner.right - left))


def cut_out(whole: Array, box: Box) -> Codes:
    height, width = whole.shape[0] * 2 // 3, whole.shape[1]
    chroma = whole[height:].reshape(2, height // 2, width // 2)
    half = chroma[:, box.top // 2 : box.bottom // 2, box.left // 2 : box.right // 2]
    return Codes(whole[box.top : box.bottom, box.left : box.right], half)


def put(part: Codes, box: Box, whole: Array) -> None:
    height, width = whole.shape[0] * 2 // 3, whole.shape[1]
    whole[box.top : box.bottom, box.left : box.right] = part.luma
    chroma = whole[height:].reshape(2, height // 2, width // 2)
    chroma[:, box.top // 2 : box.bottom // 2, box.left // 2 : box.right // 2] = part.chroma


class DrawnFace:
    """The storyteller; poses are drawn when they are first seen."""

    def __init__(self, size: tuple[int, int], xp: ArrayModule) -> None:
        self.drawing = Storyteller(size)
        self.boxes = [self.drawing.mouth_box, self.drawing.eyes_box]
        self.still = still(xp.asarray(self.drawing.open_eyed), size, Window(0.0, 0.0, 1.0), xp)
        self._mouth = lru_cache(maxsize=DRAWN_POSES)(self._draw_mouth)
        self._eyes = lru_cache(maxsize=8)(self._draw_eyes)
        put(self._mouth(POSES["X"], xp), self.drawing.mouth_box, self.still)

    def show(self, pose: Pose, blink: float, xp: ArrayModule) -> Array:
        made = self.still.copy()
        put(
            self._mouth(Pose(*(round(value * POSES_APART) / POSES_APART for value in pose)), xp),
            self.drawing.mouth_box,
            made,
        )
        if blink > 0:
            put(self._eyes(round(blink * 4) / 4, xp), self.drawing.eyes_box, made)
        return made

    def _draw_mouth(self, pose: Pose, xp: ArrayModule) -> Codes:
        box, wider = self.drawing.mouth_box, self._wider(self.drawing.mouth_box)
        return codes(xp.asarray(self.drawing.mouth(pose, wider)), box, (wider.top, wider.left), xp)

    def _draw_eyes(self, blink: float, xp: ArrayModule) -> Codes:
        box, wider = self.drawing.eyes_box, self._wider(self.drawing.eyes_box)
        return codes(xp.asarray(self.drawing.eyes(blink, wider)), box, (wider.top, wider.left), xp)

    def _wider(self, box: Box) -> Box:
        height, width = self.drawing.size
        top, left = (max(0, edge - MARGIN) for edge in box[:2])
        return Box(top, left, min(height, box.bottom + MARGIN), min(width, box.right + MARGIN))


class PhotographedFace:
    def __init__(
        self,
        picture: Array,
        size: tuple[int, int],
        window: Window,
        at: tuple[float, float, float],
        strength: float,
        xp: ArrayModule,
    ) -> None:
        """at: the mouth's middle x, y and its width, in the frame's pixels. Raises: ValueError where it does not lie in the frame."""
        self.still = still(picture, size, window, xp)
        x, y, width = at
        unlit = mouth.placed(x, y, width, size, 1.0)
        top, left, bottom, right = unlit.box
        light = (float(self.still[top:bottom, left:right].mean()) - colour.LUMA_OFFSET) / colour.LUMA_RANGE
        self.mouth = mouth.placed(x, y, width, size, light)
        self.boxes = [Box(*self.mouth.box)]
        self.strength = strength

    def show(self, pose: Pose, blink: float, xp: ArrayModule) -> Array:
        made = self.still.copy()
        wide = max(-1.0, min(1.0, pose.wide * self.strength))
        opening = mouth.WIDEST * pose.opening * self.strength
        if opening or wide:
            mouth.paint(self.still, mouth.Shown(opening, wide, pose.teeth, pose.tongue), self.mouth, made, xp)
        return made


class PicturedFace:
    """A face of pictures, one frame for each shape; between two shapes they fade, inside the box in which they differ."""

    def __init__(self, stills: Mapping[Shape, Array], xp: ArrayModule) -> None:
        """Raises: ValueError where the nine are alike."""
        self.still = stills["X"]
        box = _box_of_change(list(stills.values()), xp)
        self.boxes = [box]
        self.parts = {shape: cut_out(whole, box) for shape, whole in stills.items()}

    def show(self, pose: Pose, blink: float, xp: ArrayModule) -> Array:
        first, second, share = nearest(pose)
        made = self.still.copy()
        both = zip(self.parts[first], self.parts[second], strict=True)
        put(Codes(*(_faded(one, other, share, xp) for one, other in both)), self.boxes[0], made)
        return made


def _box_of_change(stills: list[Array], xp: ArrayModule) -> Box:
    height, width = stills[0].shape[0] * 2 // 3, stills[0].shape[1]
    changed = xp.zeros((height // 2, width // 2), dtype=bool)  # a place of chroma and its 2×2 pixels
    for other in stills[:-1]:
        differs = other != stills[-1]
        changed |= differs[:height].reshape(height // 2, 2, width // 2, 2).any(axis=(1, 3))
        changed |= differs[height:].reshape(2, height // 2, width // 2).any(axis=0)
    rows, columns = (np.flatnonzero(to_host(changed.any(axis=axis))) for axis in (1, 0))
    if not rows.size:
        raise ValueError("the nine pictures of the character are alike: no mouth moves")
    return Box(*(int(edge) for edge in (2 * rows[0], 2 * columns[0], 2 * rows[-1] + 2, 2 * columns[-1] + 2)))


def nearest(pose: Pose) -> tuple[Shape, Shape, float]:
    """The two shapes that a pose lies between, and the second one's share of what is shown, 0..½."""
    away: dict[Shape, float] = {shape: _distance(pose, POSES[shape]) for shape in SHAPES}
    first, second = sorted(SHAPES, key=away.__getitem__)[:2]
    near, far = away[first], away[second]
    share = near / (near + far) if near + far > 0 else 0.0
    return first, second, share if share > 0.2 else 0.0


def _distance(one: Pose, other: Pose) -> float:
    weights = (4.0, 1.0, 0.5, 0.5)
    return float(sum(weight * (a - b) ** 2 for weight, a, b in zip(weights, one, other, strict=True)))


def _faded(one: Array, other: Array, share: float, xp: ArrayModule) -> Array:
    if share == 0:
        return one
    f = xp.float32
    return (one.astype(f) * f(1 - share) + other.astype(f) * f(share) + f(0.5)).astype(xp.uint8)


def laid_over(picture: FloatArray, mouth: FloatArray, x: float, y: float, width: float) -> FloatArray:
    """The picture (H, W, 3) with a mouth (h, w, 4), scaled to `width` and with its middle at x, y: fractions of the picture's sides."""
    from PIL import Image

    made: FloatArray = picture.copy()
    wide = max(1, round(width * picture.shape[1]))
    high = max(1, round(wide * mouth.shape[0] / mouth.shape[1]))
    bands = [Image.fromarray(mouth[:, :, band]).resize((wide, high), Image.Resampling.LANCZOS) for band in range(4)]
    scaled = np.clip(np.stack([np.asarray(band) for band in bands], axis=2), 0, 1)
    top, left = round(y * picture.shape[0] - high / 2), round(x * picture.shape[1] - wide / 2)
    rows, columns = slice(max(0, top), max(0, top + high)), slice(max(0, left), max(0, left + wide))
    under = made[rows, columns]
    over = scaled[rows.start - top :, columns.start - left :][: under.shape[0], : under.shape[1]]
    under += over[:, :, :3] - under * over[:, :, 3:]  # the colours are multiplied by the opacity
    return made


def covering(shape: tuple[int, int], size: tuple[int, int], at: tuple[float, float]) -> Window:
    """The part of a picture of `shape` that a frame of `size` shows: as much as fills it, with `at` (x, y, fractions) as near to its middle as can be."""
    scale = min(shape[0] / size[0], shape[1] / size[1])
    top, left = (
        min(max(0.0, fraction * length - middle * shown * scale), max(0.0, length - shown * scale))
        for fraction, length, shown, middle in zip(at[::-1], shape, size, (0.45, 0.5), strict=True)
    )
    return Window(top, left, scale)


def blinks(seconds: float, fps: float, count: int, seed: int) -> Any:
    """(count,) float32: how far the eyes are closed in each frame; every 2 to 6 seconds for 0.2 s."""
    rng = np.random.default_rng(seed)
    middles = (np.arange(count) + 0.5) / fps
    closed = np.zeros(count, dtype=np.float32)
    at = float(rng.uniform(1.2, 3.0))
    while at < seconds:
        closed = np.maximum(closed, np.clip(1.5 - np.abs(middles - at) / 0.08, 0, 1).astype(np.float32))
        at += float(rng.uniform(2.2, 5.5))
    return closed
