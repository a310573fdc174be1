"""The identity of a job: name, tags, params and origin, as they are stored, shown and searched.

A job stores one field, `about`, and only what was given: no name, no tag and no param cost no byte. The defaults with which the
other params ran are the same for every job of a pipeline, so a job stores their digest and one hash of the server has the values.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.connection import Client
from dihedral.schemas.structs.artifact import ArtifactMeta, ArtifactRef
from dihedral.schemas.structs.graph import Graph

MAX_NAME = 200
MAX_DERIVED = 80
MAX_VALUE_BYTES = 1000
"""A list leaves out larger values of params."""
MAX_SEARCHED = 2000
"""Characters of one param that a search looks at."""
NAMING = ("title", "prompt", "text", "question", "lines", "url")
"""Params whose text names a job, the first that there is."""
_NAMING = frozenset(NAMING)
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".avif", ".heic")
POSTERS = ("poster", "thumbnail", "preview")


class About(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a job stores of its identity. `derived`: the name where none was given; `defaults`: the digest of the params that were not given.

    `pool`: that of the submission. `cut`: the params were too many bytes to keep; a repeat takes the graph.
    """

    name: str = msgspec.field(default="", name="n")
    tags: list[str] = msgspec.field(default_factory=list, name="t")
    task: str = msgspec.field(default="", name="k")
    given: dict[str, Any] = msgspec.field(default_factory=dict, name="p")
    defaults: str = msgspec.field(default="", name="d")
    rerun_of: str = msgspec.field(default="", name="r")
    derived: str = msgspec.field(default="", name="f")
    pool: str = msgspec.field(default="", name="o")
    cut: bool = msgspec.field(default=False, name="c")


MAX_BYTES = 64 * 1024
"""Of what a job stores of itself: lists and searches read it of hundreds of jobs at once."""
NOTHING = About()
_decode = msgspec.json.Decoder(About).decode


def encode(about: About) -> bytes:
    """Encodes the field, without params where it would have more than MAX_BYTES; empty where there is nothing to store."""
    if about == NOTHING:
        return b""
    text = msgspec.json.encode(about)
    if len(text) <= MAX_BYTES:
        return text
    return msgspec.json.encode(msgspec.structs.replace(about, given={}, defaults="", cut=True))


def decode(text: str) -> About:
    return _decode(text) if text else NOTHING


# Names and pictures ---------------------------------------------------------------------------------------------------


def named_by(params: Mapping[str, Any]) -> str:
    """Returns the name that a prompt gives, bounded; empty where there is no prompt."""
    for name in () if _NAMING.isdisjoint(params) else NAMING:
        text = params.get(name)
        if isinstance(text, str) and (line := _line(text)):
            return line
    return ""


def titled(metadata: Mapping[str, Any]) -> str:
    """Returns the title of the metadata; empty where there is none."""
    title = metadata.get("title")
    return _line(title) if isinstance(title, str) else ""


def named_by_nodes(graph: Graph) -> str:
    """Returns the name that the first prompt of a node gives; empty where no node has one."""
    return next((line for node in graph.nodes if (line := named_by(node.params))), "")


