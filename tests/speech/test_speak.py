"""`speak` as a worker runs it: what is heard, when, and what is refused."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dihedral.data_plane.engines.speech import alignment, embedded
from dihedral.data_plane.tasks import speak
from tests.speech import hearing
from tests.support.in_process import TaskRunner


def said(place: TaskRunner, tmp_path: Path, **params: Any) -> tuple[dict[str, Any], Path]:
    made, _ = place.output("speak", params)
    return made, place.download(made["audio"], tmp_path / "speech.wav")


def test_a_recogniser_hears_the_words(place: TaskRunner, tmp_path: Path) -> None:
    made, path = said(place, tmp_path, text=hearing.TEXT)
    assert hearing.share_heard(hearing.TEXT, path) >= 0.9
    samples, rate = soundfile.read(path)
    assert (made["engine"], made["sampleRate"], made["placed"]) == ("embedded", rate, "engine")
    assert made["seconds"] == pytest.approx(samples.size / rate, abs=0.001)
    assert 0.1 < np.abs(samples).max() <= speak.LOUDEST + 0.001


def test_words_stand_within_120_ms_of_where_forced_alignment_finds_them(place: TaskRunner, tmp_path: Path) -> None:
    made, path = said(
        place, tmp_path, text="The quick brown fox jumps over the lazy dog, and runs into the dark forest."
    )
    samples, rate = soundfile.read(path, dtype="float32")
    found = alignment.aligned([word["text"] for word in made["words"]], samples, rate)
    assert found is not None
    apart = [abs(word["start"] - other.start) for word, other in zip(made["words"], found[0], strict=True)]
    assert max(apart) < 0.12
    assert float(np.median(apart)) < 0.05


def test_words_are_those_that_were_written_in_the_order_of_time(place: TaskRunner, tmp_path: Path) -> None:
    lines = ["On the 3rd of March, 1,250 people paid $9.99 — each!", "Dr. Smith didn't: 7:30 pm was too late."]
    made, _ = said(place, tmp_path, lines=lines)
    assert [word["text"] for word in made["words"]] == " ".join(lines).split()
    for timed in (made["words"], made["phonemes"]):
        assert all(each["start"] <= each["end"] for each in timed)
        assert all(before["start"] <= after["start"] for before, after in pairwise(timed))
        assert timed[-1]["end"] <= made["seconds"]
    smith = next(word for word in made["words"] if word["text"] == "Smith")
    inside = "".join(
        each["symbol"] for each in made["phonemes"] if smith["start"] - 0.01 <= each["start"] < smith["end"]
    )
    assert inside == "smɪθ"


def test_captions_show_every_word_while_it_is_spoken(place: TaskRunner, tmp_path: Path) -> None:
    made, _ = said(place, tmp_path, text=hearing.TEXT)
    captions = place.content(made["captions"]).decode()
    assert captions.startswith("WEBVTT\n\n")
    shown = [line for line in captions.splitlines()[2:] if line and "-->" not in line]
    assert " ".join(shown).split() == hearing.TEXT.split()
    assert max(map(len, shown)) <= 46


def test_a_seed_gives_the_same_bytes_and_another_one_others(place: TaskRunner, tmp_path: Path) -> None:
    files = []
    for nonce, seed in (("a", 1), ("b", 1), ("c", 2)):
        made, _ = place.output("speak", {"text": "Once more.", "seed": seed}, nonce=nonce)
        files.append(place.content(made["audio"]))
    assert files[0] == files[1] != files[2]


def test_speed_changes_how_long_it_takes(place: TaskRunner, tmp_path: Path) -> None:
    seconds = {
        speed: place.output("speak", {"text": hearing.TEXT, "speed": speed}, nonce=str(speed))[0]["seconds"]
        for speed in (0.5, 1, 2)
    }
    assert seconds[0.5] > 1.6 * seconds[1] > 2.4 * seconds[2]


def test_a_sentence_longer_than_the_network_takes_is_spoken_whole(place: TaskRunner, tmp_path: Path) -> None:
    text = (
        "When the winter came the people of the village went down to the river, because the water was still warm there, and they carried "
        "wood and stones to build a house for the children, who had nothing to eat but bread and a little milk, and in the evening they sat "
        "around the fire and told each other stories of the mountains, of the sea and of the long road home, until the morning came again."
    )
    assert len(text) > embedded.Embedded.longest
    made, path = said(place, tmp_path, text=text)
    assert [word["text"] for word in made["words"]] == text.split()
    assert hearing.share_heard(text, path) > 0.8


def test_the_network_still_gives_its_durations() -> None:
    """They hang on a tensor's name in one exact version: this fails first when that version changes."""
    spoken = embedded.Embedded("heart").speak("Good evening.", 1.0, 0, lambda: None)
    assert spoken.words is not None
    assert [word.text for word in spoken.words] == ["Good", "evening."]


