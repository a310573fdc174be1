"""A way to await what mostly does not wait: it runs on in the current task, and shows when it waits for the first time."""

from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class UntilItWaits(Awaitable[T]):
    """Awaits a coroutine in the current task, and calls `waits` when it waits for the first time, if it ever does."""

    __slots__ = ("_waits", "_work")

    def __init__(self, work: Coroutine[Any, Any, T], waits: Callable[[], object]) -> None:
        self._work = work
        self._waits = waits

    def __await__(self) -> Generator[Any, Any, T]:
        try:
            future = self._work.send(None)
            self._waits()
            while True:
                try:
                    yield future
                except GeneratorExit:
                    self._work.close()
                    raise
                except BaseException as error:  # the task was cancelled while it waited
                    future = self._work.throw(error)
                else:
                    return (yield from self._work.__await__())
        except StopIteration as end:
            ended: T = end.value
            return ended
