"""Speech analysis: resampling, log-mel frames, mel cepstra, and an equaliser between two mean spectra.

Samples are mono float32 in −1..1. The analysis runs at 16 kHz with frames of 32 ms every 10 ms; a frame is one row
of 32 mel bands between 60 Hz and 7.6 kHz, as natural logarithms of energy.
"""

from math import gcd

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule

RATE = 16_000  # Hz, of every analysis
FRAME = 512  # samples, 32 ms: two periods of a deep voice
HOP = 160  # samples, 10 ms
BANDS = 32
LOWEST_HZ, HIGHEST_HZ = 60.0, 7_600.0
SPEECH_RANGE = 35 / 10 * np.log(10)  # nats of energy: a frame 35 dB below the loud ones is a pause
SPARSE_RANGE = 20 / 10 * np.log(10)  # nats
AUDIBLE_RANGE = 40 / 10 * np.log(10)  # nats: what is 40 dB below the loud frames is the room's as often as the voice's
COEFFICIENTS = 19  # of the cepstrum, without the level: what finer ones hold is the pitch's harmonics
FEATURES = "mfcc.19.1"  # names what voices are made of, `cepstra` of `audible` speech: another number whenever a voice of before would no longer fit
_BLOCK = 4096  # frames transformed at a time: memory does not grow with the length
_EQUALISER_BLOCK = 1 << 17  # samples


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
    """(BANDS, FRAME//2 + 1) float32: triangles of height one, evenly spaced on HTK's mel scale 2595·log10(1 + f/700)."""
    edges_hz = _hertz(np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2))
    bins_hz = np.arange(FRAME // 2 + 1) * RATE / FRAME
    left, middle, right = edges_hz[:-2, None], edges_hz[1:-1, None], edges_hz[2:, None]
    rising, falling = (bins_hz - left) / (middle - left), (right - bins_hz) / (right - middle)
    return xp.asarray(np.maximum(0, np.minimum(rising, falling)).astype(np.float32))


def band_centres_hz() -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """(BANDS,) centre frequencies of the mel bands."""
    return _hertz(np.linspace(_mel(LOWEST_HZ), _mel(HIGHEST_HZ), BANDS + 2))[1:-1]


def frames_of(samples: Array, length: int, hop: int, xp: ArrayModule) -> Array:
    """(n,) -> (1 + (n − length)//hop, length); n ≥ length."""
    starts = xp.arange(1 + (samples.size - length) // hop) * hop
    return samples[starts[:, None] + xp.arange(length)[None, :]]


def mel_energy(samples: Array, xp: ArrayModule) -> Array:
    """(n,) at RATE, n ≥ FRAME -> (frames, BANDS) float32: |FFT|² under a periodic Hann window, summed by `mel_filters`.

    Expected error: 1e-5 of a frame's loudest band (the FFT is computed in float32).
    """
    window, filters = xp.hanning(FRAME + 1)[:-1].astype(xp.float32), mel_filters(xp).T
    energy = xp.empty((1 + (samples.size - FRAME) // HOP, BANDS), dtype=xp.float32)
    for start in range(0, len(energy), _BLOCK):
        some = frames_of(samples[start * HOP : (start + _BLOCK - 1) * HOP + FRAME], FRAME, HOP, xp)
        energy[start : start + _BLOCK] = xp.abs(xp.fft.rfft(some * window, axis=1)) ** 2 @ filters
    return energy


def log_energy(energy: Array, xp: ArrayModule) -> Array:
    """Natural logarithm, floored 80 dB under the loudest band and frame."""
    return xp.log(xp.maximum(energy, 1e-8 * energy.max() + 1e-20))


def log_mel(samples: Array, xp: ArrayModule) -> Array:
    """(n,) at RATE, n ≥ FRAME -> (frames, BANDS) float32: log energy, floored 80 dB under the loudest band and frame."""
    return log_energy(mel_energy(samples, xp), xp)


def is_speech(log_mel: Array, xp: ArrayModule) -> Array:
    """(frames, BANDS) -> (frames,) bool: which are no pause. Digital silence has frames too, and none of them is speech."""
    return log_mel.max(axis=1) > loudness(log_mel, xp) - SPEECH_RANGE


def loudness(log_mel: Array, xp: ArrayModule) -> Array:
    """() of the loud frames: the 95th percentile of each frame's loudest band, which a click does not move; but 20 dB under the
    loudest of all at least, or a recording that is nearly all pause would have the loudness of its pauses.
    """
    loudest = log_mel.max(axis=1)
    return xp.maximum(xp.percentile(loudest, 95), loudest.max() - SPARSE_RANGE)


def speech_frames(samples: Array, xp: ArrayModule) -> Array:
    """(n,) at RATE -> (frames, BANDS) float64: the log-mel frames that are no pause, their common level taken out.

    The level is the mean over frames and bands, so a louder copy of a recording gives the same frames.
    """
    frames = log_mel(samples, xp).astype(xp.float64)
    spoken = frames[is_speech(frames, xp)]
    return spoken - spoken.mean()


def audible(log_mel: Array, xp: ArrayModule) -> Array:
    """(frames, BANDS) -> the same, lifted to AUDIBLE_RANGE under the loudness: a quiet room then sounds like a quieter one."""
    return xp.maximum(log_mel, loudness(log_mel, xp) - AUDIBLE_RANGE)


def cepstra(log_mel: Array, xp: ArrayModule) -> Array:
    """(frames, BANDS) -> (frames, COEFFICIENTS): c_1 to c_19 of the orthonormal DCT-II over the bands.

        c_k = √(2/B) · Σ_b x_b · cos(π k (b + ½) / B)

    Davis & Mermelstein 1980. c_0, the level, is left out, so a louder copy has the same cepstra. No liftering: a mixture with
    diagonal covariances does not notice the scale of a coefficient, and k-means needs distances that are those of spectra.
    """
    bands, orders = np.arange(BANDS) + 0.5, np.arange(1, COEFFICIENTS + 1)
    cosines = np.sqrt(2 / BANDS) * np.cos(np.pi / BANDS * bands[:, None] * orders)
    return log_mel @ xp.asarray(cosines.astype(log_mel.dtype))


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
