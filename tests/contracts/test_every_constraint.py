"""Every constraint of every schema is held by a document: without it, some document of shapes.py changes its verdict."""

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator, FormatChecker

from dihedral.schemas.documents import linked, registry, sources
from tests.contracts.judges import by_schema, by_struct
from tests.contracts.shapes import SHAPES, documents

SCALARS = frozenset(
    {"type", "const", "pattern", "format", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum"}
    | {"minItems", "minProperties", "maxProperties", "maxItems", "$ref"}
)
NO_CONSTRAINTS = frozenset({"title", "description", "default", "customTypePath", "x-artifact"})
DEFINITIONS = [(stem, name) for stem, document in sources().items() for name in document["$defs"]]
# msgspec asks for the tag of a struct only inside its union, and these are only ever read as Event, ClientMessage or ServerMessage
TAGS = {
    **{("events", name): "type" for name in ("StatusEvent", "NodeEvent", "DataEvent", "LogEvent")},
    **{("websocket", name): "type" for name in ("Response", "Update", "Resync")},
    **{("websocket", name): "action" for name in ("Subscribe", "Unsubscribe")},
}
Path = tuple[str | int, ...]


def test_every_definition_is_said_twice() -> None:
    assert sorted(DEFINITIONS) == sorted((stem, name) for stem, shapes in SHAPES.items() for name in shapes)


@pytest.mark.parametrize(("stem", "name"), DEFINITIONS)
def test_schema_and_struct_agree_with_the_contract(stem: str, name: str) -> None:
    for document in documents(SHAPES[stem][name]):
        text = json.dumps(document.content)
        untagged = document.why == f"without {TAGS.get((stem, name))}"
        verdicts = (by_schema(text, stem, name), by_struct(text, stem, name))
        assert verdicts == (document.good, document.good or untagged), f"{document.why}: {text[:300]}"


@pytest.mark.parametrize(("stem", "name"), DEFINITIONS)
def test_deleting_any_constraint_changes_a_verdict(stem: str, name: str) -> None:
    schema = linked(sources()[stem]["$defs"][name], stem)
    # Small documents first, as the 20,001 edges are looked at for their own limit only; of them those that must be refused.
    sized = [(len(repr(case.content)), case) for case in documents(SHAPES[stem][name])]
    cases = [case for _, case in sorted(sized, key=lambda each: (each[0] > 10_000, each[1].good, each[0]))]
    unheld = []
    for path in constraints(schema):
        mutant = without(schema, path)
        judge = Draft202012Validator(mutant, registry=registry(), format_checker=FormatChecker())
        if all(judge.is_valid(case.content) == case.good for case in cases):
            unheld.append("/".join(map(str, path)))
    assert not unheld, "no document needs these"


@pytest.mark.parametrize("stem", [stem for stem, document in sources().items() if "$ref" in document])
def test_the_root_of_a_file_is_its_main_definition(stem: str) -> None:
    root = Draft202012Validator({"$ref": f"dihedral:{stem}"}, registry=registry())
    main = sources()[stem]["$ref"].rpartition("/")[2]
    for case in documents(SHAPES[stem][main]):
        if len(repr(case.content)) < 10_000 and case.why not in (
            "a bad startAt",
            "a bad deadline",
        ):  # formats are not checked here
            assert root.is_valid(case.content) == case.good


def constraints(schema: Any, at: Path = ()) -> Iterator[Path]:
    """The path of everything in a schema that refuses something; of a keyword nobody knows, an error."""
    for keyword, value in schema.items():
        here = (*at, keyword)
        if keyword == "type" and "enum" in schema:
            continue  # only the generator reads it; see test_codegen.py
        if keyword in SCALARS:
            yield here
        elif keyword in {"enum", "required"}:
            yield from ((*here, index) for index in range(len(value)))
            if keyword == "enum":
                yield here
        elif keyword in {"anyOf", "oneOf"}:
            yield here
            for index, branch in enumerate(value):
                yield (*here, index)
                yield from constraints(branch, (*here, index))
        elif keyword == "properties":
            for name, field in value.items():
                yield (*here, name)
                yield from constraints(field, (*here, name))
        elif keyword in {"items", "additionalProperties"}:
            if value is not True:
                yield here
            if isinstance(value, dict):
                yield from constraints(value, here)
        else:
            assert keyword in NO_CONSTRAINTS, f"{'/'.join(map(str, here))}: add this keyword to the test"


def without(schema: Any, path: Path) -> Any:
    mutant = copy.deepcopy(schema)
    inner = mutant
    for step in path[:-1]:
        inner = inner[step]
    del inner[path[-1]]
    return mutant
