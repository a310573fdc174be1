"""Narration as captions: which words stand in the picture when, and their pixels.

A page is at most two rows in a rounded, dark box above the lower rim. Its words come in the order of speech; the one that is spoken is lit.
Rows that begin with a right-to-left letter run from right to left. A character that the font lacks is left out, not shown as a box.
"""

import functools
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from math import ceil
from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.device import ArrayModule
from dihedral.data_plane.kernels.colour import sited
from dihedral.data_plane.kernels.frame import Caption, Masks
from dihedral.data_plane.media.decode import ByteArray
from dihedral.data_plane.media.speech_timing import Span, Timed, spread, weight

WIDEST = 0.82  # of the picture's width, for the text
ROWS = 2  # of a page, at most
FONT_SHARE = 0.056  # of the picture's height, or of its width where that is less
FONTS = (
    "DejaVuSans-Bold.ttf", "NotoSansCJK-Bold.ttc", "NotoSansCJK-Regular.ttc", "NotoSansThai-Bold.ttf", "NotoSansDevanagari-Bold.ttf",
    "NotoSansTamil-Bold.ttf", "Arial Unicode.ttf",
)  # fmt: skip
"""The fonts that are looked for by name; the one inside Pillow comes behind them and has ASCII and a few letters more, no ö and no dash."""
ROW_STEP, PADDING, ROUNDING, MARGIN = 1.32, (0.36, 0.62), 0.55, 0.9  # in font sizes; MARGIN below the box
JOINERS = "\u200c\u200d"  # they control which letters are written together; other control characters would turn the text around
FADE_SECONDS = 0.18  # of the box
GLOW_SECONDS = 0.08  # of a word
PAUSE_SECONDS = 0.7  # between two words: the second begins a page
LINGER_SECONDS = 0.6  # a page stays as long behind its last word, and through any pause that is shorter


Text = list[list[str]]
"""The rows of words of a page."""


class Word(NamedTuple):
    """x: where it begins in its row, in pixels from the row's left end; width likewise."""

    text: str
    x: float
    width: float
    spoken: Span


class Page(NamedTuple):
    """rows of words, in the order they are spoken; shown from start to end, in seconds, fading where no page is next to it."""

    rows: tuple[tuple[Word, ...], ...]
    face: "Face"
    start: float
    end: float
    fades: tuple[bool, bool]


class Face:
    """A font, with the widths of words and the characters that it has a picture of."""

    def __init__(self, font: Any) -> None:
        self.font = font
        self.width = functools.cache(font.getlength)
        self.knows = functools.cache(self._knows)
        self._blank = self._drawn("\uffff")  # no character, so every font shows its sign for a missing one

    def words(self, line: str) -> list[str]:
        """The line's words without what has no picture."""
        words = (self.drawable(word) for word in line.split())
        return [word for word in words if word]

    def drawable(self, word: str) -> str:
        """The word without what has no picture. A mark goes with the letter that it stands on: alone it would be drawn on a circle."""
        kept, stands = [], False
        for letter in word:
            if unicodedata.category(letter)[0] != "M":
                stands = self.knows(letter)
            if stands and self.knows(letter):
                kept.append(letter)
        return "".join(kept)

    def missing(self, lines: list[str]) -> list[str]:
        """The characters that people would see and the font has no picture of."""
        letters = sorted({letter for line in lines for letter in line if not letter.isspace()})
        return [letter for letter in letters if not (self.knows(letter) or unicodedata.category(letter)[0] in "CM")]

    def _knows(self, letter: str) -> bool:
        if unicodedata.category(letter)[0] == "C":
            return letter in JOINERS
        return self._drawn(letter) != self._blank

    def _drawn(self, letter: str) -> tuple[Any, bytes]:
        mask = self.font.getmask(letter)
        return mask.size, bytes(mask)


def wrongly_shaped(lines: list[str]) -> bool:
    """Returns True when letters run from right to left, and no library here could turn and join them."""
    from PIL import features

    turns = any(unicodedata.bidirectional(letter) in ("R", "AL") for line in lines for letter in line)
    return turns and not (features.check("raqm") and features.check("fribidi"))


def face_of(lines: list[str], size: tuple[int, int]) -> Face:
    """The font of this machine that has most of the text's characters, for a frame of size = (height, width)."""
    from PIL import ImageFont

    pixels = max(9, round(min(size) * FONT_SHARE))
    found = []
    for name in FONTS:
        with suppress(OSError):  # not on this machine
            found.append(Face(ImageFont.truetype(name, pixels)))
    found.append(Face(ImageFont.load_default(pixels)))
    return min(found, key=lambda face: len(face.missing(lines)))


