"""The demo's inputs, made once, and the array modules that every kernel has to run with."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from dihedral.examples import make


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(request.param)
