"""What a small file may cost its reader: peak memory and CPU time of each, in a process of its own. A declared size is believed by none."""

import io
import json
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile

MIB = 1 << 20

READ = """
import json, os, resource, sys
from pathlib import Path
import numpy as np
from tokenizers import Tokenizer
import av, soundfile, PIL.Image
from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane import model_files
from dihedral.data_plane.diffusion import pictures
from dihedral.data_plane.language import dataset, files
from dihedral.data_plane.language.model import Config
from dihedral.data_plane.media import decode, footage
from dihedral.example_model import byte_tokenizer

config = Config(vocabulary=1 << 24, width=8, inner=8, layers=1, heads=1, key_heads=1, head_dim=8, longest=64, epsilon=1e-6,
                rope_base=1e4, rope_scaling=None, tied=False, end_ids=())
tokenizer = Tokenizer.from_str(json.dumps(byte_tokenizer()))
calls = {
    "voice": lambda path: model_files.read_voice(path, np),
    "weights": lambda path: files.read_weights([path], config, "float32", np),
    "config": files.read_config,
    "tokenizer": lambda path: files.read_tokenizer(path, config),
    "rows": lambda path: dataset.rows(path, dataset.read(path, path.name), tokenizer, (257,), 64),
    "film": lambda path: [footage.Footage(path, (36, 64), 0, None, np).layers(at, 1.0) for at in (0, 5)],
    "sound": lambda path: decode.read_recording(path, 601),
    "captions": lambda path: pictures.captioned([("all.zip", path)], None, "all"),
}

def peak():
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) >> 10

for line in sys.stdin:
    reader, path = json.loads(line)
    begun, end = os.pipe()
    if not os.fork():
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
        before, code = peak(), ""
        try:
            calls[reader](Path(path))
        except TaskError as error:
            code = error.code
        used = resource.getrusage(resource.RUSAGE_SELF)
        os.write(end, json.dumps([peak() - before, used.ru_utime + used.ru_stime, code]).encode())
        os._exit(0)
    os.close(end)
    print(os.read(begun, 1000).decode() or '[0, 0, "died"]', flush=True)
    os.close(begun)
    os.wait()
"""


