"""Dihedral: GPU media pipelines as durable jobs. The names that users import, loaded when asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
    from dihedral.client import AsyncClient, Client

__all__ = ["AsyncClient", "Client", "TaskContext", "TaskError", "task"]


def __getattr__(name: str) -> Any:
    if name in ("AsyncClient", "Client"):
        from dihedral import client

        return getattr(client, name)
    if name in __all__:
        from dihedral.bridge.tasks import registry as tasks

        return getattr(tasks, name)
    raise AttributeError(f"module 'dihedral' has no attribute {name!r}")
