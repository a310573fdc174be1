"""A task module whose thread takes the lock of all imports when its process ends, as a thread that imports something then does."""

import _imp
import atexit
import threading

from msgspec import Struct

from dihedral import TaskContext, task

_ending, _held, _never = threading.Event(), threading.Event(), threading.Event()


def _hold() -> None:
    _ending.wait()
    _imp.acquire_lock()
    _held.set()
    _never.wait()


def _end() -> None:
    _ending.set()
    _held.wait()
    Late()


class Late:
    """Is collected while the interpreter finalizes, and imports something then, as a connection pool of redis-py does."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        import json.tool  # noqa: F401


class Nothing(Struct):
    pass


@task
async def idle(params: Nothing, ctx: TaskContext) -> Nothing:
    return params


threading.Thread(target=_hold, daemon=True).start()
atexit.register(_end)
