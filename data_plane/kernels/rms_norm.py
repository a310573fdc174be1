"""Root-mean-square normalisation, forward and backward.

    n = x / √(mean x² + ε),   y = w ⊙ n                                  (Zhang & Sennrich, 2019, eq. 4)
    g = w ⊙ dy,   dx = (g − n·mean(g ⊙ n)) / √(mean x² + ε),   dw = Σ dy ⊙ n

x, y: (rows, width) in the storage type; w: (width,). Computed in float32; n is rounded to the storage type before it meets w, as
Hugging Face's Llama does. Expected error: 1e-6 relative in float32; in 16 bits that of the storage, 2⁻¹¹ or 2⁻⁸ for each rounding.

In CUDA a block has a row: it goes over it once for the sum and once more, when the row is in the cache, for the result. So x is read
and y written once, where NumPy's body makes four arrays of x's size.
"""

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels.cuda import fused, kernel, launch, pack_of, threads_of

SOURCE = r"""
extern "C" __global__ void forward(const T* x, const T* weight, T* y, float* inverse, long long width, float epsilon) {
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    float squares = 0;
    for (long long i = threadIdx.x; i < width / N; i += blockDim.x) {
        const Pack<T> some = pack(x, i);
        for (int j = 0; j < N; j++) squares += float(some.value[j]) * float(some.value[j]);
    }
    const float root = 1 / sqrtf(block_sum(squares) / width + epsilon);
    for (long long i = threadIdx.x; i < width / N; i += blockDim.x) {
        Pack<T> some = pack(x, i);
        const Pack<T> weights = pack(weight, i);
        for (int j = 0; j < N; j++) some.value[j] = T(float(T(float(some.value[j]) * root)) * float(weights.value[j]));
        pack(y, i) = some;
    }
    if (threadIdx.x == 0) inverse[blockIdx.x] = root;
}

extern "C" __global__ void backward(
    const T* dy, const T* x, const T* weight, const float* inverse, T* dx, long long width
) {
    dy += blockIdx.x * width;
    x += blockIdx.x * width;
    dx += blockIdx.x * width;
    const float root = inverse[blockIdx.x];
    float sum = 0;
    for (long long i = threadIdx.x; i < width / N; i += blockDim.x) {
        const Pack<T> back = pack(dy, i), some = pack(x, i), weights = pack(weight, i);
        for (int j = 0; j < N; j++)
            sum += float(back.value[j]) * float(weights.value[j]) * float(some.value[j]) * root;
    }
    const float mean = block_sum(sum) / width;
    for (long long i = threadIdx.x; i < width / N; i += blockDim.x) {
        const Pack<T> back = pack(dy, i), weights = pack(weight, i);
        Pack<T> some = pack(x, i);
        for (int j = 0; j < N; j++) {
            const float g = float(back.value[j]) * float(weights.value[j]);
            some.value[j] = T(root * (g - float(some.value[j]) * root * mean));
        }
        pack(dx, i) = some;
    }
}
"""


def forward(x: Array, weight: Array, epsilon: float, xp: ArrayModule) -> tuple[Array, Array]:
    """(y, inverse root (rows, 1) float32, which `backward` needs)."""
    if fused(xp):
        rows, width = x.shape
        y, inverse = xp.empty_like(x), xp.empty((rows, 1), dtype=xp.float32)
        pack = pack_of(width, x)
        run = kernel(xp, SOURCE, "forward", x.dtype.name, pack)
        launch(run, (rows,), (threads_of(width, pack),), x, weight, y, inverse, width, epsilon)
        return y, inverse
    wide = x.astype(xp.float32, copy=False)
    inverse = 1 / xp.sqrt((wide * wide).mean(axis=-1, keepdims=True) + epsilon)
    return (wide * inverse).astype(x.dtype, copy=False) * weight, inverse


def backward(dy: Array, x: Array, weight: Array, inverse: Array, xp: ArrayModule) -> Array:
    """dx, in the type of x."""
    if fused(xp):
        rows, width = x.shape
        dx, pack = xp.empty_like(x), pack_of(width, x)
        run = kernel(xp, SOURCE, "backward", x.dtype.name, pack)
        launch(run, (rows,), (threads_of(width, pack),), dy, x, weight, inverse, dx, width)
        return dx
    normed = x.astype(xp.float32, copy=False) * inverse
    g = dy.astype(xp.float32, copy=False) * weight.astype(xp.float32, copy=False)
    return (inverse * (g - normed * (g * normed).mean(axis=-1, keepdims=True))).astype(x.dtype, copy=False)


def weight_gradient(dy: Array, x: Array, inverse: Array, xp: ArrayModule) -> Array:
    """dw: (width,) float32. Without a CUDA body: adapters do not train norms."""
    return (dy.astype(xp.float32, copy=False) * (x.astype(xp.float32, copy=False) * inverse)).sum(axis=0)
