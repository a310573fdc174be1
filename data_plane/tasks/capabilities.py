"""Task `get_capabilities`: the manifest of the worker that runs it, as a node's output."""

from msgspec import Struct

from dihedral.bridge.tasks.registry import TaskContext, task
from dihedral.schemas.structs.capability import Capability


class Nothing(Struct, kw_only=True, forbid_unknown_fields=True):
    pass


class Capabilities(Struct, kw_only=True, forbid_unknown_fields=True):
    capabilities: list[Capability]


@task(
    id="get_capabilities",
    label="Get capabilities",
    description="Lists what this worker can run, with the schemas of input and output.",
    timeout_seconds=60,
    keywords=["list tasks", "list capabilities", "what can it do", "what can you do", "manifest", "which tasks"],
    examples=[{}],
)
async def get_capabilities(params: Nothing, ctx: TaskContext) -> Capabilities:
    return Capabilities(capabilities=ctx.capabilities())
