"""What only the local store has: its files, other processes on the same directory, and their death in the middle of a put."""

import asyncio
import fcntl
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge.artifacts import local, open_store
from dihedral.bridge.artifacts.local import STALE_SECONDS, LocalStore
from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStoreUnavailable, BadKey, newest
from dihedral.schemas.structs.settings import ArtifactsSettings
from tests.artifacts.place import read, stream
from tests.support.polling import at_this_load, becomes_async

BINARY = "application/octet-stream"


@pytest.fixture
def store(tmp_path: Path) -> Any:
    return LocalStore(tmp_path / "artifacts")


def files(store: LocalStore) -> list[str]:
    root = store._root
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


def in_another_process(code: str, store: LocalStore, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    """Python that finds `store`, `stream` and what it was given."""
    head = "import asyncio, resource, sys\nfrom pathlib import Path\nfrom dihedral.bridge.artifacts.local import LocalStore\nfrom dihedral.bridge.artifacts.store import *\n"
    head += "store = LocalStore(Path(sys.argv[1]))\n"
    command = [sys.executable, "-c", head + code, str(store._root), *arguments]
    root = str(Path(__file__).parents[2])
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, **more)


async def test_a_user_finds_the_bytes_under_bucket_and_key(store: Any, tmp_path: Path) -> None:
    await store.put("videos", "job/node/it.mp4", b"bytes", "video/mp4")
    path = tmp_path / "artifacts" / "videos" / "job" / "node" / "it.mp4"
    assert path.read_bytes() == b"bytes"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


async def test_a_delete_leaves_no_empty_folder(store: Any) -> None:
    await store.put("videos", "job/node/one", b"x", BINARY)
    await store.put("videos", "job/other/two", b"x", BINARY)
    await store.delete("videos", "job/node/one")
    assert "videos/job/node" not in files(store)
    assert await read(store, "videos", "job/other/two") == b"x"
    await store.delete("videos", "job/other/two")
    assert [each for each in files(store) if not each.startswith(".index")] == [
        ".meta",
        ".meta/videos",
        ".tmp",
        "videos",
    ]
    assert not any("~" in each for each in files(store)), "no entry of the index"
    await store.put("videos", "job/node/one", b"x", BINARY)


