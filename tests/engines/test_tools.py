"""`run_tool` with a trainer of every bad habit: progress, previews, checkpoints, cancel, and nothing left running."""

import ctypes
import io
import json
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral.data_plane.engines import tools
from dihedral.data_plane.process_groups import runs
from dihedral.data_plane.tasks import run_tool
from tests.support.in_process import RecordedEvents, TaskRunner, place
from tests.support.outcomes import Seen
from tests.support.polling import at_this_load, becomes

__all__ = ["place"]

TRAINER = str(Path(__file__).with_name("fake_trainer.py"))


def table(habit: str, steps: int = 100, **more: Any) -> dict[str, Any]:
    return {
        "argv": ["{python}", TRAINER, habit, str(steps)],
        "resume": ["--resume", "{checkpoint}"],
        "progress": "Steps",
        "samples": ["output/samples/*"],
        "checkpoints": ["output/checkpoint-*"],
        "result": ["output/*.safetensors"],
        "graceSeconds": 0.3,
        **more,
    }


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Looks at files often, and adopts what its children leave, as the process of a slot does."""
    monkeypatch.setattr(run_tool, "SCAN_SECONDS", 0.1)
    monkeypatch.setattr(run_tool, "EVENT_SECONDS", 0.05)
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    yield
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


class Cancel:
    """Cancels once something has happened; `folder`: of the run, whose files are looked at."""

    def __init__(self, folder: Path, when: str, heard: RecordedEvents) -> None:
        self.folder = folder
        self.pids: set[int] = set()
        self._when = when
        self._heard = heard
        self._now = False

    def __call__(self) -> bool:
        for name in ("pid", "child"):
            path = self.folder / "scratch" / name
            if path.exists() and path.read_text():
                self.pids.add(int(path.read_text()))
        self._now = self._now or bool(self._heard.told(self._when))
        return self._now


def cancelled_run(
    place: TaskRunner, tmp_path: Path, habit: str, when: str = "checkpoint", steps: int = 100_000
) -> tuple[Seen, Cancel]:
    heard = RecordedEvents()
    cancel = Cancel(tmp_path / "run", when, heard)
    place.registry["run_tool"].configure({"tools": {"mine": table(habit, steps)}})
    outcome, _ = place.run("run_tool", {"tool": "mine"}, cancel, heard=heard, directory=tmp_path / "run")
    return outcome, cancel


def failed(place: TaskRunner, habit: str, **more: Any) -> tuple[str, str]:
    place.registry["run_tool"].configure({"tools": {"mine": table(habit, **more)}})
    return place.refusal("run_tool", {"tool": "mine"})


def test_a_trainer_becomes_progress_previews_and_a_result(place: TaskRunner) -> None:
    place.registry["run_tool"].configure({"tools": {"mine": table("slow")}})
    made, heard = place.output("run_tool", {"tool": "mine", "steps": 100})
    assert made["lastStep"] == 100
    assert made["metrics"]["loss"] == pytest.approx(0.01)
    assert (made["exitCode"], made["resumed"], len(made["files"])) == (0, False, 1)
    assert b"Steps: " in place.content(made["log"])
    assert heard.told("loss")
    assert place.content(heard.told("preview")[-1]).startswith(b"\x89PNG sample")
    assert len([each for each in heard.fractions if 0 < each < 1]) >= 5  # as many as the machine has time for


def test_a_cancelled_run_goes_on_from_its_checkpoint(place: TaskRunner, tmp_path: Path) -> None:
    outcome, cancel = cancelled_run(place, tmp_path, "slow", steps=2000)
    assert outcome.status == "cancelled"
    assert cancel.pids
    assert not any(map(runs, cancel.pids))
    place.registry["run_tool"].configure({"tools": {"mine": table("quick", 2000)}})
    made, heard = place.output("run_tool", {"tool": "mine"}, nonce="n2")
    assert made["resumed"]
    assert any(line.startswith("resumed at ") for _, line in heard.lines)


@pytest.mark.parametrize("habit", ["deaf", "fork", "daemon"])
def test_nothing_of_a_tool_runs_on(place: TaskRunner, tmp_path: Path, habit: str) -> None:
    outcome, cancel = cancelled_run(place, tmp_path, habit)
    assert outcome.status == "cancelled"
    assert len(cancel.pids) == 2
    becomes(lambda: not any(map(runs, cancel.pids)))


@pytest.mark.parametrize("habit", ["fork", "daemon"])
def test_what_a_tool_leaves_behind_ends_with_it(place: TaskRunner, tmp_path: Path, habit: str) -> None:
    place.registry["run_tool"].configure({"tools": {"mine": table(habit, 20)}})
    before = time.monotonic()
    place.output("run_tool", {"tool": "mine"})
    assert time.monotonic() - before < at_this_load(30)  # the child would sleep for 600


def test_a_half_written_checkpoint_is_not_kept(place: TaskRunner, tmp_path: Path) -> None:
    heard = RecordedEvents()
    place.registry["run_tool"].configure({"tools": {"mine": table("half", 20)}})
    since: list[float] = []

    def cancelled() -> bool:
        if (tmp_path / "run/scratch/output/checkpoint-half/model.safetensors").exists():
            since.append(time.monotonic())
        return bool(since) and since[-1] - since[0] > 1

    outcome, _ = place.run("run_tool", {"tool": "mine"}, cancelled, heard=heard, directory=tmp_path / "run")
    assert outcome.status == "cancelled"
    assert heard.told("checkpoint")[-1]["path"] == "output/checkpoint-20"


@pytest.mark.parametrize(
    ("habit", "more", "code"),
    [
        ("empty", {}, "no_result"),
        ("outside", {}, "no_result"),
        ("crash", {}, "tool_failed"),
        ("oom", {}, "out_of_memory"),
        ("hang", {"quietSeconds": 0.5}, "tool_hangs"),
        ("fills", {"diskMib": 5}, "disk_full"),
        ("slow", {"argv": ["no-such-program"]}, "tool_missing"),
        ("slow", {"cwd": "/no/such/folder"}, "tool_missing"),
        ("slow", {"argv": ["{python}", "{files.face}"]}, "invalid_input"),
        ("slow", {"progress": "("}, "invalid_settings"),
        ("slow", {"preset": "nope"}, "invalid_settings"),
        ("slow", {"argvs": []}, "invalid_settings"),
    ],
)
def test_what_goes_wrong_is_a_typed_error_and_the_slot_goes_on(
    place: TaskRunner, habit: str, more: dict[str, Any], code: str
) -> None:
    found, message = failed(place, habit, **more)
    assert (found, bool(message)) == (code, True)
    place.registry["run_tool"].configure({"tools": {"mine": table("quick", 5)}})
    assert place.output("run_tool", {"tool": "mine"}, nonce="after")[0]["lastStep"] == 5


def test_a_crash_tells_its_last_line(place: TaskRunner) -> None:
    assert "exit code 3: RuntimeError: the sky fell" in failed(place, "crash")[1]


def test_an_unknown_tool_is_named(place: TaskRunner) -> None:
    assert place.refusal("run_tool", {"tool": "rm"})[0] == "unknown_tool"


def test_a_flood_is_read_and_bounded(place: TaskRunner) -> None:
    place.registry["run_tool"].configure({"tools": {"mine": table("flood", 5)}})
    made, heard = place.output("run_tool", {"tool": "mine"})
    assert len(heard.lines) <= run_tool.LINES
    assert place.content(made["log"]).count(b"\n") >= 200_000


def test_another_process_goes_on_after_a_kill(place: TaskRunner, tmp_path: Path) -> None:
    """As another machine does: nothing but the store is common to both."""
    program = (
        "import sys; from pathlib import Path; from tests.support.in_process import TaskRunner; from dihedral.data_plane.tasks import run_tool\n"
        "run_tool.SCAN_SECONDS = 0.1\n"
        f"with TaskRunner.opened(Path({str(place.directory)!r})) as place:\n"
        f"    place.registry['run_tool'].configure({{'tools': {{'mine': {table('slow', 100_000)!r}}}}})\n"
        f"    place.run('run_tool', {{'tool': 'mine'}}, directory=Path({str(tmp_path / 'first')!r}))\n"
    )
    first = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[2])
    kept = place.directory / "loras" / "job" / "run_tool" / "checkpoint"
    becomes(lambda: list(place.directory.rglob("*checkpoint*")), 60)
    pid = int((tmp_path / "first/scratch/pid").read_text())
    first.send_signal(signal.SIGKILL)
    first.wait()
    becomes(lambda: not runs(pid))
    assert kept.parent.parent.name == "job"
    place.registry["run_tool"].configure({"tools": {"mine": table("quick", 3000)}})
    made, _ = place.output("run_tool", {"tool": "mine"}, nonce="n2")
    assert made["resumed"]
    assert made["lastStep"] == 3000


@pytest.mark.parametrize("keep", [1, 3])
def test_as_many_whole_checkpoints_are_kept_as_the_operator_wants(place: TaskRunner, tmp_path: Path, keep: int) -> None:
    heard = RecordedEvents()
    place.registry["run_tool"].configure({"tools": {"mine": table("slow", 100_000, keepCheckpoints=keep)}})
    cancel = Cancel(tmp_path / "run", "checkpoint", heard)
    outcome, _ = place.run(
        "run_tool", {"tool": "mine"}, lambda: cancel() and len(heard.told("checkpoint")) > 3, heard=heard, directory=tmp_path / "run"
    )  # fmt: skip
    assert outcome.status == "cancelled"
    stored = place.content({"bucket": "loras", "key": "job/run_tool/checkpoint"})
    with tarfile.open(fileobj=io.BytesIO(stored)) as archive:
        steps = [int(name.split("-")[1].split("/")[0]) for name in archive.getnames() if name.endswith("state.json")]
        about = json.loads(archive.extractfile("dihedral.json").read())  # type: ignore[union-attr]
    assert len(steps) == keep
    assert steps == sorted(steps, reverse=True)
    assert about["path"] == f"output/checkpoint-{steps[0]}"


def test_declared_memory_is_that_of_the_tool_that_a_job_names(place: TaskRunner) -> None:
    task = place.registry["run_tool"]
    task.configure({"tools": {"mine": table("slow", memoryMib=9000), "small": table("slow")}})
    assert [task.memory_mib({"tool": name}) for name in ("mine", "small", "none")] == [9000, 0, 0]


def test_a_config_and_files_reach_the_tool(place: TaskRunner) -> None:
    show = "import sys, pathlib, tomllib; c = tomllib.loads(pathlib.Path(sys.argv[1]).read_text()); pathlib.Path(sys.argv[2], 'r.json').write_text(__import__('json').dumps(c | {'face': pathlib.Path(sys.argv[3]).read_text()}))"
    settings = {
        "argv": ["{python}", "-c", show, "{config}", "{output}", "{files.face}"],
        "configFormat": "toml",
        "result": ["output/*.json"],
    }
    place.registry["run_tool"].configure({"tools": {"mine": settings}})
    config = {
        "rank": 4,
        "on": True,
        "name": 'a "b" ä',
        "sizes": [1, 2.5],
        "out": "{output}",
        "sub": {"data": [{"path": "{files}"}], "x.y": {"z": 1}},
    }
    face = place.upload(b"a face", "face.png")
    made, _ = place.output("run_tool", {"tool": "mine", "config": config, "files": {"face": face}})
    seen = json.loads(place.content(made["files"][0]))
    assert seen["face"] == "a face"
    assert seen["out"].endswith("/output")
    assert seen["sub"]["data"][0]["path"].endswith("/files")
    assert {name: seen[name] for name in ("rank", "on", "name", "sizes")} == {
        name: config[name] for name in ("rank", "on", "name", "sizes")
    }


BARS = [
    ("Steps:  18%|█▊  | 11/60 [00:00<00:05,  9.41it/s, loss=1.08, lr=0.001]", "Steps", 11, 60, 1.08),
    ("steps:   5%|▌   | 50/1000 [01:02<19:40,  1.24s/it, avr_loss=0.123]", "steps", 50, 1000, 0.123),
    ("my_lora:  12%|█  | 30/250 [00:10<01:10, 3.1it/s, lr: 1.0e-04 loss: 3.1e-01]", "my_lora", 30, 250, 0.31),
    (" 25%|██▌       | 1/4 [00:01<00:03,  1.0s/it]", "", 1, 4, None),
    ("{'loss': '4.169', 'grad_norm': '1.541', 'learning_rate': '4.167e-05', 'epoch': '0.25'}", "", 0, 0, 4.169),
    ('{"step": 7, "max_steps": 20, "loss": 0.5}', "", 7, 20, 0.5),
    ("epoch 1 it 12 of 40 err 0.25", r"it (?P<step>\d+) of (?P<total>\d+) err (?P<loss>[\d.]+)", 12, 40, 0.25),
    ("Loading:  50%|█▊  | 1/2 [00:01<00:05,  9.41it/s]", "Steps", 0, 0, None),
    ("{'loss': nan, 'x': [1]}", "", 0, 0, None),
    (f"{'a' * 300} steps: 2%|x| 3/4 [0:01<0:02, ?it/s]", "aaa", 3, 4, None),
]


@pytest.mark.parametrize(("line", "progress", "step", "total", "loss"), BARS)
def test_what_trainers_print_is_read(line: str, progress: str, step: int, total: int, loss: float | None) -> None:
    output = tools.Output(progress, 0)
    cut = line.encode()
    for part in (b"\r", cut[:20], cut[20:]):  # a read may end anywhere
        list(output.feed(part))
    list(output.end())
    assert (output.step, output.total, output.loss) == (step, total, loss)


@pytest.mark.parametrize(
    "filler",
    ["1", " ", "a:", ": ", "_", "%|", "1%|", "a:1%||1/2[0<0, ", "1%||1/2 [0<0,", "1%|x| 1/2 [0<0," + " " * 16_000],
)
def test_a_long_line_costs_no_more_than_its_length(filler: str) -> None:
    """Without a bound of what is looked at a line of 16 KiB took 3 s."""
    line = "x" + (filler * tools.LINE_BYTES)[: tools.LINE_BYTES - 3] + "%|"
    before = time.process_time()
    list(tools.Output("Steps", 0).feed(line.encode() + b"\n"))
    tools.PAIR.findall(line)
    assert time.process_time() - before < 0.8


def test_a_preset_that_needs_its_folder_says_so() -> None:
    for name in ("musetalk", "wav2lip"):
        assert "set cwd to the tool's folder" in tools.missing(tools.named({"a": {"preset": name}}, "a"))[0]


def test_presets_are_whole() -> None:
    for name, preset in tools.presets().items():
        made = tools.named({"mine": {"preset": name}}, "mine")
        assert made.label == preset["label"]
    assert (
        "the program podman or docker" in tools.missing(tools.named({"a": {"preset": "container"}}, "a"))
        or tools.container()
    )


def test_reading_fifty_lines_a_second_costs_next_to_nothing(place: TaskRunner) -> None:
    """10 s of a trainer's output: this process may use 1 % of a core for them, 0.1 s."""
    lines = [f"\rSteps:  1%|█▊  | {n}/500 [00:01<00:05,  9.41it/s, loss=0.5, lr=0.001]".encode() for n in range(500)]
    output = tools.Output("Steps", 500)
    before = time.process_time()
    for line in lines:
        list(output.feed(line))
    assert time.process_time() - before < 0.1
