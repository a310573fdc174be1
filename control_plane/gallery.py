"""The gallery: an owner's favourites among artifacts, and lists of artifacts by kind, origin, pipeline and tag.

The store lists by time and owner; what else is asked is looked for page by page, a bounded number of artifacts for each request, so a page may be empty
and still have a next one. The pipeline and the tags of an artifact are those of its job, so they are found while the server has the job.
"""

from collections.abc import AsyncIterator, Collection

import msgspec

from dihedral.bridge.artifacts.owned import EXAMPLES, is_example
from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore, BadKey, newest
from dihedral.bridge.fabric import functions, keys
from dihedral.bridge.fabric.connection import Client
from dihedral.bridge.fabric.finding import heads
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.control_plane import identity
from dihedral.control_plane.problems import ApiProblem
from dihedral.schemas.structs.artifact import ArtifactMeta

MOST_FAVOURITES = 10_000
PAGE = 200
MOST_SEEN = 2000
"""Artifacts that one request looks at where it asks for more than time, bucket and job."""
KINDS = ("picture", "video", "audio", "model", "text", "other")
ORIGINS = ("made", "uploaded", "example")
MODELS = (".safetensors", ".ckpt", ".pt", ".pth", ".gguf")

Moment = tuple[str, str]
"""Where a page ends: the time and the key of its last artifact, as the list orders them."""
Row = tuple[Moment, ArtifactMeta | None]
"""None: looked at, and not of this list."""


class Filter(msgspec.Struct, frozen=True):
    """`pipeline`: the id of a pipeline or a task; `tags`: all of them."""

    kind: str = ""
    origin: str = ""
    pipeline: str = ""
    tags: frozenset[str] = frozenset()

    def fits(self, meta: ArtifactMeta) -> bool:
        """Returns whether the artifact itself fits; its job is another question."""
        return self.kind in ("", kind_of(meta)) and self.origin in ("", origin_of(meta))

    @property
    def of_job(self) -> bool:
        return bool(self.pipeline or self.tags)


def kind_of(meta: ArtifactMeta) -> str:
    whole, _, rest = meta.content_type.partition("/")
    if meta.key.lower().endswith(MODELS):
        return "model"
    if whole in ("image", "video", "audio", "text"):
        return "picture" if whole == "image" else whole
    return "text" if rest.partition(";")[0] in ("json", "jsonl", "x-ndjson") else "other"


def origin_of(meta: ArtifactMeta) -> str:
    if is_example(meta):
        return "example"
    return "uploaded" if meta.job_id is None else "made"