def test_without_durations_words_are_placed_by_alignment_or_by_letters(
    place: TaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_DURATIONS", b"/no_such_tensor")
    text = "Zorglub walked home, past 1,250 houses."
    made, _ = said(place, tmp_path, text=text)
    assert made["placed"] == "alignment"
    monkeypatch.setattr(alignment, "installed", lambda: False)
    other, _ = place.output("speak", {"text": text}, nonce="letters")
    assert (other["placed"], other["phonemes"]) == ("letters", [])
    for found in (made, other):
        assert [word["text"] for word in found["words"]] == text.split()
    apart = [abs(one["start"] - two["start"]) for one, two in zip(made["words"], other["words"], strict=True)]
    assert max(apart) < 1


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x01\x1b[2J"[:3], "🎉🎈", "… — !?", "\u200b\u200d"])
def test_a_text_without_anything_to_say_is_an_error(place: TaskRunner, text: str) -> None:
    assert place.refusal("speak", {"text": text})[0] == "nothing_to_say"


@pytest.mark.parametrize(
    ("params", "code", "told"),
    [
        ({"text": "a" * 200_000}, "text_too_long", "split it over several nodes"),
        ({"lines": ["word " * 100] * 400}, "text_too_long", "200,000 letters"),
        ({"text": "<speak>Hello <break time='1s'/></speak>"}, "markup_unsupported", "plain text"),
        ({"text": "Hello 日本語, мир"}, "script_unsupported", "CJK letters (日本語)"),
        ({"text": "مرحبا"}, "script_unsupported", "ARABIC"),
        ({"text": "Hello", "voice": "embedded:nobody"}, "voice_unavailable", "there are heart"),
        ({"text": "Hello", "voice": "klingon"}, "voice_unavailable", "ENGINE:NAME"),
        ({"text": "Hello", "voice": "../../etc/passwd:x"}, "voice_unavailable", "engines are"),
        ({}, "invalid_input", "either `text` or `lines`"),
        ({"text": "a", "lines": ["b"]}, "invalid_input", "either `text` or `lines`"),
        ({"lines": []}, "nothing_to_say", "no letter"),
    ],
)
def test_what_cannot_be_spoken_is_refused_with_what_to_do(
    place: TaskRunner, params: dict[str, Any], code: str, told: str
) -> None:
    assert place.refusal("speak", params)[0] == code
    assert told in place.refusal("speak", params)[1]


def test_figures_that_would_be_spoken_for_hours_end_at_the_longest_time(
    place: TaskRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(speak, "LONGEST_SECONDS", 5.0)
    assert place.refusal("speak", {"text": "9" * 12_000})[0] == "text_too_long"


def test_control_characters_and_emoji_among_words_are_not_spoken(place: TaskRunner, tmp_path: Path) -> None:
    made, _ = said(place, tmp_path, text="Good\x00 evening\x1b 🎉 to\u202eyou\r\nall. Naïve café!")
    assert [word["text"] for word in made["words"]] == ["Good", "evening", "to", "you", "all.", "Naïve", "café!"]


def test_a_cancel_between_sentences_ends_the_speech(place: TaskRunner) -> None:
    looked: list[int] = []

    def cancelled() -> bool:
        looked.append(1)
        return len(looked) > 2

    outcome, _ = place.run("speak", {"text": "One. Two. Three. Four. Five. Six."}, cancelled)
    assert (outcome.status, outcome.artifacts) == ("cancelled", [])


def test_the_output_of_the_longest_text_fits_into_a_node(place: TaskRunner) -> None:
    text = "a few words, " * (speak.MOST_LETTERS // 13)
    outcome, _ = place.run("speak", {"text": text, "speed": 2})
    assert outcome.status == "completed", outcome.error
    assert outcome.output is not None
    assert len(json.loads(outcome.output)["words"]) == 3 * (speak.MOST_LETTERS // 13)
