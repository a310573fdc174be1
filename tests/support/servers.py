"""A real server for tests, Valkey from the wheel or redis-server, and what a test does where one is missing."""

import os
import subprocess
import time
from pathlib import Path
from typing import NoReturn

import pytest
import redis as redis_sync

from dihedral.server import find_server
from tests.support.polling import at_this_load

REQUIRED = frozenset(filter(None, os.environ.get("DIHEDRAL_REQUIRE", "").split(",")))


def skip(what: str, reason: str) -> NoReturn:
    """Skips, or fails where DIHEDRAL_REQUIRE names `what`."""
    if what in REQUIRED:
        pytest.fail(f"{what} is required here: {reason}")
    pytest.skip(reason)


def start_server(
    directory: Path, *options: str, binary: str | None = None, environ: dict[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a server on `directory`/redis.sock; answers when it answers."""
    path = directory / "redis.sock"
    command = [binary or str(find_server()), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    command += ["--dir", str(directory), "--save", "", "--appendonly", "no", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env={**os.environ, **(environ or {})}
    )
    deadline = time.monotonic() + at_this_load(10)
    client = redis_sync.Redis(unix_socket_path=str(path))
    while True:
        try:
            client.ping()
            break
        except (redis_sync.ConnectionError, redis_sync.BusyLoadingError):
            if time.monotonic() > deadline or process.poll() is not None:
                raise
            time.sleep(0.01)
    client.close()
    return process, f"unix://{path}?db=0"


def processes_of(directory: Path) -> list[bytes]:
    """What runs and was started for this directory, by its command and environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if str(directory).encode() in text and state != "Z" and int(entry.name) != os.getpid():
                found.append(text[:200])
    return found
