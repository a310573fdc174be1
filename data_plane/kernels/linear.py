"""Matrix products of a frozen weight and of its low-rank change, forward and backward.

    y = x·Wᵀ + s·(x·Aᵀ)·Bᵀ,   s = α/r                                   (Hu et al., "LoRA", 2021, §4.1)
    dx = dy·W + s·(dy·B)·A,   dA = s·(dy·B)ᵀ·x,   dB = s·dyᵀ·(x·Aᵀ),   dW = dyᵀ·x

x: (rows, inputs), y: (rows, outputs) in the storage type; W: (outputs, inputs) in the storage type; A: (r, inputs) and
B: (outputs, r) float32 masters, cast for the product. Every gradient of a weight is float32. Products of 16-bit arrays
accumulate in float32: cuBLAS does by default, and NumPy, which has no such product, is given float32 copies.
Expected error: against float64 about 1e-6 of the largest value times √inputs; 16-bit storage rounds results to its own precision.
"""

from dihedral.data_plane.device import Array, ArrayModule


def product(a: Array, b: Array, xp: ArrayModule) -> Array:
    """(n, k)·(k, m) in the type of `a`, accumulated in float32."""
    if xp.__name__ != "numpy" or a.dtype == xp.float32:
        return a @ b
    return (a.astype(xp.float32) @ b.astype(xp.float32)).astype(a.dtype)


def wide_product(a: Array, b: Array, xp: ArrayModule) -> Array:
    """(n, k)·(k, m) as float32, for gradients of weights, which 16 bits would round away."""
    return a.astype(xp.float32, copy=False) @ b.astype(xp.float32, copy=False)


def forward(x: Array, weight: Array, low: tuple[Array, Array] | None, scale: float, xp: ArrayModule) -> Array:
    """`low`: (A, B), or None where nothing is added to the weight."""
    y = product(x, weight.T, xp)
    if low is not None:
        a, b = (part.astype(x.dtype, copy=False) for part in low)
        y += product(product(x, a.T, xp) * scale, b.T, xp)
    return y


def backward(dy: Array, weight: Array, low: tuple[Array, Array] | None, scale: float, xp: ArrayModule) -> Array:
    """dx, in the type of dy."""
    dx = product(dy, weight, xp)
    if low is not None:
        a, b = (part.astype(dy.dtype, copy=False) for part in low)
        dx += product(product(dy, b, xp) * scale, a, xp)
    return dx


def low_rank_gradients(dy: Array, x: Array, a: Array, b: Array, scale: float, xp: ArrayModule) -> tuple[Array, Array]:
    """(dA, dB), float32."""
    inner = product(x, a.T.astype(x.dtype, copy=False), xp)  # (rows, r)
    back = product(dy, b.astype(dy.dtype, copy=False), xp)  # (rows, r)
    return scale * wide_product(back.T, x, xp), scale * wide_product(dy.T, inner, xp)


def weight_gradient(dy: Array, x: Array, xp: ArrayModule) -> Array:
    """dW, float32."""
    return wide_product(dy.T, x, xp)
