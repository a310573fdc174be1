"""The fused gate against NumPy's body and against the formula in float64."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dihedral.data_plane.kernels import swiglu
from tests.kernels.comparing import APART, Drawn, apart, drawn, nothing_else_was_written, storages, wide, widths


@drawn
@given(st.integers(1, 3), widths, storages, st.sampled_from([1.0, 30.0]), st.integers(0, 99))
def test_forward_and_backward_are_those_of_numpy_and_of_the_formula(
    xp: Any, rows: int, width: int, storage: str, spread: float, seed: int
) -> None:
    draw = Drawn(seed, storage)
    gate, up, dy = draw.normal(rows, width, spread=spread), draw.normal(rows, width), draw.normal(rows, width)
    there = [xp.asarray(each) for each in (gate, up, dy)]
    y = swiglu.forward(there[0], there[1], xp)
    d_gate, d_up = swiglu.backward(there[2], there[0], there[1], xp)
    assert y.dtype == d_gate.dtype == d_up.dtype == gate.dtype

    expected = (swiglu.forward(gate, up, np), *swiglu.backward(dy, gate, up, np))
    g, u, back = wide(gate), wide(up), wide(dy)
    opened = 1 / (1 + np.exp(-g))
    exact = (g * opened * u, back * u * opened * (1 + g * (1 - opened)), back * g * opened)
    for ours, theirs, truth in zip((y, d_gate, d_up), expected, exact, strict=True):
        scale = max(1.0, np.abs(truth).max())
        assert apart(ours, theirs, scale) <= APART[storage]
        assert apart(ours, truth, scale) <= APART[storage]
    assert nothing_else_was_written(xp)


def test_a_gate_that_is_shut_or_wide_open_overflows_nothing(xp: Any) -> None:
    gate = np.array([-1e4, -90.0, 90.0, 1e4], np.float32)
    one = xp.asarray(np.ones(4, np.float32))
    assert np.allclose(wide(swiglu.forward(xp.asarray(gate), one, xp)), [0, 0, 90, 1e4], atol=1e-30)
    assert np.allclose(wide(swiglu.backward(one, xp.asarray(gate), one, xp)[0]), [0, 0, 1, 1], atol=1e-30)
