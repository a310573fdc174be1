"""The committed structs are what the generator makes of the schemas, and every schema travels in the package."""

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from codegen import __main__ as codegen

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of schemas/ that may be spoilt."""
    copy = tmp_path / "schemas"
    shutil.copytree(REPOSITORY / "schemas", copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(codegen, "ROOT", copy)
    monkeypatch.setattr(codegen, "STRUCTS", copy / "structs")
    monkeypatch.setattr(codegen, "DOCUMENTS", Path(shutil.copy(REPOSITORY / "dihedral/documents.py", tmp_path)))
    return copy


def test_the_committed_structs_are_fresh() -> None:
    done = subprocess.run([sys.executable, "-m", "codegen", "--check"], cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_stale_struct_and_a_leftover_are_named_and_mended(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fresh = (root / "structs/job.py").read_text()
    (root / "structs/job.py").write_text(fresh.replace("ge=1", "ge=0"))
    (root / "structs/old.py").write_text("")
    typed = codegen.DOCUMENTS.read_text()
    codegen.DOCUMENTS.write_text(typed.replace("NotRequired[str]", "str"))
    assert codegen.main(["--check"]) == 1
    said = capsys.readouterr().err
    assert "schemas/structs/job.py is stale" in said
    assert "schemas/structs/old.py is stale" in said
    assert "dihedral/documents.py is stale" in said
    assert codegen.main([]) == 0
    assert (root / "structs/job.py").read_text() == fresh
    assert not (root / "structs/old.py").exists()
    assert codegen.DOCUMENTS.read_text() == typed


def test_two_files_of_one_name_are_refused(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copy(root / "jobs/job.schema.json", root / "graph/job.schema.json")
    assert codegen.main(["--check"]) == 2
    assert "two schema files have one name" in capsys.readouterr().err


def test_a_missing_generator_is_said_in_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datamodel_code_generator", None)
    assert codegen.main([]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("keyword", "lost"),
    [
        ("type beside enum", lambda schema: schema.pop("type") if "enum" in schema else None),
        ("customTypePath", lambda schema: schema.pop("customTypePath", None)),
        ("default", lambda schema: schema.pop("default", None)),
    ],
)
def test_what_only_the_generator_reads_shows_in_the_structs(
    keyword: str, lost: Callable[[dict[str, Any]], Any], root: Path
) -> None:
    """Its loss changes no verdict of the schema, so the check of the committed structs has to find it."""
    spoilt = set()
    for path in root.glob("*/*.schema.json"):
        document = json.loads(path.read_text())
        if any([lost(schema) is not None for schema in parts(document)]):
            spoilt.add(path.name.replace(".schema.json", ".py"))
            path.write_text(json.dumps(document))
    committed = {path.name: path.read_text() for path in (root / "structs").glob("*.py")}
    changed = {name for name, text in codegen.generate(root).items() if committed[name] != text}
    assert spoilt
    assert spoilt <= changed


def parts(schema: Any) -> list[dict[str, Any]]:
    """Every schema inside a schema; a property may be named like a keyword."""
    if not isinstance(schema, dict):
        return []
    inner = [*schema.get("$defs", {}).values(), *schema.get("properties", {}).values()]
    inner += [
        schema.get("items"),
        schema.get("additionalProperties"),
        *schema.get("anyOf", []),
        *schema.get("oneOf", []),
    ]
    return [schema, *(part for each in inner for part in parts(each))]


def test_every_schema_is_package_data() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = REPOSITORY / "schemas"
    packed = {path for pattern in project["package-data"]["dihedral.schemas"] for path in package.glob(pattern)}
    assert packed == set(package.rglob("*.schema.json")) != set()
    assert (REPOSITORY / "dihedral" / "schemas").resolve() == package
