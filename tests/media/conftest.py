"""The demo's inputs, made once."""

from pathlib import Path

import pytest

from dihedral.examples import make
from tests.support.in_process import place, xp

__all__ = ["place", "xp"]


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return make(tmp_path_factory.mktemp("inputs"))
