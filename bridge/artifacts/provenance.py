"""What a file says about its origin: job, node, the request as it was made, the graph while it is small, and the files that went in.

The worker knows all of it: the graph travels with the job, and the request stands in its metadata. A file is changed on its way into the
store (`metadata.py` says where), so a task needs to do nothing. What may be a secret is left out, and so is what makes the text too long: first the graph.

A reader trusts nothing: what does not have the shape of `Provenance` was said by no file.
"""

import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec

from dihedral.bridge.artifacts.metadata import KEY, MAX_BYTES, Piece, find, pieces
from dihedral.bridge.artifacts.store import Source
from dihedral.bridge.artifacts.transfer import in_thread
from dihedral.bridge.version import VERSION
from dihedral.schemas.structs.artifact import ArtifactRef, Provenance
from dihedral.schemas.structs.graph import EdgeKind, Graph

REQUEST = "dihedral.request"
"""The metadata key in a job's graph that holds its pipeline or task, and the params that were given."""
GRAPH_BYTES = 64 * 1024
"""Larger graphs do not travel to the process that writes the file."""
MAX_INPUTS = 32
MAX_LEFT_OUT = 20
MAX_NESTING = 64
_CHUNK_BYTES = 1 << 20
_WORD = (
    "secrets?|tokens?|passwords?|passwd|passphrase|pass|pwd|auth|authorization|jwt|credentials?|cookies?|env|environment"
    "|(?:api|access|private|secret|signing|encryption|client|license)_?keys?"
)
_SECRET_NAME = re.compile(rf"(?!(?:.*_)?(?:max|min|num|new)_tokens?$)(?:.*_)?(?:{_WORD})(?:_(?:value|text))?")
_OPTION = "(?:password|passwd|pwd|passphrase|token|secret|credentials?|(?:api|access|secret|private)[-_]?key)"
# Every part begins at a text or a boundary that is looked at once, so a long text costs no more than its length.
_SECRET_TEXT = re.compile(
    r"://[^/?#\s]*@"  # an address with a user
    r"|[?&](?:x-amz-[a-z-]+|x-goog-[a-z-]+|sig|signature|[a-z_-]*(?:token|secret|password|key))="
    r"|hooks\.slack\.com/[a-z]+/|discord(?:app)?\.com/api/(?:v\d{1,3}/)?webhooks/"
    rf"|{_OPTION}=[^\s=]|--(?:[a-z0-9]{{1,40}}[-_]){{0,3}}{_OPTION}\s\S"
    r"|\bbearer\s+\S{8}|authorization\W{1,4}[a-z]{1,20}\s\S|\A\s?basic\s(?=\S*[0-9+/=])[a-z0-9+/]{6,}=*\s?\Z"
    r"|\b(?:dhk_|whsec_|[sr]k_(?:live|test)_|sk-|hf_|gh[opsur]_|github_pat_|glpat-|xox[a-z]-)[a-z0-9_-]{8}"
    r"|\b(?-i:A(?:KIA|SIA)[A-Z0-9]{16})\b"  # of AWS
    r"|(?<![a-z0-9_-])eyj[a-z0-9_-]{8,}\.[a-z0-9_-]{8,}\."  # a JWT
    r"|-----begin [a-z ]*private key",
    re.IGNORECASE,
)


class _TooLong(Exception):
    """More values than the text can have room for."""


# What is said ---------------------------------------------------------------------------------------------------------


def compose(
    request: Mapping[str, Any],
    graph: Graph | None,
    *,
    job_id: str,
    node_id: str,
    task: str,
    params: Mapping[str, Any],
    inputs: list[dict[str, str]],
) -> bytes:
    """Returns the JSON, never above MAX_BYTES. `request`: what stands under REQUEST; `params`: of the node, as they ran; `inputs`: bucket, key and sha256 of its files."""
    cleaner = _Cleaner()
    said: dict[str, Any] = {KEY: VERSION, "jobId": job_id, "node": {"id": node_id, "task": task}}
    said |= {name: request[name] for name in ("pipeline", "task") if isinstance(request.get(name), str)}
    said = cleaner.added(said, "params", request.get("params"))
    if inputs and cleaner.fits(more := {**said, "inputs": inputs}):
        said = more
    said = cleaner.added(said, "params", params, "node")
    if graph is not None:
        said = cleaner.added(said, "graph", _graph(graph))
    return msgspec.json.encode({**said, "leftOut": cleaner.left_out} if cleaner.left_out else said)


