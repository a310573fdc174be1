"""Words in time and in the picture."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dihedral.data_plane.kernels.frame import Caption
from dihedral.data_plane.media import captions
from dihedral.data_plane.media import speech_timing as timing
from dihedral.data_plane.media.captions import Drawn, Page
from dihedral.data_plane.media.decode import read_recording
from dihedral.data_plane.media.speech_timing import Span
from tests.support.servers import skip

SIZE = (120, 160)
WHOLE = [Span(0.0, 10.0)]
LINES = ["A first line that is long enough to be broken into several rows of text.", "", "Second.", "x" * 300]


@pytest.fixture
def font() -> None:
    """Of this machine, not Pillow's own, which lacks the letters of some tests."""
    if captions.face_of(["ש"], SIZE).missing(["ש"]):
        skip("font", f"none of {', '.join(captions.FONTS)} is here")


def schedule(lines: list[str], spans: list[Span], size: tuple[int, int]) -> list[Page]:
    face = captions.face_of(lines, size)
    return captions.schedule([(captions.broken(lines, face, size), spans)], face)


def words(pages: list[Page]) -> list[captions.Word]:
    return [word for page in pages for row in page.rows for word in row]


def drawn(pages: list[Page], size: tuple[int, int] = SIZE) -> list[Drawn]:
    return [Drawn(page, size, 0.0, np) for page in pages]


@pytest.mark.usefixtures("font")
def test_every_word_is_shown_in_order_and_fits() -> None:
    pages = schedule(LINES, WHOLE, SIZE)
    shown = [word.text for word in words(pages)]
    assert " ".join(shown[:16]) == f"{LINES[0]} Second."
    assert "".join(shown[16:]) == LINES[3]
    assert all(word.x + word.width <= SIZE[1] * captions.WIDEST for word in words(pages))
    assert all(len(page.rows) <= captions.ROWS for page in pages)
    for each in drawn(pages):
        masks = each.masks
        assert masks.text.max() > 230
        assert masks.text[:, [0, -1]].max() == 0
        assert masks.text[[0, -1]].max() == 0
        assert masks.top >= 0
        assert masks.top + masks.box.shape[0] <= SIZE[0]
        assert masks.left >= 0
        assert masks.left + masks.box.shape[1] <= SIZE[1]


def test_words_take_their_time_one_after_another() -> None:
    pages = schedule(LINES, WHOLE, SIZE)
    spoken = [word.spoken for word in words(pages)]
    assert spoken[0].start == 0
    assert spoken[-1].end == pytest.approx(10.0)
    assert all(before.end == pytest.approx(after.start) for before, after in pairwise(spoken))
    long, short = (next(word.spoken for word in words(pages) if word.text == text) for text in ("several", "to"))
    assert long.end - long.start > 1.5 * (short.end - short.start)
    assert all(before.end <= after.start + 1e-9 for before, after in pairwise(pages))


def test_each_part_keeps_to_its_own_time() -> None:
    face = captions.face_of([], SIZE)
    parts = [(captions.broken([text], face, SIZE), [span]) for text, span in zip(
        ("", "one two three", "four"), (Span(0, 3), Span(3, 4), Span(4, 9)), strict=True)]  # fmt: skip
    pages = captions.schedule(parts, face)
    assert [(page.start, page.rows[-1][-1].spoken.end) for page in pages] == [(3, 4), (4, 9)]
    assert pages[0].end == 4  # nothing of it stays over the next part


def test_a_page_goes_in_a_long_pause_and_stays_in_a_short_one() -> None:
    lines, spans = ["one two three", "four five six"], [Span(1.0, 2.0), Span(5.0, 6.0)]
    first, second = schedule(lines, spans, SIZE)
    assert (first.start, second.start) == (1.0, 5.0)
    assert first.end == pytest.approx(2.0 + captions.LINGER_SECONDS / 2)
    assert (first.fades, second.fades) == ((True, True), (True, True))
    first, second = schedule(lines, [Span(1.0, 2.0), Span(2.3, 3.3)], SIZE)
    assert first.end == second.start == pytest.approx(2.3)
    assert (first.fades, second.fades) == ((True, False), (False, True))


def test_the_word_that_is_spoken_is_lit_where_it_stands() -> None:
    (page,) = schedule(["one two three"], [Span(0.0, 3.0)], SIZE)
    each = Drawn(page, SIZE, 0.0, np)
    ink = []
    for word in page.rows[0]:
        caption = each.at((word.spoken.start + word.spoken.end) / 2)
        top, left, bottom, right = (
            edge - corner for edge, corner in zip(caption.word, (each.masks.top, each.masks.left) * 2, strict=True)
        )
        assert caption.glow == 1
        assert not {top % 2, left % 2, bottom % 2, right % 2} - {0}
        ink.append(int(each.masks.text[max(0, top) : bottom, left:right].astype(int).sum()))
    assert min(ink) > 0
    assert sum(ink) == pytest.approx(
        each.masks.text.astype(int).sum(), rel=0.02
    )  # no word is cut, none is in another's place


def test_a_page_fades_in_and_out() -> None:
    (page,) = schedule(["word"], [Span(1.0, 2.0)], SIZE)
    each = Drawn(page, SIZE, 0.0, np)
    assert each.at(1.0).opacity == 0
    assert 0 < each.at(1.05).opacity < 1
    assert each.at(1.5).opacity == 1
    assert each.at(page.end).opacity == 0


