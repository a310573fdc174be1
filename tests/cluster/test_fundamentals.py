"""The whole manual, on a Redis Cluster of three masters with 16 partitions."""

import pytest

from bridge.connection import check_layout, connect
from bridge.errors import LayoutMismatch
from tests.fundamentals.test_1_jobs import *  # noqa: F403
from tests.fundamentals.test_2_graphs import *  # noqa: F403
from tests.fundamentals.test_3_failures import *  # noqa: F403
from tests.fundamentals.test_4_tasks_and_files import *  # noqa: F403
from tests.leaks import leaks

pytestmark = pytest.mark.cluster


def test_jobs_are_spread_over_all_masters(cluster, client):
    assert client.jobs(limit=500)["jobs"]
    for master in cluster.masters:
        assert any(key.startswith(b"job:{") for key in master.client.keys("*"))


def test_a_function_is_called_where_its_key_is_and_nobody_is_asked_where_that_is(cluster, client):
    assert client.jobs(limit=500)["jobs"]
    for server in cluster.servers:
        stats = server.client.info("commandstats")
        assert "cmdstat_command|getkeys" not in stats
        assert ("cmdstat_fcall" in stats) == (server in cluster.masters)
        assert len(server.client.function_list("dihedral_*")) == 1, "a replica has its master's"


async def test_nothing_leaks(cluster, house):
    client = connect(cluster.url)
    try:
        assert await leaks(client) == []
    finally:
        await client.aclose()


async def test_a_cluster_is_named_as_one_and_has_partitions(cluster, house):
    """Each mistake is one sentence at the start, and not a refusal of some command later."""
    one = f"redis://127.0.0.1:{cluster.masters[0].port}"
    for url, partitions, said in [(cluster.url, 1, "needs redis.partitions"), (one, 16, "is a node of a cluster")]:
        client = connect(url)
        with pytest.raises(LayoutMismatch, match=said):
            await check_layout(client, partitions)
        await client.aclose()