def first_file(params: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns bucket and key of the first artifact in the params."""
    return next(_references(params), None)


def file_name(key: str) -> str:
    return _line(key.rsplit("/", 1)[-1])


def thumbnail(artifacts: Sequence[ArtifactMeta], params: Mapping[str, Any]) -> ArtifactRef | None:
    """Returns a picture to recognise the job by: a poster, else any picture of the result, else one that was given."""
    pictures = [each for each in artifacts if each.content_type.startswith("image/")]
    for each in pictures:
        if any(word in each.key.rsplit("/", 1)[-1] for word in POSTERS):
            return ArtifactRef(bucket=each.bucket, key=each.key)
    if pictures:
        return ArtifactRef(bucket=pictures[0].bucket, key=pictures[0].key)
    for bucket, key in _references(params):
        if key.lower().endswith(PICTURES):
            return ArtifactRef(bucket=bucket, key=key)
    return None


def _references(value: Any, depth: int = 0) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        bucket, key = value.get("bucket"), value.get("key")
        if isinstance(bucket, str) and isinstance(key, str) and len(value) == 2:
            yield bucket, key
            return
    if depth < 8 and isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _references(each, depth + 1)


def _line(text: str) -> str:
    """Returns the text on one line, without what is not shown, cut at a word."""
    line = " ".join("".join(char if char.isprintable() else " " for char in text[: 4 * MAX_DERIVED]).split())
    if len(line) <= MAX_DERIVED:
        return line
    cut = line[:MAX_DERIVED]
    return (cut.rsplit(" ", 1)[0] if " " in cut[MAX_DERIVED // 2 :] else cut).rstrip() + "…"


# Params as they run ---------------------------------------------------------------------------------------------------


def shortened(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves out the values that are too large for a list."""
    return {name: value for name, value in params.items() if _is_small(value)}


def _is_small(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_VALUE_BYTES
    return not isinstance(value, dict | list) or len(msgspec.json.encode(value)) <= MAX_VALUE_BYTES


class Defaults:
    """Defaults of params by digest: written before the first job that refers to them, kept in memory after the first read."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._known: dict[str, dict[str, Any]] = {}

    async def keep(self, defaults: Mapping[str, Any], given: Mapping[str, Any]) -> str:
        """Stores the defaults and returns their digest; empty where every one of them was given."""
        if defaults.keys() <= given.keys():
            return ""
        encoded = msgspec.json.encode(defaults, order="deterministic")
        digest = hashlib.blake2b(encoded, digest_size=6).hexdigest()
        if digest not in self._known:
            await self._client.hset(keys.DEFAULTS, digest, encoded)
            self._known[digest] = dict(defaults)
        return digest

    async def of(self, digest: str) -> dict[str, Any]:
        """Returns the defaults; empty for a digest that the server does not have."""
        if not digest:
            return {}
        if digest not in self._known:
            raw = await self._client.hget(keys.DEFAULTS, digest)
            if raw is None:
                return {}
            self._known[digest] = msgspec.json.decode(raw)
        return self._known[digest]


# Search ---------------------------------------------------------------------------------------------------------------


class Search:
    """What a search looks for. Every word of `query` must be found, in any case, in the name, a tag, the pipeline or task, or the name
    or value of a given param, or be the beginning of the job's id; every one of `tags` must be a tag of the job."""

    def __init__(self, query: str, tags: Sequence[str]) -> None:
        self._words = query.casefold().split()
        self._tags = frozenset(tags)

    def may_fit(self, job_id: str, raw: str, pipeline: str) -> bool:
        """Returns False where the stored text shows that the job does not fit, which is far cheaper than to decode it."""
        text = f"{raw}\n{pipeline}".casefold()
        return all(
            word in text or '"' in word or "\\" in word or job_id.casefold().startswith(word) for word in self._words
        )

    def fits(self, job_id: str, about: About, pipeline: str) -> bool:
        if not self._tags.issubset(about.tags):
            return False
        if not self._words:
            return True
        text = "\n".join(_texts(about, pipeline)).casefold()
        return all(word in text or job_id.casefold().startswith(word) for word in self._words)


def name_of(about: About) -> str:
    """Returns the name of a job: given, else from its prompt, else from its first file; empty where there is none."""
    if about.name or about.derived:
        return about.name or about.derived
    if line := named_by(about.given):
        return line
    file = first_file(about.given)
    return file_name(file[1]) if file else ""


def _texts(about: About, pipeline: str) -> Iterator[str]:
    yield from (name_of(about), *about.tags, pipeline, about.task)
    for name, value in about.given.items():
        yield f"{name} {value if isinstance(value, str) else msgspec.json.encode(value).decode()}"[:MAX_SEARCHED]
