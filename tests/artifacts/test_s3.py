"""What only a remote store has: a server that goes away, freezes, refuses or loses answers, presigned links, and other people's objects."""

import asyncio
import io
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from dihedral.bridge.artifacts import open_store
from dihedral.bridge.artifacts import s3 as artifacts_s3
from dihedral.bridge.artifacts.prune import prune
from dihedral.bridge.artifacts.s3 import S3Store
from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStoreUnavailable, newest
from dihedral.bridge.errors import SettingsError, StoreError
from dihedral.bridge.times import rfc3339
from dihedral.schemas.structs.settings import ArtifactsSettings, StoreKind
from tests.artifacts.line import line, web
from tests.artifacts.place import PART, Place, read
from tests.artifacts.seaweed import SECRET
from tests.support.polling import at_this_load, becomes_async

BINARY = "application/octet-stream"


@pytest.fixture
async def place(seaweed: Any, tmp_path: Path) -> AsyncIterator[Any]:
    made = Place("s3", tmp_path, seaweed)
    yield made
    await made.close()


@pytest.fixture
async def opened(seaweed: Any) -> AsyncIterator[Any]:
    """Stores with other settings, closed at the end."""
    stores = []

    def made(**more: Any) -> Any:
        stores.append(S3Store(seaweed.settings(**more)))
        return stores[-1]

    yield made
    for store in stores:
        await store.close()


def every_call(store: Any, key: Any, to: Any) -> Any:
    return {
        "put": lambda: store.put("inputs", key, b"x", BINARY),
        "meta": lambda: store.meta("inputs", key),
        "open": lambda: read(store, "inputs", key),
        "fetch": lambda: store.fetch("inputs", key, to),
        "list": lambda: store.list("inputs"),
        "list all": lambda: store.list(),
        "delete": lambda: store.delete("inputs", key),
        "check": lambda: store.check(),
    }


async def test_a_server_that_is_down_is_said_at_once_and_used_again_when_it_is_back(place: Any, tmp_path: Path) -> None:
    key = place.key("it")
    await place.store.put("inputs", key, b"before", BINARY)
    async with place.seaweed.down():
        for name, call in every_call(place.store, key, tmp_path / "fetched").items():
            begun = time.monotonic()
            with pytest.raises(ArtifactStoreUnavailable):
                pytest.fail(f"{name} answered {await call()!r}")
            assert time.monotonic() - begun < at_this_load(5), name
        assert not (tmp_path / "fetched").exists()
    await place.store.check()
    assert await read(place.store, "inputs", key) == b"before"
    await place.store.put("inputs", place.key("other"), b"after", BINARY)


