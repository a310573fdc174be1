"""The table of good and bad documents, through jsonschema and through msgspec."""

import json
from typing import Any

import pytest

from dihedral.schemas.documents import problems_of, sources
from tests.contracts.judges import by_schema, by_struct
from tests.contracts.table import LOOSER, SAME_BAD, SAME_GOOD, STRICTER


def named(rows: list[Any]) -> list[Any]:
    return [pytest.param(*row, id=f"{row[0]}: {row[1]}") for row in rows]


def parses(document: Any) -> bool:
    """Text is in the table where it is no JSON, or where it says more than its value."""
    return not isinstance(document, str)


@pytest.mark.parametrize(("definition", "why", "document"), named(SAME_GOOD))
def test_both_take(definition: str, why: str, document: Any) -> None:
    assert verdicts(definition, document) == (True, True)


@pytest.mark.parametrize(("definition", "why", "document"), named(SAME_BAD))
def test_both_refuse(definition: str, why: str, document: Any) -> None:
    assert verdicts(definition, document) == (False, False)


@pytest.mark.parametrize(("definition", "why", "document", "reason"), named(STRICTER))
def test_msgspec_is_stricter(definition: str, why: str, document: Any, reason: str) -> None:
    assert verdicts(definition, document) == (True, False), reason


@pytest.mark.parametrize(("definition", "why", "document", "reason"), named(LOOSER))
def test_msgspec_is_looser(definition: str, why: str, document: Any, reason: str) -> None:
    assert verdicts(definition, document) == (False, True), reason


@pytest.mark.parametrize(("definition", "why", "document"), named([row for row in SAME_BAD if parses(row[2])]))
def test_what_is_refused_has_a_problem_with_a_place(definition: str, why: str, document: Any) -> None:
    stem, name = definition.split(".")
    problems = problems_of(document, stem, name)
    assert problems
    for pointer, code, detail in problems:
        assert pointer == "" or pointer.startswith("/")
        assert code.islower()
        assert detail


def test_every_schema_file_has_good_and_bad_rows() -> None:
    assert {row[0].split(".")[0] for row in SAME_GOOD} == set(sources())
    assert {row[0].split(".")[0] for row in SAME_BAD} == set(sources())
    assert len(SAME_GOOD) + len(SAME_BAD) >= 100


def verdicts(definition: str, document: Any) -> tuple[bool, bool]:
    text = document if isinstance(document, str) else json.dumps(document)
    stem, name = definition.split(".")
    return by_schema(text, stem, name), by_struct(text, stem, name)
