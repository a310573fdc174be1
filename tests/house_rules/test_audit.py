"""`.ci/audit`: a known vulnerability stops CI, a service that cannot be reached does not, and neither reads like "all is well"."""

import importlib.machinery
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def audit() -> Any:
    loader = importlib.machinery.SourceFileLoader("audit", str(ROOT / ".ci/audit"))
    spec = importlib.util.spec_from_loader("audit", loader)
    assert spec is not None
    made = importlib.util.module_from_spec(spec)
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    loader.exec_module(made)
    sys.dont_write_bytecode = before
    return made


CLEAN = {"name": "idna", "version": "3.20", "vulns": []}
UNKNOWN = {"name": "redis", "skip_reason": "Dependency not found"}
FLAWED = {
    "name": "jinja2", "version": "2.10", "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"]}]
}  # fmt: skip


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN], 0, "1 of 1 pinned packages audited, 0 known"),
        ([CLEAN, UNKNOWN], 0, "NOT audited: redis"),
        ([CLEAN, FLAWED], 1, "jinja2 2.10: PYSEC-2019-217 (fixed in 2.10.1)"),
        ([UNKNOWN, UNKNOWN], 0, "NOTHING WAS AUDITED"),
        (None, 0, "NOTHING WAS AUDITED"),
    ],
)
def test_what_was_found_and_what_was_not_looked_at_are_told_apart(
    audit: Any, packages: Any, code: Any, said: Any
) -> None:
    output = "Traceback: no route" if packages is None else json.dumps({"dependencies": packages, "fixes": []})
    found, lines = audit.verdict(output)
    assert found == code
    assert said in "\n".join(lines)


def test_a_finding_that_does_not_concern_us_is_let_by_with_its_reason(audit: Any) -> None:
    audit.IGNORED["CVE-2019-10906"] = "we render no templates of strangers"
    assert audit.verdict(json.dumps({"dependencies": [FLAWED]}))[0] == 0


def test_ci_goes_on_where_nobody_can_be_asked(tmp_path: Path) -> None:
    """Through the program itself, which here has no pip-audit to run."""
    environ = {**os.environ, "PYTHONPATH": "", "PYTHONDONTWRITEBYTECODE": "1"}
    program = [sys.executable, "-S", "-E", str(ROOT / ".ci/audit")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=240, env=environ, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "NOTHING WAS AUDITED" in done.stdout
