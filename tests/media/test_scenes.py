"""Scenes in time, the camera's way, and the frames that come of both."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dihedral.data_plane.kernels import colour
from dihedral.data_plane.kernels.frame import render
from dihedral.data_plane.kernels.pyramid import Pyramid, pyramid
from dihedral.data_plane.media import scenes
from dihedral.data_plane.media.scenes import Look, Shot, View
from dihedral.data_plane.media.speech_timing import Span

SIZE = (48, 64)
PLAIN = Look(grain=0.0, seed=0, levels=None, pages=[])
STILL = (View(0.5, 0.5, 1.0), View(0.5, 0.5, 1.0))


def grey(value: float) -> Pyramid:
    return pyramid(colour.to_planes(np.full((60, 80, 3), value, dtype=np.float32), np), 1.0, 1.25, np)


def rendered(shots: list[Shot], picture: Any, count: int, fps: int = 10, look: Look = PLAIN) -> Any:
    stage = scenes.stage_of(look, SIZE, np)
    return np.stack([render(each, stage, np) for each in scenes.frames(shots, picture, look, count, fps, stage, np)])


def luma(frames: Any) -> Any:
    """Mean of each frame's Y′ in 0..1."""
    return (frames[:, : SIZE[0]].mean(axis=(1, 2)) - 16) / 219


def test_lengths_are_kept_and_the_rest_is_shared() -> None:
    assert scenes.spans_of([None, 2.0, None], [1, 1, 3], 6.0) == [Span(0, 1), Span(1, 3), Span(3, 6)]
    assert scenes.spans_of([1.0, 2.0], [1, 1], 3.0) == [Span(0, 1), Span(1, 3)]


@pytest.mark.parametrize(
    ("lengths", "seconds", "words"),
    [
        ([5.0, None], 5.0, "5 s are given to some scenes, nothing of 5 s is left for the other 1"),
        ([1.0, 2.0], 4.0, "the scenes last 3 s, the video 4 s"),
        ([1.0, 2.0], 2.0, "the scenes last 3 s, the video 2 s"),
    ],
)
def test_lengths_that_do_not_fit_are_refused(lengths: list[float | None], seconds: float, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        scenes.spans_of(lengths, [1, 1], seconds)


def test_a_scene_goes_on_under_the_fade_of_the_next_one() -> None:
    spans = [Span(0, 2), Span(2, 3), Span(3, 8)]
    shots = scenes.shots_of(spans, [0.0, 5.0, 0.5], [STILL] * 3)
    assert [(shot.start, shot.end, shot.fade) for shot in shots] == [(0, 3, 0), (2, 3.5, 1), (3, 8, 0.5)]


def test_a_cross_fade_goes_gently_from_one_picture_to_the_other() -> None:
    shots = scenes.shots_of([Span(0, 2), Span(2, 4)], [0.0, 1.0], [STILL] * 2)
    light = luma(rendered(shots, lambda at: grey((0.2, 0.8)[at]), 40))
    np.testing.assert_allclose(light[:20], 0.2, atol=0.01)
    np.testing.assert_allclose(light[30:], 0.8, atol=0.01)
    steps = np.diff(light[19:31])
    assert (steps > 0).all()
    assert steps[:2].max() < steps.max() / 1.5 > steps[-2:].max()
    assert light[24] + light[25] == pytest.approx(1.0, abs=0.02)


def test_the_first_scene_fades_in_from_black() -> None:
    shots = scenes.shots_of([Span(0, 2)], [1.0], [STILL])
    light = luma(rendered(shots, lambda at: grey(0.6), 20))
    assert light[0] < 0.01
    np.testing.assert_allclose(light[10:], 0.6, atol=0.01)


def test_pictures_are_made_when_they_are_seen_and_two_are_kept_at_most() -> None:
    made: list[int] = []

    def draw(at: int) -> Any:
        made.append(at)
        return grey(at / 6)

    shots = scenes.shots_of([Span(at, at + 1) for at in range(6)], [0.0] + [0.4] * 5, [STILL] * 6)
    frames = scenes.frames(shots, draw, PLAIN, 60, 10, scenes.stage_of(PLAIN, SIZE, np), np)
    for number, _ in enumerate(frames):
        assert len(made) == number // 10 + 1
    assert made == list(range(6))


VIEWS = st.builds(View, st.floats(0, 1), st.floats(0, 1), st.floats(1, 8))


@given(VIEWS, VIEWS, st.integers(16, 3000), st.integers(16, 3000))
def test_the_camera_stays_inside_the_picture_and_moves_gently(
    begin: View, finish: View, height: int, width: int
) -> None:
    shot = Shot(0, 1, 0, begin, finish)
    windows = [scenes.window_of(along, shot, (height, width), SIZE) for along in np.linspace(0, 1, 33).tolist()]
    for window in windows:
        for axis, length in ((0, height), (1, width)):
            assert window[axis] >= -1e-6 * length
            assert window[axis] + SIZE[axis] * window.scale <= length * (1 + 1e-6)
    speeds = np.abs(np.diff(np.log([window.scale for window in windows])))
    assert speeds[0] <= speeds[16] + 1e-9
    assert speeds[-1] <= speeds[16] + 1e-9


def test_default_views_move_in_turns() -> None:
    for number in range(4):
        begin, finish = scenes.default_views(number)
        assert (begin.zoom < finish.zoom) == (number % 2 == 0)
        assert abs(begin.x - finish.x) > 0.2


def test_the_spectrum_stands_low_and_follows_its_levels() -> None:
    levels = np.zeros((2, scenes.BAR_COUNT), dtype=np.float32)
    levels[1] = 1
    shots = scenes.shots_of([Span(0, 1)], [0.0], [STILL])
    bare = rendered(shots, lambda at: grey(0.3), 2).astype(int)
    shown = rendered(shots, lambda at: grey(0.3), 2, look=PLAIN._replace(levels=levels)).astype(int)
    change = np.abs(shown - bare)[:, : SIZE[0]]
    assert change[:, : SIZE[0] * 4 // 5].max() == 0
    assert change[1].sum() > 3 * change[0].sum() > 0


def test_grain_moves_and_is_the_same_for_a_seed() -> None:
    shots = scenes.shots_of([Span(0, 1)], [0.0], [STILL])
    noisy = [rendered(shots, lambda at: grey(0.5), 4, look=PLAIN._replace(grain=1.0, seed=seed)) for seed in (3, 3, 4)]
    assert (noisy[0] == noisy[1]).all()
    assert (noisy[0] != noisy[2]).any()
    first = noisy[0][:, : SIZE[0]].astype(float)
    assert first.std(axis=(1, 2)) == pytest.approx([scenes.GRAIN_CODES] * 4, rel=0.15)
    assert all(abs(np.corrcoef(before.ravel(), after.ravel())[0, 1]) < 0.1 for before, after in pairwise(first))
