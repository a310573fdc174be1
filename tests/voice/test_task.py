"""`train_voice` and `compare_voice` as a worker runs them: through the registry, with a real store; what they make and refuse."""

import json
import os
import tracemalloc
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import soundfile
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from dihedral.bridge import artifacts
from dihedral.bridge.tasks.registry import collect
from dihedral.bridge.tasks.runs import NodeRun, RunControl
from dihedral.data_plane.kernels import spectra
from dihedral.data_plane.media.decode import recording_pieces
from dihedral.data_plane.model_files import read_voice
from dihedral.data_plane.slots.pool import SlotPool
from dihedral.data_plane.tasks import train_voice
from dihedral.data_plane.voice import features as voices
from dihedral.schemas.structs.settings import Settings
from tests.support.in_process import RecordedEvents, TaskRunner
from tests.support.outcomes import ended
from tests.voice import speakers

PERSON, OTHER = speakers.people(8)[2], speakers.people(8)[6]
NAN = np.full(16_000, np.nan, dtype=np.float32)


def spoken(
    directory: Path, name: str = "speech.wav", seconds: float = 3.0, seed: int = 0, person: Any = PERSON
) -> Path:
    return speakers.write(speakers.say(person, seconds, seed), directory / name)


def voice(place: TaskRunner, directory: Path, person: Any = PERSON, **params: Any) -> dict[str, Any]:
    recording = place.upload(spoken(directory, f"{person.pitch_hz:.0f}.wav", person=person))
    name = f"{person.pitch_hz:.0f}"
    return place.output("train_voice", {"recording": recording, "components": 4} | params, nonce=name)[0]["voice"]


# train_voice ------------------------------------------------------------------------------------------------------------


def likelihoods(heard: RecordedEvents) -> list[float]:
    """Of the iterations, which have to be counted from 1."""
    said = heard.told("logLikelihood")
    assert [each["iteration"] for each in said] == list(range(1, len(said) + 1))
    return [each["logLikelihood"] for each in said]


def test_several_recordings_make_one_voice_as_large_as_bic_wants(place: TaskRunner, tmp_path: Path) -> None:
    takes = [place.upload(spoken(tmp_path, f"{seed}.wav", seed=seed)) for seed in range(3)]
    made, heard = place.output("train_voice", {"recording": takes[0], "recordings": takes[1:]})
    found = {each["components"]: each["bic"] for each in heard.told("bic")}
    assert list(found) == list(train_voice.SIZES)
    assert made["components"] == min(found, key=lambda size: found[size])
    assert made["bic"] == found[made["components"]]
    curve = likelihoods(heard)
    assert (len(curve), curve[-1]) == (25, made["logLikelihood"])
    assert all(after >= before - 1e-9 for before, after in pairwise(curve))
    assert made["seconds"] == pytest.approx(9.0)
    assert made["f0Hz"] == pytest.approx(PERSON.pitch_hz, rel=0.08)
    path = place.download(made["voice"], tmp_path / "voice.safetensors")
    stored = read_voice(path, np)
    assert stored.mixture.means.shape == (made["components"], spectra.COEFFICIENTS)
    assert (stored.f0_hz, stored.bandwidth_hz) == (made["f0Hz"], spectra.HIGHEST_HZ)
    assert abs(float(stored.mean_log_mel.mean())) < 1e-6
    with safe_open(path, framework="numpy") as opened:
        assert opened.metadata()["frames"] == str(made["frames"])


def test_the_curve_rises_live_where_the_size_is_given(place: TaskRunner, tmp_path: Path) -> None:
    params = {"recordings": [place.upload(spoken(tmp_path))], "components": 3, "iterations": 7}
    made, heard = place.output("train_voice", params)
    assert [name for name, _ in heard.events] == ["logLikelihood"] * 7
    assert (made["components"], likelihoods(heard)[-1]) == (3, made["logLikelihood"])


