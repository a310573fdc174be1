"""The examples and the code on the pages of docs/ run as they stand there."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral import Client
from dihedral.bridge import settings
from dihedral.bridge.tasks.registry import collect
from tests.front_door.running import SECONDS, Up, dihedral, environment, up
from tests.support.stack import Stack

ROOT = Path(__file__).parents[2]
ADDRESS = "http://127.0.0.1:8000"


def blocks(page: str, language: str) -> list[str]:
    """What stands in the fences of this language."""
    text = (ROOT / page).read_text()
    found = re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert found, f"{page} has no {language}"
    return found


def pytest_passes(*arguments: str | Path, cwd: Path, **environ: str) -> str:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, env=environment(**environ), timeout=6 * SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# Pages ----------------------------------------------------------------------------------------------------------------


def test_the_tasks_of_the_page_are_tasks_and_their_tests_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = "".join(blocks("docs/write_a_task.md", "python"))
    (tmp_path / "test_page.py").write_text(page)
    assert f"{page.count('def test_')} passed" in pytest_passes("test_page.py", cwd=tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        assert len(collect(["test_page"], plugins=False)) == page.count("@task")
    finally:
        sys.modules.pop("test_page", None)


@pytest.fixture(scope="module")
def pipelines() -> list[dict[str, Any]]:
    return [json.loads(block) for block in blocks("docs/write_a_pipeline.md", "json")]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, pipelines: list[dict[str, Any]]) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("pages")
    (folder / "pipelines").mkdir()
    for document in pipelines:
        if "id" in document:
            (folder / "pipelines" / f"{document['id']}.json").write_text(json.dumps(document))
    with up(folder, "--slots", "0", DIHEDRAL_PIPELINES__DIR=str(folder / "pipelines")) as running:
        yield running


def test_the_graphs_of_the_page_run(house: Up, pipelines: list[dict[str, Any]]) -> None:
    graphs = [document for document in pipelines if "nodes" in document]
    with Client(house.url) as client:
        for graph in graphs:
            job = client.submit(graph=graph)["jobId"]
            assert list(client.watch(job))
            assert client.job(job)["status"] == "completed"
        statuses = {node["id"]: node["status"] for node in client.graph(job)["nodes"]}
    assert statuses == {"risky": "failed", "fine": "skipped", "mend": "completed", "after": "completed"}


def test_the_graph_of_the_readme_runs(house: Up, tmp_path: Path) -> None:
    (graph,) = blocks("README.md", "json")
    (tmp_path / "graph.json").write_text(graph)
    assert "job completed" in dihedral("submit", "graph.json", "--watch", "--url", house.url, cwd=tmp_path).stdout


def test_the_submission_of_the_page_is_accepted(house: Up, pipelines: list[dict[str, Any]]) -> None:
    (submission,) = [document for document in pipelines if "pipeline" in document]
    with Client(house.url) as client:
        assert client.plan(submission)["nodes"]


def test_the_pipeline_of_the_page_runs_by_its_command(house: Up, tmp_path: Path) -> None:
    (line,) = re.findall(r"^    dihedral (.*)$", (ROOT / "docs/write_a_pipeline.md").read_text(), re.MULTILINE)
    assert "job completed" in dihedral(*line.split(), "--url", house.url, cwd=tmp_path).stdout


def test_a_job_is_watched_as_the_page_says(house: Up, tmp_path: Path) -> None:
    """In the order of the page, which submits the job first."""
    text = (ROOT / "docs/watch_a_job.md").read_text().replace(ADDRESS, house.url)
    text = text.replace(ADDRESS.replace("http", "ws"), house.url.replace("http", "ws"))
    found = re.findall(r"^```(sh|python)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    said = []
    for language, block in found:
        command = ["bash", "-euc", block] if language == "sh" else [sys.executable, "-c", block]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SECONDS, env=environment())
        assert done.returncode == 0, block + done.stderr
        said.append(done.stdout)
    submitted, python, rest, events, socket = said
    assert json.loads(submitted)["jobId"] == "watched"
    assert python.splitlines()[-1].startswith("completed")
    assert rest.count('"jobId":"watched"') >= 2
    assert "event: " in events or "data: " in events
    assert socket == "" or "node" in socket


# Examples -------------------------------------------------------------------------------------------------------------


def test_a_plugin_is_found_by_its_entry_points_and_its_own_test_passes(tmp_path: Path) -> None:
    source, home = tmp_path / "plugin", tmp_path / "home"
    shutil.copytree(
        ROOT / "examples/plugin", source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info")
    )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--no-build-isolation", "--target", home, source], check=True, timeout=2 * SECONDS)
    path = os.pathsep.join(filter(None, [str(home), os.environ.get("PYTHONPATH", "")]))
    assert "2 passed" in pytest_passes("tests", cwd=source, PYTHONPATH=path)
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("some words")
    (line,) = re.findall(r"^    dihedral (submit .*)$", (ROOT / "examples/plugin/README.md").read_text(), re.MULTILINE)
    with up(tmp_path, "--slots", "1", PYTHONPATH=path) as running:
        done = dihedral(*line.split(), "--url", running.url, cwd=tmp_path, PYTHONPATH=path)
        assert "artifact tables/" in done.stdout
        with Client(running.url) as client:
            (node,) = client.graph(client.jobs()["jobs"][0]["jobId"])["nodes"]
    assert node["output"]["words"] == [2, 2]


def test_a_worker_started_by_itself_with_the_settings_of_the_example_takes_jobs(tmp_path: Path) -> None:
    config = ROOT / "examples/second_machine/dihedral.toml"
    assert settings.load(config, {}, {}).artifacts.endpoint == "https://s3.example:9000"
    stack = Stack(tmp_path, DIHEDRAL_ARTIFACTS__STORE="local")
    try:
        stack.worker("--config", str(config), "--slots", "1")
        dihedral("submit", "--pipeline", "simulate", "--watch", "--url", stack.url, cwd=tmp_path)
    finally:
        stack.close()
