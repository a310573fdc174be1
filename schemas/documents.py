"""The source schemas as they travel in the package, and every problem of a document by them.

msgspec reports the first problem only, and without the key inside a map; where it has refused, jsonschema lists them all.
It is forty times slower, so it never checks a document that msgspec took.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from itertools import islice
from typing import Any

import msgspec
from jsonschema import Draft202012Validator, FormatChecker, validators
from jsonschema.exceptions import ValidationError
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from dihedral.schemas.strict import AwareDateTime

DETAIL_LENGTH = 300  # a message quotes the value, which may be megabytes
CODES = {
    "type": "wrong_type",
    "enum": "not_one_of",
    "const": "not_one_of",
    "pattern": "bad_pattern",
    "format": "bad_format",
    "minLength": "too_short",
    "maxLength": "too_long",
    "minItems": "too_few",
    "maxItems": "too_many",
    "minimum": "too_small",
    "exclusiveMinimum": "too_small",
    "maximum": "too_large",
}
FORMATS = FormatChecker(formats=())
Row = tuple[str, str, str]


def _is_aware_time(value: object) -> bool:
    """Checks a time by msgspec's rule: jsonschema checks times only with one more package, and takes others than msgspec does."""
    return not isinstance(value, str) or bool(msgspec.convert(value, AwareDateTime))


FORMATS.checks("date-time", raises=msgspec.ValidationError)(_is_aware_time)


def _items(checker: Any, items: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
    """Checks the items up to `maxItems` only: a longer list is refused by that anyway, and checking it all would take seconds."""
    seen = instance[: schema.get("maxItems")] if isinstance(instance, list) else instance
    yield from Draft202012Validator.VALIDATORS["items"](checker, items, seen, schema)


Validator = validators.extend(Draft202012Validator, {"items": _items})


@cache
def sources() -> dict[str, dict[str, Any]]:
    """Returns stem → schema document as it is in its file."""
    found = {}
    for domain in files("dihedral.schemas").iterdir():
        if domain.is_dir():
            for file in domain.iterdir():
                if file.name.endswith(".schema.json"):
                    found[file.name.removesuffix(".schema.json")] = json.loads(file.read_text(encoding="utf-8"))
    return found


def linked(document: Any, stem: str) -> Any:
    """A copy in which every reference is absolute (`dihedral:<stem>#…`), so that any part of it can stand alone."""
    if isinstance(document, list):
        return [linked(item, stem) for item in document]
    if not isinstance(document, dict):
        return document
    copy = {key: linked(value, stem) for key, value in document.items()}
    if isinstance(document.get("$ref"), str):
        file, _, fragment = document["$ref"].partition("#")
        target = re.sub(r"^.*/|\.schema\.json$", "", file) or stem
        copy["$ref"] = f"dihedral:{target}#{fragment}"
    return copy


@cache
def registry() -> Registry[Any]:
    """Returns every source schema under `dihedral:<stem>`."""
    resources = [
        (f"dihedral:{stem}", DRAFT202012.create_resource(linked(text, stem))) for stem, text in sources().items()
    ]
    return Registry().with_resources(resources)


@cache
def validator(stem: str, name: str) -> Any:
    """Returns the validator of the definition `name` of a schema file."""
    return Validator({"$ref": f"dihedral:{stem}#/$defs/{name}"}, registry=registry(), format_checker=FORMATS)


def problems_of(document: Any, stem: str, name: str, limit: int = 100) -> list[Row]:
    """Returns (RFC 6901 pointer, code, detail) of every problem, at most `limit`; empty: jsonschema sees none.

    Empty does not mean that msgspec takes it: `3.0` is an integer here and none there.
    """
    try:
        return list(islice(_rows(validator(stem, name).iter_errors(document)), limit))
    except RecursionError:
        return [("", "too_deep", "nested too deep")]


def _rows(errors: Iterator[ValidationError]) -> Iterator[Row]:
    for error in errors:
        if error.context:
            yield from _rows(iter(_branch(error)))
        elif error.validator == "additionalProperties":
            known = error.schema.get("properties", {})
            for key in error.instance:
                if key not in known:
                    yield (
                        _pointer([*error.absolute_path, key]),
                        "unknown_field",
                        f"there is no field {key!r}"[:DETAIL_LENGTH],
                    )
        elif error.validator == "required":
            # one error per missing field, and only the message names the field
            yield (
                _pointer(error.absolute_path),
                "missing_field",
                error.message.replace("is a required property", "is missing"),
            )
        else:
            yield _pointer(error.absolute_path), CODES.get(str(error.validator), "invalid"), _short(error.message)


def _branch(error: ValidationError) -> list[ValidationError]:
    """Returns the errors of the branch that was meant: the one whose tag fits, else the one that is not null.

    Where no tag fits, the tag alone is wrong.
    """
    branches: dict[int, list[ValidationError]] = {}
    for inner in error.context:
        branches.setdefault(int(inner.schema_path[0]), []).append(inner)
    tags = [inner for inner in error.context if inner.validator == "const"]
    fitting = [found for found in branches.values() if not any(inner.validator == "const" for inner in found)]
    if tags and not fitting:
        allowed = ", ".join(repr(inner.validator_value) for inner in tags)
        tags[0].message = f"{tags[0].instance!r} is not one of {allowed}"
        return tags[:1]
    wrong_kind = [found for found in fitting if found[0].validator == "type" and not found[0].path]
    meant = [found for found in fitting if found not in wrong_kind]
    return (meant or wrong_kind or [list(error.context)])[0]


def _pointer(path: Any) -> str:
    return "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in path)


def _short(text: str) -> str:
    return text if len(text) <= DETAIL_LENGTH else f"{text[:DETAIL_LENGTH]}…"
