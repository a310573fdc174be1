"""What an image adapter learns, on the kernels alone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dihedral.data_plane.device import to_host
from dihedral.data_plane.kernels import low_rank
from dihedral.data_plane.kernels.low_rank import Adapter
from dihedral.data_plane.kernels.patches import grid_patches, map_patches
from dihedral.data_plane.media.decode import read_picture
from dihedral.data_plane.tasks.train_image_lora import BASE_SEED, split


def learn(path: Path, xp: Any, *, rank: int = 8, seed: int = 0) -> tuple[Any, Any, Adapter, Adapter]:
    """`(held-out patches, base, adapter before, adapter after)` of 300 steps on one picture."""
    train, held_out = split([xp.asarray(read_picture(path, 256))], 8, seed, xp)
    base = low_rank.base_map(192, BASE_SEED, xp)
    before = low_rank.new_adapter(train.reshape(-1, 3).mean(axis=0), 8, rank, 16.0, BASE_SEED, seed, xp)
    settings: dict[str, Any] = {"steps": 300, "batch": 64, "learning_rate": 0.01, "seed": seed, "window": 50, "xp": xp}
    *_, (step, _, after) = low_rank.train(train, base, before, **settings)
    assert step == 300
    return held_out, base, before, after


@pytest.mark.parametrize("name", ["picture", "second_picture"])
def test_the_held_out_error_falls_at_least_a_fifth_below_the_frozen_base(
    inputs: dict[str, Path], name: str, xp: Any
) -> None:
    held_out, base, before, after = learn(inputs[name], xp)
    assert low_rank.error(held_out, base, after, xp) <= 0.8 * low_rank.error(held_out, base, before, xp)


def test_training_reaches_most_of_what_the_best_adapter_of_its_rank_could(inputs: dict[str, Path]) -> None:
    train, _ = split([read_picture(inputs["picture"], 256)], 8, 0, np)
    _, base, before, after = learn(inputs["picture"], np)
    seen = low_rank.see(train, before, np).astype(np.float64)
    missing = train - low_rank.predict(train, base, before, np)
    # Reduced-rank regression: the least-squares map, projected onto the main directions of what it predicts.
    predicted = seen @ np.linalg.lstsq(seen, missing, rcond=1e-6)[0]
    main = np.linalg.svd(predicted, full_matrices=False)[2][:8]
    best = ((missing - predicted @ main.T @ main) ** 2).mean()
    frozen, reached = (low_rank.error(train, base, adapter, np) for adapter in (before, after))
    assert frozen - reached > 0.95 * (frozen - best)


def test_an_untrained_adapter_changes_nothing(inputs: dict[str, Path]) -> None:
    held_out, base, before, _ = learn(inputs["picture"], np)
    without = low_rank.see(held_out, before, np) @ base.T + np.tile(before.mean, 64)
    np.testing.assert_array_equal(low_rank.predict(held_out, base, before, np), without)


def test_another_picture_gives_another_adapter_and_the_same_gives_the_same(inputs: dict[str, Path]) -> None:
    held_out, base, _, first = learn(inputs["picture"], np)
    again, other = learn(inputs["picture"], np)[3], learn(inputs["second_picture"], np)[3]
    np.testing.assert_array_equal(first.b @ first.a, again.b @ again.a)
    assert np.linalg.norm(first.b @ first.a - other.b @ other.a) > 0.5 * np.linalg.norm(first.b @ first.a)
    assert low_rank.error(held_out, base, other, np) > 1.5 * low_rank.error(held_out, base, first, np)


def test_the_base_is_the_same_projection_for_the_same_seed(xp: Any) -> None:
    base = to_host(low_rank.base_map(48, 3, xp))
    np.testing.assert_array_equal(base, to_host(low_rank.base_map(48, 3, xp)))
    np.testing.assert_allclose(base @ base, base, atol=1e-5)
    assert np.linalg.matrix_rank(base) == 12
    assert np.abs(base - to_host(low_rank.base_map(48, 4, xp))).max() > 0.1


@pytest.mark.parametrize("size", [(64, 64), (33, 47), (16, 19)])
def test_patches_come_back_as_the_picture(size: tuple[int, int], xp: Any) -> None:
    picture = xp.asarray(np.random.default_rng(0).random((*size, 3)).astype(np.float32))
    back = map_patches(picture, 8, lambda patches: patches, xp)
    np.testing.assert_allclose(to_host(back), to_host(picture), atol=1e-6)


def test_the_grid_leaves_a_ragged_rim_out() -> None:
    picture = np.arange(10 * 13 * 3, dtype=np.float32).reshape(10, 13, 3)
    patches = grid_patches(picture, 4)
    assert patches.shape == (6, 48)
    np.testing.assert_array_equal(patches[4].reshape(4, 4, 3), picture[4:8, 4:8])
