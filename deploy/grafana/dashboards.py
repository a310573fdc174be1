"""The dashboards: `python deploy/grafana/dashboards.py [--check]` writes dashboards/*.json from the description below.

What each control plane tells of the whole system (`dihedral_jobs`, queues, workers) is the same from all of them: `max`, then `sum`. What
each process tells of itself is summed. `tests/observability/test_dashboards.py` evaluates every query here against a running system;
a panel with `of` shows an exporter that does not run in tests, and is checked against an exposition of that exporter instead.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "dashboards"
RATE = "[$__rate_interval]"
WIDTH = 24
SOURCES = {
    "redis": "the Redis exporter",
    "s3": "SeaweedFS, the store that compose.yaml starts",
    "minio": "MinIO, where that is the store",
    "dcgm": "NVIDIA's DCGM exporter (profile gpu)",
    "cadvisor": "cAdvisor (profile observability)",
    "traefik": "Traefik",
}
CHECKED = {"redis": "the real one", "s3": "what the real one exported"}
BY_HAND = "its documented metrics, not the real one"


@dataclass(frozen=True)
class Panel:
    """`queries`: (PromQL, legend). `kind`: stat, timeseries, table (of the last values) or alertlist."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 8
    height: int = 7
    says: str = ""
    of: str = ""
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: tuple[Panel, ...] = field(default_factory=tuple)


def graph(title: str, unit: str, *queries: tuple[str, str], **more: Any) -> Panel:
    return Panel(title, unit, queries, **more)


def stat(title: str, query: str, unit: str = "short", **more: Any) -> Panel:
    return Panel(title, unit, ((query, ""),), kind="stat", **{"width": 4, "height": 4, **more})


def table(title: str, unit: str, query: str, **more: Any) -> Panel:
    return Panel(title, unit, ((query, ""),), kind="table", **more)


def quantiles(
    metric: str, by: str = "", legend: str = "", of: tuple[float, ...] = (0.5, 0.95, 0.99)
) -> list[tuple[str, str]]:
    labels = f"le, {by}" if by else "le"
    return [
        (f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{RATE})))", f"p{q * 100:g} {legend}".strip())
        for q in of
    ]


# What is shown ------------------------------------------------------------------------------------------------------

ENDED = "max by (status, pipeline) (dihedral_jobs_ended_total)"
ENDED_RATE = f"max by (status, pipeline) (rate(dihedral_jobs_ended_total{RATE}))"

OVERVIEW = (
    Row(
        "Now",
        (
            stat("Running jobs", 'max(dihedral_jobs{status="running"})'),
            stat("Queued jobs", 'max(dihedral_jobs{status="queued"})'),
            stat("Workers", "sum(max by (plane, pool) (dihedral_workers))"),
            stat("Oldest waiting", "max(dihedral_queue_oldest_seconds)", "s"),
            stat("WebSocket clients", "sum(websocket_clients_connected)"),
            stat("Dead letters kept", "max(dihedral_dead_letters_kept)"),
        ),
    ),
    Row(
        "Jobs",
        (
            graph("Jobs ended per second", "ops", (f"sum by (status) ({ENDED_RATE})", "{{status}}"), stacked=True),
            graph("Jobs alive", "short", ("max by (status) (dihedral_jobs)", "{{status}}"), stacked=True),
            table("Jobs ended, ever", "short", f"sum by (status) ({ENDED})"),
            graph("Time in queue", "s", *quantiles("dihedral_queue_wait_seconds", "pool", "{{pool}}", (0.5, 0.95))),
            graph("Node run time, p95", "s", *quantiles("dihedral_node_duration_seconds", "task", "{{task}}", (0.95,))),
            graph(
                "Busy slots",
                "percentunit",
                (
                    'sum by (plane, pool) (dihedral_worker_slots_busy{kind="heavy"}) / (sum by (plane, pool) (dihedral_worker_slots{kind="heavy"}) > 0)',
                    "{{plane}} {{pool}}",
                ),
            ),
        ),
    ),
    Row(
        "Service",
        (
            graph(
                "API requests",
                "reqps",
                (f"sum by (status) (rate(dihedral_http_requests_total{RATE}))", "{{status}}"),
                stacked=True,
            ),
            graph("API latency", "s", *quantiles("dihedral_http_request_duration_seconds")),
            Panel("Alerts", "", (), kind="alertlist"),
        ),
    ),
)

