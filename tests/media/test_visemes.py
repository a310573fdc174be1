"""Mouth shapes and poses from phonemes in three alphabets, and from loudness."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dihedral.data_plane.media.visemes import SHAPES, Phoneme, by_loudness, is_vowel, poses, shapes_of, visemes


def timed(symbols: str | list[str], each: float = 0.1, start: float = 0.0) -> list[Phoneme]:
    return [Phoneme(symbol, start + at * each, start + (at + 1) * each) for at, symbol in enumerate(symbols)]


def shapes(symbols: str | list[str]) -> str:
    return "".join(each.shape for each in visemes(timed(symbols), len(symbols) * 0.1))


def test_every_alphabet_gives_the_same_shapes() -> None:
    assert (
        shapes(["b", "ˈ", "ɑ", "b", "z"]) == shapes(["B", "AA1", "B", "Z"]) == shapes(["b", "aa", "b", "z"]) == "ADAB"
    )
    assert shapes(["f", "ɑː", "ð", "ɚ"]) == shapes(["f", "aa", "dh", "er"]) == "GDBE"
    assert shapes(["w", "ɑː", "l", "i"]) == shapes(["W", "AA1", "L", "IY0"]) == "FDHB"


def test_a_diphthong_is_two_shapes() -> None:
    assert shapes(["I"]) == shapes(["aɪ"]) == shapes(["ay", "pau"])[:2] == "DB"
    assert shapes(["t", "W", "t"]) == "BDFB"  # misaki's capital letter, not ARPAbet's w


def test_pauses_are_at_rest_and_short_gaps_are_none() -> None:
    spoken = [Phoneme("ɑ", 0.3, 0.5), Phoneme("o", 0.55, 0.8), Phoneme(".", 0.8, 1.2), Phoneme("i", 1.2, 1.4)]
    found = visemes(spoken, 2.0)
    assert [(each.shape, round(each.start, 2), round(each.end, 2)) for each in found] == [
        ("X", 0.0, 0.3),
        ("D", 0.3, 0.55),
        ("E", 0.55, 0.8),
        ("X", 0.8, 1.2),
        ("B", 1.2, 1.4),
        ("X", 1.4, 2.0),
    ]


symbols = st.sampled_from([*"pbmfvtdszklwɹʃaɑæeɛiɪoɔuəʌAIWO .,ˈ", "aɪ", "tʃ", "pau", "AA1", "HH"])


@given(st.lists(st.tuples(symbols, st.floats(0, 3), st.floats(0, 0.4)), max_size=30), st.floats(0.05, 4))
def test_shapes_fill_the_time_whatever_the_phonemes_are(drawn: list[tuple[str, float, float]], seconds: float) -> None:
    spoken = [Phoneme(symbol, start, start + length) for symbol, start, length in drawn]
    found = visemes(spoken, seconds)
    assert found[0].start == 0
    assert found[-1].end == pytest.approx(seconds)
    for before, after in pairwise(found):
        assert before.end == after.start
        assert before.shape != after.shape
    moves = poses(spoken, seconds, 25, max(1, round(seconds * 25)))
    assert np.isfinite(moves).all()
    assert (moves[:, 0].min(), moves[:, 1].min()) >= (0, -1)
    assert moves[:, 0].max() <= 1


def words() -> tuple[list[Phoneme], float]:
    """ "Maybe tomorrow five foxes follow the old river home", said at a usual speed, a pause behind "tomorrow"."""
    first = ["m", "A", "b", "i", "t", "ə", "m", "ɑ", "ɹ", "O"]
    second = list("fIvfɑksəzfɑlOðiOldɹɪvɚhOm")
    lengths = {symbol: 0.13 if is_vowel(symbol) else 0.075 for symbol in {*first, *second}}
    spoken: list[Phoneme] = []
    at = 0.3
    for symbol in first:
        spoken.append(Phoneme(symbol, at, at + lengths[symbol]))
        at += lengths[symbol]
    at += 0.5
    for symbol in second:
        spoken.append(Phoneme(symbol, at, at + lengths[symbol]))
        at += lengths[symbol]
    return spoken, at + 0.4


@pytest.mark.parametrize("fps", [24, 25, 30, 60])
def test_the_opening_follows_the_vowels(fps: int) -> None:
    spoken, seconds = words()
    count = round(seconds * fps)
    moves = poses(spoken, seconds, fps, count)
    middles = (np.arange(count) + 0.5) / fps
    vowel = [any(is_vowel(each.symbol) and each.start <= at < each.end for each in spoken) for at in middles]
    assert np.corrcoef(moves[:, 0], vowel)[0, 1] > 0.85
    for each in spoken:  # closed where lips are, in at least one frame, however short it is
        if each.symbol in "pbm":
            assert moves[int((each.start + each.end) / 2 * fps), 0] == 0
    at_rest = (middles < 0.25) | (middles > seconds - 0.35)
    assert (moves[at_rest, 0] == 0).all()


def test_a_closure_shorter_than_a_frame_is_seen() -> None:
    spoken = [Phoneme("ɑ", 0.0, 0.5), Phoneme("p", 0.5, 0.515), Phoneme("ɑ", 0.515, 1.0)]
    assert poses(spoken, 1.0, 12, 12)[6, 0] == 0


def test_a_mouth_without_phonemes_opens_with_the_loudness() -> None:
    rate, rng = 16_000, np.random.default_rng(0)
    time = np.arange(2 * rate) / rate
    loud = np.where((time % 1.0) < 0.5, 1.0, 0.0)
    sound = (0.4 * np.sin(2 * np.pi * 150 * time) * loud + 1e-4 * rng.standard_normal(time.size)).astype(np.float32)
    moves = by_loudness(sound, rate, 25, 50)
    middles = (np.arange(50) + 0.5) / 25 % 1.0
    assert (moves[(middles > 0.06) & (middles < 0.44), 0] > 0.8).all()
    assert (moves[(middles > 0.56) & (middles < 0.94), 0] < 0.05).all()
    assert [each.shape for each in shapes_of(moves, 25)].count("D") == 2
    assert {each.shape for each in shapes_of(moves, 25)} <= set(SHAPES)
