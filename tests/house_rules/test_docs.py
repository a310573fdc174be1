"""The docs: generated pages are fresh, and every setting is described."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from dihedral.bridge import settings
from dihedral.schemas.documents import sources

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_the_generated_pages_are_fresh() -> None:
    done = subprocess.run(
        [sys.executable, "docs/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_setting_without_a_description_is_named(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(reference.without_description()) == []
    lease = sources()["settings"]["$defs"]["JobsSettings"]["properties"]["leaseMs"]
    monkeypatch.delitem(lease, "description")
    assert list(reference.without_description()) == ["jobs.leaseMs"]
    assert reference.main() == 2


def test_the_variables_of_the_page_are_those_that_are_read(reference: ModuleType) -> None:
    for section, _, fields in reference.sections():
        for name, field in fields.items():
            value = field["default"]
            text = ",".join(value) if isinstance(value, list) else str(value)
            settings.load(None, {reference.variable(section, name): text}, {})


def test_a_move_of_a_job_that_is_added_is_drawn(reference: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs/architecture.md").read_text()
    assert reference.with_diagrams(page) == page
    monkeypatch.setitem(reference.JOB_MOVES, "scheduled", frozenset({"failed"}))
    assert "scheduled --> failed" in reference.with_diagrams(page)