JOBS = (
    Row(
        "Jobs",
        (
            table("Ended since the start, by pipeline", "short", ENDED, width=8, height=8),
            graph(
                "Ended per second, by pipeline", "ops", (f"sum by (pipeline) ({ENDED_RATE})", "{{pipeline}}"), height=8
            ),
            graph(
                "Submissions per second",
                "ops",
                (f"sum by (pipeline, result) (rate(dihedral_jobs_submitted_total{RATE}))", "{{pipeline}} {{result}}"),
                height=8,
            ),
            graph("Alive, by status", "short", ("max by (status) (dihedral_jobs)", "{{status}}"), stacked=True),
            graph("Share of jobs that fail (15 min)", "percentunit", ("dihedral:jobs_failed:ratio15m", "failed")),
            graph("Oldest unconfirmed cancel", "s", ("max(dihedral_cancelling_oldest_seconds)", "oldest")),
        ),
    ),
    Row(
        "Nodes",
        (
            graph(
                "Nodes ended per second",
                "ops",
                (f"sum by (task, outcome) (rate(dihedral_node_duration_seconds_count{RATE}))", "{{task}} {{outcome}}"),
                width=12,
            ),
            graph(
                "Run time, p50 and p95",
                "s",
                *quantiles("dihedral_node_duration_seconds", "task", "{{task}}", (0.5, 0.95)),
                width=12,
            ),
            table("Run since the start, by task", "short", "sum by (type) (worker_jobs_total)"),
            graph(
                "Mean run time, by task",
                "s",
                (
                    f"sum by (type) (rate(worker_job_duration_seconds_sum{RATE})) / (sum by (type) (rate(worker_job_duration_seconds_count{RATE})) > 0)",
                    "{{type}}",
                ),
            ),
            table("Given up since the start", "short", "max by (reason) (dihedral_dead_letters_total)"),
        ),
    ),
)