class Gallery:
    """The artifacts of one caller. `store`: only with those that they see; `owner`: whose favourites."""

    def __init__(self, jobs: Jobs, store: ArtifactStore, owner: str) -> None:
        self._jobs = jobs
        self._client: Client = jobs.client
        self._store = store
        self._favourites = keys.favourites(owner)

    async def add(self, meta: ArtifactMeta) -> None:
        """Marks an artifact as a favourite. Raises ApiProblem, 409, beyond MOST_FAVOURITES."""
        name = _name(meta.bucket, meta.key)
        if await functions.call(self._client, "keep", self._favourites, MOST_FAVOURITES, name, meta.created_at) < 0:
            raise ApiProblem(409, "too_many_favourites", f"an owner has at most {MOST_FAVOURITES} favourites")

    async def remove(self, bucket: str, key: str) -> bool:
        return bool(await self._client.hdel(self._favourites, _name(bucket, key)))

    async def page(
        self, wanted: Filter, *, favourite: bool | None, bucket: str | None, job_id: str | None, limit: int, before: Moment | None
    ) -> tuple[list[ArtifactMeta], Moment | None]:  # fmt: skip
        """Returns a page, newest first, and where the next one goes on; None at the end. `favourite`: only those that are, or are not."""
        found: list[ArtifactMeta] = []
        seen = 0
        is_plain = wanted == Filter() and favourite is None
        if wanted.origin == "example" and not favourite:
            source = self._examples(bucket, job_id, before)
        elif favourite:
            source = self._favourite_pages(bucket, job_id, before)
        else:
            source = self._pages(bucket, job_id, before, limit if is_plain else PAGE)
        async for rows in source:
            fitting = await self._fitting([meta for _, meta in rows if meta is not None and wanted.fits(meta)], wanted)
            fit = {_name(meta.bucket, meta.key) for meta in fitting}
            marked = await self._marked(fit)
            for moment, meta in rows:
                if meta is None or (name := _name(meta.bucket, meta.key)) not in fit:
                    continue
                if favourite is not None and (name in marked) != favourite:
                    continue
                found.append(msgspec.structs.replace(meta, favourite=True) if name in marked else meta)
                if len(found) == limit:
                    return found, moment
            seen += len(rows)
            if seen >= MOST_SEEN and not is_plain:
                return found, rows[-1][0]
        return found, None

    async def _examples(
        self, bucket: str | None, job_id: str | None, before: Moment | None
    ) -> AsyncIterator[list[Row]]:
        """Yields the examples, which have no owner: no list of one owner's artifacts has them."""
        where, folder = EXAMPLES
        if bucket in (None, where):
            async for rows in self._pages(where, job_id, before, PAGE, folder):
                yield rows

    async def _pages(
        self, bucket: str | None, job_id: str | None, before: Moment | None, step: int, folder: str | None = None
    ) -> AsyncIterator[list[Row]]:
        while True:
            metas = await self._store.list(bucket, job_id, step, before=before, folder=folder)
            if metas:
                yield [(newest(meta), meta) for meta in metas]
            if len(metas) < step:
                return
            before = newest(metas[-1])

    async def _favourite_pages(
        self, bucket: str | None, job_id: str | None, before: Moment | None
    ) -> AsyncIterator[list[Row]]:
        """Yields favourites in the order of the times at which they were marked with, since what is written over has a new one meanwhile.

        One whose artifact has gone is forgotten.
        """
        rows = await self._client.hgetall(self._favourites)
        order: list[tuple[str, str, str]] = []
        for name, created in rows.items():
            where, _, key = name.decode().partition("/")
            if bucket in (None, where) and (before is None or (created.decode(), key) < before):
                order.append((created.decode(), key, where))
        wanted = sorted(order, reverse=True)
        for start in range(0, len(wanted), PAGE):
            found: list[Row] = []
            for created, key, where in wanted[start : start + PAGE]:
                meta: ArtifactMeta | None = None
                try:
                    meta = await self._store.meta(where, key)
                except (ArtifactNotFound, BadKey):
                    await self.remove(where, key)
                if meta is not None and job_id not in (None, meta.job_id):
                    meta = None
                found.append(((created, key), meta))
            yield found

    async def _fitting(self, metas: list[ArtifactMeta], wanted: Filter) -> list[ArtifactMeta]:
        if not wanted.of_job:
            return metas
        ids = sorted({meta.job_id for meta in metas if meta.job_id is not None})
        fit = set()
        for job_id, head in zip(ids, await heads(self._jobs, ids), strict=True):
            if head is None:
                continue
            about = identity.decode(head.about)
            if wanted.pipeline in ("", head.pipeline, about.task) and wanted.tags.issubset(about.tags):
                fit.add(job_id)
        return [meta for meta in metas if meta.job_id in fit]

    async def _marked(self, names: Collection[str]) -> set[str]:
        """Returns those that are favourites."""
        names = [*names]
        marked: set[str] = set()
        for start in range(0, len(names), 1000):
            some = names[start : start + 1000]
            values = await self._client.hmget(self._favourites, some)
            marked |= {name for name, value in zip(some, values, strict=True) if value is not None}
        return marked


def _name(bucket: str, key: str) -> str:
    return f"{bucket}/{key}"
