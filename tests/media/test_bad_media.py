"""What users upload by mistake gets one clear sentence and the code `invalid_input`, never a traceback of a decoder."""

import io
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors.numpy import save_file

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.media import decode as media
from dihedral.data_plane.model_files import read_adapter, read_voice


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels."""
    size = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\x00\x00\x00"
    chunks = [(b"IHDR", size), (b"IDAT", b""), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")
        for kind, content in chunks
    )


def cut_png() -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((200, 200), 80).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()[:5000]


def tiny_png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 300)).save(buffer, "PNG")
    return buffer.getvalue()


def saved(kind: str, **more: Any) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((64, 48), 80).convert("RGB").save(buffer, kind, **more)
    return buffer.getvalue()


def bent_avif() -> bytes:
    """Its header is whole, its pixels are not: the decoder raises RuntimeError."""
    content = saved("AVIF")
    begun = content.index(b"mdat") + 4
    return content[:begun] + b"\xff" * 100 + content[begun + 100 :]


def bent_exif() -> bytes:
    """A text where a width belongs: to turn the picture it is written again, which raises struct.error."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "hello"
    content = saved("JPEG", exif=exif)
    return content.replace(b"\x01\x0e\x00\x02", b"\x01\x00\x00\x02", 1)


def wav(samples: Any, rate: int = 16_000) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format="WAV", subtype="FLOAT")
    return buffer.getvalue()


def headless_wav() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as opened:
        opened.setnchannels(1)
        opened.setsampwidth(2)
        opened.setframerate(16_000)
    return buffer.getvalue()


def refused(read: Callable[[], Any], words: str) -> None:
    with pytest.raises(TaskError, match=words) as raised:
        read()
    assert raised.value.code == "invalid_input"
    assert not raised.value.retryable


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a picture"),
        (b"no picture at all" * 100, "not a picture"),
        (wav(np.zeros(100, dtype=np.float32)), "not a picture"),
        (png_header(60_000, 60_000), "more than 100,000,000"),
        (png_header(12_000, 12_000), "more than 100,000,000"),
        (png_header(200, 200), "damaged"),
        (cut_png(), "damaged"),
        (tiny_png(), "at least 16"),
        (saved("EPS"), "not a picture"),
        (saved("DDS"), "not a picture"),
        (bent_avif(), "damaged"),
        (bent_exif(), "damaged"),
    ],
    ids=["empty", "text", "sound", "bomb", "huge", "hollow", "cut", "tiny", "eps", "dds", "avif", "exif"],
)
def test_a_file_that_is_no_usable_picture_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(lambda: media.read_picture(tmp_path / "file", 512), words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a recording"),
        (b"no sound at all" * 100, "not a recording"),
        (tiny_png(), "not a recording"),
        (headless_wav(), "lasts 0.00 s"),
        (wav(np.ones(1600, dtype=np.float32)), "lasts 0.10 s"),
        (wav(np.ones(16_000, dtype=np.float32), rate=1_000), "1000 samples a second"),
        (wav(np.zeros(16_000, dtype=np.float32)), "silent"),
        (wav(np.full(16_000, np.nan, dtype=np.float32)), "no numbers"),
    ],
    ids=["empty", "text", "picture", "no-frames", "short", "slow", "silent", "nan"],
)
def test_a_file_that_is_no_usable_recording_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "file").write_bytes(content)
    refused(lambda: media.read_recording(tmp_path / "file", 60), words)


@pytest.mark.parametrize("read", [read_adapter, read_voice])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, read: Callable[[Path, Any], Any]) -> None:
    (tmp_path / "garbage").write_bytes(b"\xff" * 200)
    refused(lambda: read(tmp_path / "garbage", np), "is no dihedral")
    save_file({"A": np.zeros((2, 2), dtype=np.float32)}, tmp_path / "foreign")
    refused(lambda: read(tmp_path / "foreign", np), "its format is None")


def test_a_model_whose_tensors_do_not_fit_its_metadata_is_refused(tmp_path: Path) -> None:
    metadata = {"format": "dihedral.image-adapter.v1", "rank": "2", "alpha": "1.0", "patch": "8", "base_seed": "1"}
    a, b = np.zeros((2, 191), dtype=np.float32), np.zeros((192, 2), dtype=np.float32)
    save_file({"A": a, "B": b, "mean": np.zeros(3, dtype=np.float32)}, tmp_path / "bent", metadata=metadata)
    refused(lambda: read_adapter(tmp_path / "bent", np), "do not fit patch 8")
    save_file({"A": a}, tmp_path / "half", metadata=metadata)
    refused(lambda: read_adapter(tmp_path / "half", np), "'B'")


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBA", "LA", "CMYK", "I;16", "F"])
def test_a_picture_in_any_mode_is_read_as_colours(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((40, 60), 32768, dtype=np.uint16))
    else:
        image = Image.new("L", (60, 40), 128).convert(mode)
    path = tmp_path / ("picture.tiff" if mode in ("CMYK", "F") else "picture.png")
    image.save(path)
    read = media.read_picture(path, 30)
    assert read.shape == (20, 30, 3)
    assert read.dtype == np.float32
    if mode not in ("1", "F"):
        assert read.mean() == pytest.approx(0.5, abs=0.01)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    image.save(tmp_path / "upright.jpg", exif=exif)
    assert media.read_picture(tmp_path / "upright.jpg", 60).shape == (60, 40, 3)
