"""What a newcomer does: `up`, a second `up` that goes on with the first one's jobs. The demo is run from the wheel: house_rules/test_wheel.py."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dihedral.client import Client
from tests.support.polling import becomes
from tests.support.servers import processes_of
from tests.support.stack import simulate

DIHEDRAL = str(Path(sys.executable).with_name("dihedral"))


def run(*arguments: Any, cwd: Any, **options: Any) -> Any:
    return subprocess.run([DIHEDRAL, *arguments], cwd=cwd, capture_output=True, text=True, timeout=240, **options)


class Up:
    def __init__(self, directory: Any, *arguments: Any, **environ: Any) -> None:
        self.process = subprocess.Popen(
            [DIHEDRAL, "up", "--port", "0", "--data-dir", str(directory), "--json", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | environ,
        )
        assert self.process.stdout is not None
        self.url = json.loads(self.process.stdout.readline())["url"]

    def stop(self, number: Any = signal.SIGINT) -> Any:
        self.process.send_signal(number)
        _, self.stderr = self.process.communicate(timeout=240)
        return self.process.returncode


def test_a_second_up_goes_on_with_the_jobs_of_the_first(tmp_path: Path) -> None:
    first = Up(tmp_path, DIHEDRAL_JOBS__DRAIN_SECONDS="0")
    taken = run("up", "--port", "0", "--data-dir", str(tmp_path), cwd=tmp_path)
    assert taken.returncode == 3
    assert len(taken.stderr.strip().splitlines()) == 1
    assert str(first.process.pid) in taken.stderr
    with Client(first.url) as client:
        job = client.submit(**simulate({"id": "a"}, {"id": "b", "steps": 60, "stepSeconds": 0.1}, edges=[("a", "b")]))[
            "jobId"
        ]
        becomes(
            lambda: {n["id"]: n["status"] for n in client.graph(job)["nodes"]} == {"a": "completed", "b": "running"}
        )
    first.process.send_signal(signal.SIGINT)
    first.process.communicate(timeout=240)
    assert processes_of(tmp_path) == []
    second = Up(tmp_path)
    with Client(second.url) as client:
        becomes(lambda: client.job(job)["status"] == "completed", 40)
        begun = [e["nodeId"] for e in client.events(job)["events"] if e["type"] == "node" and e["status"] == "running"]
    assert begun == ["a", "b", "b"]
    assert second.stop() == 0
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["up", "--redis-url", "redis://127.0.0.1:1/0", "--port", "0"], 4, "127.0.0.1:1"),
        (["up", "--data-dir", "/dev/null/x", "--port", "0"], 3, "/dev/null/x"),
        (["jobs", "--url", "http://127.0.0.1:1"], 4, "127.0.0.1:1"),
        (["submit"], 2, "FILE"),
        (["submit", "nope.json", "--url", "http://127.0.0.1:1"], 2, "nope.json"),
    ],
)
def test_a_refusal_is_one_line_with_its_own_exit_code(tmp_path: Path, arguments: Any, code: Any, words: Any) -> None:
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_help_and_version(tmp_path: Path) -> None:
    assert "demo" in run("--help", cwd=tmp_path).stdout
    assert run("--version", cwd=tmp_path).stdout.startswith("dihedral ")


@pytest.mark.parametrize("light", [False, True])
def test_a_new_task_is_written_with_a_test_that_passes(tmp_path: Path, light: Any) -> None:
    assert run("new-task", "count_words", *(["--light"] if light else []), cwd=tmp_path).returncode == 0
    assert run("new-task", "count_words", cwd=tmp_path).returncode == 3
    assert ("async def" in (tmp_path / "count_words.py").read_text()) is light
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


def test_a_task_of_ones_own_runs_by_name(tmp_path: Path) -> None:
    run("new-task", "count_words", cwd=tmp_path)
    up = subprocess.Popen(
        [DIHEDRAL, "up", "--port", "0", "--json", "--tasks", "count_words"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert up.stdout is not None
    url = json.loads(up.stdout.readline())["url"]
    graph: dict[str, Any] = {
        "schema": "langgraph.v1",
        "nodes": [{"id": "n", "task": "count_words", "plane": "python", "params": {"text": "a b c"}}],
        "edges": [],
    }
    (tmp_path / "job.json").write_text(json.dumps(graph))
    done = run("submit", "job.json", "--watch", "--url", url, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "n completed" in done.stdout
    listed = json.loads(run("jobs", "--json", "--url", url, cwd=tmp_path).stdout)
    shown = run("show", listed["jobs"][0]["jobId"], "--url", url, cwd=tmp_path)
    assert "count_words" in shown.stdout
    graph["nodes"][0]["params"] = {"txt": 1}
    (tmp_path / "bad.json").write_text(json.dumps(graph))
    refused = run("plan", "bad.json", "--url", url, cwd=tmp_path)
    assert refused.returncode == 3
    assert "/graph/nodes/0/params/txt" in refused.stderr
    up.send_signal(signal.SIGTERM)
    up.communicate(timeout=240)
    assert up.returncode == 0
