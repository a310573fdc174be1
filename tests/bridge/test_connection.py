"""Connections: a cancel is heard at every step of a command, and a server that stands still is given up."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import redis

from dihedral.bridge.fabric.connection import connect
from tests.support.polling import at_this_load
from tests.support.servers import start_server


async def asks_for_ever(client: Any) -> None:
    while True:
        await client.get("x")


@pytest.mark.parametrize("steps", range(30))
async def test_a_cancel_is_heard_at_every_step_of_a_command(redis_url: Any, steps: Any) -> None:
    """redis-py sends within wait_for, which before Python 3.12 loses a cancel that comes with the result."""
    client = connect(redis_url)
    await client.ping()
    asking = asyncio.create_task(asks_for_ever(client))
    for _ in range(steps):
        await asyncio.sleep(0)
    asking.cancel()
    ended, _ = await asyncio.wait({asking}, timeout=at_this_load(5))
    asking.cancel()
    await asyncio.wait({asking})
    await client.aclose()
    assert ended


@pytest.mark.parametrize("size", [1, 16 << 20], ids=["while it answers", "while it reads"])
async def test_a_server_that_stands_still_is_given_up_after_the_time_out(tmp_path: Path, size: Any) -> None:
    process, url = start_server(tmp_path)
    client = connect(url, timeout_seconds=0.2)
    try:
        await client.ping()
        os.kill(process.pid, signal.SIGSTOP)
        with pytest.raises(redis.TimeoutError):
            async with asyncio.timeout(at_this_load(5)):
                await client.set("x", "x" * size)
        os.kill(process.pid, signal.SIGCONT)
        assert await client.ping(), "the next command has a connection of its own"
    finally:
        await client.aclose()
        process.kill()
        process.wait()
