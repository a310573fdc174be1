"""Narration as captions: which words stand in the picture when, and their pixels."""

from bisect import bisect_right
from typing import Any, NamedTuple

import numpy as np

from data_plane.device import Array, ArrayModule

_WIDEST = 0.86  # of the picture's width
_ROWS = 2  # of a caption, at most
_FADE_SECONDS = 0.2
_FONT_SHARE = 0.062  # of the picture's height, per row of text
_SCRIM = 0.62  # how dark the lower rim gets


class Caption(NamedTuple):
    """rows: text, already broken; shown from start to end, in seconds."""

    rows: tuple[str, ...]
    start: float
    end: float

    def opacity(self, seconds: float) -> float:
        """0..1: fades in and out at its ends."""
        nearest = min(seconds - self.start, self.end - seconds)
        return float(np.clip(nearest / _FADE_SECONDS, 0, 1))


def schedule(lines: list[str], seconds: float, size: tuple[int, int]) -> list[Caption]:
    """The lines broken to fit size = (height, width) and spread over the time by their length in characters."""
    font = _font(size[0])
    pages: list[tuple[str, ...]] = []
    for line in lines:
        rows = _broken(line, font, size[1] * _WIDEST)
        pages += [tuple(rows[at : at + _ROWS]) for at in range(0, len(rows), _ROWS)]
    shares = np.array([8 + sum(map(len, page)) for page in pages], dtype=float)  # 8: a short word needs time as well
    ends = np.cumsum(shares) / shares.sum() * seconds if pages else np.empty(0)
    starts = np.concatenate([[0.0], ends[:-1]])
    return [Caption(*entry) for entry in zip(pages, starts.tolist(), ends.tolist(), strict=False)]


def mask(caption: Caption, size: tuple[int, int], xp: ArrayModule) -> tuple[Array, Array]:
    """`(text, shadow)`, each (height, width, 1) float32 in 0..1, the text centred above the lower rim."""
    from PIL import Image, ImageDraw, ImageFilter

    height, width = size
    font = _font(height)
    text = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(text)
    step = round(_FONT_SHARE * height * 1.25)
    baseline = height - round(height * 0.06) - step * (len(caption.rows) - 1)
    for number, row in enumerate(caption.rows):
        draw.text((width / 2, baseline + number * step), row, fill=255, font=font, anchor="ms")
    shadow = text.filter(ImageFilter.GaussianBlur(max(1.0, height / 160)))
    return _plane(text, xp), xp.minimum(1.0, _plane(shadow, xp) * 1.5)


def scrim(size: tuple[int, int], xp: ArrayModule) -> Array:
    """(height, 1, 1) float32: what the picture is multiplied by, so that white text reads on any of it."""
    rise = xp.clip((xp.arange(size[0], dtype=xp.float32) / size[0] - 0.66) / 0.34, 0, 1)
    return (1 - _SCRIM * rise * rise * (3 - 2 * rise))[:, None, None]


def _broken(line: str, font: Any, widest: float) -> list[str]:
    """Rows of about equal length: the narrowest limit that needs no more rows than the widest does."""
    rows = _greedy(line, font, widest)
    for share in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        narrower = _greedy(line, font, widest * share)
        if len(narrower) <= len(rows):
            return narrower
    return rows


def _greedy(line: str, font: Any, widest: float) -> list[str]:
    """Each row as full as it gets; a word too long for a row is cut."""
    rows: list[str] = []
    for word in line.split():
        if rows and font.getlength(f"{rows[-1]} {word}") <= widest:
            rows[-1] += f" {word}"
            continue
        while len(word) > 1 and font.getlength(word) > widest:
            fits = max(1, bisect_right(range(len(word)), widest, key=lambda n: font.getlength(word[:n])) - 1)
            rows.append(word[:fits])
            word = word[fits:]
        rows.append(word)
    return rows


def _font(height: int) -> Any:
    """DejaVu where the machine has it, because it knows more scripts; else the one inside Pillow (Latin)."""
    from PIL import ImageFont

    size = max(9, round(height * _FONT_SHARE))
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _plane(image: Any, xp: ArrayModule) -> Array:
    return xp.asarray(np.asarray(image, dtype=np.float32)[:, :, None] / 255)