WORKERS = (
    Row(
        "Workers",
        (
            table("Workers, by pool", "short", "max by (plane, pool) (dihedral_workers)"),
            graph(
                "Nodes that run now", "short", ("sum by (job, instance) (worker_active_tasks)", "{{job}} {{instance}}")
            ),
            graph("Busy slots, by pool", "percentunit", ("dihedral:slots_busy:ratio", "{{plane}} {{pool}} {{kind}}")),
            graph(
                "Slots", "short", ("sum by (plane, pool, kind) (dihedral_worker_slots)", "{{plane}} {{pool}} {{kind}}")
            ),
            graph(
                "Leases lost by live workers per minute",
                "short",
                (f"60 * sum by (job) (rate(dihedral_lease_losses_total{RATE}))", "{{job}}"),
            ),
            graph(
                "Event loop lag, p99",
                "s",
                *quantiles("dihedral_event_loop_lag_seconds", "job, instance", "{{job}} {{instance}}", (0.99,)),
            ),
            graph(
                "CPU of the worker processes",
                "percentunit",
                (f'rate(process_cpu_seconds_total{{job=~"control-plane|worker"}}{RATE})', "{{job}} {{instance}}"),
            ),
            graph(
                "Memory of the worker processes",
                "bytes",
                ('process_resident_memory_bytes{job=~"control-plane|worker"}', "{{job}} {{instance}}"),
                says="Without slots, which are processes of their own.",
            ),
            table("Versions", "short", "count by (job, version) (dihedral_build_info)"),
        ),
    ),
    Row(
        "Devices, as the workers see them",
        (
            graph(
                "Slots in use, by task",
                "percentunit",
                (f"sum by (task, device) (rate(dihedral_device_seconds_total{RATE}))", "{{task}} on {{device}}"),
                says="1 is one slot held all the time.",
            ),
            graph(
                "Device utilisation",
                "percentunit",
                ("dihedral_device_utilisation_ratio", "{{instance}} {{device}}"),
                says="Of each GPU; where there is none, of the cores by the slots.",
            ),
            graph(
                "Device memory",
                "bytes",
                ("dihedral_device_memory_used_bytes", "{{instance}} {{device}}"),
                ("dihedral_device_memory_peak_bytes", "peak {{instance}} {{device}}"),
                says="Of each GPU; where there is none, of the slots.",
            ),
            graph(
                "Device memory, share",
                "percentunit",
                ("dihedral_device_memory_used_bytes / dihedral_device_memory_total_bytes", "{{instance}} {{device}}"),
            ),
        ),
    ),
    Row(
        "GPUs, as the driver sees them",
        (
            graph("GPU utilisation", "percent", ("DCGM_FI_DEV_GPU_UTIL", "{{Hostname}} {{gpu}}"), of="dcgm", width=6),
            graph(
                "GPU memory",
                "decmbytes",
                ("DCGM_FI_DEV_FB_USED", "used {{Hostname}} {{gpu}}"),
                ("DCGM_FI_DEV_FB_FREE", "free {{Hostname}} {{gpu}}"),
                of="dcgm",
                width=6,
            ),
            graph("Temperature", "celsius", ("DCGM_FI_DEV_GPU_TEMP", "{{Hostname}} {{gpu}}"), of="dcgm", width=6),
            graph("Power", "watt", ("DCGM_FI_DEV_POWER_USAGE", "{{Hostname}} {{gpu}}"), of="dcgm", width=6),
        ),
    ),
    Row(
        "Containers",
        (
            graph(
                "CPU, by service",
                "percentunit",
                (
                    f'sum by (container_label_com_docker_compose_service) (rate(container_cpu_usage_seconds_total{{container_label_com_docker_compose_service!=""}}{RATE}))',
                    "{{container_label_com_docker_compose_service}}",
                ),
                of="cadvisor",
                width=12,
            ),
            graph(
                "Memory, by service",
                "bytes",
                (
                    'sum by (container_label_com_docker_compose_service) (container_memory_working_set_bytes{container_label_com_docker_compose_service!=""})',
                    "{{container_label_com_docker_compose_service}}",
                ),
                of="cadvisor",
                width=12,
            ),
        ),
    ),
)

