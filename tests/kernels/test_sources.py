"""Every CUDA source of the house, compiled for three generations of GPUs by NVRTC; no GPU is needed for that."""

import pkgutil
import re
from importlib import import_module
from typing import Any

import ml_dtypes  # noqa: F401 (NumPy knows the name bfloat16 by it)
import pytest

import dihedral.data_plane.kernels
from dihedral.data_plane.kernels import cuda
from tests.kernels import nvrtc
from tests.support.servers import skip

ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
STORED = (("float32", 1), ("float32", 4), ("float16", 8), ("bfloat16", 8))
KERNELS = [
    import_module(f"dihedral.data_plane.kernels.{each.name}")
    for each in pkgutil.iter_modules(dihedral.data_plane.kernels.__path__)
]
WITH_SOURCE = {module.__name__.rpartition(".")[2]: module for module in KERNELS if hasattr(module, "SOURCE")}


class Options:
    """An array module that hands out what a kernel would be compiled with."""

    def RawKernel(self, code: str, name: str, options: tuple[str, ...]) -> Any:
        return code, options


@pytest.fixture(autouse=True)
def _installed() -> None:
    try:
        nvrtc.library(), nvrtc.folder("nvidia.cuda_runtime")
    except ModuleNotFoundError as error:
        skip("nvrtc", f"not installed: {error}")


@pytest.mark.parametrize("name", WITH_SOURCE)
def test_every_source_compiles_for_every_generation_and_keeps_to_its_registers(name: str) -> None:
    source = WITH_SOURCE[name].SOURCE
    any_kernel = re.findall(r"__global__ void (\w+)", source)[0]
    for storage, pack in STORED:
        code, options = cuda.kernel(Options(), source, any_kernel, storage, pack).function
        for architecture in ARCHITECTURES if pack > 1 else ARCHITECTURES[:1]:
            size, said = nvrtc.compiled(code, architecture, (*options, "--ptxas-options=-v"))
            where = f"{architecture}, {storage}, {pack} at once: {said}"
            assert size > 0, where
            assert "warning" not in said, where
            assert set(re.findall(r"(\d+) bytes spill", said)) == {"0"}, where


def test_a_mistake_is_found_in_its_line() -> None:
    size, said = nvrtc.compiled("\n__global__ void wrong() { return nowhere; }", "sm_90", ())
    assert size == 0
    assert 'source.cu(2): error: identifier "nowhere" is undefined' in said
