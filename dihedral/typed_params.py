"""Params as they are typed on a command line: `steps=3`, `colours=red,blue`, `picture=inputs/dusk.png`; read by the schema, not by how they look."""

import json
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from dihedral.terminal import usage

Schema = Mapping[str, Any]
TRUE = frozenset({"true", "yes", "on"})
FALSE = frozenset({"false", "no", "off"})


def meant(name: str, known: Sequence[str]) -> str:
    """Returns a suggestion for a mistyped name, else what there is."""
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(known)}" if known else "; there are none"


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise usage(f"{text!r} is not NAME=VALUE")
    return name, value


def property_of(name: str, schema: Schema, what: str) -> Schema:
    """Returns the schema of one param. Raises SettingsError with a suggestion."""
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if name not in properties:
        raise usage(f"{what} has no parameter {name!r}{meant(name, list(properties))}")
    return properties[name]


def value_of(name: str, text: str, schema: Schema) -> Any:
    """Reads a value by the schema of its param; one that no type of it fits is passed on as JSON or text, so that the server explains it."""
    for branch in branches(schema):
        found = _read(text, branch)
        if found is not _NOT_SO:
            return found
    try:
        return json.loads(text)
    except ValueError:
        return text


def branches(schema: Schema) -> list[Schema]:
    """Returns the alternatives of a schema, text last: what reads as a number or null is none where both may stand."""
    found = [each for one in schema.get("anyOf", [schema]) for each in ([one] if isinstance(one, dict) else [])]
    return sorted(found, key=lambda each: each.get("type") == "string")


def is_artifact(schema: Schema) -> bool:
    return any("x-artifact" in each for each in branches(schema))


def is_list_of_artifacts(schema: Schema) -> bool:
    return any("x-artifact" in each.get("items", {}) for each in branches(schema))


def local_file(text: str, schema: Schema) -> Path | None:
    """Returns the file that a value of an artifact param names on this machine; None where there is none."""
    if not is_artifact(schema):
        return None
    path = Path(text).expanduser()
    return path if path.is_file() else None


_NOT_SO = object()


def _read(text: str, schema: Schema) -> Any:
    if "enum" in schema:
        return next((value for value in schema["enum"] if text == value or text == json.dumps(value)), _NOT_SO)
    if "x-artifact" in schema and not text.startswith("{"):
        bucket, slash, key = text.partition("/")
        return {"bucket": bucket, "key": key} if slash and key else _NOT_SO
    kind = schema.get("type")
    if kind == "string":
        return text
    if kind == "boolean":
        word = text.lower()
        return True if word in TRUE else False if word in FALSE else _NOT_SO
    if kind == "null":
        return None if text.lower() in ("null", "none") else _NOT_SO
    if kind == "array" and not text.startswith("["):
        items = schema.get("items", {})
        return [value_of("", each, items) for each in text.split(",")] if text else []
    try:
        found = json.loads(text)
    except ValueError:
        return _NOT_SO
    kinds: dict[str, tuple[type, ...]] = {
        "integer": (int,),
        "number": (int, float),
        "array": (list,),
        "object": (dict,),
    }
    if kind in kinds and (isinstance(found, bool) or not isinstance(found, kinds[kind])):
        return _NOT_SO
    return found


def described(schema: Schema) -> str:
    """Returns a param's type and default in a few words, as JSON: `integer = 3`, `file`, `one of "auto", "nvenc"`."""
    words = []
    for branch in branches(schema):
        if "x-artifact" in branch:
            words.append("file")
        elif "enum" in branch:
            words.append(f"one of {', '.join(json.dumps(each) for each in branch['enum'])}")
        elif branch.get("type") == "array":
            words.append(f"list of {described({**branch.get('items', {}), 'default': _NOT_SO})}")
        elif branch.get("type") != "null":
            words.append(str(branch.get("type", "any")))
    default = schema.get("default", _NOT_SO)
    return " or ".join(dict.fromkeys(words)) + (
        "" if default is _NOT_SO else f" = {json.dumps(default, ensure_ascii=False)}"
    )
