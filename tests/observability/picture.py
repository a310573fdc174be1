"""A picture of a dashboard: `python -m tests.observability.picture NAME OUT.png [SECONDS]`, by hand; needs matplotlib, which nothing else does.

No Grafana can be had where this runs. So the panels of deploy/grafana/dashboards/NAME.json are plotted at their places in the grid, with the
same queries, asked of a real Prometheus over the time of a load.
"""

import json
import math
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter

from tests.observability.monitored import GRAFANA, running_stack
from tests.observability.prometheus import Prometheus

BACK, PANEL, TEXT, DIM = "#111217", "#181b1f", "#ccccdc", "#8e8ea0"
COLOURS = ["#73bf69", "#f2cc0c", "#5794f2", "#ff9830", "#f2495c", "#b877d9", "#8ab8ff", "#ffa6b0"]
RATE = "10s"


def value(number: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{number:.0%}"
    if unit == "s":
        return f"{number * 1000:.3g} ms" if 0 < number < 1 else f"{number:.3g} s"
    suffix = {"ops": "/s", "reqps": "/s", "bytes": " B", "Bps": " B/s"}.get(unit, "")
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}{suffix.strip()}"
    return f"{number:.3g}{suffix}"


def legend(text: str, metric: dict[str, str]) -> str:
    for name, label in metric.items():
        text = text.replace("{{" + name + "}}", label)
    return text if text != "__auto" else " ".join(metric.values())


def plot(prometheus: Prometheus, board: dict[str, Any], begun: float, out: Path) -> None:
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    figure = plt.figure(figsize=(16, height * 0.42), facecolor=BACK)
    for panel in board["panels"]:
        at = panel["gridPos"]
        box = [
            at["x"] / 24 + 0.004,
            1 - (at["y"] + at["h"]) / height + 0.006,
            at["w"] / 24 - 0.008,
            at["h"] / height - 0.012,
        ]
        if panel["type"] == "row":
            figure.text(box[0], box[1], panel["title"], color=TEXT, fontsize=11, weight="bold")
            continue
        frame = figure.add_axes(box, facecolor=PANEL)
        frame.set_xticks([])
        frame.set_yticks([])
        for spine in frame.spines.values():
            spine.set_color("#2c3235")
        frame.text(
            0.02, 1 - 0.35 / at["h"], panel["title"], color=TEXT, fontsize=9, va="top", transform=frame.transAxes
        )
        unit = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        if panel["type"] == "timeseries":
            inner = figure.add_axes(
                [box[0] + 0.035, box[1] + box[3] * 0.24, box[2] - 0.045, box[3] * 0.58], facecolor=PANEL
            )
            draw(prometheus, panel, inner, unit, begun)
        else:
            rows = instant(prometheus, panel)
            if panel["type"] == "stat":
                frame.text(
                    0.5,
                    0.4,
                    value(rows[0][1], unit),
                    color=COLOURS[0],
                    fontsize=24,
                    ha="center",
                    va="center",
                    transform=frame.transAxes,
                )
            for index, (name, number) in enumerate(rows if panel["type"] == "table" else []):
                y = 0.76 - index * 0.11
                frame.text(0.03, y, name, color=TEXT, fontsize=9, transform=frame.transAxes)
                frame.text(0.97, y, value(number, unit), color=TEXT, fontsize=9, ha="right", transform=frame.transAxes)
            if panel["type"] == "alertlist":
                alerts = prometheus.query("ALERTS")
                for index, alert in enumerate(alerts or [{"metric": {"alertname": "none", "alertstate": ""}}]):
                    labels = alert["metric"]
                    text = f"{labels['alertstate']:8} {labels['alertname']} {labels.get('pool', '')}"
                    frame.text(0.03, 0.76 - index * 0.11, text, color=COLOURS[3], fontsize=9, transform=frame.transAxes)
    figure.savefig(out, dpi=80, facecolor=BACK)


def instant(prometheus: Prometheus, panel: dict[str, Any]) -> list[tuple[str, float]]:
    found = []
    for target in panel.get("targets", []):
        for each in prometheus.query(target["expr"].replace("$__rate_interval", RATE)):
            found.append((legend(target["legendFormat"], each["metric"]), float(each["value"][1])))
    return found


def draw(prometheus: Prometheus, panel: dict[str, Any], axes: Any, unit: str, begun: float) -> None:
    lines: list[tuple[str, list[float], list[float]]] = []
    for target in panel["targets"]:
        query = {
            "query": target["expr"].replace("$__rate_interval", RATE),
            "start": begun,
            "end": time.time(),
            "step": 1,
        }
        for each in prometheus.http.get("/api/v1/query_range", params=query).json()["data"]["result"]:
            times = [float(at) - begun for at, _ in each["values"]]
            numbers = [float(v) for _, v in each["values"]]
            if any(map(math.isfinite, numbers)):
                lines.append((legend(target["legendFormat"], each["metric"]), times, numbers))
    if panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal" and lines:
        grid = sorted({at for _, times, _ in lines for at in times})
        below = [0.0] * len(grid)
        for index, (name, times, numbers) in enumerate(lines):
            known = dict(zip(times, numbers, strict=True))
            top = [under + known.get(at, 0.0) for under, at in zip(below, grid, strict=True)]
            axes.fill_between(grid, below, top, color=COLOURS[index % 8], alpha=0.35, linewidth=0)
            axes.plot(grid, top, color=COLOURS[index % 8], linewidth=1, label=name)
            below = top
    else:
        for index, (name, times, numbers) in enumerate(lines):
            axes.plot(times, numbers, color=COLOURS[index % 8], linewidth=1, label=name)
    axes.set_ylim(bottom=0)
    axes.tick_params(colors=DIM, labelsize=7, length=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: value(number, unit)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.0f} s"))
    axes.grid(color="#2c3235", linewidth=0.5)
    for spine in axes.spines.values():
        spine.set_visible(False)
    if lines:
        axes.legend(
            fontsize=7,
            labelcolor=DIM,
            frameon=False,
            ncol=4,
            loc="upper left",
            bbox_to_anchor=(-0.12, -0.16),
            borderaxespad=0,
            handlelength=1,
        )


def main() -> None:
    name, out = sys.argv[1], Path(sys.argv[2])
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 60
    with tempfile.TemporaryDirectory() as directory, running_stack(Path(directory)) as (prometheus, load):
        begun = time.time()
        load.run(seconds)
        plot(prometheus, json.loads((GRAFANA / "dashboards" / f"{name}.json").read_text()), begun, out)


if __name__ == "__main__":
    main()
