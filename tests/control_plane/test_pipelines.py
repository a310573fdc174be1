"""pipelines.dir: documents of an operator, checked before anything starts."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge.errors import SettingsError
from dihedral.control_plane.planning import pipelines as templates
from tests.control_plane.served import HELD


def changed(**fields: Any) -> Any:
    return {**copy.deepcopy(HELD), **fields}


def test_a_document_of_the_folder_is_a_pipeline(tmp_path: Path) -> None:
    (tmp_path / "held.json").write_text(json.dumps(HELD))
    (tmp_path / "README.md").write_text("no pipeline")
    found = templates.load(str(tmp_path))
    assert found["held"].label == "Held"
    assert {"talking_picture", "train_image_lora", "train_voice", "simulate"} < set(found)


def test_the_folder_goes_before_what_comes_with_dihedral(tmp_path: Path) -> None:
    (tmp_path / "mine.json").write_text(json.dumps(changed(id="simulate", label="Mine")))
    assert templates.load(str(tmp_path))["simulate"].label == "Mine"


def test_without_a_folder_there_are_ours() -> None:
    ours = {"talking_picture", "render_video", "train_lora", "train_image_lora", "train_voice"}
    ours |= {"compare_voice", "simulate", "speak", "narrated_pictures", "my_voice", "look", "lora_picture"}
    assert set(templates.load("")) == ours


def deep(levels: Any) -> Any:
    return {"a": deep(levels - 1)} if levels else {}


TEMPLATE = HELD["graph"]
NODE = TEMPLATE["nodes"][0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "object"),
        (b"\xff\xfe", "malformed"),
        (b'{"graph":' + b'{"a":' * 100_000, "recursion"),
        (json.dumps(changed(graph={**TEMPLATE, "context": deep(70)})).encode(), "deep"),
        (json.dumps(changed(id="a b")).encode(), "id"),
        (json.dumps(changed(colour="red")).encode(), "colour"),
        (json.dumps({name: value for name, value in HELD.items() if name != "graph"}).encode(), "graph"),
        (json.dumps(changed(params={"type": "objekt"})).encode(), "params"),
        (json.dumps(changed(params={"type": "object", "properties": []})).encode(), "params"),
        (json.dumps(changed(params={"type": "object", "properties": {"a/b": {"type": 1}}})).encode(), "/params/properties/a~1b"),
        (json.dumps(changed(params={"type": "object", "properties": {"wait": {"type": "string", "default": 5}}})).encode(), "default"),
        (json.dumps(changed(graph={**TEMPLATE, "nodes": [{**NODE, "params": {"wait": {"$param": "waite"}}}]})).encode(), "waite"),
        (json.dumps(changed(graph={**TEMPLATE, "nodes": [{**NODE, "params": {"wait": {"$param": 5}}}]})).encode(), "$param"),
        (json.dumps(changed(graph={**TEMPLATE, "nodes": []})).encode(), "nodes"),
        (json.dumps(changed(graph={**TEMPLATE, "nodes": [{**NODE, "colour": "red"}]})).encode(), "colour"),
        (json.dumps(changed(graph={**TEMPLATE, "nodes": [{**NODE, "params": {"wait": {"$param": "wait", "x": 1}}}]})).encode(), "$param"),
        (json.dumps(changed(graph={**TEMPLATE, "edges": [{"from": "a"}]})).encode(), "edges"),
        (json.dumps(changed(graph={**TEMPLATE, "edges": [{"from": "a", "to": "b"}]})).encode(), "'b'"),
        (json.dumps(changed(graph={**TEMPLATE, "nodes": [NODE, NODE]})).encode(), "already"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_document_that_is_none_stops_the_start_with_one_line_that_names_it(
    tmp_path: Path, text: Any, says: Any
) -> None:
    (tmp_path / "bad.json").write_bytes(text)
    with pytest.raises(SettingsError) as caught:
        templates.load(str(tmp_path))
    line = str(caught.value)
    assert line.startswith(f"{tmp_path / 'bad.json'}: ")
    assert says in line
    assert "\n" not in line
    assert len(line) < 1000


def test_a_parameter_may_stand_for_any_value(tmp_path: Path) -> None:
    node = {**NODE, "timeoutSeconds": {"$param": "seconds"}, "tags": {"$param": "tags"}}
    params = {
        "type": "object",
        "properties": {"wait": {"type": "string"}, "seconds": {"type": "number"}, "tags": {"type": "array"}},
    }
    (tmp_path / "open.json").write_text(json.dumps(changed(params=params, graph={**TEMPLATE, "nodes": [node]})))
    assert "held" in templates.load(str(tmp_path))


def plugin(folder: Any, code: Any) -> None:
    """Installs a distribution with one pipeline, as pip would."""
    (folder / "plug.py").write_text(code)
    information = folder / "plug-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: plug\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text("[dihedral.pipelines]\nmine = plug:PIPELINE\n")


def test_a_plugin_brings_a_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin(tmp_path, f"PIPELINE = {HELD!r}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plug", raising=False)
    assert templates.load("")["held"].label == "Held"


@pytest.mark.parametrize("code", ["1 / 0", "PIPELINE = object()", "PIPELINE = {'id': 'x'}", ""])
def test_a_plugin_that_brings_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: Any) -> None:
    plugin(tmp_path, code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "plug", raising=False)
    with pytest.raises(SettingsError, match=r"^plugin mine \(plug:PIPELINE\): "):
        templates.load("")


def test_two_documents_with_one_id_are_refused(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        (tmp_path / name).write_text(json.dumps(HELD))
    with pytest.raises(SettingsError, match=r"b\.json: .*'held'.*a\.json"):
        templates.load(str(tmp_path))


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pipelines\.dir: .*none"):
        templates.load(str(tmp_path / "none"))


def test_a_document_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bad.json").mkdir()
    with pytest.raises(SettingsError, match=r"bad\.json: "):
        templates.load(str(tmp_path))
