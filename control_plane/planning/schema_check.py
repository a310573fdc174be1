"""Checks a document against a JSON Schema: fast where the document is valid, with every error where it is not.

jsonschema takes a millisecond, a submission has a few tens of microseconds. So a schema is compiled once into a *proof*: a
function that answers True only where it can show the document valid. It knows the keywords that msgspec writes; every
other keyword, and every document that a proof cannot show valid, goes to jsonschema, whose answer is kept by the bytes of both.

A *wild card* is an object with `$from`: its value is known only when the node runs, so it fits everywhere, and a complaint
about something that contains one counts only where the wild card cannot have caused it.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, Final

import msgspec
from jsonschema import Draft202012Validator, validators
from jsonschema.exceptions import ValidationError
from referencing import Registry

from dihedral.control_plane.planning.patterns import is_affordable, without_costly_names

Proof = Callable[[Any], bool]
Path = tuple[str | int, ...]

DETAIL_LENGTH: Final = 300  # jsonschema quotes the whole document in its message
ANNOTATIONS: Final = frozenset(
    {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "discriminator", "format"}
    | {"$schema", "$id", "$defs", "$comment"}
)
# The keywords that may fail for an object or array although only one of its members is a wild card.
ABOUT_MEMBERS: Final = frozenset(
    {
        "anyOf",
        "oneOf",
        "not",
        "if",
        "contains",
        "uniqueItems",
        "enum",
        "const",
        "unevaluatedProperties",
        "unevaluatedItems",
    }
)


class Complaint(msgspec.Struct, frozen=True):
    path: Path
    code: str
    detail: str


class Check:
    """A schema, compiled.

    `names`: the members that its objects may have, None where others are allowed too. `required`: those they must have,
    which `complaints` leaves to the caller, because some of them come from elsewhere. `types`: those of each member.
    """

    def __init__(self, schema: dict[str, Any]) -> None:
        root = _root(schema)
        properties = root.get("properties")
        self.properties: frozenset[str] = frozenset(properties if isinstance(properties, dict) else ())
        closed = root.get("additionalProperties") is False and "patternProperties" not in root
        self.names: frozenset[str] | None = self.properties if closed else None
        self.types: dict[str, frozenset[str]] = {
            name: types_of(each, schema) for name, each in (properties if isinstance(properties, dict) else {}).items()
        }
        self.required: tuple[str, ...] = tuple(root.get("required", ()))
        loose = without_costly_names({**schema, **root, "required": []})
        if root is not schema:
            loose.pop("$ref")
        self._schema = msgspec.json.encode(loose)
        self.names_artifacts = b'"x-artifact"' in msgspec.json.encode(schema)
        try:
            self._proof = _Compiler(loose).proof(loose)
        except (re.error, TypeError, ValueError, AttributeError):  # not a schema: jsonschema reports the error
            self._proof = _nothing

    def complaints(self, document: dict[str, Any]) -> tuple[Complaint, ...]:
        """Returns all errors of a document, except required members missing at its top level."""
        if self._proof(document):
            return ()
        return _complaints(self._schema, msgspec.json.encode(document))


def is_wild(value: Any) -> bool:
    return type(value) is dict and "$from" in value


def pointer(path: Path) -> str:
    """Formats a path as an RFC 6901 pointer."""
    return "".join("/" + str(name).replace("~", "~0").replace("/", "~1") for name in path)


def types_of(schema: Any, root: dict[str, Any], deep: int = 0) -> frozenset[str]:
    """Returns the JSON types that a schema allows; empty where it does not say."""
    if not isinstance(schema, dict) or deep > 8:
        return frozenset()
    target = _root({**root, **schema}) if "$ref" in schema else schema
    if target is not schema and "$ref" not in target:
        return types_of(target, root, deep + 1)
    for word in ("anyOf", "oneOf"):
        if isinstance(options := schema.get(word), list):
            found = [types_of(each, root, deep + 1) for each in options]
            return frozenset().union(*found) if all(found) else frozenset()
    kind = schema.get("type")
    kinds = {kind} if isinstance(kind, str) else set(kind) if isinstance(kind, list) else set()
    return frozenset(kinds) | (frozenset({"number"}) if "integer" in kinds else frozenset())


def _root(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns the schema, or the definition to which it is only a reference (as msgspec writes it)."""
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        found = schema.get("$defs", {}).get(reference.removeprefix("#/$defs/"))
        if isinstance(found, dict):
            return found
    return schema


