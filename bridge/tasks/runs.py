"""One run of one node as data: what goes in, what comes out, what it may say, and how it is asked to stop."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.graph import NodeError

EVENT_BYTES = 64 * 1024


class NodeRun(msgspec.Struct, kw_only=True, frozen=True):
    """`delivery_count`: workers that this node has lost before. `owner`: whose job it is; empty: nobody's, and then nothing is forbidden."""

    job_id: str
    node_id: str
    task: str
    attempt: int
    nonce: str
    params: dict[str, Any]
    timeout_seconds: float
    delivery_count: int = 0
    owner: str = ""


class NodeOutcome(msgspec.Struct, kw_only=True, frozen=True):
    """`output`: JSON of a completed node, else None. `began`: whether the task's function was entered.

    `poisoned`: the process that ran it cannot use its device any more. `elsewhere`: why it was not begun here, and should be given to others.
    """

    status: Literal["completed", "failed", "cancelled"]
    output: bytes | None = None
    error: NodeError | None = None
    retryable: bool = False
    artifacts: list[ArtifactMeta] = []
    began: bool = True
    poisoned: bool = False
    elsewhere: str = ""


class Emit(Protocol):
    """What a running node says; none of these blocks."""

    def progress(self, fraction: float) -> None: ...

    def data(self, name: str, payload: dict[str, Any]) -> None: ...

    def log(self, level: str, message: str) -> None: ...

    def waits(self, reason: str) -> None:
        """Why the node does not begin yet, a sentence; empty: it begins."""


Wished: TypeAlias = Literal["finish", "pause"]
"""To end with the best result so far; to stop where another run can go on."""


class CancelToken:
    """Belongs to one event loop; cancel() may be said twice. A wish is gentler: nobody kills a task that does not hear it."""

    rank = 1
    """0 is the most urgent."""
    may_pause: Callable[[], bool] = staticmethod(lambda: False)
    """Whether it may be asked to pause now."""
    wishes: Sequence[Wished] = ()
    _wish_listeners: Sequence[Callable[[Wished], None]] = ()  # of few runs: every run makes a token

    def __init__(self) -> None:
        self.cancelled = False
        self._listeners: list[Callable[[], None]] = []

    def wish(self, wish: Wished) -> None:
        if wish not in self.wishes:
            self.wishes = [*self.wishes, wish]
            for listener in list(self._wish_listeners):
                listener(wish)

    def listen_to_wishes(self, listener: Callable[[Wished], None]) -> None:
        """Calls it for every wish, at once for those that have been."""
        self._wish_listeners = [*self._wish_listeners, listener]
        for wish in self.wishes:
            listener(wish)

    def forget_wishes(self, listener: Callable[[Wished], None]) -> None:
        self._wish_listeners = [each for each in self._wish_listeners if each != listener]

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            for listener in list(self._listeners):
                listener()

    def listen(self, listener: Callable[[], None]) -> None:
        """Calls it at the cancel, at once when that has been."""
        self._listeners.append(listener)
        if self.cancelled:
            listener()

    def forget(self, listener: Callable[[], None]) -> None:
        self._listeners.remove(listener)

    async def wait(self) -> None:
        heard = asyncio.Event()
        self.listen(heard.set)
        try:
            await heard.wait()
        finally:
            self.forget(heard.set)
