"""Speech by `speak`, and EM of the voice model beside scikit-learn's GaussianMixture and PyTorch eager.

Speech: the whole task, with words, captions and WAV, by each engine that is installed; seconds of speech for each second of one core, those of
child processes included. EM: the same frames, start and iterations, by turns, with as many threads as NumPy's OpenBLAS has; scikit-learn and
torch where they are installed.
"""

import importlib.util
import os
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dihedral.data_plane.kernels import mixture
from dihedral.data_plane.kernels.mixture import Mixture
from dihedral.data_plane.kernels.spectra import COEFFICIENTS
from tests.benchmarks.bench import Row, Table, summary, turns
from tests.support.in_process import TaskRunner

THREADS = int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count() or 1)
JOBS = 10  # iterations of a turn
SIZES = ((6_000, 8), (60_000, 8), (60_000, 32))  # frames (a minute, ten of them) and components
FLOOR = 1e-6
VOICES = ("embedded:heart", "flite:slt", "espeak:en-us")
TEXT = (
    "Far out at sea, where the water is as blue as the loveliest cornflower, there lived an old keeper of a lighthouse. "
    "Every evening he climbed the stairs, lit the lamp, and told the ships a story. "
) * 3


def run(iterations: int, rounds: int) -> tuple[list[Table], Any]:
    tables, raw = spoken(rounds)
    for count, components in SIZES:
        frames = drawn(count)
        start = Mixture(np.full(components, 1 / components), frames[:components], np.ones((components, COEFFICIENTS)))
        fits = {name: partial(fit, frames, start) for name, fit in contenders().items()}
        ends = {name: fit(3) for name, fit in fits.items()}  # also warms them up
        assert max(ends.values()) - min(ends.values()) < 1e-4, ends
        taken = turns(rounds, {name: partial(timed, fit, iterations) for name, fit in fits.items()})
        title = f"EM on {count:,} frames of {COEFFICIENTS}, {components} components, float64, {THREADS} thread(s)"
        tables.append(Table(title, summary(taken, of="iterations/s", reference="dihedral")))
        raw[title] = taken
    return tables, raw


def spoken(rounds: int) -> tuple[list[Table], dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder, TaskRunner.opened(Path(folder, "store")) as tasks:
        found = {each.id for each in tasks.registry["speak"].manifest.voices}  # type: ignore[union-attr]
        speakers = {voice: partial(speech, tasks, voice) for voice in VOICES if voice in found}
        for speak in speakers.values():
            speak()  # loads the voice
        taken = turns(rounds, speakers)
    title = f"`speak`, {len(TEXT)} letters, words placed, captions and WAV stored"
    return [Table(title, summary(taken, of="x real time, one core", reference=next(iter(speakers))))], {title: taken}


def speech(tasks: TaskRunner, voice: str) -> Row:
    wall, cpu = time.perf_counter(), used()
    made, _ = tasks.output("speak", {"text": TEXT, "voice": voice})
    wall, cpu = time.perf_counter() - wall, used() - cpu
    return {
        "x real time, one core": made["seconds"] / cpu,
        "x real time, wall": made["seconds"] / wall,
        "seconds of speech": made["seconds"],
    }


def used() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in both)


def drawn(count: int) -> np.ndarray:
    """(count, COEFFICIENTS): clouds that overlap."""
    rng = np.random.default_rng(0)
    clouds = 2 * rng.normal(size=(16, COEFFICIENTS))
    return rng.normal(size=(count, COEFFICIENTS)) + clouds[rng.integers(0, 16, count)]


def timed(fit: Callable[[int], float], iterations: int) -> Row:
    wall, cpu = time.perf_counter(), time.process_time()
    fit(iterations)
    return {
        "iterations/s": iterations / (time.perf_counter() - wall),
        "CPU ms/iteration": (time.process_time() - cpu) / iterations * 1e3,
    }


def contenders() -> dict[str, Callable[[np.ndarray, Mixture, int], float]]:
    """Each answers the log-likelihood per frame that its last iteration began with or ended at."""
    found: dict[str, Callable[[np.ndarray, Mixture, int], float]] = {"dihedral": ours}
    found |= {"scikit-learn": scikit_learn} if importlib.util.find_spec("sklearn") else {}
    return found | ({"torch eager": torch_eager} if importlib.util.find_spec("torch") else {})


def ours(frames: np.ndarray, start: Mixture, iterations: int) -> float:
    *_, (likelihood, _) = mixture.improve(mixture.rows_of(frames, np), start, iterations, FLOOR, np)
    return likelihood


def scikit_learn(frames: np.ndarray, start: Mixture, iterations: int) -> float:
    from sklearn.mixture import GaussianMixture

    peer = GaussianMixture(
        len(start.weights),
        covariance_type="diag",
        tol=0,
        reg_covar=FLOOR,
        max_iter=iterations,
        weights_init=start.weights,
        means_init=start.means,
        precisions_init=1 / start.variances,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it has not converged
        peer.fit(frames)
    return float(peer.score(frames))


def torch_eager(frames: np.ndarray, start: Mixture, iterations: int) -> float:
    """As one writes it: the squares opened into products, the responsibilities of all frames at once."""
    import torch

    torch.set_num_threads(THREADS)
    x = torch.from_numpy(frames)
    squares = x * x
    weights, means, variances = (torch.from_numpy(part) for part in start)
    normal = COEFFICIENTS * float(np.log(2 * np.pi))

    def joint() -> Any:
        precision = 1 / variances
        constant = weights.log() - 0.5 * (normal + variances.log().sum(1) + (means**2 * precision).sum(1))
        return x @ (means * precision).T - 0.5 * squares @ precision.T + constant

    with torch.no_grad():
        for _ in range(iterations):
            share = joint().softmax(1)
            total = share.sum(0)
            means = share.T @ x / total[:, None]
            variances = (share.T @ squares / total[:, None] - means**2).clamp_min(FLOOR)
            weights = total / total.sum()
        return float(joint().logsumexp(1).mean())
