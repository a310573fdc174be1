"""What the generated structs say of themselves, how they write, and that their defaults are there."""

import json
from typing import Any

import msgspec
import pytest

from dihedral.schemas.documents import sources
from dihedral.schemas.structs.events import Event, StatusEvent
from dihedral.schemas.structs.graph import Edge, EdgeKind
from dihedral.schemas.structs.settings import Settings
from dihedral.schemas.structs.submission import NodeSubmission
from tests.contracts.judges import struct_of
from tests.contracts.kinds import Kind
from tests.contracts.shapes import SHAPES, full
from tests.contracts.table import SAME_GOOD

SETTINGS_FILES = ("settings.", "control_plane.", "data_plane.")
OBJECTS = [
    (stem, name) for stem, shapes in SHAPES.items() for name, shape in shapes.items() if not isinstance(shape, Kind)
]


@pytest.mark.parametrize(("stem", "name"), OBJECTS)
def test_a_struct_describes_itself_as_its_schema_does(stem: str, name: str) -> None:
    source = sources()[stem]["$defs"][name]
    described = msgspec.json.schema(struct_of(stem, name))["$defs"][name]
    assert described["properties"].keys() == source["properties"].keys()
    assert set(described["required"]) == set(source.get("required", ()))
    assert described["additionalProperties"] is False
    for field, said in source["properties"].items():
        for keyword in (
            "pattern",
            "minLength",
            "maxLength",
            "minimum",
            "maximum",
            "exclusiveMinimum",
            "minItems",
            "maxItems",
        ):
            assert described["properties"][field].get(keyword) == said.get(keyword), f"{field}: {keyword}"
        if isinstance(said.get("default"), str | int | float | bool):
            assert described["properties"][field]["default"] == said["default"]


@pytest.mark.parametrize(("stem", "name"), OBJECTS)
def test_what_is_read_is_written_again_field_for_field(stem: str, name: str) -> None:
    shape = SHAPES[stem][name]
    assert not isinstance(shape, Kind)
    document = full(shape)
    assert json.loads(msgspec.json.encode(msgspec.convert(document, struct_of(stem, name)))) == document


@pytest.mark.parametrize(
    ("definition", "document"),
    [(row[0], row[2]) for row in SAME_GOOD if not isinstance(row[2], str) and not row[0].startswith(SETTINGS_FILES)],
)
def test_a_document_without_defaults_stays_as_it_came(definition: str, document: Any) -> None:
    stem, name = definition.split(".")
    if definition == "submission.GraphSubmission":
        document = {"edges": [], **document}  # its one field with a default
    again = json.loads(msgspec.json.encode(msgspec.convert(document, struct_of(stem, name))))
    assert again == document


def test_fields_that_are_left_out_are_not_written() -> None:
    node = msgspec.convert({"id": "a", "task": "t", "plane": "node"}, NodeSubmission)
    assert node.name is msgspec.UNSET
    assert json.loads(msgspec.json.encode(node)) == {"id": "a", "task": "t", "plane": "node"}


def test_settings_have_all_their_defaults_and_write_them() -> None:
    written = json.loads(msgspec.json.encode(Settings()))
    for section, reference in sources()["settings"]["$defs"]["Settings"]["properties"].items():
        if section == "tasks":  # tables whose types the tasks know
            assert written[section] == {}
            continue
        file, _, pointer = reference["$ref"].partition("#/$defs/")
        stem = file.removesuffix(".schema.json") or "settings"
        fields = sources()[stem]["$defs"][pointer]["properties"]
        assert written[section] == {name: field["default"] for name, field in fields.items()}


def test_two_settings_share_no_section() -> None:
    first, second = Settings(), Settings()
    first.worker.tasks.append("mine")
    first.redis.url = "redis://elsewhere"
    assert second == Settings()


def test_an_event_is_written_with_its_tag_and_read_as_its_type() -> None:
    at = "2026-11-24T04:05:06.789Z"
    text = f'{{"type":"status","seq":1,"created":"{at}","status":"queued","progress":0,"attempt":1,"error":null}}'
    event = msgspec.json.decode(text, type=Event)
    assert isinstance(event, StatusEvent)
    assert json.loads(msgspec.json.encode(event)) == json.loads(text)


def test_words_of_the_wire_that_python_keeps_for_itself_are_renamed() -> None:
    edge = Edge(from_="a", to="b", kind=EdgeKind.normal, metadata={})
    assert json.loads(msgspec.json.encode(edge)) == {"from": "a", "to": "b", "kind": "normal", "metadata": {}}


def test_a_struct_takes_keywords_only() -> None:
    with pytest.raises(TypeError):
        Edge("a", "b", EdgeKind.normal, {})  # type: ignore[call-arg]
