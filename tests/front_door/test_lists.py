"""Lists, estimates and results on a real terminal of some width, and in a pipe."""

import fcntl
import json
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dihedral.place_commands import resumed
from dihedral.render import left, seconds_range
from dihedral.tables import cut, width
from tests.front_door import warm
from tests.front_door.running import COMMAND, SECONDS, Up, environment, up
from tests.front_door.test_cli import Shell
from tests.support.polling import becomes


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    with up(tmp_path_factory.mktemp("house"), "--slots", "1") as running:
        yield running


@pytest.fixture
def shell(house: Up, tmp_path: Path) -> Shell:
    return Shell(tmp_path, house.url)


class Terminal:
    """Runs commands on a terminal of so many columns."""

    def __init__(self, shell: Shell, columns: int) -> None:
        self.shell = shell
        self.columns = columns

    def _opened(self, **environ: str) -> tuple[int, int, dict[str, str]]:
        """Returns both ends of a terminal, and an environment that does not say how wide it is."""
        outer, inner = pty.openpty()
        fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 24, self.columns, 0, 0))
        given = environment(**self.shell.environ, **environ)
        given.pop("COLUMNS", None)
        return outer, inner, given

    def begin(self, *arguments: str, **environ: str) -> tuple[subprocess.Popen[bytes], int]:
        outer, inner, given = self._opened(**environ)
        process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=self.shell.directory, env=given, stdin=inner, stdout=inner, stderr=inner,
            preexec_fn=lambda: _controls(),
        )  # fmt: skip
        os.close(inner)
        return process, outer

    def __call__(self, *arguments: str, code: int = 0, **environ: str) -> str:
        outer, inner, given = self._opened(**environ)
        ended = warm.begin(arguments, self.shell.directory, given, (inner, inner, inner))
        os.close(inner)
        text = _rest(outer)
        assert ended(SECONDS) == code, text
        return text


def _controls() -> None:
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _rest(outer: int) -> str:
    text = b""
    while True:
        try:
            piece = os.read(outer, 65_536)
        except OSError:  # the end of a terminal
            break
        if not piece:
            break
        text += piece
    os.close(outer)
    return text.decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [120, 80, 40, 20])
def test_lists_fit_the_terminal_and_a_pipe_gets_everything(shell: Shell, columns: int) -> None:
    name = "A walk by the sea 日本語 at dusk, with a name that goes on and on and on"
    job = shell("run", "simulate", "steps=1", "stepSeconds=0", "--name", name, "--tag", "sea", "--detach", "-q").stdout.strip()  # fmt: skip
    becomes(lambda: shell.json("jobs", "-q")["jobs"][0]["status"] == "completed")
    for command in (["jobs"], ["workers"], ["queues"], ["queues", "default"]):
        text = Terminal(shell, columns)(*command)
        assert max(map(width, text.splitlines())) <= columns, text
    listed = Terminal(shell, columns)("jobs").splitlines()
    assert listed[0].startswith("JOB")
    assert listed[1].split()[0] == job[:12], "any unique beginning is an id"
    assert f"{job[:12]}" in shell("show", job[:12]).stdout
    piped = shell("jobs").stdout.splitlines()[0]
    assert piped.startswith(job)
    assert piped.endswith(f"{name} #sea")


def test_queues_and_workers_as_tables_and_json(shell: Shell) -> None:
    jobs = [
        shell("run", "simulate_gpu", "steps=4000", "stepSeconds=0.1", "--detach", "-q").stdout.strip() for _ in range(3)
    ]
    becomes(lambda: "simulate_gpu" in shell("workers").stdout)
    (worker,) = [each for each in shell.json("workers")["workers"] if each["plane"] == "python"]
    table = Terminal(shell, 80)("workers")
    assert table.startswith("WORKER")
    assert f"{worker['workerId']}  data/default     1/1" in table
    assert f"{worker['workerId']} runs simulate_gpu (simulate_gpu) of {jobs[0]}" in shell("workers").stdout
    becomes(lambda: len(shell.json("queues", "data/default")["waiting"]) == 2)
    waiting = shell("queues", "default").stdout.splitlines()
    assert [line.split()[:3] for line in waiting] == [["1", jobs[1], "normal"], ["2", jobs[2], "normal"]]
    (place,) = [each for each in shell.json("queues")["queues"] if each["plane"] == "python"]
    assert f"data/default     {place['depth']}" in Terminal(shell, 80)("queues")
    for job in jobs:
        shell("cancel", job)
    assert "there is no plane 'dta'" in shell("queues", "dta/default", code=2).stderr
    assert "no worker serves pool 'absent'" in shell("queues", "absent", code=3).stderr


