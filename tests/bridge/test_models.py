"""Local models: what `{"local": …}` finds below the roots, and that nothing leads out of them."""

import os
import socket
from pathlib import Path

import pytest

from dihedral.bridge.tasks import models
from dihedral.bridge.tasks.models import BadModel
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a model, and beside it what nobody may name."""
    (tmp_path / "roots" / "sdxl" / "base" / "unet").mkdir(parents=True)
    (tmp_path / "roots" / "sdxl" / "base" / "unet" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "roots-of-others").mkdir()
    (tmp_path / "roots-of-others" / "secret").write_text("secret")
    (tmp_path / "secret").write_text("secret")
    return tmp_path / "roots"


def find(root: Path, name: str) -> Path:
    return models.find([str(root)], ModelRef(local=name))


def refusal(root: Path, name: str) -> str:
    with pytest.raises(BadModel) as refused:
        pytest.fail(f"it found {find(root, name)}")
    assert str(root.parent) not in str(refused.value), "a user learns no path of the worker"
    return refused.value.code


def test_a_file_and_a_folder_are_found_where_they_lie(root: Path) -> None:
    assert find(root, "sdxl/base") == root / "sdxl" / "base"
    assert find(root, "sdxl/base/unet/model.safetensors").read_bytes() == b"weights"


def test_the_first_root_that_has_it_is_used(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "more"
    (other / "sdxl").mkdir(parents=True)
    (other / "only").write_text("here")
    roots = [str(tmp_path / "gone"), str(root), str(other)]
    assert models.find(roots, ModelRef(local="sdxl")) == root / "sdxl"
    assert models.find(roots, ModelRef(local="only")) == other / "only"


@pytest.mark.parametrize(
    "name",
    ["..", "../secret", "sdxl/../../secret", "/etc/passwd", "//etc/passwd", "", "sdxl//base", "sdxl/", ".", "./sdxl", "sdxl/./base", ".hidden",
     "sdxl\0", "sdxl/ba\nse", "sdxl\\base", "..\\secret", "~", "sdxl/base\0/../../../secret", "../roots-of-others/secret", "a" * 5000, "ä" * 300],
)  # fmt: skip
def test_a_name_that_could_lead_elsewhere_is_refused(root: Path, name: str) -> None:
    assert refusal(root, name) in ("bad_model", "model_not_found")


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "../roots-of-others", "../../secret", "chain"])
def test_a_link_that_leaves_the_root_is_refused(root: Path, target: str) -> None:
    (root / "chain").symlink_to("../roots-of-others/secret")
    (root / "away").symlink_to(target)
    assert refusal(root, "away") == "bad_model"
    (root / "deep").symlink_to(root.parent)
    assert refusal(root, "deep/secret") == "bad_model"


def test_a_folder_with_a_link_that_leaves_the_root_is_refused_as_a_whole(root: Path) -> None:
    """The task, or a program that it starts, would follow it."""
    (root / "sdxl" / "base" / "unet" / "config.json").symlink_to("../../../../secret")
    assert refusal(root, "sdxl/base") == "bad_model"
    assert refusal(root, "sdxl") == "bad_model"
    assert find(root, "sdxl/base/unet/model.safetensors")


def test_links_within_the_root_are_followed_as_a_hub_cache_has_them(root: Path) -> None:
    (root / "models--a--b" / "blobs").mkdir(parents=True)
    (root / "models--a--b" / "blobs" / "0123").write_bytes(b"weights")
    (root / "models--a--b" / "snapshots" / "main").mkdir(parents=True)
    (root / "models--a--b" / "snapshots" / "main" / "model.safetensors").symlink_to("../../blobs/0123")
    found = find(root, "models--a--b/snapshots/main")
    assert (found / "model.safetensors").read_bytes() == b"weights"


def test_a_root_that_is_a_link_is_a_root(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    assert find(tmp_path / "link", "sdxl/base") == root / "sdxl" / "base"


def test_links_in_a_circle_and_to_nothing_are_refused(root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    (root / "nothing").symlink_to("nowhere")
    assert {refusal(root, "a"), refusal(root, "a/x"), refusal(root, "nothing")} <= {"bad_model", "model_not_found"}


def test_a_fifo_a_socket_and_a_device_are_refused_and_not_opened(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(root / "fifo")
    os.mkfifo(root / "sdxl" / "pipe")
    monkeypatch.chdir(root)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        assert refusal(root, "socket") == "bad_model"
    assert refusal(root, "fifo") == "bad_model"
    assert refusal(root, "sdxl") == "bad_model"
    assert refusal(Path("/dev"), "zero") == "bad_model"


def test_a_folder_of_more_files_than_a_model_has_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "MOST_FILES", 10)
    for number in range(11):
        (root / "sdxl" / f"{number}.bin").touch()
    assert refusal(root, "sdxl") == "bad_model"


def test_without_a_root_nothing_is_found_and_it_says_why() -> None:
    with pytest.raises(BadModel, match=r"no models\.roots"):
        models.find([], ModelRef(local="sdxl"))


def test_a_reference_names_an_artifact_or_a_local_model_and_not_both(root: Path) -> None:
    both = ModelRef(bucket="inputs", key="a", local="sdxl")
    for refused in (ModelRef(), ModelRef(bucket="inputs"), both):
        with pytest.raises(BadModel, match="either"):
            models.artifact_of(refused)
        with pytest.raises(BadModel, match="either"):
            models.find([str(root)], refused)
    assert models.artifact_of(ModelRef(bucket="inputs", key="a")) == ArtifactRef(bucket="inputs", key="a")