def test_space_below_is_kept_free() -> None:
    (page,) = schedule(["word"], WHOLE, SIZE)
    low, high = (Drawn(page, SIZE, below, np).masks for below in (0.0, 40.0))
    assert low.top - high.top == pytest.approx(40, abs=2)


@pytest.mark.usefixtures("font")
def test_a_line_from_right_to_left_begins_at_the_right() -> None:
    (page,) = schedule(["שלום עולם טוב"], WHOLE, SIZE)
    xs = [word.x for word in page.rows[0]]
    assert xs == sorted(xs, reverse=True)
    (page,) = schedule(["one שלום two"], WHOLE, SIZE)
    xs = [word.x for word in page.rows[0]]
    assert xs == sorted(xs)


@pytest.mark.usefixtures("font")
def test_what_the_font_lacks_is_left_out_and_no_box_is_shown() -> None:
    line = "a 🦄🦄 b\u202e\u0007c 🇦🇶"
    (page,) = schedule([line], WHOLE, SIZE)
    assert [word.text for word in page.rows[0]] == ["a", "bc"]
    assert captions.face_of([line], SIZE).missing([line]) == sorted("🦄🇦🇶")
    assert captions.face_of(["é", "ש"], SIZE).missing(["é", "ש"]) == []
    assert schedule(["🦄", " \u2003 ", ""], WHOLE, SIZE) == []
    assert schedule(["word"], [], SIZE) == []


@given(st.lists(st.text(max_size=60), max_size=5), st.sampled_from([(32, 32), (32, 640), (480, 64), (240, 320)]))
@settings(max_examples=40, deadline=None)
def test_any_text_fits_any_frame(lines: list[str], size: tuple[int, int]) -> None:
    for each in drawn(schedule(lines, [Span(0.5, 1.0), Span(2.0, 3.0)], size), size):
        caption: Caption = each.at(0.7)
        masks: Any = caption.masks
        assert masks.box.shape == masks.text.shape
        assert masks.chroma_box.shape == masks.chroma_text.shape == tuple(length // 2 for length in masks.box.shape)
        assert not any(number % 2 for number in (masks.top, masks.left, *masks.box.shape))
        assert masks.top >= 0
        assert masks.left >= 0
        assert masks.top + masks.box.shape[0] <= size[0]
        assert masks.left + masks.box.shape[1] <= size[1]
        assert 0 <= caption.opacity <= 1
        assert 0 <= caption.glow <= 1


# Timing ------------------------------------------------------------------------------------------------------------


def test_speech_is_found_between_pauses() -> None:
    rate, rng = 16_000, np.random.default_rng(0)
    samples = rng.normal(0, 0.0005, 4 * rate).astype(np.float32)
    for start, end in ((0.5, 1.2), (1.3, 2.0), (2.6, 3.4)):
        samples[int(start * rate) : int(end * rate)] += rng.normal(0, 0.2, int(end * rate) - int(start * rate)).astype(
            np.float32
        )
    samples[int(2.3 * rate) : int(2.32 * rate)] = 0.5  # a click
    found = timing.speech(samples, rate)
    assert [(round(start, 1), round(end, 1)) for start, end in found] == [(0.5, 2.0), (2.6, 3.4)]


def test_silence_is_no_speech() -> None:
    assert timing.speech(np.zeros(48_000, np.float32), 48_000) == []
    assert timing.speech(np.zeros(0, np.float32), 48_000) == []
    assert timing.speech(np.zeros(100, np.float32), 48_000) == []


def test_somebody_speaks_in_a_recording_of_speech(inputs: dict[str, Path]) -> None:
    samples, rate = read_recording(inputs["recording"], 60)
    found = timing.speech(samples, rate)
    assert 0.5 * samples.size / rate < sum(end - start for start, end in found) <= samples.size / rate


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40),
    st.lists(st.floats(0.06, 5), min_size=2, max_size=12).filter(lambda values: len(values) % 2 == 0),
)
def test_spans_are_in_order_within_speech_and_in_proportion(weights: list[int], lengths: list[float]) -> None:
    edges = np.cumsum(lengths)
    spans = [Span(*pair) for pair in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)]
    whole = sum(end - start for start, end in spans)
    found = timing.spread(weights, spans)
    assert len(found) == len(weights)
    assert found[0].start == pytest.approx(spans[0].start)
    assert found[-1].end == pytest.approx(spans[-1].end)
    for weight, (start, end) in zip(weights, found, strict=True):
        assert any(span.start - 1e-6 <= start <= span.end + 1e-6 for span in spans)
        assert any(span.start - 1e-6 <= end <= span.end + 1e-6 for span in spans)
        inside = sum(max(0.0, min(end, span.end) - max(start, span.start)) for span in spans)
        assert inside == pytest.approx(whole * weight / sum(weights), abs=1e-6)
    assert all(before.end <= after.start + 1e-6 for before, after in pairwise(found))


def test_a_mark_goes_with_its_letter_where_no_font_has_that() -> None:
    """A lone mark is drawn on a dotted circle, which looks like something."""
    face = captions.face_of(["abc"], (360, 640))
    assert face.words("e\u0301t\u00e9 a\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35b \u0e2a\u0e35") == ["e\u0301t\u00e9", "ab"]
