"""The fused loss against NumPy's body and against the formula in float64."""

from typing import Any

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from dihedral.data_plane.kernels import cross_entropy
from tests.kernels.comparing import APART, Drawn, apart, drawn, nothing_else_was_written, storages, wide, widths


@drawn
@given(st.integers(1, 5), widths, storages, st.sampled_from([1.0, 20.0]), st.integers(0, 10**6), st.integers(0, 99))
@example(rows=1, vocabulary=8200, storage="bfloat16", spread=1.0, place=8199, seed=0)  # more than a block's threads
@example(rows=1, vocabulary=1030, storage="float32", spread=1.0, place=1025, seed=0)  # the same one by one
def test_losses_and_gradient_are_those_of_numpy_and_of_the_formula(
    xp: Any, rows: int, vocabulary: int, storage: str, spread: float, place: int, seed: int
) -> None:
    labels = (place + 7 * np.arange(rows)) % (vocabulary + 1) - (rows > 1)  # in some examples a row asks nothing
    labels[labels == vocabulary] = 0
    logits = Drawn(seed, storage).normal(rows, vocabulary, spread=spread)
    there = xp.asarray(logits)
    losses, back = cross_entropy.losses(there, xp.asarray(labels), xp)
    assert back is there
    assert (losses.dtype, back.dtype) == (np.float32, logits.dtype)

    expected, back_np = cross_entropy.losses(logits.copy(), labels, np)
    z, asked = wide(logits), (labels >= 0).astype(float)
    largest = z.max(axis=-1, keepdims=True)
    shares = np.exp(z - largest) / np.exp(z - largest).sum(axis=-1, keepdims=True)
    log_sum = (largest + np.log(np.exp(z - largest).sum(axis=-1, keepdims=True)))[:, 0]
    exact = asked * (log_sum - z[np.arange(rows), np.maximum(labels, 0)])
    hot = np.eye(vocabulary)[np.maximum(labels, 0)]
    scale = max(1.0, float(np.abs(z).max()))  # of what a loss is a difference of
    for theirs in (expected, exact):
        assert apart(losses, theirs, scale) < 2e-6
    for theirs in (back_np, asked[:, None] * (shares - hot)):
        assert apart(back, theirs, 1.0) <= APART[storage]
    assert nothing_else_was_written(xp)


def test_a_logit_that_is_infinite_or_no_number_shows_in_the_loss(xp: Any) -> None:
    logits = np.zeros((3, 40), np.float32)
    logits[0, 7], logits[1, 7], logits[2, 7] = -np.inf, np.nan, np.inf
    losses, _ = cross_entropy.losses(xp.asarray(logits), xp.asarray(np.zeros(3, np.int64)), xp)
    assert np.isclose(wide(losses)[0], np.log(39))
    assert not np.isfinite(wide(losses)[1:]).any()


def test_the_loss_of_a_whole_head_is_that_of_numpy_in_whatever_chunks(xp: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_VALUES", 40 * 3)  # seven rows: two chunks and a part
    draw = Drawn(0, "float32")
    hidden, head = draw.normal(7, 24), draw.normal(40, 24)
    labels = np.array([3, -1, 39, 0, 5, 5, -1])
    d_head, d_head_np = xp.asarray(np.zeros_like(head)), np.zeros_like(head)
    there = (xp.asarray(hidden), xp.asarray(head), xp.asarray(labels))
    loss, d_hidden = cross_entropy.loss_and_gradient(*there, d_head, xp)
    loss_np, d_hidden_np = cross_entropy.loss_and_gradient(hidden, head, labels, d_head_np, np)
    assert abs(float(loss) - float(loss_np)) < 1e-5 * float(loss_np)
    assert apart(d_hidden, d_hidden_np) < 1e-5
    assert apart(d_head, d_head_np) < 1e-5