def test_a_pool_is_paused_a_worker_drained_and_both_are_resumed(shell: Shell) -> None:
    assert "data/default is paused" in shell("pause", "default").stdout
    assert "paused" in Terminal(shell, 80)("queues")
    job = shell("run", "simulate", "steps=1", "stepSeconds=0", "--detach", "-q").stdout.strip()
    becomes(lambda: "waits: data plane, pool default is paused" in shell("show", job[:9]).stdout)
    assert "data/default is resumed" in shell("resume", "data/default").stdout
    becomes(lambda: shell.json("show", job)["job"]["status"] == "completed")

    (worker,) = [each["workerId"] for each in shell.json("workers")["workers"] if each["plane"] == "python"]
    assert f"{worker} takes no more nodes; it can be stopped" in shell("drain", worker[:-2]).stdout
    becomes(lambda: "draining" in Terminal(shell, 80)("workers"))
    assert f"{worker} takes nodes again" in shell("resume", worker).stdout
    becomes(lambda: "draining" not in Terminal(shell, 80)("workers"))
    assert "no worker 'absent' was seen" in shell("drain", "absent", code=3).stderr
    assert "no worker serves pool 'absent'" in shell("resume", "absent", code=3).stderr


def test_a_pool_is_resumed_by_its_name_though_a_workers_id_begins_so() -> None:
    pools = {("python", "gpu"), ("python", "default")}
    assert resumed("gpu", "gpu-71-0af3", pools) is None
    assert resumed("data/gpu", None, pools) is None
    assert resumed("gpu-7", "gpu-71-0af3", pools) == "gpu-71-0af3"
    assert resumed("gpu-71-0af3", "gpu-71-0af3", pools) == "gpu-71-0af3"


def test_a_waiting_job_is_moved_tagged_and_named(shell: Shell) -> None:
    shell("pause", "default")
    jobs = [shell("run", "simulate", "steps=1", "stepSeconds=0", "--detach", "-q").stdout.strip() for _ in range(3)]
    try:
        assert "queued  priority normal" in shell("move", jobs[2][:9]).stdout
        assert [each["jobId"] for each in shell.json("queues", "default")["waiting"]] == [jobs[2], jobs[0], jobs[1]]
        assert "priority high" in shell("move", jobs[1], "--priority", "high").stdout
        assert shell("tag", jobs[0], "sea", "dusk").stdout == "#sea #dusk\n"
        assert shell("tag", jobs[0], "sea", "--remove").stdout == "#dusk\n"
        assert shell("rename", jobs[0], "A walk").stdout == "A walk\n"
        assert jobs[0] in shell("jobs", "walk", "--tag", "dusk").stdout
        assert shell("cancel", jobs[1][:9]).stdout == f"{jobs[1]}  cancelled\n"
    finally:
        shell("resume", "default")
    becomes(lambda: shell.json("show", jobs[2])["job"]["status"] == "completed")
    assert "dihedral: " in shell("move", jobs[2], code=3).stderr


def test_a_sweep_runs_a_job_for_each_combination(shell: Shell) -> None:
    said = shell("run", "simulate", "stepSeconds=0", "--sweep", "steps=1,2", "--sweep", "failAt=null,1", code=1).stdout
    lines = said.splitlines()
    assert [line.split()[1:] for line in lines[:4]] == [
        ["steps=1", "failAt=null"], ["steps=1", "failAt=1"], ["steps=2", "failAt=null"], ["steps=2", "failAt=1"],
    ]  # fmt: skip
    tag = lines[4].removeprefix("dihedral jobs --tag ")
    assert len(shell("jobs", "--tag", tag, "-q").stdout.split()) == 4
    assert "simulate has no preset 'absent'" in shell("run", "simulate", "--preset", "absent", code=3).stderr
    assert "simulate has no parameter 'step'" in shell("run", "simulate", "--sweep", "step=1", code=2).stderr
    assert "(" in shell("run", "simulate", "--sweep", "steps=1,x", code=3).stderr
    assert len(shell("submit", "--pipeline", "simulate", "--sweep", "steps=1,2", "-q").stdout.split()) == 2


