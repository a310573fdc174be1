"""A CUDA source as C++: enough of the language to run kernels that know neither barriers nor shared memory, thread by thread."""

import ctypes
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

COMPILER = shutil.which("c++")
_BEFORE = """
#include <cmath>
#define __device__
#define __global__
struct Index { unsigned x, y; };
static Index blockIdx, threadIdx, blockDim;
"""
_BEHIND = """
extern "C" void run(const unsigned* shape, const Frame* frame, unsigned char* out) {
    blockDim = {shape[2], shape[3]};
    for (blockIdx.y = 0; blockIdx.y < shape[1]; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < shape[0]; blockIdx.x++)
            for (threadIdx.y = 0; threadIdx.y < blockDim.y; threadIdx.y++)
                for (threadIdx.x = 0; threadIdx.x < blockDim.x; threadIdx.x++) render_frame(frame, out);
}
"""


@cache
def library(source: str) -> Any:
    folder = Path(mkdtemp(prefix="dihedral-cuda-"))
    try:
        (folder / "source.cpp").write_text(_BEFORE + source + _BEHIND)
        command = [str(COMPILER), "-std=c++17", "-O2", "-ffp-contract=off", "-shared", "-fPIC", "-Wall", "-Werror"]
        subprocess.run([*command, "-o", str(folder / "made.so"), str(folder / "source.cpp")], check=True)
        return ctypes.CDLL(str(folder / "made.so"))
    finally:
        shutil.rmtree(folder)


class Emulated:
    """NumPy with CuPy's RawKernel for `kernels.frame`."""

    __name__ = "numpy"

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    def RawKernel(self, source: str, name: str, options: tuple[str, ...]) -> Any:
        assert name == "render_frame"

        def launch(blocks: tuple[int, int], threads: tuple[int, int], arguments: tuple[Any, Any]) -> None:
            shape = np.array([*blocks, *threads], dtype=np.uint32)
            library(source).run(*(ctypes.c_void_p(array.ctypes.data) for array in (shape, *arguments)))

        return launch
