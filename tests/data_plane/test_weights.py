"""Model files that no training could have made are refused with one clear sentence, whatever they would do later."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.kernels.spectra import BANDS, COEFFICIENTS, FEATURES
from dihedral.data_plane.model_files import read_adapter, read_voice

ADAPTER = {"format": "dihedral.image-adapter.v1", "rank": "2", "alpha": "1.0", "patch": "8", "base_seed": "1"}
VOICE = {"format": "dihedral.voice.v2", "features": FEATURES, "bandwidth_hz": "7600.0", "f0_hz": "100.0"}


def saved(file: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> Path:
    save_file({name: each.astype(np.float32) for name, each in tensors.items()}, file, metadata=metadata)
    return file


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"patch": "200", "rank": "1"}, "patch is 200"),
        ({"patch": "0"}, "patch is 0"),
        ({"patch": "7"}, "patch is 7"),
        ({"rank": "0"}, "rank is 0"),
        ({"rank": "65"}, "rank is 65"),
        ({"alpha": "nan"}, "alpha is nan"),
        ({"alpha": "inf"}, "alpha is inf"),
        ({"base_seed": "-1"}, "base_seed is -1"),
        ({"base_seed": "one"}, "'one'"),
    ],
)
def test_an_adapter_outside_the_bounds_of_its_training_is_refused(
    tmp_path: Path, change: dict[str, str], words: str
) -> None:
    metadata = ADAPTER | change
    rank, patch = int(metadata["rank"]), int(metadata["patch"])
    dim = patch * patch * 3
    tensors = {"A": np.zeros((rank, dim)), "B": np.zeros((dim, rank)), "mean": np.zeros(3)}
    with pytest.raises(TaskError, match=words) as raised:
        read_adapter(saved(tmp_path / "file", tensors, metadata), np)
    assert raised.value.code == "invalid_input"


@pytest.mark.parametrize(
    ("change", "metadata", "words"),
    [
        ({"weights": np.full((2, 1), 0.5)}, {}, r"weights has the shape \(2, 1\)"),
        ({"weights": np.ones(0), "means": np.ones((0, 19)), "variances": np.ones((0, 19))}, {}, "no components"),
        ({"weights": np.full(2, 1e6)}, {}, "add up to 2e"),
        ({"variances": np.zeros((2, 19))}, {}, "not above 0"),
        ({"mean_log_mel": np.zeros(3)}, {}, "mean_log_mel"),
        ({}, {"f0_hz": "nan"}, "f0_hz is nan"),
        ({}, {"bandwidth_hz": "0.0"}, "bandwidth_hz is 0.0"),
    ],
)
def test_a_voice_that_is_no_mixture_is_refused(
    tmp_path: Path, change: dict[str, Any], metadata: dict[str, str], words: str
) -> None:
    shape = 2, COEFFICIENTS
    tensors = {"weights": np.full(2, 0.5), "means": np.zeros(shape), "variances": np.ones(shape)}
    tensors |= {"mean_log_mel": np.zeros(BANDS)}
    assert read_voice(saved(tmp_path / "file", tensors, VOICE), np).f0_hz == 100
    with pytest.raises(TaskError, match=words) as raised:
        read_voice(saved(tmp_path / "file", tensors | change, VOICE | metadata), np)
    assert raised.value.code == "invalid_input"


def test_a_model_of_a_type_that_numpy_lacks_is_refused(tmp_path: Path) -> None:
    tensor = {"dtype": "BF16", "shape": [1], "data_offsets": [0, 2]}
    header = json.dumps({"__metadata__": VOICE, "weights": tensor}).encode()
    (tmp_path / "file").write_bytes(struct.pack("<Q", len(header)) + header + b"\0\0")
    with pytest.raises(TaskError, match=r"is no dihedral\.voice") as raised:
        read_voice(tmp_path / "file", np)
    assert raised.value.code == "invalid_input"
