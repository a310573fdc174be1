"""Causal grouped-query attention, forward and backward, a block of queries at a time.

    S = q·kᵀ/√d  (−∞ above the diagonal),   P = softmax S,   o = P·v                     (Vaswani et al., 2017, eq. 1)
    dv = Pᵀ·do,   dS = P ⊙ (do·vᵀ − rowsum(do ⊙ o)),   dq = dS·k/√d,   dk = dSᵀ·q/√d     (Dao et al., 2022, app. B.2)

Each of the K key heads serves G = H/K query heads (Ainslie et al., 2023); the G queries of a key head stand as rows of one matrix,
so that a product serves the group and the sums over it come by themselves. P is never kept: the backward computes a block of
it again from the log-sum of each row, so memory grows with length, not with its square. Computed in float32 whatever the
storage type (CuPy 14 has no batched product of bfloat16). Expected error: 1e-6 relative to the largest value. The queries are scaled by
1/√d once, so that no score has to be.

In CUDA the products are cuBLAS's and what lies between them is one kernel forward (mask, softmax and log-sum, a block to a row of scores) and
one backward (P and dS from both products).

q, o: (batch, length, H, d), k, v: (batch, length, K, d).
"""

import math
from collections.abc import Iterator

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.cuda import fused, kernel, launch, pack_of, threads_of

SOURCE = r"""
// Row r of the scores is that of query start + r % size, which sees the keys up to its own. `beyond`: keys that are there.
extern "C" __global__ void softmax(float* scores, float* log_sums, long long start, long long size, long long beyond) {
    const long long seen = start + blockIdx.x % size + 1;
    scores += blockIdx.x * beyond;
    float largest = LOWEST, sum = 0;
    for (long long i = threadIdx.x; i * N < seen; i += blockDim.x) {
        const Pack<float> s = pack(scores, i);
        float above = largest;
        for (int j = 0; j < N; j++) if (i * N + j < seen) above = fmaxf(above, s.value[j]);
        sum *= expf(largest - above);
        for (int j = 0; j < N; j++) if (i * N + j < seen) sum += expf(s.value[j] - above);
        largest = above;
    }
    const float top = block_max(largest);
    const float total = block_sum(sum * expf(largest - top));
    for (long long i = threadIdx.x; i < beyond / N; i += blockDim.x) {
        Pack<float> s = pack(scores, i);
        for (int j = 0; j < N; j++) s.value[j] = i * N + j < seen ? expf(s.value[j] - top) / total : 0;
        pack(scores, i) = s;
    }
    if (threadIdx.x == 0) log_sums[blockIdx.x] = top + logf(total);
}

extern "C" __global__ void softmax_back(
    float* scores, float* d_shares, const float* log_sums, const float* means, long long start, long long size, long long beyond
) {
    const long long seen = start + blockIdx.x % size + 1;
    scores += blockIdx.x * beyond;
    d_shares += blockIdx.x * beyond;
    const float log_sum = log_sums[blockIdx.x], mean = means[blockIdx.x];
    for (long long i = threadIdx.x; i < beyond / N; i += blockDim.x) {
        Pack<float> s = pack(scores, i), d = pack(d_shares, i);
        for (int j = 0; j < N; j++) {
            s.value[j] = i * N + j < seen ? expf(s.value[j] - log_sum) : 0;
            d.value[j] = s.value[j] * (d.value[j] - mean);
        }
        pack(scores, i) = s;
        pack(d_shares, i) = d;
    }
}
"""

BLOCK = 256  # rows of queries: at length 2,048 a block of scores has 2 MiB a head, and a sixteenth of the work is masked away


def forward(q: Array, k: Array, v: Array, xp: ArrayModule) -> tuple[Array, Array]:
    """(o, log-sums (batch, K, G, length) float32, which `backward` needs)."""
    scale = 1 / math.sqrt(q.shape[-1])
    queries, keys, values = _grouped(q, k.shape[2], xp) * scale, _heads(k, xp), _heads(v, xp)
    out = xp.empty_like(queries)
    log_sums = xp.empty(queries.shape[:-1], dtype=xp.float32)
    for start, end in _blocks(q.shape[1]):
        scores = _scores(queries, keys, start, end)  # (batch, K, G, n, end)
        log_sums[:, :, :, start:end] = _softmax(scores, start, xp)
        out[:, :, :, start:end] = (_flat(scores) @ values[:, :, :end]).reshape(out[:, :, :, start:end].shape)
    return _ungrouped(out, q), log_sums


