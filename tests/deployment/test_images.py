"""Each image's steps, one after the other, in a clean directory tree: `pytest -n0 -m long -o faulthandler_timeout=1200 tests/deployment/test_images.py`.

No engine runs here. So COPY takes what .dockerignore lets through, RUN runs with the image's paths below the tree, ENV is the whole
environment, and ENTRYPOINT, CMD and HEALTHCHECK are what is started and asked in the end. The base image is this machine's Python.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.polling import becomes
from tests.support.ports import free_port
from tests.support.servers import start_server

ROOT = Path(__file__).parents[2]


class Image:
    """The stage `target` of a Dockerfile, built below `tree` from the stage `build`."""

    def __init__(self, dockerfile: Path, target: str, tree: Path) -> None:
        self.tree = tree
        self.environ = {"PATH": f"{Path(sys.executable).resolve().parent}:/usr/bin:/bin", "HOME": str(tree)}
        self.directory = tree
        self.said: dict[str, list[str]] = {}
        text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
        stages = re.split(r"^FROM ", text, flags=re.M)[1:]
        for stage in stages:
            head, _, body = stage.partition("\n")
            base, _, name = head.partition(" AS ")
            if name not in ("build", target):
                continue
            if base not in ("build", "tools"):  # tools: what an editor needs, and no step of ours
                self.environ = {"PATH": self.environ["PATH"], "HOME": str(tree)}
            for line in filter(None, body.splitlines()):
                word, _, rest = line.partition(" ")
                getattr(self, f"_{word.lower()}")(rest.strip())

    def there(self, text: str) -> str:
        """The image's paths, below the tree."""
        return re.sub(r"(?<![\w./])/(?=opt/|src\b|work\b)", f"{self.tree}/", text)

    def _workdir(self, path: str) -> None:
        self.directory = Path(self.there(path))
        self.directory.mkdir(parents=True, exist_ok=True)

    def _copy(self, rest: str) -> None:
        if rest.startswith("--from=build"):
            source, target = rest.split()[1:]
            assert source == target, "a virtual environment cannot be moved"
            return
        *sources, target = rest.split()
        for source in sources:
            to = self.directory / target
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                assert target.endswith("/"), "a file goes into a folder"
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, to / Path(source).name)

    def _run(self, command: str) -> None:
        subprocess.run(["sh", "-euc", self.there(command)], cwd=self.directory, env=self.environ, check=True)

    def _env(self, rest: str) -> None:
        for pair in rest.split():
            name, _, value = pair.partition("=")
            self.environ[name] = self.there(value).replace("$PATH", self.environ["PATH"])

    def _arg(self, rest: str) -> None:
        name, _, value = rest.partition("=")
        self.environ.setdefault(name, value.strip('"'))

    def _user(self, rest: str) -> None:
        assert rest == "10001:10001"

    def _expose(self, _: str) -> None:
        pass

    def _entrypoint(self, rest: str) -> None:
        self.said["entrypoint"] = json.loads(rest)

    def _cmd(self, rest: str) -> None:
        self.said["cmd"] = json.loads(rest)

    def _healthcheck(self, rest: str) -> None:
        self.said["healthcheck"] = json.loads(rest.partition("CMD ")[2])


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["control-plane", "worker"])
def test_an_image_is_built_started_found_healthy_and_stopped(name: Any, tmp_path: Path) -> None:
    image = Image(ROOT / "deploy" / f"{name}.Dockerfile", "runtime", tmp_path / "image")
    with started(image, image.said["healthcheck"], tmp_path) as (process, is_healthy):
        becomes(is_healthy, 90)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=240)
        assert process.returncode == 0, said
        for line in said.splitlines():
            json.loads(line)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", ["control-plane", "worker"])
def test_an_image_for_development_starts_again_when_its_source_changes(name: Any, tmp_path: Path) -> None:
    image = Image(ROOT / "deploy" / f"{name}.Dockerfile", "dev", tmp_path / "image")
    healthcheck = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][f"{name}-dev"]["healthcheck"]["test"]
    with started(image, healthcheck[1:], tmp_path) as (process, is_healthy):

        def runs() -> str:
            return Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()

        becomes(is_healthy, 90)
        before = runs()
        (image.directory / "bridge" / "version.py").touch()
        becomes(lambda: runs() not in ("", before), 90)
        becomes(is_healthy, 90)


@contextmanager
def started(
    image: Image, healthcheck: list[str], directory: Path
) -> Iterator[tuple[subprocess.Popen[str], Callable[[], bool]]]:
    """The image's process and whether its health check passes, on loopback and a free port."""
    server, url = start_server(directory)
    port = str(free_port())

    def here(part: str) -> str:
        return image.there(part).replace("0.0.0.0", "127.0.0.1").replace("8000", port).replace("9100", port)

    asked = [here(part) for part in healthcheck]
    command = [here(part) for part in image.said.get("entrypoint", []) + image.said["cmd"]]
    environ = image.environ | {
        "DIHEDRAL_REDIS__URL": url,
        "DIHEDRAL_ARTIFACTS__DIRECTORY": str(directory / "artifacts"),
        "TMPDIR": str(directory),
    }
    command[0] = shutil.which(command[0], path=environ["PATH"]) or command[0]
    assert command[0].startswith(str(directory))
    process = subprocess.Popen(
        command, cwd=image.directory, env=environ, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        yield process, lambda: subprocess.run(asked, env=environ, stderr=subprocess.DEVNULL).returncode == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        server.kill()
        server.wait()
