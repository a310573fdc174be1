"""What every artifact store promises: the same suite for the local directory and for a real S3 server."""

import asyncio
import gc
import hashlib
import os
import random
import time
import warnings
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge.artifacts.prune import prune
from dihedral.bridge.artifacts.store import (
    ArtifactNotFound,
    ArtifactStoreUnavailable,
    BadContentType,
    BadKey,
    StoreFull,
    TooLarge,
    newest,
)
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.artifact import ArtifactMeta
from tests.artifacts.place import PART, Place, files_of_at_most, read, stream
from tests.support.polling import becomes_async

WHOLE = bytes(range(256)) * 40
BLOCK = random.Random(0).randbytes(65_521)  # a prime: no two parts of what is made of it are the same
BINARY = "application/octet-stream"


def as_bytes(content: Any, tmp_path: Path) -> Any:
    return content


def as_file(content: Any, tmp_path: Path) -> Any:
    path = tmp_path / "source"
    path.write_bytes(content)
    return path


def as_stream(content: Any, tmp_path: Path) -> Any:
    return stream(*(content[at : at + 100_003] for at in range(0, len(content), 100_003)))


@pytest.mark.parametrize(
    ("source", "size"),
    [(as_stream, size) for size in (0, 1, 10_240, PART - 1, PART, PART + 1, 2 * PART)]
    + [(source, size) for source in (as_bytes, as_file) for size in (0, 10_240, PART + 1)],
)
async def test_what_is_put_comes_back_whole(place: Any, tmp_path: Path, source: Any, size: Any) -> None:
    content = (BLOCK * (size // len(BLOCK) + 1))[:size]
    meta = await place.store.put("videos", place.key("it.mp4"), source(content, tmp_path), "video/mp4")
    assert (meta.size_bytes, meta.sha256) == (size, hashlib.sha256(content).hexdigest())
    assert await place.another().meta("videos", place.key("it.mp4")) == meta
    assert await read(place.store, "videos", place.key("it.mp4")) == content
    await place.store.fetch("videos", place.key("it.mp4"), tmp_path / "fetched")
    assert (tmp_path / "fetched").read_bytes() == content
    assert await place.leftovers() == []


async def test_an_empty_chunk_in_a_stream_ends_nothing(place: Any) -> None:
    source = stream(b"a", b"", b"b")
    assert (await place.store.put("inputs", place.key("it"), source, BINARY)).size_bytes == 2


async def test_meta_says_all_that_is_known(place: Any) -> None:
    before = rfc3339(int(time.time() * 1000))
    meta = await place.store.put(
        "voices", place.key("it.wav"), WHOLE, "audio/wav; codecs=1", job_id=place.job, node_id="node"
    )
    after = rfc3339(int(time.time() * 1000))
    assert meta == ArtifactMeta(
        bucket="voices", key=place.key("it.wav"), size_bytes=len(WHOLE), content_type="audio/wav; codecs=1",
        sha256=hashlib.sha256(WHOLE).hexdigest(), created_at=meta.created_at, job_id=place.job, node_id="node",
    )  # fmt: skip
    assert before <= meta.created_at <= after
    assert datetime.fromisoformat(meta.created_at).tzinfo is not None
    assert await place.store.meta("voices", place.key("it.wav")) == meta
    assert await place.store.list("voices", place.job) == [meta]


async def test_what_belongs_to_no_job_says_so(place: Any) -> None:
    meta = await place.store.put("inputs", place.key("it"), b"x", "")
    assert (meta.job_id, meta.node_id, meta.content_type) == (None, None, BINARY)
    assert await place.store.meta("inputs", place.key("it")) == meta


@pytest.mark.parametrize(
    ("start", "end"),
    [(0, 1), (0, 100), (5000, 5001), (300, 700), (len(WHOLE) - 7, None), (1, None), (0, len(WHOLE)), (0, None),
     (10, 10), (0, 0), (len(WHOLE) - 1, len(WHOLE) + 500), (len(WHOLE), None), (len(WHOLE), len(WHOLE) + 1),
     (len(WHOLE) + 9, None), (700, 300)],
)  # fmt: skip
async def test_a_range_is_the_bytes_from_start_up_to_end(place: Any, start: Any, end: Any) -> None:
    await place.store.put("inputs", place.key("it"), WHOLE, BINARY)
    assert await read(place.store, "inputs", place.key("it"), start, end) == (
        b"" if end is not None and end <= start else WHOLE[start:end]
    )


async def test_an_empty_artifact_has_only_empty_ranges(place: Any) -> None:
    await place.store.put("inputs", place.key("it"), b"", BINARY)
    for span in ((0, None), (0, 0), (0, 5), (3, None)):
        assert await read(place.store, "inputs", place.key("it"), *span) == b""


async def test_a_reader_that_stops_early_leaves_nothing_open(place: Any) -> None:
    await place.store.put("inputs", place.key("it"), b"x" * (3 << 20), BINARY)
    before = open_files()
    for _ in range(10):
        chunks = place.store.open("inputs", place.key("it"))
        assert len(await anext(chunks)) > 0
        await chunks.aclose()
    gc.collect()
    await becomes_async(lambda: open_files() <= before + 1)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def test_a_put_leaves_no_file_open(place: Any) -> None:
    await place.store.put("inputs", place.key("it"), b"x", BINARY)
    before = open_files()
    for number in range(20):
        await place.store.put("inputs", place.key(f"it-{number}"), b"x", BINARY)
    await becomes_async(lambda: open_files() <= before + 1)


async def test_a_list_is_newest_first_and_of_the_bucket_and_job_it_was_asked_for(place: Any) -> None:
    other = Place(place.kind, place.directory, place.seaweed)
    metas: list[Any] = []
    for bucket, where in (("inputs", place), ("loras", place), ("inputs", other), ("inputs", place)):
        key = where.key(f"it-{len(metas)}")
        metas.append(await place.store.put(bucket, key, b"x", BINARY, job_id=where.job, node_id="node"))
        await becomes_async(lambda: rfc3339(int(time.time() * 1000)) > metas[-1].created_at)
    assert await place.store.list("inputs", place.job) == [metas[3], metas[0]]
    assert await place.store.list("loras", place.job) == [metas[1]]
    assert await place.store.list("voices", place.job) == []
    assert await place.store.list(job_id=place.job) == [metas[3], metas[1], metas[0]]
    assert await place.store.list(job_id=place.job, limit=2) == [metas[3], metas[1]]
    assert await place.store.list("inputs", other.job) == [metas[2]]
    assert (await place.store.list("inputs", limit=2)) == [metas[3], metas[2]]
    assert {meta.key for meta in metas} <= {meta.key for meta in await place.store.list()}


async def test_a_list_by_job_has_nothing_of_a_job_whose_id_begins_alike(place: Any) -> None:
    await place.store.put("inputs", f"{place.job}-2/node/nonce/it", b"x", BINARY, job_id=f"{place.job}-2")
    await place.store.put("inputs", f"{place.job}/it", b"x", BINARY)
    assert await place.store.list(job_id=place.job) == []
    assert await place.store.list("inputs", place.job) == []


async def test_a_list_of_a_folder_has_what_lies_there_whoever_made_it(place: Any) -> None:
    job = await place.store.put("inputs", f"{place.job}/one", b"x", BINARY, job_id=place.job, owner="alice")
    await becomes_async(lambda: rfc3339(int(time.time() * 1000)) > job.created_at)
    none = await place.store.put("inputs", f"{place.job}/two", b"x", BINARY)
    await place.store.put("inputs", f"{place.job}-2/one", b"x", BINARY)
    assert await place.store.list("inputs", folder=place.job) == [none, job]
    assert await place.store.list("inputs", folder=place.job, limit=1, before=newest(none)) == [job]
    assert await place.store.list("inputs", owner="alice", folder=place.job) == [job]
    assert await place.store.list("inputs", folder="..") == []


@pytest.mark.parametrize("bucket", ["", "x", "..", "../inputs", "in puts", "absent", "INPUTS", "a/b", "\0", "x" * 64])
async def test_a_list_of_a_bucket_that_is_not_there_is_empty(place: Any, bucket: Any) -> None:
    assert await place.store.list(bucket) == []


@pytest.mark.parametrize("job", ["", "..", "../..", "a/b", "\0", "*", "é", "x" * 2000])
async def test_a_list_of_a_job_that_cannot_be_is_empty(place: Any, job: Any) -> None:
    await place.store.put("inputs", place.key("it"), b"x", BINARY, job_id=place.job)
    assert await place.store.list(job_id=job) == []


async def test_prune_deletes_what_is_old_and_in_a_dry_run_only_says_it(place: Any) -> None:
    old = [await place.store.put(bucket, place.key("old"), b"x", BINARY) for bucket in ("inputs", "videos")]
    later = rfc3339(int(time.time() * 1000) + 50)
    await becomes_async(lambda: rfc3339(int(time.time() * 1000)) > later)
    horizon = time.time()
    young = await place.store.put("inputs", place.key("young"), b"x", BINARY)
    for dry_run in (True, False):
        found = await prune(place.store, time.time() - horizon + 0.025, dry_run=dry_run)
        assert {(meta.bucket, meta.key) for meta in old} <= {(meta.bucket, meta.key) for meta in found}
        assert young not in found
        assert (place.key("old") in {meta.key for meta in await place.store.list("videos")}) == dry_run
    for meta in old:
        with pytest.raises(ArtifactNotFound):
            await place.store.meta(meta.bucket, meta.key)
    assert await place.store.meta("inputs", place.key("young")) == young
    assert await prune(place.store, 3600, dry_run=False) == []


async def test_what_is_deleted_is_gone(place: Any) -> None:
    await place.store.put("inputs", place.key("it"), b"x", BINARY, job_id=place.job)
    await place.store.put("inputs", place.key("other"), b"x", BINARY, job_id=place.job)
    await place.store.delete("inputs", place.key("it"))
    with pytest.raises(ArtifactNotFound):
        await place.store.meta("inputs", place.key("it"))
    with pytest.raises(ArtifactNotFound):
        await read(place.store, "inputs", place.key("it"))
    assert [meta.key for meta in await place.store.list("inputs", place.job)] == [place.key("other")]
    await place.store.delete("inputs", place.key("other"))
    assert await place.store.list("inputs", place.job) == []


@pytest.mark.parametrize("bucket", ["inputs", "nobody-made-it"])
async def test_what_is_not_there_is_not_found(place: Any, tmp_path: Path, bucket: Any) -> None:
    store, key = place.store, place.key("it")
    if bucket == "inputs":
        await store.put(bucket, f"{key}.other", b"x", BINARY)
    for call in (store.meta(bucket, key), store.delete(bucket, key), store.fetch(bucket, key, tmp_path / "fetched"),
                 read(store, bucket, key), read(store, bucket, key, 5, 10), read(store, bucket, key, 5, 5)):  # fmt: skip
        with pytest.raises(ArtifactNotFound, match=key):
            await call
    assert not (tmp_path / "fetched").exists()


async def test_the_folders_of_a_key_are_no_artifacts(place: Any) -> None:
    await place.store.put("inputs", place.key("it"), b"x", BINARY)
    for key in (place.job, f"{place.job}/node"):
        for call in (
            place.store.meta("inputs", key),
            read(place.store, "inputs", key),
            place.store.delete("inputs", key),
        ):
            with pytest.raises(ArtifactNotFound):
                await call
    assert await read(place.store, "inputs", place.key("it")) == b"x"


async def test_what_is_put_again_is_replaced_whole(place: Any) -> None:
    await place.store.put("inputs", place.key("it"), b"the first, which is longer", "text/plain", job_id=place.job)
    meta = await place.store.put("inputs", place.key("it"), b"the second", "text/html")
    assert await place.store.meta("inputs", place.key("it")) == meta
    assert await read(place.store, "inputs", place.key("it")) == b"the second"


BAD_KEYS = [
    "", "/", "..", ".", "a/..", "../a", "a/../b", "a/../../../../etc/passwd", "/etc/passwd", "a//b", "a/", "/a", "a/./b",
    "a\\b", "..\\a", "a\0", "a\0/b", "a\n", "\na", "a/b\n", "a\r", "a b", " a", "a ", "é", "a/\u202eb", "a\u0000b", "\ufeff",
    ".meta/inputs/a.json", ".tmp", ".hidden", "a/.hidden", "-a", "_a", "~", "a:b", "a%2e", "a?b", "a#b", "a*",
    "x" * 129, "a/" + "x" * 129, "/".join(["x" * 100] * 10), "C:/a", "con\udcff",
]  # fmt: skip
BAD_BUCKETS = [
    "",
    "a",
    "..",
    ".meta",
    ".tmp",
    "inputs/..",
    "/inputs",
    "in\0puts",
    "inputs\n",
    "Inputs",
    "x" * 64,
    "in puts",
    "é" * 3,
    "a..b",
    "a.-b",
    "a-.b",
    "10.0.0.1",
    "-ab",
    "abc-",
    "abc.",
]
BAD_PLACES = [("inputs", key) for key in BAD_KEYS] + [(bucket, "a") for bucket in BAD_BUCKETS]


async def test_a_key_that_could_mean_anything_else_is_refused_and_writes_nothing(place: Any, tmp_path: Path) -> None:
    store = place.store
    before = tree(tmp_path)
    for bucket, key in BAD_PLACES:
        calls = {
            "put": store.put(bucket, key, b"evil", BINARY),
            "put of a stream": store.put(bucket, key, stream(b"evil"), BINARY),
            "meta": store.meta(bucket, key),
            "open": read(store, bucket, key),
            "open of nothing": read(store, bucket, key, 3, 3),
            "fetch": store.fetch(bucket, key, tmp_path / "fetched"),
            "delete": store.delete(bucket, key),
            "link": store.link(bucket, key),
        }
        for name, call in calls.items():
            with pytest.raises(BadKey):
                pytest.fail(f"{name} of {bucket!r}, {key!r} answered {await call!r}")
    assert tree(tmp_path) == before


def tree(directory: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize("key", ["a", "0/1/2", "a.b_c-d", "x" * 128, "a..b/c..", "/".join(["x" * 98] * 9)])
async def test_plain_keys_are_taken(place: Any, key: Any) -> None:
    key = f"{place.job}/{key}"[-890:].lstrip("/")
    meta = await place.store.put("inputs", key, b"x", BINARY)
    assert await place.store.meta("inputs", key) == meta
    assert await read(place.store, "inputs", key) == b"x"
    await place.store.delete("inputs", key)


@pytest.mark.parametrize("kind_", ["text", "text/html\r\nSet-Cookie: a=b", "text/плейн", "text/html\n", "a/b\0", "/", " a/b", "a/b" + "x" * 300])  # fmt: skip
async def test_a_content_type_that_is_none_is_refused(place: Any, kind_: Any) -> None:
    """It becomes a header of an answer, or of a request to the server."""
    with pytest.raises(BadContentType):
        await place.store.put("inputs", place.key("it"), b"x", kind_)
    with pytest.raises(ArtifactNotFound):
        await place.store.meta("inputs", place.key("it"))


async def test_more_than_the_limit_is_refused_and_leaves_nothing(place: Any, tmp_path: Path) -> None:
    for source in (b"x" * 1001, as_file(b"x" * 1001, tmp_path), stream(b"x" * 1000, b"x")):
        with pytest.raises(TooLarge, match="1000"):
            await place.store.put("videos", place.key("it"), source, BINARY, limit=1000)
    with pytest.raises(ArtifactNotFound):
        await place.store.meta("videos", place.key("it"))
    assert await place.leftovers() == []
    assert (await place.store.put("videos", place.key("it"), b"x" * 1000, BINARY, limit=1000)).size_bytes == 1000


async def test_nobody_sees_an_artifact_before_it_is_whole(place: Any) -> None:
    half, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[Any]:
        yield b"x" * 100_000
        half.set()
        await go_on.wait()
        yield b"y" * 100_000

    putting = asyncio.create_task(place.store.put("videos", place.key("it"), slow(), BINARY, job_id=place.job))
    await half.wait()
    reader = place.another()
    assert await reader.list("videos", place.job) == []
    for call in (reader.meta("videos", place.key("it")), read(reader, "videos", place.key("it"))):
        with pytest.raises(ArtifactNotFound):
            await call
    go_on.set()
    meta = await putting
    assert await reader.list("videos", place.job) == [meta]
    assert len(await read(reader, "videos", place.key("it"))) == 200_000


async def test_whoever_reads_while_it_is_replaced_sees_the_old_one_or_the_new_one(place: Any) -> None:
    contents = [bytes([65 + number]) * (1000 + number) for number in range(20)]
    await place.store.put("videos", place.key("it"), contents[0], BINARY)
    reader = place.another()

    async def replace() -> None:
        for content in contents:
            await place.store.put("videos", place.key("it"), content, BINARY)

    putting = asyncio.create_task(replace())
    sums = {hashlib.sha256(content).hexdigest(): len(content) for content in contents}
    while not putting.done():
        assert await read(reader, "videos", place.key("it")) in contents
        meta = await reader.meta("videos", place.key("it"))
        assert sums[meta.sha256] == meta.size_bytes
    await putting


async def test_a_put_that_is_cancelled_leaves_nothing(place: Any) -> None:
    half = asyncio.Event()

    async def endless() -> AsyncIterator[Any]:
        yield b"x" * 100_000
        half.set()
        await asyncio.Event().wait()

    putting = asyncio.create_task(place.store.put("videos", place.key("it"), endless(), BINARY))
    await half.wait()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    with pytest.raises(ArtifactNotFound):
        await place.store.meta("videos", place.key("it"))
    assert await place.leftovers() == []


async def test_a_put_that_is_cancelled_at_any_moment_leaves_all_or_nothing(place: Any, tmp_path: Path) -> None:
    path = as_file(WHOLE, tmp_path)
    await place.store.put("videos", place.key("first"), b"x", BINARY)
    for turns in range(30):
        key = place.key(f"it-{turns}")
        source = path if turns % 2 else stream(WHOLE[:5000], WHOLE[5000:])
        putting = asyncio.create_task(place.store.put("videos", key, source, BINARY))
        for _ in range(turns):
            await asyncio.sleep(0.0005 if turns > 15 else 0)
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)

        async def settled() -> Any:
            return await place.leftovers() == []

        await becomes_async(settled)
        try:
            meta = await place.store.meta("videos", key)
        except ArtifactNotFound:
            continue
        assert hashlib.sha256(await read(place.store, "videos", key)).hexdigest() == meta.sha256
    gc.collect()


async def test_a_source_that_raises_leaves_nothing_and_its_error_goes_through(place: Any, tmp_path: Path) -> None:
    async def broken() -> AsyncIterator[Any]:
        yield b"x" * 100_000
        raise RuntimeError("the camera is gone")

    with pytest.raises(RuntimeError, match="the camera is gone"):
        await place.store.put("videos", place.key("it"), broken(), BINARY)
    for source in (tmp_path / "absent", tmp_path):
        with pytest.raises(OSError, match=str(source)):
            await place.store.put("videos", place.key("it"), source, BINARY)
    with pytest.raises(ArtifactNotFound):
        await place.store.meta("videos", place.key("it"))
    assert await place.leftovers() == []


async def test_many_puts_of_one_key_at_once_leave_one_whole_artifact(place: Any) -> None:
    stores = [place.store, place.another()]
    for turn in range(5):
        contents = [bytes([65 + number]) * (100 * number + turn) for number in range(20)]
        await asyncio.gather(
            *(
                stores[number % 2].put("videos", place.key("it"), content, BINARY)
                for number, content in enumerate(contents)
            )
        )
        meta = await place.store.meta("videos", place.key("it"))
        content = await read(place.store, "videos", place.key("it"))
        assert content in contents
        assert (meta.size_bytes, meta.sha256) == (len(content), hashlib.sha256(content).hexdigest())


async def test_two_hundred_puts_at_once_are_all_there(place: Any) -> None:
    contents = {place.key(f"it-{number}"): f"number {number}".encode() * number for number in range(200)}
    metas = await asyncio.gather(
        *(place.store.put("videos", key, content, BINARY, job_id=place.job) for key, content in contents.items())
    )
    listed = await place.another().list("videos", place.job)
    assert sorted(listed, key=lambda meta: meta.key) == sorted(metas, key=lambda meta: meta.key)
    bodies = await asyncio.gather(*(read(place.store, "videos", key) for key in contents))
    assert bodies == list(contents.values())


@pytest.mark.parametrize("size", [2_000, 300_000])  # within the file's buffer, and beyond it
@pytest.mark.parametrize("source", [as_bytes, as_file, as_stream])
async def test_what_does_not_fit_says_so_and_leaves_nothing(place: Any, tmp_path: Path, source: Any, size: Any) -> None:
    made = source(b"x" * size, tmp_path)
    await place.store.put("videos", place.key("before"), b"x", BINARY)
    with files_of_at_most(1_000), pytest.raises(StoreFull):
        await place.store.put("videos", place.key("it"), made, BINARY)
    with pytest.raises(ArtifactNotFound):
        await place.store.meta("videos", place.key("it"))
    assert await place.leftovers() == []
    await place.store.put("videos", place.key("it"), b"x", BINARY)


async def test_a_fetch_that_does_not_fit_says_so(place: Any, tmp_path: Path) -> None:
    await place.store.put("videos", place.key("it"), b"x" * 300_000, BINARY)
    with files_of_at_most(1_000), pytest.raises(StoreFull, match=str(tmp_path)):
        await place.store.fetch("videos", place.key("it"), tmp_path / "fetched")
    with pytest.raises(ArtifactStoreUnavailable, match="absent"):
        await place.store.fetch("videos", place.key("it"), tmp_path / "absent" / "fetched")


async def test_check_is_silent_where_all_is_well(place: Any) -> None:
    await place.store.check()


async def test_close_leaves_nothing_open(place: Any) -> None:
    gc.collect()  # what others have left
    with warnings.catch_warnings(record=True) as os_errors_as_store_errors:
        warnings.simplefilter("always")
        store = place.another()
        place.opened.remove(store)
        await store.put("inputs", place.key("it"), b"x" * (PART + 1), BINARY)
        await read(store, "inputs", place.key("it"), 0, 10)
        await store.check()
        await store.close()
        await store.close()
        del store
        gc.collect()
    assert [str(each.message) for each in os_errors_as_store_errors] == []