def test_presets_are_saved_used_listed_and_deleted(shell: Shell) -> None:
    assert shell("presets", "simulate").stdout == "no presets\n"
    said = shell("presets", "save", "two steps", "simulate", "steps=2", "stepSeconds=0").stdout
    assert said == "saved two steps of the task simulate   (dihedral run simulate --preset 'two steps')\n"
    job = shell("run", "simulate", "--preset", "two steps", "stepSeconds=0.001", "-q").stdout.strip()
    assert (shell.json("show", job)["job"]["params"] or {}).items() >= {"steps": 2, "stepSeconds": 0.001}.items()
    assert shell.json("presets", "save", "of both", "simulate", "steps=3", "--of", "pipeline")["pipeline"] == "simulate"
    assert shell.json("show", shell("run", "simulate", "--preset", "of both", "stepSeconds=0", "-q").stdout.strip())["job"]["pipeline"] == "simulate"  # fmt: skip
    assert "task simulate" in shell("presets", "simulate").stdout
    assert [each["name"] for each in shell.json("presets")["presets"]] == ["two steps", "of both"]
    assert "of both" not in shell("presets", "speak").stdout
    shell("presets", "save", "of both", "simulate", "steps=4")
    assert "add --of task or --of pipeline" in shell("presets", "delete", "of both", "simulate", code=2).stderr
    shell("presets", "delete", "of both", "simulate", "--of", "task")
    assert shell("presets", "delete", "of both", "simulate").stdout == "deleted of both of the pipeline simulate\n"
    assert "did you mean 'two steps'?" in shell("presets", "delete", "two stebs", "simulate", code=2).stderr
    shell("presets", "delete", "two steps", "simulate")
    assert shell("presets").stdout == "no presets\n"


def test_a_preset_that_cannot_be_one_is_refused_in_words(shell: Shell, tmp_path: Path) -> None:
    """The files of a refused one are deleted again."""
    picture = tmp_path / "a.png"
    picture.write_bytes(b"no picture")
    stored = shell.json("artifacts", "list", "--bucket", "inputs")
    for arguments, code, said in (
        (("x", "simulat", "steps=2"), 2, "did you mean 'simulate'?"),
        (("x", "simulate", "step=2"), 2, "did you mean 'steps'?"),
        (("x", "simulate"), 2, "give the params to keep"),
        (("x", "talking_picture", "prompt=x", "--of", "task"), 2, "there is no task 'talking_picture', but a pipeline"),
        (("a/b", "simulate", "steps=2"), 3, "has no slash"),
        (("..", "simulate", "steps=2"), 3, "neither empty nor dots alone"),
        (("a\tb", "simulate", "steps=2"), 3, "a name has 1 to 100 characters"),
        (("a\tb", "talking_picture", f"picture={picture}"), 3, "a name has 1 to 100 characters"),
    ):
        assert said in shell("presets", "save", *arguments, code=code).stderr
    assert shell.json("artifacts", "list", "--bucket", "inputs") == stored
    assert "there is no command 'sav'" in shell("presets", "sav", "x", "simulate", "steps=2", code=2).stderr


def test_a_list_of_nothing_says_so_and_stays_json(shell: Shell) -> None:
    for arguments, said in (
        (("jobs", "no such words"), "no jobs"),
        (("queues", "control/default"), "nothing waits there"),
        (("artifacts", "list", "--bucket", "videos"), "no artifacts"),
        (("dead-letters", "list"), "no dead letters"),
    ):
        assert shell(*arguments).stdout.strip() == said
        assert isinstance(shell.json(*arguments), dict)
    assert shell("jobs", "no such words", "-q").stdout.strip() == ""


