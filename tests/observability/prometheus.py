"""A real Prometheus with the configuration and rules of deploy/prometheus, pointed at what runs here."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.polling import at_this_load, becomes
from tests.support.ports import free_port

DEPLOY = Path(__file__).parents[2] / "deploy" / "prometheus"
EXPOSITIONS = Path(__file__).parent / "expositions"
SCRAPE_SECONDS = 0.5


class Prometheus:
    """`targets`: addresses by the name of the scrape job in deploy/prometheus/prometheus.yml; every job there must be named."""

    def __init__(self, directory: Path, targets: dict[str, list[str]], key: str = "") -> None:
        """`key`: that of the secrets; empty: the control planes are open."""
        config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
        interval = f"{int(at_this_load(SCRAPE_SECONDS) * 1000)}ms"  # a scrape that takes longer has failed
        config["global"] = {"scrape_interval": interval, "evaluation_interval": "1s"}
        config["rule_files"] = [str(DEPLOY / "rules" / "*.yml")]
        self.port = free_port()
        targets = {**targets, "prometheus": [f"127.0.0.1:{self.port}"]}
        assert {job["job_name"] for job in config["scrape_configs"]} == set(targets)
        for job in config["scrape_configs"]:
            job.pop("dns_sd_configs", None)
            if "authorization" in job and key:
                (directory / "metrics_key").write_text(key + "\n")
                credentials = job["authorization"]["credentials_file"].replace("/run/secrets", str(directory))
                job["authorization"]["credentials_file"] = credentials
            else:
                job.pop("authorization", None)
            job["static_configs"] = [{"targets": targets[job["job_name"]]}]
        (directory / "prometheus.yml").write_text(yaml.safe_dump(config))
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=120)
        with (directory / "prometheus.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    "prometheus", f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/tsdb",
                    f"--web.listen-address=127.0.0.1:{self.port}", "--log.level=warn",
                ],
                stdout=log, stderr=log,
            )  # fmt: skip
        becomes(self._ready)

    def _ready(self) -> bool:
        try:
            return self.http.get("/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        answer = self.http.get("/api/v1/query", params={"query": expression})
        assert answer.status_code == 200, (expression, answer.text)
        return list(answer.json()["data"]["result"])

    def values(self, expression: str, *labels: str) -> dict[Any, float]:
        """The value of each series, by these labels (one: the label itself)."""
        found = {}
        for each in self.query(expression):
            key = tuple(each["metric"].get(label, "") for label in labels)
            found[key[0] if len(labels) == 1 else key] = float(each["value"][1])
        return found

    def close(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait()


@contextmanager
def served(name: str) -> Iterator[Any]:
    """The address of an exporter that serves expositions/`name`.prom; its counters grow from scrape to scrape."""
    lines = (EXPOSITIONS / f"{name}.prom").read_text().splitlines()
    begun = time.monotonic()

    def text() -> str:
        grown = 1 + (time.monotonic() - begun) / 10
        out = []
        for line in lines:
            head, _, value = line.rpartition(" ")
            counts = not line.startswith("#") and head.partition("{")[0].endswith(
                ("_total", "_bucket", "_sum", "_count")
            )
            out.append(f"{head} {float(value) * grown}" if counts else line)
        return "\n".join(out) + "\n"

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = text().encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(BrokenPipeError, ConnectionResetError):  # Prometheus is stopped in the middle of a scrape
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


RULES = [
    rule
    for path in sorted((DEPLOY / "rules").glob("*.yml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
]
