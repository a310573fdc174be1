"""What a device says when it fails, in the words of CuPy, the driver and PyTorch."""

import pytest

from bridge.faults import DeviceFault, device_fault

# As PyTorch 2 words them.
ILLEGAL = """CUDA error: an illegal memory access was encountered
Search for `cudaErrorIllegalAddress' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html for more information.
CUDA kernel errors might be asynchronously reported at some other API call."""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("cudaErrorIllegalAddress: an illegal memory access was encountered", "device_poisoned"),
        ("CUDA_ERROR_LAUNCH_FAILED: unspecified launch failure", "device_poisoned"),
        (ILLEGAL, "device_poisoned"),
        ("CUDA error: device-side assert triggered\nCompile with `TORCH_USE_CUDA_DSA`", "device_poisoned"),
        ("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb)`", "device_poisoned"),
        ("cudaErrorMemoryAllocation: out of memory", "out_of_memory"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.65 GiB", "out_of_memory"),
        ("CUDA error: out of memory", "out_of_memory"),
        ("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory"),
        ("cudaErrorInvalidValue: invalid argument", None),
        ("the file is out of memory lane", None),
    ],
)
def test_a_fault_is_known_wherever_the_text_names_it(text: str, fault: DeviceFault | None) -> None:
    assert device_fault(RuntimeError(text)) == fault


def test_a_broken_context_outweighs_what_it_caused() -> None:
    error = MemoryError("CUDA out of memory")
    error.__cause__ = RuntimeError(ILLEGAL)
    assert device_fault(error) == "device_poisoned"
