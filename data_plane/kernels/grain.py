"""Film grain: noise that is the same for a seed and a frame's number on any device.

A field larger than the frame is drawn once; each frame is laid over another corner of it, so that a frame costs no random numbers.
Everything is integer arithmetic: a hash of seed and pixel (Wellons 2018, "Prospecting for hash functions", lowbias32) whose four bytes
are summed (nearly a Gaussian), blurred by ¼ ½ ¼ both ways, because grains are larger than pixels, and scaled to a standard deviation of 32.
"""

from dihedral.data_plane.device import Array, ArrayModule

ROAM = 256  # pixels that the field is larger than the frame, each way: as many places as there are in 65,536 frames
DEVIATION = 32


def hashed(numbers: Array, xp: ArrayModule) -> Array:
    """uint32 -> uint32: a permutation whose every output bit depends on every input bit."""
    x = numbers ^ (numbers >> 16)
    x = x * xp.uint32(0x7FEB352D)
    x = x ^ (x >> 15)
    x = x * xp.uint32(0x846CA68B)
    return x ^ (x >> 16)


def field(size: tuple[int, int], seed: int, xp: ArrayModule) -> Array:
    """(height + ROAM, width + ROAM) int8, mean 0, standard deviation 32, for a frame of size = (height, width)."""
    height, width = size[0] + ROAM + 2, size[1] + ROAM + 2  # 2: the blur's rim
    rows, columns = xp.arange(height, dtype=xp.uint32)[:, None], xp.arange(width, dtype=xp.uint32)[None, :]
    noise = hashed((rows << 16 | columns) ^ _key(seed, 0, xp), xp)
    summed = sum(((noise >> shift) & 255).astype(xp.int32) for shift in (0, 8, 16, 24)) - 510  # deviation 147.8
    blurred = summed[:-2] + 2 * summed[1:-1] + summed[2:]
    blurred = blurred[:, :-2] + 2 * blurred[:, 1:-1] + blurred[:, 2:]  # deviation 147.8 · 6 = 887
    return xp.clip(blurred * 37 >> 10, -127, 127).astype(xp.int8)


def corner(seed: int, frame: int) -> tuple[int, int]:
    """The place of a frame in the field: (row, column) below ROAM."""
    import numpy as np

    at = int(hashed(_key(seed, 1, np) ^ np.uint32(frame), np)[0])
    return at % ROAM, at // ROAM % ROAM


def _key(seed: int, use: int, xp: ArrayModule) -> Array:
    low, high = seed & 0xFFFFFFFF, seed >> 32 & 0xFFFFFFFF
    return hashed(xp.asarray([low], dtype=xp.uint32) ^ hashed(xp.asarray([high ^ use << 31], dtype=xp.uint32), xp), xp)
