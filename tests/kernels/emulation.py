"""NumPy with CuPy's RawKernel, whose CUDA source a C++ compiler makes run on the CPU: the `xp` that fused kernels are tried with.

It is for what a test of source and launch needs: grids, blocks, barriers, shuffles, static shared memory, storage in 16 bits, memory around
arrays that nobody may touch. What it cannot show is what only a device has: races within a warp, its rounding of expf, speed.
"""

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from dihedral.data_plane.kernels import cuda

HEADER = Path(__file__).with_name("emulation.hpp")
MADE = Path(__file__).parents[2] / "build" / "emulation"  # shared by the processes of a test run
COMPILER = shutil.which("c++")
FENCE = 64  # bytes before and behind an array, all ones: NaN in every type of storage


class Emulation:
    """The array module. `backwards`: the last thread of a block begins, not the first."""

    __name__ = "numpy"  # everything but RawKernel is

    def __init__(self, backwards: bool = False) -> None:
        self.backwards = backwards
        self.fenced: list[np.ndarray] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def empty(self, shape: Any, dtype: Any = float) -> np.ndarray:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = np.full(FENCE + -(-size // FENCE) * FENCE + 2 * FENCE, 0xFF, np.uint8)
        start = -memory.ctypes.data % FENCE + FENCE
        self.fenced += [memory[:start], memory[start + size :]]
        return memory[start : start + size].view(dtype).reshape(shape)

    def empty_like(self, array: np.ndarray) -> np.ndarray:
        return self.empty(array.shape, array.dtype)

    def asarray(self, array: Any, dtype: Any = None) -> np.ndarray:
        array = np.asarray(array, dtype)
        copy = self.empty_like(array)
        copy[...] = array
        return copy

    def nothing_around_was_written(self) -> bool:
        """Of all arrays since the last question."""
        fences, self.fenced = self.fenced, []
        return all((fence == 0xFF).all() for fence in fences)

    def RawKernel(self, code: str, name: str, options: tuple[str, ...] = ()) -> Any:
        launch = getattr(ctypes.CDLL(str(library(code, options))), f"launch_{name}")
        together = "-DPACK=1" not in options

        def run(blocks: tuple[int, ...], threads: tuple[int, ...], arguments: tuple[Any, ...]) -> None:
            assert 0 < np.prod(threads) <= 1024
            read_in_packs = [each for each in arguments if isinstance(each, np.ndarray) and each.dtype.kind != "i"]
            assert not together or all(array.ctypes.data % 16 == 0 for array in read_in_packs)
            shape = (ctypes.c_uint * 6)(*(*blocks, 1, 1)[:3], *(*threads, 1, 1)[:3])
            values = [np.array(each.ctypes.data if isinstance(each, np.ndarray) else each) for each in arguments]
            addresses = (ctypes.c_void_p * len(values))(*(value.ctypes.data for value in values))
            assert not launch(shape, int(self.backwards), addresses), f"{name}: threads of a block part at a barrier"

        return run


@cache
def library(code: str, options: tuple[str, ...]) -> Path:
    """Every kernel of a source, compiled once for all processes: the file bears the digest of what it is made of."""
    assert COMPILER is not None
    include = MADE / "include"
    include.mkdir(parents=True, exist_ok=True)
    for empty in ("cuda_fp16.h", "cuda_bf16.h"):
        (include / empty).touch()
    text = code
    for name in re.findall(r"__global__ void (\w+)\(", code):
        text += f'extern "C" int launch_{name}(const unsigned* shape, int backwards, void** arguments) {{\n'
        text += f"    return emulation::launch({name}, shape, backwards, arguments);\n}}\n"
    command = [
        COMPILER,
        "-shared",
        "-fPIC",
        "-O1",
        "-ffp-contract=off",
        "-w",
        "-I",
        str(include),
        "-include",
        str(HEADER),
    ]
    command += [
        "-Wl,-Bsymbolic",
        *[option for option in options if option != cuda.REGISTERS],
    ]  # a kernel may be called like a function of libc
    digest = hashlib.sha256(repr((text, command, HEADER.read_text())).encode()).hexdigest()[:32]
    made = MADE / f"{digest}.so"
    if not made.exists():
        source, shared = (MADE / f"{digest}.{os.getpid()}{kind}" for kind in (".cpp", ".so"))
        source.write_text(text)
        subprocess.run([*command, "-o", str(shared), str(source)], check=True)
        shared.rename(made)
        source.unlink()
    return made
