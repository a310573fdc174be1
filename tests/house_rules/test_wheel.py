"""The wheel: it holds what it must and nothing else, and what is installed from it alone runs in an empty directory."""

import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import av
from safetensors.numpy import load_file

from tests.support.servers import processes_of, skip

ROOT = Path(__file__).parents[2]
FOLDERS = ("schemas", "bridge", "control_plane", "data_plane")
"""Imported as `dihedral.<folder>`."""
SETUPTOOLS = 77
"""As pyproject.toml wants it for building: the first that knows a license expression."""
SECONDS = 500


def test_what_is_installed_from_the_wheel_alone_runs_a_job_and_the_demo(tmp_path: Path) -> None:
    wheel = built(tmp_path)
    check_content(wheel)
    home, empty = tmp_path / "target", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-index", "--no-deps"]
    run(*pip, "--target", home, wheel, cwd=tmp_path)

    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("DIHEDRAL_", "PYTHON"))}
    environ = {**inherited, "PYTHONPATH": str(home)}
    modules = ["dihedral", *(f"dihedral.{folder}" for folder in FOLDERS)]
    program = f"import {', '.join(modules)}\nprint(*[module.__file__ for module in ({', '.join(modules)})])"
    places = run(sys.executable, "-P", "-c", program, cwd=empty, env=environ).split()
    assert {place.removeprefix(f"{home}/") for place in places} == {
        "dihedral/__init__.py", *(f"dihedral/{folder}/__init__.py" for folder in FOLDERS)
    }, "the checkout must not stand in"  # fmt: skip

    command = home / "bin" / "dihedral"
    assert run(command, "--version", cwd=empty, env=environ) == f"dihedral {version(wheel)}\n"
    up = subprocess.Popen(
        [command, "up", "--json", "--port", "0", "--slots", "0"], cwd=empty, env=environ, text=True, stdout=subprocess.PIPE
    )  # fmt: skip
    try:
        assert up.stdout is not None
        url = json.loads(up.stdout.readline())["url"]
        told = run(command, "submit", "--pipeline", "simulate", "--watch", "--url", url, cwd=empty, env=environ)
        assert "job completed" in told.splitlines()
    finally:
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=SECONDS)
    assert up.returncode == 0

    made = json.loads(run(command, "demo", "--json", cwd=empty, env=environ))
    assert [job["status"] for job in made["jobs"]] == ["completed", "completed"]
    names = {Path(path).name for path in made["paths"]}
    assert names >= {"adapter_model.safetensors", "speech.wav", "speech.vtt", "video.mp4"}
    assert all(Path(path).is_relative_to(empty) and Path(path).stat().st_size > 0 for path in made["paths"])
    with av.open(next(path for path in made["paths"] if path.endswith(".mp4"))) as video:
        assert sum(1 for _ in video.decode(video=0)) == video.streams.video[0].frames
    assert load_file(next(path for path in made["paths"] if path.endswith(".safetensors")))
    assert [path.name for path in empty.iterdir()] == ["dihedral-data"]
    assert processes_of(empty) == []


def built(directory: Path) -> Path:
    """The wheel of a copy of the checkout, which building would write into."""
    try:
        found = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        found = "0"
    if int(found.partition(".")[0]) < SETUPTOOLS:
        skip("setuptools", f"building needs setuptools {SETUPTOOLS}, here is {found}")
    unwanted = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "dihedral-data")
    shutil.copytree(ROOT, directory / "source", ignore=unwanted)
    build: list[str | Path] = [
        sys.executable,
        "-m",
        "build",
        "--wheel",
        "--no-isolation",
        "--outdir",
        directory / "dist",
    ]
    run(*build, directory / "source", cwd=directory)
    (wheel,) = (directory / "dist").iterdir()
    return wheel


def check_content(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
        about = next(name.partition("/")[0] for name in names if ".dist-info/" in name)
        metadata = Parser().parsestr(file.read(f"{about}/METADATA").decode())
        entry_points = file.read(f"{about}/entry_points.txt").decode()
        license = file.read(f"{about}/licenses/LICENSE")
    assert {name.partition("/")[0] for name in names} == {"dihedral", about}
    assert {name for name in names if not name.startswith(about)} == expected()
    assert license == (ROOT / "LICENSE").read_bytes()
    assert (metadata["License-Expression"], metadata["License-File"]) == ("Apache-2.0", "LICENSE")
    assert metadata["Requires-Python"] == ">=3.11"
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert text.startswith((ROOT / "README.md").read_text()[:200])
    assert "dihedral = dihedral.cli:main" in entry_points


def expected() -> set[str]:
    """Every module of ours, and every file that one of them reads."""
    kinds = {folder: ["*.py"] for folder in FOLDERS}
    kinds["schemas"].append("*.schema.json")
    kinds["bridge"].append("fabric/lua/*.lua")
    kinds["data_plane"].append("engines/*.toml")
    kinds["control_plane"] += [
        "pipelines/*.json",
        "console/*.*",
        "console/messages/*.*",
        "console/pictures/*.*",
        "console/vendor/*.*",
        "reference/*.*",
    ]
    paths = [path for folder, patterns in kinds.items() for kind in patterns for path in (ROOT / folder).rglob(kind)]
    own = [path for kind in ("*.py", "py.typed", "examples/base/*.*") for path in (ROOT / "dihedral").glob(kind)]
    own += (ROOT / "dihedral" / "examples").glob("*.py")
    inside = {path.relative_to(ROOT).as_posix() for path in own}
    return inside | {f"dihedral/{path.relative_to(ROOT).as_posix()}" for path in paths}


def version(wheel: Path) -> str:
    return wheel.name.split("-")[1]


def run(*command: str | Path, cwd: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout
