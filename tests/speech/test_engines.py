"""The other engines: programs, and servers that behave in every way."""

import io
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from dihedral.data_plane.engines.speech import choice, embedded, espeak_ng, process
from dihedral.data_plane.media import speech_timing
from tests.support.in_process import TaskRunner

needs = {name: pytest.mark.skipif(shutil.which(name) is None, reason=f"no {name}") for name in ("flite", "espeak-ng")}


def wav(seconds: float = 1.0, rate: int = 24_000) -> bytes:
    buffer = io.BytesIO()
    time = np.arange(round(seconds * rate)) / rate
    soundfile.write(
        buffer, 0.3 * np.sin(2 * np.pi * 200 * time) * (np.sin(2 * np.pi * 3 * time) > -0.5), rate, format="WAV"
    )
    return buffer.getvalue()


Answer = tuple[int, dict[str, str], bytes]


@contextmanager
def server(*answers: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Gives the answers in order, the last one again and again; remembers what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append({"path": self.path, "key": self.headers.get("Authorization"), **body})
            status, headers, content = answers[min(len(asked), len(answers)) - 1]
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    made = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=made.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}", asked
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


def configured(place: TaskRunner, **table: Any) -> None:
    place.registry["speak"].configure(table)


def test_a_server_speaks_every_sentence_with_the_voice_that_a_job_names(place: TaskRunner) -> None:
    with server((200, {}, wav())) as (url, asked):
        configured(place, endpoints={"kokoro": {"url": f"{url}/v1", "model": "k", "apiKey": "secret\n"}})
        made, _ = place.output("speak", {"text": "One sentence. Another one.", "voice": "kokoro:bella", "speed": 1.5})
    assert [each["input"] for each in asked] == ["One sentence.", "Another one."]
    assert asked[0] | {"input": ""} == {
        "path": "/v1/audio/speech", "key": "Bearer secret", "model": "k", "input": "", "voice": "bella",
        "response_format": "wav", "speed": 1.5,
    }  # fmt: skip
    assert (made["engine"], made["seconds"], made["placed"]) == ("kokoro", 2.0, "letters")
    assert [word["text"] for word in made["words"]] == ["One", "sentence.", "Another", "one."]