def test_the_same_seed_makes_the_same_voice(place: TaskRunner, tmp_path: Path) -> None:
    params = {"recording": place.upload(spoken(tmp_path)), "components": 6, "iterations": 5}
    files = []
    for nonce, seed in (("a", 1), ("b", 1), ("c", 2)):
        made, _ = place.output("train_voice", params | {"seed": seed}, nonce=nonce)
        tensors = load_file(place.download(made["voice"], tmp_path / nonce))
        files.append({key: tensor.tobytes() for key, tensor in tensors.items()})  # the order in the file is not ours
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("rate", [16_000, 44_100, 96_000])
def test_stereo_in_any_rate_makes_nearly_the_same_voice(place: TaskRunner, tmp_path: Path, rate: int) -> None:
    sound = speakers.say(PERSON, 3.0, 0).astype(np.float32)
    other = np.fft.irfft(np.fft.rfft(sound), n=sound.size * rate // 16_000) * (rate / 16_000)
    soundfile.write(tmp_path / "other.flac", np.stack([other, other], axis=1), rate)
    made = {}
    for name, file in (("mono", spoken(tmp_path)), ("other", tmp_path / "other.flac")):
        made[name], _ = place.output("train_voice", {"recording": place.upload(file), "components": 2}, nonce=name)
    assert made["other"]["logLikelihood"] == pytest.approx(made["mono"]["logLikelihood"], abs=0.5)
    assert made["other"]["f0Hz"] == pytest.approx(made["mono"]["f0Hz"], rel=0.01)


def test_a_telephone_recording_makes_a_voice_that_says_how_far_it_reaches(place: TaskRunner, tmp_path: Path) -> None:
    narrow = place.upload(speakers.write(speakers.say(PERSON, 3.0, 0)[::2], tmp_path / "narrow.wav", 8_000))
    made, _ = place.output("train_voice", {"recording": narrow, "components": 2})
    assert read_voice(place.download(made["voice"], tmp_path / "voice"), np).bandwidth_hz == 4000
    wide = place.upload(spoken(tmp_path))
    assert "7600 Hz and 4000 Hz" in place.refused("train_voice", {"recording": wide, "recordings": [narrow]})
    comparison = {"recordings": [wide], "voices": [made["voice"]] * 2}
    assert "up to 4000 Hz" in place.refused("compare_voice", comparison)


def test_what_lies_beyond_the_longest_time_is_not_read_and_said(
    place: TaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_voice, "LONGEST_SECONDS", 4.0)
    takes = [place.upload(spoken(tmp_path, f"{seed}.wav", seed=seed)) for seed in range(3)]
    made, heard = place.output("train_voice", {"recordings": takes, "components": 1, "iterations": 1})
    assert made["seconds"] == pytest.approx(4.0)
    assert heard.lines == [("info", "4 s of sound were read; the other 1 recordings are not")]


def test_analysed_in_pieces_a_recording_is_heard_as_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, looks = spoken(tmp_path, seconds=6.0), []
    whole = voices.listen(path, 60, lambda: None, np)
    monkeypatch.setattr(voices, "_PIECE_SECONDS", 1.0)
    cut = voices.listen(path, 60, lambda: looks.append(1), np)
    assert (len(looks), cut.seconds) == (6, whole.seconds)
    assert len(whole.cepstra) * 0.9 < len(cut.cepstra) <= len(whole.cepstra)
    np.testing.assert_allclose(cut.mean_log_mel, whole.mean_log_mel, atol=0.2)
    assert np.median(cut.hertz) == pytest.approx(np.median(whole.hertz), rel=0.01)


def test_reading_in_pieces_holds_one_of_them_in_memory(tmp_path: Path) -> None:
    noise = (np.random.default_rng(0).standard_normal(48_000 * 240) * 3000).astype(np.int16)
    soundfile.write(tmp_path / "long.wav", noise, 48_000)
    tracemalloc.start()
    try:
        read = sum(piece.size for piece, _ in recording_pieces(tmp_path / "long.wav", 20, 1e9))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert read == noise.size
    assert peak < 6 * 20 * 48_000 * 4, "the whole would be twelve times 20 s of float32"


@pytest.mark.parametrize("looks", [0, 1, 12])
@pytest.mark.parametrize("task", ["train_voice", "compare_voice"])
def test_a_cancel_is_heard_while_it_listens_and_between_iterations(
    place: TaskRunner, tmp_path: Path, task: str, looks: int
) -> None:
    recording = place.upload(spoken(tmp_path))
    params: dict[str, Any] = {"recording": recording, "iterations": 1000, "components": 2}
    if task == "compare_voice":
        params = {"recordings": [recording] * 20, "voices": [voice(place, tmp_path)] * 2}
    asked = iter(range(100_000))
    outcome, heard = place.run(task, params, cancelled=lambda: next(asked) >= looks)
    assert (outcome.status, outcome.artifacts) == ("cancelled", [])
    assert next(asked) <= looks + 2, "one look by the task, one by whoever ran it"
    assert len(heard.events) <= looks


# What cannot be a recording -------------------------------------------------------------------------------------------------


def cut_flac(directory: Path) -> bytes:
    soundfile.write(directory / "whole.flac", speakers.say(PERSON, 3.0, 0), 16_000)
    return (directory / "whole.flac").read_bytes()[:9000]


def of_samples(samples: Any, rate: int = 16_000) -> Callable[[Path], bytes]:
    def made(directory: Path) -> bytes:
        soundfile.write(directory / "made.wav", samples, rate, subtype="FLOAT")
        return (directory / "made.wav").read_bytes()

    return made


CLICK = np.zeros(16_000, dtype=np.float32)
CLICK[8_000] = 0.9
REFUSED: list[tuple[str, Callable[[Path], bytes], str]] = [
    ("empty", lambda _: b"", "not a recording"),
    ("text", lambda _: b"no sound at all" * 100, "not a recording"),
    ("cut", cut_flac, "not a recording"),
    ("silent", of_samples(np.zeros(16_000, dtype=np.float32)), "silent"),
    ("short", of_samples(np.ones(1600, dtype=np.float32)), "lasts 0.10 s"),
    ("click", of_samples(CLICK), "s of speech; at least 0.25 s"),
    ("nan", of_samples(NAN), "no numbers"),
    ("slow", of_samples(np.ones(16_000, dtype=np.float32), 1_000), "1000 samples a second"),
]


@pytest.mark.parametrize("task", ["train_voice", "compare_voice"])
@pytest.mark.parametrize(("make", "words"), [each[1:] for each in REFUSED], ids=[each[0] for each in REFUSED])
def test_what_is_no_speech_is_refused_by_name_and_the_next_run_is_fine(
    place: TaskRunner, tmp_path: Path, task: str, make: Callable[[Path], bytes], words: str
) -> None:
    good, bad = place.upload(spoken(tmp_path, seconds=1.0)), place.upload(make(tmp_path), "bad.wav")
    base: dict[str, Any] = {"components": 1, "iterations": 1}
    if task == "compare_voice":
        base = {"voices": [voice(place, tmp_path, iterations=1)] * 2}
    message = place.refused(task, base | {"recordings": [good, bad]})
    assert words in message
    assert message.startswith("inputs/bad.wav: ")
    place.output(task, base | {"recordings": [good]}, nonce="next")


def test_too_little_for_the_components_that_are_wanted_is_refused(place: TaskRunner, tmp_path: Path) -> None:
    recording = place.upload(spoken(tmp_path, seconds=0.6))
    assert "too little for 64 components" in place.refused("train_voice", {"recording": recording, "components": 64})
    made, heard = place.output("train_voice", {"recording": recording})
    assert max(each["components"] for each in heard.told("bic")) <= made["frames"] / 4


def test_a_voice_of_no_recording_is_refused(place: TaskRunner) -> None:
    assert "none was given" in place.refused("train_voice", {})


@pytest.mark.parametrize("sound", ["tone", "noise", "square"])
def test_sound_that_is_no_speech_makes_a_voice_of_finite_numbers(place: TaskRunner, tmp_path: Path, sound: str) -> None:
    time = np.arange(24_000) / 16_000
    tone = np.sin(2 * np.pi * 220 * time)
    samples = {"tone": tone, "noise": np.random.default_rng(0).standard_normal(24_000) / 5, "square": np.sign(tone)}[
        sound
    ]
    soundfile.write(tmp_path / "sound.wav", samples.astype(np.float32), 16_000)
    made, _ = place.output("train_voice", {"recording": place.upload(tmp_path / "sound.wav")})
    read_voice(place.download(made["voice"], tmp_path / "voice"), np)
    assert np.isfinite([made["logLikelihood"], made["bic"]]).all()
    assert (made["f0Hz"] is None) == (sound == "noise")


# compare_voice ----------------------------------------------------------------------------------------------------------


def test_recordings_are_scored_against_voices_and_errors_told_where_speakers_are(
    place: TaskRunner, tmp_path: Path
) -> None:
    people = (PERSON, OTHER)
    models = [voice(place, tmp_path, person) for person in people]
    trials = [place.upload(spoken(tmp_path, f"t{at}.wav", 1.0, 50 + at, people[at % 2])) for at in range(4)]
    params = {"recordings": trials, "voices": models}
    made, _ = place.output("compare_voice", params)
    scores = np.array(made["scores"])
    assert made["closest"] == [0, 1, 0, 1] == scores.argmax(axis=1).tolist()
    np.testing.assert_allclose(scores[:, 0], -scores[:, 1], rtol=1e-9)  # of two, each is the other's rest
    assert (made["equalErrorRate"], made["threshold"]) == (None, None)
    assert all(0.25 < seconds <= 1 for seconds in made["seconds"])
    told, _ = place.output("compare_voice", params | {"speakers": [0, 1, 0, 1]}, nonce="told")
    assert (told["scores"], told["equalErrorRate"]) == (made["scores"], 0.0)
    wrong, _ = place.output("compare_voice", params | {"speakers": [1, 0, 1, 0]}, nonce="wrong")
    assert wrong["equalErrorRate"] == 1.0
    partly, _ = place.output("compare_voice", params | {"speakers": [0, None, None, None]}, nonce="partly")
    assert 0 < partly["equalErrorRate"] < 0.5, "what nobody is said to have spoken counts as somebody else's"


def test_one_voice_is_compared_with_a_background(place: TaskRunner, tmp_path: Path) -> None:
    own, everybody = voice(place, tmp_path), voice(place, tmp_path, OTHER)
    params = {"recordings": [place.upload(spoken(tmp_path, "trial.wav", 1.0, 9))], "voices": [own]}
    assert "nothing to be compared with" in place.refused("compare_voice", params)
    made, _ = place.output("compare_voice", params | {"background": everybody})
    assert made["scores"][0][0] > 1
    same, _ = place.output("compare_voice", params | {"background": own}, nonce="same")
    assert same["scores"] == [[0.0]]


@pytest.mark.parametrize(
    ("speakers_given", "words"),
    [([0], "1 speakers are given for 2"), ([0, 2], "speaker 2 of recording 1"), ([None, None], "error rate needs")],
)
def test_speakers_that_do_not_fit_are_refused(
    place: TaskRunner, tmp_path: Path, speakers_given: list[Any], words: str
) -> None:
    recording = place.upload(spoken(tmp_path, seconds=1.0))
    params = {"recordings": [recording] * 2, "voices": [voice(place, tmp_path, iterations=1)] * 2}
    assert words in place.refused("compare_voice", params | {"speakers": speakers_given})


def bent(change: Callable[[dict[str, Any], dict[str, str]], None]) -> Callable[[Path], None]:
    """Of a voice file: another with some of it changed, in its place."""

    def apply(path: Path) -> None:
        tensors = load_file(path)
        with safe_open(path, framework="numpy") as opened:
            metadata = dict(opened.metadata())
        change(tensors, metadata)
        save_file(tensors, path, metadata=metadata)

    return apply


BENT: dict[str, tuple[Callable[[Path], object], str]] = {
    "garbage": (lambda path: path.write_bytes(b"\xff" * 300), "is no dihedral.voice.v2 file"),
    "empty": (lambda path: path.write_bytes(b""), "is no dihedral.voice.v2 file"),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is no dihedral.voice.v2 file"),
    "older": (
        bent(lambda _, notes: notes.update(format="dihedral.voice.v1")),
        "format is 'dihedral.voice.v1': train it again",
    ),
    "foreign": (
        bent(lambda _, notes: notes.update(format="dihedral.image-adapter.v1")),
        "is 'dihedral.image-adapter.v1'",
    ),
    "features": (bent(lambda _, notes: notes.update(features="mfcc.13.1")), "features 'mfcc.13.1'"),
    "lacking": (bent(lambda tensors, _: tensors.__delitem__("variances")), "'variances'"),
    "narrow": (bent(lambda tensors, _: tensors.update(means=tensors["means"][:, :12].copy())), "shape (4, 12)"),
    "fewer": (bent(lambda tensors, _: tensors.update(weights=tensors["weights"][:3].copy())), "where (3, 19)"),
    "negative": (bent(lambda tensors, _: tensors.update(variances=-tensors["variances"])), "not above 0"),
    "nan": (bent(lambda tensors, _: tensors["means"].fill(np.nan)), "no numbers"),
    "bandwidth": (bent(lambda _, notes: notes.update(bandwidth_hz="wide")), "missing or no number"),
}


@pytest.mark.parametrize("how", BENT)
def test_a_file_that_is_no_voice_of_this_version_is_refused_by_name(
    place: TaskRunner, tmp_path: Path, how: str
) -> None:
    bend, words = BENT[how]
    good = voice(place, tmp_path, iterations=1)
    path = place.download(good, tmp_path / "bent.safetensors")
    bend(path)
    bad = place.upload(path, bucket="voices")
    recording = place.upload(spoken(tmp_path, seconds=1.0))
    message = place.refused("compare_voice", {"recordings": [recording], "voices": [good, bad]})
    assert words in message
    assert message.startswith("voices/bent.safetensors: ")
    place.output("compare_voice", {"recordings": [recording], "voices": [good, good]}, nonce="next")


# In a slot --------------------------------------------------------------------------------------------------------------


async def test_a_slot_that_was_given_nonsense_trains_on(tmp_path: Path) -> None:
    modules = ["tests.data_plane.slot_tasks", "dihedral.data_plane.tasks.train_voice"]
    own = msgspec.convert({"artifacts": {"directory": str(tmp_path / "artifacts")}}, Settings)
    store = artifacts.open_store(own.artifacts)
    async with SlotPool(slots=1, registry=collect(modules), modules=modules, settings=own) as pool:

        async def run(task: str, **params: Any) -> Any:
            node = NodeRun(
                job_id="job", node_id="n", task=task, attempt=1, nonce="x", params=params, timeout_seconds=60
            )
            return await ended(pool.run(node, RecordedEvents(), RunControl()))

        before = json.loads((await run("pid")).output)["pid"]
        for name, source in (("nan.wav", of_samples(NAN)(tmp_path)), ("speech.wav", spoken(tmp_path))):
            await store.put("inputs", name, source, content_type="audio/wav", job_id=None, node_id=None)
        bad = await run("train_voice", recording={"bucket": "inputs", "key": "nan.wav"})
        assert (bad.status, bad.error and bad.error.code) == ("failed", "invalid_input")
        good = await run("train_voice", recording={"bucket": "inputs", "key": "speech.wav"}, components=2)
        assert good.status == "completed", good.error
        assert json.loads((await run("pid")).output)["pid"] == before != os.getpid()
    await store.close()
