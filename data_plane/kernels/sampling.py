"""Pan and zoom: a window of a picture at another scale, by separable Catmull–Rom interpolation."""

from data_plane.device import Array, ArrayModule


def pan_zoom(
    picture: Array, centre: tuple[float, float], scale: float, size: tuple[int, int], xp: ArrayModule
) -> Array:
    """(H, W, 3) float32 -> (height, width, 3) for size = (height, width).

    centre: (y, x) in source pixels; scale: source pixels per output pixel (above about 1.5 it would alias).
    Beyond the rim the edge pixels repeat.
    """
    height, width = size
    rows = _interpolate(picture, centre[0] + (xp.arange(height) - (height - 1) / 2) * scale, 0, xp)  # (height, W, 3)
    return _interpolate(rows, centre[1] + (xp.arange(width) - (width - 1) / 2) * scale, 1, xp)


def _interpolate(picture: Array, positions: Array, axis: int, xp: ArrayModule) -> Array:
    """Resamples one axis at `positions` (m,) with the cubic of Keys (1981), a = −½, that is Catmull–Rom."""
    first = xp.floor(positions)
    t = positions - first
    weights = (
        ((-0.5 * t + 1.0) * t - 0.5) * t,
        (1.5 * t - 2.5) * t * t + 1.0,
        ((-1.5 * t + 2.0) * t + 0.5) * t,
        (0.5 * t - 0.5) * t * t,
    )  # sum to 1 at every t
    shape = (-1, 1, 1) if axis == 0 else (1, -1, 1)
    out = 0
    for offset, weight in enumerate(weights, start=-1):
        index = xp.clip(first + offset, 0, picture.shape[axis] - 1).astype(xp.int64)
        out = out + xp.take(picture, index, axis=axis) * weight.astype(xp.float32).reshape(shape)
    return out
