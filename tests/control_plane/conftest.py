"""One application for all tests here, on a server of its own, looked through at the end."""

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.control_plane.served import Served, made_settings, serve
from tests.support.leaks import leaks
from tests.support.planes import GATES
from tests.support.servers import start_server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def served() -> AsyncIterator[Served]:
    """With one worker of the data plane: 2 slots and room for 8 light nodes."""
    directory = Path(tempfile.mkdtemp(prefix="dih-"))
    process, url = start_server(directory)
    try:
        async with serve(made_settings(url, directory)) as made:
            await made.planes.start("python")
            await made.becomes(lambda: _knows(made, "act"))
            yield made
            for job in (await made.get("/api/jobs", limit=500, status="running,queued,scheduled"))["jobs"]:
                await made.post(f"/api/jobs/{job['jobId']}/cancel", expect=202)
            assert await leaks(made.planes.client) == []
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


async def _knows(made: Served, task: str) -> bool:
    return task in {each["id"] for each in (await made.get("/api/capabilities"))["capabilities"]}


@pytest.fixture(autouse=True)
def _open_gates() -> Iterator[None]:
    """No test leaves a node standing in the way of the next one."""
    yield
    for gate in GATES.values():
        gate.set()
