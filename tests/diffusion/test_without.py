"""Where the extra `diffusion` is not installed, the task says so, and nothing else changes."""

import subprocess
import sys
from pathlib import Path

import pytest

from dihedral.bridge.tasks.registry import collect
from dihedral.data_plane.tasks import BUILTIN, train_diffusion_lora
from tests.support.in_process import TaskRunner

PARAMS = {"base": {"bucket": "inputs", "key": "sd.zip"}, "pictures": [{"bucket": "inputs", "key": "a.png"}]}


def test_the_manifest_and_a_run_name_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_diffusion_lora, "PACKAGES", ("numpy", "a_package_that_no_one_has"))
    manifest = collect(BUILTIN, plugins=False)["train_diffusion_lora"].manifest
    assert manifest.unavailable == "it needs a_package_that_no_one_has: pip install 'dihedral[diffusion]'"
    with TaskRunner.opened(tmp_path / "store") as place:
        code, message = place.refusal("train_diffusion_lora", PARAMS)
    assert code == "missing_package"
    assert message.endswith("pip install 'dihedral[diffusion]'")


def test_a_worker_that_has_all_of_it_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_diffusion_lora, "PACKAGES", ("numpy",))
    tasks = collect(BUILTIN, plugins=False)
    assert not isinstance(tasks["train_diffusion_lora"].manifest.unavailable, str)
    assert not isinstance(tasks["train_voice"].manifest.unavailable, str)


def test_the_tasks_are_collected_without_the_packages() -> None:
    said = subprocess.run(
        [sys.executable, "-c", "import sys; from dihedral.bridge.tasks.registry import collect; from dihedral.data_plane.tasks import BUILTIN; "
         "collect(BUILTIN, plugins=False); print({'torch', 'diffusers', 'peft', 'transformers'} & sys.modules.keys())"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == "set()"
