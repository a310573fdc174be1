"""OpenTelemetry, as an extra: one trace per job, from its submission through every node on both planes.

The trace context of a job is made when it is submitted (a child of the client's, where the request brings a `traceparent`). It travels
as `metadata.traceparent` of the graph and as a field of the job's entries; every run of a node becomes a span below it, on whichever
worker. OpenTelemetry is imported here only, and only when `tracing.endpoint` names where spans go; else nothing here runs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dihedral.bridge.errors import SettingsError
from dihedral.bridge.tasks.runs import Failed, NodeRun, Outcome
from dihedral.bridge.version import VERSION
from dihedral.schemas.structs.settings import Settings

TRACEPARENT: ContextVar[str] = ContextVar("traceparent", default="")
"""Returns the W3C trace context of the current request; empty where tracing is off."""


class Tracing:
    """Makes the tracer. `provider`: an OpenTelemetry TracerProvider, whose configuration decides where spans go."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("dihedral", VERSION)
        self._wire = TraceContextTextMapPropagator()
        self._kind = SpanKind
        self._failed = lambda said: Status(StatusCode.ERROR, said)

    @contextmanager
    def request(self, name: str, traceparent: str) -> Iterator[Any]:
        """Opens a span around a submission; jobs created within it belong to its trace."""
        parent = self._wire.extract({"traceparent": traceparent})
        with self._tracer.start_as_current_span(name, context=parent, kind=self._kind.SERVER) as span:
            carrier: dict[str, str] = {}
            self._wire.inject(carrier)
            before = TRACEPARENT.set(carrier.get("traceparent", ""))
            try:
                yield span
            finally:
                TRACEPARENT.reset(before)

    @contextmanager
    def node(self, traceparent: str, run: NodeRun, plane: str, worker: str) -> Iterator["NodeSpan"]:
        """Opens a span around one run of a node."""
        attributes = {
            "dihedral.job": run.job_id,
            "dihedral.node": run.node_id,
            "dihedral.task": run.task,
            "dihedral.attempt": run.attempt,
            "dihedral.plane": plane,
            "dihedral.worker": worker,
        }
        parent = self._wire.extract({"traceparent": traceparent})
        with self._tracer.start_as_current_span(
            f"run {run.task}", context=parent, kind=self._kind.CONSUMER, attributes=attributes
        ) as span:
            yield NodeSpan(span, self._failed)

    def close(self) -> None:
        """Sends the spans that have not been sent yet."""
        self._provider.shutdown()


class NodeSpan:
    def __init__(self, span: Any, failed: Any) -> None:
        self._span = span
        self._failed = failed

    def ended(self, outcome: Outcome) -> None:
        self._span.set_attribute("dihedral.outcome", type(outcome).__name__.lower())
        if isinstance(outcome, Failed):
            self._span.set_status(self._failed(outcome.error.code))


def start(settings: Settings, plane: str) -> Tracing | None:
    """Returns the tracer; None where `tracing.endpoint` is empty. Headers for the collector come from OpenTelemetry's own variables.

    Raises:
        SettingsError: the extra `otel` is not installed.
    """
    if not settings.tracing.endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
    except ImportError as error:
        raise SettingsError(
            "tracing.endpoint: OpenTelemetry is not installed (pip install 'dihedral[otel]')"
        ) from error
    name = "control-plane" if plane == "node" else "worker"
    provider = TracerProvider(
        resource=Resource.create({"service.name": f"dihedral-{name}", "service.version": VERSION}),
        sampler=ParentBased(TraceIdRatioBased(settings.tracing.sample_ratio)),
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=settings.tracing.endpoint)))
    return Tracing(provider)
