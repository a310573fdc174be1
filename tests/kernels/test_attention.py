"""The fused softmax of the attention against NumPy's body and against the formulas in float64."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dihedral.data_plane.kernels import attention
from tests.kernels.comparing import APART, Drawn, apart, drawn, nothing_else_was_written, storages, wide


@drawn
@given(
    st.integers(1, 2), st.integers(1, 3), st.integers(1, 21), st.sampled_from([1, 7, 8]), storages, st.integers(0, 99)
)
def test_forward_and_backward_are_those_of_numpy_and_of_the_formulas(
    xp: Any, batch: int, heads: int, length: int, block: int, storage: str, seed: int
) -> None:
    before, attention.BLOCK = attention.BLOCK, block
    try:
        draw, group, dim = Drawn(seed, storage), 2, 6
        q, do = (draw.normal(batch, length, heads * group, dim) for _ in range(2))
        k, v = (draw.normal(batch, length, heads, dim) for _ in range(2))
        there = tuple(xp.asarray(each) for each in (q, k, v, do))
        q_there, k_there, v_there, do_there = there
        o, log_sums = attention.forward(q_there, k_there, v_there, xp)
        back = attention.backward(do_there, q_there, k_there, v_there, o, log_sums, xp)
        o_np, log_sums_np = attention.forward(q, k, v, np)
        back_np = attention.backward(do, q, k, v, o_np, log_sums_np, np)
    finally:
        attention.BLOCK = before

    assert all((ours == given).all() for ours, given in zip(map(wide, there), map(wide, (q, k, v, do)), strict=True))
    exact = of_formulas(*map(wide, (q, k, v, do)))
    for ours, theirs, truth in zip((o, *back), (o_np, *back_np), exact, strict=True):
        assert ours.dtype == q.dtype
        scale = max(1.0, np.abs(truth).max())
        assert apart(ours, theirs, scale) <= APART[storage]
        assert apart(ours, truth, scale) <= 2 * APART[storage]  # o is rounded before it goes back
    assert apart(log_sums, log_sums_np) < 2e-6
    assert nothing_else_was_written(xp)


@pytest.mark.parametrize("keys", [1030, 4104])  # more than a block has threads, one by one and in packs
def test_rows_longer_than_a_block_are_gone_over(xp: Any, keys: int) -> None:
    draw = Drawn(0, "float32")
    scores, d_shares = (draw.normal(1, 1, 1, 2, keys) for _ in range(2))
    means, start = draw.normal(1, 1, 1, 2), keys - 2
    there, back = xp.asarray(scores), xp.asarray(d_shares)
    log_sums = attention._softmax(there, start, xp)
    shares = scores.copy()
    assert apart(log_sums, attention._softmax(shares, start, np)) < 2e-6
    assert apart(there, shares) < 2e-6
    assert (wide(there)[0, 0, 0, 0, -1], wide(there).sum()) == (0, pytest.approx(2))
    attention._softmax_back(xp.asarray(scores), back, log_sums, xp.asarray(means), start, xp)
    attention._softmax_back(scores, d_shares, np.asarray(wide(log_sums), np.float32), means, start, np)
    assert apart(back, d_shares) < 2e-6
    assert nothing_else_was_written(xp)


def of_formulas(q: np.ndarray, k: np.ndarray, v: np.ndarray, do: np.ndarray) -> tuple[np.ndarray, ...]:
    """o, dq, dk, dv in float64, every key head repeated for its group."""
    batch, length, heads, dim = k.shape
    group = q.shape[2] // heads
    keys, values = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
    scores = np.einsum("blhd,bmhd->bhlm", q, keys) / np.sqrt(dim)
    scores[:, :, ~np.tri(length, dtype=bool)] = -np.inf
    shares = np.exp(scores - scores.max(axis=-1, keepdims=True))
    shares /= shares.sum(axis=-1, keepdims=True)
    o = np.einsum("bhlm,bmhd->blhd", shares, values)
    d_shares = np.einsum("blhd,bmhd->bhlm", do, values)
    d_scores = shares * (d_shares - (shares * d_shares).sum(axis=-1, keepdims=True)) / np.sqrt(dim)
    dq = np.einsum("bhlm,bmhd->blhd", d_scores, keys)
    dk, dv = np.einsum("bhlm,blhd->bmhd", d_scores, q), np.einsum("bhlm,blhd->bmhd", shares, do)
    grouped = (batch, length, heads, group, dim)
    return o, dq, dk.reshape(grouped).sum(axis=3), dv.reshape(grouped).sum(axis=3)
