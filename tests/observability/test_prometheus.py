"""deploy/prometheus: the configuration and the rules, judged by promtool."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.observability.prometheus import DEPLOY, RULES, Prometheus
from tests.support.polling import becomes
from tests.support.servers import skip
from tests.support.stack import Stack

ALERTS = [rule for rule in RULES if "alert" in rule]


def promtool(*arguments: str) -> None:
    if shutil.which("promtool") is None:
        skip("prometheus", "there is no promtool on this machine")
    done = subprocess.run(["promtool", *arguments], cwd=DEPLOY, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_is_valid(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "prometheus")
    (tmp_path / "metrics_key").touch()
    config = tmp_path / "prometheus" / "prometheus.yml"
    config.write_text(config.read_text().replace("/run/secrets", str(tmp_path)))
    promtool("check", "config", str(config))


@pytest.mark.parametrize(("known", "up"), [(True, 1.0), (False, 0.0)])
def test_a_control_plane_is_scraped_with_the_key_of_the_secrets_and_not_with_another(
    tmp_path: Path, known: Any, up: Any
) -> None:
    if shutil.which("prometheus") is None:
        skip("prometheus", "there is no prometheus on this machine")
    key, other = ("dhk_" + word * 16 + "_" + word * 43 for word in "ab")
    house = Stack(tmp_path, DIHEDRAL_CONTROL__KEYS=f"admin admin {other}\nprometheus read {key}")
    try:
        jobs = [job["job_name"] for job in yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]]
        targets = {job: [f"127.0.0.1:{house.port}"] if job == "control-plane" else [] for job in jobs}
        prometheus = Prometheus(tmp_path, targets, key if known else key[:-1] + "c")
        try:
            becomes(lambda: prometheus.values("up", "job").get("control-plane") == up)
            assert bool(prometheus.query("dihedral_redis_up")) is known
        finally:
            prometheus.close()
    finally:
        house.close()


def test_every_alert_comes_where_it_must_and_only_there() -> None:
    promtool("test", "rules", *(str(path) for path in sorted((DEPLOY / "tests").glob("*.yml"))))


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_is_tested_and_explained(alert: Any) -> None:
    tests = "".join(path.read_text() for path in (DEPLOY / "tests").glob("*.yml"))
    assert re.search(rf"\b{alert['alert']}\b", tests)
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert set(alert["annotations"]) == {"summary", "description"}
    runbook = (Path(__file__).parents[2] / "docs" / "operation.md").read_text()
    assert re.search(rf"^#### {alert['alert']}$", runbook, re.M), (
        f"docs/operation.md does not say what {alert['alert']} means"
    )


def test_every_alert_that_is_explained_is_there() -> None:
    runbook = (Path(__file__).parents[2] / "docs" / "operation.md").read_text()
    assert set(re.findall(r"^#### (.*)$", runbook, re.M)) == {rule["alert"] for rule in ALERTS}


def test_no_query_hides_that_there_is_nothing() -> None:
    for rule in RULES:
        assert not re.search(r"vector\s*\(|\bor\s+on\b|absent_over_time", rule["expr"]), rule