QUEUES = (
    Row(
        "Queues",
        (
            table("Waiting entries, by pool", "short", "max by (plane, pool) (dihedral_queue_depth)"),
            graph("Waiting entries", "short", ("dihedral:queue_depth", "{{plane}} {{pool}}")),
            graph(
                "Entries that workers hold",
                "short",
                ("max by (plane, pool) (dihedral_queue_pending)", "{{plane}} {{pool}}"),
            ),
            graph("Age of the oldest waiting entry", "s", ("dihedral:queue_oldest_seconds", "{{plane}} {{pool}}")),
            graph(
                "Time in queue",
                "s",
                *quantiles("dihedral_queue_wait_seconds", "plane, pool", "{{plane}} {{pool}}", (0.5, 0.95)),
            ),
            graph(
                "Entries taken per second",
                "ops",
                (f"sum by (plane, pool, word) (rate(dihedral_deliveries_total{RATE}))", "{{plane}} {{pool}} {{word}}"),
                says="ok: work; gone and stale: no job needs it any more; vanished: the stream has lost it.",
            ),
            graph(
                "Taken over from lost workers per minute",
                "short",
                (f"60 * max(rate(dihedral_redeliveries_total{RATE}))", "redeliveries"),
            ),
            graph("Dead letters", "short", ("max(dihedral_dead_letters_kept)", "kept")),
        ),
    ),
    Row(
        "Redis, as the planes see it",
        (
            graph(
                "Memory",
                "bytes",
                ("max(dihedral_redis_memory_used_bytes)", "used"),
                ("max(dihedral_redis_memory_limit_bytes)", "limit (0: none)"),
            ),
            graph("Reachable", "short", ("max by (instance) (dihedral_redis_up)", "{{instance}}")),
            graph(
                "Round trips per second",
                "ops",
                (f"sum by (job) (rate(dihedral_redis_round_trips_total{RATE}))", "{{job}}"),
            ),
            graph(
                "Script calls per second",
                "ops",
                (f"sum by (script) (rate(dihedral_redis_script_seconds_count{RATE}))", "{{script}}"),
                width=12,
            ),
            graph(
                "Script round trip, p99",
                "s",
                *quantiles("dihedral_redis_script_seconds", "script", "{{script}}", (0.99,)),
                width=12,
            ),
        ),
    ),
    Row(
        "Redis, as its exporter sees it",
        (
            graph(
                "Commands per second",
                "ops",
                (f"rate(redis_commands_processed_total{RATE})", "{{instance}}"),
                of="redis",
                width=6,
            ),
            graph(
                "Clients",
                "short",
                ("redis_connected_clients", "connected {{instance}}"),
                ("redis_blocked_clients", "blocked {{instance}}"),
                of="redis",
                width=6,
            ),
            graph(
                "Memory",
                "bytes",
                ("redis_memory_used_bytes", "used {{instance}}"),
                ("redis_memory_used_rss_bytes", "resident {{instance}}"),
                of="redis",
                width=6,
            ),
            graph(
                "Keys evicted or expired per second",
                "ops",
                (f"rate(redis_evicted_keys_total{RATE})", "evicted {{instance}}"),
                (f"rate(redis_expired_keys_total{RATE})", "expired {{instance}}"),
                of="redis",
                width=6,
                says="Anything evicted means that maxmemory-policy is not noeviction: jobs are lost.",
            ),
        ),
    ),
)

WEBSOCKETS = (
    Row(
        "Clients",
        (
            stat("Connected", "sum(websocket_clients_connected)", width=6),
            stat("Connections since the start", "sum(websocket_connections_total)", width=6),
            stat("Messages sent since the start", "sum(websocket_messages_sent_total)", width=6),
            stat("Errors since the start", "sum(websocket_errors_total)", width=6),
            graph("Connected, by control plane", "short", ("websocket_clients_connected", "{{instance}}")),
            graph(
                "Messages per second",
                "ops",
                (f"sum(rate(websocket_messages_sent_total{RATE}))", "sent"),
                (f"sum(rate(websocket_messages_received_total{RATE}))", "received"),
            ),
            graph("Errors per second", "ops", (f"sum(rate(websocket_errors_total{RATE}))", "errors")),
            graph("How long clients stay, p50", "s", *quantiles("websocket_client_lifetime_seconds", of=(0.5,))),
        ),
    ),
    Row(
        "Hub",
        (
            graph(
                "Watched jobs and subscriptions",
                "short",
                ("sum(dihedral_hub_watched_jobs)", "jobs"),
                ("sum(dihedral_hub_subscriptions)", "subscriptions"),
            ),
            graph("Lag, from hearing an event to sending it", "s", *quantiles("dihedral_hub_lag_seconds")),
            graph(
                "Drops per second",
                "ops",
                (f"sum by (reason) (rate(dihedral_hub_drops_total{RATE}))", "{{reason}}"),
                (f"sum(rate(dihedral_hub_rereads_total{RATE}))", "log read again"),
            ),
        ),
    ),
)

