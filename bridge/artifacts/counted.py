"""Counts what moves to and from an artifact store in the metrics."""

from dihedral.bridge.artifacts.measured import Transfer
from dihedral.bridge.artifacts.store import BUCKETS
from dihedral.bridge.metrics import artifact_bytes_total, artifact_errors_total, artifact_seconds

for _operation in (
    "put",
    "read",
):  # a counter that starts late is exported as 0 first, so that its first count shows as an increase
    artifact_seconds.labels(_operation)
    for _bucket in BUCKETS:
        artifact_bytes_total.labels(_operation, _bucket)
    for _code in ("artifact_store_unavailable", "artifact_store_full"):
        artifact_errors_total.labels(_operation, _code)


def note_transfer(transfer: Transfer) -> None:
    artifact_seconds.labels(transfer.operation).observe(transfer.seconds)
    if transfer.size_bytes:
        artifact_bytes_total.labels(transfer.operation, transfer.bucket).inc(transfer.size_bytes)
    if transfer.code:
        artifact_errors_total.labels(transfer.operation, transfer.code).inc()
