"""Rotary position embedding: pairs of a head's dimensions turn by an angle that grows with the position.

    (x₁, x₂) → (x₁·cos θ − x₂·sin θ,  x₂·cos θ + x₁·sin θ),   θ = position · f,   f = base^(−2i/d)   (Su et al., 2021, eq. 34)

Pairs are (i, i + d/2), as in Hugging Face's Llama, whose weights are permuted for it. The backward is the turn back, so it is
`rotate` with −sin. The frequencies are computed in float64 on the host. Expected error: 1e-6 in float32, one rounding in 16 bits.

In CUDA a block has a token: the cosines of its position serve all its heads, and x is read and written once.
"""

import math
from typing import Any

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.cuda import fused, kernel, launch, pack_of, threads_of

SOURCE = r"""
extern "C" __global__ void rotate(
    T* x, const float* cosines, const float* sines, long long length, long long heads, long long half
) {
    const int packs = half / N;  // of half a head
    const long long position = blockIdx.x % length;
    x += blockIdx.x * heads * half * 2;
    cosines += position * half;
    sines += position * half;
    for (int i = threadIdx.x; i < heads * packs; i += blockDim.x) {
        const int at = i % packs;
        T* head = x + i / packs * half * 2;
        Pack<T> first = pack(head, at), second = pack(head + half, at);
        const Pack<float> c = pack(cosines, at), s = pack(sines, at);
        for (int j = 0; j < N; j++) {
            const float one = float(first.value[j]), two = float(second.value[j]);
            first.value[j] = T(one * c.value[j] - two * s.value[j]);
            second.value[j] = T(two * c.value[j] + one * s.value[j]);
        }
        pack(head, at) = first;
        pack(head + half, at) = second;
    }
}
"""


def frequencies(head_dim: int, base: float, scaling: dict[str, Any] | None) -> Array:
    """(head_dim / 2,) float64, radians a position.

    `scaling`: None, {"rope_type": "linear", "factor"} (Chen et al., 2023) or {"rope_type": "llama3", "factor", "low_freq_factor",
    "high_freq_factor", "original_max_position_embeddings"} (Llama 3.1): wavelengths longer than the original context / low are
    divided by the factor, those shorter than it / high stay, between them it is blended.
    """
    plain: Array = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    if scaling is None:
        return plain
    slow = plain / scaling["factor"]
    if scaling["rope_type"] == "linear":
        return slow
    turns = scaling["original_max_position_embeddings"] * plain / (2 * math.pi)  # within the original context
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return blend * plain + (1 - blend) * slow


def tables(length: int, turning: Array, xp: ArrayModule) -> tuple[Array, Array]:
    """(cos, sin), each (length, 1, head_dim / 2) float32; `turning`: of `frequencies`."""
    angles = np.outer(np.arange(length), turning)[:, None, :]
    return xp.asarray(np.cos(angles).astype(np.float32)), xp.asarray(np.sin(angles).astype(np.float32))


def rotate(x: Array, cos: Array, sin: Array, xp: ArrayModule) -> Array:
    """x: (batch, length, heads, head_dim) in the storage type -> the same, computed in float32; x is overwritten where it has no gaps."""
    half = x.shape[-1] // 2
    if fused(xp):
        x = xp.ascontiguousarray(x)
        batch, length, heads, _ = x.shape
        pack = pack_of(half, x)
        run = kernel(xp, SOURCE, "rotate", x.dtype.name, pack)
        launch(run, (batch * length,), (threads_of(heads * half, pack),), x, cos, sin, length, heads, half)
        return x
    first, second = x[..., :half].astype(xp.float32), x[..., half:].astype(xp.float32)
    x[..., :half] = first * cos - second * sin
    x[..., half:] = second * cos + first * sin
    return x
