"""The drawn storyteller: a person by a lamp in the evening, whose mouth is drawn for every pose that it takes.

Everything is drawn as filled curves over each other, from the wall to the highlights of the eyes. A curve is a closed spline through few
points, filled as a mask in SUPERSAMPLED times the size and averaged, so that edges are smooth; its colour may run from top to bottom, its
edge may be soft. Coordinates are in heights of the head from the middle between the eyes, x to the right and y downwards, so the drawing
is as sharp at any size; below the shoulders there is room for captions.

Large because it is one drawing, as data.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.media.decode import FloatArray
from dihedral.data_plane.media.visemes import Pose

SUPERSAMPLED = 4
Point = tuple[float, float]
Colour = tuple[float, float, float]
Paint = Colour | tuple[Colour, Colour]  # one, or from top to bottom of what is filled

SKIN: Paint = ((0.965, 0.790, 0.665), (0.925, 0.690, 0.560))
SHADE: Colour = (0.780, 0.480, 0.390)
LINE: Colour = (0.300, 0.150, 0.140)
HAIR: Paint = ((0.330, 0.155, 0.110), (0.200, 0.085, 0.075))
LIP: Paint = ((0.760, 0.330, 0.320), (0.830, 0.420, 0.390))
DARK: Paint = ((0.230, 0.050, 0.070), (0.380, 0.090, 0.110))
MOUTH_AT = (0.0, 0.275)  # in heads
MOUTH_HALF = 0.115


class Box(NamedTuple):
    """A box of the frame's pixels, even."""

    top: int
    left: int
    bottom: int
    right: int


class Sheet:
    """A part of the frame that is drawn on: (height, width, 3) float32 in 0..1, its corner in the frame, and where the head is."""

    def __init__(self, pixels: FloatArray, corner: tuple[int, int], middle: Point, head: float) -> None:
        self.pixels, self.corner, self.middle, self.head = pixels, corner, middle, head

    def fill(
        self, points: Sequence[Point], paint: Paint, opacity: float = 1.0, soft: float = 0.0, within: Any = None
    ) -> Any:
        """Fills the closed polygon and returns its mask (height, width); soft: of the edge, in heads; within: a mask that it ends at."""
        mask = self.mask(points, soft)
        if within is not None:
            mask = mask * within
        self.lay(mask * np.float32(opacity), paint)
        return mask

    def mask(self, points: Sequence[Point], soft: float = 0.0) -> Any:
        """(height, width) float32 in 0..1: how much of each pixel is inside."""
        from PIL import Image, ImageDraw, ImageFilter

        height, width = self.pixels.shape[:2]
        blur = soft * self.head
        placed = np.asarray(points, dtype=np.float64) * self.head + self.middle - self.corner[::-1]
        rim = 3 * blur + 2
        left, top = np.clip(np.floor(placed.min(axis=0) - rim), 0, (width, height)).astype(int)
        right, bottom = np.clip(np.ceil(placed.max(axis=0) + rim), 0, (width, height)).astype(int)
        whole = np.zeros((height, width), dtype=np.float32)
        if right <= left or bottom <= top:
            return whole
        fine = 1 if blur > 2 else SUPERSAMPLED
        image = Image.new("L", (int(right - left) * fine, int(bottom - top) * fine))
        ImageDraw.Draw(image).polygon(
            [tuple(point) for point in ((placed - (left, top)) * fine - 0.5).tolist()], fill=255
        )
        image = image.reduce(fine) if fine > 1 else image
        if blur > 0.3:
            image = image.filter(ImageFilter.GaussianBlur(float(blur)))
        whole[top:bottom, left:right] = np.asarray(image, dtype=np.float32) / 255
        return whole

    def lay(self, mask: Any, paint: Paint) -> None:
        rows = np.flatnonzero(mask.max(axis=1) > 0)
        if not rows.size:
            return
        part = slice(rows[0], rows[-1] + 1)
        colour = np.asarray(paint, dtype=np.float32)
        if colour.ndim == 2:
            along = np.linspace(0, 1, part.stop - part.start, dtype=np.float32)[:, None, None]
            colour = colour[0] + (colour[1] - colour[0]) * along
        self.pixels[part] += (colour - self.pixels[part]) * mask[part, :, None]

    def line(
        self, points: Sequence[Point], thickness: float, colour: Paint, opacity: float = 1.0, soft: float = 0.0
    ) -> None:
        """A stroke that is thin at both ends."""
        self.fill(stroke(points, thickness), colour, opacity, soft)


