"""Tells failures of a device from errors of a task, by the error's name or message, so that no CUDA library is needed.

A CUDA context that has met one of the sticky errors fails every later call with the same error ("leaves the process in an inconsistent state",
CUDA runtime API, `cudaError_t`), so its process must be replaced. Libraries on top of it then report a failed execution of their own: that may
have other causes too, memory among them (BVLC/caffe#2197, pytorch/pytorch#119420), but a new process is right for all of them.

CuPy and the driver report names. PyTorch and NCCL report the driver's message, and not always the name; PyTorch's `AcceleratorError` has the number.
Left out are names that mean neither: CUDNN_STATUS_INTERNAL_ERROR (also where there is no memory to load a kernel, pytorch/pytorch#81620),
CUBLAS_STATUS_NOT_INITIALIZED, and NCCL's own (`ncclSystemError`, `ncclInternalError`, `ncclRemoteError`): a socket, a bug, another process.
"""

import re
from collections.abc import Iterator
from typing import Literal

DeviceFault = Literal["out_of_memory", "device_poisoned"]

OUT_OF_MEMORY = frozenset(
    {
        "cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
        "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED", "CUFFT_ALLOC_FAILED",
        "CURAND_STATUS_ALLOCATION_FAILED", "CUSOLVER_STATUS_ALLOC_FAILED", "CUSPARSE_STATUS_ALLOC_FAILED",
    }
)  # fmt: skip
STICKY = frozenset(
    {
        "cudaErrorIllegalAddress", "cudaErrorLaunchFailure", "cudaErrorLaunchTimeout", "cudaErrorIllegalInstruction",
        "cudaErrorMisalignedAddress", "cudaErrorInvalidAddressSpace", "cudaErrorInvalidPc", "cudaErrorHardwareStackError",
        "cudaErrorAssert", "cudaErrorECCUncorrectable", "cudaErrorNvlinkUncorrectable", "cudaErrorContextIsDestroyed",
        "cudaErrorContained", "cudaErrorTensorMemoryLeak", "cudaErrorMpsClientTerminated", "cudaErrorExternalDevice",
        "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT", "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_MISALIGNED_ADDRESS", "CUDA_ERROR_INVALID_ADDRESS_SPACE", "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_HARDWARE_STACK_ERROR", "CUDA_ERROR_ASSERT", "CUDA_ERROR_ECC_UNCORRECTABLE", "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED", "CUDA_ERROR_CONTAINED", "CUDA_ERROR_TENSOR_MEMORY_LEAK", "CUDA_ERROR_MPS_CLIENT_TERMINATED",
        "CUDA_ERROR_EXTERNAL_DEVICE",
        "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "CUFFT_EXEC_FAILED", "CUFFT_INTERNAL_ERROR",
        "CUDNN_STATUS_EXECUTION_FAILED", "CUDNN_STATUS_EXECUTION_FAILED_CUDA_DRIVER", "CUDNN_STATUS_EXECUTION_FAILED_CUBLAS",
        "CUDNN_STATUS_EXECUTION_FAILED_CUDART", "CUDNN_STATUS_EXECUTION_FAILED_CURAND", "CUSOLVER_STATUS_EXECUTION_FAILED",
        "CUSPARSE_STATUS_EXECUTION_FAILED", "CURAND_STATUS_LAUNCH_FAILURE", "CURAND_STATUS_PREEXISTING_FAILURE",
    }
)  # fmt: skip

STICKY_SENTENCES = (
    "an illegal memory access", "device-side assert", "unspecified launch failure", "an illegal instruction", "misaligned address",
    "uncorrectable ECC error", "the launch timed out", "hardware stack error", "operation not supported on global/shared address space",
    "invalid program counter", "uncorrectable NVLink error", "context is destroyed", "Invalid access of peer GPU memory",
)  # fmt: skip
"""The beginnings of the driver's messages (`cudaGetErrorString`)."""

STICKY_NUMBERS = frozenset({214, 220, 226, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719, 721, 810, 911})
OUT_OF_MEMORY_NUMBER = 2

_NAME = re.compile(r"cudaError\w+|CUDA_ERROR_\w+|CU(?:BLAS|DNN|RAND|SOLVER|SPARSE)_STATUS_\w+|CUFFT_\w+")
_SAYS = r"(?:CUDA error: |CUDA driver error: |Cuda failure (?:\d+ )?')"  # PyTorch, its driver API, NCCL
_SAYS_STICKY = re.compile(_SAYS + f"(?:{'|'.join(map(re.escape, STICKY_SENTENCES))})")
_SAYS_OUT_OF_MEMORY = re.compile(f"CUDA out of memory|{_SAYS}out of memory")


def device_fault(error: BaseException) -> DeviceFault | None:
    """Classifies the error and the errors that caused it; a poisoned context outweighs its consequences."""
    found: DeviceFault | None = None
    for each in _chain(error):
        text = str(each)
        names = set(_NAME.findall(text))
        number = _number(each)
        if names & STICKY or number in STICKY_NUMBERS or _SAYS_STICKY.search(text):
            return "device_poisoned"
        if (
            isinstance(each, MemoryError)
            or _is_of_torch(each, "OutOfMemoryError")
            or names & OUT_OF_MEMORY
            or number == OUT_OF_MEMORY_NUMBER
            or _SAYS_OUT_OF_MEMORY.search(text)
        ):
            found = "out_of_memory"
    return found


def _number(error: BaseException) -> int | None:
    """The CUDA error numbers of PyTorch's AcceleratorError; other accelerators have other numbers."""
    number = getattr(error, "error_code", None)
    of_cuda = _is_of_torch(error, "AcceleratorError") and str(error).startswith("CUDA")
    return number if of_cuda and isinstance(number, int) else None


def _is_of_torch(error: BaseException, name: str) -> bool:
    return any(
        each.__name__ == name and each.__module__.partition(".")[0] == "torch" for each in type(error).__mro__
    )  # fmt: skip


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
