"""Damaged files at every reader of files: real ones with bytes flipped, cut, doubled and overwritten end in a result or a typed error, never in another."""

import io
import json
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import av
import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from dihedral.bridge.errors import DihedralError
from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane import model_files
from dihedral.data_plane.diffusion import base, pictures
from dihedral.data_plane.kernels.low_rank import Adapter
from dihedral.data_plane.kernels.mixture import Mixture
from dihedral.data_plane.kernels.spectra import BANDS, COEFFICIENTS
from dihedral.data_plane.language import base as language_base
from dihedral.data_plane.language import dataset, files
from dihedral.data_plane.language.model import Config
from dihedral.data_plane.media import decode, footage
from dihedral.example_model import CONFIG, byte_tokenizer
from tests.fuzzing.conftest import examples


class Reader(NamedTuple):
    read: Callable[[Path], Any]
    sample: Callable[[], bytes]
    suffix: str = ""


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 32), 80).convert("RGB").save(buffer, kind)
    return buffer.getvalue()


def sound(kind: str, subtype: str) -> bytes:
    buffer = io.BytesIO()
    samples = np.random.default_rng(0).normal(0, 0.2, (4000, 2)).astype(np.float32)
    soundfile.write(buffer, samples, 8000, format=kind, subtype=subtype)
    return buffer.getvalue()


