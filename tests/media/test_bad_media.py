"""What users upload by mistake gets one clear sentence and the code `invalid_input`, never a traceback of a decoder."""

import base64
import io
import subprocess
import sys
import wave
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageCms, ImageOps, PngImagePlugin
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
        (png_header(60_000, 60_000), "more than 256,000,000"),
        (png_header(12_000, 12_000), "take 549 MiB to decode"),
        (png_header(200, 200), "damaged"),
        (cut_png(), "damaged"),
        (tiny_png(), "at least 16"),
        (saved("EPS"), "not a picture"),
        (saved("DDS"), "not a picture"),
        (bent_avif(), "damaged"),
    ],
    ids=["empty", "text", "sound", "bomb", "huge", "hollow", "cut", "tiny", "eps", "dds", "avif"],
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


def test_metadata_that_cannot_be_written_again_hinders_no_picture(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bent_exif())
    assert media.read_picture(tmp_path / "file", 512).shape == (64, 48, 3)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_lies_as_its_camera_says(tmp_path: Path, orientation: int) -> None:
    image = Image.effect_noise((60, 40), 80).convert("RGB").resize((60, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / "file.png", exif=exif)
    with Image.open(tmp_path / "file.png") as opened:
        wanted = np.asarray(ImageOps.exif_transpose(opened))
    assert (np.rint(media.read_picture(tmp_path / "file.png", 60) * 255) == wanted).all()


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    image = Image.new("RGB", (60, 40))
    exif = image.getexif()
    exif[0x0112] = 6  # the camera was held upright: turn by 90 degrees
    image.save(tmp_path / "upright.jpg", exif=exif)
    assert media.read_picture(tmp_path / "upright.jpg", 60).shape == (60, 40, 3)


# What a declared size costs -------------------------------------------------------------------------------------------


MEASURE = """
import re, sys
from pathlib import Path
from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.media import decode
import PIL.Image, PIL.WebPImagePlugin, PIL.AvifImagePlugin, PIL.TiffImagePlugin
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
try:
    print(decode.read_picture(Path(sys.argv[1]), 512).shape)
except TaskError as error:
    print(error.code)
print((peak() - before) >> 10)
"""


def flat(kind: str, mode: str, side: int, **more: Any) -> bytes:
    """A few kilobytes that claim side² pixels."""
    buffer = io.BytesIO()
    Image.new(mode, (side, side)).save(buffer, kind, **more)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode", "side", "more"),
    [
        ("TIFF", "F", 8_000, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "I;16", 9_000, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "I", 8_000, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "CMYK", 8_000, {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "F", 11_000, {"compression": "tiff_adobe_deflate"}),
        ("WEBP", "RGBA", 5_700, {"lossless": True}),
        ("WEBP", "RGBA", 12_000, {"lossless": True}),
        ("PNG", "RGBA", 8_000, {}),
        ("PNG", "LA", 8_000, {}),
        ("PNG", "1", 9_500, {}),
        ("GIF", "P", 9_500, {}),
        ("BMP", "RGB", 7_000, {}),
        ("AVIF", "RGB", 4_000, {"speed": 10}),
        ("JPEG", "RGB", 14_000, {}),
    ],
)
def test_no_picture_takes_more_memory_than_a_slot_has_for_it(
    tmp_path: Path, kind: str, mode: str, side: int, more: dict[str, Any]
) -> None:
    (tmp_path / "file").write_bytes(flat(kind, mode, side, **more))
    done = subprocess.run([sys.executable, "-c", MEASURE, str(tmp_path / "file")], capture_output=True, text=True)
    said, mib = done.stdout.split("\n")[:2]
    assert said in ("(512, 512, 3)", "invalid_input"), done.stderr
    assert int(mib) < 600


@pytest.mark.parametrize(("width", "height"), [(12_000, 9_000), (16_320, 12_240)])
def test_a_photograph_of_a_phone_with_108_or_200_megapixels_is_read(tmp_path: Path, width: int, height: int) -> None:
    Image.new("RGB", (width, height), (128, 128, 128)).save(tmp_path / "photo.jpg", quality=30)
    assert media.read_picture(tmp_path / "photo.jpg", 1024).shape == (768, 1024, 3)
    assert media.picture_shape(tmp_path / "photo.jpg") == (height, width)


def test_texts_and_profiles_of_megabytes_hinder_no_picture(tmp_path: Path) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 3_000_000, zip=True)
    text.add_itxt("prompt", "y" * 3_000_000, zip=True)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes() + bytes(2_000_000)
    noise = Image.effect_noise((64, 48), 80).convert("RGB")
    noise.save(tmp_path / "odd.png", pnginfo=text, icc_profile=profile)
    noise.save(tmp_path / "plain.png")
    read = [media.read_picture(tmp_path / name, 64) for name in ("odd.png", "plain.png")]
    assert (read[0] == read[1]).all()


HEIC = (
    "AAAAHGZ0eXBoZWljAAAAAG1pZjFoZWljbWlhZgAAAX1tZXRhAAAAAAAAACFoZGxyAAAAAAAAAABwaWN0AAAAAAAAAAAAAAAAAAAAACJpbG9jAAAAAERAAAEA"
    "AQAAAAABoQABAAAAAAAAABkAAAAjaWluZgAAAAAAAQAAABVpbmZlAgAAAAABAABodmMxAAAAAA5waXRtAAAAAAABAAAA/WlwcnAAAADdaXBjbwAAAHZodmND"
    "AQNwAAAAkAAAAAAAHvAA/P34+AAADwNgAAEAGEABDAH//wNwAAADAJAAAAMAAAMAHroCQGEAAQAqQgEBA3AAAAMAkAAAAwAAAwAeoCCBBZbq5Ka5uAhoMCAA"
    "AAMDIAAAAwAhYgABAAZEAcFzwIkAAAATY29scm5jbHgAAQANAAaAAAAAFGlzcGUAAAAAAAAAQAAAAEAAAAAoY2xhcAAAAEAAAAABAAAAMAAAAAEAAAAAAAAA"
    "Av////AAAAACAAAAEHBpeGkAAAAAAwgICAAAABhpcG1hAAAAAAAAAAEAAQWBAgMFhAAAACFtZGF0AAAAFSgBrxmA70mlv/41n/mR6/zutaY+bg=="
)
"""A picture of 64 × 48 pixels in one colour."""


def test_heic_is_read_where_its_decoder_is_installed(tmp_path: Path) -> None:
    pytest.importorskip("pi_heif")
    (tmp_path / "photo.heic").write_bytes(base64.b64decode(HEIC))
    assert media.read_picture(tmp_path / "photo.heic", 64).shape == (48, 64, 3)


def test_heic_without_its_decoder_is_refused_with_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photo.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    monkeypatch.setattr(media, "_heif_is_known", lambda: False)
    refused(lambda: media.read_picture(tmp_path / "photo.heic", 64), "export it as JPEG")
