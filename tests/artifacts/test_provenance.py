"""What a file says about its origin: every format's own readers still read the file, and find it; what may be a secret is not in it; hostile files cost little."""

import asyncio
import io
import json
import struct
import subprocess
import tempfile
import time
import tracemalloc
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load, save

from dihedral.bridge.artifacts import metadata, open_store, provenance
from dihedral.bridge.artifacts.metadata import HEAD_BYTES, MAX_BYTES, TAIL_BYTES
from dihedral.bridge.artifacts.provenance import REQUEST, compose, read, references
from dihedral.bridge.tasks.context import TaskContext
from dihedral.bridge.tasks.runs import NodeRun
from dihedral.control_plane.planning import plan as planning
from dihedral.schemas.structs.artifact import Provenance
from dihedral.schemas.structs.graph import Graph
from dihedral.schemas.structs.settings import ArtifactsSettings
from dihedral.schemas.structs.submission import GraphSubmission
from tests.support.in_process import RecordedEvents

PARAMS = {"text": 'a } "quoted" ü 日', "picture": {"bucket": "inputs", "key": "a/b.png"}}


def graph(params: dict[str, Any] = PARAMS, count: int = 1) -> Graph:
    nodes = [{"id": f"n{number}", "task": "speak", "plane": "python", "params": params} for number in range(count)]
    submitted = msgspec.convert({"schema": "langgraph.v1", "nodes": nodes, "edges": []}, GraphSubmission)
    return planning.normalise(submitted, "job")


def made(request: dict[str, Any], of: Graph | None = None, params: dict[str, Any] = PARAMS) -> bytes:
    return compose(request, of, job_id="job", node_id="n0", task="speak", params=params, inputs=[])


SAID = made({"pipeline": "speak", "params": PARAMS}, graph())


def png() -> bytes:
    data = io.BytesIO()
    Image.effect_noise((40, 30), 80).save(data, "PNG")
    return data.getvalue()