async def test_a_process_that_is_frozen_in_the_middle_of_one_artifact_stops_no_other(store: Any) -> None:
    await store.put("videos", "job/node/held", b"x", BINARY)
    await store.put("videos", "job/other/it", b"x", BINARY)
    folder = os.open(store._root / ".meta" / "videos" / "job" / "node", os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        waiting = asyncio.create_task(store.meta("videos", "job/node/held"))
        async with asyncio.timeout(at_this_load(20)):
            await store.put("videos", "job/third/it", b"x", BINARY)
            assert await read(store, "videos", "job/other/it") == b"x"
            await store.delete("videos", "job/other/it")
            await store.check()
            assert len(await store.list()) == 2
        assert not waiting.done()
    finally:
        os.close(folder)
    assert (await waiting).size_bytes == 1


async def test_puts_and_deletes_of_one_key_at_once_never_leave_half_of_one(store: Any) -> None:
    """A delete that removed the bytes of a put behind it left an artifact without any."""

    async def remove() -> None:
        try:
            await store.delete("videos", "job/node/it")
        except ArtifactNotFound:
            return

    for number in range(30):
        await asyncio.gather(
            *(store.put("videos", "job/node/it", bytes([turn]) * number, BINARY) for turn in range(3)),
            remove(),
            remove(),
        )
        try:
            meta = await store.meta("videos", "job/node/it")
        except ArtifactNotFound:
            assert "videos/job/node/it" not in files(store)
        else:
            assert len(await read(store, "videos", "job/node/it")) == meta.size_bytes


@pytest.mark.parametrize(
    ("first", "second"),
    [("a", "a/b"), ("a/b", "a"), ("a", "a/b/c"), ("a/b/c", "a"), ("a", "a.json/b"), ("a.json/b", "a")],
)
async def test_a_name_is_not_a_file_and_a_folder(store: Any, first: Any, second: Any) -> None:
    await store.put("inputs", first, b"first", BINARY)
    with pytest.raises(BadKey, match="artifact"):
        await store.put("inputs", second, b"second", BINARY)
    assert [name for name in files(store) if (store._root / name).is_file()] == [
        f".meta/inputs/{first}.json",
        f"inputs/{first}",
    ]
    assert await read(store, "inputs", first) == b"first"
    with pytest.raises(ArtifactNotFound):
        await store.meta("inputs", second)
    with pytest.raises(ArtifactNotFound):
        await store.delete("inputs", second)


async def test_a_put_that_was_killed_leaves_nothing_that_is_seen_and_check_removes_the_rest(store: Any) -> None:
    code = """
async def endless():
    yield b"x" * 1_000_000
    print("half", flush=True)
    await asyncio.Event().wait()
asyncio.run(store.put("videos", "job/node/it", endless(), "video/mp4"))
"""
    process = in_another_process(code, store)
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    for call in (store.meta("videos", "job/node/it"), read(store, "videos", "job/node/it")):
        with pytest.raises(ArtifactNotFound):
            await call
    assert await store.list() == []
    (left,) = (store._root / ".tmp").iterdir()
    await store.check()
    assert left.exists(), "it may be a slow put of somebody who lives"
    old = time.time() - STALE_SECONDS - 60
    os.utime(left, (old, old))
    await store.check()
    assert not left.exists()


async def test_a_process_that_is_killed_while_it_replaces_leaves_only_whole_artifacts(store: Any) -> None:
    code = """
async def go():
    await asyncio.gather(*(one(name) for name in "abcd"))
async def one(name):
    number = 0
    while True:
        number += 1
        await store.put("videos", f"job/node/{name}", (name * number).encode(), "text/plain")
        print(name, flush=True)
asyncio.run(go())
"""
    process = in_another_process(code, store)
    assert process.stdout is not None
    for _ in range(101):
        assert await asyncio.to_thread(process.stdout.readline)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    found = await store.list()
    assert found
    for meta in found:
        assert len(await read(store, meta.bucket, meta.key)) == meta.size_bytes


async def test_two_processes_that_put_one_key_leave_one_whole_artifact(store: Any) -> None:
    code = """
async def go():
    for number in range(60):
        await store.put("videos", "job/node/it", sys.argv[2].encode() * (number + len(sys.argv[2])), "text/plain")
asyncio.run(go())
"""
    processes = [in_another_process(code, store, word) for word in ("a", "bb")]
    while any(process.poll() is None for process in processes):
        try:
            meta = await store.meta("videos", "job/node/it")
        except ArtifactNotFound:  # not yet
            await asyncio.sleep(0.01)
            continue
        assert meta.size_bytes > 0
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    meta = await store.meta("videos", "job/node/it")
    assert len(await read(store, "videos", "job/node/it")) == meta.size_bytes


async def test_another_process_on_a_full_disk_says_so_and_leaves_nothing(store: Any) -> None:
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
async def source():
    for _ in range(10):
        yield b"x" * 10_000
try:
    asyncio.run(store.put("videos", "job/node/it", source(), "video/mp4"))
except StoreFull as error:
    print(error)
"""
    said, _ = await asyncio.to_thread(in_another_process(code, store).communicate)
    assert b"File too large" in said
    assert files(store) == [".tmp"]


@pytest.mark.parametrize("content", [b"", b"{", b'{"bucket": "inputs"}', b"\xff", b"[]"])
async def test_a_broken_meta_is_said_and_hides_no_other_artifact(store: Any, content: Any) -> None:
    meta = await store.put("inputs", "whole", b"x", BINARY)
    await store.put("inputs", "broken", b"x", BINARY)
    (store._root / ".meta" / "inputs" / "broken.json").write_bytes(content)
    with pytest.raises(ArtifactStoreUnavailable, match="inputs/broken"):
        await store.meta("inputs", "broken")
    assert await store.list() == [meta]


async def test_a_directory_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    store = LocalStore(tmp_path / "file")
    with pytest.raises(ArtifactStoreUnavailable, match="cannot be used"):
        await store.check()
    for source in (b"x", stream(b"x")):
        with pytest.raises(ArtifactStoreUnavailable, match="cannot be used"):
            await store.put("inputs", "it", source, BINARY)


async def test_the_directory_need_not_be_there_before(tmp_path: Path) -> None:
    store = open_store(ArtifactsSettings(directory=str(tmp_path / "not" / "yet")))
    assert await store.list() == []
    with pytest.raises(ArtifactNotFound):
        await store.meta("inputs", "it")
    await store.check()
    await store.put("inputs", "it", b"x", BINARY)
    assert await store.link("inputs", "it") is None


async def test_a_cancel_stops_the_copying_of_a_large_file(store: Any, tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.truncate(2 << 30)  # a hole: it costs nothing to have and seconds to copy
    putting = asyncio.create_task(store.put("videos", "job/node/it", source, BINARY))
    await becomes_async(lambda: [path for path in (store._root / ".tmp").glob("*") if path.stat().st_size > 0])
    begun = time.monotonic()
    putting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await putting
    assert time.monotonic() - begun < at_this_load(1)
    assert files(store) == [".tmp"]


async def test_a_full_disk_stops_a_put_whose_meta_does_not_fit(store: Any, tmp_path: Path) -> None:
    """The bytes were there; what was to be known of them was not."""
    code = """
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    asyncio.run(store.put("videos", "job/node/it", b"x" * 100, "video/mp4"))
except StoreFull as error:
    print("full")
"""
    said, _ = await asyncio.to_thread(in_another_process(code, store).communicate)
    assert said == b"full\n"
    assert files(store) == [".tmp"]


async def test_a_folder_that_leads_nowhere_is_said_and_not_tried_for_ever(tmp_path: Path) -> None:
    """A disk that is not mounted: a link that dangles."""
    (tmp_path / "videos").symlink_to(tmp_path / "unmounted")
    async with asyncio.timeout(at_this_load(10)):
        with pytest.raises(ArtifactStoreUnavailable):
            await LocalStore(tmp_path).put("videos", "job/node/n/it", b"x", "text/plain")


async def test_a_page_reads_nothing_of_other_owners_and_no_more_than_its_own(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for owner in ("alice", "bob"):
        for number in range(30):
            await store.put("inputs", f"{owner}{number}/a.txt", b"x", "text/plain", owner=owner)
    everything = await store.list(owner="alice", limit=100)
    assert [meta.key for meta in everything] == [f"alice{number}/a.txt" for number in reversed(range(30))]
    read, real = [], local._read

    def counted(about: Any) -> Any:
        read.append(about)
        return real(about)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_read", counted)
        page = await store.list(owner="alice", limit=10)
    assert page == everything[:10]
    assert len(read) <= 11
    assert all("alice" in str(path) for path in read)
    after = await store.list(owner="alice", limit=10, before=newest(page[-1]))
    assert after == everything[10:20]


async def test_an_older_directory_gets_its_index_and_what_was_deleted_or_written_over_is_not_listed_twice(
    tmp_path: Path,
) -> None:
    store = LocalStore(tmp_path)
    for number in range(5):
        await store.put("inputs", f"{number}/a.txt", b"x", "text/plain", owner="alice" if number else "")
    shutil.rmtree(tmp_path / ".index")
    again = LocalStore(tmp_path)
    assert len(await again.list()) == 5
    assert len(await again.list(owner="alice")) == 4
    await again.put("inputs", "1/a.txt", b"new", "text/plain", owner="bob")
    await again.delete("inputs", "2/a.txt")
    assert [meta.key for meta in await again.list(owner="alice")] == ["4/a.txt", "3/a.txt"]
    everything = await again.list()
    assert (everything[0].key, len(everything)) == ("1/a.txt", 4)
    links = [path for path in (tmp_path / ".index").rglob("*") if path.is_symlink()]
    assert len(links) == 4
