"""Everything here is marked `cluster` and runs by itself: `pytest -n0 -m 'cluster and not long' tests/cluster`."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dihedral import Client
from tests.cluster.servers import Cluster
from tests.fundamentals.conftest import TASKS
from tests.support.stack import Stack

PARTITIONS = "16"


@pytest.fixture(scope="package")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


@pytest.fixture(scope="package")
def house(cluster: Cluster) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        (Path(folder) / "words.py").write_text(TASKS)
        made = Stack(Path(folder), cluster.url, DIHEDRAL_REDIS__PARTITIONS=PARTITIONS, DIHEDRAL_JOBS__LEASE_MS="1500")
        try:
            made.worker("--slots", "2", "--tasks", "words")
            yield made
        finally:
            made.close()


@pytest.fixture
def client(house: Stack) -> Iterator[Client]:
    with Client(house.url) as made:
        yield made