def rows_of_a_page(size: tuple[int, int]) -> float:
    """Pixels that a full page takes at the lower rim."""
    em = max(9, round(min(size) * FONT_SHARE))
    return em * (MARGIN + 2 * PADDING[0] + ROW_STEP * ROWS + MARGIN / 2)


def broken(lines: list[str], face: Face, size: tuple[int, int]) -> list[Text]:
    """The lines as texts of pages that fit size = (height, width)."""
    rows_of = [_broken(face.words(line), face, size[1] * WIDEST) for line in lines]
    return [rows[at : at + ROWS] for rows in rows_of for at in range(0, len(rows), ROWS)]


def weights(texts: list[Text]) -> list[int]:
    """Returns the weight of every word, in order."""
    return [weight(word) for text in texts for row in text for word in row]


def spread_over(texts: list[Text], spans: list[Span]) -> list[Span]:
    """A time for each word: its share of the spans; none where there is no time."""
    return spread(weights(texts), spans) if spans else []


def broken_in_time(words: list[Timed], face: Face, size: tuple[int, int]) -> tuple[list[Text], list[Span]]:
    """Breaks words that are spoken at known times into texts of pages, and returns the time of each word in them. A page ends with its sentence."""
    texts: list[Text] = []
    times: list[Span] = []
    pieces: list[str] = []
    for number, word in enumerate(words):
        shown = list(_cut(face.drawable(word.text), face, size[1] * WIDEST))
        if shown[0]:
            pieces += shown
            times += spread([weight(piece) for piece in shown], [Span(word.start, word.end)])
        following = words[number + 1] if number + 1 < len(words) else None
        if following is None or ends_sentence(word.text) or following.start - word.end > PAUSE_SECONDS:
            rows = _broken(pieces, face, size[1] * WIDEST)
            texts += [rows[at : at + ROWS] for at in range(0, len(rows), ROWS)]
            pieces = []
    return texts, times


def ends_sentence(word: str) -> bool:
    return word.rstrip("\"”’')]」』")[-1:] in tuple(".!?…。！？")


def schedule(parts: list[tuple[list[Text], list[Span]]], face: Face) -> list[Page]:
    """Pages in order of time. parts: texts, and the time over which their words are spread; one without time is left out."""
    return schedule_words([(texts, spread_over(texts, spans)) for texts, spans in parts], face)


def schedule_words(parts: list[tuple[list[Text], list[Span]]], face: Face) -> list[Page]:
    """Makes pages as `schedule` does, with the time of each word."""
    placed = []
    for texts, spans in parts:
        times = iter(spans)
        placed += [tuple(_placed(row, face, times) for row in text) for text in texts if spans]
    if not placed:
        return []
    first = [page[0][0].spoken.start for page in placed]
    last = [page[-1][-1].spoken.end for page in placed]
    ends = [
        start if start - end < LINGER_SECONDS else end + LINGER_SECONDS / 2
        for end, start in zip(last, first[1:], strict=False)
    ]
    ends.append(last[-1] + LINGER_SECONDS)
    gaps = [True, *(end < start for end, start in zip(ends, first[1:], strict=False)), True]
    return [
        Page(rows, face, start, end, fades)
        for rows, start, end, fades in zip(placed, first, ends, pairwise(gaps), strict=True)
    ]


