"""Likelihood ratios and the equal error rate, on numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dihedral.data_plane.voice.verification import equal_error, ratios

some = st.lists(st.integers(-50, 50), min_size=1, max_size=40).map(lambda found: np.array(found, dtype=np.float64))


def test_against_the_others_a_score_is_the_ratio_to_their_mean_likelihood() -> None:
    scores = ratios(np.log(np.array([[8.0, 2.0, 6.0]])), None)
    np.testing.assert_allclose(scores, np.log([[8 / 4, 2 / 7, 6 / 5]]))


def test_likelihoods_that_no_float_could_hold_have_ratios() -> None:
    np.testing.assert_allclose(ratios(np.array([[-5000.0, -5100.0]]), None), [[100.0, -100.0]])


def test_against_a_background_a_score_is_the_ratio_to_it() -> None:
    scores = ratios(np.array([[-10.0, -12.0], [-9.0, -8.0]]), np.array([-11.0, -11.0]))
    np.testing.assert_allclose(scores, [[1.0, -1.0], [2.0, 3.0]])


@pytest.mark.parametrize(
    ("own", "foreign", "rate", "threshold"),
    [
        ([2.0, 3.0], [0.0, 1.0], 0.0, 1.5),  # apart: the middle of the gap
        ([0.0, 1.0], [2.0, 3.0], 1.0, 1.5),  # the wrong way round
        ([1.0, 3.0], [0.0, 2.0], 0.5, 1.5),
        ([1.0], [1.0], 0.5, 1.0),  # nothing tells them apart: between all and none
        ([1.0, 2.0, 3.0], [0.0, 1.5], 1 / 3, 1.25 + 0.5 / 3),  # one share alone moves where they cross
        ([1.0, 2.0], [0.0, 1.0], 0.25, 1.0),  # both do: scores that are alike
    ],
)
def test_the_equal_error_of_a_few_scores(own: list[float], foreign: list[float], rate: float, threshold: float) -> None:
    found = equal_error(np.array(own), np.array(foreign))
    assert found.rate == pytest.approx(rate)
    assert found.threshold == pytest.approx(threshold)


@given(own=some, foreign=some)
def test_an_equal_error_lies_between_what_the_thresholds_around_it_give(own: np.ndarray, foreign: np.ndarray) -> None:
    """Counted anew at every threshold, however slowly."""
    found = equal_error(own, foreign)
    points = [((own < at).mean(), (foreign >= at).mean()) for at in [*np.unique([*own, *foreign]), np.inf]]
    before = max((point for point in points if point[0] <= point[1]), key=lambda point: point[0] - point[1])
    after = min((point for point in points if point[0] >= point[1]), key=lambda point: point[0] - point[1])
    assert before[0] - 1e-12 <= found.rate <= after[0] + 1e-12
    assert after[1] - 1e-12 <= found.rate <= before[1] + 1e-12
    assert found.threshold == pytest.approx(np.clip(found.threshold, min(*own, *foreign), max(*own, *foreign)))


@given(own=some, foreign=some, scale=st.floats(0.1, 10), offset=st.floats(-5, 5))
def test_it_is_the_same_on_another_scale_and_mirrored_when_the_kinds_are_swapped(
    own: np.ndarray, foreign: np.ndarray, scale: float, offset: float
) -> None:
    rate = equal_error(own, foreign).rate
    assert equal_error(own * scale + offset, foreign * scale + offset).rate == pytest.approx(rate)
    assert equal_error(-foreign, -own).rate == pytest.approx(rate)
    assert equal_error(foreign, own).rate == pytest.approx(1 - rate)
