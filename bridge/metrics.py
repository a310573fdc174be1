"""The metrics of both planes: counters that change where the event happens, and values that are read only at a scrape.

Names without `dihedral_` are a contract of old dashboards. Labels come from bounded sets (tasks, pipelines, pools, route templates,
fixed words); no job id ever becomes one. Code that runs once per node or entry looks its children up beforehand: `labels()` costs
more than counting does. Values that every process reads alike from Redis are not here but in control_plane/overview.py.
"""

import asyncio
import time
from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from dihedral.bridge.version import VERSION

LONG_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800, 7200, 21600)
SHORT_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
OUTCOMES = ("completed", "failed", "cancelled", "preempted")
LAG_EVERY_SECONDS = 0.25

# Nodes and deliveries -----------------------------------------------------------------------------------------------

node_duration_seconds = Histogram(
    "dihedral_node_duration_seconds",
    "Run time of a node, by task and outcome",
    ["task", "outcome"],
    buckets=LONG_SECONDS,
)
queue_wait_seconds = Histogram(
    "dihedral_queue_wait_seconds",
    "From an entry's dispatch until a worker took it",
    ["plane", "pool"],
    buckets=LONG_SECONDS,
)
deliveries_total = Counter(
    "dihedral_deliveries_total", "Entries taken, by what became of them at once", ["plane", "pool", "word"]
)
lease_losses_total = Counter("dihedral_lease_losses_total", "Deliveries that another worker took over from this one")
device_seconds_total = Counter(
    "dihedral_device_seconds_total", "Time that nodes held a slot, by task and device", ["task", "device"]
)
device_memory_used_bytes = Gauge(
    "dihedral_device_memory_used_bytes", "Memory in use: of each GPU, or of all slots where there is none", ["device"]
)
device_memory_peak_bytes = Gauge(
    "dihedral_device_memory_peak_bytes",
    "The most that has been in use since the start, looked at every second",
    ["device"],
)
device_memory_total_bytes = Gauge(
    "dihedral_device_memory_total_bytes", "Memory of the GPU, or of the machine where there is none", ["device"]
)
device_utilisation_ratio = Gauge(
    "dihedral_device_utilisation_ratio",
    "Share of the time in which the GPU computed; where there is none, share of the cores that the slots used",
    ["device"],
)
cancel_seconds = Histogram(
    "dihedral_cancel_seconds",
    "From asking a running node to stop (cancel, drain, lost lease) until nothing of it ran and its device memory was back",
    buckets=SHORT_SECONDS,
)
cancel_memory_kept_total = Counter(
    "dihedral_cancel_memory_kept_total", "Cancelled nodes whose process did not give its device memory back"
)
cancelling_oldest_seconds = Gauge(
    "dihedral_cancelling_oldest_seconds",
    "How long the oldest cancel waits for its workers, as the sweep of a minute sees it",
)
jobs_submitted_total = Counter(
    "dihedral_jobs_submitted_total", "Submissions, by pipeline and what became of them", ["pipeline", "result"]
)

# WebSocket and hub --------------------------------------------------------------------------------------------------

websocket_clients_connected = Gauge("websocket_clients_connected", "WebSocket clients now")
websocket_connections_total = Counter("websocket_connections_total", "WebSocket connections since the start")
websocket_messages_received_total = Counter("websocket_messages_received_total", "Messages from clients")
websocket_messages_sent_total = Counter("websocket_messages_sent_total", "Messages to clients")
websocket_errors_total = Counter("websocket_errors_total", "Messages refused and clients dropped")
connections_refused_total = Counter(
    "dihedral_connections_refused_total",
    "Connections that were refused (limit) or closed: evicted for another while idle, slow to send or to take",
    ["reason"],
)
websocket_client_lifetime_seconds = Histogram(
    "websocket_client_lifetime_seconds", "How long a client stayed", buckets=LONG_SECONDS
)
hub_lag_seconds = Histogram(
    "dihedral_hub_lag_seconds",
    "From hearing an event until it was handed to a client's connection",
    buckets=SHORT_SECONDS,
)
hub_drops_total = Counter(
    "dihedral_hub_drops_total",
    "overflow: a client fell behind and reads the log again; slow_client: it was closed",
    ["reason"],
)
hub_overflows = hub_drops_total.labels("overflow")
hub_slow_clients = hub_drops_total.labels("slow_client")
hub_rereads_total = Counter("dihedral_hub_rereads_total", "Event logs read again because something was missed")

# HTTP, Redis, artifacts, process ------------------------------------------------------------------------------------

