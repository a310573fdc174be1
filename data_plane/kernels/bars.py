"""The heights of a spectrum's bars over a soundtrack: a short Fourier transform around each frame, in bands of equal musical width."""

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule, to_host

WINDOW_SECONDS = 0.08  # a bar of the lowest band needs that long a window
LOWEST_HZ, HIGHEST_HZ = 60.0, 12_000.0
TILT_DB = 3.0  # an octave: speech and music fall by about that much towards the top
RANGE_DB = 48.0  # from an empty to a full bar
RELEASE_SECONDS = 0.35  # from a full to an empty bar, at least: bars jump up and sink
_BLOCK = 256  # frames transformed at a time, so that memory does not grow with the length


def levels(samples: Array, rate: int, fps: int, count: int, bars: int, xp: ArrayModule) -> Array:
    """(n,) -> (count, bars) float32 in 0..1 on the host; column b: from LOWEST_HZ up, HIGHEST_HZ or half the rate at the end.

    A band's power is the integral of |X|² (Hann window) between its edges, over its width, so bands narrower than a bin are right;
    full is what one in a hundred of all bars reaches, empty RANGE_DB below.
    """
    length = 1 << round(np.log2(WINDOW_SECONDS * rate))
    padded = xp.pad(samples, length // 2 + 1)
    edges_hz = np.geomspace(LOWEST_HZ, min(HIGHEST_HZ, 0.49 * rate), bars + 1)
    edges = edges_hz * length / rate + 0.5  # in bins, bin k from k to k + 1
    whole = xp.asarray(edges.astype(np.int64))
    rest = xp.asarray((edges - edges.astype(np.int64)).astype(np.float32))
    width = xp.asarray(np.diff(edges).astype(np.float32))
    window = xp.hanning(length).astype(xp.float32)
    power = np.empty((count, bars), dtype=np.float32)
    for start in range(0, count, _BLOCK):
        numbers = xp.arange(start, min(count, start + _BLOCK))
        centres = xp.minimum(((numbers + 0.5) * (rate / fps)).astype(xp.int64), samples.size)
        spectrum = xp.abs(xp.fft.rfft(padded[centres[:, None] + xp.arange(length)] * window, axis=1)) ** 2
        summed = xp.pad(xp.cumsum(spectrum, axis=1, dtype=xp.float64), ((0, 0), (1, 0)))
        upto = summed[:, whole] + rest * spectrum[:, whole]
        power[start : start + numbers.size] = to_host((upto[:, 1:] - upto[:, :-1]) / width)
    decibels = 10 * np.log10(power + 1e-12) + TILT_DB * np.log2(edges_hz[1:] / LOWEST_HZ)
    full = np.percentile(decibels, 99)
    heights = np.clip((decibels - full) / RANGE_DB + 1, 0, 1).astype(np.float32)
    if full < -60:  # silence: what is left is rounding noise
        heights[:] = 0
    sinking = np.float32(1 / (RELEASE_SECONDS * fps))
    for frame in range(1, count):
        np.maximum(heights[frame], heights[frame - 1] - sinking, out=heights[frame])
    return heights
