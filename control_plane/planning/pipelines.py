"""The available pipelines: built-in, those of plugins, and those of `pipelines.dir`; later ones replace earlier ones.

Everything in a template that does not depend on its parameters is checked when it is loaded: an operator's mistake stops the start
with one line, before the first user meets it.
"""

from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from dihedral.bridge.errors import SettingsError
from dihedral.bridge.tasks.params import titled, wrong_artifacts
from dihedral.control_plane.planning import plan as planning
from dihedral.control_plane.planning.schema_check import pointer
from dihedral.schemas.documents import problems_of
from dihedral.schemas.structs.pipeline import Pipeline
from dihedral.schemas.structs.submission import GraphSubmission

MEANT_LATER = frozenset({"unknown_task"})
"""Problems of a plan that a template may have: workers bring the tasks, and come later."""

_decode = msgspec.json.Decoder(Pipeline).decode


def load(directory: str) -> dict[str, Pipeline]:
    """Loads the pipelines. Raises SettingsError with the file that is no pipeline document, and the reason."""
    found: dict[str, Pipeline] = {}
    for source in (_ours(), _plugins(), _folder(directory)):
        places: dict[str, str] = {}
        for where, text in source:
            try:
                pipeline = _decode(text)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise SettingsError(f"{where}: is no pipeline: {error}") from error
            wrong = _wrong(pipeline)
            if wrong:
                raise SettingsError(f"{where}: is no pipeline: {' '.join(wrong.split())[:500]}")
            if pipeline.id in places:
                raise SettingsError(f"{where}: the id {pipeline.id!r} is taken by {places[pipeline.id]}")
            places[pipeline.id] = where
            pipeline.params = titled(pipeline.params)
            found[pipeline.id] = pipeline
    return found


# Sources --------------------------------------------------------------------------------------------------------------


def _ours() -> Iterator[tuple[str, bytes]]:
    folder: Any = files("dihedral.control_plane") / "pipelines"
    for file in sorted(folder.iterdir(), key=lambda file: str(file.name)):
        if file.name.endswith(".json"):
            yield file.name, file.read_bytes()


def _plugins() -> Iterator[tuple[str, bytes]]:
    for point in entry_points(group="dihedral.pipelines"):
        where = f"plugin {point.name} ({point.value})"
        try:
            yield where, msgspec.json.encode(point.load())
        except Exception as error:  # a plugin may raise any exception
            raise SettingsError(f"{where}: cannot be loaded: {type(error).__name__}: {error}") from error


def _folder(directory: str) -> Iterator[tuple[str, bytes]]:
    if not directory:
        return
    folder = Path(directory)
    if not folder.is_dir():
        raise SettingsError(f"pipelines.dir: {folder} is no directory")
    for path in sorted(folder.glob("*.json")):
        try:
            yield str(path), path.read_bytes()
        except OSError as error:
            raise SettingsError(f"{path}: cannot be read: {error.strerror}") from error


# Checks of a template -------------------------------------------------------------------------------------------------


def _wrong(pipeline: Pipeline) -> str:
    """Returns the first problem that can be found in advance; empty where there is none."""
    if planning.too_deep(pipeline.params) or planning.too_deep(pipeline.graph):
        return f"nested more than {planning.MAX_NESTING} deep"
    try:
        Draft202012Validator.check_schema(pipeline.params)
    except SchemaError as error:
        return f"/params{pointer(tuple(error.absolute_path))}: {error.message}"
    if wrong := wrong_artifacts(pipeline.params, "/params"):
        return wrong
    properties = pipeline.params.get("properties", {})
    for name, each in properties.items():
        if isinstance(each, dict) and "default" in each and not Draft202012Validator(each).is_valid(each["default"]):
            return f"/params/properties/{name}: the default {each['default']!r} does not fit"
    for at, name in _named(pipeline.graph, "/graph"):
        if not isinstance(name, str) or name not in properties:
            there = ", ".join(properties) or "none"
            return f"{at}: $param names {name!r}, which is no parameter; there are: {there}"
    for at, _, detail in problems_of(pipeline.graph, "submission", "GraphSubmission"):
        if not _is_param(pipeline.graph, at):
            return f"/graph{at}: {detail}"
    return _of_plan(pipeline.graph)


def _of_plan(template: dict[str, Any]) -> str:
    try:
        graph = planning.normalise(msgspec.convert(template, GraphSubmission), "template")
    except msgspec.ValidationError:  # a parameter stands where the plan needs its value
        return ""
    for problem in planning.problems(graph, {}):
        if problem.code not in MEANT_LATER:
            return f"/graph{problem.pointer}: {problem.detail}"
    return ""


def _named(value: Any, at: str) -> Iterator[tuple[str, Any]]:
    """Yields every `$param`: its position and the name that it refers to. Recursive: the depth has been checked."""
    members: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, dict):
        if "$param" in value:
            yield at, value["$param"] if len(value) == 1 else sorted(value)
            return
        members = value.items()
    elif isinstance(value, list):
        members = enumerate(value)
    for name, each in members:
        yield from _named(each, f"{at}/{name}")


def _is_param(document: Any, pointer: str) -> bool:
    for name in pointer.split("/")[1:]:
        if isinstance(document, dict) and "$param" in document:
            return True
        part = name.replace("~1", "/").replace("~0", "~")
        document = document[int(part)] if isinstance(document, list) else document.get(part)
    return isinstance(document, dict) and "$param" in document