def test_a_watch_on_a_narrow_terminal_shows_what_is_left_and_ctrl_c_detaches(shell: Shell) -> None:
    def watched() -> str:
        """Enough runs must be known, and what is known is read again every ten seconds."""
        return Terminal(shell, 60)("run", "simulate", "steps=30", "stepSeconds=0.1")

    text = becomes(lambda: next((text for text in [watched()] if " left" in text), None), 120)
    assert "about " in text

    job = shell("run", "simulate", "steps=4000", "stepSeconds=0.1", "-q", "--detach").stdout.strip()
    process, outer = Terminal(shell, 40).begin("watch", job)
    text = b""
    while b"running" not in text:
        text += os.read(outer, 65_536)
    os.write(outer, b"\x03")
    said = _rest(outer)
    assert process.wait(SECONDS) == 130
    assert f"detached; the job goes on. Come back with: dihedral watch {job}" in said
    assert "Traceback" not in said
    assert shell.json("show", job)["job"]["status"] == "running"
    shell("cancel", job)


def test_a_notified_end_rings_the_bell_of_a_terminal_only(shell: Shell, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    tool = tmp_path / "bin" / "notify-send"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}\n')
    tool.chmod(0o755)
    path = f"{tool.parent}:{os.environ['PATH']}"
    said = Terminal(shell, 80)("run", "simulate", "steps=1", "stepSeconds=0", "--notify", "--name", "-x; rm", PATH=path)
    assert "\a" in said
    assert seen.read_text().splitlines()[:2] == ["--", "-x; rm: completed"]
    done = shell("run", "simulate", "steps=1", "stepSeconds=0", "--notify", "-q")
    assert "\a" not in done.stdout + done.stderr


def test_open_shows_the_jobs_page_in_the_browser(shell: Shell, tmp_path: Path) -> None:
    job = shell("run", "simulate", "steps=1", "stepSeconds=0", "-q", "--detach").stdout.strip()
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s" "$1" > {opened}\n')
    browser.chmod(0o755)
    said = Terminal(shell, 80)("open", job[:8], BROWSER=f"{browser} %s")
    address = f"{shell.environ['DIHEDRAL_URL']}/console/jobs/{job}"
    assert said.strip() == address
    becomes(lambda: opened.exists() and opened.read_text() == address)
    assert json.loads(shell("open", job, "--json").stdout) == {"url": address}


@pytest.mark.parametrize(
    "command", [["jobs"], ["workers"], ["queues"], ["watch", "abc"], ["run", "simulate"], ["open", "abc"]]
)
def test_without_a_server_each_command_says_so_in_one_line(tmp_path: Path, command: list[str]) -> None:
    alone = Shell(tmp_path, "http://127.0.0.1:1")
    said = alone(*command, code=4).stderr.strip()
    assert said.startswith("dihedral: ")
    assert "\n" not in said


def test_ranges_are_told_in_the_unit_that_fits() -> None:
    ranges = [(0, 0.2), (2.2, 2.9), (38, 41), (70, 99), (90, 170), (3600, 7300), (0.0, 100)]
    told = [seconds_range({"low": low, "high": high}) for low, high in ranges]
    assert told == ["0 to 1 s", "2 to 3 s", "38 to 41 s", "70 to 99 s", "1 to 3 min", "1 to 3 h", "1 to 2 min"]
    job: dict[str, Any] = {"status": "running"}
    assert left(job) == ""
    assert left({**job, "estimate": {"low": 120, "high": 180}}) == "about 2 to 3 min left"
    assert left({**job, "estimate": {"low": 120, "high": 180}}, 170) == "about 0 to 10 s left"
    assert left({**job, "estimate": {"low": 120, "high": 180}}, 181) == "", "it takes longer than was known"
    waiting = {"status": "queued", "estimate": {"low": 60, "high": 90}, "startsIn": {"low": 40, "high": 40}}
    assert left(waiting) == "starts in about 40 s"


def test_a_text_is_cut_by_its_columns() -> None:
    assert cut("short", 8) == "short"
    assert cut("a longer text", 8) == "a longe…"
    assert cut("日本語日本語", 8) == "日本語…"
