"""Speech analysis: resampling, log-mel frames, fundamental frequency, and an equaliser between two mean spectra.

Samples are mono float32 in −1..1. The analysis runs at 16 kHz with frames of 32 ms every 10 ms; a frame is one column
of 32 mel bands between 60 Hz and 7.6 kHz, as natural logarithms of energy.
"""

from math import gcd

import numpy as np

from data_plane.device import Array, ArrayModule

RATE = 16_000  # Hz, of every analysis
FRAME = 512  # samples, 32 ms: two periods of a deep voice
HOP = 160  # samples, 10 ms
BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 60.0, 7_600.0
SPEECH_RANGE = 35 / 10 * np.log(10)  # nats of energy: a frame 35 dB below the loud ones is a pause
DEEPEST_HZ, SHRILLEST_HZ = 50.0, 500.0  # range of the voice's fundamental
_YIN_WINDOW = 800  # samples, 50 ms
_EQUALISER_BLOCK = 1 << 17  # samples
_YIN_DIP = 0.15  # aperiodicity under which a frame counts as voiced; 0.1–0.15 in the paper


def resample(samples: Array, rate_in: int, rate_out: int, xp: ArrayModule) -> Array:
    """(n,) -> (ceil(n·rate_out/rate_in),): band-limited, by cutting or zero-extending the spectrum of the whole signal.

    Whole, because the recordings are bounded (a few minutes) and blocks would need cross-fading.
    """
    if rate_in == rate_out or samples.size == 0:
        return samples
    divisor = gcd(rate_in, rate_out)
    down, up = rate_in // divisor, rate_out // divisor
    blocks = -(-samples.size // down)
    blocks += -blocks % 256  # few large prime factors, so the FFT stays fast; the padding is silence
    spectrum = xp.fft.rfft(samples, n=blocks * down)
    kept = min(spectrum.size, blocks * up // 2 + 1)
    out = xp.fft.irfft(spectrum[:kept], n=blocks * up) * (up / down)
    return out[: -(-samples.size * up // down)].astype(xp.float32)


def mel_filters(xp: ArrayModule) -> Array:
    """(BANDS, FRAME//2 + 1) float32: triangles evenly spaced on the mel scale 2595·log10(1 + f/700)."""
    edges_hz = _hertz(np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2))
    bins_hz = np.arange(FRAME // 2 + 1) * RATE / FRAME
    left, middle, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - left) / (middle - left), (right - bins_hz) / (right - middle)
    filters = np.maximum(0, np.minimum(rising, falling))
    # The lowest triangles are narrower than a bin: without the nearest bin they would be empty.
    nearest = np.abs(bins_hz - middle).argmin(axis=1)
    filters[np.arange(BANDS), nearest] = np.maximum(filters[np.arange(BANDS), nearest], 1e-2)
    return xp.asarray(filters.astype(np.float32))


def band_centres_hz() -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """(BANDS,) centre frequencies of the mel bands."""
    return _hertz(np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2))[1:-1]


def frames_of(samples: Array, length: int, hop: int, xp: ArrayModule) -> Array:
    """(n,) -> (1 + (n − length)//hop, length); n ≥ length."""
    starts = xp.arange(1 + (samples.size - length) // hop) * hop
    return samples[starts[:, None] + xp.arange(length)[None, :]]


def log_mel(samples: Array, xp: ArrayModule) -> Array:
    """(n,) at RATE, n ≥ FRAME -> (frames, BANDS): log energy, floored 80 dB under the loudest band and frame."""
    power = xp.abs(xp.fft.rfft(frames_of(samples, FRAME, HOP, xp) * xp.hanning(FRAME), axis=1)) ** 2
    energy = power @ mel_filters(xp).T
    return xp.log(xp.maximum(energy, 1e-8 * energy.max() + 1e-20))


def speech_frames(samples: Array, xp: ArrayModule) -> Array:
    """(n,) at RATE -> (frames, BANDS) float64: the log-mel frames that are no pause, their common level taken out.

    The level is the mean over frames and bands, so a louder copy of a recording gives the same frames.
    """
    frames = log_mel(samples, xp).astype(xp.float64)
    loudness = frames.max(axis=1)
    spoken = frames[loudness > xp.percentile(loudness, 95) - SPEECH_RANGE]
    return spoken - spoken.mean()


def fundamental_hz(samples: Array, xp: ArrayModule) -> float | None:
    """Median fundamental over the voiced frames of (n,) at RATE; None where nothing is periodic.

    YIN (de Cheveigné & Kawahara 2002), steps 2–5: d(τ) = Σ(x_j − x_{j+τ})² by way of the autocorrelation, divided by
    its running mean; the first dip under the threshold, refined by a parabola. Expected error on speech: under 1 %.
    """
    longest, shortest = int(RATE / DEEPEST_HZ), int(RATE / SHRILLEST_HZ)
    length = _YIN_WINDOW + longest
    if samples.size < length:
        return None
    frames = frames_of(samples, length, HOP, xp).astype(xp.float64)
    head = xp.fft.rfft(frames[:, :_YIN_WINDOW], n=2048, axis=1)  # 2048 > length + window: no wrap-around
    correlation = xp.fft.irfft(xp.conj(head) * xp.fft.rfft(frames, n=2048, axis=1), n=2048, axis=1)[:, : longest + 1]
    summed = xp.pad(xp.cumsum(frames**2, axis=1), ((0, 0), (1, 0)))
    energy = summed[:, _YIN_WINDOW : _YIN_WINDOW + longest + 1] - summed[:, : longest + 1]  # of x_{j+τ}
    difference = xp.maximum(energy[:, :1] + energy - 2 * correlation, 0)
    lags = xp.arange(1, longest + 1)
    dips = difference[:, 1:] * lags / xp.maximum(xp.cumsum(difference[:, 1:], axis=1), 1e-12)  # column i is lag i + 1
    loud = energy[:, 0] > 1e-3 * energy[:, 0].max()
    inner = dips[:, 1:-1]
    low = (inner < _YIN_DIP) & (inner <= dips[:, :-2]) & (inner < dips[:, 2:]) & (lags[1:-1] >= shortest)
    voiced = xp.nonzero(low.any(axis=1) & loud)[0]
    if voiced.size == 0:
        return None
    at = low[voiced].argmax(axis=1) + 1  # column of the first dip
    before, here, after = dips[voiced, at - 1], dips[voiced, at], dips[voiced, at + 1]
    shift = 0.5 * (before - after) / xp.maximum(before - 2 * here + after, 1e-12)
    return float(xp.median(RATE / (at + 1 + shift)))


def equalise(samples: Array, rate: int, gains_db: Array, xp: ArrayModule) -> Array:
    """(n,) at any rate -> (n,): filtered by gains_db (BANDS,) at the mel bands' centres, without delay.

    A linear-phase FIR of about 40 ms by frequency sampling (Oppenheim & Schafer, §7.5), applied through the FFT; the
    gains at the ends hold beyond the outermost bands.
    """
    half = rate // 50
    bins_hz = np.arange(half + 1) * rate / (2 * half)
    gains = 10 ** (np.interp(bins_hz, band_centres_hz(), np.asarray(gains_db, dtype=np.float64)) / 20)
    taps = np.fft.fftshift(np.fft.irfft(gains, n=2 * half)) * np.hanning(2 * half)
    size = max(_EQUALISER_BLOCK, 1 << (2 * taps.size).bit_length())
    step = size - taps.size + 1
    response = xp.fft.rfft(xp.asarray(taps), n=size)
    out = xp.zeros(samples.size + size, dtype=xp.float32)
    for start in range(0, samples.size, step):  # overlap-add, so that memory does not grow with the length
        piece = xp.fft.rfft(samples[start : start + step], n=size)
        out[start : start + size] += xp.fft.irfft(piece * response, n=size)
    return out[half : half + samples.size]


def _mel(hertz: float) -> float:
    return float(2595 * np.log10(1 + hertz / 700))


def _hertz(mel: "np.ndarray[tuple[int], np.dtype[np.float64]]") -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    return np.asarray(700 * (10 ** (mel / 2595) - 1))
