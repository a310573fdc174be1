"""What a device says when it fails, told from what a task does wrong: by the name of the error, so that no CUDA library is needed.

A CUDA context that has met one of the sticky errors fails every later call with the same error (CUDA runtime API, "sticky errors"), so its
process must be replaced. Libraries on top of it then report a failed execution of their own.
"""

import re
from collections.abc import Iterator
from typing import Literal

DeviceFault = Literal["out_of_memory", "device_poisoned"]

OUT_OF_MEMORY = frozenset({"cudaErrorMemoryAllocation", "CUDA_ERROR_OUT_OF_MEMORY", "CUBLAS_STATUS_ALLOC_FAILED"})
STICKY = frozenset(
    {
        "cudaErrorIllegalAddress", "cudaErrorLaunchFailure", "cudaErrorLaunchTimeout", "cudaErrorIllegalInstruction",
        "cudaErrorMisalignedAddress", "cudaErrorInvalidAddressSpace", "cudaErrorInvalidPc", "cudaErrorHardwareStackError",
        "cudaErrorAssert", "cudaErrorECCUncorrectable", "cudaErrorNvlinkUncorrectable", "cudaErrorContextIsDestroyed",
        "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED", "CUDA_ERROR_LAUNCH_TIMEOUT", "CUDA_ERROR_ILLEGAL_INSTRUCTION",
        "CUDA_ERROR_MISALIGNED_ADDRESS", "CUDA_ERROR_INVALID_ADDRESS_SPACE", "CUDA_ERROR_INVALID_PC",
        "CUDA_ERROR_HARDWARE_STACK_ERROR", "CUDA_ERROR_ASSERT", "CUDA_ERROR_ECC_UNCORRECTABLE", "CUDA_ERROR_NVLINK_UNCORRECTABLE",
        "CUDA_ERROR_CONTEXT_IS_DESTROYED", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "CUFFT_EXEC_FAILED",
        "CUFFT_INTERNAL_ERROR",
    }
)  # fmt: skip

_NAME = re.compile(r"cudaError\w+|CUDA_ERROR_\w+|CUBLAS_STATUS_\w+|CUFFT_\w+")


def device_fault(error: BaseException) -> DeviceFault | None:
    """Looks at the error and at those that it came from; a poisoned context outweighs what it caused."""
    found: DeviceFault | None = None
    for each in _chain(error):
        name = _NAME.match(str(each))
        if name is not None and name[0] in STICKY:
            return "device_poisoned"
        if isinstance(each, MemoryError) or (name is not None and name[0] in OUT_OF_MEMORY):
            found = "out_of_memory"
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