ARTIFACTS = (
    Row(
        "Traffic of both planes",
        (
            table("Bytes since the start", "bytes", "sum by (operation, bucket) (dihedral_artifact_bytes_total)"),
            graph(
                "Bytes per second",
                "Bps",
                (f"sum by (operation, bucket) (rate(dihedral_artifact_bytes_total{RATE}))", "{{operation}} {{bucket}}"),
            ),
            graph(
                "Operations per second",
                "ops",
                (f"sum by (operation) (rate(dihedral_artifact_seconds_count{RATE}))", "{{operation}}"),
            ),
            graph(
                "How long operations take, p50 and p95",
                "s",
                *quantiles("dihedral_artifact_seconds", "operation", "{{operation}}", (0.5, 0.95)),
                width=12,
            ),
            graph(
                "Errors per minute",
                "short",
                (
                    f"60 * sum by (operation, code) (rate(dihedral_artifact_errors_total{RATE}))",
                    "{{operation}} {{code}}",
                ),
                width=12,
            ),
        ),
    ),
    Row(
        "The store itself",
        (
            graph(
                "SeaweedFS: requests per second",
                "reqps",
                (f"sum by (type, code) (rate(SeaweedFS_s3_request_total{RATE}))", "{{type}} {{code}}"),
                of="s3",
                width=6,
            ),
            graph(
                "SeaweedFS: disk",
                "bytes",
                ('SeaweedFS_volumeServer_resource{type=~"used|free"}', "{{type}} {{instance}}"),
                of="s3",
                width=6,
            ),
            graph(
                "MinIO: requests and errors per second",
                "reqps",
                (f"sum by (api) (rate(minio_s3_requests_total{RATE}))", "{{api}}"),
                (f"sum by (api) (rate(minio_s3_requests_errors_total{RATE}))", "errors {{api}}"),
                of="minio",
                width=6,
            ),
            graph(
                "MinIO: free space", "bytes", ("minio_cluster_capacity_usable_free_bytes", "free"), of="minio", width=6
            ),
        ),
    ),
)

HTTP = (
    Row(
        "API",
        (
            table(
                "Requests since the start",
                "short",
                "sum by (method, route, status) (dihedral_http_requests_total)",
                width=12,
                height=9,
            ),
            graph(
                "Requests per second, by route",
                "reqps",
                (f"sum by (route) (rate(dihedral_http_requests_total{RATE}))", "{{route}}"),
                width=12,
                height=9,
            ),
            graph(
                "Requests per second, by status",
                "reqps",
                (f"sum by (status) (rate(dihedral_http_requests_total{RATE}))", "{{status}}"),
                stacked=True,
            ),
            graph(
                "Share answered with 5xx (5 min)",
                "percentunit",
                (
                    'sum(rate(dihedral_http_requests_total{status=~"5.."}[5m])) / sum(rate(dihedral_http_requests_total[5m]))',
                    "5xx",
                ),
                says="Empty as long as nothing was answered with 5xx.",
            ),
            graph(
                "Latency, p99 by route",
                "s",
                *quantiles("dihedral_http_request_duration_seconds", "route", "{{route}}", (0.99,)),
            ),
            graph("Latency, all routes", "s", *quantiles("dihedral_http_request_duration_seconds"), width=12),
            graph(
                "Event loop lag of the control planes, p99",
                "s",
                (
                    'histogram_quantile(0.99, sum by (le, instance) (rate(dihedral_event_loop_lag_seconds_bucket{job="control-plane"}[$__rate_interval])))',
                    "{{instance}}",
                ),
                width=12,
            ),
        ),
    ),
    Row(
        "Traefik",
        (
            graph(
                "Requests per second, by code",
                "reqps",
                (
                    f"sum by (entrypoint, code) (rate(traefik_entrypoint_requests_total{RATE}))",
                    "{{entrypoint}} {{code}}",
                ),
                of="traefik",
            ),
            graph(
                "Latency of the services, p95",
                "s",
                *quantiles("traefik_service_request_duration_seconds", "service", "{{service}}", (0.95,)),
                of="traefik",
            ),
            graph(
                "Open connections",
                "short",
                ("sum by (entrypoint) (traefik_open_connections)", "{{entrypoint}}"),
                of="traefik",
            ),
        ),
    ),
)

