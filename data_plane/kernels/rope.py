"""Rotary position embedding: pairs of a head's dimensions turn by an angle that grows with the position.

    (x₁, x₂) → (x₁·cos θ − x₂·sin θ,  x₂·cos θ + x₁·sin θ),   θ = position · f,   f = base^(−2i/d)   (Su et al., 2021, eq. 34)

Pairs are (i, i + d/2), as in Hugging Face's Llama, whose weights are permuted for it. The backward is the turn back, so it is
`rotate` with −sin. The frequencies are computed in float64 on the host. Expected error: 1e-6 in float32.
"""

import math
from typing import Any

import numpy as np

from data_plane.device import Array, ArrayModule


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
    """x: (batch, length, heads, head_dim) in the storage type -> the same, computed in float32."""
    half = x.shape[-1] // 2
    first, second = x[..., :half], x[..., half:]
    turned = xp.empty_like(x)
    turned[..., :half] = first * cos - second * sin
    turned[..., half:] = second * cos + first * sin
    return turned
