"""What a device says when it fails, told from what a task does wrong: by the error's name or sentence, so that no CUDA library is needed.

A CUDA context that has met one of the sticky errors fails every later call with the same error (CUDA runtime API, "sticky errors"), so its
process must be replaced. Libraries on top of it then report a failed execution of their own. PyTorch says the driver's sentence, not always the name.
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

OUT_OF_MEMORY_PHRASES = ("CUDA out of memory", "CUDA error: out of memory")
STICKY_PHRASES = (
    "CUDA error: an illegal memory access", "CUDA error: device-side assert", "CUDA error: unspecified launch failure",
    "CUDA error: an illegal instruction", "CUDA error: misaligned address", "CUDA error: uncorrectable ECC error",
    "CUDA error: the launch timed out",
)  # fmt: skip

_NAME = re.compile(r"cudaError\w+|CUDA_ERROR_\w+|CUBLAS_STATUS_\w+|CUFFT_\w+")


def device_fault(error: BaseException) -> DeviceFault | None:
    """Looks at the error and at those that it came from; a poisoned context outweighs what it caused."""
    found: DeviceFault | None = None
    for each in _chain(error):
        text = str(each)
        names = set(_NAME.findall(text))
        if names & STICKY or any(phrase in text for phrase in STICKY_PHRASES):
            return "device_poisoned"
        if (
            isinstance(each, MemoryError)
            or names & OUT_OF_MEMORY
            or any(phrase in text for phrase in OUT_OF_MEMORY_PHRASES)
        ):
            found = "out_of_memory"
    return found


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
