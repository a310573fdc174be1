"""The fused rotation against NumPy's body and against the formula in float64."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dihedral.data_plane.kernels import rope
from tests.kernels.comparing import APART, Drawn, apart, drawn, nothing_else_was_written, storages, wide

halves = st.one_of(st.integers(1, 9), st.sampled_from([8, 16, 32, 64]))


@drawn
@given(st.integers(1, 3), st.integers(1, 6), st.integers(1, 5), halves, storages, st.integers(0, 99))
def test_pairs_turn_in_place_as_those_of_numpy_and_of_the_formula_and_turn_back(
    xp: Any, batch: int, length: int, heads: int, half: int, storage: str, seed: int
) -> None:
    x = Drawn(seed, storage).normal(batch, length, heads, 2 * half)
    turning = rope.frequencies(2 * half, 100.0, None)
    there = xp.asarray(x)
    cos, sin = rope.tables(length, turning, xp)
    turned = rope.rotate(there, cos, sin, xp)
    assert turned is there

    assert apart(turned, rope.rotate(x.copy(), *rope.tables(length, turning, np), np)) <= APART[storage]
    angle = np.arange(length)[:, None, None] * turning
    turns = wide(x[..., :half]) + 1j * wide(x[..., half:])
    turns = turns * np.exp(1j * angle)
    assert apart(turned, np.concatenate([turns.real, turns.imag], axis=-1)) <= APART[storage]
    assert apart(rope.rotate(turned, cos, -sin, xp), x) <= 2 * APART[storage]
    assert nothing_else_was_written(xp)


def test_an_array_with_gaps_is_turned_beside_it(xp: Any) -> None:
    x = Drawn(0, "float32").normal(2, 3, 5, 8).transpose(0, 2, 1, 3)
    cos, sin = map(xp.asarray, rope.tables(5, rope.frequencies(8, 100.0, None), np))
    turned = rope.rotate(xp.asarray(x.copy()).transpose(0, 1, 2, 3), cos, sin, xp)
    gaps = xp.asarray(np.ascontiguousarray(x.transpose(0, 2, 1, 3))).transpose(0, 2, 1, 3)
    assert not gaps.flags.c_contiguous
    assert apart(rope.rotate(gaps, cos, sin, xp), wide(turned)) == 0
