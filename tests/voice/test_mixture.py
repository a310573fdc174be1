"""What a mixture learns, on the kernel alone."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dihedral.data_plane.device import to_host
from dihedral.data_plane.kernels import mixture
from dihedral.data_plane.kernels.mixture import Mixture

CENTRES = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 9.0]])


def drawn(count: int = 400, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(centre, 1.0, (count, 2)) for centre in CENTRES])


def last(frames: Any, components: int, xp: Any = np, iterations: int = 40, seed: int = 1) -> tuple[float, Mixture]:
    *_, found = mixture.fit(frames, components, iterations, seed, 0.01, xp)
    return found


def test_a_mixture_finds_the_clusters_that_were_drawn(xp: Any) -> None:
    likelihood, fitted = last(xp.asarray(drawn()), 3, xp)
    found = to_host(fitted.means)
    assert max(np.abs(found - centre).sum(axis=1).min() for centre in CENTRES) < 0.3
    np.testing.assert_allclose(to_host(fitted.weights), 1 / 3, atol=0.05)
    np.testing.assert_allclose(to_host(fitted.variances), 1.0, atol=0.3)
    assert likelihood == pytest.approx(mixture.log_likelihood(xp.asarray(drawn()), fitted, xp), abs=1e-9)


def test_bic_asks_for_as_many_components_as_were_drawn(xp: Any) -> None:
    frames = xp.asarray(drawn())
    found = {}
    for components in (1, 2, 3, 4, 6):
        likelihood, fitted = last(frames, components, xp)
        found[components] = mixture.bic(likelihood, len(frames), fitted)
    assert min(found, key=lambda components: found[components]) == 3


def test_the_density_is_the_sum_that_the_formula_says(xp: Any) -> None:
    rng = np.random.default_rng(3)
    frames, means, variances = rng.normal(size=(50, 4)), rng.normal(size=(3, 4)), rng.uniform(0.5, 2, (3, 4))
    weights = np.array([0.2, 0.5, 0.3])
    normal = np.exp(-0.5 * ((frames[:, None] - means) ** 2 / variances).sum(axis=2))
    expected = np.log((weights * normal / np.sqrt((2 * np.pi * variances).prod(axis=1))).sum(axis=1)).mean()
    found = mixture.log_likelihood(xp.asarray(frames), Mixture(*map(xp.asarray, (weights, means, variances))), xp)
    assert found == pytest.approx(expected, abs=1e-12)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(8, 60),
    dimensions=st.integers(1, 6),
    components=st.integers(1, 8),
    repeats=st.integers(1, 5),
    offset=st.sampled_from([0.0, 1e4]),
)
def test_the_likelihood_never_falls_and_everything_stays_finite(
    seed: int, count: int, dimensions: int, components: int, repeats: int, offset: float
) -> None:
    """Also where frames are alike, dimensions constant, or components too many for what differs."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.normal(size=(count, dimensions)) * rng.integers(0, 2, dimensions) + offset, repeats, axis=0)
    rounds = list(mixture.fit(frames, components, 8, seed, 0.01, np))
    assert all(after >= before - 1e-9 for (before, _), (after, _) in pairwise(rounds))
    for _, fitted in rounds:
        assert all(np.isfinite(part).all() for part in fitted)
        assert (fitted.variances >= 0.01 * (1 - 1e-9)).all()
        assert fitted.weights.sum() == pytest.approx(1)


def test_a_fit_does_not_depend_on_where_the_frames_lie() -> None:
    (near, one), (far, other) = last(drawn(), 4), last(drawn() + 1e5, 4)
    assert far == pytest.approx(near, abs=1e-6)
    np.testing.assert_allclose(other.variances, one.variances, rtol=1e-6)


def test_the_same_seed_makes_the_same_mixture_and_blocks_change_nothing(
    xp: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = xp.asarray(drawn())
    likelihood, fitted = last(frames, 5, xp)
    again, same = last(frames, 5, xp)
    assert again == likelihood
    assert all(to_host(a).tobytes() == to_host(b).tobytes() for a, b in zip(fitted, same, strict=True))
    monkeypatch.setattr(mixture, "_BLOCK", 17)
    assert last(frames, 5, xp)[0] == pytest.approx(likelihood, abs=1e-9)