def spline(points: Sequence[Point], closed: bool = True, steps: int = 12) -> list[Point]:
    """A Catmull–Rom curve through the points."""
    p = np.asarray(points, dtype=np.float64)
    around = np.concatenate((p[-1:], p, p[:2]) if closed else (p[:1], p, p[-1:]))
    t = np.linspace(0, 1, steps, endpoint=False)[:, None]
    made = []
    for a, b, c, d in zip(around, around[1:], around[2:], around[3:], strict=False):
        made.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    if not closed:
        made.append(p[-1:])
    return [(float(x), float(y)) for x, y in np.concatenate(made)]


def ellipse(x: float, y: float, across: float, down: float, turned: float = 0.0) -> list[Point]:
    angle = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    a, b = across * np.cos(angle), down * np.sin(angle)
    cos, sin = np.cos(turned), np.sin(turned)
    return [(float(u), float(v)) for u, v in zip(x + a * cos - b * sin, y + a * sin + b * cos, strict=True)]


def stroke(points: Sequence[Point], thickness: float) -> list[Point]:
    line = np.asarray(spline(points, closed=False))
    along = np.gradient(line, axis=0)
    across = np.stack((-along[:, 1], along[:, 0]), axis=1) / (np.hypot(*along.T)[:, None] + 1e-9)
    half = thickness / 2 * np.sin(np.pi * np.linspace(0.04, 0.96, len(line)))[:, None] ** 0.6
    return [(float(x), float(y)) for x, y in np.concatenate((line + across * half, (line - across * half)[::-1]))]


