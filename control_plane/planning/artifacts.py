"""The artifacts that the params of a submission name, and which of them are not there.

Only what a task's schema marks `x-artifact` counts: any other object with a bucket and a key may mean something else. What an earlier node makes is
named by `$from` and is not looked for. The look is bounded, and no promise: an artifact may be deleted between it and the run, and beyond MOST names, or where
the store does not answer in time, the job is taken and its node fails `artifact_not_found`.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple

from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore, BadKey
from dihedral.bridge.errors import StoreError
from dihedral.control_plane.planning.plan import Problem, check_of
from dihedral.control_plane.planning.schema_check import Path, is_wild, pointer
from dihedral.schemas.structs.capability import Capability
from dihedral.schemas.structs.graph import Node

MOST = 200
AT_ONCE = 16
SECONDS = 3.0
DEEPEST = 16  # schemas of params are a few levels deep; one that refers to itself ends here


class Named(NamedTuple):
    """An artifact at a place of a document."""

    pointer: str
    bucket: str
    key: str


def named(nodes: Sequence[Node], capabilities: Mapping[str, Capability]) -> list[Named]:
    """Returns the artifacts that the params of the nodes name, by their place in the graph."""
    found: list[Named] = []
    for number, node in enumerate(nodes):
        if node.task in capabilities and check_of(capabilities[node.task]).names_artifacts:
            found += _in(capabilities[node.task].io.input, node.params, ("nodes", number, "params"))
    return list(dict.fromkeys(found))


def places(document: Any, bucket: str, key: str, path: Path = ("params",)) -> Iterator[str]:
    """Yields the pointers at which the params of a request name an artifact. Recursive: the depth has been checked."""
    if isinstance(document, dict):
        if (document.get("bucket"), document.get("key")) == (bucket, key):
            yield pointer(path)
        for name, each in document.items():
            yield from places(each, bucket, key, (*path, name))
    elif isinstance(document, list):
        for number, each in enumerate(document):
            yield from places(each, bucket, key, (*path, number))


async def missing(store: ArtifactStore, names: Sequence[Named]) -> list[Named]:
    """Returns those that are not there for the owner whose store it is."""
    wanted = list(dict.fromkeys((each.bucket, each.key) for each in names))[:MOST]
    lost: set[tuple[str, str]] = set()

    async def look(bucket: str, key: str) -> None:
        try:
            await store.meta(bucket, key)
        except (ArtifactNotFound, BadKey):
            lost.add((bucket, key))

    with suppress(TimeoutError, StoreError):  # what cannot be looked at may be there
        async with asyncio.timeout(SECONDS):
            for start in range(0, len(wanted), AT_ONCE):
                found = await asyncio.gather(
                    *(look(*each) for each in wanted[start : start + AT_ONCE]), return_exceptions=True
                )
                for error in found:
                    if error is not None:
                        raise error
    return [each for each in names if (each.bucket, each.key) in lost]


def problem(where: str, name: Named) -> Problem:
    return Problem(where, "unknown_artifact", f"there is no artifact {name.bucket}/{name.key}")


def _in(schema: Any, value: Any, path: Path, depth: int = 0) -> Iterator[Named]:
    if not isinstance(schema, dict) or not isinstance(value, dict | list) or is_wild(value) or depth > DEEPEST:
        return
    if isinstance(value, dict) and schema.get("x-artifact"):
        bucket, key = value.get("bucket"), value.get("key")
        if isinstance(bucket, str) and isinstance(key, str):
            yield Named(pointer(path), bucket, key)
            return
    for word in ("anyOf", "oneOf", "allOf"):
        for branch in schema.get(word, ()):
            yield from _in(branch, value, path, depth + 1)
    if isinstance(value, list):
        for number, each in enumerate(value):
            yield from _in(schema.get("items"), each, (*path, number), depth + 1)
        return
    properties = schema.get("properties", {})
    for name, each in value.items():
        yield from _in(properties.get(name, schema.get("additionalProperties")), each, (*path, name), depth + 1)
