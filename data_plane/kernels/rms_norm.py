"""Root-mean-square normalisation, forward and backward.

    n = x / √(mean x² + ε),   y = w ⊙ n                                  (Zhang & Sennrich, 2019, eq. 4)
    g = w ⊙ dy,   dx = (g − n·mean(g ⊙ n)) / √(mean x² + ε),   dw = Σ dy ⊙ n

x, y: (rows, width) in the storage type; w: (width,). Computed in float32. Expected error: 1e-6 relative in float32.
"""

from data_plane.device import Array, ArrayModule


def forward(x: Array, weight: Array, epsilon: float, xp: ArrayModule) -> tuple[Array, Array]:
    """(y, inverse root (rows, 1) float32, which `backward` needs)."""
    wide = x.astype(xp.float32, copy=False)
    inverse = 1 / xp.sqrt((wide * wide).mean(axis=-1, keepdims=True) + epsilon)
    return (wide * inverse).astype(x.dtype, copy=False) * weight, inverse


def backward(dy: Array, x: Array, weight: Array, inverse: Array, xp: ArrayModule) -> Array:
    """dx, in the type of x."""
    normed = x.astype(xp.float32, copy=False) * inverse
    g = dy.astype(xp.float32, copy=False) * weight.astype(xp.float32, copy=False)
    return (inverse * (g - normed * (g * normed).mean(axis=-1, keepdims=True))).astype(x.dtype, copy=False)


def weight_gradient(dy: Array, x: Array, inverse: Array, xp: ArrayModule) -> Array:
    """dw: (width,) float32."""
    return (dy.astype(xp.float32, copy=False) * (x.astype(xp.float32, copy=False) * inverse)).sum(axis=0)
