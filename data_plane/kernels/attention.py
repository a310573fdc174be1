"""Causal grouped-query attention, forward and backward, a block of queries at a time.

    S = q·kᵀ/√d  (−∞ above the diagonal),   P = softmax S,   o = P·v                     (Vaswani et al., 2017, eq. 1)
    dv = Pᵀ·do,   dS = P ⊙ (do·vᵀ − rowsum(do ⊙ o)),   dq = dS·k/√d,   dk = dSᵀ·q/√d     (Dao et al., 2022, app. B.2)

Each of the K key heads serves G = H/K query heads (Ainslie et al., 2023); the G queries of a key head stand as rows of one matrix,
so that a product serves the group and the sums over it come by themselves. P is never kept: the backward computes a block of
it again from the log-sum of each row, so memory grows with length, not with its square. Computed in float32 whatever the
storage type (CuPy 14 has no batched product of bfloat16). Expected error: 1e-6 relative to the largest value.

q, o: (batch, length, H, d), k, v: (batch, length, K, d).
"""

import math
from collections.abc import Iterator

from data_plane.device import Array, ArrayModule

BLOCK = 256  # rows of queries: at length 2,048 a block of scores has 2 MiB a head, and a sixteenth of the work is masked away


def forward(q: Array, k: Array, v: Array, xp: ArrayModule) -> tuple[Array, Array]:
    """(o, log-sums (batch, K, G, length) float32, which `backward` needs)."""
    queries, keys, values = _grouped(q, k.shape[2], xp), _heads(k, xp), _heads(v, xp)
    out = xp.empty_like(queries)
    log_sums = xp.empty(queries.shape[:-1], dtype=xp.float32)
    for start, end in _blocks(q.shape[1]):
        scores = _scores(queries, keys, start, end, xp)  # (batch, K, G, n, end)
        largest = scores.max(axis=-1, keepdims=True)
        scores -= largest
        xp.exp(scores, out=scores)
        total = scores.sum(axis=-1, keepdims=True)
        mixed = _flat(scores) @ values[:, :, :end]
        out[:, :, :, start:end] = mixed.reshape(out[:, :, :, start:end].shape) / total
        log_sums[:, :, :, start:end] = (largest + xp.log(total))[..., 0]
    return _ungrouped(out, q), log_sums


def backward(
    do: Array, q: Array, k: Array, v: Array, o: Array, log_sums: Array, xp: ArrayModule
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv), in the types of q, k and v."""
    queries, keys, values = _grouped(q, k.shape[2], xp), _heads(k, xp), _heads(v, xp)
    back, out = _grouped(do, k.shape[2], xp), _grouped(o, k.shape[2], xp)
    rows = (back * out).sum(axis=-1, keepdims=True)
    scale = 1 / math.sqrt(q.shape[-1])
    dq, dk, dv = xp.empty_like(queries), xp.zeros_like(keys), xp.zeros_like(values)
    for start, end in _blocks(q.shape[1]):
        shares = _scores(queries, keys, start, end, xp)
        shares -= log_sums[:, :, :, start:end, None]
        xp.exp(shares, out=shares)  # a block of P
        d_out = _flat(back[:, :, :, start:end])  # (batch, K, G·n, d)
        dv[:, :, :end] += _flat(shares).swapaxes(-1, -2) @ d_out
        d_scores = (d_out @ values[:, :, :end].swapaxes(-1, -2)).reshape(shares.shape)
        d_scores -= rows[:, :, :, start:end]
        d_scores *= shares
        d_scores *= scale
        dq[:, :, :, start:end] = (_flat(d_scores) @ keys[:, :, :end]).reshape(dq[:, :, :, start:end].shape)
        dk[:, :, :end] += _flat(d_scores).swapaxes(-1, -2) @ _flat(queries[:, :, :, start:end])
    return _ungrouped(dq, q), _unheaded(dk, k), _unheaded(dv, v)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, BLOCK):
        yield start, min(start + BLOCK, length)


def _scores(queries: Array, keys: Array, start: int, end: int, xp: ArrayModule) -> Array:
    """(batch, K, G, end − start, end) float32: S of the queries start…end with the keys before `end`."""
    batch, heads, group, _, _ = queries.shape
    size = end - start
    flat = _flat(queries[:, :, :, start:end]) @ keys[:, :, :end].swapaxes(-1, -2)
    scores = flat.reshape(batch, heads, group, size, end)
    scores *= 1 / math.sqrt(queries.shape[-1])
    scores[..., start:] += xp.triu(xp.full((size, size), -xp.inf, dtype=xp.float32), k=1)
    return scores


def _flat(array: Array) -> Array:
    """(batch, K, G, n, m) -> (batch, K, G·n, m)."""
    batch, heads, group, size, last = array.shape
    return array.reshape(batch, heads, group * size, last)


def _heads(x: Array, xp: ArrayModule) -> Array:
    """(batch, length, K, d) -> (batch, K, length, d) float32."""
    return xp.ascontiguousarray(x.transpose(0, 2, 1, 3), dtype=xp.float32)


def _unheaded(x: Array, like: Array) -> Array:
    return x.transpose(0, 2, 1, 3).astype(like.dtype, copy=False)


def _grouped(x: Array, heads: int, xp: ArrayModule) -> Array:
    """(batch, length, H, d) -> (batch, K, G, length, d) float32: query head h belongs to key head h // G."""
    batch, length, total, dim = x.shape
    split = x.reshape(batch, length, heads, total // heads, dim)
    return xp.ascontiguousarray(split.transpose(0, 2, 3, 1, 4), dtype=xp.float32)


def _ungrouped(x: Array, like: Array) -> Array:
    return x.transpose(0, 3, 1, 2, 4).reshape(like.shape).astype(like.dtype, copy=False)
