"""Connections to Redis: none of them retries by itself.

redis-py repeats a command whose answer was lost, and so runs a script twice behind its caller's back; here only code that
knows what it asked for asks again. A blocking read needs a time-out above its BLOCK (redis-py's default is 5 s).

redis-py also sends each command within `asyncio.wait_for`, which makes a task of it and, before Python 3.12, loses a cancel that
comes together with the result (seen: loops that nobody could end any more). Connections here send within `asyncio.timeout`.
"""

import asyncio
from functools import cache
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry

from bridge.errors import LayoutMismatch, ServerUnavailable
from bridge.keys import LAYOUT, LAYOUT_VERSION
from bridge.metrics import redis_round_trips_total

Client = Any
"""A redis.asyncio.Redis. Its annotations describe both ways to decode at once, so a strict checker refuses every use."""

LOST = (redis.ConnectionError, redis.TimeoutError, OSError)
"""What a lost or refused connection raises; the answer to the command in flight is unknown."""

OLDEST_SERVER = (7, 0)


def connect(url: str, *, timeout_seconds: float = 10.0, **options: Any) -> Client:
    """An asyncio client; connects when first used. `timeout_seconds` must exceed any BLOCK asked of it."""
    client = redis.asyncio.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=5,
        retry=AsyncRetry(NoBackoff(), 0),
        retry_on_error=[],
        **options,
    )
    pool = client.connection_pool
    kind: Any = pool.connection_class
    pool.connection_class = _that_hears_cancels(kind)
    return client


@cache
def _that_hears_cancels(kind: Any) -> Any:
    class Connection(kind):  # type: ignore[misc]
        """One command at a time, as redis-py uses it: a second sender would find the time-out taken away by the first."""

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
            """What asyncio and uvloop say of a transport that is closed, or that redis-py has begun anew under a reader."""
            await self.disconnect(nowait=True)
            return redis.ConnectionError(str(error))

    return Connection


def connect_blocking(url: str, *, timeout_seconds: float) -> redis.Redis:
    """A client for a thread of its own."""
    return redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        retry=Retry(NoBackoff(), 0),
        retry_on_error=[],
    )


async def check_layout(client: Client, partitions: int) -> None:
    """Writes the number of partitions on first use and refuses to go on with another.

    Raises:
        LayoutMismatch: the server holds jobs laid out differently, or is older than 7.0.
        ServerUnavailable: it cannot be reached.
    """
    try:
        info = await client.info("server")
        version = str(info.get("redis_version", "0"))
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST_SERVER:
            raise LayoutMismatch(f"Redis {version} is too old: 7.0 or newer (or Valkey) is needed")
        known = await client.get(LAYOUT)
        if known is None:  # only then written: at its memory limit a server takes no write, but workers must come back
            await client.set(LAYOUT, f"{LAYOUT_VERSION}:{partitions}", nx=True)
            known = await client.get(LAYOUT)
        stored = known.decode()
    except LOST as error:
        raise ServerUnavailable(f"Redis cannot be reached: {error}") from error
    version, _, count = stored.rpartition(":")
    if version != str(LAYOUT_VERSION):
        raise LayoutMismatch(
            "the server's jobs were stored by another version of Dihedral: end them with that one, or use an empty database"
        )
    if int(count) != partitions:
        raise LayoutMismatch(
            f"the server's jobs are laid out in {count} partitions, redis.partitions says {partitions}"
        )
