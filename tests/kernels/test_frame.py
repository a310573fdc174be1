"""The kernel of a video's frames against NumPy's body, and that against float64 written out."""

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dihedral.data_plane.device import to_host
from dihedral.data_plane.kernels import colour, frame, grain
from dihedral.data_plane.kernels.frame import Bars, Caption, Frame, Masks, Stage
from dihedral.data_plane.kernels.pyramid import Pyramid, Window, chroma_layers, halved, luma_layers, pyramid
from dihedral.data_plane.kernels.sampling import ONE, Axis, Layer, sample
from tests.kernels.comparing import nothing_else_was_written


def noise(height: int, width: int, seed: int, smooth: int = 4) -> Any:
    """(height, width, 3) in 0..1: colours with soft and hard edges."""
    rng = np.random.default_rng(seed)
    small = (rng.random((height // smooth + 2, width // smooth + 2, 3)) * 255).astype(np.uint8)
    picture = (
        np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    )
    picture[height // 3 : height // 2, width // 4 : width // 2] = rng.random(3)
    return picture


def pictured(height: int, width: int, seed: int, finest: float = 1.0, widest: float = 1.0) -> Pyramid:
    return pyramid(colour.to_planes(noise(height, width, seed), np), finest, widest, np)


def caption(size: tuple[int, int], rng: np.random.Generator) -> Caption:
    height, width = (
        max(2, int(length * share) // 2 * 2) for length, share in zip(size, rng.uniform(0.1, 0.7, 2), strict=True)
    )
    top, left = (
        int(rng.integers(0, (length - inner) // 2 + 1)) * 2 for length, inner in zip(size, (height, width), strict=True)
    )
    box, text = (rng.integers(0, 256, (height, width), dtype=np.uint8) for _ in range(2))
    masks = Masks(top, left, box, text, colour.sited(box, np), colour.sited(text, np))
    rows, columns = sorted(rng.integers(0, height // 2 + 1, 2) * 2), sorted(rng.integers(0, width // 2 + 1, 2) * 2)
    word = (top + int(rows[0]), left + int(columns[0]), top + int(rows[1]), left + int(columns[1]))
    return Caption(masks, float(rng.random()), word, float(rng.random()))


def a_frame(size: tuple[int, int], seed: int, layers: int) -> tuple[Frame, Stage]:
    """Everything on: `layers` pictures in a fade, grain, spectrum, caption."""
    rng = np.random.default_rng(seed)
    luma, chroma = [], []
    for number in range(layers):
        scale = float(rng.uniform(0.3, 2.4))
        picture = pictured(int(size[0] * scale) + 9, int(size[1] * scale) + 5, seed + number, scale, scale)
        window = Window(float(rng.uniform(-2, 8)), float(rng.uniform(-2, 4)), scale)
        luma += luma_layers(picture, window, 1 / layers)
        chroma += chroma_layers(picture, window, 1 / layers)
    count = int(rng.integers(2, 17))
    pitch = size[1] * 0.5 / count
    bars = Bars(count, size[1] * 0.25, pitch, 0.31 * pitch, size[0] * 0.95, size[0] * 0.4)
    stage = Stage(size, grain.field(size, seed, np), float(rng.uniform(0.5, 8)), bars)
    levels = rng.random(count).astype(np.float32)
    return Frame(luma, chroma, grain.corner(seed, seed), levels, caption(size, rng)), stage


def moved(value: Any, xp: Any) -> Any:
    """The same with every array where `xp` has its own."""
    if isinstance(value, np.ndarray):
        return xp.asarray(value)
    if isinstance(value, list):
        return [moved(each, xp) for each in value]
    return type(value)(*(moved(each, xp) for each in value)) if hasattr(value, "_fields") else value


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("size", [(32, 32), (34, 62), (90, 160)])
def test_the_kernel_gives_what_numpy_gives(xp: Any, size: tuple[int, int], layers: int) -> None:
    for seed in range(4):
        made, stage = a_frame(size, seed, layers)
        bare = made._replace(levels=None, caption=None)
        for each, where in ((made, stage), (bare, stage._replace(grain=None))):
            ours = to_host(frame.render(moved(each, xp), moved(where, xp), xp))
            apart = np.abs(ours.astype(int) - frame.render(each, where, np))
            assert apart.max() <= 1
            assert (apart > 0).mean() < 1e-3  # next to a rounding border only
    assert nothing_else_was_written(xp)


def test_arrays_that_the_kernel_would_misread_are_refused() -> None:
    made, stage = a_frame((32, 32), 0, 1)
    (layer,) = made.luma[:1]
    with pytest.raises(ValueError, match="contiguous float32"):
        frame.packed(made._replace(luma=[layer._replace(planes=layer.planes.astype(np.float64))]), stage)
    with pytest.raises(ValueError, match="contiguous float32"):
        frame.packed(made._replace(luma=[layer._replace(planes=layer.planes[:, ::2])]), stage)
    with pytest.raises(ValueError, match="5 and"):
        frame.packed(made._replace(luma=[layer] * 5), stage)


# NumPy against what is written out -------------------------------------------------------------------------------------


def catmull_rom(distance: float) -> float:
    """Keys' kernel with a = −½ as a function of the distance to a pixel."""
    d = abs(distance)
    if d < 1:
        return 1.5 * d**3 - 2.5 * d**2 + 1
    return -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2 if d < 2 else 0.0


@given(st.integers(1, 40), st.integers(1, 90), st.floats(-6, 40), st.floats(0.05, 3), st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_samples_are_catmull_rom_in_float64(length: int, count: int, start: float, step: float, seed: int) -> None:
    pixels = np.random.default_rng(seed).random(length) * 219
    axis = Axis(round(start * ONE), round(step * ONE))
    wanted = []
    for number in range(count):
        position = (axis.start + number * axis.step) / ONE
        near = range(int(np.floor(position)) - 1, int(np.floor(position)) + 3)
        wanted.append(sum(catmull_rom(position - at) * pixels[min(max(at, 0), length - 1)] for at in near))
    across = Layer(pixels[None, None].astype(np.float32), Axis(0, ONE), axis, 1.0)
    down = Layer(pixels[None, :, None].astype(np.float32), axis, Axis(0, ONE), 1.0)
    np.testing.assert_allclose(sample([across], (3, count), np)[0, 1], wanted, atol=2e-3)
    np.testing.assert_allclose(sample([down], (count, 3), np)[0, :, 1], wanted, atol=2e-3)


@pytest.mark.parametrize("box", [(0.0, 0.0, 40.0, 30.0), (3.3, 5.7, 30.9, 24.1), (10.0, 8.0, 14.0, 11.5)])
def test_a_magnified_window_is_what_pillow_makes_of_it(box: tuple[float, float, float, float]) -> None:
    """Pillow's BICUBIC has a = −½ too; where it runs over the rim it cuts the kernel instead of repeating the edge."""
    plane = noise(30, 40, 3)[:, :, 0] * 219
    size = (120, 160)
    theirs = np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BICUBIC, box=box))
    steps = [(box[3] - box[1]) / size[0], (box[2] - box[0]) / size[1]]
    rows, columns = (
        Axis(round((start + step / 2 - 0.5) * ONE), round(step * ONE))
        for start, step in zip((box[1], box[0]), steps, strict=True)
    )
    ours = sample([Layer(plane[None], rows, columns, 1.0)], size, np)[0]
    rim = [
        int(np.ceil(3 / step)) if at == 0 or at in (30, 40) else 0
        for at, step in ((box[1], steps[0]), (box[0], steps[1]))
    ]
    inner = (slice(rim[0], size[0] - rim[0]), slice(rim[1], size[1] - rim[1]))
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=2e-3)


def test_a_pyramid_keeps_a_fine_pattern_from_flickering() -> None:
    """Stripes a pixel wide, seen from four times too far away: the mean remains, wherever the camera stands."""
    stripes = np.tile(np.array([0, 1], dtype=np.float32), (64, 256))[:, :, None].repeat(3, axis=2)
    made = pyramid(colour.to_planes(stripes, np), 4.0, 4.0, np)
    for left in (0.0, 0.3, 0.9):
        seen = sample(luma_layers(made, Window(0.0, left, 4.0), 1.0), (16, 100), np)
        np.testing.assert_allclose(seen, 219 / 2, atol=1e-2)


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.3, 1.7, 2.6, 3.9, 5.2])
def test_every_scale_shows_a_slope_at_its_place(scale: float, xp: Any) -> None:
    """On a plane that rises by one each pixel a sample tells where it was taken, on every size of the pyramid."""
    slope = np.tile(np.arange(400, dtype=np.float32), (300, 1))
    planes = xp.asarray(np.stack([slope, slope, slope.max() - slope]))
    made, window, size = pyramid(planes, scale, scale, xp), Window(10.0, 20.0, scale), (8, 30)
    luma = to_host(sample(luma_layers(made, window, 1.0), size, xp))
    np.testing.assert_allclose(luma[0, 3], 20 + (np.arange(30) + 0.5) * scale - 0.5, atol=1e-2)
    chroma = to_host(sample(chroma_layers(made, window, 1.0), (4, 15), xp))
    np.testing.assert_allclose(chroma[0, 1], 20 + (np.arange(15) * 2 + 0.5) * scale - 0.5, atol=1e-2)
    np.testing.assert_allclose(chroma[1, 1], 399 - chroma[0, 1], atol=1e-2)


def test_a_plain_frame_is_the_pictures_bt709() -> None:
    """Written out in float64, chroma as means of 2×2 moved half a pixel by the samples' place."""
    picture = noise(60, 80, 5)
    made = pyramid(colour.to_planes(picture, np), 1.0, 1.0, np)
    window = Window(0.0, 0.0, 1.0)
    stage = Stage((60, 80), None, 0.0, Bars(1, 0, 1, 0.3, 1, 1))
    out = frame.render(
        Frame(luma_layers(made, window, 1.0), chroma_layers(made, window, 1.0), (0, 0), None, None), stage, np
    )
    red, green, blue = np.moveaxis(picture.astype(np.float64), 2, 0)
    light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    assert np.abs(out[:60] - (16 + 219 * light)).max() <= 0.51
    flat = np.full((60, 80, 3), (0.9, 0.1, 0.3), dtype=np.float32)
    made = pyramid(colour.to_planes(flat, np), 1.0, 1.0, np)
    out = frame.render(
        Frame(luma_layers(made, window, 1.0), chroma_layers(made, window, 1.0), (0, 0), None, None), stage, np
    )
    light = 0.2126 * 0.9 + 0.7152 * 0.1 + 0.0722 * 0.3
    planes = out[60:].reshape(2, 30, 40)
    assert np.abs(planes[0] - (128 + 224 * (0.3 - light) / 1.8556)).max() <= 0.51
    assert np.abs(planes[1] - (128 + 224 * (0.9 - light) / 1.5748)).max() <= 0.51


def test_working_in_luma_comes_to_what_working_in_colours_does() -> None:
    """A cross-fade under a caption, all of it in float64 and RGB, its luma computed last."""
    size, pictures = (40, 56), [noise(50, 70, seed) * 0.8 + 0.1 for seed in (1, 2)]
    windows, shares = [Window(2.3, 4.1, 1.07), Window(1.7, 3.6, 0.91)], [0.3, 0.7]
    mixed: Any = 0.0
    for picture, window, share in zip(pictures, windows, shares, strict=True):
        rows, columns = (
            np.array(
                [[catmull_rom(at + (i + 0.5) * window.scale - 0.5 - j) for j in range(length)] for i in range(count)]
            )
            for at, length, count in zip(window[:2], picture.shape[:2], size, strict=True)
        )
        mixed = mixed + share * np.einsum("ij,jkc,lk->ilc", rows, picture.astype(np.float64), columns)
    laid = caption(size, np.random.default_rng(4))._replace(word=(0, 0, 0, 0))
    box, text = (np.zeros((*size, 1)) for _ in range(2))
    for whole, mask in ((box, laid.masks.box), (text, laid.masks.text)):
        whole[laid.masks.top : laid.masks.top + mask.shape[0], laid.masks.left : laid.masks.left + mask.shape[1], 0] = (
            mask / 255
        )
    mixed = mixed + laid.opacity * frame.BOX_OPACITY * box * (np.array([0.05, 0.05, 0.07]) - mixed)
    mixed = mixed + laid.opacity * text * (0.98 - mixed)
    wanted = 16 + 219 * mixed @ np.array([0.2126, 0.7152, 0.0722])
    pyramids = [pyramid(colour.to_planes(picture, np), 1.0, 1.1, np) for picture in pictures]
    luma, chroma = (
        [layer for each in zip(pyramids, windows, shares, strict=True) for layer in layers(*each)]
        for layers in (luma_layers, chroma_layers)
    )
    stage = Stage(size, None, 0.0, Bars(1, 0, 1, 0.3, 1, 1))
    made = frame.render(Frame(luma, chroma, (0, 0), None, laid), stage, np)
    assert np.abs(made[: size[0]] - wanted).max() <= 0.51


def test_a_decoder_finds_the_colours_again() -> None:
    picture = noise(64, 96, 8, smooth=16)
    planes = colour.to_planes(picture, np)
    codes = planes + np.array([16, 128, 128], dtype=np.float32)[:, None, None]
    back = colour.to_rgb(np.round(codes[0]), np.round(codes[1:]), np)
    assert np.abs(back / 255 - picture).max() < 0.012  # of rounded codes


def test_a_grade_does_what_its_words_say() -> None:
    picture = noise(40, 40, 1) * 0.5 + 0.2
    neutral = colour.graded(picture, colour.Grade(), np)
    assert neutral is picture
    brighter = colour.graded(picture, colour.Grade(exposure=0.5), np)
    np.testing.assert_allclose((brighter / picture) ** 2.4, np.sqrt(2), rtol=1e-3)
    grey = colour.graded(picture, colour.Grade(saturation=0), np)
    assert np.ptp(grey, axis=2).max() < 1e-6
    warm = colour.graded(picture, colour.Grade(temperature=1), np)
    assert (warm[:, :, 0] > picture[:, :, 0]).all()
    assert (warm[:, :, 2] < picture[:, :, 2]).all()
    flat = colour.graded(picture, colour.Grade(contrast=0), np)
    np.testing.assert_allclose(flat, 0.5, atol=1e-6)
    wild = colour.graded(picture, colour.Grade(4, 4, 4, 2), np)
    assert (wild.min(), wild.max()) >= (0, 0)
    assert wild.max() <= 1


def test_grain_is_the_same_on_every_device_and_another_for_each_frame_and_seed(xp: Any) -> None:
    field = to_host(grain.field((100, 120), 5, xp))
    assert field.dtype == np.int8
    assert (field == grain.field((100, 120), 5, np)).all()
    assert field.astype(float).mean() == pytest.approx(0, abs=0.6)
    assert field.astype(float).std() == pytest.approx(grain.DEVIATION, rel=0.03)
    assert np.abs(np.corrcoef(field.ravel(), grain.field((100, 120), 6, np).ravel())[0, 1]) < 0.02
    corners = {grain.corner(5, number) for number in range(500)}
    assert len(corners) > 490
    assert all(0 <= row < grain.ROAM and 0 <= column < grain.ROAM for row, column in corners)


def test_the_hash_is_the_published_one() -> None:
    """lowbias32, computed with Python's integers."""

    def hashed(x: int) -> int:
        x ^= x >> 16
        x = x * 0x7FEB352D & 0xFFFFFFFF
        x ^= x >> 15
        x = x * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    numbers = np.random.default_rng(0).integers(0, 2**32, 200, dtype=np.uint32)
    assert grain.hashed(numbers, np).tolist() == [hashed(int(number)) for number in numbers]


def test_masks_of_chroma_lie_on_even_columns() -> None:
    mask = np.zeros((2, 8), dtype=np.uint8)
    mask[:, 4] = 200
    assert colour.sited(mask, np).tolist() == [[0, 0, 100, 0]]
    mask[:, 4], mask[:, 3] = 0, 200
    assert colour.sited(mask, np).tolist() == [[0, 50, 50, 0]]
    assert colour.sited(np.full((4, 6), 255, np.uint8), np).tolist() == [[255] * 3] * 2


def test_halving_repeats_an_odd_rim() -> None:
    assert halved(np.arange(9, dtype=np.float32).reshape(1, 3, 3), np).tolist() == [[[2, 3.5], [6.5, 8]]]


def test_the_struct_of_the_kernel_is_the_one_of_the_dtype() -> None:
    """The compiler checks the sizes; this one the addresses."""
    made, stage = a_frame((32, 32), 1, 1)
    packed = frame.packed(made, stage).view(frame._FRAME)[0]
    (first, *_), rows = packed["luma"], ctypes.cast(int(packed["luma"][0]["planes"]), ctypes.POINTER(ctypes.c_float))
    assert rows[0] == made.luma[0].planes.flat[0]
    assert (first["height"], first["width"]) == made.luma[0].planes.shape[1:]
