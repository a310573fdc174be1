"""Opening a safetensors file of somebody. Its header is bounded first: parsed, it takes 15 times its size, and the format allows 100 MB of it.

Hundreds of layers have a header of a megabyte.
"""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

HEADER_BYTES = 8 << 20


def open_tensors(path: Path) -> Any:
    """Opens the file with NumPy's arrays; sizes, offsets and types fit it. Raises SafetensorError or OSError."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
    if size > HEADER_BYTES:
        raise SafetensorError(f"its header has {size >> 20} MiB; {HEADER_BYTES >> 20} are possible")
    return safe_open(path, framework="numpy")