def wav(count: int = 1001) -> bytes:
    """An odd number of bytes, which is made even."""
    data = io.BytesIO()
    with wave.open(data, "wb") as file:
        file.setparams((1, 1, 8000, 0, "NONE", ""))
        file.writeframes(bytes(range(256)) * (count // 256) + bytes(range(count % 256)))
    return data.getvalue()


def film(**options: str) -> bytes:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        with av.open(file.name, "w", options=options) as out:
            stream: Any = out.add_stream("libx264", rate=10)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for number in range(12):
                frame: Any = av.VideoFrame.from_ndarray(np.full((48, 64, 3), number * 20, np.uint8))
                out.mux(stream.encode(frame))
            out.mux(stream.encode())
        return Path(file.name).read_bytes()


def tensors(notes: dict[str, str] | None = None) -> bytes:
    return save({"a": np.arange(6, dtype=np.float32), "b": np.ones((2, 3), np.float16)}, notes)


FILES: dict[str, Callable[[], bytes]] = {
    "png": png, "wav": wav, "mp4": lambda: film(movflags="+faststart"), "mp4, index last": film,
    "mp4 in fragments": lambda: film(movflags="frag_keyframe+empty_moov"),
    "safetensors": tensors, "safetensors with notes": lambda: tensors({"format": "pt", "ü": '"x"'}),
}  # fmt: skip


def stamped(content: bytes, text: bytes = SAID) -> bytes:
    async def told() -> bytes:
        return text

    found = asyncio.run(provenance.stamped(content, told))
    assert isinstance(found, bytes)
    return found


def said(content: bytes) -> Provenance | None:
    return read(content[:HEAD_BYTES], content[-TAIL_BYTES:], len(content))


def decoded(name: str, content: bytes) -> Any:
    """What the format's own reader makes of it, without the notes."""
    if name == "png":
        return Image.open(io.BytesIO(content)).tobytes()
    if name == "wav":
        with wave.open(io.BytesIO(content)) as file:
            frames = file.readframes(file.getnframes())
        return frames, soundfile.read(io.BytesIO(content))[0].tobytes()
    if name.startswith("mp4"):
        with av.open(io.BytesIO(content), "r") as container:
            return container.duration, [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]
    return {key: value.tobytes() for key, value in load(content).items()}


@pytest.mark.quick
@pytest.mark.parametrize("name", FILES)
def test_a_file_says_what_made_it_and_is_read_as_before(name: str, tmp_path: Path) -> None:
    content = FILES[name]()
    changed = stamped(content)
    assert changed != content
    assert decoded(name, changed) == decoded(name, content)
    found = said(changed)
    assert found is not None
    assert (found.job_id, found.pipeline, found.params) == ("job", "speak", PARAMS)
    assert isinstance(found.graph, GraphSubmission)
    assert [node.params for node in found.graph.nodes] == [PARAMS]
    assert said(content) is None
    path = tmp_path / "file"
    path.write_bytes(content)

    async def from_disk() -> bytes:
        async def told() -> bytes:
            return SAID

        source = await provenance.stamped(path, told)
        assert not isinstance(source, bytes | Path)
        return b"".join([chunk async for chunk in source])

    assert asyncio.run(from_disk()) == changed


@pytest.mark.quick
@pytest.mark.parametrize("name", FILES)
def test_a_copy_of_a_file_says_what_made_the_copy(name: str) -> None:
    first = stamped(FILES[name]())
    again = stamped(first, made({"pipeline": "look", "params": {}}))
    found = said(again)
    assert found is not None
    assert (found.pipeline, found.params) == ("look", {})
    assert decoded(name, again) == decoded(name, first)


@pytest.mark.quick
def test_other_programs_find_it_as_a_comment(tmp_path: Path) -> None:
    for name, suffix in (("mp4", "mp4"), ("mp4, index last", "mp4"), ("wav", "wav")):
        path = tmp_path / f"a.{suffix}"
        path.write_bytes(stamped(FILES[name]()))
        asked = ["ffprobe", "-v", "error", "-show_entries", "format_tags=comment", "-of", "json", str(path)]
        shown = subprocess.run(asked, capture_output=True, check=True)
        assert shown.stderr == b""
        assert json.loads(shown.stdout)["format"]["tags"]["comment"] == SAID.decode(), name
    picture = Image.open(io.BytesIO(stamped(png())))
    assert picture.info["dihedral"] == SAID.decode()
    (tmp_path / "t").write_bytes(stamped(tensors({"format": "pt"})))
    with safe_open(tmp_path / "t", "numpy") as file:
        assert file.metadata() == {"dihedral": SAID.decode(), "format": "pt"}


@pytest.mark.quick
def test_a_film_that_was_packed_anew_still_says_it(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(stamped(film()))
    packed = tmp_path / "b.mp4"
    subprocess.run(["ffmpeg", "-v", "error", "-i", str(path), "-c", "copy", str(packed)], check=True)
    found = said(packed.read_bytes())
    assert found is not None
    assert found.pipeline == "speak"


def with_tail(content: bytes) -> bytes:
    return content + b"trailing"


@pytest.mark.quick
@pytest.mark.parametrize(
    "content",
    [
        b"", b"text", png()[:33], with_tail(wav()), wav()[:-20], b"RIFF\xff\xff\xff\xffWAVE" + wav()[12:], with_tail(film()), film()[:-9],
        film()[:100], film()[:40] + b"\0\0\0\0" + film()[44:], tensors()[:40], struct.pack("<Q", 2) + b"{}", struct.pack("<Q", 60) + b"{" * 60,
        b"\0\0\0\x10ftypavif\0\0\0\0" + metadata._box(b"meta", b"\0" * 20) + metadata._box(b"moov", b""),
    ],
)  # fmt: skip
def test_a_file_of_another_form_stays_as_it_is(content: bytes) -> None:
    assert stamped(content) == content


@pytest.mark.quick
def test_no_secret_is_in_a_file() -> None:
    secrets = {
        "apiKey": "one", "env": {"A": "two"}, "nested": [{"password": "three"}], "url": "https://user:four@host/x",
        "link": "https://s3/x?X-Amz-Signature=five", "header": "Bearer sixsixsixsix", "list": ["dhk_sevenseven_x", "kept"],
        "HF_TOKEN": "eight", "credentials": ["nine"], "api-key": "ten",
    }  # fmt: skip
    harmless = {"maxTokens": 7, "token": "", "seed": 1, "keys": ["a"], "url": "https://host/x?page=2", "secret": False}
    text = made({"task": "speak", "params": secrets}, graph(secrets), secrets)
    assert not [
        word
        for word in ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
        if word in text.decode().split('"leftOut"')[0]
    ]
    said = json.loads(text)
    assert said["params"] == {"nested": [{}], "list": [None, "kept"]}
    assert "/params/apiKey" in said["leftOut"]
    assert len(said["leftOut"]) == 20
    assert json.loads(made({"task": "speak", "params": harmless}))["params"] == harmless
    assert REQUEST not in text.decode()


SECRETS: list[Any] = [
    {"secretKey": "x"}, {"secret_key": "x"}, {"wandb": {"key": "0123abcd"}}, {"auth": "x"}, {"pass": "x"}, {"DB_PWD": "x"}, {"signingKey": "x"},
    {"clientSecretValue": "x"}, {"environment": "A=b"}, ["--api-key", "abc"], ["-token", "abc"], "https://hooks.slack.com/services/T0/B0/x",
    "https://discord.com/api/webhooks/1/x", "Authorization: Basic dXNlcjpwYXNz", "Basic dXNlcjpwYXNzMQ==", "run --password=hunter2",
    "run --wandb-api-key abc", "AKIAIOSFODNN7EXAMPLE", "github_pat_11AAAAAAA0", "ghp_0123456789", "ghs_0123456789", "glpat-0123456789",
    "sk_live_0123456789", "xoxe-0123456789", "a eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "PGPASSWORD=x psql",
]  # fmt: skip
NO_SECRETS: list[Any] = [
    {"keys": ["a"]}, {"maxTokens": "7"}, {"max_new_tokens": ["7"]}, {"picture": {"bucket": "inputs", "key": "a/b.png"}}, {"key": "A minor"},
    {"key": "title", "value": "Bees"}, {"environment": "a forest at night"}, {"author": "Ann"}, {"passage": "x"}, {"keyframes": ["1"]},
    ["--steps", "abc"], ["token", "ring"], "Basic understanding", "the secret key of success = work", "a password is asked for", "Asia", "tokens=3",
    "https://host/x?page=2", "eyJ is no token. None.",
]  # fmt: skip


@pytest.mark.quick
def test_common_secrets_are_left_out_and_what_only_looks_like_one_stays() -> None:
    for value in SECRETS:
        told = json.loads(made({"task": "speak", "params": {"x": value}}, params={}))
        assert (told["params"] != {"x": value}, len(told["leftOut"])) == (True, 1), value
    for value in NO_SECRETS:
        told = json.loads(made({"task": "speak", "params": {"x": value}}, params={}))
        assert (told["params"], "leftOut" in told) == ({"x": value}, False), value


@pytest.mark.quick
@pytest.mark.parametrize(
    "part",
    [
        "a",
        "-",
        "--a",
        "--a-",
        "eyJ-",
        "eyJaaaaaaaa.",
        "bearer ",
        "?a",
        "://",
        "-----begin ",
        "authorization ",
        "basic ",
        "_",
        "A",
    ],
)
def test_a_look_for_secrets_costs_no_more_than_the_text_is_long(part: str) -> None:
    text = part * ((10**6 if part == "a" else 10**5) // len(part))
    begun = time.process_time()
    provenance._SECRET_TEXT.search(text)
    provenance._SECRET_NAME.fullmatch(text)
    assert time.process_time() - begun < 3


@pytest.mark.quick
def test_what_is_left_out_is_said_or_the_params_are_not_said_either() -> None:
    """Else what runs again would lack a value without a word."""
    for length in range(MAX_BYTES - 400, MAX_BYTES, 10):
        told = json.loads(made({"task": "speak", "params": {"text": "x" * length, "apiKey": "y"}}, params={}))
        assert ("params" in told) == ("leftOut" in told)
    many = {f"token{number}": {"password": "x"} for number in range(21)}
    assert "params" not in json.loads(made({"task": "speak", "params": many}, params={}))


@pytest.mark.quick
def test_tensors_whose_header_has_blanks_stay_readable() -> None:
    for between, is_changed in ((b" ,", True), (b" \n, ", True), (b";", False), (b",,", False)):
        content = tensors({"format": "pt"})
        header = content[8 : 8 + int.from_bytes(content[:8], "little")].rstrip(b" ")
        assert header.startswith(b'{"__metadata__":{"format":"pt"},')
        odd = header.replace(b'"pt"},', b'"pt"}' + between, 1)
        odd += b" " * (-len(odd) % 8)
        odd = struct.pack("<Q", len(odd)) + odd + content[8 + int.from_bytes(content[:8], "little") :]
        changed = stamped(odd)
        assert (changed != odd) is is_changed
        if is_changed:
            assert decoded("safetensors", changed) == decoded("safetensors", content)
            assert said(changed) is not None


@pytest.mark.quick
def test_a_file_says_no_more_than_it_has_room_for() -> None:
    long = {"text": "x" * 6000}
    said = json.loads(text := made({"pipeline": "speak", "params": long}, graph(long, 3), long))
    assert len(text) <= MAX_BYTES
    assert said["params"] == said["node"]["params"] == long
    assert "graph" not in said
    longer = {"text": "日" * 6000}
    said = json.loads(made({"pipeline": "speak", "params": longer}, graph(longer), longer))
    assert (said["pipeline"], "params" in said, "graph" in said) == ("speak", False, False)
    begun = time.process_time()
    made({}, graph({"values": list(range(200_000))}), {"values": list(range(200_000))})
    assert time.process_time() - begun < 0.5
    begun = time.process_time()
    for unbroken in ("a" * 16_000, "a" * 4_000_000, "_a" * 8000, "?" * 16_000, "bearer " * 2000, "-----begin " * 1500):
        made({"task": "speak", "params": {"text": unbroken, unbroken: ["dhk_sevenseven_x"]}})
    made({"task": "speak", "params": {"texts": ["dhk_sevenseven_x"] * 200_000}})
    assert time.process_time() - begun < 1
    deep: Any = []
    for _ in range(500):
        deep = [deep]
    assert b"[[" not in made({"task": "speak", "params": {"deep": deep}})


@pytest.mark.quick
def test_the_files_that_params_name_are_found() -> None:
    refs = references(
        {
            "a": [{"bucket": "inputs", "key": "1"}],
            "b": {"x": {"bucket": "videos", "key": "2"}},
            "c": {"bucket": 1, "key": "3"},
        }
    )
    assert [(each.bucket, each.key) for each in refs] == [("inputs", "1"), ("videos", "2")]
    assert len(references([{"bucket": "inputs", "key": str(number)} for number in range(100)])) == 32


def around(text: bytes) -> bytes:
    return b"\0\0\0\x10ftypisom\0\0\0\0" + text


HOSTILE = {
    "no end": around(b'{"dihedral":' + b"[" * 20_000),
    "deep": around(b'{"dihedral":"1","params":{"a":' + b"[" * 5000 + b"]" * 5000 + b"}}"),
    "deep, and short": around(b'{"dihedral":"1","params":{"a":' + b"[" * 200 + b"]" * 200 + b"}}"),
    "many beginnings": around(b'{"dihedral":' * 20_000),
    "a long number": around(b'{"dihedral":"1","params":{"a":' + b"9" * 10_000 + b"}}"),
    "no number": around(b'{"dihedral":"1","params":{"a":NaN}}'),
    "half a character": around(b'{"dihedral":"1","params":{"a":"\\ud800"}}'),
    "no text": around(b'{"dihedral":"1","params":{"a":"\xff\xfe"},"jobId":"<script>"}'),
    "another type": around(b'{"dihedral":1}'),
    "a list": around(b'{"dihedral":"1","params":[]}'),
    "a path": around(b'{"dihedral":"1","pipeline":"../../etc"}'),
    "too long": around(b'{"dihedral":"1","params":{"a":"' + b"x" * MAX_BYTES + b'"}}'),
    "chunks without length": b"\x89PNG\r\n\x1a\n" + b"\0\0\0\0abcd\0\0\0\0" * 30_000,
    "a chunk that is longer than the file": b"\x89PNG\r\n\x1a\n" + b"\xff\xff\xff\xfftEXtdihedral\0{}",
    "a compressed chunk": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 20) + b"iTXtdihedral\0\1\0\0\0abcdefg\0\0\0\0",
    "a header of 2**63": struct.pack("<Q", 1 << 63) + b'{"__metadata__":{"dihedral":"{}"}}',
    "a header that is not there": struct.pack("<Q", 1 << 31) + b'{"__metadata__":' + b"[" * 300_000,
    "notes that are no text": struct.pack("<Q", 80) + b'{"__metadata__":{"dihedral":{"dihedral":"1"}}}'.ljust(80),
    "an empty head": b"\0" * 8 + b"{",
}  # fmt: skip


@pytest.mark.quick
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_says_nothing_and_costs_little(name: str) -> None:
    begun = time.process_time()
    tracemalloc.start()
    assert said(HOSTILE[name]) is None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20
    assert time.process_time() - begun < 1
    stamped(HOSTILE[name])


@pytest.mark.quick
def test_what_a_later_version_says_besides_is_passed_over() -> None:
    found = said(around(b'\0{"dihedral":"9","pipeline":"speak","params":{"x":{"dihedral":"inner"}},"new":[1]}\0'))
    assert found is not None
    assert (found.dihedral, found.pipeline, found.params) == ("9", "speak", {"x": {"dihedral": "inner"}})


@pytest.mark.quick
@pytest.mark.parametrize("as_it_is", [False, True])
@pytest.mark.parametrize("request_", [None, {}])
def test_a_task_stores_the_same_bytes_where_nothing_is_to_be_said(
    request_: dict[str, Any] | None, as_it_is: bool, tmp_path: Path
) -> None:
    """`artifacts.provenance` off is a run without a request."""
    run = NodeRun(
        job_id="j", node_id="n", task="t", attempt=1, nonce="x", params=PARAMS, timeout_seconds=1, request=request_
    )
    content = png()

    async def stored() -> bytes:
        store = open_store(ArtifactsSettings(directory=str(tmp_path)))
        context = TaskContext(run, RecordedEvents(), lambda: False, lambda: store)
        meta = await context.store_async("videos", "a.png", content, "image/png", as_it_is=as_it_is)
        return b"".join([chunk async for chunk in store.open(meta.bucket, meta.key)])

    assert (asyncio.run(stored()) == content) is (request_ is None or as_it_is)
