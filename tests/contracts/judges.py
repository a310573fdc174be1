"""The two judges of a document: the source schema by jsonschema, the generated struct by msgspec."""

import json
from functools import cache
from importlib import import_module
from typing import Any

import msgspec
from jsonschema import Draft202012Validator, FormatChecker

from dihedral.schemas.documents import registry


def by_schema(text: str, stem: str, name: str) -> bool:
    """With jsonschema's own formats, which are not the ones that schemas.documents uses."""
    try:
        document = json.loads(text)
    except ValueError:
        return False
    return bool(_validator(stem, name).is_valid(document))


def by_struct(text: str | bytes, stem: str, name: str) -> bool:
    try:
        _decoder(stem, name).decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return False
    return True


@cache
def _validator(stem: str, name: str) -> Draft202012Validator:
    reference = {"$ref": f"dihedral:{stem}#/$defs/{name}"}
    return Draft202012Validator(reference, registry=registry(), format_checker=FormatChecker())


@cache
def _decoder(stem: str, name: str) -> msgspec.json.Decoder[Any]:
    return msgspec.json.Decoder(struct_of(stem, name))


def struct_of(stem: str, name: str) -> Any:
    return getattr(import_module(f"schemas.structs.{stem}"), name)
