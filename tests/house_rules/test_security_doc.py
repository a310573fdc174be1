"""docs/security.md: every threat names a test, and every test that it names is there."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
NAMED = re.compile(r"`([a-z_0-9/]+\.py)::(test_[a-z_0-9]+)`")


def test_every_line_of_the_threat_table_names_tests_that_are_there() -> None:
    text = (ROOT / "docs/security.md").read_text()
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| who | tries")]
    assert len(rows) >= 20
    for row in rows:
        named = NAMED.findall(row.rsplit("|", 2)[1])
        assert named, row
        for file, test in named:
            found = re.search(rf"^((?:@.*\n)*)(?:async )?def {test}\(", (ROOT / "tests" / file).read_text(), re.M)
            assert found, f"{file}::{test}"
            assert not re.search(r"mark\.(long|skip|cluster)\b", found[1]), (
                f"{file}::{test} is no part of the normal run"
            )
