"""Recordings as phones, telephone systems and broken downloads leave them: as long as they are, and of nothing but what is in them."""

from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.media import decode, footage

RATE = 22_050
SECONDS = 3.0


def sound(rate: int = RATE) -> Any:
    time = np.arange(int(SECONDS * rate)) / rate
    return (0.5 * np.sin(2 * np.pi * 220 * time) * (1 + 0.3 * np.sin(3 * time))).astype(np.float32)


def encoded(path: Path, codec: str, kind: str, rate: int = RATE, quality: int | None = None, **options: str) -> Path:
    with av.open(path, "w", format=kind, options=options) as file:
        stream: Any = file.add_stream(codec, rate=rate)
        if quality is not None:
            stream.codec_context.qscale = True
            stream.codec_context.options = {"global_quality": str(quality), "b": "0"}
        frame = av.AudioFrame.from_ndarray(sound(rate)[None], format="fltp", layout="mono")
        frame.sample_rate = rate
        resampler = av.AudioResampler(stream.format, "mono", rate, stream.codec_context.frame_size or None)
        for even in (*resampler.resample(frame), *resampler.resample(None)):
            file.mux(stream.encode(even))
        file.mux(stream.encode(None))
    return path


def without_length(to: Path) -> Path:
    return encoded(to / "recorder.mp3", "libmp3lame", "mp3", write_xing="0", id3v2_version="0")


def of_variable_rate(to: Path) -> Path:
    return encoded(to / "variable.mp3", "libmp3lame", "mp3", quality=2, write_xing="0", id3v2_version="0")


def written(kind: str, subtype: str, rate: int = RATE) -> Any:
    def make(to: Path) -> Path:
        soundfile.write(to / "file", sound(rate), rate, format=kind, subtype=subtype)
        return to / "file"

    return make


