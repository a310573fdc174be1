"""What a test of the stores works on: a store, its place, and how to wait."""

import resource
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.s3 import S3Store
from dihedral.bridge.artifacts.store import ArtifactStore
from tests.artifacts.seaweed import Seaweed

PART = 5 << 20
"""The part size here."""


class Place:
    """A store, what is left lying about in it, and a second store on the same place, as another process has it."""

    def __init__(self, kind: str, directory: Path, seaweed: Seaweed | None) -> None:
        self.kind = kind
        self.directory = directory
        self.seaweed = seaweed
        self.job = f"job-{uuid.uuid4().hex[:12]}"
        self.opened: list[ArtifactStore] = []
        self.store = self.another()

    def another(self) -> ArtifactStore:
        store: ArtifactStore = LocalStore(self.directory) if self.seaweed is None else S3Store(self.seaweed.settings())
        self.opened.append(store)
        return store

    def key(self, name: str) -> str:
        """As a job's artifacts are named."""
        return f"{self.job}/node/nonce/{name}"

    async def leftovers(self) -> list[str]:
        if self.seaweed is None:
            return sorted(path.name for path in (self.directory / ".tmp").glob("*"))
        return [key for key in await self.seaweed.unfinished("videos") if key.startswith(self.job)]

    async def close(self) -> None:
        for store in self.opened:
            await store.close()


async def read(store: ArtifactStore, bucket: str, key: str, *span: int | None) -> bytes:
    return b"".join([chunk async for chunk in store.open(bucket, key, *span)])  # type: ignore[arg-type]


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@contextmanager
def files_of_at_most(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to let any file of this process grow beyond it, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
