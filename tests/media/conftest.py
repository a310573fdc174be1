"""The demo's inputs, made once, the array modules that every kernel has to run with, and a place to run tasks in."""

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral.examples import make
from tests.place import Place


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with Place.opened(tmp_path / "store") as opened:
        yield opened
