"""Commands on jobs as people type them: run, again, download, events, completion; each named after what first_hour.md missed where it did."""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dihedral import Client
from dihedral.client import JobFailed
from tests.front_door.running import COMMAND, Up, dihedral, environment, up
from tests.front_door.test_cli import Shell
from tests.support.polling import at_this_load

MINE = """
from typing import Annotated
from msgspec import Meta, Struct
from dihedral import ArtifactRef, TaskContext, TaskError, artifact, task

Text = Annotated[ArtifactRef, artifact("text/*", format="text")]

class Count(Struct, forbid_unknown_fields=True, rename="camel"):
    text: str = ""
    texts: list[Text] = []
    times: int = 1
    loud: bool = False
    share: float | None = None

class Paint(Struct, forbid_unknown_fields=True, rename="camel"):
    colour: str
    picture: Text | None = None
    link: str = ""

class Painted(Struct):
    colour: str

@task(description="Paints a picture.")
def paint(params: Paint, ctx: TaskContext) -> Painted:
    from PIL import Image
    if params.colour == "none":
        raise TaskError("colour: choose one", code="invalid_input")
    Image.new("RGB", (8, 8), params.colour).save(ctx.workdir / "a.png")
    ctx.store("videos", "a.png", ctx.workdir / "a.png", "image/png")
    return Painted(colour=params.colour)

class Counted(Struct):
    words: int
    loud: bool
    share: float | None

@task(description="Counts words.")
def count_words(params: Count, ctx: TaskContext) -> Counted:
    print("counting", params.text)
    text = " ".join([params.text, *(ctx.fetch(ref).read_text() for ref in params.texts)])
    ctx.store("inputs", "words.txt", text.encode(), "text/plain")
    ctx.store("videos", "words.txt", text.upper().encode(), "text/plain")
    return Counted(words=len(text.split()) * params.times, loud=params.loud, share=params.share)

@task(description="Fails.")
def break_down(params: Count, ctx: TaskContext) -> Counted:
    raise KeyError("b")
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    folder = tmp_path_factory.mktemp("house")
    (folder / "mine.py").write_text(MINE)
    with up(folder, "--slots", "1", "--tasks", "mine.py") as running:
        yield running


@pytest.fixture
def shell(house: Up, tmp_path: Path) -> Shell:
    return Shell(tmp_path, house.url)


# Run ------------------------------------------------------------------------------------------------------------------


def test_a_task_of_ones_own_runs_by_its_name_and_shows_what_it_returns(shell: Shell) -> None:
    said = shell("run", "count_words", "text=a b", "times=2", "loud=yes", "share=0.5").stdout
    assert "count_words returned" in said
    assert "words  4" in said
    assert "loud   true" in said
    assert "share  0.5" in said


def test_lists_of_files_are_given_to_a_task_a3(shell: Shell) -> None:
    for name in ("a.txt", "b.txt"):
        (shell.directory / name).write_text(f"{name} and more")
    said = shell("run", "count_words", "--file", "texts=a.txt", "--file", "texts=b.txt").stdout
    assert "words  6" in said


def test_a_file_of_this_machine_may_stand_as_a_value(shell: Shell) -> None:
    (shell.directory / "voice.wav").write_bytes(b"no voice")
    job = shell("run", "train_voice", "recording=voice.wav", "-q", code=1).stdout.strip()
    assert shell.json("show", job)["job"]["name"] == "voice.wav"
    assert "no such file" in shell("run", "train_voice", "recording=absent.wav", code=2).stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("rum", "count_words"), "there is no command 'rum'; did you mean 'run'?"),
        (("run", "count_word"), "there is no task and no pipeline 'count_word'; did you mean 'count_words'?"),
        (("run", "count_words", "txt=a"), "count_words has no parameter 'txt'; did you mean 'text'?"),
        (
            ("submit", "--pipeline", "simulate", "--param", "step=1"),
            "simulate has no parameter 'step'; did you mean 'steps'?",
        ),
        (("pipelines", "simulat"), "there is no pipeline 'simulat'; did you mean 'simulate'?"),
        (("submit", "--pipeline", "simulate", "--priority", "hihg"), "there is no choice 'hihg'; did you mean 'high'?"),
    ],
)
def test_what_is_mistyped_gets_a_suggestion(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    assert said in shell(*arguments, code=2).stderr


def test_a_value_is_typed_as_it_is_printed_b5(shell: Shell) -> None:
    printed = shell("capabilities", "count_words").stdout
    assert "boolean = false" in printed
    assert "number = null" in printed
    assert "list of file = []" in printed
    assert "None" not in shell("pipelines").stdout
    assert "False" not in shell("pipelines").stdout
    for value in ("false", "False", "no"):
        assert "loud   false" in shell("run", "count_words", f"loud={value}", "share=null").stdout


def test_quiet_prints_the_id_alone(shell: Shell) -> None:
    for command in (("submit", "--pipeline", "simulate"), ("run", "count_words", "text=a", "--detach")):
        job = shell(*command, "-q").stdout
        assert len(job.strip().split()) == 1
        assert shell.json("show", job.strip())["job"]["jobId"] == job.strip()
    assert shell("jobs", "-q", "--limit", "1").stdout.split() == [job.strip()]


def test_name_and_tags_are_listed_and_searched(shell: Shell) -> None:
    shell("run", "count_words", "text=rare-word", "--name", "日本語の仕事", "--tag", "one", "--tag", "two")
    (row,) = shell("jobs", "rare-word").stdout.splitlines()
    assert row.endswith("日本語の仕事 #one #two")
    assert shell("jobs", "日本語", "--tag", "two").stdout.splitlines() == [row]
    assert shell("jobs", "rare-word", "--tag", "three").stdout == "no jobs\n"


def test_a_job_is_named_by_a_prefix_everywhere(shell: Shell) -> None:
    job = shell("run", "count_words", "-q").stdout.strip()
    short = job[:8]
    assert shell("show", short).stdout.startswith(job)
    shell("watch", short)
    assert job in shell("cancel", short).stdout
    assert job in shell("delete", short).stdout
    assert "there is no job" in shell("show", job, code=3).stderr


def test_a_failed_node_shows_its_traceback(shell: Shell) -> None:
    job = shell("run", "break_down", "-q", code=1).stdout.strip()
    shown = shell("show", job).stdout
    assert "Traceback" in shown
    assert 'raise KeyError("b")' in shown


def test_show_has_params_with_the_given_ones_apart(shell: Shell) -> None:
    job = shell("run", "count_words", "text=a b", "-q").stdout.strip()
    lines = [line.split() for line in shell("show", job).stdout.splitlines()]
    assert ["text", "a", "b"] in lines
    assert ["times", "1", "(default)"] in lines


def test_again_repeats_a_job_with_changes_a4(shell: Shell) -> None:
    first = shell("run", "count_words", "text=a b", "times=2", "--tag", "t", "-q").stdout.strip()
    second = shell("again", first[:10], "times=5", "-q").stdout.strip()
    job = shell.json("show", second)["job"]
    assert (job["task"], job["params"]["text"], job["params"]["times"], job["rerunOf"]) == (
        "count_words",
        "a b",
        5,
        first,
    )
    assert job["tags"] == ["t"]
    third = shell("again", second, "times=", "-q").stdout.strip()
    assert shell.json("show", third)["job"]["params"]["times"] == 1


def test_the_last_line_of_a_failed_job_says_what_can_be_done(shell: Shell) -> None:
    said = shell("run", "paint", "colour=none", "-q", code=1)
    job = said.stdout.strip()
    shown = shell("watch", job, code=1).stderr.splitlines()
    assert shown[-1] == f"change `colour`: dihedral again {job[:8]} colour=…"
    assert shown[-2] == "The input does not fit this task. Change it and run the job again."
    assert f"change `colour`: dihedral again {job[:8]}" in shell("show", job).stdout
    shown = shell("run", "break_down", code=1).stderr.splitlines()
    assert "then: dihedral retry" in shown[-1]


def test_again_runs_what_made_a_file(shell: Shell, house: Up) -> None:
    """A file says what made it; a value that may be a secret has to be given once more."""
    (shell.directory / "a.txt").write_text("read")
    job = shell("run", "paint", "colour=red", "--file", "picture=a.txt", "-o", ".", "-q").stdout.split()[0]
    assert "run it with --yes" in shell("again", "a.png", code=2).stderr
    shown = shell("again", "a.png", "colour=blue", "-o", "blue", "--yes", "-q")
    assert shown.stderr.startswith('a.png: paint\n  colour = "blue"\n  picture = {"bucket": ')
    with Image.open(shell.directory / "blue/a.png") as blue:
        assert blue.getpixel((0, 0)) == (0, 0, 255)
    with Client(house.url) as client:
        said = client.provenance(shell.directory / "a.png")
        assert (said.get("jobId"), said.get("task"), said.get("params", {})["colour"]) == (job, "paint", "red")
        (sent,) = said.get("inputs", [])
        assert sent.get("sha256") == hashlib.sha256(b"read").hexdigest()
        (made,) = client.job(job)["artifacts"]
        assert client.provenance(made) == said
        assert made["sha256"] == hashlib.sha256((shell.directory / "a.png").read_bytes()).hexdigest()
    shell("run", "paint", "colour=red", "link=https://me:word@host/", "-o", "secret", "-q")
    assert b"me:word" not in (shell.directory / "secret/a.png").read_bytes()
    assert "give link=…" in shell("again", "secret/a.png", code=2).stderr
    assert shell.json("again", "secret/a.png", "link=x", "--detach", "--yes")["params"]["link"] == "x"
    (shell.directory / "b.png").write_bytes(b"nothing")
    assert "this file does not say what made it" in shell("again", "b.png", code=3).stderr
    assert "there is no file c.png" in shell("again", "c.png", code=2).stderr


def pictured(path: Path, **said: Any) -> str:
    """Writes a picture that says this, as anyone can."""
    told = PngInfo()
    told.add_itxt("dihedral", json.dumps({"dihedral": "1", **said}))
    Image.new("RGB", (2, 2)).save(path, pnginfo=told)
    return path.name


def test_what_a_file_says_is_shown_whole_before_it_runs_and_nothing_of_it_is_dropped(shell: Shell) -> None:
    long = "x" * 100
    node = {
        "id": "n",
        "task": "paint",
        "plane": "python",
        "params": {"colour": "red", "link": long},
        "tags": ["\x1b[2J"],
    }
    graph = {"schema": "langgraph.v1", "nodes": [node], "edges": []}
    name = pictured(shell.directory / "g.png", graph=graph)
    assert "no params to be changed: colour" in shell("again", name, "--local", "colour=x", "--yes", code=2).stderr
    shown = shell("again", name, "--detach", "-q", "--yes").stderr
    assert shown == f'g.png: a graph\n  n: paint\n    colour = "red"\n    link = "{long}"\n    tags = ["\\u001b[2J"]\n'
    terminal, inner = os.openpty()
    os.write(terminal, b"n\n")
    done = subprocess.run(
        [*COMMAND, "again", name], cwd=shell.directory, env=environment(**shell.environ), stdin=inner, stderr=inner,
        stdout=subprocess.PIPE, timeout=at_this_load(30), check=True,
    )  # fmt: skip
    asked = os.read(terminal, 1 << 16)
    os.close(inner)
    os.close(terminal)
    assert b"run it? [y/N]" in asked
    assert done.stdout == b""
    name = pictured(shell.directory / "h.png", graph=graph, leftOut=["/graph/nodes/0/params/more"])
    assert "nor all of the graph: /graph/nodes/0/params/more" in shell("again", name, "--yes", code=2).stderr
    name = pictured(shell.directory / "d.png", task="paint", params={"colour": "red"})  # and no job
    assert shell.json("again", name, "--detach", "--yes")["task"] == "paint"


# Results --------------------------------------------------------------------------------------------------------------


def test_what_a_job_stored_is_downloaded_and_equal_names_get_a_number(shell: Shell) -> None:
    job = shell("run", "count_words", "text=a b", "-o", "out", "-q").stdout.strip()
    assert sorted(path.name for path in (shell.directory / "out").iterdir()) == ["words-2.txt", "words.txt"]
    shell("download", job, "-o", "more/deep")
    texts = {path.read_text() for path in (shell.directory / "more" / "deep").iterdir()}
    assert texts == {"a b", "A B"}


def test_events_and_logs_are_printed(shell: Shell) -> None:
    job = shell("run", "count_words", "text=loudly", "-q").stdout.strip()
    assert "job completed" in shell("events", job).stdout
    logs = shell("events", job, "--logs", "--follow").stdout
    assert "counting loudly" in logs
    assert "job completed" not in logs


def test_uploads_print_their_places(shell: Shell) -> None:
    (shell.directory / "a.txt").write_text("a")
    (place,) = shell("upload", "a.txt").stdout.splitlines()
    assert place.startswith("inputs/")
    assert "words  1" in shell("run", "count_words", f"texts={place}").stdout


def test_notify_never_fails(shell: Shell) -> None:
    shell("run", "count_words", "--notify")


# Completion -----------------------------------------------------------------------------------------------------------


def test_completion_knows_commands_options_tasks_params_and_jobs(shell: Shell) -> None:
    job = shell("run", "count_words", "-q").stdout.strip()

    def offered(*words: str) -> list[str]:
        return shell("complete", "--", *words).stdout.split()

    assert offered("sub") == ["submit"]
    assert "count_words" in offered("run", "count")
    assert offered("run", "count_words", "t") == ["text=", "texts=", "times="]
    assert "steps=" in offered("submit", "--pipeline", "simulate", "--param", "st")
    assert "--priority" in offered("submit", "--p")
    assert offered("submit", "--priority", "h") == ["high"]
    assert job in offered("show", job[:3])
    assert offered("artifacts", "g") == ["get"]
    assert offered("presets", "s") == ["save"]
    assert offered("presets", "save", "simulate", "count_words", "t") == ["text=", "texts=", "times="]
    shell("presets", "save", "brief", "count_words", "times=1")
    assert offered("presets", "delete", "b") == offered("run", "count_words", "--preset", "b") == ["brief"]
    assert dihedral("complete", "--", "run", "c", cwd=shell.directory, DIHEDRAL_URL="http://127.0.0.1:1").stdout == ""


@pytest.mark.parametrize("name", ["bash", "zsh", "fish"])
def test_a_shell_accepts_its_completion_script(shell: Shell, name: str) -> None:
    script = shell("completion", name).stdout
    if shutil.which(name) is None:
        assert "dihedral complete --" in script
        return
    subprocess.run([name, "-n"], input=script, text=True, check=True)


# The client -----------------------------------------------------------------------------------------------------------


def test_the_client_runs_waits_repeats_and_draws_a_job_in_a_notebook(house: Up, tmp_path: Path) -> None:
    with Client(house.url) as client:
        job: Any = client.run(
            task="count_words", params={"text": "<b>a</b> b"}, name="From a notebook", timeout_seconds=60
        )
        assert job["status"] == "completed"
        drawn = job._repr_html_()
        assert "&lt;b&gt;a&lt;/b&gt; b" in drawn
        assert json.loads(json.dumps(job)) == job
        again = client.wait(client.rerun(job["jobId"], times=3)["jobId"])
        assert (again["name"], again["params"] and again["params"]["times"]) == ("From a notebook", 3)
        assert {path.name for path in client.download_all(job["jobId"], tmp_path / "got")} == {
            "words.txt",
            "words-2.txt",
        }
        with pytest.raises(JobFailed, match="KeyError"):
            client.run(task="break_down")
