"""The watchdog ends a process whose event loop a task blocks, and no other."""

import asyncio
from typing import Any

import pytest

from dihedral.bridge.worker import watchdog


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(watchdog, "BLOCKED_SECONDS", 0.04)
    monkeypatch.setattr(watchdog, "MOST_BLOCKED_SECONDS", 0.1)


def test_a_loop_that_has_ended_is_not_taken_for_a_blocked_one(monkeypatch: pytest.MonkeyPatch) -> None:
    ends: list[int] = []
    monkeypatch.setattr("os._exit", ends.append)
    unused: Any = None
    loop = asyncio.new_event_loop()

    async def begin() -> watchdog.Watchdog:
        dog = watchdog.Watchdog(unused, "", list, list, 0)
        dog.start()
        return dog

    dog = loop.run_until_complete(begin())
    dog.join(0.5)  # the loop stands still without a task in it, longer than a blocked one may
    assert dog.is_alive()
    assert ends == []
    loop.close()
    dog.join()
    assert not dog.is_alive()
    assert ends == []
