"""What the schema of a parameter gives a form beside its type: which artifacts fit, its title and its group.

    pictures: Annotated[list[Picture], Meta(max_length=64)]
    weights: Annotated[ArtifactRef, artifact(".safetensors", format="weights", bucket="loras")]

A schema has them as `x-artifact: {accept, bucket, format}`, `title` and `x-group`; whatever shows a form reads them there.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from msgspec import Meta, inspect

from dihedral.bridge.artifacts.store import BUCKETS
from dihedral.schemas.structs.artifact import ArtifactRef, ModelRef

Schema = dict[str, Any]

_ACCEPT = re.compile(r"[a-z]+/(\*|[a-z0-9.+-]+)|\.[a-z0-9]{1,16}")
_FORMAT = re.compile(r"[a-z][a-z0-9_]{0,63}")
_WORDS = re.compile(r"[_.-]+|(?<=[^\W\dA-Z_])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|(?<=[^\W\d_])(?=\d)")
_UNITS = {"mib": "(MiB)", "gib": "(GiB)", "db": "(dB)", "hz": "(Hz)", "ms": "(ms)"}


def artifact(*accept: str, format: str, bucket: str = "inputs") -> Meta:
    """Marks an ArtifactRef or ModelRef with what fits it. `accept`: media types (`image/*`) and endings (`.safetensors`); `format`: one word for what is
    inside, which the stored example of that format is named after; `bucket`: where jobs store such files. Raises ValueError.
    """
    marked = {"accept": list(accept), "bucket": bucket, "format": format}
    if wrong := wrong_artifact(marked):
        raise ValueError(wrong)
    return Meta(extra_json_schema={"x-artifact": marked})


def wrong_artifact(marked: Any) -> str:
    """Returns what is wrong with an `x-artifact`; empty where it is right. `true`, of any file, is what earlier versions wrote."""
    if marked is True:
        return ""
    if not isinstance(marked, dict) or marked.keys() != {"accept", "bucket", "format"}:
        return "x-artifact has accept, bucket and format"
    accept, bucket, format = marked["accept"], marked["bucket"], marked["format"]
    if not isinstance(accept, list) or not all(isinstance(each, str) and _ACCEPT.fullmatch(each) for each in accept):
        return f"x-artifact.accept: {accept!r} is no list of media types and endings such as image/* or .safetensors"
    if bucket not in BUCKETS:
        return f"x-artifact.bucket: there is no bucket {bucket!r}; there are {', '.join(BUCKETS)}"
    if not isinstance(format, str) or not _FORMAT.fullmatch(format):
        return f"x-artifact.format: {format!r} is no word of a-z, 0-9 and _"
    return ""


def wrong_artifacts(schema: Any, at: str = "") -> str:
    """Returns the first wrong `x-artifact` in a schema, with its position; empty where there is none. Recursive: the depth was checked."""
    if isinstance(schema, list):
        return next(
            (wrong for index, each in enumerate(schema) if (wrong := wrong_artifacts(each, f"{at}/{index}"))), ""
        )
    if not isinstance(schema, dict):
        return ""
    if "x-artifact" in schema and (wrong := wrong_artifact(schema["x-artifact"])):
        return f"{at}: {wrong}"
    inner = (
        (name, each)
        for name, each in schema.items()
        if name not in ("x-artifact", "default", "enum", "const", "examples")
    )
    return next((wrong for name, each in inner if (wrong := wrong_artifacts(each, f"{at}/{name}"))), "")


def marked(kind: inspect.Type, schema: Any) -> None:
    """Puts the `x-artifact` of a type's annotations into its schema, in place; msgspec leaves out those of a member of a union (`Picture | None`)."""
    own: Mapping[str, Any] = {}
    while isinstance(kind, inspect.Metadata):
        own = {**(kind.extra_json_schema or {}), **own}
        kind = kind.type
    if not isinstance(schema, dict):
        return
    if "x-artifact" in own and "x-artifact" in schema:
        schema["x-artifact"] = own["x-artifact"]
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            for branch in schema.get("anyOf", []):
                if branch.get("type") != "null":
                    marked(each, branch)
    elif isinstance(kind, inspect.ListType):
        marked(kind.item_type, schema.get("items"))
    elif isinstance(kind, inspect.DictType):
        marked(kind.value_type, schema.get("additionalProperties"))
    elif isinstance(kind, inspect.StructType):
        for field in kind.fields:
            marked(field.type, schema.get("properties", {}).get(field.encode_name))


def title(name: str) -> str:
    """Returns a title in words for a parameter that has none: `learningRate` is "Learning rate", `memoryMiB` is "Memory (MiB)"."""
    words = [word for word in _WORDS.split(re.sub("MiB$", "Mib", name)) if word] or [name]
    written = [_UNITS.get(word.lower(), word if word.isupper() and len(word) > 1 else word.lower()) for word in words]
    first = written[0]
    return " ".join([first[:1].upper() + first[1:], *written[1:]])


def titled(schema: Any) -> Any:
    """Returns the schema with a title for every property that has none, at any depth."""
    if isinstance(schema, list):
        return [titled(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {
        name: each if name in ("default", "enum", "const", "examples", "x-artifact") else titled(each)
        for name, each in schema.items()
    }
    if isinstance(found.get("properties"), dict) and "x-artifact" not in found:
        found["properties"] = {
            name: {"title": title(name), **each} if isinstance(each, dict) else each
            for name, each in found["properties"].items()
        }
    return found


def grouped(schema: Schema, groups: Mapping[str, Sequence[str]]) -> Schema:
    """Returns the schema of params with their groups. Raises ValueError for a name that is no param."""
    properties = dict(schema.get("properties", {}))
    for group, names in groups.items():
        for name in names:
            if name not in properties:
                raise ValueError(f"the group {group!r} names {name!r}, which is no parameter")
            properties[name] = {**properties[name], "x-group": group}
    return {**schema, "properties": properties}


# Kinds of artifacts, at the end because `artifact` is checked as they are made.
Picture = Annotated[ArtifactRef, artifact("image/*", ".heic", format="picture")]
Recording = Annotated[ArtifactRef, artifact("audio/*", ".m4a", format="recording")]
Video = Annotated[ArtifactRef, artifact("video/*", format="video", bucket="videos")]
LookModel = Annotated[ModelRef, artifact(".safetensors", format="look", bucket="loras")]
VoiceModel = Annotated[ModelRef, artifact(".safetensors", format="voice", bucket="voices")]