FILES = {
    "mp3": lambda to: encoded(to / "a.mp3", "libmp3lame", "mp3"),
    "mp3 without length": without_length,
    "mp3 of variable rate without length": of_variable_rate,
    "m4a": lambda to: encoded(to / "a.m4a", "aac", "mp4"),
    "aac": lambda to: encoded(to / "a.aac", "aac", "adts"),
    "webm": lambda to: encoded(to / "a.webm", "libopus", "webm", 48_000),
    "opus": lambda to: encoded(to / "a.opus", "libopus", "ogg", 48_000),
    "gsm in wav": written("WAV", "GSM610", 8_000),
    "gsm in w64": written("W64", "GSM610", 8_000),
    "gsm in aiff": written("AIFF", "GSM610", 8_000),
    "g721 in au": written("AU", "G721_32"),
    "g723 in au": written("AU", "G723_24"),
    "g721 in wav": written("WAV", "G721_32"),
    "nms in wav": written("WAV", "NMS_ADPCM_16"),
    "flac": written("FLAC", "PCM_16"),
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_recording_is_as_long_as_it_is_and_sounds_as_it_does(tmp_path: Path, make: Any) -> None:
    samples, rate = decode.read_recording(make(tmp_path), 7_200)
    assert samples.size / rate == pytest.approx(SECONDS, abs=0.1)
    assert np.abs(samples).max() < 0.9
    whole = np.abs(samples[: int(2.9 * rate)]).reshape(-1, int(0.1 * rate)).max(axis=1)
    assert (whole > 0.2).all(), "every tenth of a second holds the tone"


@pytest.mark.parametrize("make", [FILES["mp3"], without_length, FILES["aac"]], ids=["mp3", "mp3 without length", "aac"])
def test_a_recording_that_was_cut_in_the_middle_is_read_to_there(tmp_path: Path, make: Any) -> None:
    content = make(tmp_path).read_bytes()
    (tmp_path / "cut").write_bytes(content[: len(content) // 2])
    samples, rate = decode.read_recording(tmp_path / "cut", 7_200)
    assert samples.size / rate == pytest.approx(SECONDS / 2, abs=0.2)
    assert np.abs(samples).max() < 0.9


@pytest.mark.parametrize("claimed", [0xFFFFFFFF, 0x7FFFFF00])
def test_a_wav_whose_header_promises_other_samples_holds_those_that_are_there(tmp_path: Path, claimed: int) -> None:
    soundfile.write(tmp_path / "a.wav", sound(), RATE, subtype="PCM_16")
    content = bytearray((tmp_path / "a.wav").read_bytes())
    at = content.index(b"data") + 4
    content[at : at + 4] = claimed.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    samples, _ = decode.read_recording(tmp_path / "a.wav", 7_200)
    assert samples.size == int(SECONDS * RATE)
    assert np.abs(samples - sound()).max() < 0.001


def test_pieces_have_the_size_that_was_asked_for(tmp_path: Path) -> None:
    path = FILES["m4a"](tmp_path)
    pieces = [samples for samples, _ in decode.recording_pieces(path, 0.5, 2.25)]
    assert [piece.size for piece in pieces] == [RATE // 2] * 4 + [RATE // 4]
    whole, _ = decode.read_recording(path, 2.25)
    assert (np.concatenate(pieces) == whole).all()


@pytest.mark.parametrize(
    "text",
    [
        "#EXTM3U\n#EXTINF:3,\nfile://{}\n",
        "ffconcat version 1.0\nfile {}\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\n{}\n#EXT-X-ENDLIST\n",
        "[playlist]\nFile1={}\nNumberOfEntries=1\n",
    ],
)
def test_a_playlist_opens_no_other_file(tmp_path: Path, text: str) -> None:
    other = encoded(tmp_path / "a.mp3", "libmp3lame", "mp3")
    for name in ("list.m3u8", "list.ffconcat", "list"):
        (tmp_path / name).write_text(text.format(other))
        with pytest.raises(TaskError, match="not a recording") as refused:
            decode.read_recording(tmp_path / name, 60)
        assert refused.value.code == "invalid_input"


def test_a_thousand_channels_take_no_more_memory_at_once_than_one(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "wide.wav", np.tile(sound()[: RATE // 2, None], (1, 1_000)), RATE, subtype="PCM_U8")
    samples, _ = decode.read_recording(tmp_path / "wide.wav", 60)
    assert samples.size == RATE // 2


def test_a_video_without_sound_is_refused(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp4", "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        file.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        file.mux(stream.encode(None))
    with pytest.raises(TaskError, match="no sound"):
        decode.read_recording(tmp_path / "a.mp4", 60)


def test_a_playlist_is_no_footage_either(tmp_path: Path) -> None:
    with av.open(tmp_path / "a.mp4", "w") as file:
        stream = file.add_stream("mpeg4", rate=5)
        stream.width = stream.height = 32
        file.mux(stream.encode(av.VideoFrame(32, 32, "yuv420p")))
        file.mux(stream.encode(None))
    with footage._opened(tmp_path / "a.mp4") as opened:
        assert opened.streams.video
    (tmp_path / "list").write_text(f"ffconcat version 1.0\nfile {tmp_path / 'a.mp4'}\n")
    with pytest.raises(TaskError, match="not a video"):
        footage._opened(tmp_path / "list")


def test_no_recording_is_decoded_in_threads_of_ffmpeg(tmp_path: Path) -> None:
    """Closing a damaged video waited 20 minutes for one: they log through Python. WavPack is decoded in as many as there are cores."""
    with av.open(tmp_path / "a.mka", "w", format="matroska") as file:
        stream: Any = file.add_stream("wavpack", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray((sound() * 20_000).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = RATE
        file.mux([*stream.encode(frame), *stream.encode(None)])

    def threads() -> int:
        return len(list(Path("/proc/self/task").iterdir()))

    def resampled() -> Any:
        """What is decoded goes through a graph of filters, which has threads of its own."""
        resampler = av.AudioResampler(format="fltp", rate=RATE)
        resampler.resample(frame)
        return resampler

    before = threads()
    kept = resampled()
    of_the_filters = threads() - before
    before = threads()
    _, pieces = decode._by_ffmpeg(tmp_path / "a.mka")
    assert len(next(iter(pieces))) > 0
    assert threads() - before <= of_the_filters
    del kept


def test_a_stream_of_a_codec_that_is_not_known_is_no_recording(tmp_path: Path) -> None:
    """Found by fuzzing: a WAV whose format tag is damaged has a stream without a codec."""
    soundfile.write(tmp_path / "a.wav", sound(), RATE)
    damaged = bytearray((tmp_path / "a.wav").read_bytes())
    damaged[20:22] = b"\xfe\x7f"
    (tmp_path / "a.wav").write_bytes(damaged)
    with pytest.raises(TaskError, match="there is no sound") as refused:
        list(decode.recording_pieces(tmp_path / "a.wav", 1.0, 10.0))
    assert refused.value.code == "invalid_input"
