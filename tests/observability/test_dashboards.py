"""The dashboards against a real Prometheus, the whole system and a load: every panel shows something, and what it shows is true."""

import contextlib
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.observability.load import BACKLOG, Load
from tests.observability.monitored import EXPORTERS, GRAFANA, running_stack
from tests.observability.prometheus import EXPOSITIONS, RULES, Prometheus
from tests.support.polling import at_this_load, becomes
from tests.support.servers import skip

DASHBOARDS = {path.stem: json.loads(path.read_text()) for path in sorted((GRAFANA / "dashboards").glob("*.json"))}
RATE_SECONDS = 300
"""What `$__rate_interval` stands for here."""
ONLY_WITH_A_GPU = 'device=~"gpu.*"'


def panels() -> list[tuple[str, dict[str, Any]]]:
    return [(name, panel) for name, board in DASHBOARDS.items() for panel in board["panels"] if panel.get("targets")]


def expressions(panel: dict[str, Any]) -> list[str]:
    return [target["expr"].replace("$__rate_interval", f"{RATE_SECONDS}s") for target in panel["targets"]]


def test_the_dashboards_are_what_the_description_says() -> None:
    done = subprocess.run([sys.executable, str(GRAFANA / "dashboards.py"), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_dashboard_that_was_edited_by_hand_is_found(tmp_path: Path) -> None:
    shutil.copytree(GRAFANA, tmp_path / "grafana")
    path = tmp_path / "grafana" / "dashboards" / "jobs.json"
    path.write_text(path.read_text().replace("Nodes", "Knots"))
    done = subprocess.run(
        [sys.executable, str(tmp_path / "grafana" / "dashboards.py"), "--check"], capture_output=True, text=True
    )
    assert (done.returncode, "jobs.json" in done.stderr) == (1, True)


def test_every_exposition_says_whether_it_was_recorded_or_written_and_from_what() -> None:
    readme = (EXPOSITIONS / "README.md").read_text()
    files = set(re.findall(r"^\| `(\w+)\.prom` \| (?:recorded|written by hand) \| \S", readme, re.M))
    assert files == {path.stem for path in EXPOSITIONS.glob("*.prom")} == set(EXPORTERS.values())


def test_panels_fit_and_hide_nothing() -> None:
    assert set(DASHBOARDS) == {"overview", "jobs", "workers", "queues", "websockets", "artifacts", "http"}
    for name, board in DASHBOARDS.items():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
            assert at["x"] + at["w"] <= 24
            assert not cells & taken, (name, panel["title"])
            taken |= cells
            for target in panel.get("targets", []):
                assert not re.search(r"vector\s*\(|\bor\b", target["expr"]), (name, panel["title"])


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    for binary in ("prometheus", "prometheus-redis-exporter"):
        if shutil.which(binary) is None:
            skip("prometheus", f"there is no {binary} on this machine")
    with running_stack(tmp_path_factory.mktemp("stack")) as (prometheus, load):
        load.run(seconds=at_this_load(5))  # as many scrapes as ever
        yield prometheus, load


def test_every_panel_shows_something_and_what_it_shows_is_true(stack: Any) -> None:
    prometheus, load = stack
    wrong = settled(lambda: [line for name, panel in panels() for line in problems(prometheus, name, panel)], [])
    assert not wrong, "\n".join(wrong)
    agree(prometheus, load)


def settled(look: Callable[[], Any], expected: Any) -> Any:
    """What is expected, or what was seen last: two scrapes and a round of the rules are behind what happens."""
    with contextlib.suppress(AssertionError):
        becomes(lambda: look() == expected, 20)
    return look()


def problems(prometheus: Prometheus, name: str, panel: dict[str, Any]) -> list[str]:
    there = exported(prometheus)
    found = []
    for expression in expressions(panel):
        for metric in named(expression):
            if metric not in there:
                found.append(f"{name}: {panel['title']}: nobody exports {metric}")
        values = [float(each["value"][1]) for each in prometheus.query(expression)]
        if not any(map(math.isfinite, values)):
            found.append(f"{name}: {panel['title']}: {expression} shows nothing")
    return found


def shows_something(prometheus: Prometheus, expression: str) -> bool:
    return bool(prometheus.query(expression))


def exported(prometheus: Prometheus) -> set[str]:
    return set(prometheus.http.get("/api/v1/label/__name__/values").json()["data"])


def named(expression: str) -> set[str]:
    """The metrics that a query names."""
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^\]]*\]|\b(?:by|without|on|ignoring|group_left)\s*\([^)]*\)', " ", expression)
    words = re.findall(r"[A-Za-z_:][A-Za-z0-9_:]*(?!\w*\s*\()", bare)
    return {word for word in words if word not in {"by", "and", "or", "unless"}}


