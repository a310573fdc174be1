"""A user's own modules may be called like our folders, and a script may stand beside the clone."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.front_door.running import dihedral, environment, up

ROOT = Path(__file__).parents[2]
OURS = ("schemas", "bridge", "control_plane", "data_plane", "codegen", "tests")
SECONDS = 500

TASKS = """
import bridge, control_plane, data_plane, schemas
from msgspec import Struct
from dihedral import ArtifactRef, TaskContext, task

class Params(Struct, forbid_unknown_fields=True):
    pass

class Output(Struct):
    marks: list[str]

def marks() -> Output:
    return Output([module.MARK for module in (bridge, control_plane, data_plane, schemas)])

@task(description="On the control plane.", plane="node")
async def on_control(params: Params, ctx: TaskContext) -> Output:
    return marks()

@task(description="In the worker.")
async def in_worker(params: Params, ctx: TaskContext) -> Output:
    return marks()

@task(description="In a slot.")
def in_slot(params: Params, ctx: TaskContext) -> Output:
    return marks()
"""
SCRIPT = """
import bridge, codegen, control_plane, data_plane, schemas, tests
from dihedral import ArtifactRef, AsyncClient, Client, TaskCancelled, TaskContext, TaskError, task, testing
import dihedral.control_plane.app, dihedral.data_plane.service
print(bridge.MARK, schemas.MARK, dihedral.bridge.__name__)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in OURS:
        (tmp_path / f"{name}.py").write_text(f"MARK = 'my {name}'\n")
    return tmp_path


def test_modules_of_a_script_called_like_our_folders_break_nothing(folder: Path) -> None:
    (folder / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, capture_output=True, text=True, env=environment(), timeout=SECONDS
    )
    assert (done.stdout, done.stderr) == ("my bridge my schemas dihedral.bridge\n", "")


def test_modules_of_tasks_called_like_our_folders_break_nothing_on_either_plane_or_in_a_slot(folder: Path) -> None:
    (folder / "mine.py").write_text(TASKS)
    places = {"on_control": "node", "in_worker": "python", "in_slot": "python"}
    nodes = [{"id": task, "task": task, "plane": plane} for task, plane in places.items()]
    (folder / "job.json").write_text(json.dumps({"schema": "langgraph.v1", "nodes": nodes, "edges": []}))
    with up(folder, "--tasks", "mine", "--slots", "1") as running:
        dihedral("submit", "job.json", "--watch", "--url", running.url, cwd=folder)
        (job,) = json.loads(dihedral("jobs", "--json", "--url", running.url, cwd=folder).stdout)["jobs"]
        shown = json.loads(dihedral("show", job["jobId"], "--json", "--url", running.url, cwd=folder).stdout)
    marks = ["my bridge", "my control_plane", "my data_plane", "my schemas"]
    assert {node["id"]: node["output"]["marks"] for node in shown["graph"]["nodes"]} == dict.fromkeys(places, marks)


@pytest.mark.parametrize("plane", ["control_plane", "data_plane"])
def test_a_plane_started_as_a_module_beside_them_starts(folder: Path, plane: str) -> None:
    """`-m` puts the working directory first on the path."""
    done = subprocess.run(
        [sys.executable, "-m", f"dihedral.{plane}", "--redis-url", "nonsense"],
        cwd=folder, capture_output=True, text=True, env=environment(), timeout=SECONDS,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr


def test_a_script_beside_a_clone_called_dihedral_imports_it(tmp_path: Path) -> None:
    clone, home = tmp_path / "dihedral", tmp_path / "venv"
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "dihedral-data")
    shutil.copytree(ROOT, clone, symlinks=True, ignore=unwanted)
    said(sys.executable, "-m", "venv", "--without-pip", home, cwd=tmp_path)
    python = home / "bin" / "python"
    packages = said(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip()
    # The dependencies are those of the tests; a .pth file in their folder, such as that of our own editable installation, is not read.
    theirs = [entry for entry in sys.path if entry.endswith("site-packages")]
    Path(packages, "dependencies.pth").write_text("\n".join(theirs))
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        python,
        "install",
        "--quiet",
    ]
    said(*pip, "--no-index", "--no-deps", "--no-build-isolation", "--editable", clone, cwd=tmp_path)
    (tmp_path / "script.py").write_text(
        "from dihedral import Client\nimport dihedral\nprint(Client.__name__, dihedral.__file__)"
    )
    assert said(python, "script.py", cwd=tmp_path) == f"Client {clone / 'dihedral/__init__.py'}\n"
    assert said(home / "bin/dihedral", "--version", cwd=tmp_path).startswith("dihedral ")


def said(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
