"""The control plane's own worker: the light nodes of plane `node`, run in this process."""

from bridge.artifacts import ArtifactStore
from bridge.running import CancelToken, Emit, NodeOutcome, NodeRun, run_light
from bridge.tasks import Registry
from bridge.tracing import Tracing
from bridge.worker import Worker
from control_plane.tasks import allowed, llm
from schemas.structs.settings import Settings


def make(settings: Settings, registry: Registry, store: ArtifactStore, tracing: Tracing | None) -> Worker:
    async def run_node(run: NodeRun, emit: Emit, cancel: CancelToken) -> NodeOutcome:
        llm.set(settings.llm)
        allowed.set(settings.outgoing.allow)
        return await run_light(registry, run, store, emit, cancel, output_bytes=settings.jobs.node_output_bytes)

    return Worker(
        settings=settings,
        plane="node",
        registry=registry,
        run_node=run_node,
        slots=0,
        light=settings.control.light_concurrency,
        store=store,
        tracing=tracing,
    )
