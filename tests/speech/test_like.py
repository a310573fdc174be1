"""`speak` with `like`: nearer to the speaker by `compare_voice`, and still understood."""

from pathlib import Path

import pytest

from tests.speech import hearing
from tests.support.in_process import TaskRunner
from tests.voice import speakers

PEOPLE = speakers.people(8)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("asked", [[0, 6], pytest.param(list(range(8)), marks=pytest.mark.long)], ids=["two", "all"])
def test_speech_like_a_speaker_is_nearer_to_that_speaker_and_understood(
    place: TaskRunner, tmp_path: Path, asked: list[int]
) -> None:
    """Scores are log-likelihood ratios to the voice that speaks: whether the speech is still more like itself or like the speaker."""
    voices = []
    for number, person in enumerate(PEOPLE):
        recording = place.upload(speakers.write(speakers.say(person, 4.0, 0), tmp_path / f"{number}.wav"))
        params = {"recording": recording, "components": 8, "iterations": 10}
        voices.append(place.output("train_voice", params, nonce=f"v{number}")[0]["voice"])
    plain, _ = place.output("speak", {"text": hearing.TEXT}, nonce="plain")
    recordings = [plain["audio"]]
    for number in asked:
        made, _ = place.output("speak", {"text": hearing.TEXT, "like": voices[number]}, nonce=f"l{number}")
        assert (made["seconds"], made["words"]) == (plain["seconds"], plain["words"]), (
            "the same words at the same times"
        )
        heard = hearing.share_heard(hearing.TEXT, place.download(made["audio"], tmp_path / "like.wav"))
        assert heard >= 0.85, (number, heard)
        recordings.append(made["audio"])
    own, _ = place.output("train_voice", {"recording": plain["audio"], "components": 8, "iterations": 10}, nonce="own")
    params = {"recordings": recordings, "voices": voices, "background": own["voice"]}
    compared, _ = place.output("compare_voice", params)
    before, *after = compared["scores"]
    nearer = {number: scores[number] - before[number] for number, scores in zip(asked, after, strict=True)}
    assert all(change > 0 for change in nearer.values()), nearer


def test_a_recording_serves_in_place_of_a_trained_voice(place: TaskRunner, tmp_path: Path) -> None:
    recording = place.upload(speakers.write(speakers.say(PEOPLE[1], 3.0, 0), tmp_path / "one.wav"))
    made, heard = place.output("speak", {"text": "Good evening to you all.", "like": recording})
    plain, _ = place.output("speak", {"text": "Good evening to you all."}, nonce="plain")
    assert place.content(made["audio"]) != place.content(plain["audio"])
    assert "pitch moved by -" in heard.lines[-1][1]


@pytest.mark.parametrize("content", [b"no sound", b"RIFF\x00\x00\x00\x00WAVE"])
def test_what_is_no_voice_is_refused_before_anything_is_spoken(place: TaskRunner, content: bytes) -> None:
    for name in ("a.wav", "a.safetensors"):
        reference = place.upload(content, name)
        assert place.refused("speak", {"text": "Good evening.", "like": reference})
