"""Merges lists of capabilities by id and plane."""

from typing import Annotated, Any

from msgspec import Meta

from dihedral.bridge.tasks.registry import TaskContext, TaskError, task
from dihedral.control_plane.tasks import Shape


class MergeParams(Shape):
    lists: Annotated[list[list[dict[str, Any]]], Meta(max_length=1000, description="Lists of manifest entries")] = []  # noqa: RUF012 (a Struct copies it)
    capabilities: Annotated[list[dict[str, Any]], Meta(description="One more list, for example a parent's output")] = []  # noqa: RUF012


class Merged(Shape):
    capabilities: list[dict[str, Any]]


@task(
    plane="node",
    label="Merge capabilities",
    description="Merges lists of capabilities by id and plane; of two versions the later in the lists wins.",
    timeout_seconds=60,
    keywords=["merge capabilities", "merge lists", "merge manifests"],
    examples=[{"lists": [[], []]}],
)
async def merge_capabilities(params: MergeParams, ctx: TaskContext) -> Merged:
    merged: dict[tuple[str, str], dict[str, Any]] = {}
    named = [(f"/lists/{number}", each) for number, each in enumerate(params.lists)]
    for name, each in [*named, ("/capabilities", params.capabilities)]:
        for number, entry in enumerate(each):
            plane, id = entry.get("plane"), entry.get("id")
            if not (isinstance(plane, str) and plane and isinstance(id, str) and id):
                raise TaskError(f"{name}/{number} is no capability: id and plane are needed", code="invalid_input")
            merged[plane, id] = entry
    return Merged(capabilities=[merged[key] for key in sorted(merged)])
