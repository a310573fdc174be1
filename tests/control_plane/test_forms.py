"""What the schemas of tasks and pipelines say to a form: which artifacts fit, titles, groups; and the stored examples that fit."""

import json
import mimetypes
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from msgspec import Meta, Struct

from dihedral import ArtifactRef, Picture, TaskContext, artifact, examples, task
from dihedral.bridge.errors import SettingsError
from dihedral.bridge.tasks import registry
from dihedral.bridge.tasks.params import title
from dihedral.bridge.tasks.registry import InvalidTask, task_of
from dihedral.control_plane.planning import pipelines
from dihedral.control_plane.tasks import BUILTIN
from dihedral.data_plane import tasks
from dihedral.example_inputs import PLACES

SHIPPED = registry.collect(
    [*BUILTIN, *(f"{tasks.__name__}.{module.name}" for module in pkgutil.iter_modules(tasks.__path__))], plugins=False
)
SCHEMAS = {f"task {name}": made.capability.io.input for name, made in SHIPPED.items()} | {
    f"pipeline {name}": made.params for name, made in pipelines.load("").items()
}
IN_A_MAP = {"task run_tool", "task run_comfyui", "task prepare_assets"}
"""Their files are whatever a tool takes."""


def params_of(schema: Any, at: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, list):
        for each in schema:
            yield from params_of(each, at)
    if not isinstance(schema, dict) or "x-artifact" in schema:
        return
    for name, each in schema.get("properties", {}).items():
        yield f"{at}.{name}", each
        yield from params_of(each, f"{at}.{name}")
    for inside in ("items", "anyOf", "additionalProperties"):
        yield from params_of(schema.get(inside), at)


def artifacts_in(schema: Any) -> Iterator[Any]:
    if isinstance(schema, list):
        for each in schema:
            yield from artifacts_in(each)
    if isinstance(schema, dict):
        if "x-artifact" in schema:
            yield schema["x-artifact"]
        else:
            for each in schema.values():
                yield from artifacts_in(each)


@pytest.mark.parametrize("name", sorted(SCHEMAS.keys() - IN_A_MAP))
def test_every_artifact_of_what_is_shipped_says_what_fits_a1(name: str) -> None:
    for marked in artifacts_in(SCHEMAS[name]):
        assert isinstance(marked, dict)
        assert marked["accept"]


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_label_of_what_is_shipped_reads_as_words_c1(name: str) -> None:
    for at, each in params_of(SCHEMAS[name]):
        assert re.match(r"[A-Z0-9]", each["title"]), at
        assert not re.search(r"[a-z][A-Z]", re.sub(r"\(\w+\)|ComfyUI|LoRA", "", each["title"])), at
        assert each["title"] not in ("Fps", "Memory mi b"), at


@pytest.mark.parametrize("name", sorted(name for name in SCHEMAS if len(SCHEMAS[name].get("properties", {})) > 5))
def test_long_forms_of_what_is_shipped_have_groups(name: str) -> None:
    groups = {each.get("x-group") for each in SCHEMAS[name]["properties"].values()}
    assert len(groups - {None}) >= 2


def test_the_stored_example_of_a_format_fits_where_that_format_is_asked_for_a1() -> None:
    formats = {
        marked["format"]: marked for schema in SCHEMAS.values() for marked in artifacts_in(schema) if marked is not True
    }
    for format, (key, content_type) in PLACES.items():
        assert Path(key).stem == format
        accept = formats[format]["accept"]
        assert key.endswith(tuple(accept)) or any(
            content_type.startswith(each.removesuffix("*")) for each in accept if each.endswith("/*")
        ), (format, accept)
    assert mimetypes.guess_type("a.png")[0] == "image/png"


def test_the_stored_examples_are_the_files_of_the_tiny_model(tmp_path: Path) -> None:
    made = examples.make(tmp_path) | examples.base()
    assert PLACES.keys() <= made.keys()


# Tasks and pipelines of users -----------------------------------------------------------------------------------------

Table = Annotated[ArtifactRef, artifact("text/csv", ".csv", format="table")]


class Wish(Struct, forbid_unknown_fields=True, rename="camel"):
    tables: list[Table]
    cover: Picture | None = None
    by_name: dict[str, Table | None] = {}
    longest_side: int = 3
    memory_mib: Annotated[int, Meta(title="Room")] = 1


class Nothing(Struct):
    pass


def test_a_users_task_says_what_fits_and_gets_titles_and_groups() -> None:
    @task(groups={"Files": ("tables", "cover")})
    def read_tables(params: Wish, ctx: TaskContext) -> Nothing:
        return Nothing()

    params = task_of(read_tables).capability.io.input["properties"]
    table = {"accept": ["text/csv", ".csv"], "bucket": "inputs", "format": "table"}
    assert params["tables"]["items"]["x-artifact"] == table
    assert params["byName"]["additionalProperties"]["anyOf"][0]["x-artifact"] == table
    assert params["cover"]["anyOf"][0]["x-artifact"]["format"] == "picture"
    assert {name: each["title"] for name, each in params.items()} == {
        "tables": "Tables", "cover": "Cover", "byName": "By name", "longestSide": "Longest side", "memoryMib": "Room",
    }  # fmt: skip
    assert [name for name, each in params.items() if each.get("x-group") == "Files"] == ["tables", "cover"]


def test_a_group_that_names_no_param_is_refused() -> None:
    @task(groups={"Files": ("tabels",)})
    def read_tables(params: Wish, ctx: TaskContext) -> Nothing:
        return Nothing()

    with pytest.raises(InvalidTask, match="'tabels', which is no parameter"):
        task_of(read_tables)


@pytest.mark.parametrize(
    ("accept", "more"), [("picture", {}), ("IMAGE/*", {}), (".png", {"bucket": "nowhere"}), (".png", {"format": "A b"})]
)
def test_an_artifact_that_cannot_be_described_so_is_refused(accept: str, more: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="x-artifact"):
        artifact(accept, **({"format": "picture"} | more))


@pytest.mark.parametrize(
    "marked", ["image", {"accept": ["image/*"]}, {"accept": "image/*", "bucket": "inputs", "format": "x"}]
)
def test_a_pipeline_whose_artifact_cannot_be_described_so_stops_the_start(tmp_path: Path, marked: Any) -> None:
    document = {
        "id": "mine", "label": "Mine", "description": "",
        "params": {"type": "object", "properties": {"file": {"type": "object", "x-artifact": marked}}},
        "graph": {"schema": "langgraph.v1", "nodes": [{"id": "a", "task": "t", "plane": "python"}]},
    }  # fmt: skip
    (tmp_path / "mine.json").write_text(json.dumps(document))
    with pytest.raises(SettingsError, match="/params/properties/file: x-artifact"):
        pipelines.load(str(tmp_path))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("learningRate", "Learning rate"), ("memoryMiB", "Memory (MiB)"), ("backgroundDb", "Background (dB)"), ("seed", "Seed"),
        ("URL", "URL"), ("batch_size", "Batch size"), ("größe", "Größe"), ("x", "X"), ("A", "A"), ("top5", "Top 5"), ("名前", "名前"),
    ],
)  # fmt: skip
def test_a_title_is_made_of_the_words_of_a_name(name: str, words: str) -> None:
    assert title(name) == words
