"""NVRTC by itself, of the packages nvidia-cuda-nvrtc-cu12 and nvidia-cuda-runtime-cu12 (for its headers): no driver and no CuPy is needed."""

import ctypes
from functools import cache
from importlib.util import find_spec
from pathlib import Path


def folder(package: str) -> Path:
    """Raises: ModuleNotFoundError where it is not installed."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise ModuleNotFoundError(package)
    return Path(next(iter(found.submodule_search_locations)))


@cache
def library() -> ctypes.CDLL:
    return ctypes.CDLL(str(next(folder("nvidia.cuda_nvrtc").glob("lib/libnvrtc.so.*"))))


def compiled(source: str, architecture: str, options: tuple[str, ...]) -> tuple[int, str]:
    """(bytes of the binary, 0 where there is none; what the compiler said of the source)."""
    given = [f"-arch={architecture}", f"-I{folder('nvidia.cuda_runtime') / 'include'}", *options]
    program, size = ctypes.c_void_p(), ctypes.c_size_t()
    nvrtc = library()
    assert not nvrtc.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"source.cu", 0, None, None)
    try:
        failed = nvrtc.nvrtcCompileProgram(
            program, len(given), (ctypes.c_char_p * len(given))(*(option.encode() for option in given))
        )
        assert not nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        said = ctypes.create_string_buffer(size.value)
        assert not nvrtc.nvrtcGetProgramLog(program, said)
        if not failed:
            assert not nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        return 0 if failed else size.value, said.value.decode().strip()
    finally:
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