def _graph(graph: Graph) -> dict[str, Any]:
    """Makes the graph as one would submit it, without defaults and metadata."""
    nodes = []
    for node in graph.nodes:
        more: dict[str, Any] = {"params": node.params, "tags": node.tags}
        if node.retries.max_attempts != 1:
            more["retries"] = {"maxAttempts": node.retries.max_attempts}
        if node.progress_weight != 1:
            more["progressWeight"] = node.progress_weight
        given = {"name": node.name, "input": node.input, "pool": node.pool, "timeoutSeconds": node.timeout_seconds}
        more |= {name: value for name, value in given.items() if value is not msgspec.UNSET}
        kept = {name: value for name, value in more.items() if value not in ({}, [])}
        nodes.append({"id": node.id, "task": node.task, "plane": str(node.plane), **kept})
    edges = [
        {"from": edge.from_, "to": edge.to, **({} if edge.kind is EdgeKind.normal else {"kind": str(edge.kind)})}
        for edge in graph.edges
    ]
    return {"schema": "langgraph.v1", "nodes": nodes, "edges": edges}


class _Cleaner:
    """Copies values without what may be a secret. `left_out`: pointers to that."""

    def __init__(self) -> None:
        self.left_out: list[str] = []
        self._room = 0

    def fits(self, said: dict[str, Any]) -> bool:
        """Returns whether there is room for it and for all that is left out: without that, one would not see what is missing."""
        whole = {**said, "leftOut": self.left_out}
        return len(self.left_out) <= MAX_LEFT_OUT and len(msgspec.json.encode(whole)) <= MAX_BYTES

    def added(self, said: dict[str, Any], name: str, value: Any, above: str = "") -> dict[str, Any]:
        """Returns `said` with the clean value, in its member `above`; unchanged where there would be too much of it."""
        if value is None:
            return said
        before, self._room = len(self.left_out), MAX_BYTES
        try:
            made = {name: self._clean(value, f"/{above}/{name}" if above else f"/{name}", 0)}
            more = {**said, **({above: {**said[above], **made}} if above else made)}
            if self.fits(more):
                return more
        except (_TooLong, TypeError, ValueError, OverflowError, RecursionError):
            pass
        del self.left_out[before:]
        return said

    def _clean(self, value: Any, pointer: str, depth: int) -> Any:
        self._room -= len(value) if isinstance(value, str) else 2
        if self._room < 0 or depth > MAX_NESTING:
            raise _TooLong
        if isinstance(value, Mapping):
            found = {}
            for name, each in value.items():
                at = f"{pointer}/{name.replace('~', '~0').replace('/', '~1')}"[:1000]
                self._room -= len(name)
                if (
                    name == "key"
                    and isinstance(each, str)
                    and not {"bucket", "value"} & value.keys()
                    and not re.search(r"\s", each)
                ):
                    is_named = "api_key"  # not that of an artifact, of a pair, or of a song: "A minor"
                else:
                    is_named = name
                if not self._is_left_out(is_named, each, at):
                    found[name] = self._clean(each, at, depth + 1)
            return found
        if isinstance(value, list | tuple):
            items = []
            for index, each in enumerate(value):
                at = f"{pointer}/{index}"[:1000]
                before = value[index - 1] if index else ""
                option = before.lstrip("-") if isinstance(before, str) and before.startswith("-") else ""
                items.append(None if self._is_left_out(option[:100], each, at) else self._clean(each, at, depth + 1))
            return items
        return value

    def _is_left_out(self, name: str, value: Any, pointer: str) -> bool:
        """Looks only at what there is still room for: a longer text is too long, secret or not."""
        if self._room < 0:
            raise _TooLong
        if not _is_secret(name, value[: self._room] if isinstance(value, str) else value):
            return False
        self._room -= 2
        self.left_out.append(pointer)
        return True