@pytest.fixture(scope="module")
def reader() -> Any:
    process = subprocess.Popen(
        [sys.executable, "-c", READ], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert process.stdin is not None
    assert process.stdout is not None
    yield process
    process.stdin.close()
    process.stdout.close()
    process.wait()


def tensors(path: Path, header: bytes, size: int | None = None) -> None:
    path.write_bytes(struct.pack("<Q", len(header) if size is None else size) + header)


def many_tensors(count: int) -> bytes:
    return json.dumps({f"t{n}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for n in range(count)}).encode()


def empty_of(size: int) -> Callable[[Path], None]:
    def made(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return made


def vocabulary(path: Path) -> None:
    tokens = {f"{number:x}": number for number in range(50_000)}
    path.write_text(
        json.dumps({"version": "1.0", "added_tokens": [], "model": {"type": "BPE", "vocab": tokens, "merges": []}})
    )


def film(path: Path, codec: str, pixels: str, *sizes: tuple[int, int]) -> None:
    """Frames of every size in one stream; no muxer of ours would write it."""
    parts = []
    for width, height in sizes:
        buffer = io.BytesIO()
        with av.open(buffer, "w", format="h264" if codec == "libx264" else "mov") as out:
            stream: Any = out.add_stream(codec, rate=10, options={"preset": "ultrafast"} if codec == "libx264" else {})
            stream.width, stream.height, stream.pix_fmt = width, height, pixels
            frame = av.VideoFrame(width, height, pixels)
            for plane in frame.planes:
                plane.update(bytes(plane.buffer_size))
            for number in range(3):
                frame.pts = number
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        parts.append(buffer.getvalue())
    path.write_bytes(b"".join(parts))


def silence(path: Path) -> None:
    with soundfile.SoundFile(path, "w", 192_000, 1, format="FLAC") as file:
        file.write(np.full(1000, 0.5, np.float32))
        for _ in range(100):
            file.write(np.zeros(192_000, np.float32))


def long_list_of_files(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("a.png", b"x")
    content = path.read_bytes()
    at = content.index(b"PK\1\2")
    entry, end = content[at : content.index(b"PK\5\6")], content[content.index(b"PK\5\6") :]
    count = 5 * MIB // len(entry)
    sizes = struct.pack("<HHI", count & 0xFFFF, count & 0xFFFF, count * len(entry))
    path.write_bytes(content[:at] + entry * count + end[:8] + sizes + end[16:])


CASES: dict[str, tuple[str, str, Callable[[Path], Any], str, int, float]] = {
    # name: reader, file name, what makes it, error's code ("" where it may be read), most MiB, most seconds of CPU
    "a header of 100 MB that is not there": ("weights", "w", lambda path: tensors(path, b"{}", 99_000_000), "invalid_model", 10, 1),
    "a header of 2**62 bytes": ("voice", "w", lambda path: tensors(path, b"{}", 1 << 62), "invalid_input", 10, 1),
    "a header of 12 MiB": ("weights", "w", lambda path: tensors(path, b" " * 12 * MIB), "invalid_model", 10, 1),
    "a header of 20,000 tensors": ("weights", "w", lambda path: tensors(path, many_tensors(20_000)), "invalid_model", 60, 10),
    "a header of lists in lists": ("voice", "w", lambda path: tensors(path, b'{"a":' + b"[" * 10**6), "invalid_input", 40, 2),
    "a voice of 1 GiB": ("voice", "w", empty_of(1 << 30), "invalid_input", 10, 1),
    "a config of 1 GiB": ("config", "config.json", empty_of(1 << 30), "invalid_model", 10, 1),
    "a tokenizer of 1 GiB": ("tokenizer", "tokenizer.json", empty_of(1 << 30), "invalid_model", 10, 1),
    "a tokenizer of 50,000 tokens": ("tokenizer", "tokenizer.json", vocabulary, "", 80, 15),
    "a data set of 1 GiB": ("rows", "a.jsonl", empty_of(1 << 30), "invalid_dataset", 10, 1),
    "a line of 200 MiB": ("rows", "a.jsonl", empty_of(200 * MIB), "invalid_dataset", 40, 2),
    "a line of 20,000 messages": ("rows", "a.jsonl", lambda path: path.write_text('{"messages":[' + "{}," * 20_000 + "{}]}"), "", 40, 30),
    "a list of 20,000 documents": ("rows", "a.json", lambda path: path.write_text("[" + '{"text":"a"},' * 20_000 + '{"text":"b"}]'), "", 40, 30),
    "20,000 lines": ("rows", "a.jsonl", lambda path: path.write_text('{"text":"a"}\n' * 20_000), "", 20, 30),
    "a text of 300 kB": ("rows", "a.txt", lambda path: path.write_text("ab " * 100_000), "", 150, 30),
    "frames of 18 megapixels": ("film", "a.mov", lambda path: film(path, "png", "rgb24", (6000, 3000)), "invalid_input", 20, 2),
    "frames that grow": ("film", "a.h264", lambda path: film(path, "libx264", "yuv420p", (320, 240), (4096, 2304)), "invalid_input", 60, 5),
    "100 s of silence at 192 kHz": ("sound", "a.flac", silence, "", 250, 20),
    "a zip that lists 100,000 files": ("captions", "a.zip", long_list_of_files, "invalid_input", 10, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_file_costs_its_reader_no_more_than_it_may(name: str, reader: Any, tmp_path: Path) -> None:
    kind, file, make, code, most_mib, most_seconds = CASES[name]
    path = tmp_path / file
    make(path)
    assert path.stat().st_blocks * 512 < 30 * MIB  # small on the disk of its sender, or quickly sent
    reader.stdin.write(json.dumps([kind, str(path)]) + "\n")
    peak, seconds, found = json.loads(reader.stdout.readline())
    assert found == code
    assert peak <= most_mib, f"{peak} MiB"
    assert seconds <= most_seconds, f"{seconds:.1f} s of CPU"