class Storyteller:
    """A drawing for frames of one size = (height, width)."""

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        height, width = size
        self.head = min(0.56 * height, 0.62 * width)
        self.middle = (width / 2, 0.39 * height)
        self.mouth_box = self.box(MOUTH_AT[0], MOUTH_AT[1] + 0.03, 0.19, 0.19)
        self.eyes_box = self.box(0.0, 0.0, 0.33, 0.13)
        self.open_eyed = self._drawn(0.0)

    def box(self, x: float, y: float, across: float, down: float) -> Box:
        """Returns the box around a place, cut at the frame."""
        height, width = self.size
        left, right = (self.middle[0] + (x + side * across) * self.head for side in (-1, 1))
        top, bottom = (self.middle[1] + (y + side * down) * self.head for side in (-1, 1))
        return Box(
            max(0, int(top) // 2 * 2),
            max(0, int(left) // 2 * 2),
            min(height, int(bottom) // 2 * 2 + 2),
            min(width, int(right) // 2 * 2 + 2),
        )

    def part(self, box: Box) -> Sheet:
        """A copy of the drawing in a box, to be drawn on."""
        return Sheet(
            self.open_eyed[box.top : box.bottom, box.left : box.right].copy(),
            (box.top, box.left),
            self.middle,
            self.head,
        )

    def mouth(self, pose: Pose, box: Box | None = None) -> FloatArray:
        """The mouth's box with the mouth in this pose, (height, width, 3) in 0..1."""
        sheet = self.part(box or self.mouth_box)
        draw_mouth(sheet, pose)
        return sheet.pixels

    def eyes(self, closed: float, box: Box | None = None) -> FloatArray:
        """The eyes' box, 0: open to 1: closed."""
        sheet = self.part(box or self.eyes_box)
        skin = self.bare[sheet.corner[0] :][: sheet.pixels.shape[0], sheet.corner[1] :][:, : sheet.pixels.shape[1]]
        sheet.pixels[...] = skin
        draw_eyes(sheet, closed)
        return sheet.pixels

    def _drawn(self, closed: float) -> FloatArray:
        height, width = self.size
        sheet = Sheet(np.zeros((height, width, 3), np.float32), (0, 0), self.middle, self.head)
        draw_room(sheet)
        draw_person(sheet)
        self.bare = sheet.pixels.copy()
        draw_eyes(sheet, closed)
        return sheet.pixels


def draw_room(sheet: Sheet) -> None:
    """A wall in the evening, shelves out of focus, and the light of a lamp from the left."""
    height, width = sheet.pixels.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x, y = (x - sheet.middle[0]) / sheet.head, (y - sheet.middle[1]) / sheet.head
    up = np.clip((y + 0.7) / 1.8, 0, 1)[..., None]
    sheet.pixels[...] = np.array((0.110, 0.160, 0.225)) * (1 - up) + np.array((0.085, 0.105, 0.150)) * up
    rng = np.random.default_rng(3)
    colours = (
        (0.45, 0.23, 0.20),
        (0.24, 0.34, 0.36),
        (0.52, 0.40, 0.22),
        (0.20, 0.25, 0.36),
        (0.38, 0.30, 0.36),
        (0.30, 0.38, 0.28),
    )
    reach = width / 2 / sheet.head
    for row in range(3):
        shelf = -0.36 + 0.56 * row
        at = -reach - 0.1
        while at < reach + 0.1:
            wide, tall = rng.uniform(0.05, 0.10), rng.uniform(0.26, 0.42)
            colour = np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.5, 0.8)
            if rng.random() < 0.86 and abs(at) > 0.30:
                lean = rng.uniform(-0.015, 0.015)
                corners = ((at + lean, shelf - tall), (at + wide + lean, shelf - tall), (at + wide, shelf), (at, shelf))
                sheet.fill(corners, tuple(colour.tolist()), 0.75, soft=0.012)
            at += wide + rng.uniform(0.004, 0.02)
        board = ((-reach - 1, shelf), (reach + 1, shelf), (reach + 1, shelf + 0.035), (-reach - 1, shelf + 0.035))
        sheet.fill(board, (0.190, 0.120, 0.095), 0.9, soft=0.012)
    lamp = (-min(0.98, 0.86 * reach), -0.10)
    away = np.hypot(x - lamp[0], (y - lamp[1]) * 1.1)
    glow = np.exp(-((away / 0.95) ** 2))[..., None] * np.array((0.50, 0.32, 0.13)) + np.exp(-((away / 0.33) ** 2))[
        ..., None
    ] * np.array((0.35, 0.26, 0.14))
    sheet.pixels += (1 - sheet.pixels) * glow.astype(np.float32)
    shade = [(lamp[0] - 0.13, -0.26), (lamp[0] + 0.13, -0.26), (lamp[0] + 0.21, 0.02), (lamp[0] - 0.21, 0.02)]
    sheet.fill(shade, ((1.0, 0.93, 0.74), (1.0, 0.80, 0.50)), 0.95, soft=0.010)
    sheet.fill(
        [(lamp[0] - 0.012, 0.02), (lamp[0] + 0.012, 0.02), (lamp[0] + 0.016, 1.4), (lamp[0] - 0.016, 1.4)],
        (0.30, 0.19, 0.12),
        soft=0.006,
    )
    edge = np.hypot(x / (1.35 * reach), y / 1.35)
    sheet.pixels *= (1 - 0.45 * np.clip(edge - 0.45, 0, 1))[..., None].astype(np.float32)


def draw_person(sheet: Sheet) -> None:
    """Draws all but eyes and mouth."""
    back = [
        (0, -0.60),
        (0.30, -0.53),
        (0.46, -0.28),
        (0.50, 0.05),
        (0.53, 0.38),
        (0.60, 0.66),
        (0.50, 0.86),
        (0.20, 0.80),
    ]
    back += [(-0.20, 0.80), (-0.50, 0.86), (-0.60, 0.66), (-0.53, 0.38), (-0.50, 0.05), (-0.46, -0.28), (-0.30, -0.53)]
    sheet.fill(spline(back), HAIR)
    # Neck, pullover, shawl.
    neck = [(-0.145, 0.25), (0.145, 0.25), (0.150, 0.55), (0.24, 0.72), (-0.24, 0.72), (-0.150, 0.55)]
    skin = sheet.fill(spline(neck), ((0.900, 0.660, 0.540), (0.930, 0.710, 0.590)))
    sheet.fill(ellipse(0.02, 0.40, 0.24, 0.16), SHADE, 0.75, soft=0.03, within=skin)
    body = [
        (-0.16, 0.60),
        (-0.30, 0.66),
        (-0.62, 0.76),
        (-0.84, 0.96),
        (-0.95, 1.30),
        (-0.97, 1.8),
        (0.97, 1.8),
        (0.95, 1.30),
    ]
    body += [(0.84, 0.96), (0.62, 0.76), (0.30, 0.66), (0.16, 0.60), (0.0, 0.70)]
    wool = sheet.fill(spline(body), ((0.190, 0.420, 0.430), (0.090, 0.240, 0.270)))
    sheet.fill(ellipse(0.72, 1.1, 0.34, 0.62, -0.3), (0.05, 0.14, 0.18), 0.55, soft=0.10, within=wool)
    sheet.fill(ellipse(-0.72, 0.95, 0.20, 0.30, 0.5), (0.62, 0.66, 0.50), 0.35, soft=0.09, within=wool)
    for side in (-1, 1):
        for fold in range(3):
            x = side * (0.34 + 0.16 * fold)
            sheet.line(
                [(x, 0.82 + 0.05 * fold), (x + side * 0.05, 1.05), (x + side * 0.04, 1.4)],
                0.014,
                (0.06, 0.18, 0.21),
                0.5,
                0.006,
            )
    collar = [
        (-0.205, 0.575),
        (-0.10, 0.63),
        (0, 0.645),
        (0.10, 0.63),
        (0.205, 0.575),
        (0.245, 0.66),
        (0.16, 0.755),
        (0, 0.785),
        (-0.16, 0.755),
        (-0.245, 0.66),
    ]
    rolled = sheet.fill(spline(collar), ((0.260, 0.510, 0.510), (0.150, 0.350, 0.370)))
    for number in range(-5, 6):
        sheet.line([(0.036 * number, 0.60), (0.043 * number, 0.78)], 0.010, (0.08, 0.24, 0.27), 0.45, 0.003)
    sheet.fill(ellipse(0.17, 0.70, 0.10, 0.12), (0.05, 0.16, 0.19), 0.5, soft=0.03, within=rolled)
    # The face, lit from the left.
    outline = [
        (0, -0.46),
        (0.20, -0.42),
        (0.335, -0.25),
        (0.365, -0.02),
        (0.345, 0.17),
        (0.270, 0.335),
        (0.145, 0.455),
        (0, 0.500),
    ]
    outline += [(-x, y) for x, y in outline[-2:0:-1]]
    face = sheet.fill(spline(outline), SKIN)
    sheet.fill(
        spline([(0.20, -0.5), (0.5, -0.4), (0.5, 0.5), (0.02, 0.56), (0.18, 0.36), (0.27, 0.12), (0.28, -0.15)]),
        SHADE,
        0.42,
        0.045,
        face,
    )
    sheet.fill(ellipse(0.0, 0.53, 0.22, 0.07), SHADE, 0.35, soft=0.035, within=face)
    sheet.fill(ellipse(-0.16, 0.10, 0.16, 0.18), (1.0, 0.88, 0.74), 0.40, soft=0.07, within=face)
    sheet.fill(ellipse(-0.05, -0.22, 0.22, 0.12), (1.0, 0.87, 0.74), 0.30, soft=0.06, within=face)
    for x in (-0.225, 0.225):
        sheet.fill(ellipse(x, 0.155, 0.085, 0.055), (0.93, 0.42, 0.38), 0.36, soft=0.032, within=face)
    # Nose: a shadow beside the bridge, the tip, the nostrils.
    sheet.line([(0.030, -0.03), (0.040, 0.05), (0.052, 0.11)], 0.030, SHADE, 0.34, 0.010)
    sheet.fill(ellipse(-0.008, 0.100, 0.034, 0.032), (1.0, 0.88, 0.78), 0.55, soft=0.014, within=face)
    sheet.line(
        [(-0.046, 0.128), (-0.022, 0.148), (0.0, 0.152), (0.022, 0.148), (0.046, 0.128)], 0.014, SHADE, 0.85, 0.003
    )
    for x in (-0.020, 0.022):
        sheet.fill(ellipse(x, 0.142, 0.009, 0.005), LINE, 0.55, soft=0.002)
    # Brows.
    for side in (-1, 1):
        brow = [(side * 0.075, -0.128), (side * 0.135, -0.162), (side * 0.200, -0.163), (side * 0.262, -0.128)]
        sheet.line(brow, 0.026, HAIR, 0.92, 0.003)
    # Hair before the face: a parting on the right of the picture, falling to both sides.
    shadow = [(0.13, -0.45), (-0.10, -0.34), (-0.27, -0.17), (-0.34, 0.06), (-0.44, 0.0), (-0.42, -0.36), (-0.1, -0.58)]
    sheet.fill(spline([(x + 0.018, y + 0.030) for x, y in shadow]), SHADE, 0.55, 0.022, face)
    left = [
        (0.15, -0.56),
        (0.13, -0.44),
        (-0.02, -0.33),
        (-0.20, -0.24),
        (-0.305, -0.10),
        (-0.335, 0.10),
        (-0.345, 0.30),
        (-0.36, 0.52),
    ]
    left += [
        (-0.30, 0.70),
        (-0.36, 0.86),
        (-0.52, 0.84),
        (-0.585, 0.60),
        (-0.52, 0.30),
        (-0.49, -0.05),
        (-0.45, -0.34),
        (-0.30, -0.55),
        (-0.06, -0.64),
    ]
    right = [
        (0.12, -0.58),
        (0.14, -0.45),
        (0.24, -0.34),
        (0.315, -0.20),
        (0.345, 0.0),
        (0.350, 0.22),
        (0.36, 0.48),
        (0.31, 0.68),
        (0.37, 0.86),
    ]
    right += [(0.52, 0.84), (0.585, 0.60), (0.52, 0.30), (0.49, -0.05), (0.44, -0.34), (0.31, -0.54)]
    sheet.fill(spline([(x - 0.02, y + 0.02) for x, y in right]), SHADE, 0.45, 0.022, face)
    warm: Colour = (0.74, 0.40, 0.22)
    for lock, gleams in (
        (right, ((0.36, -0.22, 0.45, 0.30), (0.42, -0.05, 0.49, 0.50))),
        (left, ((-0.26, -0.36, -0.44, 0.05), (-0.37, -0.12, -0.47, 0.45))),
    ):
        strands = sheet.fill(spline(lock), HAIR)
        for x, y, end_x, end_y in gleams:
            middle = ((x + end_x) / 2 + (0.035 if x > 0 else -0.035), (y + end_y) / 2)
            tress = stroke([(x, y), middle, (end_x, end_y)], 0.060)
            sheet.fill(tress, warm, 0.42 if x < 0 else 0.20, 0.016, strands)
    for shift in (0.0, 0.05, 0.10, 0.15):
        lines = [
            [
                (0.12 - shift, -0.545 + shift / 8),
                (-0.12 - shift, -0.44 + shift / 3),
                (-0.34 - shift / 4, -0.12),
                (-0.41 - shift / 3, 0.35),
                (-0.42 - shift / 3, 0.72),
            ]
        ]
        lines.append(
            [
                (0.17 + shift / 2, -0.53 + shift / 4),
                (0.34 + shift / 4, -0.24),
                (0.405 + shift / 3, 0.15),
                (0.43 + shift / 3, 0.68),
            ]
        )
        for each in lines:
            sheet.line(each, 0.009, (0.12, 0.05, 0.05), 0.40, 0.002)


def draw_eyes(sheet: Sheet, closed: float) -> None:
    for side in (-1, 1):
        x, y = side * 0.160, -0.005
        top, low = -0.052 + 0.098 * closed, 0.030 + 0.014 * closed
        rim = [
            (x - side * 0.074, y + 0.012),
            (x - side * 0.040, y + 0.75 * top),
            (x + side * 0.012, y + top),
            (x + side * 0.056, y + 0.6 * top),
        ]
        rim += [(x + side * 0.084, y - 0.004 + 0.012 * closed)]
        under = [(x + side * 0.050, y + 0.85 * low), (x, y + low), (x - side * 0.045, y + 0.80 * low)]
        sheet.fill(ellipse(x, y - 0.02, 0.105, 0.060), SHADE, 0.30, soft=0.022)
        if closed < 0.9:
            white = sheet.fill(spline(rim + under), ((0.86, 0.84, 0.83), (0.99, 0.97, 0.95)))
            sheet.fill(ellipse(x, y - 0.006, 0.043, 0.045), ((0.26, 0.15, 0.09), (0.50, 0.31, 0.16)), within=white)
            sheet.fill(ellipse(x, y + 0.014, 0.028, 0.018), (0.78, 0.52, 0.26), 0.55, 0.008, white)
            sheet.fill(ellipse(x, y - 0.006, 0.021, 0.022), (0.06, 0.03, 0.03), within=white)
            sheet.fill(spline(rim + [(px, py + 0.020) for px, py in rim[::-1]]), (0.20, 0.12, 0.12), 0.45, 0.006, white)
            sheet.fill(ellipse(x - 0.015, y - 0.023, 0.0115, 0.0115), (1, 1, 1), 0.95, within=white)
            sheet.fill(ellipse(x + 0.016, y + 0.010, 0.005, 0.005), (1, 0.95, 0.85), 0.7, within=white)
        lash = [
            *rim[:-1],
            (x + side * 0.086, y - 0.012 + 0.016 * closed),
            (x + side * 0.106, y - 0.030 + 0.036 * closed),
        ]
        sheet.line(lash, 0.021, (0.13, 0.06, 0.06), 0.97)
        sheet.line(
            [
                (x - side * 0.060, y - 0.050 + 0.030 * closed),
                (x + side * 0.005, y - 0.082 + 0.030 * closed),
                (x + side * 0.075, y - 0.052 + 0.030 * closed),
            ],
            0.008,
            SHADE,
            0.9 - 0.4 * closed,
            0.002,
        )
        sheet.line(
            [(x - side * 0.050, y + 0.030), (x, y + low + 0.010), (x + side * 0.060, y + 0.024)],
            0.006,
            SHADE,
            0.55,
            0.002,
        )


def draw_mouth(sheet: Sheet, pose: Pose) -> None:
    """Lips around a gap; closed they smile a little."""
    x, y = MOUTH_AT
    opening, wide, teeth, tongue = pose
    half = MOUTH_HALF * (1 + 0.16 * wide) * (1 - 0.10 * opening)
    gap = 0.125 * opening
    smile = 0.014 * (1 - 0.8 * opening) * (1 + 0.5 * min(0.0, wide))
    pout = max(0.0, -wide)
    upper_lip = (0.026 + 0.010 * pout) * (1 - 0.15 * opening) * (0.55 if wide == -0.1 else 1.0)
    lower_lip = (0.036 + 0.012 * pout) * (1 - 0.15 * opening)
    corner = y - smile + 0.25 * gap
    top = y - 0.22 * gap
    bottom = y + 0.80 * gap

    def arc(height: float, bend: float, inset: float = 0.0) -> list[Point]:
        """Returns the points from the left corner to the right one by `height` in the middle."""
        w = half - inset
        return [
            (x - w, corner),
            (x - 0.62 * w, corner + (height - corner) * bend),
            (x, height),
            (x + 0.62 * w, corner + (height - corner) * bend),
            (x + w, corner),
        ]

    sheet.fill(ellipse(x, bottom + lower_lip + 0.022, half * 0.6, 0.016), SHADE, 0.42, soft=0.010)
    outer_top = [
        (x - half, corner),
        (x - 0.55 * half, top - 0.62 * upper_lip),
        (x - 0.18 * half, top - upper_lip - 0.002),
        (x, top - 0.72 * upper_lip),
    ]
    outer_top += [
        (x + 0.18 * half, top - upper_lip - 0.002),
        (x + 0.55 * half, top - 0.62 * upper_lip),
        (x + half, corner),
    ]
    low = bottom + lower_lip
    outer_low = [
        (x + 0.62 * half, corner + (low - corner) * 0.74),
        (x, low),
        (x - 0.62 * half, corner + (low - corner) * 0.74),
    ]
    lips = sheet.fill(spline(outer_top + outer_low), LIP)
    sheet.fill(
        ellipse(x - 0.02, bottom + 0.55 * lower_lip, half * 0.42, 0.30 * lower_lip),
        (0.96, 0.66, 0.60),
        0.55,
        0.006,
        lips,
    )
    if gap > 0.004:
        inner_top, inner_low = arc(top, 0.80, 0.012), arc(bottom, 0.80, 0.012)
        inside = sheet.fill(spline(inner_top + inner_low[-2:0:-1]), DARK)
        if tongue > 0.05:
            raised = 0.55 * gap * tongue if opening < 0.3 else 0.42 * gap * tongue
            sheet.fill(
                ellipse(x, bottom + 0.004, half * 0.62, raised),
                ((0.86, 0.44, 0.42), (0.72, 0.30, 0.31)),
                0.95,
                0.004,
                inside,
            )
        if teeth > 0.05:
            band = min(0.030, 0.55 * gap + 0.004) * teeth
            row = [(px, py - 0.02) for px, py in inner_top] + [(px, py + band) for px, py in inner_top[::-1]]
            sheet.fill(
                spline(row),
                ((0.99, 0.97, 0.93), (0.90, 0.86, 0.82)),
                0.97,
                0.0,
                inside * sheet.mask(ellipse(x, y, half * 0.80, 0.2), 0.008),
            )
        sheet.line(inner_top, 0.007, (0.36, 0.10, 0.11), 0.8, 0.002)
    else:
        seam = arc(y + 0.004, 0.72)
        sheet.line(
            [(seam[0][0] - 0.010, corner - 0.006), *seam[1:-1], (seam[-1][0] + 0.010, corner - 0.006)],
            0.010,
            (0.42, 0.13, 0.13),
            0.92,
            0.001,
        )
    for side in (-1, 1):
        sheet.fill(ellipse(x + side * (half + 0.008), corner, 0.010, 0.012), SHADE, 0.55, 0.006)
