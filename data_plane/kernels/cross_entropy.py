"""The head of a language model and its loss in one: logits exist for a chunk of rows at a time.

    z = h·Wᵀ,   loss = Σ over rows with a label of (log Σ exp z − z[label]),   dz = softmax z − onehot(label),   dh = dz·W

The loss is a *sum*: whoever trains divides gradients by the number of labels at the end. So micro-batches with different numbers of
labels add up exactly, and what flows back is of the order of one, which 16-bit storage needs (a mean over some thousands of
labels would fall below float16's smallest number). Softmax in float32. Expected error: 1e-6 relative in float32.
"""

from data_plane.device import Array, ArrayModule
from data_plane.kernels.linear import product, weight_gradient

IGNORED = -1  # the label of a row that nothing is asked of
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
        asked = (wanted != IGNORED).astype(xp.float32)
        row, column = xp.arange(len(some)), xp.maximum(wanted, 0)
        logits = product(some, head.T, xp).astype(xp.float32, copy=False)
        logits -= logits.max(axis=-1, keepdims=True)
        right = logits[row, column]
        xp.exp(logits, out=logits)
        total = logits.sum(axis=-1)
        loss += ((xp.log(total) - right) * asked).sum()
        logits *= (asked / total)[:, None]
        logits[row, column] -= asked
        back = logits.astype(hidden.dtype, copy=False)
        d_hidden[start : start + rows] = product(back, head, xp)
        if d_head is not None:
            d_head += weight_gradient(back, some, xp)
    return loss, d_hidden