async def test_a_server_that_is_frozen_is_said_after_a_while(
    place: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    await place.store.put("inputs", place.key("kept"), b"before", BINARY)
    for name in ("ANSWER_SECONDS", "LONG_SECONDS", "ABORT_SECONDS"):
        monkeypatch.setattr(artifacts_s3, name, 0.15)
    with place.seaweed.frozen():
        calls = every_call(place.store, place.key("it"), tmp_path / "fetched")
        calls["put of a large one"] = lambda: place.store.put("inputs", place.key("large"), b"x" * PART, BINARY)
        for name, call in calls.items():
            begun = time.monotonic()
            with pytest.raises(ArtifactStoreUnavailable, match="TimeoutError"):
                pytest.fail(f"{name} answered {await call()!r}")
            assert time.monotonic() - begun < at_this_load(5), name
    monkeypatch.undo()
    await place.store.check()
    assert await read(place.store, "inputs", place.key("kept")) == b"before"


async def test_a_check_that_is_given_up_leaves_the_store_usable(place: Any) -> None:
    with place.seaweed.frozen(), pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await place.store.check()
    await place.store.check()


@pytest.mark.parametrize(
    ("wrong", "word"),
    [({"secret_key": "not-the-secret"}, "SignatureDoesNotMatch"), ({"access_key": "nobody"}, "InvalidAccessKeyId")],
)
async def test_wrong_credentials_are_said_without_saying_them(
    opened: Any, place: Any, wrong: Any, word: Any, tmp_path: Path
) -> None:
    await place.store.put("inputs", place.key("it"), b"x", BINARY)
    store = opened(**wrong)
    for name, call in every_call(store, place.key("it"), tmp_path / "fetched").items():
        with pytest.raises(ArtifactStoreUnavailable, match="the store refuses") as raised:
            pytest.fail(f"{name} answered {await call()!r}")
        # an answer to HEAD has no body, so its status is all that can be said
        assert word in str(raised.value) or "AccessDenied" in str(raised.value)
        assert not any(secret in str(raised.value) for secret in (SECRET, *wrong.values()))


@pytest.mark.parametrize("lost", [b"PUT /inputs/", b"HEAD /inputs/", b"GET /inputs", b"DELETE /inputs/"])
async def test_an_answer_that_is_lost_is_asked_for_again(place: Any, opened: Any, lost: Any) -> None:
    async with line(place.seaweed.endpoint, loses=lost) as (endpoint, between):
        store = opened(endpoint=endpoint)
        meta = await store.put("inputs", place.key("it"), b"x" * 100_000, BINARY, job_id=place.job)
        assert await read(store, "inputs", place.key("it")) == b"x" * 100_000
        assert await store.list("inputs", place.job) == [meta]
        await store.delete("inputs", place.key("it"))
        assert between.lost == 1
        await store.close()


@pytest.mark.parametrize("lost", [b"uploads=", b"partNumber=1", b"partNumber=2"])
async def test_a_part_whose_answer_is_lost_is_sent_again_from_its_beginning(place: Any, opened: Any, lost: Any) -> None:
    content = bytes(range(256)) * (PART // 256) + b"and more"
    async with line(place.seaweed.endpoint, loses=lost) as (endpoint, between):
        store = opened(endpoint=endpoint)
        await store.put("videos", place.key("it"), content, BINARY)
        assert between.lost == 1
        await store.close()
    assert await read(place.store, "videos", place.key("it")) == content


async def test_a_connection_that_is_lost_again_and_again_is_an_error(place: Any, opened: Any) -> None:
    async with line(place.seaweed.endpoint, loses=b"HEAD", times=10_000) as (endpoint, between):
        store = opened(endpoint=endpoint)
        with pytest.raises(ArtifactStoreUnavailable, match="ServerDisconnectedError"):
            await store.meta("inputs", place.key("it"))
        assert between.lost >= artifacts_s3.ATTEMPTS  # aiohttp itself asks once more on a connection that was idle
        await store.close()


async def test_a_download_that_breaks_off_is_no_whole_artifact(place: Any, opened: Any, tmp_path: Path) -> None:
    await place.store.put("inputs", place.key("it"), b"x" * 3_000_000, BINARY)
    async with line(place.seaweed.endpoint, breaks=1_000_000) as (endpoint, _):
        store = opened(endpoint=endpoint)
        with pytest.raises(ArtifactStoreUnavailable, match="broke off"):
            await read(store, "inputs", place.key("it"))
        with pytest.raises(ArtifactStoreUnavailable, match="broke off"):
            await store.fetch("inputs", place.key("it"), tmp_path / "fetched")
        await store.close()


async def test_a_large_put_that_is_cancelled_leaves_no_parts_on_the_server(place: Any, opened: Any) -> None:
    """They are invisible, cost money, and are removed by nobody unless the server has a rule for it."""
    async with line(place.seaweed.endpoint, holds=b"partNumber=2") as (endpoint, between):
        store = opened(endpoint=endpoint)
        putting = asyncio.create_task(store.put("videos", place.key("it"), b"x" * 2 * PART, BINARY))
        await between.held.wait()
        assert await place.leftovers() == [place.key("it")]
        with pytest.raises(ArtifactNotFound):
            await place.store.meta("videos", place.key("it"))
        assert await place.store.list("videos", place.job) == []
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        await store.close()
    assert await place.leftovers() == []
    with pytest.raises(ArtifactNotFound):
        await place.store.meta("videos", place.key("it"))


async def test_a_large_put_whose_part_fails_leaves_no_parts_on_the_server(place: Any, opened: Any) -> None:
    async with line(place.seaweed.endpoint, loses=b"partNumber=2", times=99) as (endpoint, _):
        store = opened(endpoint=endpoint)
        with pytest.raises(ArtifactStoreUnavailable):
            await store.put("videos", place.key("it"), b"x" * 2 * PART, BINARY)
        await store.close()
    assert await place.leftovers() == []


async def test_a_bucket_that_was_removed_is_made_again(place: Any) -> None:
    bucket = "loras"
    await place.store.put(bucket, place.key("it"), b"x", BINARY)
    async with place.seaweed.client() as client:
        for meta in await place.store.list(bucket):
            await place.store.delete(bucket, meta.key)
        await client.remove_bucket(bucket)
    await place.store.put(bucket, place.key("again"), b"x" * 100, BINARY)
    assert await read(place.store, bucket, place.key("again")) == b"x" * 100


async def test_stores_that_make_a_bucket_at_once_all_have_it(place: Any) -> None:
    stores = [place.another() for _ in range(8)]
    bucket = f"b-{place.job}"
    await asyncio.gather(
        *(store.put(bucket, place.key(f"it-{number}"), b"x", BINARY) for number, store in enumerate(stores))
    )
    assert len(await place.store.list(bucket, None)) == 8


async def test_a_link_downloads_for_whoever_has_it_and_only_that(place: Any) -> None:
    content = bytes(range(256)) * 1000
    await place.store.put("videos", place.key("it.mp4"), content, "video/mp4")
    link = await place.store.link("videos", place.key("it.mp4"))
    assert link.startswith(place.seaweed.endpoint)
    assert "X-Amz-Expires=3600" in link
    assert SECRET not in link
    async with httpx.AsyncClient(timeout=120) as http:
        answer = await http.get(link)
        assert (answer.status_code, answer.content) == (200, content)
        assert answer.headers["content-type"] == "video/mp4"
        part = await http.get(link, headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, content[10:20])
        assert (await http.get(link.replace("it.mp4", "other"))).status_code == 403
        assert (await http.get(link.split("?")[0])).status_code == 403
        assert (await http.put(link, content=b"x")).status_code == 403


async def test_a_link_names_the_public_endpoint_and_needs_no_server(place: Any, opened: Any) -> None:
    store = opened(public_endpoint="https://media.example.org", presign_seconds=60)
    async with place.seaweed.down():
        link = await store.link("videos", place.key("it"))
    assert link.startswith(f"https://media.example.org/videos/{place.key('it')}?")
    assert "X-Amz-Expires=60&" in link


async def test_a_link_expires(place: Any, opened: Any) -> None:
    await place.store.put("videos", place.key("it"), b"content", BINARY)
    store = opened(presign_seconds=2)
    link = await store.link("videos", place.key("it"))
    async with httpx.AsyncClient(timeout=120) as http:
        assert (await http.get(link)).status_code == 200
        deadline = time.monotonic() + at_this_load(20)
        while (await http.get(link)).status_code == 200:
            assert time.monotonic() < deadline, "it is good for ever"
            await asyncio.sleep(0.1)
        assert (await http.get(link)).status_code == 403


async def test_what_others_have_put_there_is_listed_as_far_as_it_is_an_artifact(place: Any) -> None:
    """A bucket may be shared: names that no artifact can have are nobody's to delete."""
    bucket = f"b-{place.job}"
    await place.store.put(bucket, place.key("ours"), b"x", BINARY)
    odd = {"x-amz-meta-created": "yesterday", "x-amz-meta-sha256": "none"}
    async with place.seaweed.client() as client:
        await client.put_object(bucket, "plain", io.BytesIO(b"theirs"), 6)
        await client.put_object(bucket, "odd", io.BytesIO(b"theirs"), 6, metadata=odd)
        await client.put_object(bucket, "with space/é", io.BytesIO(b"theirs"), 6)
    found = {meta.key: meta for meta in await place.store.list(bucket)}
    assert set(found) == {place.key("ours"), "plain", "odd"}
    for key in ("plain", "odd"):
        assert found[key].size_bytes == 6
        assert found[key].sha256 is None
        assert len(found[key].created_at) == len("2026-01-01T00:00:00.000Z")
    assert {meta.key for meta in await place.store.list(bucket, limit=1)} <= set(found)


async def test_a_prune_takes_nothing_that_another_program_keeps_in_the_bucket(place: Any) -> None:
    await place.store.put("inputs", place.key("ours"), b"x", BINARY)
    async with place.seaweed.client() as client:
        await client.put_object("inputs", f"{place.job}/theirs", io.BytesIO(b"theirs"), 6)

    async def listed() -> Any:
        return len([meta for meta in await place.store.list("inputs") if meta.key.startswith(place.job)]) == 2

    await becomes_async(listed)
    for dry_run in (True, False):
        taken = {meta.key for meta in await prune(place.store, -60, dry_run=dry_run)}
        assert place.key("ours") in taken
        assert f"{place.job}/theirs" not in taken
    assert await read(place.store, "inputs", f"{place.job}/theirs") == b"theirs"
    await place.store.delete("inputs", f"{place.job}/theirs")


async def test_a_list_that_fails_half_way_is_an_error_and_not_half_a_list(place: Any, opened: Any) -> None:
    """A prune or a client that took it for the whole would be wrong."""
    await place.store.put("inputs", place.key("it"), b"x", BINARY, job_id=place.job)

    async def listed() -> Any:
        return await place.store.list("inputs", place.job)

    await becomes_async(listed)
    async with line(place.seaweed.endpoint, loses=b"HEAD", times=10_000) as (endpoint, _):
        store = opened(endpoint=endpoint)
        with pytest.raises(ArtifactStoreUnavailable):
            await store.list("inputs", place.job)
        with pytest.raises(ArtifactStoreUnavailable):
            await prune(store, 0, dry_run=True)
        await store.close()


@pytest.mark.parametrize(
    "wrong",
    [{"endpoint": ""}, {"endpoint": "http://"}, {"endpoint": "http://host/path"}, {"public_endpoint": "https://host?x=1"},
     {"endpoint": "a b"}, {"endpoint": "host:port"}, {"secret_key": ""}],
)  # fmt: skip
async def test_settings_that_name_no_server_are_refused_when_the_store_is_opened(seaweed: Any, wrong: Any) -> None:
    with pytest.raises(SettingsError, match=r"artifacts\."):
        open_store(seaweed.settings(**wrong))


async def test_a_server_that_is_no_s3_is_said(opened: Any) -> None:
    answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 4\r\nConnection: close\r\n\r\n<br>"
    async with web(answer) as endpoint:
        store = opened(endpoint=endpoint)
        for call in (store.list("inputs"), store.put("inputs", "it", b"x" * (PART + 1), BINARY)):
            with pytest.raises(StoreError, match="does not answer"):
                await call
        await store.close()


async def test_an_endpoint_may_be_host_and_port(opened: Any, place: Any) -> None:
    store = opened(endpoint=place.seaweed.endpoint.removeprefix("http://"))
    await store.put("inputs", place.key("it"), b"x", BINARY)
    await becomes_async(lambda: read(store, "inputs", place.key("it")))


def test_a_store_without_keys_is_opened_too() -> None:
    """Some servers in a private network ask for none."""
    open_store(ArtifactsSettings(store=StoreKind.s3, endpoint="host:9000"))


async def test_an_upload_that_took_a_while_is_on_the_page_of_its_creation(place: Any) -> None:
    """Its object changed when it ended, after everything on that page was created."""
    now = int(time.time() * 1000)
    last = await place.store.put("inputs", place.key("last"), b"x", BINARY, job_id=place.job)
    slow = msgspec.structs.replace(last, key=place.key("slow"), created_at=rfc3339(now - 20_000))
    await place.store._upload(slow, io.BytesIO(b"x"))
    assert await place.store.list("inputs", place.job) == [last, slow]
    assert await place.store.list("inputs", place.job, before=(rfc3339(now - 10_000), "")) == [slow]


async def test_a_page_of_one_owner_asks_as_often_however_much_others_have(
    place: Any, opened: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M4: the console asks for such a page every few seconds."""
    bucket, alice, bob = f"b-{place.job}", f"alice-{place.job}", f"bob-{place.job}"
    metas = [await place.store.put(bucket, place.key(f"a{number}"), b"x", BINARY, owner=alice) for number in range(12)]
    everything = await place.store.list(bucket, owner=alice)
    assert everything == sorted(metas, key=newest, reverse=True)
    monkeypatch.setattr("dihedral.bridge.artifacts.s3_index.PAGE", 7)

    async def asked() -> list[bytes]:
        async with line(place.seaweed.endpoint) as (endpoint, between):
            store = opened(endpoint=endpoint)
            assert await store.list(bucket, owner=alice, limit=5) == everything[:5]
            assert await store.list(bucket, owner=alice, limit=5, before=newest(everything[4])) == everything[5:10]
            assert await store.list(bucket, owner=alice, limit=5, before=newest(everything[9])) == everything[10:]
            await store.close()
            return list(between.seen)

    before = await asked()
    others = (place.store.put(bucket, place.key(f"b{number}"), b"x", BINARY, owner=bob) for number in range(60))
    await asyncio.gather(*others)
    after = await asked()
    assert len(after) == len(before) <= 1 + 3 + 12 + 3  # is the index whole; pages; artifacts, some looked at twice
    assert not any(bob.encode() in line or b"/b1" in line for line in after)
    assert len(await place.store.list(bucket)) == 72


@pytest.mark.parametrize("at_once", [1000, 2])
async def test_a_bucket_of_an_older_version_gets_its_index_and_its_lists_are_right_meanwhile(
    place: Any, monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    bucket, store = f"b-{place.job}", place.store
    monkeypatch.setattr(artifacts_s3, "INDEXED_AT_ONCE", at_once)
    metas = [
        await store.put(bucket, place.key(f"it-{number}"), b"x", BINARY, owner="alice" if number % 2 else "bob")
        for number in range(6)
    ]
    async with place.seaweed.client() as client:
        for each in await names_of_index(client, bucket):
            await client.remove_object(bucket, each)
        await client.put_object(bucket, "theirs", io.BytesIO(b"theirs"), 6)
        mine = sorted((meta for meta in metas if meta.owner == "alice"), key=newest, reverse=True)
        assert await store.list(bucket, owner="alice") == mine

        async def whole() -> bool:
            return len(await names_of_index(client, bucket)) == 7  # six entries, and that it is whole

        await becomes_async(whole)
        assert await place.another().list(bucket, owner="alice") == mine

        headers = {"x-amz-meta-owner": "alice", "x-amz-meta-created": "2020-01-01T00:00:00.000Z"}
        await client.put_object(bucket, place.key("beside"), io.BytesIO(b"x"), 1, metadata=headers)
        assert await place.another().list(bucket, owner="alice") == mine, "an older version makes no entry"
        await client.remove_object(bucket, ".index/.complete")  # as docs/operation.md says for an upgrade
        beside = await store.meta(bucket, place.key("beside"))
        fresh = place.another()
        assert await fresh.list(bucket, owner="alice") == [*mine, beside]
        await becomes_async(lambda: is_there(client, bucket, ".index/.complete"))
        assert await place.another().list(bucket, owner="alice") == [*mine, beside]


async def is_there(client: Any, bucket: str, name: str) -> bool:
    return name in await names_of_index(client, bucket)


async def test_what_was_deleted_pruned_or_written_over_is_in_the_index_no_more(place: Any) -> None:
    bucket, store = "videos", place.store
    alice, bob = f"alice-{place.job}", f"bob-{place.job}"
    key = f"{place.job}/node/checkpoint"
    await store.put(bucket, key, b"first", BINARY, owner=alice)
    await store.put(bucket, place.key("deleted"), b"x", BINARY, owner=alice)
    await store.put(bucket, place.key("pruned"), b"x", BINARY, owner=alice)
    second = await store.put(bucket, key, b"second", BINARY, owner=alice)
    await store.delete(bucket, place.key("deleted"))
    assert [meta.key for meta in await store.list(owner=alice)] == [key, place.key("pruned")]
    async with place.seaweed.client() as client:
        assert [second.key, place.key("pruned")] == [
            name.split("/", 3)[3] for name in await names_of_index(client, bucket, alice)
        ]
        third = await store.put(bucket, key, b"of another", BINARY, owner=bob)
        await prune(store, -60, dry_run=False)
        assert await names_of_index(client, bucket, alice) == []
        assert await names_of_index(client, bucket, bob) == []
    assert await store.list(owner=alice) == []
    with pytest.raises(ArtifactNotFound):
        await store.meta(bucket, third.key)


async def test_an_upload_that_fails_leaves_no_entry_and_one_that_was_killed_costs_a_look(
    place: Any, opened: Any
) -> None:
    alice = f"alice-{place.job}"
    async with line(place.seaweed.endpoint, loses=b"partNumber=2", times=99) as (endpoint, _):
        store = opened(endpoint=endpoint)
        with pytest.raises(ArtifactStoreUnavailable):
            await store.put("videos", place.key("it"), b"x" * 2 * PART, BINARY, owner=alice)
        await store.close()
    async with place.seaweed.client() as client:
        assert await names_of_index(client, "videos", alice) == []
        meta = await place.store.put("videos", place.key("it"), b"x", BINARY, owner=alice)
        await client.remove_object("videos", meta.key)  # what a killed process leaves: an entry alone
        assert len(await names_of_index(client, "videos", alice)) == 1
    other = await place.store.put("videos", place.key("other"), b"x", BINARY, owner=alice)
    assert await place.store.list(owner=alice, limit=1) == [other]
    assert await place.store.list(owner=alice) == [other]


@pytest.mark.parametrize("limit", [1, 2])
async def test_an_artifact_is_listed_while_it_is_written_over_and_after_a_crash_then(
    place: Any, opened: Any, limit: int
) -> None:
    bucket, alice, key = "videos", f"alice-{place.job}", f"{place.job}/node/checkpoint"
    first = await place.store.put(bucket, key, b"first", BINARY, owner=alice)
    async with line(place.seaweed.endpoint, holds=f"PUT /{bucket}/{key}".encode()) as (endpoint, between):
        store = opened(endpoint=endpoint)
        putting = asyncio.create_task(store.put(bucket, key, b"second", BINARY, owner=alice))
        await between.held.wait()
        assert await place.store.list(owner=alice, limit=limit) == [first]
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
        await store.close()
    async with place.seaweed.client() as client:
        (name,) = await names_of_index(client, bucket, alice)
        _, _, left, _ = name.split("/", 3)
        newer = name.replace(left, f"{int(left) - 1:013d}")  # what a process leaves that is killed before the upload
        await client.put_object(bucket, newer, io.BytesIO(b""), 0)
    assert await place.store.list(owner=alice, limit=limit) == [first]


async def test_a_list_goes_on_from_any_time_that_there_is(place: Any) -> None:
    alice = f"alice-{place.job}"
    meta = await place.store.put("voices", place.key("it"), b"x", BINARY, owner=alice)
    for owner in (None, alice):
        assert meta in await place.store.list("voices", owner=owner, before=("9999-12-31T23:59:59.999Z", ""))
        assert await place.store.list("voices", owner=owner, before=("0001-01-01T00:00:00.000Z", "")) == []


async def names_of_index(client: Any, bucket: str, owner: str = "") -> list[str]:
    return [each.object_name async for each in client.list_objects(bucket, f".index/{owner}", recursive=True)]