# Proofs ---------------------------------------------------------------------------------------------------------------


def _nothing(value: Any) -> bool:
    """Proves nothing, so jsonschema decides."""
    return False


class _Compiler:
    def __init__(self, schema: dict[str, Any]) -> None:
        self.definitions = schema.get("$defs", {})
        self.done: dict[str, Proof] = {}

    def proof(self, schema: Any) -> Proof:
        if schema is True or schema == {}:
            return lambda value: True
        if not isinstance(schema, dict):
            return _nothing
        parts: list[Proof] = []
        words = {word for word in schema if word not in ANNOTATIONS and not word.startswith("x-")}
        for part in (self._reference, self._any_of, self._enumeration, self._typed):
            parts += part(schema, words)
        if words:
            return _nothing
        if len(parts) == 1:
            only = parts[0]
            return lambda value: is_wild(value) or only(value)
        return lambda value: is_wild(value) or all([part(value) for part in parts])

    def _reference(self, schema: dict[str, Any], words: set[str]) -> list[Proof]:
        if "$ref" not in words:
            return []
        reference = schema["$ref"]
        name = str(reference).removeprefix("#/$defs/")
        if not str(reference).startswith("#/$defs/") or name not in self.definitions:
            return []
        words.discard("$ref")
        if name not in self.done:
            self.done[name] = lambda value: self.done[name](
                value
            )  # used while the schema is being compiled, since it may refer to itself
            self.done[name] = self.proof(self.definitions[name])
        return [lambda value: self.done[name](value)]

    def _any_of(self, schema: dict[str, Any], words: set[str]) -> list[Proof]:
        if "anyOf" not in words or not isinstance(schema["anyOf"], list):
            return []
        words.discard("anyOf")
        choices = [self.proof(choice) for choice in schema["anyOf"]]
        return [lambda value: any(choice(value) for choice in choices)]

    def _enumeration(self, schema: dict[str, Any], words: set[str]) -> list[Proof]:
        if "enum" not in words:
            return []
        words.discard("enum")
        texts = frozenset(value for value in schema["enum"] if isinstance(value, str))
        return [lambda value: type(value) is str and value in texts]  # numbers: 1 == True, so not here

    def _typed(self, schema: dict[str, Any], words: set[str]) -> list[Proof]:
        kind = schema.get("type")
        if kind not in ("integer", "number", "string", "boolean", "null", "array", "object"):
            return []
        words.discard("type")
        if kind == "boolean":
            return [lambda value: type(value) is bool]
        if kind == "null":
            return [lambda value: value is None]
        if kind == "string":
            return [_string(schema, words)]
        if kind == "array":
            return [self._array(schema, words)]
        return [self._object(schema, words)] if kind == "object" else [_number(schema, words, kind)]

    def _array(self, schema: dict[str, Any], words: set[str]) -> Proof:
        words -= {"items", "minItems", "maxItems"}
        item = self.proof(schema.get("items", True))
        least, most = schema.get("minItems", 0), schema.get("maxItems", float("inf"))
        return lambda value: type(value) is list and least <= len(value) <= most and all([item(each) for each in value])

    def _object(self, schema: dict[str, Any], words: set[str]) -> Proof:
        words -= {"properties", "required", "additionalProperties", "minProperties", "maxProperties"}
        properties = {name: self.proof(each) for name, each in schema.get("properties", {}).items()}
        required = tuple(schema.get("required", ()))
        other = schema.get("additionalProperties", True)
        rest = _nothing if other is False else self.proof(other)
        least, most = schema.get("minProperties", 0), schema.get("maxProperties", float("inf"))

        def proves(value: Any) -> bool:
            if type(value) is not dict or not least <= len(value) <= most:
                return False
            for name in required:
                if name not in value:
                    return False
            for name, member in value.items():  # noqa: SIM110 - all() would double the time
                if not properties.get(name, rest)(member):
                    return False
            return True

        return proves


