"""The whole system under a load, watched by a real Prometheus."""

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.observability.load import Load
from tests.observability.prometheus import Prometheus, served
from tests.support.polling import becomes
from tests.support.ports import free_port
from tests.support.stack import Stack

GRAFANA = Path(__file__).parents[2] / "deploy" / "grafana"
EXPORTERS = {"dcgm": "dcgm", "cadvisor": "cadvisor", "traefik": "traefik", "minio": "minio", "s3": "seaweedfs"}
"""Scrape jobs of exporters that cannot run here, and their exposition."""


@contextmanager
def running_stack(directory: Path) -> Iterator[tuple[Prometheus, Load]]:
    """The system with one worker, entries for a pool that has none, and a Prometheus that has seen every target."""
    (directory / "house").mkdir()
    with ExitStack() as stack:
        house = Stack(directory / "house")
        stack.callback(house.close)
        load = Load(house)
        port = free_port()
        house.worker("--slots", "1", "--port", str(port))
        load.pile_up()
        targets = {job: [stack.enter_context(served(name))] for job, name in EXPORTERS.items()}
        targets |= {
            "control-plane": [f"127.0.0.1:{house.port}"],
            "worker": [f"127.0.0.1:{port}"],
            "redis": [stack.enter_context(redis_exporter(house.redis_url))],
        }
        prometheus = Prometheus(directory, targets)
        stack.callback(prometheus.close)
        becomes(lambda: list(prometheus.values("up", "job").values()) == [1.0] * len(targets) + [1.0])
        yield prometheus, load


@contextmanager
def redis_exporter(url: str) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus-redis-exporter", f"-redis.addr={url.partition('?')[0]}", f"-web.listen-address={address}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield address
    finally:
        process.terminate()
        process.wait()
