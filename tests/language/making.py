"""Small models and data sets for tests, and the recorded numbers of PyTorch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from dihedral.data_plane.language.files import Storage, read_config, read_weights
from dihedral.data_plane.language.model import Model
from tests.language.peer import ALPHA, RANK, RECORDED


def recorded(kind: str) -> dict[str, np.ndarray]:
    with np.load(RECORDED / kind / "numbers.npz") as numbers:
        return dict(numbers)


def of_kind(numbers: dict[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    return {name.removeprefix(f"{kind}/"): one for name, one in numbers.items() if name.startswith(f"{kind}/")}


def base(directory: Path, xp: Any = np, storage: Storage = "float32") -> Model:
    config = read_config(directory / "config.json")
    return Model(config, read_weights([directory / "model.safetensors"], config, storage, xp), {}, 0.0)


def with_adapter(model: Model, file: Path, xp: Any = np) -> Model:
    """`file`: as PEFT has written it."""
    adapter = {
        name.removeprefix("base_model.model.").removesuffix(".weight"): xp.asarray(tensor)
        for name, tensor in load_file(file).items()
    }
    return model._replace(adapter=adapter, scale=ALPHA / RANK)


def zeros(weights: dict[str, Any], xp: Any = np) -> dict[str, Any]:
    return {name: xp.zeros_like(weight) for name, weight in weights.items()}


def off(ours: Any, theirs: Any) -> float:
    """The largest difference, relative to the largest value."""
    theirs = np.asarray(theirs, np.float64)
    return float(np.abs(np.asarray(ours, np.float64) - theirs).max() / np.abs(theirs).max())


def jsonl(*documents: dict[str, str]) -> str:
    return "".join(json.dumps(document) + "\n" for document in documents)