def _string(schema: dict[str, Any], words: set[str]) -> Proof:
    words -= {"minLength", "maxLength", "pattern"}
    least, most = schema.get("minLength", 0), schema.get("maxLength", float("inf"))
    pattern = schema.get("pattern", "")
    fits = re.compile(pattern).search
    return lambda value: (
        type(value) is str
        and least <= len(value) <= most
        and (not is_affordable(pattern, value) or fits(value) is not None)
    )


def _number(schema: dict[str, Any], words: set[str], kind: str) -> Proof:
    words -= {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
    least, most = schema.get("minimum", float("-inf")), schema.get("maximum", float("inf"))
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    step = schema.get("multipleOf")

    def proves(value: Any) -> bool:
        exact = type(value) is int
        return (
            (exact or (kind == "number" and type(value) is float))
            and least <= value <= most
            and (above is None or value > above)
            and (below is None or value < below)
            and (step is None or (exact and value % step == 0))
        )

    return proves


# The full answer ------------------------------------------------------------------------------------------------------


def _pattern(checker: Any, pattern: str, value: Any, schema: Any) -> Iterator[ValidationError]:
    """Checks the pattern where that is over in a moment; else the task does, when it runs."""
    if isinstance(value, str) and is_affordable(pattern, value):
        yield from Draft202012Validator.VALIDATORS["pattern"](checker, pattern, value, schema)


Validator = validators.extend(Draft202012Validator, {"pattern": _pattern})


@lru_cache(maxsize=512)
def _validator(schema: bytes) -> Any:
    # An empty registry: a reference to somewhere else is an error, never a request.
    return Validator(msgspec.json.decode(schema), registry=Registry())


@lru_cache(maxsize=4096)
def _complaints(schema: bytes, document: bytes) -> tuple[Complaint, ...]:
    found: list[Complaint] = []
    decoded = msgspec.json.decode(document)
    try:
        for error in _validator(schema).iter_errors(decoded):
            found += _of_error(decoded, error)
    except Exception as error:  # a plugin wrote the schema, and jsonschema may raise any exception over a bad one
        why = f"the task's schema cannot be used: {type(error).__name__}: {error}"
        found.append(Complaint((), "bad_schema", why[:DETAIL_LENGTH]))
    return tuple(found)


def _of_error(document: Any, error: ValidationError) -> list[Complaint]:
    path: Path = tuple(error.absolute_path)
    value = document
    for name in path:
        if is_wild(value):
            return []
        value = value[name]
    if is_wild(value) or (error.validator in ABOUT_MEMBERS and _contains_wild(value)):
        return []
    if error.validator == "additionalProperties" and error.validator_value is False:
        known = error.schema.get("properties", {}) if isinstance(error.schema, dict) else {}
        return [
            Complaint((*path, name), "unknown_param", f"there is no parameter {name!r}")
            for name in value
            if name not in known
        ]
    if error.validator == "required":
        return [Complaint(path, "missing_param", error.message[:DETAIL_LENGTH])]
    return [Complaint(path, "invalid_param", error.message[:DETAIL_LENGTH])]


def _contains_wild(value: Any) -> bool:
    stack = [value]
    while stack:
        item = stack.pop()
        if is_wild(item):
            return True
        if isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)
    return False
