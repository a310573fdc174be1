"""A window of a plane at another scale, by separable Catmull–Rom interpolation.

Each sample is a weighted mean of the four pixels around it (Keys 1981, a = −½, that is Catmull–Rom): with t the distance
behind the second of them, the weights are

    −½t³ + t² − ½t,   3/2·t³ − 5/2·t² + 1,   −3/2·t³ + 2t² + ½t,   ½t³ − ½t²

and sum to 1 at every t. Positions are 32.32 fixed-point numbers, so that a CPU and a GPU find the same four pixels and the same t
however large the plane is; a float32 position would be off by 1/4000 pixel at the right rim.

As a matrix an axis is a band four wide. Cut into blocks of 16 samples each block is a small dense matrix, and the whole is a row of BLAS
products, which waste four of five multiplications and are still several times faster than gathering pixels with NumPy. They are kept so
small that OpenBLAS runs them in this thread: with two threads on a busy machine the same frames took ten times as long, and the
encoder needs the other cores anyway.
"""

from typing import NamedTuple

from dihedral.data_plane.device import Array, ArrayModule

ONE = 1 << 32  # a pixel, in the unit of positions
BLOCK = 16  # samples to a product; 64 took as long
ALONE = 1 << 18  # multiplications up to which OpenBLAS starts no threads: 65,536 · 4 (its interface/gemm.c)


class Axis(NamedTuple):
    """The places of samples along one axis of a plane: the i-th at start + i·step, in 2⁻³² pixels; pixel centres are whole."""

    start: int
    step: int


class Layer(NamedTuple):
    """A window of planes (n, H, W) float32, of which a picture takes the share `weight`."""

    planes: Array
    rows: Axis
    columns: Axis
    weight: float


def sample(layers: list[Layer], size: tuple[int, int], xp: ArrayModule) -> Array:
    """The layers' weighted sum as (n, height, width) float32, size = (height, width); beyond the rim the edge pixels repeat.

    Expected error against float64: 2⁻²⁰ of the largest value. A step above about 1.5 pixels would alias: see `Pyramid`.
    """
    count = layers[0].planes.shape[0]
    out = xp.empty((count, *size), dtype=xp.float32)
    for number, layer in enumerate(layers):
        made = out if number == 0 else xp.empty_like(out)
        above, tops = bands(layer.rows, size[0], layer.planes.shape[1], layer.weight, xp)
        beside, lefts = bands(layer.columns, size[1], layer.planes.shape[2], 1.0, xp)
        first, last = lefts[0], lefts[-1] + beside.shape[2]
        between = xp.empty((size[0], last - first), dtype=xp.float32)
        for plane, result in zip(layer.planes, made, strict=True):
            _products(above, tops, plane[:, first:last].T, between.T, xp)
            _products(beside, [left - first for left in lefts], between, result, xp)
        if number > 0:
            out += made
    return out


def _products(matrices: Array, starts: list[int], source: Array, out: Array, xp: ArrayModule) -> None:
    """out[:, block b] = source[:, start b : …] @ matrices[b]ᵀ, a few rows at a time."""
    width = matrices.shape[2]
    step = max(1, ALONE // (BLOCK * width))
    for number, start in enumerate(starts):
        target = out[:, number * BLOCK : (number + 1) * BLOCK]
        weights = matrices[number, : target.shape[1]].T
        for row in range(0, out.shape[0], step):
            xp.matmul(source[row : row + step, start : start + width], weights, out=target[row : row + step])


def bands(axis: Axis, count: int, length: int, weight: float, xp: ArrayModule) -> tuple[Array, list[int]]:
    """`(matrices (blocks, BLOCK, k) float32, first pixels)`: block b of the samples is matrices[b] @ pixels[first:first + k]."""
    index, weights = taps(axis, count, length, xp)
    numbers = xp.arange(count)
    block, within = numbers // BLOCK, numbers % BLOCK
    first = index[::BLOCK, 0]
    last = index[xp.minimum(xp.arange(first.size) * BLOCK + BLOCK - 1, count - 1), 3]
    size = int((last - first).max()) + 1
    first = xp.minimum(first, length - size)
    matrices = xp.zeros((first.size, BLOCK, size), dtype=xp.float32)
    for tap in range(4):  # one by one: at the rim several fall on the same pixel
        matrices[block, within, index[:, tap] - first[block]] += weights[:, tap] * xp.float32(weight)
    return matrices, first.tolist()


def taps(axis: Axis, count: int, length: int, xp: ArrayModule) -> tuple[Array, Array]:
    """`(index (count, 4), weights (count, 4) float32)` of the pixels around each sample."""
    positions = axis.start + xp.arange(count, dtype=xp.int64) * axis.step
    t = ((positions & (ONE - 1)) >> 8).astype(xp.float32) * xp.float32(2**-24)
    weights = xp.stack(
        (
            ((-0.5 * t + 1.0) * t - 0.5) * t,
            (1.5 * t - 2.5) * t * t + 1.0,
            ((-1.5 * t + 2.0) * t + 0.5) * t,
            (0.5 * t - 0.5) * t * t,
        ),
        axis=1,
    )
    index = xp.clip((positions >> 32)[:, None] + xp.arange(-1, 3), 0, length - 1)
    return index, weights