DASHBOARDS = {
    "overview": ("Overview", OVERVIEW),
    "jobs": ("Jobs", JOBS),
    "workers": ("Workers and GPU", WORKERS),
    "queues": ("Queues and Redis", QUEUES),
    "websockets": ("WebSockets", WEBSOCKETS),
    "artifacts": ("Artifacts", ARTIFACTS),
    "http": ("HTTP", HTTP),
}

# What Grafana reads -------------------------------------------------------------------------------------------------

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


def dashboard(name: str, title: str, rows: tuple[Row, ...]) -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for row in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": row.title,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": WIDTH, "h": 1},
            }
        )
        x, y, tallest = 0, y + 1, 0
        for panel in row.panels:
            if x + panel.width > WIDTH:
                x, y, tallest = 0, y + tallest, 0
            panels.append(drawn(panel, len(panels) + 1, {"x": x, "y": y, "w": panel.width, "h": panel.height}))
            x, tallest = x + panel.width, max(tallest, panel.height)
        y += tallest
    return {
        "uid": f"dihedral-{name}", "title": f"Dihedral / {title}", "tags": ["dihedral"], "timezone": "browser", "schemaVersion": 39,
        "refresh": "15s", "time": {"from": "now-1h", "to": "now"}, "editable": False, "graphTooltip": 1, "panels": panels,
        "templating": {"list": [{"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus", "hide": 0}]},
        "links": [{"type": "dashboards", "tags": ["dihedral"], "asDropdown": True, "title": "Dihedral", "includeVars": True, "keepTime": True}],
    }  # fmt: skip


def drawn(panel: Panel, number: int, position: dict[str, int]) -> dict[str, Any]:
    found: dict[str, Any] = {"id": number, "type": panel.kind, "title": panel.title, "gridPos": position}
    says = " ".join(
        filter(
            None,
            (panel.says, panel.of and f"From {SOURCES[panel.of]}; checked against {CHECKED.get(panel.of, BY_HAND)}."),
        )
    )
    if says:
        found["description"] = says
    if panel.kind == "alertlist":
        return found | {"options": {"alertListOptions": {"stateFilter": {"firing": True, "pending": True}}}}
    instant = panel.kind != "timeseries"
    defaults: dict[str, Any] = {"unit": panel.unit, "min": 0}
    if panel.kind == "timeseries":
        defaults["custom"] = {
            "fillOpacity": 25 if panel.stacked else 8,
            "lineWidth": 1,
            "showPoints": "never",
            "stacking": {"mode": "normal" if panel.stacked else "none"},
        }
    found |= {
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": defaults, "overrides": []},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "expr": query,
                "legendFormat": legend or "__auto",
                "datasource": DATASOURCE,
                "instant": instant,
                "range": not instant,
                "format": "table" if panel.kind == "table" else "time_series",
            }
            for index, (query, legend) in enumerate(panel.queries)
        ],
    }
    if panel.kind == "table":
        found["transformations"] = [{"id": "organize", "options": {"excludeByName": {"Time": True}}}]
    if panel.kind == "timeseries":
        found["options"] = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return found


def main() -> int:
    stale = []
    for name, (title, rows) in DASHBOARDS.items():
        text = json.dumps(dashboard(name, title, rows), indent=1, ensure_ascii=False) + "\n"
        path = FOLDER / f"{name}.json"
        if "--check" in sys.argv:
            if not path.exists() or path.read_text() != text:
                stale.append(path.name)
        else:
            path.write_text(text)
    if stale:
        print("stale, run python deploy/grafana/dashboards.py:", *stale, file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
