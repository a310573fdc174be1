"""What a device says when it fails, in the words of CuPy, the driver, PyTorch and the libraries between them."""

import pytest

from dihedral.bridge.tasks.device_faults import (
    OUT_OF_MEMORY,
    STICKY,
    STICKY_NUMBERS,
    STICKY_SENTENCES,
    DeviceFault,
    device_fault,
)

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
        ("CUDA driver error: out of memory", "out_of_memory"),
        ("cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "out_of_memory"),
        ("GET was unable to find an engine: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "out_of_memory"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED", "device_poisoned"),
        ("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED_CUDART", "device_poisoned"),
        ("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR", None),
        ("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED", None),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "out_of_memory"),
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", None),
        ("CUFFT_ALLOC_FAILED", "out_of_memory"),
        ("cuFFT error: CUFFT_EXEC_FAILED", "device_poisoned"),
        ("cuFFT error: CUFFT_INVALID_SIZE", None),
        ("CURAND_STATUS_PREEXISTING_FAILURE", "device_poisoned"),
        (
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 'out of memory'",
            "out_of_memory",
        ),
        (
            "ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 2 'out of memory'",
            "out_of_memory",
        ),
        ("Last error:\nCuda failure 700 'an illegal memory access was encountered'", "device_poisoned"),
        ("ncclUnhandledCudaError: Call to CUDA function failed.\nLast error:\nCuda failure 1 'invalid argument'", None),
        ("ncclRemoteError: A call failed possibly due to a network error", None),
        ("CUDA error: invalid argument", None),
        ("CUDA error: no kernel image is available for execution on the device", None),
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


@pytest.mark.parametrize("name", sorted(STICKY))
def test_every_name_of_a_broken_context_is_found(name: str) -> None:
    assert device_fault(RuntimeError(f"error {name} (1)")) == "device_poisoned"
    assert device_fault(RuntimeError(f"error {name}_OR_ANOTHER")) is None


@pytest.mark.parametrize("name", sorted(OUT_OF_MEMORY))
def test_every_name_of_missing_memory_is_found(name: str) -> None:
    assert device_fault(RuntimeError(f"{name}: x")) == "out_of_memory"


@pytest.mark.parametrize("sentence", STICKY_SENTENCES)
@pytest.mark.parametrize(
    "said", ["CUDA error: {}", "CUDA driver error: {}", "Cuda failure '{}'", "Cuda failure 7 '{}'"]
)
def test_the_drivers_sentences_are_known_where_they_are_said_as_its_own(sentence: str, said: str) -> None:
    assert device_fault(RuntimeError(said.format(sentence))) == "device_poisoned"
    assert device_fault(RuntimeError(f"the parser found {sentence}")) is None


def torch_error(name: str, text: str, module: str = "torch", **more: object) -> BaseException:
    """PyTorch is not installed: an error whose class is named as its."""
    error: BaseException = type(name, (RuntimeError,), {"__module__": module})(text)
    vars(error).update(more)
    return error


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (torch_error("OutOfMemoryError", "Allocation on device"), "out_of_memory"),
        (torch_error("OutOfMemoryError", "Allocation on device", "torch.cuda"), "out_of_memory"),
        (torch_error("OutOfMemoryError", "no more rows", "torchlight.tables"), None),
        (torch_error("AcceleratorError", "CUDA error: something new", error_code=719), "device_poisoned"),
        (torch_error("AcceleratorError", "CUDA error: something new", error_code=2), "out_of_memory"),
        (torch_error("AcceleratorError", "CUDA error: invalid argument", error_code=1), None),
        (torch_error("AcceleratorError", "XPU error: something", error_code=719), None),
        (torch_error("AcceleratorError", "CUDA error: device-side assert triggered"), "device_poisoned"),
        (torch_error("HTTPError", "CUDA is not served here", error_code=700), None),
    ],
    ids=str,
)
def test_what_pytorch_raises_is_known_by_its_class(error: BaseException, fault: DeviceFault | None) -> None:
    assert device_fault(error) == fault


def test_success_and_ordinary_mistakes_have_no_number_among_the_sticky_ones() -> None:
    assert not STICKY_NUMBERS & {0, 1, 2, 3, 98, 100, 101, 200, 209, 400, 600, 701, 720, 800, 801, 900}
