"""Eight people who differ in pitch, throat and effort: voices trained on some sentences, tried on others, by the tasks themselves.

Equal error rates measured here, against the other voices and against a background: sentences of 1.5 s 0 and 3 %; half a second in a room whose noise
is 20 dB below the voice 3 and 6 %, 14 dB below 19 and 22 %. Shuffled labels give about 50 %.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dihedral.data_plane.voice.verification import equal_error
from tests.support.in_process import TaskRunner
from tests.voice import speakers

PEOPLE, TRIALS = 8, 4


class Line(TaskRunner):
    """A store with voices of `PEOPLE` in order, and a background of others."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.files = directory
        self.people = speakers.people(PEOPLE)
        self.voices = [
            self.trained(f"p{at}", [(person, seed) for seed in (0, 1, 2)]) for at, person in enumerate(self.people)
        ]
        others = [(person, seed) for person in speakers.people(6, seed=9) for seed in (0, 1)]
        self.background = self.trained("others", others)

    def said(self, person: speakers.Person, seconds: float, seed: int, noise: float = 0.0) -> dict[str, str]:
        sound = speakers.say(person, seconds, seed)
        loud = np.sqrt((sound**2).mean())
        sound = sound + noise * loud * np.random.default_rng(seed).standard_normal(sound.size)
        path = self.files / f"{person.pitch_hz:.0f}-{seconds}-{seed}-{noise}.wav"
        return self.upload(speakers.write(0.5 * sound / np.abs(sound).max(), path))

    def trained(self, name: str, sentences: list[tuple[speakers.Person, int]]) -> dict[str, str]:
        recordings = [self.said(person, 3.0, seed) for person, seed in sentences]
        made, _ = self.output("train_voice", {"recordings": recordings, "components": 8}, nonce=name)
        voice: dict[str, str] = made["voice"]
        return voice

    def compared(
        self, seconds: float, noise: float = 0.0, **more: Any
    ) -> tuple[dict[str, Any], np.ndarray, np.ndarray]:
        """The output, scores (trials, people), and whose trial each is."""
        truth = np.repeat(np.arange(PEOPLE), TRIALS)
        recordings = [self.said(self.people[who], seconds, 100 + number, noise) for number, who in enumerate(truth)]
        params = {"recordings": recordings, "voices": self.voices, "speakers": truth.tolist()} | more
        made, _ = self.output("compare_voice", params)
        return made, np.array(made["scores"]), truth


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with Line.opened(tmp_path_factory.mktemp("line")) as opened:
        yield opened


def rate(scores: np.ndarray, truth: np.ndarray) -> float:
    own = np.arange(PEOPLE) == truth[:, None]
    return equal_error(scores[own], scores[~own]).rate


def test_each_sentence_is_told_from_all_other_people(line: Line) -> None:
    made, scores, truth = line.compared(1.5)
    assert made["closest"] == truth.tolist()
    assert made["equalErrorRate"] == pytest.approx(rate(scores, truth), abs=1e-12)
    assert made["equalErrorRate"] <= 0.02
    own, foreign = scores[np.arange(len(truth)), truth], scores[np.arange(PEOPLE) != truth[:, None]]
    assert foreign.max() < made["threshold"] < own.min()


@pytest.mark.parametrize("against", ["others", "background"])
@pytest.mark.parametrize(("seconds", "noise", "bound"), [(1.5, 0.0, 0.08), (0.5, 0.1, 0.12), (0.5, 0.2, 0.3)])
def test_a_noisier_room_and_half_a_second_are_mostly_enough(
    line: Line, seconds: float, noise: float, bound: float, against: str
) -> None:
    more = {"background": line.background} if against == "background" else {}
    made, scores, truth = line.compared(seconds, noise, **more)
    print(f"\n{seconds} s, noise {noise}, {against}: equal error rate {made['equalErrorRate']:.3f}")
    assert made["equalErrorRate"] < bound
    shuffled = [rate(scores, np.random.default_rng(seed).permutation(truth)) for seed in range(20)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.1)
    assert min(shuffled) > made["equalErrorRate"]
