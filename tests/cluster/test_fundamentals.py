"""The whole manual, on a Redis Cluster of three masters with 16 partitions."""

import pytest

from tests.fundamentals.test_1_jobs import *  # noqa: F403
from tests.fundamentals.test_2_graphs import *  # noqa: F403
from tests.fundamentals.test_3_failures import *  # noqa: F403
from tests.fundamentals.test_4_tasks_and_files import *  # noqa: F403

pytestmark = pytest.mark.cluster


def test_jobs_are_spread_over_all_masters(cluster, client):
    assert client.jobs(limit=500)["jobs"]
    for master in cluster.masters:
        assert any(key.startswith(b"job:{") for key in master.client.keys("*"))
