"""Two landscapes drawn by arithmetic: dusk over a lake, and a meadow at noon."""

from pathlib import Path
from typing import Any

import numpy as np

Picture = np.ndarray[Any, np.dtype[np.float64]]

WIDTH, HEIGHT = 640, 480


def dusk() -> Picture:
    """(HEIGHT, WIDTH, 3) in 0..1: a low sun behind four ridges, mirrored in a lake with ripples."""
    rng = np.random.default_rng(7)
    shore = int(HEIGHT * 0.66)
    y, x = np.mgrid[0:shore, 0:WIDTH].astype(float)
    sky = _gradient(
        y / shore,
        [(0, (0.10, 0.11, 0.30)), (0.45, (0.45, 0.22, 0.42)), (0.75, (0.95, 0.48, 0.30)), (1, (1.0, 0.78, 0.45))],
    )
    sun_x, sun_y = WIDTH * 0.62, shore * 0.62
    distance = np.hypot(x - sun_x, y - sun_y)
    sky += np.exp(-distance / 70)[..., None] * np.array((0.55, 0.35, 0.15))
    sky = _blend(sky, (1.0, 0.95, 0.78), np.clip(34 - distance, 0, 1.5) / 1.5)
    streaks = _noise(rng, (6, 3), (shore, WIDTH)) + 0.5 * _noise(rng, (24, 6), (shore, WIDTH))
    sky = _blend(sky, (1.0, 0.62, 0.52), np.clip(streaks - 0.85, 0, 0.4) * (y / shore))
    for depth, base in enumerate((0.76, 0.83, 0.90, 0.985)):
        tone = np.array((0.62, 0.34, 0.44)) * (1 - depth / 5.2) ** 1.4 + np.array((0.03, 0.03, 0.07))
        crest = shore * base - (20 + 8 * depth) * _skyline(rng, 4 + 2 * depth)
        sky = _blend(sky, tone, np.clip(y - crest[None, :], 0, 1))
    water_rows = np.arange(HEIGHT - shore)
    depth_below = water_rows / len(water_rows)
    ripple = (
        0.7 * _noise(rng, (34, 9), (len(water_rows), WIDTH))
        + 0.3 * _noise(rng, (60, 40), (len(water_rows), WIDTH))
        - 0.5
    )
    mirror = np.clip(shore - 1 - water_rows[:, None] * 1.6 + ripple * (6 + 30 * depth_below[:, None]), 0, shore - 1)
    lake = sky[mirror.astype(int), np.arange(WIDTH)[None, :]] * (0.86 - 0.35 * depth_below[:, None, None])
    lake += (np.clip(ripple, 0, 1) * 0.10)[..., None] * np.array((1.0, 0.7, 0.5))
    return np.asarray(np.clip(np.concatenate([sky, lake]), 0, 1))


def meadow() -> Picture:
    """(HEIGHT, WIDTH, 3) in 0..1: clouds, rolling green hills, and flowers that grow towards the viewer."""
    rng = np.random.default_rng(11)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    scene = _gradient(y / (HEIGHT * 0.55), [(0, (0.16, 0.42, 0.78)), (1, (0.72, 0.88, 0.95))])
    clouds = sum(_noise(rng, (3 * 2**k, 4 * 2**k), (HEIGHT, WIDTH)) / 2**k for k in range(5)) / 1.94
    scene = _blend(scene, (0.98, 0.98, 1.0), np.clip((clouds - 0.52) * 5, 0, 0.95))
    for depth, base in enumerate((0.50, 0.58, 0.68, 0.80)):
        tone = np.array((0.42, 0.66, 0.55)) + (np.array((0.16, 0.42, 0.10)) - np.array((0.42, 0.66, 0.55))) * depth / 3
        crest = HEIGHT * base - (22 - 2 * depth) * _skyline(rng, 3 + depth)
        inside = np.clip(y - crest[None, :], 0, 1)
        grass = sum(_noise(rng, (8 * 2**k, 3 * 2**k), (HEIGHT, WIDTH)) / 1.6**k for k in range(5 + depth // 2)) / 2.4
        light = np.asarray(0.74 + 0.42 * grass)
        scene = scene * (1 - inside[..., None]) + (tone * light[..., None]) * inside[..., None]
    for _ in range(420):
        row = HEIGHT * (0.74 + 0.26 * rng.random() ** 0.7)
        radius = 1.0 + 3.4 * (row / HEIGHT - 0.74) / 0.26
        colour = ((0.95, 0.85, 0.25), (0.90, 0.92, 0.98), (0.75, 0.35, 0.75))[rng.integers(3)]
        column = rng.random() * WIDTH
        top, left = max(0, int(row - 8)), max(0, int(column - 8))
        near = np.s_[top : int(row + 9), left : int(column + 9)]
        scene[near] = _blend(scene[near], colour, np.clip(radius - np.hypot(x[near] - column, y[near] - row), 0, 1))
    return np.asarray(np.clip(scene, 0, 1))


def write(picture: Picture, path: Path) -> None:
    """Writes 8-bit RGB; the suffix decides the format."""
    from PIL import Image

    Image.fromarray((picture * 255 + 0.5).astype(np.uint8)).save(path)


def _gradient(at: Picture, stops: list[tuple[float, tuple[float, float, float]]]) -> Picture:
    """(...) -> (..., 3): colours interpolated between stops."""
    positions = [position for position, _ in stops]
    return np.stack([np.interp(at, positions, [colour[k] for _, colour in stops]) for k in range(3)], axis=-1)


def _blend(scene: Picture, colour: Any, share: Picture) -> Picture:
    return np.asarray(scene + (np.asarray(colour) - scene) * share[..., None])


def _noise(rng: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> Picture:
    """(height, width) in 0..1: random values on a grid of cells, smoothly interpolated (value noise)."""
    grid = rng.random((cells[0] + 2, cells[1] + 2))
    rows, columns = (np.linspace(0, cells[k], size[k], endpoint=False) for k in (0, 1))
    top, left = rows.astype(int), columns.astype(int)
    v, u = ((t - t.astype(int)) for t in (rows, columns))
    v, u = (v * v * (3 - 2 * v))[:, None], (u * u * (3 - 2 * u))[None, :]
    upper = grid[top][:, left] * (1 - u) + grid[top][:, left + 1] * u
    lower = grid[top + 1][:, left] * (1 - u) + grid[top + 1][:, left + 1] * u
    return np.asarray(upper * (1 - v) + lower * v)


def _skyline(rng: np.random.Generator, cells: int) -> Picture:
    """(WIDTH,) in 0..about 1.5: a ridge, rough at several scales."""
    return np.asarray(sum(_noise(rng, (1, cells * 2**k), (1, WIDTH))[0] / 2**k for k in range(5)))
