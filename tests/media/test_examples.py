"""The demo's inputs are made by code, the same on every run."""

from pathlib import Path

import numpy as np
import pytest

from dihedral.data_plane.media.decode import read_picture, read_recording
from dihedral.examples import make


def test_the_inputs_are_the_same_on_every_run(inputs: dict[str, Path], tmp_path: Path) -> None:
    again = make(tmp_path / "deeper" / "folder")
    assert set(again) == {"picture", "second_picture", "recording", "second_recording"}
    for name, path in again.items():
        assert path.read_bytes() == inputs[name].read_bytes()


@pytest.mark.parametrize("name", ["picture", "second_picture"])
def test_a_picture_fills_its_frame_with_detail(inputs: dict[str, Path], name: str) -> None:
    picture = read_picture(inputs[name], 640)
    assert picture.shape == (480, 640, 3)
    assert picture.std() > 0.1
    assert picture.min() < 0.15 < 0.85 < picture.max()


@pytest.mark.parametrize("name", ["recording", "second_recording"])
def test_a_recording_is_loud_enough_and_does_not_clip(inputs: dict[str, Path], name: str) -> None:
    samples, rate = read_recording(inputs[name], 60)
    assert samples.size == 6 * rate
    assert 0.5 < np.abs(samples).max() < 1
    assert np.sqrt((samples**2).mean()) > 0.02
