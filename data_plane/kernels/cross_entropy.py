"""The head of a language model and its loss in one: logits exist for a chunk of rows at a time.

    z = h·Wᵀ,   loss = Σ over rows with a label of (log Σ exp z − z[label]),   dz = softmax z − onehot(label),   dh = dz·W

The loss is a *sum*: the caller divides gradients by the number of labels at the end. So micro-batches with different numbers of
labels add up exactly, and what flows back is of the order of one, which 16-bit storage needs (a mean over some thousands of
labels would fall below float16's smallest number). Softmax in float32. Expected error: 1e-6 relative in float32.

In CUDA a block has a row: one sweep finds the maximum and the sum together (Milakov & Gimelshein, "Online normalizer calculation for
softmax", 2018, algorithm 3), a second writes dz over z. Beside the logits themselves nothing of their size exists.
"""

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.cuda import fused, kernel, launch, pack_of, threads_of
from dihedral.data_plane.kernels.linear import product, weight_gradient

SOURCE = r"""
extern "C" __global__ void row_losses(T* logits, const long long* labels, float* losses, long long vocabulary) {
    logits += blockIdx.x * vocabulary;
    const long long label = labels[blockIdx.x];
    const float right = label < 0 ? 0 : float(logits[label]);
    float largest = LOWEST, sum = 0;  // of this thread: sum is that of exp(z − largest)
    for (long long i = threadIdx.x; i < vocabulary / N; i += blockDim.x) {
        const Pack<T> z = pack(logits, i);
        float above = largest;
        for (int j = 0; j < N; j++) above = fmaxf(above, float(z.value[j]));
        sum *= expf(largest - above);
        for (int j = 0; j < N; j++) sum += expf(float(z.value[j]) - above);
        largest = above;
    }
    const float top = block_max(largest);
    const float total = block_sum(sum * expf(largest - top));
    const float asked = label < 0 ? 0 : 1;
    for (long long i = threadIdx.x; i < vocabulary / N; i += blockDim.x) {
        Pack<T> z = pack(logits, i);
        for (int j = 0; j < N; j++) {
            const float share = expf(float(z.value[j]) - top) * (asked / total);
            z.value[j] = T(i * N + j == label ? share - 1 : share);
        }
        pack(logits, i) = z;
    }
    if (threadIdx.x == 0) losses[blockIdx.x] = asked * (logf(total) - (right - top));
}
"""

IGNORED = -1  # the label of a row that has no loss
CHUNK_VALUES = 1 << 24  # logits at a time: 64 MiB of float32


def loss_and_gradient(
    hidden: Array, head: Array, labels: Array, d_head: Array | None, xp: ArrayModule
) -> tuple[Array, Array]:
    """(loss () float32 on the device, d hidden in the type of hidden).

    hidden: (rows, width), head: (vocabulary, width), labels: (rows,) int64. `d_head`: (vocabulary, width) float32, added to; None
    where the head is frozen.
    """
    rows = max(1, CHUNK_VALUES // head.shape[0])
    loss = xp.zeros((), dtype=xp.float32)
    d_hidden = xp.empty_like(hidden)
    for start in range(0, len(hidden), rows):
        some, wanted = hidden[start : start + rows], labels[start : start + rows]
        logits = product(some, head.T, xp)
        of_rows, back = losses(logits, wanted, xp)
        loss += of_rows.sum()
        d_hidden[start : start + rows] = product(back, head, xp)
        if d_head is not None:
            d_head += weight_gradient(back, some, xp)
    return loss, d_hidden


def losses(logits: Array, labels: Array, xp: ArrayModule) -> tuple[Array, Array]:
    """((rows,) float32, dz in the type of the logits); logits: (rows, vocabulary), overwritten."""
    if fused(xp):
        logits, of_rows = xp.ascontiguousarray(logits), xp.empty(labels.shape, dtype=xp.float32)
        rows, vocabulary = logits.shape
        pack = pack_of(vocabulary, logits)
        run = kernel(xp, SOURCE, "row_losses", logits.dtype.name, pack)
        launch(run, (rows,), (threads_of(vocabulary, pack),), logits, labels, of_rows, vocabulary)
        return of_rows, logits
    asked = (labels != IGNORED).astype(xp.float32)
    row, column = xp.arange(len(labels)), xp.maximum(labels, 0)
    shares = logits.astype(xp.float32, copy=False)
    shares -= shares.max(axis=-1, keepdims=True)
    right = shares[row, column]
    xp.exp(shares, out=shares)
    total = shares.sum(axis=-1)
    shares *= (asked / total)[:, None]
    shares[row, column] -= asked
    return (xp.log(total) - right) * asked, shares.astype(logits.dtype, copy=False)