http_requests_total = Counter(
    "dihedral_http_requests_total", "API requests by route template", ["method", "route", "status"]
)
http_request_duration_seconds = Histogram(
    "dihedral_http_request_duration_seconds",
    "Until the answer begins, by route template",
    ["route"],
    buckets=SHORT_SECONDS,
)

webhooks_total = Counter("dihedral_webhooks_total", "Webhooks by what became of a message", ["outcome"])

redis_round_trips_total = Counter("dihedral_redis_round_trips_total", "Commands and pipelines sent to Redis")
redis_script_seconds = Histogram(
    "dihedral_redis_script_seconds",
    "One call of a script, with its way there and back",
    ["script"],
    buckets=SHORT_SECONDS,
)
artifact_bytes_total = Counter(
    "dihedral_artifact_bytes_total", "Bytes put into the store and read from it", ["operation", "bucket"]
)
artifact_seconds = Histogram(
    "dihedral_artifact_seconds", "One operation on the artifact store", ["operation"], buckets=LONG_SECONDS
)
artifact_errors_total = Counter(
    "dihedral_artifact_errors_total", "Operations on the artifact store that failed", ["operation", "code"]
)
event_loop_lag_seconds = Histogram(
    "dihedral_event_loop_lag_seconds", "How much later than asked the event loop came back", buckets=SHORT_SECONDS
)
build = Info("dihedral_build", "What runs here")
build.info({"version": VERSION})


def observer(histogram: Histogram) -> Callable[[float], None]:
    """Returns `observe` of a histogram with its labels, for code that runs once per node or entry: it finds the bucket by bisection."""
    bounds, total, buckets = histogram._upper_bounds, histogram._sum, [bucket.inc for bucket in histogram._buckets]

    def observe(amount: float) -> None:
        total.inc(amount)
        buckets[bisect_left(bounds, amount)](1)

    return observe


def observer_of_many(histogram: Histogram) -> Callable[[Sequence[float]], None]:
    """Returns what `observer` does, for many amounts at once."""
    bounds, total, buckets = histogram._upper_bounds, histogram._sum, histogram._buckets

    def observe(amounts: Sequence[float]) -> None:
        total.inc(sum(amounts))
        for bucket, count in Counts([bisect_left(bounds, amount) for amount in amounts]).items():
            buckets[bucket].inc(count)

    return observe


def node_observer(tasks: Iterable[str]) -> Callable[[str, str, float], None]:
    """Returns `observe(task, outcome, seconds)` for the worker loop, limited to these tasks."""
    observers = {
        (task, outcome): observer(node_duration_seconds.labels(task, outcome)) for task in tasks for outcome in OUTCOMES
    }

    def observe(task: str, outcome: str, seconds: float) -> None:
        observers[task, outcome](seconds)

    return observe


async def watch_loop() -> None:
    """Measures this event loop's lag until it is cancelled."""
    while True:
        asked = time.perf_counter()
        await asyncio.sleep(LAG_EVERY_SECONDS)
        event_loop_lag_seconds.observe(max(0.0, time.perf_counter() - asked - LAG_EVERY_SECONDS))


class _OldNames(Collector):
    """Yields `worker_jobs_total{type}` and `worker_job_duration_seconds{type}`: the node histogram, summed over its outcomes."""

    def collect(self) -> Iterator[Metric]:
        sums: dict[tuple[str, str, str], float] = {}
        for metric in node_duration_seconds.collect():
            for sample in metric.samples:
                part = sample.name.removeprefix(metric.name)
                key = (sample.labels["task"], part, sample.labels.get("le", ""))
                sums[key] = sums.get(key, 0.0) + sample.value
        total = CounterMetricFamily("worker_jobs", "Nodes that have ended, by task", labels=["type"])
        duration = HistogramMetricFamily("worker_job_duration_seconds", "Run time of a node, by task", labels=["type"])
        for task in dict.fromkeys(task for task, _, _ in sums):
            buckets: list[Any] = [
                (le, sums[task, "_bucket", le]) for name, part, le in sums if (name, part) == (task, "_bucket")
            ]
            duration.add_metric([task], buckets, sums[task, "_sum", ""])
            total.add_metric([task], sums[task, "_count", ""])
        yield total
        yield duration


REGISTRY.register(_OldNames())


class _Also(Collector):
    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


def exposition(families: Iterable[Metric] = ()) -> bytes:
    """Returns the body of /metrics: all counters of this process, and `families`, which were read just now."""
    return generate_latest() + generate_latest(_Also(families))
