"""Dihedral: GPU media pipelines as durable jobs. The names that users import, loaded when asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dihedral.bridge.tasks.context import TaskCancelled
    from dihedral.bridge.tasks.params import LookModel, Picture, Recording, Video, VoiceModel, artifact
    from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
    from dihedral.client import AsyncClient, Client
    from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

__all__ = [
    "ArtifactRef", "AsyncClient", "Client", "LookModel", "ModelRef", "Picture", "Recording", "TaskCancelled", "TaskContext", "TaskError",
    "Video", "VoiceModel", "artifact", "task",
]  # fmt: skip
_OF_PARAMS = frozenset({"LookModel", "Picture", "Recording", "Video", "VoiceModel", "artifact"})


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from dihedral import client

        return getattr(client, name)
    if name in ("ArtifactRef", "ModelRef"):
        from dihedral.schemas.structs import artifact

        return getattr(artifact, name)
    if name in _OF_PARAMS:
        from dihedral.bridge.tasks import params

        return getattr(params, name)
    if name in __all__:
        from dihedral.bridge.tasks import registry as tasks

        return getattr(tasks, name)
    raise AttributeError(f"module 'dihedral' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
