"""The two model files, as safetensors: an image adapter and a voice. What they hold, written and read in one place."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.device import Array, ArrayModule, to_host
from dihedral.data_plane.kernels.low_rank import Adapter
from dihedral.data_plane.kernels.mixture import Mixture
from dihedral.data_plane.kernels.spectra import BANDS, COEFFICIENTS, FEATURES, HIGHEST_HZ
from dihedral.data_plane.tensor_file import open_tensors

LARGEST_BYTES = 64 << 20  # of either: ours have less than a megabyte, and all of it is read
_ADAPTER, _VOICE = "dihedral.image-adapter.v1", "dihedral.voice.v2"


class Voice(NamedTuple):
    """mixture: of cepstra. mean_log_mel: (BANDS,) of the speech, its level taken out. f0_hz: median fundamental, None where nothing was
    voiced. bandwidth_hz: of the recordings, HIGHEST_HZ at most; only voices of one bandwidth can be compared. f0_spread:
    deviation of log F0, None in voices of earlier releases.
    """

    mixture: Mixture
    mean_log_mel: Array
    f0_hz: float | None
    bandwidth_hz: float = HIGHEST_HZ
    f0_spread: float | None = None


def adapter_bytes(adapter: Adapter, notes: dict[str, str]) -> bytes:
    """Tensors `A` (rank, dim), `B` (dim, rank), `mean` (3,), float32; `notes` go into the metadata as they are."""
    tensors = {"A": adapter.a, "B": adapter.b, "mean": adapter.mean}
    return _bytes(
        tensors,
        notes
        | {
            "format": _ADAPTER,
            "rank": str(adapter.a.shape[0]),
            "alpha": repr(adapter.alpha),
            "patch": str(adapter.patch),
            "base_seed": str(adapter.base_seed),
        },
    )


def read_adapter(path: Path, xp: ArrayModule) -> Adapter:
    """Raises: TaskError `invalid_input` where the file is no image adapter, or one that `train_image_lora` could not have made."""
    tensors, metadata = _read(path, _ADAPTER)
    try:
        rank, patch = int(metadata["rank"]), int(metadata["patch"])
        adapter = Adapter(
            a=xp.asarray(tensors["A"]),
            b=xp.asarray(tensors["B"]),
            mean=xp.asarray(tensors["mean"]),
            alpha=float(metadata["alpha"]),
            patch=patch,
            base_seed=int(metadata["base_seed"]),
        )
    except (KeyError, ValueError) as error:
        raise _invalid(path, _ADAPTER, f"{error!r} is missing or no number") from error
    for ok, reason in (
        (4 <= patch <= 16 and patch % 2 == 0, f"patch is {patch}"),  # the base map of a larger one fills the memory
        (1 <= rank <= 64, f"rank is {rank}"),
        (0 < adapter.alpha <= 1024, f"alpha is {adapter.alpha}"),
        (adapter.base_seed >= 0, f"base_seed is {adapter.base_seed}"),
    ):
        if not ok:
            raise _invalid(path, _ADAPTER, reason)
    dim = patch * patch * 3
    if adapter.a.shape != (rank, dim) or adapter.b.shape != (dim, rank) or adapter.mean.shape != (3,):
        raise _invalid(path, _ADAPTER, f"shapes {adapter.a.shape} and {adapter.b.shape} do not fit patch {patch}")
    return adapter


def voice_bytes(voice: Voice, notes: dict[str, str]) -> bytes:
    """Tensors `weights` (k,), `means` and `variances` (k, COEFFICIENTS), `mean_log_mel` (BANDS,), float32; `notes` as above."""
    tensors = dict(voice.mixture._asdict()) | {"mean_log_mel": voice.mean_log_mel}
    pitch = {} if voice.f0_hz is None else {"f0_hz": repr(voice.f0_hz)}
    if voice.f0_spread is not None:
        pitch["f0_spread"] = repr(voice.f0_spread)
    metadata = {"format": _VOICE, "features": FEATURES, "bandwidth_hz": repr(voice.bandwidth_hz)}
    return _bytes(tensors, notes | pitch | metadata)


def read_voice(path: Path, xp: ArrayModule) -> Voice:
    """The voice in float64. Raises: TaskError `invalid_input` where the file is no voice, no mixture, or one of other features."""
    tensors, metadata = _read(path, _VOICE)
    if metadata.get("features") != FEATURES:
        reason = f"it was trained on the features {metadata.get('features')!r}, here are {FEATURES!r}: train it again"
        raise _invalid(path, _VOICE, reason)
    try:
        mixture = Mixture(*(xp.asarray(tensors[name], dtype=xp.float64) for name in Mixture._fields))
        mean = xp.asarray(tensors["mean_log_mel"], dtype=xp.float64)
        f0_hz = float(metadata["f0_hz"]) if "f0_hz" in metadata else None
        f0_spread = float(metadata["f0_spread"]) if "f0_spread" in metadata else None
        bandwidth_hz = float(metadata["bandwidth_hz"])
    except (KeyError, ValueError) as error:
        raise _invalid(path, _VOICE, f"{error!r} is missing or no number") from error
    components = mixture.weights.size
    shapes = {"weights": (components,), "means": (components, COEFFICIENTS), "variances": (components, COEFFICIENTS)}
    for name, shape in (shapes | {"mean_log_mel": (BANDS,)}).items():
        if tensors[name].shape != shape:
            raise _invalid(path, _VOICE, f"{name} has the shape {tensors[name].shape} where {shape} was expected")
    total = float(mixture.weights.sum())
    for ok, reason in (
        (components > 0, "it has no components"),
        (bool((mixture.variances > 0).all() and (mixture.weights > 0).all()), "a weight or a variance is not above 0"),
        (math.isclose(total, 1, abs_tol=1e-3), f"its weights add up to {total:g}"),
        (f0_hz is None or 0 < f0_hz < math.inf, f"f0_hz is {f0_hz}"),
        (f0_spread is None or 0 <= f0_spread < 2, f"f0_spread is {f0_spread}"),
        (0 < bandwidth_hz <= HIGHEST_HZ, f"bandwidth_hz is {bandwidth_hz}"),
    ):
        if not ok:
            raise _invalid(path, _VOICE, reason)
    return Voice(mixture, mean, f0_hz, bandwidth_hz, f0_spread)


def _bytes(tensors: dict[str, Array], metadata: dict[str, str]) -> bytes:
    host = {name: np.ascontiguousarray(to_host(tensor), dtype=np.float32) for name, tensor in tensors.items()}
    return bytes(save(host, metadata=metadata))


def _read(path: Path, wanted: str) -> tuple[dict[str, Array], dict[str, str]]:
    try:
        if path.stat().st_size > LARGEST_BYTES:
            raise _invalid(path, wanted, f"it has more than {LARGEST_BYTES >> 20} MiB")
        with open_tensors(path) as opened:
            metadata = opened.metadata() or {}
            if (found := metadata.get("format")) != wanted:
                of_another_release = str(found).rpartition(".")[0] == wanted.rpartition(".")[0]
                advice = ": train it again" if of_another_release else ""
                raise _invalid(path, wanted, f"its format is {found!r}{advice}")
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, TypeError) as error:  # TypeError: of a type that NumPy lacks
        raise _invalid(path, wanted, str(error)) from error
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise _invalid(path, wanted, "it holds values that are no numbers")
    return tensors, metadata


def _invalid(path: Path, wanted: str, reason: str) -> TaskError:
    return TaskError(f"{path.name} is no {wanted} file: {reason}", code="invalid_input", retryable=False)
