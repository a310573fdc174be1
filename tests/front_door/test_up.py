"""`dihedral up` as real processes: ready means ready, what dies comes back, the end is in order, every refusal is one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from dihedral.data_plane.process_groups import members
from tests.front_door.running import COMMAND, SECONDS, dihedral, environment, one_line, up
from tests.support.polling import becomes

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes through /proc")


def ask(url: str, body: Any = None) -> Any:
    request = urllib.request.Request(url, None if body is None else json.dumps(body).encode())
    if body is not None:
        request.add_header("content-type", "application/json")
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        return json.loads(answer.read())


def chain(*steps: int) -> dict[str, Any]:
    """A graph of simulate nodes one after another, each with so many steps of 50 ms."""
    nodes = [
        {"id": f"n{number}", "task": "simulate", "plane": "python", "params": {"steps": count, "stepSeconds": 0.05}}
        for number, count in enumerate(steps)
    ]
    edges = [{"from": f"n{number}", "to": f"n{number + 1}"} for number in range(len(steps) - 1)]
    return {"graph": {"schema": "langgraph.v1", "workflowId": "chain", "nodes": nodes, "edges": edges}}


def node_events(url: str, status: str) -> list[str]:
    return [
        event["nodeId"]
        for event in ask(f"{url}/api/jobs/chain/events")["events"]
        if event["type"] == "node" and event["status"] == status
    ]


@linux_only
def test_urls_are_printed_when_jobs_can_run_and_the_end_leaves_nothing(tmp_path: Path) -> None:
    with up(tmp_path, "--workers", "2", "--slots", "1") as running:
        assert [worker["slots"] for worker in running.document["workers"]] == [1, 1]
        assert ask(f"{running.url}/health/ready")["status"] == "ok"
        assert running.document["dataDir"] == str(tmp_path / "dihedral-data")
        pids = running.children()
        assert len(pids) >= 4, "server, control plane, two workers"
        assert running.stop() == 0
        assert "stopping" in running.said()
    assert not any(members(pid) for pid in pids)


def test_a_killed_worker_control_plane_and_server_come_back_and_the_job_ends(tmp_path: Path) -> None:
    """The lease is longer than the test waits: what the worker ran is taken over because its death was seen."""
    with up(tmp_path, DIHEDRAL_JOBS__LEASE_MS="120000") as running:
        ask(f"{running.url}/api/jobs", chain(1, 20, 1))
        becomes(lambda: "n1" in node_events(running.url, "running"))
        (worker,) = running.worker_pids()
        os.kill(worker, signal.SIGKILL)
        becomes(lambda: "worker-1 was killed by SIGKILL; starting it again" in running.said())
        becomes(lambda: ask(f"{running.url}/api/jobs/chain")["status"] == "completed")
        assert sorted(set(node_events(running.url, "completed"))) == ["n0", "n1", "n2"]

        (server,) = [pid for pid in running.children() if b"redis.sock" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(server, signal.SIGKILL)
        becomes(lambda: "the server is gone; starting it again" in running.said())
        (control,) = [
            pid for pid in running.children() if b"control_plane" in Path(f"/proc/{pid}/cmdline").read_bytes()
        ]
        os.kill(control, signal.SIGKILL)
        becomes(lambda: "control was killed by SIGKILL; starting it again" in running.said())

        def answers() -> bool:
            try:
                return bool(ask(f"{running.url}/api/jobs/chain")["status"] == "completed")
            except OSError:
                return False

        becomes(answers)


@linux_only
def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    with up(tmp_path) as running:
        pids = running.children()
        running.process.kill()
        running.process.wait()
        becomes(lambda: not any(members(pid) for pid in pids))


def test_settings_of_the_file_hold_against_the_defaults_of_up(tmp_path: Path) -> None:
    (tmp_path / "dihedral.toml").write_text("[artifacts]\ndirectory = 'elsewhere'\n")
    with up(tmp_path):
        becomes(lambda: (tmp_path / "elsewhere" / "inputs" / "examples" / "recording.wav").exists())


def test_an_interrupt_while_heavy_nodes_run_stops_in_order(tmp_path: Path) -> None:
    # The worker's take once went on after its cancel was lost, and the drain never ended.
    with up(tmp_path) as running:
        becomes(lambda: (tmp_path / "dihedral-data/artifacts/inputs/examples/recording.wav").exists())
        job = ask(f"{running.url}/api/train", {"prompt": "a test"})
        assert job["pipeline"] == "talking_picture"
        assert running.stop() == 0
        assert "killed" not in running.said()


def test_a_busy_port_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = one_line(dihedral("up", "--port", str(port), cwd=tmp_path, code=3).stderr)
    assert said == f"dihedral: 127.0.0.1:{port} cannot be listened on: Address already in use"


def test_a_data_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said = one_line(dihedral("up", "--data-dir", "file/data", cwd=tmp_path, code=3).stderr)
    assert said == f"dihedral: the data directory {tmp_path}/file/data cannot be used: Not a directory"


def test_a_redis_that_does_not_answer_is_one_line_without_its_password(tmp_path: Path) -> None:
    said = one_line(
        dihedral("up", "--port", "0", "--redis-url", "redis://me:hunter2@127.0.0.1:1/0", cwd=tmp_path, code=4).stderr
    )
    assert re.match(r"dihedral: the Redis at redis://me:\*\*\*@127\.0\.0\.1:1/0 cannot be reached: ", said)
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("arguments", "file", "code", "said"),
    [
        ((), "[jobs]\nlease = 1\n", 2, "dihedral: dihedral.toml: jobs.lease: there is no such setting"),
        (
            ("--redis-url", "http://x"),
            "",
            2,
            "dihedral: --redis-url: redis.url: Expected an address that begins with one of ",
        ),
        (("--tasks", "no_such_module"), "", 3, "no_such_module"),
    ],
)
def test_a_wrong_setting_ends_the_start_with_its_reason(
    tmp_path: Path, arguments: tuple[str, ...], file: str, code: int, said: str
) -> None:
    if file:
        (tmp_path / "dihedral.toml").write_text(file)
    assert said in one_line(dihedral("up", "--port", "0", *arguments, cwd=tmp_path, code=code).stderr)


def test_a_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    with up(tmp_path, DIHEDRAL_JOBS__DRAIN_SECONDS="600") as running:
        ask(f"{running.url}/api/jobs", chain(10_000))
        becomes(lambda: "n0" in node_events(running.url, "running"))
        running.process.send_signal(signal.SIGINT)
        becomes(lambda: "stopping" in running.said())
        assert running.stop() == 0


def test_an_interrupt_before_it_is_ready_stops_it(tmp_path: Path) -> None:
    with (tmp_path / "said").open("w") as stderr:
        process = subprocess.Popen(
            [*COMMAND, "up", "--port", "0"], cwd=tmp_path, stdout=stderr, stderr=stderr, env=environment()
        )
        becomes((tmp_path / "dihedral-data" / "logs" / "server.log").exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(SECONDS) == 0, (tmp_path / "said").read_text()


@linux_only
def test_it_answers_within_half_a_second_of_its_start(tmp_path: Path) -> None:
    """Measured as processor time, which other processes of this machine do not lengthen."""
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, env=environment()
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Dihedral starts in dihedral-data")
        ticks = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        assert sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK") < 0.5
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=SECONDS)


TASK = """
from msgspec import Struct