def _is_secret(name: str, value: Any) -> bool:
    if isinstance(value, str) and _SECRET_TEXT.search(value):
        return True
    words = re.sub(r"[^A-Za-z0-9]+|(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if words in ("env", "environment") and isinstance(value, str):
        return "=" in value  # else it is a place: "a forest at night"
    return _SECRET_NAME.fullmatch(words) is not None and bool(value) and isinstance(value, str | Mapping | list)


def references(value: Any) -> list[ArtifactRef]:
    """Returns the artifacts that the params name, at most MAX_INPUTS."""
    found: dict[tuple[str, str], None] = {}
    left = [value]
    for _ in range(MAX_BYTES):
        if not left or len(found) >= MAX_INPUTS:
            break
        each = left.pop()
        if isinstance(each, Mapping):
            bucket, key = each.get("bucket"), each.get("key")
            if isinstance(bucket, str) and isinstance(key, str) and len(each) == 2:
                found[bucket, key] = None
            else:
                left += reversed(each.values())  # type: ignore[call-overload]
        elif isinstance(each, list):
            left += reversed(each)
    return [ArtifactRef(bucket=bucket, key=key) for bucket, key in found]


# Into a file ----------------------------------------------------------------------------------------------------------


async def stamped(source: Path | bytes, text: Callable[[], Awaitable[bytes]]) -> Source:
    """Returns the source with the text in it; the source itself where its format has no place for one. `text` is asked for only where there is one."""
    if isinstance(source, bytes):
        made = pieces(lambda at, count: source[at : at + count], len(source))
        if made is None:
            return source
        return b"".join(each if isinstance(each, bytes) else source[slice(*each)] for each in made(await text()))
    made = await in_thread(_pieces_of, source)
    return source if made is None else _read(source, made(await text()))


def _pieces_of(path: Path) -> Callable[[bytes], list[Piece]] | None:
    with path.open("rb") as file:

        def read(at: int, count: int) -> bytes:
            file.seek(at)
            return file.read(count)

        return pieces(read, path.stat().st_size)


async def _read(path: Path, parts: list[Piece]) -> AsyncIterator[bytes]:
    with ExitStack() as stack:
        file = stack.enter_context(await in_thread(lambda: path.open("rb")))
        for part in parts:
            if isinstance(part, bytes):
                yield part
                continue
            at, end = part
            await in_thread(file.seek, at)
            while at < end and (chunk := await in_thread(file.read, min(_CHUNK_BYTES, end - at))):
                at += len(chunk)
                yield chunk


# Out of a file --------------------------------------------------------------------------------------------------------


def read(head: bytes, tail: bytes, size: int) -> Provenance | None:
    """Returns what a file says; None where it says nothing that can be believed to be meant. `head`, `tail`: as in `metadata.find`."""
    text = find(head, tail, size)
    if text is None or len(text) > MAX_BYTES:
        return None
    try:
        said = msgspec.json.decode(text)
        # A later version may say more.
        known = {name: said[name] for name in Provenance.__struct_encode_fields__ if name in said}
        found = msgspec.convert(known, Provenance)
        msgspec.json.encode(found)
    except (msgspec.MsgspecError, TypeError, ValueError, OverflowError, RecursionError):
        return None
    says = (found.job_id, found.pipeline, found.task, found.graph)
    if all(each is msgspec.UNSET for each in says) or any(depth > MAX_NESTING for depth in _depths(known)):
        return None
    return found


def _depths(value: Any) -> Iterator[int]:
    left = [(value, 0)]
    while left:
        each, depth = left.pop()
        yield depth
        if isinstance(each, dict | list):
            left += [(inner, depth + 1) for inner in (each.values() if isinstance(each, dict) else each)]
