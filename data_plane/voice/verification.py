"""Verification of the speaker of a recording: likelihood ratios, and how often a threshold on them is wrong."""

from typing import Any, NamedTuple

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


class EqualError(NamedTuple):
    """rate: 0..1; threshold: nats per frame, a score of it or above is taken for the speaker."""

    rate: float
    threshold: float


def ratios(likelihoods: Floats, background: Floats | None) -> Floats:
    """(recordings, voices) mean log-likelihoods per frame -> the same, against what else the recording might be.

        score_v = L_v − L_background,   without one   score_v = L_v − log( 1/(V−1) · Σ_{u≠v} exp L_u )

    background: (recordings,) of a voice of many speakers (Reynolds, Quatieri & Dunn 2000); None: the other voices are the
    cohort, with likelihoods normalised by length (Reynolds 1995, §4). V ≥ 2 then.
    """
    if background is not None:
        return likelihoods - background[:, None]
    voices = likelihoods.shape[1]
    others = np.broadcast_to(likelihoods[:, None, :], (len(likelihoods), voices, voices)).copy()
    others[:, np.arange(voices), np.arange(voices)] = -np.inf
    top = others.max(axis=2)
    return np.asarray(likelihoods - top - np.log(np.exp(others - top[:, :, None]).sum(axis=2) / (voices - 1)))


def equal_error(own: Floats, foreign: Floats) -> EqualError:
    """Returns the threshold where as great a share of `own` scores (n ≥ 1,) is refused as of `foreign` ones (m ≥ 1,) is accepted.

    The thresholds that differ lie between neighbouring scores, here at their middles; between the two of them where the shares cross, both
    are interpolated linearly, and so is the threshold.
    """
    scores = np.unique(np.concatenate([own, foreign]))
    thresholds = np.concatenate([scores[:1], (scores[1:] + scores[:-1]) / 2, [np.nextafter(scores[-1], np.inf)]])
    refused = np.searchsorted(np.sort(own), thresholds) / own.size
    accepted = 1 - np.searchsorted(np.sort(foreign), thresholds) / foreign.size
    after = int((refused >= accepted).argmax())  # never the first: there nothing is refused
    gap = accepted - refused
    along = gap[after - 1] / (gap[after - 1] - gap[after])
    rate = refused[after - 1] + along * (refused[after] - refused[after - 1])
    return EqualError(float(rate), float(thresholds[after - 1] + along * (thresholds[after] - thresholds[after - 1])))
