"""Fused CUDA kernels: how a module of kernels holds its CUDA source, and how it is compiled and launched.

A function that has a CUDA body beside its NumPy one calls `fused(xp)` to choose the one to run; the NumPy body is the reference. The source
is text in the module, named SOURCE: CUDA C++ behind PREAMBLE, of kernels `extern "C" __global__ void name(…)`.

- Parameters are pointers, `long long` and `float`; `launch` hands over arrays, int and float, and refuses those of another type.
- T is the storage type and N the number of values that a thread takes at once; the same source is compiled for each T and N that is
  asked for. `float(x)` and `T(x)` convert, the latter to the nearest, ties to even. Arithmetic is in float.
- Shared memory is static. Every thread of a block comes to every `__syncthreads` and shuffle, so none returns before the last of them.

The last rule lets a compiler for the CPU run the same source, a block as coroutines, and compare it with the NumPy body where there
is no GPU (`tests/kernels`). NVRTC compiles it for the device at the first launch; CuPy keeps the binary on disk.
"""

import functools
import re
from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule

TYPES = {"float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16"}
_NAMES = {"float": "float32", "long long": "int64"}  # of what a parameter is or points at; anything else is bytes
WIDEST = 16  # bytes that a thread reads or writes at once
REGISTERS = "--maxrregcount=64"  # of a thread, so that 1,024 of them find room in the 65,536 of a multiprocessor
PREAMBLE = r"""
#include <cuda_fp16.h>
#include <cuda_bf16.h>

using T = STORAGE;
constexpr int N = PACK;
#define LOWEST (-3.4e38f)  // where a maximum begins: unlike with −∞ a difference to it is a number

template <class V> struct alignas(sizeof(V) * N) Pack { V value[N]; };

// The pack number i of an array, in one access where it has up to 16 bytes.
template <class V> __device__ inline Pack<V>& pack(V* array, long long i) { return reinterpret_cast<Pack<V>*>(array)[i]; }
template <class V> __device__ inline const Pack<V>& pack(const V* array, long long i) {
    return reinterpret_cast<const Pack<V>*>(array)[i];
}

// The sum over the threads of a block (a multiple of 32, blockDim.x), to each of them.
__device__ inline float block_sum(float value) {
    __shared__ float parts[32];
    for (int lane = 16; lane > 0; lane /= 2) value += __shfl_xor_sync(0xffffffffu, value, lane);
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    float total = 0;
    for (int warp = 0; warp < blockDim.x / 32; warp++) total += parts[warp];
    __syncthreads();  // before the next sum overwrites the parts
    return total;
}

// The largest over the threads of a block.
__device__ inline float block_max(float value) {
    __shared__ float parts[32];
    for (int lane = 16; lane > 0; lane /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, lane));
    if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = value;
    __syncthreads();
    float largest = parts[0];
    for (int warp = 1; warp < blockDim.x / 32; warp++) largest = fmaxf(largest, parts[warp]);
    __syncthreads();
    return largest;
}
"""


class Kernel(NamedTuple):
    """function: CuPy's. takes: the dtype of each parameter, of what it points at where it is a pointer."""

    function: Any
    takes: tuple["np.dtype[Any]", ...]


def fused(xp: ArrayModule) -> bool:
    """Returns True when arrays of this module can be given to a CUDA kernel."""
    return hasattr(xp, "RawKernel")


@functools.cache
def kernel(xp: ArrayModule, source: str, name: str, storage: str = "float32", pack: int = 1) -> Kernel:
    """The kernel of that name, one object per process and options. `storage`: what T is, by the name of the dtype; `pack`: what N is."""
    options = ("-std=c++17", REGISTERS, f"-DSTORAGE={TYPES[storage]}", f"-DPACK={pack}")
    declared = re.search(rf"__global__ void {name}\(([^)]*)\)", source)
    if declared is None:
        raise ValueError(f"the source has no kernel {name!r}")
    kinds = re.findall(r"(?:const )?(\w+(?: long)?)[^,]*", declared[1])
    takes = tuple(np.dtype(storage if kind == "T" else _NAMES.get(kind, "uint8")) for kind in kinds)
    return Kernel(xp.RawKernel(PREAMBLE + source, name, options), takes)


def launch(kernel: Kernel, blocks: tuple[int, ...], threads: tuple[int, ...], *arguments: Array | int | float) -> None:
    """Runs a kernel on the current stream.

    Raises: ValueError where an argument is of another type than the kernel was compiled for, or an array has gaps or another order than
        C's, since the kernel is given nothing but its address.
    """
    handed: list[Any] = []
    for argument, expected in zip(arguments, kernel.takes, strict=True):
        value: Any = argument
        if isinstance(argument, int):
            value = np.int64(argument)
        elif isinstance(argument, float):
            value = np.float32(argument)
        elif not argument.flags.c_contiguous:
            raise ValueError(f"an array of shape {argument.shape} and strides {argument.strides} is not contiguous")
        if value.dtype != expected:
            raise ValueError(f"argument {len(handed)} is {value.dtype}, the kernel takes {expected}")
        handed.append(value)
    kernel.function(blocks, threads, tuple(handed))


def pack_of(size: int, *arrays: Array) -> int:
    """Returns N for arrays whose rows have `size` values: as many of the narrowest type as have 16 bytes, 1 where rows are no multiple of that.

    The arrays begin at a multiple of 16 bytes, as whatever CuPy allocates and any row of it does.
    """
    pack = WIDEST // min(array.itemsize for array in arrays)
    return pack if size % pack == 0 else 1


def threads_of(size: int, pack: int) -> int:
    """Threads of a block that goes over `size` values: one for each pack, as whole warps, 1024 at most."""
    return min(1024, 32 * -(-size // (32 * pack)))


def grid_of(size: int, pack: int) -> tuple[tuple[int], tuple[int]]:
    """(blocks,), (threads,) for one thread to each pack of `size` values."""
    threads = min(256, threads_of(size, pack))
    return (-(-size // (threads * pack)),), (threads,)
