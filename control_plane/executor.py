"""The control plane's own worker: the light nodes of plane `node`, run in this process."""

from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.registry import Registry
from dihedral.bridge.tasks.runs import Emit, NodeRun, Outcome, RunControl
from dihedral.bridge.tracing import Tracing
from dihedral.bridge.worker.loop import Worker
from dihedral.control_plane.tasks.evaluate_results import Again, again
from dihedral.control_plane.tasks.llm import allowed, llm
from dihedral.schemas.structs.settings import Settings


def make(
    settings: Settings, registry: Registry, store: ArtifactStore, tracing: Tracing | None, second_attempt: Again
) -> Worker:
    async def run_node(run: NodeRun, emit: Emit, control: RunControl) -> Outcome:
        llm.set(settings.llm)
        allowed.set(settings.outgoing.allow)
        again.set(second_attempt)
        return await run_light(registry, run, store, emit, control, output_bytes=settings.jobs.node_output_bytes)

    return Worker(
        settings=settings,
        plane="node",
        registry=registry,
        run_node=run_node,
        slots=0,
        light=settings.control.light_concurrency,
        tracing=tracing,
    )
