"""What the command line does with texts of users, with streams that are not UTF-8, with proxies, certificates, logs and old directories."""

import json
import os
import re
import ssl
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from dihedral import cli, tail, up
from dihedral.bridge import settings
from dihedral.bridge.errors import SettingsError
from dihedral.bridge.plain import plain, plain_line
from dihedral.client import AsyncClient, Unreachable
from dihedral.render import Lines

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202etxt.exe"


def test_control_sequences_are_written_out() -> None:
    assert plain(ESCAPES) == "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202etxt.exe"
    assert plain("Ünïcode 日本 🎉\tand\nlines") == "Ünïcode 日本 🎉\tand\nlines"
    assert plain_line("one\nERROR forged") == "one\\nERROR forged"


def test_a_watch_prints_no_sequence_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Lines()
    shown.event({"type": "log", "nodeId": "a", "message": ESCAPES, "stream": "stdout"})
    shown.event({"type": "status", "status": "failed", "progress": 1, "error": {"message": ESCAPES}})
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert "\\x1b[2J" in said


def test_logs_print_no_sequence_and_no_more_than_the_lines_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "server.log").write_text("".join(f"line {number} {ESCAPES}\n" for number in range(10_000)))
    assert tail.tail(tmp_path, "redis", follow=False, lines=3) == 0, "the help named it so"
    said = capsys.readouterr().out
    assert "\x1b" not in said
    assert [line.split()[2] for line in said.splitlines()] == ["9997", "9998", "9999"]
    assert tail.tail(tmp_path, None, follow=False, lines=0) == 0
    assert capsys.readouterr().out == ""
    assert tail.tail(tmp_path, "nothing", follow=False, lines=3) == 3
    assert "there are server" in capsys.readouterr().err


def test_logs_of_the_planes_are_sentences_and_other_lines_stay_as_they_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"time": "2026-11-30T15:53:47.624Z", "level": "info", "plane": "python", "logger": "a", "message": "ready"}
    lines = [json.dumps(entry | {"jobId": "j"}), '{"time": 1}', "[1]", "Valkey is starting"]
    (tmp_path / "worker-1.log").write_text("\n".join(lines) + "\n")
    tail.tail(tmp_path, "worker", follow=False, lines=9)
    first, *others = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"worker-1   2026-1\d-\d\d \d\d:\d\d:47 info    ready jobId=j", first)
    assert [line.split(maxsplit=1)[1] for line in others] == lines[1:]


def test_what_a_stream_cannot_encode_is_replaced_and_ends_nothing() -> None:
    code = "import sys; from dihedral import cli, render; cli._replace_what_no_terminal_shows(); render.Lines().event({'type': 'node', 'status': 'running', 'nodeId': 'ж', 'attempt': 1})"
    for encoding in ("cp1252", "latin-1", "ascii"):
        environ = {**os.environ, "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "? ? running\n"), done.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_a_submission_in_any_unicode_is_read(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "a.json").write_bytes(json.dumps({"pipeline": "größe"}, ensure_ascii=False).encode(encoding))
    assert cli._read_json(str(tmp_path / "a.json")) == {"pipeline": "größe"}


def test_a_submission_that_is_no_unicode_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"a": "größe"}'.encode("latin-1"))
    with pytest.raises(SettingsError, match="is not UTF-8"):
        cli._read_json(str(tmp_path / "a.json"))


def test_an_address_is_shown_without_any_part_of_its_password() -> None:
    for url in ("redis://:one@two/three@host", "redis://me:a@b@host:1/0", "rediss://:x/y?z#@host"):
        shown = up.without_password(url)
        assert shown.endswith("***@" + url.rpartition("@")[2])
        assert not any(part in shown for part in ("one", "two", "three", "a@b", "x/y"))
    assert up.without_password("redis://host:6379/0") == "redis://host:6379/0"
    with pytest.raises(SettingsError, match="%2F"):
        settings.load(None, {"DIHEDRAL_REDIS__URL": "redis://:one@two/three@host"}, {})


def test_a_log_that_grows_is_rotated_under_its_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(up, "LOG_BYTES", 1000)
    log = tmp_path / "control.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 2000)
        up.rotate(log)
        writer.write(b"after\n")
    assert log.read_bytes() == b"after\n"
    assert (tmp_path / "control.log.1").stat().st_size == 2000


def test_a_data_directory_is_for_its_owner_alone_and_an_old_one_is_tightened(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        old, foreign, new = tmp_path / "old", tmp_path / "foreign", tmp_path / "new"
        for folder in (old / "artifacts", old / "redis", foreign / "artifacts"):
            folder.mkdir(parents=True)
        (old / "lock").touch()
        (foreign / "thesis.txt").touch()
        for folder in (old, foreign, new):
            os.umask(0o022)
            up.make_private(folder)
        (new / "made").touch()
        modes = {path: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    finally:
        os.umask(before)
    private = [old, old / "artifacts", old / "redis", new, foreign / "artifacts"]
    assert [modes[path] for path in private] == [0o700] * 5
    assert modes[foreign] == 0o755, "it holds other things than ours"
    assert modes[new / "made"] == 0o600


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
async def test_no_proxy_of_the_environment_stands_before_loopback(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with AsyncClient("http://127.0.0.1:1") as client:
        assert client._http._mounts == {}
    monkeypatch.setenv("SSL_CERT_FILE", "/no/such/file")
    async with AsyncClient("http://127.0.0.1:1"):
        pass


async def test_a_proxy_or_certificate_file_that_cannot_be_used_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    with pytest.raises(Unreachable, match="proxy"):
        AsyncClient("http://example.invalid")
    monkeypatch.delenv("ALL_PROXY")
    with pytest.raises(Unreachable, match="cannot be used"):
        AsyncClient("https://127.0.0.1:1", ca=tmp_path / "missing.pem")


async def test_a_certificate_that_is_not_trusted_is_told_as_one(tmp_path: Path) -> None:
    import asyncio

    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=IP:127.0.0.1 -keyout key -out cert"
    await asyncio.to_thread(subprocess.run, make.split(), cwd=tmp_path, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert", tmp_path / "key")

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        async with AsyncClient(url) as client:
            with pytest.raises(Unreachable, match=r"is not trusted: .*--ca"):
                await client.jobs()
        async with AsyncClient(url, ca=tmp_path / "cert") as client:
            assert dict(await client.jobs()) == {}
