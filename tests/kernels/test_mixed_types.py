"""A base whose file mixes types of storage, trained by the fused kernels: on a GPU all its weights are of one type."""

import json
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from dihedral.data_plane.language import files
from dihedral.data_plane.language.model import EMBEDDING, Config, Model, loss, new_adapter, new_weights
from tests.kernels.comparing import apart

CONFIG = Config(
    vocabulary=16,
    width=16,
    inner=24,
    layers=2,
    heads=2,
    key_heads=1,
    head_dim=8,
    longest=32,
    epsilon=1e-6,
    rope_base=1e4,
    rope_scaling=None,
    tied=True,
    end_ids=(),
)


class NamedCupy:
    """The array module under the name by which `auto` knows a GPU."""

    __name__ = "cupy"

    def __init__(self, xp: Any) -> None:
        self.asarray = xp.asarray


def written(file: Path, weights: dict[str, Any], matrices: str, norms: str) -> Path:
    """safetensors by hand: its NumPy writer has no bfloat16."""
    header, content = {}, b""
    for name, tensor in weights.items():
        kind = matrices if tensor.ndim == 2 else norms
        stored = tensor.astype(ml_dtypes.bfloat16 if kind == "BF16" else np.float32).tobytes()
        offsets = [len(content), len(content) + len(stored)]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": offsets}
        content += stored
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return file


@pytest.mark.parametrize(("matrices", "norms", "storage"), [("BF16", "F32", "bfloat16"), ("F32", "BF16", "float32")])
def test_a_file_of_mixed_types_is_trained_as_numpy_trains_it(
    xp: Any, tmp_path: Path, matrices: str, norms: str, storage: files.Storage
) -> None:
    weights = new_weights(CONFIG, 0)
    names = [name for name in weights if name != EMBEDDING]
    parts = [
        written(tmp_path / "first", {name: weights[name] for name in names}, matrices, norms),
        written(tmp_path / "second", {EMBEDDING: weights[EMBEDDING]}, matrices, norms),
    ]
    there = files.read_weights(parts, CONFIG, "auto", NamedCupy(xp))
    assert {weight.dtype.name for weight in there.values()} == {storage}

    ids = np.arange(24).reshape(2, 12) % 16
    results = []
    for where, base in ((xp, there), (np, files.read_weights(parts, CONFIG, storage, np))):
        adapter = new_adapter(CONFIG, ["q_proj", "up_proj"], 2, 0, where)
        gradients = {name: where.zeros_like(part) for name, part in adapter.items()}
        summed = loss(
            Model(CONFIG, base, adapter, 1.0), where.asarray(ids), where.asarray(ids + 1) % 16, gradients, where
        )
        results.append((summed, gradients))
    (ours, our_gradients), (theirs, their_gradients) = results
    tolerance = 1e-5 if storage == "float32" else 0.05
    assert apart(ours, theirs) < tolerance
    for name, gradient in our_gradients.items():
        assert apart(gradient, their_gradients[name]) < tolerance
