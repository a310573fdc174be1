"""The kernel that opens a photograph's mouth: against NumPy's body, and what it must leave alone."""

from typing import Any

import numpy as np
import pytest

from dihedral.data_plane.device import to_host
from dihedral.data_plane.kernels import mouth
from dihedral.data_plane.kernels.mouth import Mouth, Shown
from dihedral.data_plane.kernels.pyramid import Window
from dihedral.data_plane.media import faces
from dihedral.data_plane.media.storyteller import Storyteller
from dihedral.data_plane.media.visemes import POSES, SHAPES, Pose, Shape
from tests.kernels.comparing import nothing_else_was_written


def picture(size: tuple[int, int], seed: int) -> Any:
    """Codes (3/2·height, width) uint8 in the range of video: smooth noise, as skin has hardly any other."""
    height, width = size
    rng = np.random.default_rng(seed)
    rough: Any = rng.integers(16, 235, (height * 3 // 2, width)).astype(np.float32)
    for axis in (0, 1):
        rough = (np.roll(rough, 1, axis) + 2 * rough + np.roll(rough, -1, axis)) / 4
    return rough.astype(np.uint8)


def masked(frame: Any, where: Mouth) -> Any:
    """The frame without what lies in the mouth's box."""
    made = frame.copy()
    height, width = frame.shape[0] * 2 // 3, frame.shape[1]
    top, left, bottom, right = where.box
    made[top:bottom, left:right] = 0
    made[height:].reshape(2, height // 2, width // 2)[:, top // 2 : bottom // 2, left // 2 : right // 2] = 0
    return made


def shown(frame: Any, what: Shown, where: Mouth, xp: Any) -> Any:
    out = xp.asarray(frame.copy())
    mouth.paint(xp.asarray(frame), what, where, out, xp)
    return to_host(out)


@pytest.mark.parametrize("size", [(32, 32), (64, 90), (240, 320)])
def test_the_kernel_gives_what_numpy_gives_within_one_code(xp: Any, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(size[0])
    for seed in range(6):
        frame = picture(size, seed)
        x, y = rng.uniform(0, 1, 2) * size[::-1]
        where = mouth.placed(float(x), float(y), float(rng.uniform(0.03, 1.2)) * size[1], size, float(rng.random()))
        what = Shown(float(rng.uniform(0, 0.8)), float(rng.uniform(-1, 1)), float(rng.random()), float(rng.random()))
        ours, theirs = shown(frame, what, where, xp), shown(frame, what, where, np)
        apart = np.abs(ours.astype(int) - theirs)
        assert apart.max() <= 1
        assert (apart > 0).mean() < 1e-3  # next to a rounding border only
        assert (masked(ours, where) == masked(frame, where)).all()
    assert nothing_else_was_written(xp)


def test_a_mouth_at_rest_shows_the_picture_as_it_is() -> None:
    frame = picture((120, 160), 1)
    where = mouth.placed(80, 60, 40, (120, 160), 0.5)
    assert (shown(frame, Shown(0, 0, 1, 1), where, np) == frame).all()


def test_nothing_moves_at_the_rim_of_the_box() -> None:
    """So that no seam is seen: a slope stays one, with every opening."""
    rows = np.linspace(16, 235, 300).astype(np.uint8)
    frame = np.repeat(np.concatenate((rows, np.full(150, 128, np.uint8)))[:, None], 320, axis=1)
    where = mouth.placed(160, 130, 60, (300, 320), 0.5)
    top, left, bottom, right = where.box
    for wide in (-1.0, 1.0):
        made = shown(frame, Shown(mouth.WIDEST, wide, 1, 1), where, np)
        for rim in (np.s_[top : top + 2], np.s_[bottom - 2 : bottom]):
            assert np.abs(made[rim, left:right].astype(int) - frame[rim, left:right]).max() <= 1
        for rim in (np.s_[left : left + 2], np.s_[right - 2 : right]):
            assert np.abs(made[top:bottom, rim].astype(int) - frame[top:bottom, rim]).max() <= 1


@pytest.mark.parametrize("wide", [-1.0, 0.0, 1.0])
def test_no_part_of_the_face_is_folded_over_another(wide: float) -> None:
    """On a picture that gets lighter downwards every column does so too, but for the gap."""
    rows = np.linspace(60, 235, 300).astype(np.uint8)
    frame = np.repeat(np.concatenate((rows, np.full(150, 128, np.uint8)))[:, None], 320, axis=1)
    where = mouth.placed(160, 130, 60, (300, 320), 0.01)  # lit so little that the gap is darker than all else
    made = shown(frame, Shown(mouth.WIDEST, wide, 0, 0), where, np)[:300].astype(int)
    beside = made[:, [*range(100, 121), *range(200, 221)]]
    assert (np.diff(beside, axis=0) >= 0).all()
    below = made[160:, 160]
    assert (np.diff(below) >= 0).all()


def test_the_gap_is_as_high_as_it_should_be_and_darker_than_the_face() -> None:
    frame = np.full((450, 320), 180, np.uint8)
    where = mouth.placed(160, 130, 60, (300, 320), 0.5)
    for opening in (0.1, 0.2, 0.4):
        made = shown(frame, Shown(opening, 0, 0, 0), where, np)
        assert (made[:300, 160] < 100).sum() == pytest.approx(opening * 60, abs=1.5)


def test_a_mouth_that_is_nowhere_in_the_frame_is_refused() -> None:
    with pytest.raises(ValueError, match="does not lie in"):
        mouth.placed(-200, 50, 20, (100, 100), 0.5)


@pytest.mark.parametrize("kind", ["drawn", "photograph", "pictures"])
def test_whole_frames_of_a_face_are_those_of_numpy_within_one_code(xp: Any, kind: str) -> None:
    size, window = (96, 128), Window(0.0, 0.0, 1.0)
    drawing = Storyteller(size)
    rest = drawing.open_eyed

    def made(module: Any) -> faces.Face:
        if kind == "drawn":
            return faces.DrawnFace(size, module)
        if kind == "photograph":
            at = (64.0, 0.39 * 96 + 0.275 * drawing.head, 0.23 * drawing.head)
            return faces.PhotographedFace(module.asarray(rest), size, window, at, 1.0, module)
        stills: dict[Shape, Any] = {}
        for shape in SHAPES:
            whole, box = rest.copy(), drawing.mouth_box
            whole[box.top : box.bottom, box.left : box.right] = drawing.mouth(POSES[shape])
            stills[shape] = faces.still(module.asarray(whole), size, window, module)
        return faces.PicturedFace(stills, module)

    ours, theirs = made(xp), made(np)
    for pose in (*POSES.values(), Pose(0.45, -0.2, 0.5, 0.3)):
        for blink in (0.0, 0.6):
            one, other = to_host(ours.show(pose, blink, xp)).astype(int), theirs.show(pose, blink, np)
            assert np.abs(one - other).max() <= 1
    assert nothing_else_was_written(xp)
