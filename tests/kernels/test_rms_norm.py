"""The fused RMS norm against NumPy's body and against the formula in float64."""

from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from dihedral.data_plane.kernels import rms_norm
from tests.kernels.comparing import APART, Drawn, apart, drawn, nothing_else_was_written, storages, wide, widths

EPSILON = 1e-5


@drawn
@given(st.integers(1, 5), widths, storages, st.integers(0, 99))
@example(rows=1, width=8200, storage="float16", seed=0)  # more than a block's threads
@example(rows=1, width=1030, storage="float32", seed=0)  # the same one by one
def test_forward_and_backward_are_those_of_numpy_and_of_the_formula(
    xp: Any, rows: int, width: int, storage: str, seed: int
) -> None:
    draw = Drawn(seed, storage)
    x, dy, weight = draw.normal(rows, width), draw.normal(rows, width), draw.normal(width)
    there = [xp.asarray(each) for each in (x, dy, weight)]
    y, inverse = rms_norm.forward(there[0], there[2], EPSILON, xp)
    dx = rms_norm.backward(there[1], there[0], there[2], inverse, xp)
    assert y.dtype == dx.dtype == x.dtype
    assert inverse.dtype == np.float32

    y_np, inverse_np = rms_norm.forward(x, weight, EPSILON, np)
    root = 1 / np.sqrt((wide(x) ** 2).mean(axis=-1, keepdims=True) + EPSILON)
    n, g = wide(x) * root, wide(dy) * wide(weight)
    scale = float(np.abs(root * g).max())  # of what dx is a difference of
    assert apart(inverse, inverse_np) < 2e-6
    assert apart(y, y_np) <= APART[storage]
    assert apart(dx, rms_norm.backward(dy, x, weight, inverse_np, np), scale) <= APART[storage]
    assert apart(y, n * wide(weight)) <= APART[storage]
    assert apart(dx, root * (g - n * (g * n).mean(axis=-1, keepdims=True)), scale) <= APART[storage]
    assert nothing_else_was_written(xp)
