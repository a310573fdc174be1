"""Random arrays in every type of storage, and how far two results are apart."""

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from dihedral.data_plane.device import to_host

STORAGE = {"float32": np.dtype(np.float32), "float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
APART = {"float32": 2e-6, "float16": 2**-10, "bfloat16": 2**-7}
"""Allowed, relative to the largest value: a few roundings of float32, or one step of the storage."""

drawn = settings(max_examples=20, deadline=None)  # the first example of each source compiles it
storages = st.sampled_from(sorted(STORAGE))
widths = st.one_of(st.integers(1, 70), st.integers(1, 40).map(lambda packs: 8 * packs))
"""Of rows: fewer values than a warp has threads, and more; multiples of what is read at once or not."""


class Drawn:
    """Arrays from a seed, in one type of storage."""

    def __init__(self, seed: int, storage: str) -> None:
        self.rng = np.random.default_rng(seed)
        self.storage = storage

    def normal(self, *shape: int, spread: float = 1.0) -> np.ndarray:
        return self.rng.normal(0, spread, shape).astype(STORAGE[self.storage])


def wide(array: Any) -> np.ndarray:
    return np.asarray(to_host(array)).astype(np.float64)


def apart(ours: Any, theirs: Any, scale: float | None = None) -> float:
    """The largest difference, relative to `scale`, which is the largest value of `theirs` where None."""
    assert ours.shape == theirs.shape
    theirs = wide(theirs)
    difference = np.abs(wide(ours) - theirs)
    assert not np.isnan(difference).any()
    return float(difference.max(initial=0) / max(np.abs(theirs).max(initial=0) if scale is None else scale, 1e-3))


def nothing_else_was_written(xp: Any) -> bool:
    return not hasattr(xp, "nothing_around_was_written") or xp.nothing_around_was_written()
