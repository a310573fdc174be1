"""Dihedral: GPU media pipelines as durable jobs. The names that users import, loaded when asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dihedral.bridge.tasks.context import TaskCancelled
    from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
    from dihedral.client import AsyncClient, Client
    from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

__all__ = ["ArtifactRef", "AsyncClient", "Client", "ModelRef", "TaskCancelled", "TaskContext", "TaskError", "task"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from dihedral import client

        return getattr(client, name)
    if name in ("ArtifactRef", "ModelRef"):
        from dihedral.schemas.structs import artifact

        return getattr(artifact, name)
    if name in __all__:
        from dihedral.bridge.tasks import registry as tasks

        return getattr(tasks, name)
    raise AttributeError(f"module 'dihedral' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