class Drawn:
    """A page's pixels, drawn once, and how it looks at a time."""

    def __init__(self, page: Page, size: tuple[int, int], below: float, xp: ArrayModule) -> None:
        """below: pixels at the frame's lower rim that belong to something else."""
        self.page = page
        self.words: list[tuple[Span, tuple[int, int, int, int]]] = []
        self.masks = self._drawn(size, below, xp)

    def at(self, seconds: float) -> Caption:
        """Returns the caption at this time: between two words the one before stays lit."""
        page = self.page
        opening, closing = ((1.0 if not fades else None) for fades in page.fades)
        opacity = min(
            opening or _eased((seconds - page.start) / FADE_SECONDS),
            closing or _eased((page.end - seconds) / FADE_SECONDS),
        )
        number = max(0, bisect_right(self.words, seconds, key=lambda each: each[0].start) - 1)
        spoken, place = self.words[number]
        glow = min(
            _eased((seconds - spoken.start) / GLOW_SECONDS),
            _eased((spoken.end + LINGER_SECONDS / 2 - seconds) / GLOW_SECONDS),
        )
        return Caption(self.masks, opacity, place, glow)

    def _drawn(self, size: tuple[int, int], below: float, xp: ArrayModule) -> Masks:
        from PIL import Image, ImageDraw

        height, width = size
        font, space = self.page.face.font, self.page.face.width(" ")
        widths = [max(word.x + word.width for word in row) for row in self.page.rows]
        em = font.size
        down, across = (round(share * em) for share in PADDING)
        step = round(ROW_STEP * em)
        ascent, descent = font.getmetrics()
        inner = (step * (len(self.page.rows) - 1) + ascent + descent, ceil(max(widths)))
        box_height, box_width = (min(_even(length), _even(limit - 1)) for length, limit in zip(
            (inner[0] + 2 * down, inner[1] + 2 * across), size, strict=True))  # fmt: skip
        top = max(0, _even(height - below - round(MARGIN * em) - box_height) - 2)
        left = (width - box_width) // 4 * 2
        text = Image.new("L", (box_width, box_height), 0)
        draw = ImageDraw.Draw(text)
        for number, (row, row_width) in enumerate(zip(self.page.rows, widths, strict=True)):
            start, baseline = (box_width - row_width) / 2, down + number * step + ascent
            for word in row:
                draw.text((start + word.x, baseline), word.text, fill=255, font=font, anchor="ls")
                edges = (left + start + word.x - space / 2, left + start + word.x + word.width + space / 2)
                rows = (top + down + number * step, top + down + (number + 1) * step)
                self.words.append((word.spoken, (_even(rows[0]), _even(edges[0]), _even(rows[1]) + 2, _even(edges[1]))))
        box = rounded(box_height, box_width, ROUNDING * em)
        pixels = np.asarray(text)
        return Masks(
            top, left, *(xp.asarray(mask) for mask in (box, pixels, sited(box, np), sited(pixels, np)))
        )  # fmt: skip


def _broken(words: list[str], face: Face, widest: float) -> list[list[str]]:
    """Rows of about equal length: the narrowest limit that needs no more rows than the widest does."""
    pieces = [piece for word in words for piece in _cut(word, face, widest)]
    rows = _greedy(pieces, face, widest)
    for share in (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95):
        narrower = _greedy(pieces, face, widest * share)
        if len(narrower) <= len(rows):
            return narrower
    return rows


def _cut(word: str, face: Face, widest: float) -> Iterator[str]:
    """The word, in pieces where it is too long for a row."""
    while len(word) > 1 and face.width(word) > widest:
        fits = max(1, bisect_right(range(len(word)), widest, key=lambda n: face.font.getlength(word[:n])) - 1)
        yield word[:fits]
        word = word[fits:]
    yield word


def _greedy(words: list[str], face: Face, widest: float) -> list[list[str]]:
    """Breaks words into rows, each as full as it gets."""
    rows: list[list[str]] = []
    taken = widest
    for word in words:
        taken += face.width(" ") + face.width(word)
        if taken > widest:
            rows.append([])
            taken = face.width(word)
        rows[-1].append(word)
    return rows


def _placed(row: list[str], face: Face, times: Iterator[Span]) -> tuple[Word, ...]:
    """Places each word where it stands when the row is set as a whole."""
    order = range(len(row) - 1, -1, -1) if _runs_left(row) else range(len(row))
    starts, x = [0.0] * len(row), 0.0
    for number in order:
        starts[number] = x
        x += face.width(row[number]) + face.width(" ")
    return tuple(Word(word, start, face.width(word), next(times)) for word, start in zip(row, starts, strict=True))


def _runs_left(row: list[str]) -> bool:
    """Returns True when the first letter that has a direction has that one (Unicode's rule P2)."""
    kinds = (unicodedata.bidirectional(letter) for letter in "".join(row))
    return next((kind for kind in kinds if kind in ("L", "R", "AL")), "L") != "L"


def rounded(height: int, width: int, radius: float) -> ByteArray:
    """A rectangle with round corners and smooth rims: 255 inside."""
    y = np.abs(np.arange(height) + 0.5 - height / 2)[:, None] - (height / 2 - 1 - radius)
    x = np.abs(np.arange(width) + 0.5 - width / 2)[None, :] - (width / 2 - 1 - radius)
    outside = np.hypot(np.maximum(y, 0), np.maximum(x, 0)) - radius
    coverage: ByteArray = (np.clip(0.5 - outside, 0, 1) * 255 + 0.5).astype(np.uint8)
    return coverage


def _eased(along: float) -> float:
    """0..1, slow at both ends."""
    along = min(1.0, max(0.0, along))
    return along * along * (3 - 2 * along)


def _even(pixels: float) -> int:
    return int(pixels) // 2 * 2
