"""A Gaussian mixture with diagonal covariances, fitted by expectation–maximisation.

Bishop, "Pattern Recognition and Machine Learning" (2006), §9.2.2. The variance floor keeps the rise of the likelihood:
per dimension the M-step's objective has one maximum over the variance, so clipping gives the best allowed value.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from data_plane.device import Array, ArrayModule


class Mixture(NamedTuple):
    """weights: (k,), means: (k, d), variances: (k, d), float32 or float64."""

    weights: Array
    means: Array
    variances: Array


def log_likelihood(frames: Array, mixture: Mixture, xp: ArrayModule) -> float:
    """Mean natural-log density per frame; frames: (n, d)."""
    return float(_log_sum(_log_joint(frames, mixture, xp), xp).mean())


def fit(
    frames: Array, components: int, iterations: int, seed: int, floor: float, xp: ArrayModule
) -> Iterator[tuple[float, Mixture]]:
    """Yields `(mean log-likelihood, mixture)` after each iteration; the first figure never falls.

    frames: (n, d) float64, n ≥ components: float32 sums lose the last of the rise. floor: the least variance.
    """
    mixture = _first(frames, components, seed, floor, xp)
    joint = _log_joint(frames, mixture, xp)  # (n, k)
    for _ in range(iterations):
        share = xp.exp(joint - _log_sum(joint, xp)[:, None])  # responsibilities (n, k)
        count = share.sum(axis=0) + 1e-12  # (k,); never zero, so an empty component stays finite
        means = (share.T @ frames) / count[:, None]
        variances = xp.maximum((share.T @ frames**2) / count[:, None] - means**2, floor)
        mixture = Mixture(count / count.sum(), means, variances)
        joint = _log_joint(frames, mixture, xp)
        yield float(_log_sum(joint, xp).mean()), mixture


def _first(frames: Array, components: int, seed: int, floor: float, xp: ArrayModule) -> Mixture:
    """k-means++ seeding (Arthur & Vassilvitskii 2007): each next mean a frame drawn by its squared distance."""
    rng = np.random.default_rng(seed)
    means = frames[int(rng.integers(len(frames)))][None]  # (1, d)
    nearest = ((frames - means[0]) ** 2).sum(axis=1)
    while len(means) < components:
        reach = xp.cumsum(nearest)
        chosen = int(xp.searchsorted(reach, xp.asarray([rng.random()]) * reach[-1])[0])
        means = xp.concatenate([means, frames[min(chosen, len(frames) - 1)][None]])
        nearest = xp.minimum(nearest, ((frames - means[-1]) ** 2).sum(axis=1))
    spread = xp.maximum(frames.var(axis=0), floor)
    weights = xp.full(components, 1 / components, dtype=frames.dtype)
    return Mixture(weights, means, xp.repeat(spread[None], components, axis=0))


def _log_joint(frames: Array, mixture: Mixture, xp: ArrayModule) -> Array:
    """(n, d) -> (n, k): log(weight · density), the square opened so that it is two products and not (n, k, d)."""
    precision = 1 / mixture.variances
    square = (
        frames**2 @ precision.T
        - 2 * frames @ (mixture.means * precision).T
        + (mixture.means**2 * precision).sum(axis=1)
    )
    normal = frames.shape[1] * float(np.log(2 * np.pi)) + xp.log(mixture.variances).sum(axis=1)
    return xp.log(mixture.weights) - 0.5 * (normal + square)


def _log_sum(joint: Array, xp: ArrayModule) -> Array:
    """(n, k) -> (n,): log Σ exp, the greatest taken out first so that nothing overflows."""
    top = joint.max(axis=1)
    return top + xp.log(xp.exp(joint - top[:, None]).sum(axis=1))
