"""One run of one node as data: its input, its outcome, its events, and the requests to stop it."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

import msgspec

from dihedral.schemas.structs.artifact import ArtifactMeta
from dihedral.schemas.structs.graph import Graph, NodeError

EVENT_BYTES = 64 * 1024

NodeStatus: TypeAlias = Literal["completed", "failed", "cancelled"]


class NodeRun(msgspec.Struct, kw_only=True, frozen=True):
    """The input of a run. `delivery_count`: workers that this node has lost before. `owner`: the owner of the job; empty: the job has no owner, and the run may use every artifact.

    `request`, `graph`: what the files of the run say about their origin; None: they say nothing, or nothing of the graph.
    """

    job_id: str
    node_id: str
    task: str
    attempt: int
    nonce: str
    params: dict[str, Any]
    timeout_seconds: float
    delivery_count: int = 0
    owner: str = ""
    request: dict[str, Any] | None = None
    graph: Graph | None = None


class Completed(msgspec.Struct, tag="completed", kw_only=True, frozen=True):
    """The task has returned. `output`: its result as JSON."""

    status: ClassVar[NodeStatus] = "completed"
    output: bytes
    artifacts: list[ArtifactMeta] = []


class Failed(msgspec.Struct, tag="failed", kw_only=True, frozen=True):
    """The task ended with an error, or could not be called. `poisoned`: the process that ran it cannot use its device any more."""

    status: ClassVar[NodeStatus] = "failed"
    error: NodeError
    retryable: bool = False
    artifacts: list[ArtifactMeta] = []
    poisoned: bool = False


class Cancelled(msgspec.Struct, tag="cancelled", kw_only=True, frozen=True):
    """The run was cancelled. `began`: whether the task's function was entered."""

    status: ClassVar[NodeStatus] = "cancelled"
    began: bool = True
    artifacts: list[ArtifactMeta] = []


class Declined(msgspec.Struct, tag="declined", kw_only=True, frozen=True):
    """The run was not begun, because it does not fit here; another worker may have room. `code`: the kind of reason; `reason`: a sentence."""

    code: Literal["memory", "worker"] = "memory"
    reason: str


class Preempted(msgspec.Struct, tag="preempted", kw_only=True, frozen=True):
    """The task was asked to pause and has stopped where another run can continue."""


EndedOutcome: TypeAlias = Completed | Failed | Cancelled
"""The outcomes with which a node ends; after the others it is requeued, as the same attempt."""

Outcome: TypeAlias = EndedOutcome | Declined | Preempted


class Emit(Protocol):
    """The methods with which a running node reports; none of them blocks."""

    def progress(self, fraction: float) -> None: ...

    def data(self, name: str, payload: dict[str, Any]) -> None: ...

    def log(self, level: str, message: str) -> None: ...

    def waits(self, reason: str) -> None:
        """Reports why the node does not start yet, or does not go on, as a sentence; empty: it does."""


Request: TypeAlias = Literal["finish", "pause"]
"""Requests to end with the best result so far, or to stop where another run can continue."""


class RunControl:
    """What others ask of one run, for one event loop: to cancel it, which may come twice, or a gentler request, for which no task is killed."""

    rank = 1
    """The place of the job's priority; 0 is the most urgent."""
    may_pause: Callable[[], bool] = staticmethod(lambda: False)
    """Returns whether the run may be asked to pause now."""
    requests: Sequence[Request] = ()
    cancelled = False
    _on_cancel: Sequence[Callable[[], None]] = ()  # empty by default: every run has a control, few listen
    _on_request: Sequence[Callable[[Request], None]] = ()

    def cancel(self) -> None:
        if not self.cancelled:
            self.cancelled = True
            for listener in list(self._on_cancel):
                listener()

    def request(self, what: Request) -> None:
        if what not in self.requests:
            self.requests = [*self.requests, what]
            for listener in list(self._on_request):
                listener(what)

    def on_cancel(self, listener: Callable[[], None]) -> None:
        """Calls `listener` at the cancel, or at once if the cancel has already happened."""
        self._on_cancel = [*self._on_cancel, listener]
        if self.cancelled:
            listener()

    def on_request(self, listener: Callable[[Request], None]) -> None:
        """Calls `listener` for every request, and at once for the earlier ones."""
        self._on_request = [*self._on_request, listener]
        for what in self.requests:
            listener(what)

    def remove(self, listener: Callable[..., None]) -> None:
        """Removes a listener of cancels or of requests; one that is not there is no error."""
        self._on_cancel = [each for each in self._on_cancel if each != listener]
        self._on_request = [each for each in self._on_request if each != listener]

    async def wait(self) -> None:
        """Waits until the run is cancelled."""
        cancelled = asyncio.Event()
        self.on_cancel(cancelled.set)
        try:
            await cancelled.wait()
        finally:
            self.remove(cancelled.set)
