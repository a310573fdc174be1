"""One run of one node as data: its input, its outcome, its events, and the requests to stop it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import msgspec

from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.graph import NodeError

EVENT_BYTES = 64 * 1024


class NodeRun(msgspec.Struct, kw_only=True, frozen=True):
    """The input of a run. `delivery_count`: workers that this node has lost before. `owner`: the owner of the job; empty: the job has no owner, and the run may use every artifact."""

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
    """The outcome of a run. `output`: JSON of a completed node, else None. `began`: whether the task's function was entered.

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
    """The methods with which a running node reports; none of them blocks."""

    def progress(self, fraction: float) -> None: ...

    def data(self, name: str, payload: dict[str, Any]) -> None: ...

    def log(self, level: str, message: str) -> None: ...

    def waits(self, reason: str) -> None:
        """Reports why the node does not start yet, as a sentence; empty: it starts."""


Wished: TypeAlias = Literal["finish", "pause"]
"""Requests to end with the best result so far, or to stop where another run can continue."""


class CancelToken:
    """The requests to stop one run, for one event loop; cancel() may be called twice. A wish is gentler: a task that ignores it is not killed."""

    rank = 1
    """The place of the job's priority; 0 is the most urgent."""
    may_pause: Callable[[], bool] = staticmethod(lambda: False)
    """Returns whether the run may be asked to pause now."""
    wishes: Sequence[Wished] = ()
    _wish_listeners: Sequence[
        Callable[[Wished], None]
    ] = ()  # an empty tuple by default: every run makes a token, few listen

    def __init__(self) -> None:
        self.cancelled = False
        self._listeners: list[Callable[[], None]] = []

    def wish(self, wish: Wished) -> None:
        if wish not in self.wishes:
            self.wishes = [*self.wishes, wish]
            for listener in list(self._wish_listeners):
                listener(wish)

    def listen_to_wishes(self, listener: Callable[[Wished], None]) -> None:
        """Calls `listener` for every wish, and at once for the earlier ones."""
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
        """Calls `listener` at the cancel, or at once if the cancel has already happened."""
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
