"""Connections to Redis: none of them retries by itself.

redis-py repeats a command whose answer was lost, and so runs a script twice without its caller's knowledge; here only the code
that made a request repeats it. A blocking read needs a time-out above its BLOCK (redis-py's default is 5 s).

redis-py also sends each command within `asyncio.wait_for`, which makes a task of it and, before Python 3.12, loses a cancel that
comes together with the result (seen: loops that could no longer be ended). Connections here send within `asyncio.timeout`.

A cluster's address is `redis+cluster://[user:password@]host:port[,host:port…]` (`rediss+cluster` with TLS): the nodes named are those
from which the client learns the others. Commands go to the node of their key's slot; Pub/Sub reaches every node, so a
subscriber connects to any one of those named.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.cluster
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from dihedral.bridge.errors import LayoutMismatch, ServerUnavailable
from dihedral.bridge.fabric.keys import LAYOUT, LAYOUT_VERSION, READABLE_LAYOUTS
from dihedral.bridge.metrics import redis_round_trips_total

Client = Any
"""The type redis.asyncio.Redis. Its annotations describe both ways to decode at once, so a strict checker refuses every use."""

CONNECTION_ERRORS = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.RedisClusterException, OSError)
"""The errors of a lost or refused connection; the answer to the command in flight is unknown."""

OLDEST_SERVER = (7, 0)

UNKNOWN_FUNCTION = "Function not found"
"""The error text of every server for a function that no library has; redis-py has no type for it."""


def connect(url: str, *, timeout_seconds: float = 10.0, **options: Any) -> Client:
    """Returns an asyncio client, which connects when first used. `timeout_seconds` must exceed the BLOCK of every command."""
    options |= {"socket_timeout": timeout_seconds, "socket_connect_timeout": 5, "retry": AsyncRetry(NoBackoff(), 0)}
    if is_cluster(url):
        return _connect_to_cluster(url, options)
    client = redis.asyncio.Redis.from_url(url, retry_on_error=[], driver_info=None, **options)
    pool = client.connection_pool
    kind: Any = pool.connection_class
    pool.connection_class = _that_hears_cancels(kind)
    return client


def listener(url: str) -> Client:
    """Returns a client for Pub/Sub; any one node of a cluster receives every message."""
    return connect(random.choice(_nodes(url)), timeout_seconds=30)


def is_cluster(url: str) -> bool:
    return urlsplit(url).scheme.endswith("+cluster")


def _nodes(url: str) -> list[str]:
    """Returns one URL for each cluster node that `url` names; for a single server `url` itself."""
    if not is_cluster(url):
        return [url]
    scheme, _, rest = url.partition("+cluster://")
    login, at, hosts = rest.rstrip("/").rpartition("@")
    return [f"{scheme}://{login}{at}{host}" for host in hosts.split(",")]


def _connect_to_cluster(url: str, options: dict[str, Any]) -> Client:
    """Keeps redis-py from repeating a command, except one that a node refused because the slot is on another node."""
    first, *others = _nodes(url)
    client: Client = _Cluster.from_url(
        first,
        startup_nodes=[redis.asyncio.cluster.ClusterNode(*_place(other)) for other in others],
        require_full_coverage=False,  # the loss of one master must not stop the others
        reinitialize_steps=0,  # a moved slot is noted; reading all slots again would close every connection of this client
        **options,
    )
    kind: Any = client.connection_kwargs.get("connection_class", redis.asyncio.Connection)
    client.connection_kwargs["connection_class"] = _that_hears_cancels(kind)
    for node in client.startup_nodes:
        node.connection_class = _that_hears_cancels(kind)
    return client


class _Cluster(redis.asyncio.cluster.RedisCluster):
    """Finds the keys of FCALL where those of EVALSHA are; redis-py would ask a server for them at every call."""

    async def _determine_slot(self, command: str, *args: Any) -> int:
        return await super()._determine_slot("EVALSHA" if command == "FCALL" else command, *args)


class _BlockingCluster(redis.cluster.RedisCluster):
    def determine_slot(self, *args: Any) -> Any:
        return super().determine_slot("EVALSHA" if args[0] == "FCALL" else args[0], *args[1:])


def _place(node: str) -> tuple[str, int]:
    parts = urlsplit(node)
    return parts.hostname or "127.0.0.1", parts.port or 6379


@cache
def _that_hears_cancels(kind: Any) -> Any:
    class Connection(kind):  # type: ignore[misc]
        """Sends one command at a time, as redis-py does: a second sender would find that the first has removed the time-out."""

        socket_timeout: float | None

        async def send_packed_command(self, command: Any, check_health: bool = True) -> None:
            redis_round_trips_total.inc()
            within, self.socket_timeout = self.socket_timeout, None
            try:
                async with asyncio.timeout(within):
                    await super().send_packed_command(command, check_health)
            except TimeoutError as error:
                raise redis.TimeoutError("the server does not read") from error
            except RuntimeError as error:
                raise await self._closed(error) from error
            finally:
                self.socket_timeout = within

        async def read_response(self, *arguments: Any, **options: Any) -> Any:
            try:
                return await super().read_response(*arguments, **options)
            except RuntimeError as error:
                raise await self._closed(error) from error

        async def _closed(self, error: RuntimeError) -> redis.ConnectionError:
            """Errors that asyncio and uvloop raise for a closed transport, or for one that redis-py has reopened during a read."""
            await self.disconnect(nowait=True)
            return redis.ConnectionError(str(error))

    return Connection


def connect_blocking(url: str, *, timeout_seconds: float) -> Any:
    """Returns a blocking client for a separate thread. Raises CONNECTION_ERRORS where no node of a cluster answers; else it connects when first used."""
    options: dict[str, Any] = {
        "socket_timeout": timeout_seconds, "socket_connect_timeout": timeout_seconds, "retry": Retry(NoBackoff(), 0),
    }  # fmt: skip
    if not is_cluster(url):
        return redis.Redis.from_url(url, retry_on_error=[], driver_info=None, **options)
    first, *others = _nodes(url)
    made: Any = redis.cluster.ClusterNode
    nodes = [made(*_place(other)) for other in others]
    return _BlockingCluster.from_url(first, startup_nodes=nodes, require_full_coverage=False, **options)


async def check_layout(client: Client, partitions: int, upgrade: Callable[[], Awaitable[None]] | None = None) -> None:
    """Writes the number of partitions on first use and refuses to go on with another.

    upgrade: moves the jobs of a readable older layout to this version's, which the control plane alone does; from then on an older version
    refuses to start. A worker gives None and waits for it, since an older control plane could not read what the worker writes.

    Raises:
        LayoutMismatch: the server holds jobs laid out differently, is older than 7.0, evicts, or lets this user call no functions.
        ServerUnavailable: it cannot be reached, or the control plane has not upgraded it yet.
    """
    try:
        clustered = isinstance(client, redis.asyncio.cluster.RedisCluster)
        info = await client.info(
            "server", "cluster", "memory", **({"target_nodes": client.RANDOM} if clustered else {})
        )
        version = str(info.get("redis_version", "0"))
        if clustered != bool(info.get("cluster_enabled")):
            which = "is no cluster" if clustered else "is a node of a cluster"
            raise LayoutMismatch(f"the server {which}; a cluster's redis.url begins with redis+cluster://")
        if clustered and partitions == 1:
            raise LayoutMismatch("a cluster needs redis.partitions: several for each of its masters, 16 for three")
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
            raise LayoutMismatch(f"Redis {version} is too old: 7.0 or newer (or Valkey) is needed")
        policy = str(info.get("maxmemory_policy", "noeviction"))
        if int(info.get("maxmemory", 0)) and policy != "noeviction":
            raise LayoutMismatch(
                f"the server evicts keys when it is full (maxmemory-policy {policy}), and jobs would vanish: set it to noeviction"
            )
        await _check_functions(client)
        known = await client.get(LAYOUT)
        if (
            known is None
        ):  # written only if missing: at its memory limit a server refuses writes, but workers must be able to reconnect
            await client.set(LAYOUT, f"{LAYOUT_VERSION}:{partitions}", nx=True)
            known = await client.get(LAYOUT)
        version, _, count = known.decode().rpartition(":")
        if version in {str(older) for older in READABLE_LAYOUTS} and int(count) == partitions:
            if upgrade is None:
                raise ServerUnavailable(
                    f"the jobs are stored in layout {version}: upgrade the control plane, which moves them to {LAYOUT_VERSION}"
                )
            await upgrade()
            await client.set(LAYOUT, f"{LAYOUT_VERSION}:{partitions}")
            version = str(LAYOUT_VERSION)
    except CONNECTION_ERRORS as error:
        raise ServerUnavailable(f"Redis cannot be reached: {error}") from error
    if version != str(LAYOUT_VERSION):
        raise LayoutMismatch(
            "the server's jobs were stored by another version of Dihedral: end them with that one, or use an empty database"
        )
    if int(count) != partitions:
        raise LayoutMismatch(f"the server's jobs are laid out in {count} partitions, redis.partitions is {partitions}")


async def _check_functions(client: Client) -> None:
    """Calls a function that does not exist: some stores claim to be Redis 7 but have no functions."""
    try:
        await client.execute_command("FCALL", "dihedral", 1, LAYOUT)
    except redis.exceptions.NoPermissionError as error:
        raise LayoutMismatch(
            "this Redis user may not call functions: it needs +fcall, the control plane's also +function|load (deploy/redis/users.acl)"
        ) from error
    except redis.ResponseError as error:
        if "unknown command" in str(error):
            raise LayoutMismatch(
                "the server has no functions (FCALL): Redis 7.0 or newer, or Valkey, is needed"
            ) from error
        if UNKNOWN_FUNCTION not in str(error):
            raise


async def now_ms(client: Client) -> int:
    """Returns the server's time: which worker is alive and which entry is old must not depend on a local clock."""
    seconds, micros = await client.time()
    return int(seconds) * 1000 + int(micros) // 1000