from dihedral import TaskContext, task


class Params(Struct):
    {params}


class Output(Struct):
    said: str


@task(label="Greet", description="Greets.")
def greet(params: Params, ctx: TaskContext) -> Output:
    return Output(said={said})
"""


def test_a_changed_task_or_pipeline_is_loaded_again_and_a_mistake_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "greet.py").write_text(TASK.format(params="name: str", said="'old ' + params.name"))
    (tmp_path / "mine").mkdir()
    pipeline = {
        "id": "greeting", "label": "Greeting", "description": "Greets.", "params": {"type": "object", "properties": {}},
        "graph": {"schema": "langgraph.v1", "nodes": [{"id": "a", "task": "greet", "plane": "python", "params": {"name": "b"}}], "edges": []},
    }  # fmt: skip

    def said(**params: str) -> str:
        job = ask(f"{running.url}/api/jobs", {"task": "greet", "params": params})
        path = f"{running.url}/api/jobs/{job['jobId']}"
        becomes(lambda: ask(path)["status"] == "completed")
        return str(ask(f"{path}/graph")["nodes"][0]["output"]["said"])

    with up(tmp_path, "--tasks", "greet", "--pipelines", "mine", "--reload") as running:
        assert said(name="a") == "old a"
        ask(f"{running.url}/api/jobs", chain(40))  # runs over the change, and is finished or given to the new worker
        becomes(lambda: "n0" in node_events(running.url, "running"))
        before = running.worker_pids()

        (tmp_path / "greet.py").write_text("import msgspec\nmsgspec.nothing\n")
        becomes(lambda: "not reloaded, what ran goes on: " in running.said())
        assert f"AttributeError: module 'msgspec' has no attribute 'nothing' ({tmp_path}/greet.py, line 2)" in running.said()  # fmt: skip
        assert {each["pid"] for each in ask(f"{running.url}/api/workers")["workers"] if each["plane"] == "python"} == before  # fmt: skip

        (tmp_path / "greet.py").write_text(
            TASK.format(params="name: str\n    more: str", said="'new ' + params.name + params.more")
        )
        becomes(lambda: "dihedral up: reloaded\n" in running.said())
        assert said(name="a", more="b") == "new ab"
        becomes(lambda: ask(f"{running.url}/api/jobs/chain")["status"] == "completed")

        (tmp_path / "mine" / "greeting.json").write_text(json.dumps(pipeline))
        becomes(lambda: running.said().count("dihedral up: reloaded\n") == 2)
        assert "greeting" in [each["id"] for each in ask(f"{running.url}/api/pipelines")["pipelines"]]
        assert running.stop() == 0


def test_there_must_be_something_to_load_again(tmp_path: Path) -> None:
    said = one_line(dihedral("up", "--port", "0", "--reload", cwd=tmp_path, code=2).stderr)
    assert said == "dihedral: --reload watches the modules of --tasks and the folder of --pipelines, and there are none"
