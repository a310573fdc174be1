"""The demo's inputs, made once, the array modules that every kernel has to run with, and a place to run tasks in."""

import asyncio
import importlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bridge import artifacts
from dihedral.examples import make
from schemas.structs.settings import ArtifactsSettings
from tests.media.place import Place


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def opened() -> artifacts.ArtifactStore:
        return artifacts.open_store(ArtifactsSettings(directory=str(tmp_path / "store")))

    store = asyncio.run_coroutine_threadsafe(opened(), loop).result(10)
    yield Place(store, loop)
    asyncio.run_coroutine_threadsafe(store.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