def backward(
    do: Array, q: Array, k: Array, v: Array, o: Array, log_sums: Array, xp: ArrayModule
) -> tuple[Array, Array, Array]:
    """(dq, dk, dv), in the types of q, k and v."""
    scale = 1 / math.sqrt(q.shape[-1])
    queries, keys, values = _grouped(q, k.shape[2], xp) * scale, _heads(k, xp), _heads(v, xp)
    back, out = _grouped(do, k.shape[2], xp), _grouped(o, k.shape[2], xp)
    means = (back * out).sum(axis=-1)
    dq, dk, dv = xp.empty_like(queries), xp.zeros_like(keys), xp.zeros_like(values)
    for start, end in _blocks(q.shape[1]):
        d_out = _flat(back[:, :, :, start:end])  # (batch, K, G·n, d)
        shares = _scores(queries, keys, start, end)
        d_scores = (d_out @ values[:, :, :end].swapaxes(-1, -2)).reshape(shares.shape)
        _softmax_back(shares, d_scores, log_sums[:, :, :, start:end], means[:, :, :, start:end], start, xp)
        dv[:, :, :end] += _flat(shares).swapaxes(-1, -2) @ d_out
        dq[:, :, :, start:end] = (_flat(d_scores) @ keys[:, :, :end]).reshape(dq[:, :, :, start:end].shape)
        dk[:, :, :end] += _flat(d_scores).swapaxes(-1, -2) @ _flat(queries[:, :, :, start:end])
    dq *= scale
    return _ungrouped(dq, q), _unheaded(dk, k), _unheaded(dv, v)


def _softmax(scores: Array, start: int, xp: ArrayModule) -> Array:
    """S -> P in place, (batch, K, G, n, end); answers the log-sums, (batch, K, G, n)."""
    if fused(xp):
        log_sums = xp.empty(scores.shape[:-1], dtype=xp.float32)
        _by_rows("softmax", scores, (scores, log_sums), start, xp)
        return log_sums
    _hide(scores, start, xp)
    largest = scores.max(axis=-1, keepdims=True)
    scores -= largest
    xp.exp(scores, out=scores)
    total = scores.sum(axis=-1, keepdims=True)
    scores /= total
    return (largest + xp.log(total))[..., 0]


def _softmax_back(scores: Array, d_shares: Array, log_sums: Array, means: Array, start: int, xp: ArrayModule) -> None:
    """S -> P and dP -> dS in place."""
    if fused(xp):
        rows = (xp.ascontiguousarray(log_sums), xp.ascontiguousarray(means))
        _by_rows("softmax_back", scores, (scores, d_shares, *rows), start, xp)
        return
    _hide(scores, start, xp)
    scores -= log_sums[..., None]
    xp.exp(scores, out=scores)
    d_shares -= means[..., None]
    d_shares *= scores


def _by_rows(name: str, scores: Array, arrays: tuple[Array, ...], start: int, xp: ArrayModule) -> None:
    *_, size, end = scores.shape
    pack = pack_of(end, scores)
    run = kernel(xp, SOURCE, name, "float32", pack)
    launch(run, (scores.size // end,), (threads_of(end, pack),), *arrays, start, size, end)


def _hide(scores: Array, start: int, xp: ArrayModule) -> None:
    """−∞ for the keys behind each query."""
    size = scores.shape[-2]
    scores[..., start:] += xp.triu(xp.full((size, size), -xp.inf, dtype=xp.float32), k=1)


def _blocks(length: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, BLOCK):
        yield start, min(start + BLOCK, length)


def _scores(queries: Array, keys: Array, start: int, end: int) -> Array:
    """(batch, K, G, end − start, end) float32: the products of the queries start…end with the keys before `end`."""
    batch, heads, group, _, _ = queries.shape
    flat = _flat(queries[:, :, :, start:end]) @ keys[:, :, :end].swapaxes(-1, -2)
    return flat.reshape(batch, heads, group, end - start, end)


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
