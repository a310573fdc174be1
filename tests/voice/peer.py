"""The same speech through librosa, the same frames through scikit-learn, and their answers. Nothing here is installed with the tests.

`python -m tests.voice.peer` writes what `recorded.npz` holds; CI compares with that. `pytest -m oracle` compares live.
"""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from dihedral.data_plane.kernels import pitch, spectra
from dihedral.data_plane.kernels.mixture import Mixture
from tests.voice import speakers

RECORDED = Path(__file__).parent / "recorded.npz"
SPEAKER = 3  # whose sentence is recorded
SIZES = (1, 4, 8)
SEEDS = 10  # of k-means starts
ITERATIONS = 6  # from a start that both are given


def sentence(seed: int, seconds: float = 1.5) -> np.ndarray:
    """(n,) float32, as a 16-bit file holds it."""
    said = speakers.say(speakers.people(8)[SPEAKER], seconds, seed)
    return (np.round(said * 32767) / 32768).astype(np.float32)


def log_mel(samples: np.ndarray) -> np.ndarray:
    """(frames, BANDS) with our bands, frames and floor."""
    import librosa

    energy = librosa.feature.melspectrogram(
        y=samples,
        sr=spectra.RATE,
        n_fft=spectra.FRAME,
        hop_length=spectra.HOP,
        window="hann",
        center=False,
        n_mels=spectra.BANDS,
        fmin=spectra.LOWEST_HZ,
        fmax=spectra.HIGHEST_HZ,
        htk=True,
        norm=None,
    ).T
    return np.log(np.maximum(energy, 1e-8 * energy.max()))


def cepstra(of: np.ndarray) -> np.ndarray:
    """(frames, COEFFICIENTS) of librosa's DCT, without the first."""
    import librosa

    found: np.ndarray = librosa.feature.mfcc(S=of.T, n_mfcc=spectra.COEFFICIENTS + 1, dct_type=2, norm="ortho")
    return found[1:].T


def hertz(samples: np.ndarray) -> np.ndarray:
    """(frames,); librosa answers for unvoiced frames too, and its window grows shorter with the lag."""
    import librosa

    found: np.ndarray = librosa.yin(
        samples,
        fmin=pitch.DEEPEST_HZ,
        fmax=pitch.SHRILLEST_HZ,
        sr=spectra.RATE,
        frame_length=pitch.FRAME,
        hop_length=spectra.HOP,
        trough_threshold=pitch.DIP,
        center=False,
    )
    return found


def fitted(frames: np.ndarray, components: int, seed: int = 0, **more: Any) -> Any:
    """scikit-learn's mixture; its k-means start where none is given."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the rounds are counted, not waited for
        return GaussianMixture(components, covariance_type="diag", random_state=seed, **more).fit(frames)


def improved(frames: np.ndarray, start: Mixture, iterations: int) -> Any:
    return fitted(
        frames,
        len(start.weights),
        tol=0,
        max_iter=iterations,
        reg_covar=0,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=1 / start.variances,
    )


def parameters(peer: Any) -> Mixture:
    return Mixture(peer.weights_, peer.means_, peer.covariances_)


def start(frames: np.ndarray, components: int) -> Mixture:
    """Some frames as means: poor, so that each iteration changes much."""
    means = frames[:: len(frames) // components][:components]
    return Mixture(np.full(components, 1 / components), means, np.tile(frames.var(axis=0), (components, 1)))


def equal_error_rate(own: np.ndarray, foreign: np.ndarray) -> float:
    """On the line between the points of scikit-learn's ROC curve."""
    from sklearn.metrics import roc_curve

    labels = np.repeat([1, 0], [len(own), len(foreign)])
    accepted, hit, _ = roc_curve(labels, np.concatenate([own, foreign]), drop_intermediate=False)
    gap = 1 - hit - accepted  # falls from 1 to −1
    after = int((gap <= 0).argmax())
    along = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(accepted[after - 1] + along * (accepted[after] - accepted[after - 1]))


def record() -> None:
    said = sentence(1)
    heard = log_mel(said)
    train, held_out = (cepstra(log_mel(sentence(seed, 4.0))).astype(np.float32) for seed in (2, 3))
    wide = train.astype(np.float64)
    numbers: dict[str, Any] = {
        "sentence": np.round(said * 32768).astype(np.int16),
        "log_mel": heard.astype(np.float32),
        "cepstra": cepstra(heard).astype(np.float32),
        "hertz": hertz(said).astype(np.float32),
        "train": train,
        "held_out": held_out,
    }
    for components in SIZES:
        scores = [
            fitted(wide, components, seed, max_iter=25, tol=0).score(held_out.astype(np.float64))
            for seed in range(SEEDS)
        ]
        numbers[f"held_out/{components}"] = np.array(scores)
        improved_peer = improved(wide, start(wide, components), ITERATIONS)
        numbers[f"bic/{components}"] = np.array(improved_peer.bic(wide))
        for name, one in parameters(improved_peer)._asdict().items():
            numbers[f"{name}/{components}"] = one
    rng = np.random.default_rng(0)
    numbers["own"], numbers["foreign"] = np.round(rng.normal(1, 1, 40), 1), np.round(rng.normal(-1, 1, 300), 1)
    numbers["equal_error_rate"] = np.array(equal_error_rate(numbers["own"], numbers["foreign"]))
    np.savez_compressed(RECORDED, **numbers)


if __name__ == "__main__":
    record()
