"""The fused step against NumPy's body and against the algorithm in float64."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dihedral.data_plane.kernels import adamw
from tests.kernels.comparing import Drawn, apart, drawn, nothing_else_was_written, wide, widths


@drawn
@given(st.integers(1, 3), widths, st.integers(1, 1000), st.sampled_from([0.0, 0.1]), st.integers(0, 99))
def test_a_step_is_that_of_numpy_and_of_the_algorithm(
    xp: Any, rows: int, width: int, number: int, decay: float, seed: int
) -> None:
    draw, rate, factor = Drawn(seed, "float32"), 1e-2, 0.25
    weight, gradient, first = (draw.normal(rows, width) for _ in range(3))
    second = np.abs(draw.normal(rows, width))
    there = [xp.asarray(each) for each in (weight, gradient, first, second)]
    here = [each.copy() for each in (weight, gradient, first, second)]
    for module, (w, g, m, v) in ((xp, there), (np, here)):
        adamw.step({"a": w}, {"a": g}, {"a": (m, v)}, number=number, rate=rate, decay=decay, factor=factor, xp=module)

    (one, two), g = adamw.BETAS, wide(gradient) * factor
    m, v = one * wide(first) + (1 - one) * g, two * wide(second) + (1 - two) * g**2
    update = m / (1 - one**number) / (np.sqrt(v / (1 - two**number)) + adamw.EPSILON)
    exact = (wide(weight) - rate * (decay * wide(weight) + update), wide(gradient), m, v)
    for ours, theirs, truth in zip(there, here, exact, strict=True):
        assert apart(ours, theirs) < 1e-6
        assert apart(ours, truth) < 1e-6
    assert (
        apart(there[0] - xp.asarray(weight), exact[0] - wide(weight)) < 1e-4
    )  # of a step, which is small beside the weight
    assert nothing_else_was_written(xp)
