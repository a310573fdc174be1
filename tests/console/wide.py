"""A task of a hundred parameters in ten groups, for a form that has to bear them."""

from typing import Annotated, Any

from msgspec import Meta, defstruct

from dihedral import TaskContext, task

KINDS: list[tuple[Any, Any]] = [(int, 1), (str, "x"), (bool, True), (float, 0.5)]


def field(index: int) -> tuple[str, Any, Any]:
    kind, default = KINDS[index % len(KINDS)]
    group = {"x-group": f"Group {index // 10}"}
    return f"p{index}", Annotated[kind, Meta(title=f"Parameter {index}", extra_json_schema=group)], default


Wide = defstruct("Wide", [field(index) for index in range(100)], forbid_unknown_fields=True)


@task(description="Takes a hundred parameters.")
def wide(params: Wide, ctx: TaskContext) -> dict[str, int]:  # type: ignore[valid-type]
    return {"given": len(params.__struct_fields__)}  # type: ignore[attr-defined]
