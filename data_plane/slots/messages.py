"""The messages between a slot process and its parent; each is framed by its length."""

from typing import Any, TypeAlias

import msgspec

from dihedral.bridge.artifacts.measured import Transfer
from dihedral.bridge.tasks.runs import Outcome
from dihedral.data_plane.gpu_memory.simulated import Simulation
from dihedral.schemas.structs.events import LogLevel
from dihedral.schemas.structs.settings import ArtifactsSettings

FRAME_BYTES = 256 * 1024 * 1024  # far above any graph; more is garbage


class Hello(msgspec.Struct, tag="hello", kw_only=True):
    """The first message to the child. `path`: entries that the parent searches for modules; `gpu`: index among the visible ones.

    `simulation`: of the GPUs, whose state lies in `gpu_directory`; None where they are real. `tasks`: settings of
    tasks, which may hold secrets and so travel by the socket alone. `model_roots`: where tasks find local models. `memory_mib`: that the process may allocate, 0: any.
    """

    lease_seconds: float
    modules: list[str]
    path: list[str]
    artifacts: ArtifactsSettings
    output_bytes: int
    gpu: int | None
    threads: int
    simulation: Simulation | None = None
    gpu_directory: str = ""
    tasks: dict[str, dict[str, Any]] = {}
    model_roots: list[str] = []
    memory_mib: int = 0


class Start(msgspec.Struct, tag="start", kw_only=True):
    """`directory` is the run's alone; the child makes and removes it, the parent removes what a crash left.

    `run`: a NodeRun as JSON, since users' integers may have more than the 64 bits of MessagePack.
    """

    number: int
    run: bytes
    directory: str


class Stop(msgspec.Struct, tag="stop", kw_only=True):
    """Requests the task of this number to end, because its run is cancelled or its time is over."""

    number: int


class Pause(msgspec.Struct, tag="pause", kw_only=True):
    """Requests the task of this number to stop where another run can continue."""

    number: int


class Finish(msgspec.Struct, tag="finish", kw_only=True):
    """Requests the best result so far from the task of this number."""

    number: int


class Forget(msgspec.Struct, tag="forget", kw_only=True):
    """Requests, between runs, that the child drops the model that it keeps."""


class Ready(msgspec.Struct, tag="ready", kw_only=True):
    """The first message from the child, when its modules are loaded."""

    tasks: list[str]


class Progress(msgspec.Struct, tag="progress", kw_only=True):
    number: int
    fraction: float


class Data(msgspec.Struct, tag="data", kw_only=True):
    number: int
    name: str
    payload: dict[str, Any]


class Line(msgspec.Struct, tag="line", kw_only=True):
    number: int
    level: LogLevel
    message: str


class Done(msgspec.Struct, tag="done", kw_only=True):
    """`transfers`: what the store did for this run, for the parent's metrics. `peak`: bytes of device memory, 0 where not known.

    `warm_key`: of the model that the process keeps; `held`: bytes of the device that it still holds for itself; `smaller`: whether it was the
    smaller variant that ended; `replace`: whether the task has left the process in a state that no other node should find.
    """

    number: int
    outcome: Outcome
    transfers: list[Transfer] = []
    peak: int = 0
    warm_key: str = ""
    held: int = 0
    smaller: bool = False
    replace: bool = False


FromParent: TypeAlias = Hello | Start | Stop | Pause | Finish | Forget


FromChild: TypeAlias = Ready | Progress | Data | Line | Done


def frame(message: FromParent | FromChild) -> bytes:
    """Four bytes of length, big-endian, then MessagePack."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "big") + body
