"""Where a fused kernel runs: its source as C++ on the CPU, the first or the last thread of a block ahead; with `-m gpu` on a GPU."""

import importlib
from typing import Any

import pytest

from tests.kernels import emulation
from tests.support.servers import skip


@pytest.fixture(scope="session", params=["forwards", "backwards", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    if request.param == "cupy":
        return importlib.import_module("cupy")
    if emulation.COMPILER is None:
        skip("c++", "there is no C++ compiler")
    return emulation.Emulation(backwards=request.param == "backwards")
