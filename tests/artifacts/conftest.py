"""Both stores for every test here: a directory of its own, and buckets of the session's SeaweedFS under keys of its own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from dihedral.bridge.artifacts import s3 as artifacts_s3
from tests.artifacts.place import PART, Place
from tests.artifacts.seaweed import Seaweed, of_session


@pytest.fixture(scope="session")
def seaweed(request: pytest.FixtureRequest) -> Seaweed:
    return of_session(request.config)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest parts that S3 takes (tests/control_plane/test_artifacts.py sends real ones), and short pauses between attempts."""
    monkeypatch.setattr(artifacts_s3, "PART_BYTES", PART)
    monkeypatch.setattr(artifacts_s3, "RETRY_SECONDS", 0.01)


@pytest.fixture(scope="session", params=["local", "s3"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def server(kind: str, request: pytest.FixtureRequest) -> Seaweed | None:
    return request.getfixturevalue("seaweed") if kind == "s3" else None


@pytest.fixture
async def place(kind: str, server: Seaweed | None, tmp_path: Path) -> AsyncIterator[Place]:
    made = Place(kind, tmp_path / "artifacts", server)
    yield made
    await made.close()
