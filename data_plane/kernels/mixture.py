"""A Gaussian mixture with diagonal covariances, fitted by expectation–maximisation from a k-means start.

    log p(x) = log Σ_k w_k · N(x; m_k, v_k),    log w_k N = x · (m_k/v_k) − x² · 1/(2 v_k) + c_k

Bishop, "Pattern Recognition and Machine Learning" (2006), §9.2.2. With the rows x, x² and 1 beside each other (`rows_of`) a step is two
matrix products over blocks of frames: parameters × rows gives the log densities, responsibilities × rows all sums that the
next parameters are made of. Blocks keep memory flat; components come first, frames last, so the sum
over components is one of long rows.

Frames are centred first, so that squares lose no digits. The variance floor keeps the rise of the likelihood: per dimension the M-step's
objective has one maximum over the variance, so clipping gives the best allowed value.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule

STARTS = 4  # of k-means, of which the tightest is taken: one alone ends in a bad corner too often
LLOYD_ROUNDS = 30  # at most, of each
CLUSTERED = 1 << 14  # frames that k-means looks at, evenly spaced: more would find the same clusters
_BLOCK = 1 << 15  # frames: 8 MiB of densities for 32 components; products of fewer make threads wait for each other
_NOBODY = 1e-10  # frames that an empty component has, so that it stays finite


class Mixture(NamedTuple):
    """weights: (k,), means: (k, d), variances: (k, d), float32 or float64."""

    weights: Array
    means: Array
    variances: Array


def log_likelihood(frames: Array, mixture: Mixture, xp: ArrayModule) -> float:
    """Mean natural-log density per frame; frames: (n, d), the mixture in the same type."""
    return _expectation(rows_of(frames, xp), mixture, xp)[1]


def bic(likelihood: float, count: int, mixture: Mixture) -> float:
    """Bayesian information criterion (Schwarz 1978): −2 n·L + p·ln n, the less the better.

    likelihood: L, mean per frame; count: n frames. p = k − 1 weights and k·d means and variances each.
    """
    components, dimensions = mixture.means.shape
    free = components - 1 + 2 * components * dimensions
    return float(-2 * likelihood * count + free * np.log(count))


def fit(
    frames: Array, components: int, iterations: int, seed: int, floor: float | Array, xp: ArrayModule
) -> Iterator[tuple[float, Mixture]]:
    """Yields `(mean log-likelihood, mixture)` after each iteration; the first figure never falls.

    frames: (n, d) float64, n ≥ components: float32 sums lose the last of the rise. floor: the least variance, > 0, of all
    dimensions or (d,) of each. The start is k-means++ and Lloyd's rounds, by Euclidean distance; `seed` draws the first means, nothing
    else is random.
    """
    centre = frames.mean(axis=0)
    rows = rows_of(frames - centre, xp)
    for likelihood, fitted in improve(rows, _clustered(rows, components, seed, floor, xp), iterations, floor, xp):
        yield likelihood, fitted._replace(means=centre + fitted.means)


def improve(
    rows: Array, mixture: Mixture, iterations: int, floor: float | Array, xp: ArrayModule
) -> Iterator[tuple[float, Mixture]]:
    """Yields as `fit` does, from a mixture that is given, on `rows_of` the frames as they are."""
    sums, _ = _expectation(rows, mixture, xp)
    for _ in range(iterations):
        mixture = _maximisation(sums, floor, xp)
        sums, likelihood = _expectation(rows, mixture, xp)
        yield likelihood, mixture


def rows_of(frames: Array, xp: ArrayModule) -> Array:
    """(n, d) -> (2d + 1, n): x, x² and 1."""
    turned = frames.T
    return xp.concatenate([turned, turned**2, xp.ones((1, len(frames)), dtype=frames.dtype)])


def _expectation(rows: Array, mixture: Mixture, xp: ArrayModule) -> tuple[Array, float]:
    """(2d + 1, n) -> responsibilities times rows (k, 2d + 1), and the mean log-likelihood per frame."""
    parameters = _natural(mixture, xp)
    sums, total = xp.zeros(parameters.shape, dtype=rows.dtype), xp.zeros((), dtype=rows.dtype)
    for start in range(0, rows.shape[1], _BLOCK):
        some = rows[:, start : start + _BLOCK]
        joint = parameters @ some  # (k, block): log(weight · density)
        top = joint.max(axis=0)  # taken out first, so that nothing overflows
        joint -= top
        xp.exp(joint, out=joint)
        density = joint.sum(axis=0)
        joint /= density
        sums += joint @ some.T
        total += (xp.log(density) + top).sum()
    return sums, float(total) / rows.shape[1]


def _natural(mixture: Mixture, xp: ArrayModule) -> Array:
    """(k, 2d + 1): what the rows are multiplied with."""
    precision = 1 / mixture.variances
    dimensions = precision.shape[1]
    normal = dimensions * float(np.log(2 * np.pi)) + xp.log(mixture.variances).sum(axis=1)
    constant = xp.log(mixture.weights) - 0.5 * (normal + (mixture.means**2 * precision).sum(axis=1))
    return xp.concatenate([mixture.means * precision, -0.5 * precision, constant[:, None]], axis=1)


def _maximisation(sums: Array, floor: float | Array, xp: ArrayModule) -> Mixture:
    dimensions = sums.shape[1] // 2
    count = sums[:, -1] + _NOBODY
    means = sums[:, :dimensions] / count[:, None]
    variances = xp.maximum(sums[:, dimensions:-1] / count[:, None] - means**2, floor)
    return Mixture(count / count.sum(), means, variances)


def _clustered(rows: Array, components: int, seed: int, floor: float | Array, xp: ArrayModule) -> Mixture:
    """The tightest of a few runs of k-means (Lloyd 1982); each cluster is a component."""
    some = xp.ascontiguousarray(rows[:, :: -(-rows.shape[1] // CLUSTERED)])
    rng = np.random.default_rng(seed)
    runs = [_lloyd(some, _seeds(some, components, rng, xp), xp) for _ in range(STARTS if components > 1 else 1)]
    return _maximisation(max(runs, key=lambda run: run[1])[0], floor, xp)


def _lloyd(rows: Array, means: Array, xp: ArrayModule) -> tuple[Array, float]:
    """Returns the last answer of `_nearest`, when no frame moves any more or the rounds are over."""
    sums, tightness = _nearest(rows, means, xp)
    for _ in range(LLOYD_ROUNDS):
        count = sums[:, -1:]
        means = xp.where(count > 0, sums[:, : means.shape[1]] / xp.maximum(count, 1), means)
        before = tightness
        sums, tightness = _nearest(rows, means, xp)
        if tightness <= before:
            break
    return sums, tightness


def _seeds(rows: Array, components: int, rng: np.random.Generator, xp: ArrayModule) -> Array:
    """(components, d): each next mean a frame drawn by its squared distance from those before; of a few draws the one that
    leaves the least distance in all, which spares the fit from most of the bad starts.
    """
    count, dimensions = rows.shape[1], rows.shape[0] // 2
    points, norms = rows[:dimensions], rows[dimensions:-1].sum(axis=0)
    draws = 2 + int(np.log(components))
    means = points[:, [int(rng.integers(count))]].T
    nearest = _distances(points, norms, means, xp)[0]
    while len(means) < components:
        reach = xp.cumsum(nearest)
        drawn = xp.searchsorted(reach, xp.asarray(rng.random(draws)) * reach[-1])
        candidates = points[:, xp.minimum(drawn, count - 1)].T
        left = xp.minimum(_distances(points, norms, candidates, xp), nearest)
        best = int(left.sum(axis=1).argmin())
        means, nearest = xp.concatenate([means, candidates[best : best + 1]]), left[best]
    return means


def _distances(points: Array, norms: Array, means: Array, xp: ArrayModule) -> Array:
    """points (d, n), their squared norms (n,), means (k, d) -> squared distances (k, n)."""
    return xp.maximum(norms - 2 * (means @ points) + (means**2).sum(axis=1)[:, None], 0)


def _nearest(rows: Array, means: Array, xp: ArrayModule) -> tuple[Array, float]:
    """The rows summed over the frames that are nearest to each mean, (k, 2d + 1), and how near they are:

    Σ_x max_k (x · m_k − ½ m_k²) = ½ Σ_x x² − ½ Σ_x min_k |x − m_k|²,  so the greater, the tighter.
    """
    components, dimensions = means.shape
    half = -0.5 * (means**2).sum(axis=1)[:, None]
    sums, near = xp.zeros((components, rows.shape[0]), dtype=rows.dtype), xp.zeros((), dtype=rows.dtype)
    for start in range(0, rows.shape[1], _BLOCK):
        some = rows[:, start : start + _BLOCK]
        nearness = means @ some[:dimensions] + half
        sums += (nearness.argmax(axis=0) == xp.arange(components)[:, None]).astype(rows.dtype) @ some.T
        near += nearness.max(axis=0).sum()
    return sums, float(near)
