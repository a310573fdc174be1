"""The source schemas as they travel in the package, and every problem of a document by them.

msgspec says the first problem only, and without the key inside a map; where it has refused, jsonschema lists them all.
It is forty times slower, so it is never asked about a document that msgspec took.
"""

import json
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator, FormatChecker
from jsonschema.exceptions import ValidationError
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012


@cache
def sources() -> dict[str, dict[str, Any]]:
    """Stem → schema document; references between files are by `<stem>`."""
    found = {}
    for domain in files("schemas").iterdir():
        if domain.is_dir():
            for file in domain.iterdir():
                if file.name.endswith(".schema.json"):
                    found[file.name.removesuffix(".schema.json")] = json.loads(file.read_text())
    return found


@cache
def _registry() -> Registry[Any]:
    resources = []
    for stem, document in sources().items():
        text = json.dumps(document)
        for other in sources():
            text = _by_stem(text, other)
        resources.append((f"dihedral:{stem}", Resource(contents=json.loads(text), specification=DRAFT202012)))
    return Registry().with_resources(resources)


def _by_stem(text: str, stem: str) -> str:
    import re

    return re.sub(rf'"\$ref": "[^"#]*\b{stem}\.schema\.json#', f'"$ref": "dihedral:{stem}#', text)


@cache
def validator(stem: str, name: str) -> Draft202012Validator:
    """For the definition `name` of a schema file."""
    return Draft202012Validator(
        {"$ref": f"dihedral:{stem}#/$defs/{name}"}, registry=_registry(), format_checker=FormatChecker()
    )


def problems_of(document: Any, stem: str, name: str, limit: int = 100) -> list[tuple[str, str, str]]:
    """(RFC 6901 pointer, code, detail) of every problem, at most `limit`, in document order."""
    found: list[tuple[str, str, str]] = []
    for error in validator(stem, name).iter_errors(document):
        for leaf in _leaves(error):
            found.append(leaf)
            if len(found) >= limit:
                return found
    return found


def _leaves(error: ValidationError) -> list[tuple[str, str, str]]:
    path = "".join(f"/{str(part).replace('~', '~0').replace('/', '~1')}" for part in error.absolute_path)
    if error.validator == "additionalProperties" and isinstance(error.instance, dict):
        known = error.schema.get("properties", {})
        return [
            (f"{path}/{key.replace('~', '~0').replace('/', '~1')}", "unknown_field", "there is no such field")
            for key in error.instance
            if key not in known
        ]
    if error.validator == "required" and isinstance(error.instance, dict):
        missing = error.message.split("'")[1]
        return [(path, "missing_field", f"{missing} is required")]
    detail = error.message if len(error.message) <= 300 else f"{error.message[:300]}…"
    return [(path, f"bad_{error.validator}", detail)]
