"""A real server for every test: Valkey from the wheel, or redis-server, on a private unix socket."""

import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis.asyncio import Redis

from tests.support.leaks import leaks
from tests.support.servers import start_server

# Several test processes share the cores: the threads of a matrix product would spin while they wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# Tests start hundreds of processes, each of which would compile all its modules again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

QUICK = ("graphs", "contracts", "bridge/test_scripts.py", "bridge/test_every_script.py", "house_rules/test_imports.py")
"""What is marked `quick`: pure logic, the contract and the scripts on a server, in less than half a minute."""


def pytest_xdist_auto_num_workers() -> int:
    """What `-n auto` is: two test processes for each core, as a test waits for its servers and children half of its time."""
    return len(os.sched_getaffinity(0)) * 2


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Long bytes are numbered instead of shown: what an encoder makes differs between processes, and xdist stops where two of them name a test differently."""
    return argname if isinstance(val, bytes) and len(val) > 32 else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(tests) and item.path.relative_to(tests).as_posix().startswith(QUICK):
            item.add_marker("quick")


@pytest.fixture(scope="session")
def embedded_url() -> Iterator[str]:
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    process, url = start_server(directory)
    yield url
    process.terminate()
    process.wait()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(embedded_url: str) -> str:
    return embedded_url


@pytest.fixture
async def redis(redis_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Redis]:
    """A client of the session's server, emptied before the test, looked through after it."""
    client = Redis.from_url(redis_url)
    await client.flushall()
    yield client
    left = [] if request.node.get_closest_marker("forges_state") else await leaks(client)
    await client.aclose()
    assert left == []
