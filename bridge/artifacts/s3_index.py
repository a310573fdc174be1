"""The index of an S3 bucket's artifacts, an empty object for each: a page of one owner's list reads that page and nothing of other owners.

`.index/<owner>/<milliseconds until 2286>/<key>`: S3 lists names in order, so the newest come first, and `start-after` is the cursor. A name that begins with
a dot is no artifact's. An artifact without an owner has no entry: only a list of everything shows it, and that reads the names of all.

An entry is made before its artifact appears and removed after it has gone. A crash between leaves an entry that names no artifact, which a list skips.
`.index/.complete` says that every artifact of the bucket has its entry, also those that an older version stored. It does not know of what such a version stores afterwards
(docs/operation.md, Upgrade): without it, the index is made anew.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import datetime
from io import BytesIO
from typing import Any, NamedTuple

from msgspec import UnsetType

from dihedral.bridge.artifacts.store import ArtifactNotFound
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta

INDEX = ".index"
COMPLETE = f"{INDEX}/.complete"
AFTER_INDEX = ".~"
"""A name behind those of the index and before those of all artifacts."""
LAST_MS = 9_999_999_999_999
PAGE = 1000


class Entry(NamedTuple):
    created_at: str
    bucket: str
    key: str


class S3Index:
    """`client`: returns the library's client; `ask`: sends a request, again where that may help, and raises only StoreError."""

    def __init__(self, client: Callable[[], Any], ask: Callable[[str, Callable[[], Awaitable[Any]]], Any]) -> None:
        self._client = client
        self._ask = ask
        self._complete: set[str] = set()

    async def add(self, meta: ArtifactMeta) -> None:
        if (name := _name(meta)) is not None:
            await self._write(meta.bucket, name)

    async def remove(self, meta: ArtifactMeta) -> None:
        if (name := _name(meta)) is not None:
            await self._ask(f"{meta.bucket}/{name}", lambda: self._client().remove_object(meta.bucket, name))

    async def is_complete(self, bucket: str) -> bool:
        if bucket not in self._complete:
            try:
                await self._ask(f"{bucket}/{COMPLETE}", lambda: self._client().stat_object(bucket, COMPLETE))
            except ArtifactNotFound:
                return False
            self._complete.add(bucket)
        return True

    async def note_complete(self, bucket: str) -> None:
        await self._write(bucket, COMPLETE)
        self._complete.add(bucket)

    async def moments(
        self, buckets: tuple[str, ...], owner: str, before: str | None, wanted: int
    ) -> AsyncIterator[list[Entry]]:
        """Yields the owner's entries, newest first; those of one millisecond come together, since the index does not order them.

        `before`: the time of the newest ones. `wanted`: how many entries the caller is likely to take, which is the size of the pages.
        """
        sources = [self._entries(bucket, owner, before, min(wanted, PAGE)) for bucket in buckets]
        heads = [(source, head) for source in sources if (head := await anext(source, None)) is not None]
        while heads:
            moment = max(head.created_at for _, head in heads)
            found, heads_after = [], []
            for source, head in heads:
                following: Entry | None = head
                while following is not None and following.created_at == moment:
                    found.append(following)
                    following = await anext(source, None)
                if following is not None:
                    heads_after.append((source, following))
            heads = heads_after
            yield found

    async def _entries(self, bucket: str, owner: str, before: str | None, size: int) -> AsyncIterator[Entry]:
        prefix = f"{INDEX}/{owner}/"
        after = None if before is None else f"{prefix}{_left(before) - 1:013d}~"
        while True:
            names = await self._page(bucket, prefix, after, size)
            for name in names:
                left, _, key = name.removeprefix(prefix).partition("/")
                yield Entry(rfc3339(LAST_MS - int(left)), bucket, key)
            if len(names) < size:
                return
            after = names[-1]

    async def _page(self, bucket: str, prefix: str, after: str | None, size: int) -> list[str]:
        async def names() -> list[str]:
            options = {"prefix": prefix, "start_after": after, "max_keys": size, "encoding_type": "url"}
            found: list[str] = []
            async for each in self._client()._list_objects(bucket, **options):
                found.append(each.object_name)
                if len(found) == size:  # the library would ask for the next page
                    break
            return found

        try:
            page: list[str] = await self._ask(bucket, names)
        except ArtifactNotFound:  # nothing was ever stored there
            return []
        return page

    async def _write(self, bucket: str, name: str) -> None:
        await self._ask(f"{bucket}/{name}", lambda: self._client()._put_object(bucket, name, BytesIO(b""), {}))


def _name(meta: ArtifactMeta) -> str | None:
    if isinstance(meta.owner, UnsetType) or not meta.owner:
        return None
    return f"{INDEX}/{meta.owner}/{_left(meta.created_at):013d}/{meta.key}"


def _left(created_at: str) -> int:
    return LAST_MS - round(datetime.fromisoformat(created_at).timestamp() * 1000)