@pytest.mark.parametrize("kind", ["flac", "pcm"])
def test_a_server_may_answer_flac_or_bare_samples(place: TaskRunner, kind: str) -> None:
    rate = 16_000
    samples = (0.3 * np.sin(np.arange(rate) / 20) * 32767).astype("<i2")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="FLAC", subtype="PCM_16")
    content = buffer.getvalue() if kind == "flac" else samples.tobytes()
    with server((200, {}, content)) as (url, asked):
        configured(place, endpoints={"local": {"url": url, "format": kind, "pcmRate": rate}})
        made, _ = place.output("speak", {"text": "Hello.", "voice": "local"})
        assert asked[0]["response_format"] == kind
        assert (made["seconds"], made["sampleRate"]) == (1.0, rate)
        heard, _ = soundfile.read(io.BytesIO(place.content(made["audio"])), dtype="int16")
        assert np.abs(heard - samples.astype(float)).max() <= 1
    for half in (content[: len(content) // 2 + 1 - len(content) // 2 % 2], b""):
        with server((200, {}, half)) as (url, _):
            configured(place, endpoints={"local": {"url": url, "format": kind, "pcmRate": rate}})
            outcome, _ = place.run("speak", {"text": "Hello.", "voice": "local"})
        assert outcome.error is not None
        assert outcome.error.code == "speech_failed"
    for said, told in ((b"<p>hello", "HTML where a"), (b'{"error":1}', "JSON where a")):
        with server((200, {}, said)) as (url, _):
            configured(place, endpoints={"local": {"url": url, "format": kind}})
            outcome, _ = place.run("speak", {"text": "Hello.", "voice": "local"})
        assert outcome.error is not None
        assert told in outcome.error.message


def test_a_busy_server_is_asked_again(place: TaskRunner) -> None:
    with server((429, {"Retry-After": "0"}, b"slow down"), (503, {"Retry-After": "0"}, b""), (200, {}, wav())) as (
        url,
        asked,
    ):
        configured(place, endpoints={"local": {"url": url}})
        place.output("speak", {"text": "Hello.", "voice": "local"})
    assert len(asked) == 3


BAD: dict[str, tuple[Answer, str, str]] = {
    "html": ((200, {}, b"<!doctype html><p>Welcome"), "speech_failed", "answered HTML"),
    "json": ((200, {}, b'{"error":"no"}'), "speech_failed", "answered JSON"),
    "nothing": ((200, {}, b""), "speech_failed", "something else"),
    "half a recording": ((200, {}, wav()[:20_000]), "speech_failed", "half a recording"),
    "a header alone": ((200, {}, wav(0)), "speech_failed", "without sound"),
    "silence": ((200, {}, wav()[:44] + bytes(48_000)), "speech_failed", "silence"),
    "refused": ((401, {}, b"bad key secret"), "speech_refused", "answered 401: bad key ***"),
    "busy": ((429, {"Retry-After": "0"}, b"later"), "speech_unavailable", "answered 429"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_server_that_misbehaves_is_an_error_with_its_reason_and_the_next_speech_is_made(
    place: TaskRunner, name: str
) -> None:
    answer, code, told = BAD[name]
    with server(answer) as (url, _):
        configured(place, endpoints={"local": {"url": url, "apiKey": "secret"}})
        outcome, _ = place.run("speak", {"text": "Hello.", "voice": "local"})
    assert outcome.error is not None
    assert (outcome.error.code, outcome.artifacts) == (code, [])
    assert told in outcome.error.message
    assert outcome.retryable == (name in ("busy", "half a recording"))
    place.output("speak", {"text": "Hello."}, nonce="after")


def test_a_server_that_is_away_may_be_tried_again_and_one_on_a_private_name_is_not_asked(place: TaskRunner) -> None:
    configured(
        place, endpoints={"away": {"url": "http://127.0.0.1:9"}, "inside": {"url": "http://db.internal.invalid"}}
    )
    outcome, _ = place.run("speak", {"text": "Hello.", "voice": "away"})
    assert outcome.error is not None
    assert (outcome.error.code, outcome.retryable) == ("speech_unavailable", True)
    outcome, _ = place.run("speak", {"text": "Hello.", "voice": "http://127.0.0.1:9/x:alloy"})
    assert outcome.error is not None
    assert outcome.error.code == "voice_unavailable", "a job names a name, never an address"


@needs["flite"]
def test_flite_tells_its_phonemes_and_its_words_are_aligned(place: TaskRunner) -> None:
    made, _ = place.output("speak", {"text": "Good evening, my friends. -voice kal", "voice": "flite:slt"})
    assert (made["engine"], made["placed"]) == ("flite", "alignment")
    assert "".join(each["symbol"] for each in made["phonemes"][:3]) == "ɡʊd"
    assert [word["text"] for word in made["words"]] == ["Good", "evening,", "my", "friends.", "-voice", "kal"]


@needs["espeak-ng"]
def test_espeak_speaks_other_languages_and_refuses_scripts_that_they_lack(place: TaskRunner) -> None:
    made, _ = place.output("speak", {"text": "Guten Abend, schöne Welt.", "voice": "espeak:de"})
    assert (made["engine"], made["placed"]) == ("espeak", "engine")
    assert [word["text"] for word in made["words"]] == ["Guten", "Abend,", "schöne", "Welt."]
    assert "".join(each["symbol"] for each in made["phonemes"][:5]) == "ɡuːtən"
    faster, _ = place.output(
        "speak", {"text": "Guten Abend, schöne Welt.", "voice": "espeak:de", "speed": 2}, nonce="2"
    )
    assert faster["seconds"] < 0.7 * made["seconds"]
    place.output("speak", {"text": "Добрый вечер.", "voice": "espeak:ru"}, nonce="ru")
    assert place.refusal("speak", {"text": "Добрый вечер.", "voice": "espeak:de"})[0] == "script_unsupported"
    code, message = place.refusal("speak", {"text": "こんにちは世界", "voice": "espeak:ja"})
    assert (code, "CJK letters (世界)" in message) == ("script_unsupported", True), "it would say: Chinese letter"


@needs["espeak-ng"]
def test_the_words_of_espeak_lie_where_they_are_heard(place: TaskRunner) -> None:
    """By the pauses between them in the sound, of which espeak's events know nothing."""
    said = "Paper, at 7:30, lantern – quietly, the house."
    made, _ = place.output("speak", {"text": said, "voice": "espeak:en-us", "speed": 0.7})
    assert [word["text"] for word in made["words"]] == said.split()
    assert all(one["end"] <= other["start"] + 1e-6 for one, other in pairwise(made["words"]))
    samples, rate = soundfile.read(io.BytesIO(place.content(made["audio"])), dtype="float32")
    heard = speech_timing.speech(samples, rate)
    words = {word["text"]: word for word in made["words"]}
    groups = [
        ("Paper,", "Paper,"),
        ("at", "7:30,"),
        ("lantern", "lantern"),
        ("quietly,", "quietly,"),
        ("the", "house."),
    ]
    assert len(heard) == len(groups)
    for (first, last), span in zip(groups, heard, strict=True):
        assert words[first]["start"] == pytest.approx(span.start, abs=0.07)
        assert words[last]["end"] == pytest.approx(span.end, abs=0.07)


@needs["espeak-ng"]
def test_without_the_library_espeak_speaks_all_the_same(
    place: TaskRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "events.py"
    program.write_text(Path(espeak_ng.EVENTS).read_text().replace("libespeak-ng", "no-such-library"))
    monkeypatch.setattr(espeak_ng, "EVENTS", str(program))
    made, _ = place.output("speak", {"text": "Guten Abend.", "voice": "espeak:de"})
    assert (made["placed"], made["phonemes"], len(made["words"])) == ("letters", [], 2)


def test_the_manifest_tells_the_voices_of_this_worker(place: TaskRunner, tmp_path: Path) -> None:
    voice = tmp_path / "de_DE-thorsten-medium.onnx"
    voice.write_bytes(b"")
    configured(
        place,
        piper={"thorsten": str(voice), "gone": str(tmp_path / "gone.onnx")},
        endpoints={"kokoro": {"url": "http://127.0.0.1:9", "voice": "af_heart", "language": "en"}},
    )
    told = place.registry["speak"].manifest.voices
    assert isinstance(told, list)
    found = {each.id: each for each in told}
    assert (found["piper:thorsten"].language, found["kokoro:af_heart"].engine) == ("de-DE", "kokoro")
    assert "piper:gone" not in found
    for program, name in (("flite", "flite:slt"), ("espeak-ng", "espeak:de")):
        assert (name in found) == (shutil.which(program) is not None)
    assert ("embedded:heart" in found) == bool(embedded.voices())


PROGRAM = """#!/usr/bin/env python3
import shutil, sys
text = sys.stdin.read()
open(sys.argv[sys.argv.index("-m") + 1] + ".heard", "a").write(text)
{then}
"""


@pytest.mark.parametrize(
    ("then", "told"),
    [
        ("shutil.copy('{wav}', sys.argv[sys.argv.index('-f') + 1])", ""),
        ("sys.exit('no such model')", "exited with code 1: no such model"),
        ("pass", "made no recording"),
        ("open(sys.argv[sys.argv.index('-f') + 1], 'w').write('<html>')", "made no recording that can be read"),
        ("import time; time.sleep(600)", "did not end within"),
    ],
)
def test_piper_is_the_program_that_the_operator_names(
    place: TaskRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: str, told: str
) -> None:
    monkeypatch.setattr(process, "LONGEST_SECONDS", 3.0 if "sleep" in then else 60.0)
    (tmp_path / "answer.wav").write_bytes(wav())
    (tmp_path / "en_US-amy.onnx").write_bytes(b"")
    program = tmp_path / "piper"
    program.write_text(PROGRAM.format(then=then.format(wav=tmp_path / "answer.wav")))
    program.chmod(0o755)
    configured(place, piper={"amy": str(tmp_path / "en_US-amy.onnx")}, piperCommand=[str(program)])
    params = {"text": "Hello there.", "voice": "piper:amy"}
    if told:
        assert told in place.refusal("speak", params)[1]
    else:
        assert place.output("speak", params)[0]["engine"] == "piper"
    assert (tmp_path / "en_US-amy.onnx.heard").read_text() == "Hello there.\n"
    assert place.refusal("speak", {"text": "Hello.", "voice": "piper:bob"})[0] == "voice_unavailable"


def test_a_process_is_killed_when_the_job_is_cancelled(tmp_path: Path) -> None:
    looked: list[int] = []

    class Cancelled(Exception):
        pass

    def check() -> None:
        looked.append(1)
        if len(looked) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        process.run("sleep", ["sleep", "600"], "", tmp_path, check)


def test_the_first_voice_that_is_there_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    absent: Callable[[], list[Any]] = list
    engines = {name: (absent, made) for name, (_, made) in choice.INSTALLED.items()}
    monkeypatch.setattr(choice, "INSTALLED", engines)
    with pytest.raises(Exception, match="there is no voice on this worker"):
        choice.opened("", choice.SpeakSettings())