def video(kind: str, codec: str, pixels: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as out:
        stream: Any = out.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, pixels
        dice = np.random.default_rng(0)
        for _ in range(6):
            frame = av.VideoFrame.from_ndarray(dice.integers(0, 255, (48, 64, 3), np.uint8), "rgb24")
            out.mux(stream.encode(frame.reformat(format=pixels)))
        out.mux(stream.encode())
    return buffer.getvalue()


def adapter() -> bytes:
    dice = np.random.default_rng(0)
    a, b = dice.normal(size=(2, 48)).astype(np.float32), dice.normal(size=(48, 2)).astype(np.float32)
    return model_files.adapter_bytes(Adapter(a, b, np.zeros(3, np.float32), 2.0, 4, 1), {})


def voice() -> bytes:
    shape = (2, COEFFICIENTS)
    mixture = Mixture(np.full(2, 0.5, np.float32), np.zeros(shape, np.float32), np.ones(shape, np.float32))
    return model_files.voice_bytes(model_files.Voice(mixture, np.zeros(BANDS, np.float32), 120.0, 4000.0, 0.1), {})


SMALL = {
    **CONFIG, "vocab_size": 300, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1,
    "num_key_value_heads": 1, "head_dim": 8,
}  # fmt: skip


def small_config(path: Path) -> Config:
    file = path.with_name("small.json")
    file.write_text(json.dumps(SMALL))
    return files.read_config(file)


def weights() -> bytes:
    config = Config(
        vocabulary=300, width=8, inner=8, layers=1, heads=1, key_heads=1, head_dim=8, longest=64, epsilon=1e-6,
        rope_base=1e4, rope_scaling=None, tied=False, end_ids=(),
    )  # fmt: skip
    return files.tensor_bytes({name: np.ones(shape, np.float32) for name, shape in config.shapes().items()}, {})


def zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as made:
        for name, content in entries.items():
            made.writestr(name, content)
    return buffer.getvalue()


def read_rows(path: Path) -> Any:
    tokenizer = Tokenizer.from_str(json.dumps(byte_tokenizer()))
    return dataset.rows(path, dataset.read(path, path.name), tokenizer, (257,), 16)


def read_captioned(path: Path) -> Any:
    found = pictures.captioned([("all.zip", path)], None, "all")
    return [pictures.framed(each, pictures.buckets(64, 16)) for each in found]


def read_base(path: Path) -> Any:
    class Fetches:
        workdir = path.parent / "work"

        def fetch(self, ref: Any) -> Path:
            return path

    Fetches.workdir.mkdir(exist_ok=True)
    ref: Any = type("Ref", (), {"local": None, "key": "base.zip"})()
    return base.fetched(ref, Fetches())  # type: ignore[arg-type]


def read_film(path: Path) -> Any:
    shown = footage.Footage(path, (36, 64), 0, None, np)
    return [shown.layers(at, 1.0) for at in (0.0, 0.3, 0.6)]


LINES = b'{"text": "a line of a story"}\n{"prompt": "who?", "completion": "me"}\n{"messages": [{"role": "user", "content": "hi"}]}\n'

READERS: dict[str, Reader] = {
    **{
        f"picture {kind}": Reader(lambda path: (decode.picture_shape(path), decode.read_picture(path, 64)), lambda kind=kind: picture(kind))  # type: ignore[misc]
        for kind in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF", "BMP")
    },
    "cut-out PNG": Reader(lambda path: decode.read_cut_out(path, 64), lambda: picture("PNG")),
    **{
        f"sound {kind} {subtype}": Reader(lambda path: decode.read_recording(path, 5), lambda kind=kind, subtype=subtype: sound(kind, subtype))  # type: ignore[misc]
        for kind, subtype in (("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"))
    },
    "film MP4": Reader(lambda path: (footage.facts(path), read_film(path)), lambda: video("mp4", "libx264", "yuv420p")),
    "film MKV": Reader(lambda path: (footage.facts(path), read_film(path)), lambda: video("matroska", "mpeg4", "yuv420p")),
    "film GIF": Reader(read_film, lambda: video("gif", "gif", "rgb8")),
    "sound of a film": Reader(lambda path: decode.read_recording(path, 5), lambda: video("mp4", "libx264", "yuv420p")),
    "adapter": Reader(lambda path: model_files.read_adapter(path, np), adapter),
    "voice": Reader(lambda path: model_files.read_voice(path, np), voice),
    "weights": Reader(lambda path: files.read_weights([path], small_config(path), "float32", np), weights),
    "config": Reader(files.read_config, lambda: json.dumps(SMALL).encode()),
    "tokenizer": Reader(lambda path: files.read_tokenizer(path, small_config(path)), lambda: json.dumps(byte_tokenizer()).encode()),
    "index": Reader(language_base._named, lambda: json.dumps({"weight_map": {"a": "model-1.safetensors"}}).encode()),
    "data set": Reader(read_rows, lambda: LINES, ".jsonl"),
    "data set, a list": Reader(read_rows, lambda: b"[" + LINES.strip().replace(b"\n", b",") + b"]", ".json"),
    "data set, a text": Reader(read_rows, lambda: "Ein kurzer Text, mit Umlauten: äöü.\n".encode() * 5, ".txt"),
    "captioned zip": Reader(read_captioned, lambda: zipped({"a.png": picture("PNG"), "a.txt": b"a red fox"})),
    "base zip": Reader(read_base, lambda: zipped({"m/unet/config.json": b"{}", "m/model_index.json": b"{}" * 50})),
}  # fmt: skip

NUMBERS = (
    b"\0" * 8,
    b"\xff" * 8,
    b"\xff\xff\xff\x7f",
    b"\x80\0\0\0",
    b"\0\0\0\x80",
    b"\x7f" + b"\xff" * 7,
    b"9" * 20,
    b"-1",
    b"1e999",
    b"[[[[",
)


@st.composite
def damages(draw: st.DrawFn) -> list[tuple[str, float, int, bytes]]:
    """What is done to a file, one after the other: (how, where from 0 to 1 of the length, how long, new bytes). Half of it hits the head."""
    done = []
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["flip", "write", "cut", "double", "drop", "insert"]))
        where = draw(st.floats(0, 1)) * draw(st.sampled_from([1.0, 0.05]))
        done.append(
            (
                how,
                where,
                draw(st.integers(1, 64)),
                draw(st.one_of(st.sampled_from(NUMBERS), st.binary(min_size=1, max_size=8))),
            )
        )
    return done


def damaged(content: bytes, damage: list[tuple[str, float, int, bytes]]) -> bytes:
    for how, where, length, new in damage:
        at = int(where * len(content))
        match how:
            case "flip":
                content = (
                    content[:at] + bytes(byte ^ 1 << length % 8 for byte in content[at : at + 1]) + content[at + 1 :]
                )
            case "write":
                content = content[:at] + new + content[at + len(new) :]
            case "cut":
                content = content[:at]
            case "double":
                content = content[: at + length] + content[at:]
            case "drop":
                content = content[:at] + content[at + length :]
            case "insert":
                content = content[:at] + new + content[at:]
    return content


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # it warns of odd tags, and goes on
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_with_a_typed_error(
    name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    reader, folder = READERS[name], tmp_path_factory.mktemp("files")
    whole = reader.sample()
    path = folder / f"file{reader.suffix}"
    path.write_bytes(whole)
    try:
        reader.read(path)
    except TaskError:
        assert name == "sound of a film"  # it has none; every other sample is whole

    @examples(15)
    @given(damages())
    def holds(damage: list[tuple[str, float, int, bytes]]) -> None:
        path.write_bytes(damaged(whole, damage))
        with suppress(DihedralError):
            reader.read(path)

    holds()
