"""The docs: generated pages are fresh, links lead somewhere, every setting is described, and every example runs."""

import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from dihedral.bridge import settings
from dihedral.schemas.documents import sources

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")])


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
        [sys.executable, "docs/reference.py", "--check"], cwd=ROOT, capture_output=True, text=True, timeout=240
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


def links() -> Iterator[tuple[Path, str]]:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text()):
            if "://" not in target and not target.startswith("mailto:"):
                yield page, target


def test_every_link_leads_to_a_file() -> None:
    found = list(links())
    assert found
    assert [f"{page.name}: {target}" for page, target in found if not (page.parent / target).exists()] == []


def test_every_file_of_ours_that_a_page_names_is_there() -> None:
    """Also below tests/. A capital word stands for a name that the reader chooses; deploy/secrets is made by deploy/secrets.sh."""
    ours = "bridge|control_plane|data_plane|schemas|dihedral|codegen|deploy|tests|examples|docs"
    named = {(page.name, path) for page in PAGES for path in re.findall(rf"`((?:{ours})/[\w./-]+)`", page.read_text())}
    assert len(named) > 50
    chosen = {each for each in named if "NAME" in each[1] or each[1].startswith("deploy/secrets/")}
    there = {each for each in named if (ROOT / each[1]).exists() or (ROOT / "tests" / each[1]).exists()}
    assert named - chosen - there == set()


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text()
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert {name for name in names if f"({name})" not in index} == set()


def test_the_glossary_is_short() -> None:
    terms = re.findall(r"^\*\*", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)
    assert 15 <= len(terms) <= 30
