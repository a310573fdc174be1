"""The metrics of both planes. Names without `dihedral_` are a contract of old dashboards; no job id ever becomes a label."""

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, Info

from bridge.version import VERSION

LONG_SECONDS = (0.005, 0.02, 0.1, 0.5, 2, 10, 60, 300, 1800, 7200, 21600)

worker_active_tasks = Gauge("worker_active_tasks", "Nodes that run in this process now")
worker_jobs_total = Counter("worker_jobs_total", "Nodes that have ended, by task", ["type"])
worker_job_duration_seconds = Histogram(
    "worker_job_duration_seconds", "Run time of a node, by task", ["type"], buckets=LONG_SECONDS
)

websocket_clients_connected = Gauge("websocket_clients_connected", "WebSocket clients now")
websocket_connections_total = Counter("websocket_connections_total", "WebSocket connections since the start")
websocket_messages_received_total = Counter("websocket_messages_received_total", "Messages from clients")
websocket_messages_sent_total = Counter("websocket_messages_sent_total", "Messages to clients")
websocket_errors_total = Counter("websocket_errors_total", "Messages refused and clients dropped")
websocket_client_lifetime_seconds = Histogram(
    "websocket_client_lifetime_seconds", "How long a client stayed", buckets=LONG_SECONDS
)

http_requests_total = Counter(
    "dihedral_http_requests_total", "API requests by route template", ["method", "route", "status"]
)
http_request_duration_seconds = Histogram(
    "dihedral_http_request_duration_seconds", "API requests by route template", ["route"]
)

webhooks_total = Counter("dihedral_webhooks_total", "Webhooks by what became of a message", ["outcome"])

build = Info("dihedral_build", "What runs here")
build.info({"version": VERSION})

__all__ = ["REGISTRY"]
