"""Pictures as rows of square patches, and back, by reshaping only.

A picture is (height, width, 3) float32 in 0..1; a patch of side p is one row of p·p·3 values, channels last.
"""

from collections.abc import Callable

from dihedral.data_plane.device import Array, ArrayModule

LUMA = (0.2126, 0.7152, 0.0722)  # Rec. ITU-R BT.709, relative luminance of R, G, B


def grid_patches(picture: Array, patch: int) -> Array:
    """(height, width, 3) -> (n, patch·patch·3): the patches of a grid without overlap; a ragged rim is left out."""
    rows, columns = picture.shape[0] // patch, picture.shape[1] // patch
    blocks = picture[: rows * patch, : columns * patch].reshape(rows, patch, columns, patch, 3)
    return blocks.transpose(0, 2, 1, 3, 4).reshape(rows * columns, patch * patch * 3)


def luma(colours: Array, xp: ArrayModule) -> Array:
    """(..., 3) -> (...,): BT.709 luma."""
    return colours @ xp.asarray(LUMA, dtype=colours.dtype)


def desaturate(patches: Array, xp: ArrayModule) -> Array:
    """(n, p·p·3) -> (n, p·p·3): every pixel's three channels replaced by its luma."""
    grey = luma(patches.reshape(patches.shape[0], -1, 3), xp)  # (n, p·p)
    return xp.repeat(grey, 3, axis=1)


def map_patches(picture: Array, patch: int, function: Callable[[Array], Array], xp: ArrayModule) -> Array:
    """(height, width, 3) -> (height, width, 3): `function` on patches at half-patch stride, cross-faded.

    The window sin²(π(i+½)/p) sums to 1 at stride p/2 (p even), so the identity comes back and no block edges
    show.
    """
    height, width, _ = picture.shape
    half = patch // 2
    bottom, right = -height % half + patch, -width % half + patch
    padded = xp.pad(picture, ((half, bottom), (half, right), (0, 0)), mode="edge")
    ramp = xp.sin(xp.pi * (xp.arange(patch, dtype=xp.float32) + 0.5) / patch) ** 2
    window = (ramp[:, None] * ramp[None, :])[:, :, None]  # (p, p, 1)
    out = xp.zeros_like(padded)
    for top in (0, half):
        for left in (0, half):
            view = padded[top:, left:]
            rows, columns = view.shape[0] // patch, view.shape[1] // patch
            mapped = function(grid_patches(view, patch)).reshape(rows, columns, patch, patch, 3) * window
            block = mapped.transpose(0, 2, 1, 3, 4).reshape(rows * patch, columns * patch, 3)
            out[top : top + rows * patch, left : left + columns * patch] += block
    return out[half : half + height, half : half + width]
