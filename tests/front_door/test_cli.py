"""The command line against a running house: what is printed, as lines and as JSON, and the exit codes that scripts rely on."""

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import dihedral as dihedral_package
from dihedral.cli import _parser
from dihedral.render import waits
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind
from dihedral.up import _devices, note_store
from tests.front_door.running import COMMAND, SECONDS, Up, dihedral, environment, one_line, up
from tests.support import lethal
from tests.support.polling import becomes


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("house")
    examples = Path(dihedral_package.__file__).parent / "examples"
    more = {"DIHEDRAL_JOBS__MAX_DELIVERIES": "1", "DIHEDRAL_MODELS__ROOTS": str(examples)}
    with up(folder, "--slots", "1", "--tasks", lethal.module_in(folder), **more) as running:
        yield running


class Shell:
    """Commands in one directory, which find the house by DIHEDRAL_URL."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self.environ = {"DIHEDRAL_URL": url}

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        return dihedral(*arguments, cwd=self.directory, code=code, **self.environ)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--json", code=code).stdout)

    def write(self, name: str, document: Any) -> str:
        (self.directory / name).write_text(json.dumps(document))
        return name

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*COMMAND, *arguments], cwd=self.directory, text=True, env=environment(**self.environ),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip


@pytest.fixture
def shell(house: Up, tmp_path: Path) -> Shell:
    return Shell(tmp_path, house.url)


def graph(**params: Any) -> dict[str, Any]:
    node = {"id": "only", "task": "simulate", "plane": "python", "params": params}
    return {"schema": "langgraph.v1", "nodes": [node], "edges": []}


SIMULATE = ("submit", "--pipeline", "simulate", "--watch")
SLOW = ("submit", "--pipeline", "simulate", "--param", "steps=100000", "--param", "stepSeconds=0.05")


def test_help_imports_nothing_that_takes_its_time() -> None:
    program = (
        "import sys; sys.argv = ['dihedral', '--help']\n"
        "from dihedral.cli import main\n"
        "try: main()\n"
        "except SystemExit: print(sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    slow = {"asyncio", "httpx", "langgraph", "litestar", "msgspec", "numpy", "redis", "rich", "uvicorn", "websockets"}
    assert not slow & set(json.loads(done.stdout.splitlines()[-1].replace("'", '"')))


@pytest.mark.parametrize("plane", ["control", "worker"])
def test_a_plane_alone_takes_options_of_its_own(plane: str, tmp_path: Path) -> None:
    assert "--redis-url" in dihedral(plane, "--help", cwd=tmp_path).stdout
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert port in one_line(dihedral(plane, "--port", port, cwd=tmp_path, code=3).stderr)


def test_a_job_that_completes_exits_with_0_and_is_told_in_lines(shell: Shell) -> None:
    lines = shell(*SIMULATE, "--param", "steps=2").stdout.splitlines()
    assert "job running" in lines
    assert any("simulate running" in line for line in lines)
    assert any("simulate completed" in line for line in lines)
    assert "job completed" in lines


def test_a_job_that_fails_exits_with_1_and_says_why(shell: Shell) -> None:
    done = shell(*SIMULATE, "--param", "failAt=0", code=1)
    why, *_, remedy = done.stderr.splitlines()
    assert why == "dihedral: simulate: asked to fail at step 0 (simulated_failure)"
    assert remedy.startswith("change a param: dihedral again ")


def test_a_job_that_is_cancelled_exits_with_5(shell: Shell) -> None:
    job = shell.json(*SLOW)["jobId"]
    watching = shell.begin("watch", job)
    assert shell.json("cancel", job)["status"] in ("cancelling", "cancelled")
    watching.communicate(timeout=SECONDS)
    assert watching.returncode == 5


def test_an_interrupted_watch_detaches_and_says_how_to_come_back(shell: Shell) -> None:
    watching = shell.begin(*SLOW, "--watch")
    assert watching.stdout is not None
    becomes(lambda: watching.stdout and "simulate running" in watching.stdout.readline())
    watching.send_signal(signal.SIGINT)
    _, said = watching.communicate(timeout=SECONDS)
    assert watching.returncode == 130
    job = said.strip().rpartition("dihedral watch ")[2]
    assert one_line(said) == f"detached; the job goes on. Come back with: dihedral watch {job}"
    assert shell.json("show", job)["job"]["status"] == "running"
    shell("cancel", job)


def test_watch_as_json_is_every_event_and_then_the_job(shell: Shell) -> None:
    lines = [json.loads(line) for line in shell(*SIMULATE, "--param", "steps=1", "--json").stdout.splitlines()]
    events = [line for line in lines[:-1] if line["type"] != "progress"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert lines[-1]["status"] == "completed"
    again = shell("watch", lines[-1]["jobId"], "--json").stdout.splitlines()
    assert [json.loads(line) for line in again if '"seq"' in line] == events


def test_a_graph_and_a_submission_are_taken_from_a_file(shell: Shell) -> None:
    alone = shell.json("submit", shell.write("graph.json", graph(steps=0)))
    assert alone["status"] in ("queued", "running", "completed")
    whole = {"graph": graph(steps=0), "priority": "high", "startAt": "2099-01-01T00:00:00Z"}
    job = shell.json("submit", shell.write("submission.json", whole))
    assert (job["status"], job["startAt"]) == ("scheduled", "2099-01-01T00:00:00.000Z")
    assert shell.json("cancel", job["jobId"])["status"] == "cancelled"


def test_a_comfyui_workflow_becomes_a_job(shell: Shell) -> None:
    flow = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 1}},
        "9": {"class_type": "LoadImage", "inputs": {"image": "x"}},
    }
    (shell.directory / "cat.png").write_bytes(b"cat")
    name = shell.write("workflow.json", flow)
    job = shell.json("submit", name, "--param", "3.seed=7", "--param", "server=main", "--file", "9.image=cat.png")
    [node] = shell.json("show", job["jobId"])["graph"]["nodes"]
    assert node["task"] == "run_comfyui"
    assert (node["params"]["server"], node["params"]["values"]) == ("main", {"3.seed": 7})
    assert node["params"]["files"]["9.image"]["bucket"] == "inputs"
    assert "there is no ComfyUI server 'main'" in shell("watch", job["jobId"], code=1).stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit",), "dihedral: submit takes either FILE (a graph or a submission) or --pipeline NAME"),
        (("submit", "absent.json"), "dihedral: absent.json: No such file or directory"),
        (("submit", "broken.json"), "dihedral: broken.json: is not JSON: "),
        (("submit", "list.json"), "dihedral: list.json: is no graph and no submission"),
        (("submit", "typo.json"), "dihedral: typo.json: a submission has no 'prioriti'; it has graph, "),
        (("submit", "typo.json", "--param", "a=1"), "dihedral: --param, --file, --local, --sweep and --preset fill in a pipeline"),
        (("submit", "editor.json"), "dihedral: editor.json: this is a workflow as ComfyUI's editor saves it; export it"),
        (("submit", "--pipeline", "simulate", "--param", "steps"), "dihedral: 'steps' is not NAME=VALUE"),
        (("submit", "--pipeline", "train_voice", "--file", "recording=absent.wav"), "dihedral: absent.wav: No such file"),
        (("artifacts", "get", "inputs"), "dihedral: an artifact is named BUCKET/KEY"),
        (("artifacts", "prune", "--older-than", "soon"), "dihedral: 'soon' is no age"),
    ],
)  # fmt: skip
def test_wrong_usage_exits_with_2_and_one_line(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    (shell.directory / "broken.json").write_text("{")
    shell.write("list.json", [])
    shell.write("editor.json", {"nodes": [], "links": [], "version": 0.4})
    shell.write("typo.json", {"graph": graph(), "prioriti": "high"})
    assert one_line(shell(*arguments, code=2).stderr).startswith(said)


def test_a_refusal_exits_with_3_and_names_every_problem(shell: Shell) -> None:
    wrong = graph(steps=-1, stepSeconds="long")
    for command in ("plan", "submit"):
        said = shell(command, shell.write("wrong.json", wrong), code=3).stderr
        assert "/graph/nodes/0/params/steps: " in said
        assert "/graph/nodes/0/params/stepSeconds: " in said
    assert "no-such-job" in one_line(shell("watch", "no-such-job", code=3).stderr)
    assert "no_such_pipeline" in shell("submit", "--pipeline", "no_such_pipeline", code=3).stderr


def test_nobody_there_exits_with_4(tmp_path: Path) -> None:
    for command in (("jobs",), ("watch", "job"), ("submit", "--pipeline", "simulate")):
        said = one_line(dihedral(*command, "--url", "http://127.0.0.1:1", cwd=tmp_path, code=4).stderr)
        assert said == "dihedral: no server answers at http://127.0.0.1:1; is `dihedral up` running?"


def test_a_text_param_stays_a_text_whatever_it_looks_like(shell: Shell) -> None:
    (shell.directory / "picture.png").write_bytes(b"no picture")
    (shell.directory / "voice.wav").write_bytes(b"no voice")
    job = shell.json(
        *("submit", "--pipeline", "talking_picture", "--param", "prompt=1984", "--param", "seed=2"),
        *("--file", "picture=picture.png", "--file", "voice=voice.wav"),
    )["jobId"]
    nodes = {node["id"]: node for node in shell.json("show", job)["graph"]["nodes"]}
    assert nodes["generate_script"]["params"]["prompt"] == "1984"
    assert nodes["speak"]["params"]["seed"] == 2
    assert shell(*("watch", job), code=1).stderr.startswith("dihedral: speak")


def test_files_of_one_param_are_a_list(shell: Shell) -> None:
    for name in ("a.png", "b.png"):
        (shell.directory / name).write_bytes(name.encode())
    later = ("--start-at", "2099-01-01T00:00:00Z")
    one, two = ("--file", "pictures=a.png"), ("--file", "pictures=b.png")
    for given in (one, one + two):
        job = shell.json("submit", "--pipeline", "train_image_lora", *given, *later)["jobId"]
        refs = shell.json("show", job)["graph"]["nodes"][0]["params"]["pictures"]
        assert [ref["key"].rsplit("/", 1)[-1] for ref in refs] == ["a.png", "b.png"][: len(given) // 2]
        shell("cancel", job)
    twice = ("--file", "recording=a.png", "--file", "recording=b.png")
    assert "recording is one file" in shell("submit", "--pipeline", "train_voice", *twice, code=2).stderr


def test_a_model_that_lies_on_the_workers_disk_is_named_and_not_uploaded(shell: Shell) -> None:
    (shell.directory / "lines.txt").write_text("The lamp is lit at seven.\n" * 200)
    given = ("--file", "dataset=lines.txt", "--param", "steps=1", "--param", "sequenceLength=32", "--param", "batch=1")
    done = shell("submit", "--pipeline", "train_lora", "--local", "weights=base", *given, "--watch")
    assert "adapter_model.safetensors" in done.stdout
    said = shell("submit", "--pipeline", "train_lora", "--local", "weights=../base", *given, "--watch", code=3).stderr
    assert "weights" in said
    said = shell("submit", "--pipeline", "train_lora", "--local", "weights=nowhere", *given, "--watch", code=1).stderr
    assert "there is no model 'nowhere' below models.roots of this worker (model_not_found)" in said


def test_an_uploaded_file_comes_back_and_old_ones_are_pruned(shell: Shell, house: Up) -> None:
    (shell.directory / "voice.wav").write_bytes(b"no voice at all")
    job = shell.json("submit", "--pipeline", "train_voice", "--file", "recording=voice.wav")["jobId"]
    ref = shell.json("show", job)["graph"]["nodes"][0]["params"]["recording"]
    name = f"{ref['bucket']}/{ref['key']}"
    assert any(meta["key"] == ref["key"] for meta in shell.json("artifacts", "list", "--bucket", "inputs")["artifacts"])
    assert shell("artifacts", "get", name, "-o", "back.wav").stdout.strip() == "back.wav"
    assert (shell.directory / "back.wav").read_bytes() == b"no voice at all"
    assert "back.wav" in shell("artifacts", "get", name, "-o", "back.wav").stdout

    prune = ("artifacts", "prune", "--data-dir", house.document["dataDir"], "--older-than")
    assert shell.json(*prune, "1d")["artifacts"] == []
    becomes(
        lambda: name in shell.json(*prune, "0s", "--dry-run")["artifacts"]
    )  # its job has ended, and is no longer new
    assert name in shell.json(*prune, "0s")["artifacts"]
    assert "no artifact" in shell("artifacts", "get", name, code=3).stderr


def test_a_prune_of_an_up_on_s3_looks_at_no_empty_directory(shell: Shell, tmp_path: Path) -> None:
    (tmp_path / "artifacts").mkdir()
    settings = ArtifactsSettings(store=StoreKind.s3, endpoint="store.example:9000")
    note_store(tmp_path, settings)
    prune = ("artifacts", "prune", "--data-dir", str(tmp_path), "--older-than", "1d", "--dry-run")
    line = one_line(shell(*prune, code=2).stderr)
    assert "in a store of kind s3 (store.example:9000)" in line
    note_store(tmp_path, ArtifactsSettings(directory=str(tmp_path / "elsewhere")))
    assert "there are no artifacts in" in one_line(shell(*prune, code=2).stderr)


def test_a_failed_job_is_retried(shell: Shell) -> None:
    job = shell.json("submit", "--pipeline", "simulate", "--param", "failAt=0")["jobId"]
    shell("watch", job, code=1)
    assert shell.json("retry", job)["attempt"] == 2
    shell("watch", job, code=1)
    assert "attempt 2" in shell("show", job).stdout
    listed = shell.json("jobs", "--status", "failed", "--pipeline", "simulate", "--limit", "500")["jobs"]
    assert job in [each["jobId"] for each in listed]


def test_a_dead_letter_is_listed_shown_requeued_and_dropped(shell: Shell) -> None:
    assert shell("dead-letters", "list").stdout.strip() == "no dead letters"
    job = shell.json("submit", shell.write("lethal.json", lethal.submission()["graph"]))["jobId"]
    shell("watch", job, code=1)
    (letter,) = shell.json("dead-letters", "list")["deadLetters"]
    assert (letter["jobId"], letter["nodeId"], letter["attempt"]) == (job, "deadly", 1)
    assert letter["id"] in shell("dead-letters", "list").stdout
    assert letter["detail"] in shell("dead-letters", "show", letter["id"]).stdout
    assert shell.json("dead-letters", "requeue", letter["id"])["attempt"] == 2
    shell("watch", job, code=1)
    (second,) = shell.json("dead-letters", "list")["deadLetters"]
    assert second["attempt"] == 2
    assert shell("dead-letters", "drop", second["id"]).stdout.strip() == f"dropped {second['id']}"
    assert shell.json("dead-letters", "list")["deadLetters"] == []
    for command, gone in (("show", ".."), ("requeue", letter["id"]), ("drop", second["id"])):
        assert "there is no dead letter" in one_line(shell("dead-letters", command, gone, code=3).stderr)


def test_what_there_is_to_run_is_listed(shell: Shell) -> None:
    assert "train_image_lora" in shell("capabilities").stdout
    assert "    prompt " in shell("pipelines").stdout
    plan = shell.json("plan", shell.write("graph.json", graph(steps=1)))
    assert [node["status"] for node in plan["nodes"]] == ["pending"]


def test_logs_are_those_of_the_children(shell: Shell, house: Up) -> None:
    said = shell("logs", "--data-dir", house.document["dataDir"]).stdout
    assert "worker-1" in said
    assert "server" in said
    assert "no log" in one_line(shell("logs", "nobody", "--data-dir", house.document["dataDir"], code=3).stderr)


def test_doctor_names_what_this_machine_has(shell: Shell) -> None:
    checks = {check["what"]: check for check in shell.json("doctor", "--port", "0")["checks"]}
    assert "alkey" in checks["server"]["detail"]
    assert all(check["ok"] for check in checks.values())


def test_output_into_a_closed_pipe_is_no_trace(shell: Shell) -> None:
    listing = shell.begin("capabilities", "--json")
    assert listing.stdout is not None
    listing.stdout.close()
    assert listing.stderr is not None
    assert listing.stderr.read() == ""
    listing.stderr.close()
    assert listing.wait(SECONDS) == 0


def test_doctor_says_which_scripts_captions_lack() -> None:
    from dihedral.doctor import examine

    [row] = [row for row in examine(0) if row["what"] == "captions"]
    assert row["ok"]
    assert (
        "can be drawn" in row["detail"]
        or "left out (install Noto fonts)" in row["detail"]
        or "libfribidi" in row["detail"]
    )


NOW = datetime.fromisoformat("2026-11-30T10:00:00Z")


@pytest.mark.parametrize(
    ("start", "zone", "said"),
    [
        ("2026-11-30T10:00:09.100Z", "UTC", "starts 10:00:09 UTC, in 10 s"),
        ("2026-11-30T12:30:00.000Z", "Europe/Berlin", "starts 13:30:00 CET, in 2 h 30 min"),
        ("2026-12-01T10:00:00.000Z", "UTC", "starts Tue 1 Dec 2026 10:00:00 UTC, in 1 d"),
        ("2026-11-30T23:30:00.000Z", "Asia/Tokyo", "starts Tue 1 Dec 2026 08:30:00 JST, in 13 h 30 min"),
        ("2026-11-30T09:00:00.000Z", "UTC", "starts 09:00:00 UTC, in 0 s"),
    ],
)
def test_a_start_is_told_in_the_time_of_this_place_and_how_long_it_is_until_then(
    start: str, zone: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        job = {"startAt": start, "waitingFor": {"type": "start_time", "message": f"starts at {start}"}}
        assert waits(job, NOW) == said
        job["waitingFor"] = {"type": "worker", "message": "no worker"}
        assert waits(job, NOW) == "no worker"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_scheduled_job_is_shown_with_its_countdown(shell: Shell) -> None:
    start = (datetime.now(UTC) + timedelta(hours=3)).isoformat()
    job = shell.json("submit", "--pipeline", "simulate", "--start-at", start)["jobId"]
    text = shell("show", job).stdout
    assert re.search(r"waits: starts .*, in (2 h 59 min|3 h)", text), text
    shell("cancel", job)


def test_up_counts_the_devices_that_it_names() -> None:
    """Before, two of 24 GiB were "simulated GPU, 24 GiB"."""
    devices = [{"name": "simulated GPU", "memoryMiB": 24576}] * 2
    worker = {"device": "simulated GPU, 24 GiB", "devices": devices}
    assert _devices([worker, worker]) == "2 × simulated GPU, 24 GiB", "the workers of a machine share them"
    assert _devices([{**worker, "devices": devices[:1]}]) == "simulated GPU, 24 GiB"
    assert _devices([{"device": "cpu"}]) == "cpu"


def test_the_demo_up_and_the_logs_have_one_data_directory() -> None:
    """Before, the demo had one of its own, so that `up` showed no job after it."""
    commands = (["demo"], ["up"], ["logs"], ["keys", "list"])
    assert {_parser().parse_args(command).data_dir for command in commands} == {Path("dihedral-data")}
