"""A low-rank adapter on a frozen map of picture patches (LoRA), trained with Adam.

The frozen base is a seeded random projection W that loses three quarters of what it is shown. It is shown a patch x
without its colours, g(x) (every channel the luma), and its target is x itself, so the adapter has to learn both what W
loses and which colours this picture gives to which light:

    y = m + (W + (α/r)·B·A)·(g(x) − g(m)),   minimise mean (x − y)²,   m the mean colour of the training pictures.

B·A is the update of Hu et al., "LoRA" (2021), §4.1, with its initial values (B zero, A Gaussian): the first step starts
at the frozen base. The best B·A is a reduced-rank regression, so the problem is well posed; Adam comes close to it in a
few hundred mini-batches. Predicting colour rather than copying the patch is what makes adapters of different pictures
different: copying has nearly the same answer for every picture.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.patches import desaturate, luma

KEPT = 0.25  # share of the dimensions that the frozen projection keeps


class Adapter(NamedTuple):
    """a: (rank, dim), b: (dim, rank), mean: (3,), all float32; dim = patch·patch·3."""

    a: Array
    b: Array
    mean: Array
    alpha: float
    patch: int
    base_seed: int

    @property
    def scale(self) -> float:
        return self.alpha / float(self.a.shape[0])


def base_map(dim: int, seed: int, xp: ArrayModule) -> Array:
    """(dim, dim) float32: Q·Qᵀ, Q the basis of a random subspace. Drawn on the host: equal on any device."""
    gaussian = np.random.default_rng(seed).standard_normal((dim, max(1, int(dim * KEPT))))
    basis = np.linalg.qr(gaussian)[0]
    return xp.asarray((basis @ basis.T).astype(np.float32))


def new_adapter(
    mean: Array, patch: int, rank: int, alpha: float, base_seed: int, seed: int, xp: ArrayModule
) -> Adapter:
    """An adapter that changes nothing yet: B is zero."""
    dim = patch * patch * 3
    a = np.random.default_rng(seed).standard_normal((rank, dim)) / np.sqrt(dim)
    return Adapter(
        a=xp.asarray(a.astype(np.float32)),
        b=xp.zeros((dim, rank), dtype=xp.float32),
        mean=xp.asarray(mean, dtype=xp.float32),
        alpha=alpha,
        patch=patch,
        base_seed=base_seed,
    )


def see(patches: Array, adapter: Adapter, xp: ArrayModule) -> Array:
    """(n, dim) -> (n, dim): g(x) − g(m), what the map is shown."""
    return desaturate(patches, xp) - luma(adapter.mean, xp)


def predict(patches: Array, base: Array, adapter: Adapter, xp: ArrayModule) -> Array:
    """(n, dim) -> (n, dim): y of the module's formula."""
    seen = see(patches, adapter, xp)
    change = (seen @ adapter.a.T) @ adapter.b.T * adapter.scale
    return seen @ base.T + change + xp.tile(adapter.mean, adapter.patch**2)


def error(patches: Array, base: Array, adapter: Adapter, xp: ArrayModule) -> float:
    """Mean squared error per value over the patches (n, dim)."""
    return float(((patches - predict(patches, base, adapter, xp)) ** 2).mean())


def train(
    patches: Array,
    base: Array,
    adapter: Adapter,
    *,
    steps: int,
    batch: int,
    learning_rate: float,
    seed: int,
    window: int,
    xp: ArrayModule,
) -> Iterator[tuple[int, float, Adapter]]:
    """Yields `(steps done, mean loss of the last window, adapter)` every `window` steps and after the last one.

    patches: (n, dim) float32. The frozen part is computed once; a step costs four thin products. The loss stays on
    the device within a window: reading it every step would stall a GPU.
    """
    seen = see(patches, adapter, xp)
    missing = patches - xp.tile(adapter.mean, adapter.patch**2) - seen @ base.T  # what the adapter has to add
    a, b, scale = adapter.a.copy(), adapter.b.copy(), adapter.scale
    moments = [xp.zeros_like(a), xp.zeros_like(a), xp.zeros_like(b), xp.zeros_like(b)]
    rng = np.random.default_rng(seed)
    batch = min(batch, len(patches))
    total = xp.zeros((), dtype=xp.float32)
    since = 0
    for step in range(1, steps + 1):
        chosen = xp.asarray(rng.integers(0, len(patches), size=batch))
        x, wanted = seen[chosen], missing[chosen]  # (batch, dim)
        inner = x @ a.T  # (batch, rank)
        wrong = inner @ b.T * scale - wanted  # (batch, dim)
        total += (wrong**2).mean()
        factor = 2 * scale / wrong.size  # of d mean(wrong²) / d(B·A)
        grad_b = factor * (wrong.T @ inner)  # (dim, rank)
        grad_a = factor * ((wrong @ b).T @ x)  # (rank, dim)
        rate = learning_rate * (1 - (step - 1) / steps)  # linear decay: the last steps average the mini-batch noise out
        _adam(a, grad_a, moments[0], moments[1], step, rate, xp)
        _adam(b, grad_b, moments[2], moments[3], step, rate, xp)
        since += 1
        if since == window or step == steps:
            yield step, float(total) / since, adapter._replace(a=a.copy(), b=b.copy())
            total = xp.zeros((), dtype=xp.float32)
            since = 0


def _adam(x: Array, grad: Array, first: Array, second: Array, step: int, rate: float, xp: ArrayModule) -> None:
    """Updates x in place by one step: Kingma & Ba, "Adam" (2015), algorithm 1, with its default β₁ = 0.9, β₂ = 0.999, ε = 1e-8."""
    first += 0.1 * (grad - first)
    second += 0.001 * (grad * grad - second)
    x -= rate * (first / (1 - 0.9**step)) / (xp.sqrt(second / (1 - 0.999**step)) + 1e-8)
