"""The scripts run on both servers that people have: Valkey from the wheel, and Debian's redis-server."""

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.servers import skip, start_server


@pytest.fixture(scope="session")
def redis_server_url() -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        skip("redis", "there is no redis-server on this machine")
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    process, url = start_server(directory, binary=binary)
    yield url
    process.terminate()
    process.wait()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """The embedded server's address, or that of the server which the test's parameter names."""
    if getattr(request, "param", "valkey") == "valkey":
        return str(request.getfixturevalue("embedded_url"))
    return str(request.getfixturevalue("redis_server_url"))


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """(process, url) of a server that the test may stop, fill and kill."""
    process, url = start_server(tmp_path)
    yield process, url
    process.kill()
    process.wait()
