"""What the emulation must notice, or a comparison on it would prove nothing."""

import ml_dtypes
import numpy as np
import pytest

from dihedral.data_plane.kernels import cuda
from tests.kernels import emulation
from tests.kernels.emulation import Emulation
from tests.support.servers import skip

SOURCE = r"""
extern "C" __global__ void shift(const float* x, float* y, long long guarded) {
    __shared__ float kept[64];
    kept[threadIdx.x] = x[threadIdx.x];
    if (guarded) __syncthreads();
    y[threadIdx.x] = kept[(threadIdx.x + 1) % 64];
}
extern "C" __global__ void half_waits(float* y) {
    if (threadIdx.x < 32) __syncthreads();
}
extern "C" __global__ void beyond(float* y, long long size) { y[size] = 1; }
extern "C" __global__ void position(float* y) {
    const long long block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const long long thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    const long long i = block * blockDim.x * blockDim.y * blockDim.z + thread;
    y[i] = i;
}
extern "C" __global__ void sums(const float* x, float* sum, float* largest) {
    sum[threadIdx.x] = block_sum(x[threadIdx.x]) + block_sum(1);
    largest[threadIdx.x] = block_max(x[threadIdx.x]);
}
extern "C" __global__ void stored(const float* x, T* y) { y[threadIdx.x] = T(x[threadIdx.x]); }
"""


@pytest.fixture(autouse=True)
def _compiler() -> None:
    if emulation.COMPILER is None:
        skip("c++", "there is no C++ compiler")


def test_a_barrier_that_is_missing_changes_the_result() -> None:
    x = np.arange(64, dtype=np.float32)
    for guarded in (True, False):
        right = []
        for backwards in (False, True):
            xp = Emulation(backwards)
            y = xp.empty(64, np.float32)
            cuda.launch(cuda.kernel(xp, SOURCE, "shift"), (1,), (64,), x, y, int(guarded))
            right.append((y == np.roll(x, -1)).all())
        assert all(right) == guarded


def test_threads_that_part_at_a_barrier_and_a_write_beyond_an_array_are_found() -> None:
    xp = Emulation()
    y = xp.empty(64, np.float32)
    with pytest.raises(AssertionError, match="half_waits"):
        cuda.launch(cuda.kernel(xp, SOURCE, "half_waits"), (1,), (64,), y)
    cuda.launch(cuda.kernel(xp, SOURCE, "beyond"), (1,), (1,), y, 63)
    assert xp.nothing_around_was_written()
    y = xp.empty(64, np.float32)
    cuda.launch(cuda.kernel(xp, SOURCE, "beyond"), (1,), (1,), y, 64)
    assert not xp.nothing_around_was_written()


def test_an_array_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        cuda.launch(cuda.kernel(Emulation(), SOURCE, "beyond"), (1,), (1,), np.zeros((4, 4), np.float32).T, 0)


def test_arguments_of_another_type_or_number_than_the_kernel_was_compiled_for_are_refused() -> None:
    xp = Emulation()
    x, y = xp.empty(64, np.float32), xp.empty(64, np.float16)
    stored = cuda.kernel(xp, SOURCE, "stored", "bfloat16")
    for arguments in ((x, x), (y, y), (x, y)):
        with pytest.raises(ValueError, match=r"the kernel takes (float32|bfloat16)"):
            cuda.launch(stored, (1,), (64,), *arguments)
    with pytest.raises(ValueError, match="argument 1 is float32, the kernel takes int64"):
        cuda.launch(cuda.kernel(xp, SOURCE, "beyond"), (1,), (1,), x, 0.0)
    with pytest.raises(ValueError, match="longer"):
        cuda.launch(stored, (1,), (64,), x)
    with pytest.raises(ValueError, match="no kernel 'elsewhere'"):
        cuda.kernel(xp, SOURCE, "elsewhere")


@pytest.mark.parametrize("backwards", [False, True])
def test_blocks_threads_and_sums_are_those_of_cuda(backwards: bool) -> None:
    xp = Emulation(backwards)
    y = xp.empty(2 * 3 * 4 * 5 * 2 * 3, np.float32)
    cuda.launch(cuda.kernel(xp, SOURCE, "position"), (2, 3, 4), (5, 2, 3), y)
    assert y.tolist() == list(range(len(y)))
    x = np.random.default_rng(0).normal(size=96).astype(np.float32)
    added, largest = xp.empty(96, np.float32), xp.empty(96, np.float32)
    cuda.launch(cuda.kernel(xp, SOURCE, "sums"), (1,), (96,), x, added, largest)
    assert added == pytest.approx(x.sum() + 96, rel=1e-5)
    assert (largest == x.max()).all()


@pytest.mark.parametrize("storage", ["float16", "bfloat16"])
def test_sixteen_bits_are_rounded_as_numpy_rounds_them(storage: str) -> None:
    kind = np.dtype(ml_dtypes.bfloat16 if storage == "bfloat16" else np.float16)
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1024, np.uint32)
    x = bits.view(np.float32)
    x[:6] = 0.0, -0.0, np.inf, 65519.9, 65520.0, 1e-45
    x[6:518] = (np.arange(512, dtype=np.float32) + 0.5) / 2**8 * np.float32(1 + 2**-8)  # ties, and next to them
    xp = Emulation()
    y = xp.empty(1024, kind)
    cuda.launch(cuda.kernel(xp, SOURCE, "stored", storage), (1,), (1024,), x, y)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = x.astype(kind)
    nan = np.isnan(x)
    assert (y.view(np.uint16)[~nan] == expected.view(np.uint16)[~nan]).all()
    assert np.isnan(y.astype(np.float32)[nan]).all()
