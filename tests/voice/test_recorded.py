"""Features, fit and error rate against what librosa and scikit-learn answered (`recorded.npz`, written by peer.py)."""

from typing import Any

import numpy as np
import pytest

from dihedral.data_plane.device import to_host
from dihedral.data_plane.kernels import mixture, pitch, spectra
from dihedral.data_plane.kernels.mixture import Mixture
from dihedral.data_plane.voice.verification import equal_error
from tests.voice import peer

FEATURES = 1e-4  # nats; both sides transform in float32
NOT_WORSE = 0.3  # nats per held-out frame, of 24 to 34: another seed moves either side by as much


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(peer.RECORDED) as numbers:
        return dict(numbers)


@pytest.fixture
def sentence(recorded: dict[str, np.ndarray], xp: Any) -> Any:
    return xp.asarray(recorded["sentence"].astype(np.float32) / 32768)


def test_log_mel_and_cepstra_are_those_of_librosa(recorded: dict[str, np.ndarray], sentence: Any, xp: Any) -> None:
    log_mel = spectra.log_mel(sentence, xp)
    np.testing.assert_allclose(to_host(log_mel), recorded["log_mel"], atol=FEATURES)
    np.testing.assert_allclose(to_host(spectra.cepstra(log_mel, xp)), recorded["cepstra"], atol=FEATURES)
    assert np.ptp(recorded["log_mel"]) > 10


def test_the_fundamental_is_that_of_librosa(recorded: dict[str, np.ndarray], sentence: Any, xp: Any) -> None:
    """Where we hear one. librosa's window shrinks with the lag, so at the ends of syllables it may take another dip."""
    hertz = to_host(pitch.yin(sentence, xp))
    voiced = np.isfinite(hertz)
    apart = np.abs(hertz[voiced] / recorded["hertz"][voiced] - 1)
    assert hertz.shape == recorded["hertz"].shape
    assert 0.2 < voiced.mean() < 0.9
    assert (apart > 0.02).mean() < 0.05


@pytest.mark.parametrize("components", peer.SIZES)
def test_em_takes_the_same_steps_as_scikit_learn(recorded: dict[str, np.ndarray], components: int, xp: Any) -> None:
    frames = recorded["train"].astype(np.float64)
    start = Mixture(*(xp.asarray(part) for part in peer.start(frames, components)))
    *_, (likelihood, fitted) = mixture.improve(
        mixture.rows_of(xp.asarray(frames), xp), start, peer.ITERATIONS, 1e-12, xp
    )
    for name, part in fitted._asdict().items():
        np.testing.assert_allclose(to_host(part), recorded[f"{name}/{components}"], rtol=1e-6, atol=1e-9)
    assert mixture.bic(likelihood, len(frames), fitted) == pytest.approx(float(recorded[f"bic/{components}"]), rel=1e-9)


@pytest.mark.parametrize("components", peer.SIZES)
def test_a_fit_explains_held_out_speech_no_worse_than_scikit_learns(
    recorded: dict[str, np.ndarray], components: int, xp: Any
) -> None:
    train, held_out = (xp.asarray(recorded[name].astype(np.float64)) for name in ("train", "held_out"))
    ours = []
    for seed in range(len(recorded[f"held_out/{components}"])):
        *_, (_, fitted) = mixture.fit(train, components, 25, seed, 1e-6, xp)
        ours.append(mixture.log_likelihood(held_out, fitted, xp))
    assert np.mean(ours) > recorded[f"held_out/{components}"].mean() - NOT_WORSE


def test_the_equal_error_rate_lies_on_scikit_learns_curve(recorded: dict[str, np.ndarray]) -> None:
    found = equal_error(recorded["own"], recorded["foreign"])
    assert found.rate == pytest.approx(float(recorded["equal_error_rate"]), abs=1e-12)
    assert 0.05 < found.rate < 0.3
