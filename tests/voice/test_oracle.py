"""The live comparison with librosa and scikit-learn: `pytest -m oracle` in an environment that has them."""

import numpy as np
import pytest

from dihedral.data_plane.kernels import mixture, pitch, spectra
from dihedral.data_plane.voice.verification import equal_error
from tests.voice import peer, speakers

# The peers warn about themselves, also when they are imported.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]
SEEDS = 15


def said(person: speakers.Person, seed: int, seconds: float) -> np.ndarray:
    return speakers.say(person, seconds, seed).astype(np.float32)


@pytest.mark.parametrize("person", [0, 4, 7])
def test_features_are_those_of_librosa(person: int) -> None:
    samples = said(speakers.people(8)[person], 11, 4.0)
    ours, theirs = spectra.log_mel(samples, np), peer.log_mel(samples)
    mel = np.abs(ours - theirs).max()
    mfcc = np.abs(spectra.cepstra(ours, np) - peer.cepstra(theirs)).max()
    hertz = pitch.yin(samples, np)
    voiced = np.isfinite(hertz)
    apart = np.abs(hertz[voiced] / peer.hertz(samples)[voiced] - 1)
    median, other = np.median(apart), (apart > 0.02).mean()
    print(
        f"\nperson {person}: log-mel {mel:.1e} nats, cepstra {mfcc:.1e}; F0 of {voiced.sum()} voiced frames {median:.2%} apart (median), "
        f"{other:.1%} of them by more than 2 %"
    )
    assert max(mel, mfcc) < 1e-4
    assert median < 0.01
    assert other < 0.05


@pytest.mark.parametrize("person", [0, 4, 7])
@pytest.mark.parametrize("components", [1, 4, 8, 16])
def test_a_fit_is_that_of_scikit_learn_and_explains_held_out_speech_no_worse(person: int, components: int) -> None:
    everybody = speakers.people(8)
    train, held_out = (
        np.concatenate([spectra.cepstra(spectra.log_mel(said(everybody[person], seed, 4.0), np), np) for seed in seeds])
        .astype(np.float64) for seeds in ((21, 22, 23), (24, 25))
    )  # fmt: skip
    start = peer.start(train, components)
    *_, (likelihood, fitted) = mixture.improve(mixture.rows_of(train, np), start, 10, 1e-12, np)
    theirs = peer.improved(train, start, 10)
    apart = max(np.abs(a - b).max() for a, b in zip(fitted, peer.parameters(theirs), strict=True))
    bic = mixture.bic(likelihood, len(train), fitted)
    scores = []
    for seed in range(SEEDS):
        *_, (_, ours) = mixture.fit(train, components, 25, seed, 1e-6, np)
        peers = peer.fitted(train, components, seed, max_iter=25, tol=0)
        scores.append((mixture.log_likelihood(held_out, ours, np), peers.score(held_out)))
    ours_mean, theirs_mean = np.mean(scores, axis=0)
    spread = np.std(scores, axis=0)
    print(
        f"\nperson {person}, {components} components: the same start apart by {apart:.1e}, BIC {bic:.3f} and {theirs.bic(train):.3f}; "
        f"held out {ours_mean:.2f} ± {spread[0]:.2f} and {theirs_mean:.2f} ± {spread[1]:.2f} nats per frame"
    )
    assert apart < 1e-5
    assert bic == pytest.approx(theirs.bic(train), rel=1e-9)
    assert ours_mean > theirs_mean - 0.3


def test_equal_error_rates_lie_on_scikit_learns_curve() -> None:
    rng = np.random.default_rng(5)
    worst = 0.0
    for _ in range(200):
        own, foreign = rng.normal(rng.uniform(0, 3), 1, rng.integers(1, 50)), rng.normal(0, 1, rng.integers(1, 200))
        own, foreign = np.round(own, rng.integers(0, 3)), np.round(foreign, 1)
        worst = max(worst, abs(equal_error(own, foreign).rate - peer.equal_error_rate(own, foreign)))
    print(f"\nequal error rates of 200 draws: {worst:.1e} apart")
    assert worst < 1e-12