def test_metrics_are_found_in_queries() -> None:
    query = 'histogram_quantile(0.9, sum by (le, a) (rate(b_bucket{c="d"}[5m]))) / (max(e:f) > 0)'
    assert named(query) == {"b_bucket", "e:f"}


def agree(prometheus: Prometheus, load: Load) -> None:
    """One panel of each dashboard with the load's own ledger."""
    ended = {
        status: sum(n for (s, _), n in load.ended.items() if s == status)
        for status in ("completed", "failed", "cancelled")
    }
    shows(prometheus, "overview", "Jobs ended, ever", ("status",), ended)
    pipelines = {key: n for key, n in load.ended.items() if n}
    shows(prometheus, "jobs", "Ended since the start, by pipeline", ("status", "pipeline"), pipelines)
    shows(prometheus, "jobs", "Run since the start, by task", ("type",), dict(load.ran))
    shows(
        prometheus, "workers", "Workers, by pool", ("plane", "pool"), {("python", "default"): 1, ("node", "default"): 1}
    )
    shows(prometheus, "queues", "Waiting entries, by pool", ("plane", "pool"), {("python", "a100"): BACKLOG})
    shows(prometheus, "websockets", "Messages sent since the start", ("nothing",), {"": load.messages})
    shows(prometheus, "artifacts", "Bytes since the start", ("operation", "bucket"), dict(load.stored))
    requests = {("POST", "/api/jobs", status): n for status, n in load.posted.items()}
    shows(prometheus, "http", "Requests since the start", ("method", "route", "status"), requests)
    (share,) = prometheus.values(expressions(titled("http", "Share answered with 5xx (5 min)"))[0]).values()
    assert 0 < share < 0.5


def titled(name: str, title: str) -> dict[str, Any]:
    return next(panel for board, panel in panels() if (board, panel["title"]) == (name, title))


def shows(
    prometheus: Prometheus, name: str, title: str, labels: tuple[str, ...], expected: Mapping[Any, float]
) -> None:
    def shown() -> Mapping[Any, float]:
        found = prometheus.values(expressions(titled(name, title))[0], *labels)
        return {key: n for key, n in found.items() if n and (name != "http" or key[:2] == ("POST", "/api/jobs"))}

    assert settled(shown, expected) == expected, title


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.get("alert") or rule["record"])
def test_a_rule_looks_at_series_that_are_there(stack: Any, rule: Any) -> None:
    """promtool's series are made up: an alert on a metric or label value that nobody exports would pass there and never come."""
    prometheus, _ = stack
    assert settled(lambda: named(rule["expr"]) - exported(prometheus), set()) == set()
    for selector in re.findall(r"\w+\{[^}]*\}", rule["expr"]):
        is_there = partial(shows_something, prometheus, f"count({selector})")
        assert ONLY_WITH_A_GPU in selector or settled(is_there, True), selector
    if "record" in rule:
        assert settled(partial(shows_something, prometheus, rule["record"]), True)


def test_what_is_wrong_is_about_to_wake_somebody(stack: Any) -> None:
    """Entries wait for a pool whose worker has gone: the alert counts its two minutes."""
    prometheus, _ = stack
    becomes(
        lambda: prometheus.values('ALERTS{alertstate="pending"}', "alertname", "pool").get(("NoWorkerForPool", "a100"))
    )
