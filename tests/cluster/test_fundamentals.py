"""The whole manual, on a Redis Cluster of three masters with 16 partitions."""

from typing import Any

import pytest

from dihedral.bridge.errors import LayoutMismatch
from dihedral.bridge.fabric import functions
from dihedral.bridge.fabric.connection import check_layout, connect, connect_blocking
from dihedral.bridge.metrics import redis_round_trips_total
from tests.fundamentals.test_1_jobs import *  # noqa: F403
from tests.fundamentals.test_2_graphs import *  # noqa: F403
from tests.fundamentals.test_3_failures import *  # noqa: F403
from tests.fundamentals.test_4_tasks_and_files import *  # noqa: F403
from tests.support.leaks import leaks

pytestmark = pytest.mark.cluster


def test_jobs_are_spread_over_all_masters(cluster: Any, client: Any) -> None:
    assert client.jobs(limit=500)["jobs"]
    for master in cluster.masters:
        assert any(key.startswith(b"job:{") for key in master.client.keys("*"))


def test_a_function_is_called_at_the_master_of_its_key(cluster: Any, client: Any) -> None:
    assert client.jobs(limit=500)["jobs"]
    for server in cluster.servers:
        assert ("cmdstat_fcall" in server.client.info("commandstats")) == (server in cluster.masters)
        assert len(server.client.function_list("dihedral_*")) == 1, "a replica has its master's"


async def test_a_call_is_one_round_trip_and_loads_at_one_master(
    cluster: Any, house: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """redis-py would ask a server where the keys of an FCALL are, and load into every master."""
    new = functions.make(functions.body() + "-- another version\n")
    monkeypatch.setattr(functions, "library", lambda: new)
    client, blocking = connect(cluster.url), connect_blocking(cluster.url, timeout_seconds=5)
    await client.initialize()
    assert await functions.call(client, "epoch", "jobs:{0}")
    before = redis_round_trips_total._value.get()
    for _ in range(20):
        assert await functions.call(client, "epoch", "jobs:{0}")
    assert redis_round_trips_total._value.get() - before == 20
    having = [server for server in cluster.masters if server.client.function_list(f"dihedral_{new.version}")]
    assert len(having) == 1
    assert {functions.call_blocking(blocking, "epoch", f"jobs:{{{number}}}") for number in range(16)} == {
        server.client.info("replication")["master_replid"].encode() for server in cluster.masters
    }
    for server in cluster.masters:
        server.client.function_delete(f"dihedral_{new.version}")
    blocking.close()
    await client.aclose()


async def test_nothing_leaks(cluster: Any, house: Any) -> None:
    client = connect(cluster.url)
    try:
        assert await leaks(client) == []
    finally:
        await client.aclose()


async def test_a_cluster_is_named_as_one_and_has_partitions(cluster: Any, house: Any) -> None:
    """Each mistake is one sentence at the start, and not a refusal of some command later."""
    one = f"redis://127.0.0.1:{cluster.masters[0].port}"
    for url, partitions, said in [(cluster.url, 1, "needs redis.partitions"), (one, 16, "is a node of a cluster")]:
        client = connect(url)
        with pytest.raises(LayoutMismatch, match=said):
            await check_layout(client, partitions)
        await client.aclose()
