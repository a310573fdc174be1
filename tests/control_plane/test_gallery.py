"""Favourites, and lists of artifacts by kind, origin, pipeline and tag."""

import builtins
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from dihedral.bridge.artifacts import open_store
from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.owned import OwnedStore
from dihedral.bridge.artifacts.store import newest
from dihedral.bridge.fabric import keys
from dihedral.bridge.fabric.jobs import Jobs
from dihedral.control_plane import gallery
from dihedral.schemas.structs.artifact import ArtifactMeta
from tests.control_plane.locked import Locked, locked_house
from tests.control_plane.served import new_id

pytestmark = pytest.mark.asyncio(loop_scope="session")

FILES = (
    ("a.png", "image/png", "picture"),
    ("b.mp4", "video/mp4", "video"),
    ("c.wav", "audio/wav", "audio"),
    ("d.safetensors", "application/octet-stream", "model"),
    ("e.json", "application/json", "text"),
    ("f.bin", "application/octet-stream", "other"),
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Locked]:
    async with locked_house(tmp_path_factory.mktemp("gallery")) as made:
        for name in ("alice", "bob", "carol", "dora", "erna"):
            await made.key(name)

        async def known() -> bool:
            answer = await made.http.get("/api/capabilities", headers=made.of("dora"))
            return answer.status_code == 200 and "act" in {each["id"] for each in answer.json()["capabilities"]}

        await made.served.becomes(known)
        yield made


async def listed(house: Locked, name: str, query: str = "", limit: int = 1000) -> list[dict[str, Any]]:
    """All pages."""
    found: list[dict[str, Any]] = []
    cursor = ""
    before = set()
    while True:
        assert cursor not in before, "a page comes twice"
        before.add(cursor)
        page = await house.ask(name, "GET", f"/api/artifacts?limit={limit}&{query}{cursor}")
        found += page["artifacts"]
        if page["next"] is None:
            return found
        cursor = f"&cursor={quote(page['next'])}"


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["key"].rsplit("/", 1)[-1] for row in rows]


async def uploaded(house: Locked, name: str) -> list[dict[str, Any]]:
    return [await house.upload(name, b"of hers", file, kind) for file, kind, _ in FILES]


async def made(house: Locked, name: str, file: str, **more: Any) -> str:
    """A file that a job made; its id."""
    params = {"name": file, "text": "made"}
    job = await house.ask(name, "POST", "/api/jobs", 201, json={"task": "upload_artifact", "params": params, **more})
    assert (await house.ended(name, job["jobId"]))["status"] == "completed"
    return str(job["jobId"])


async def test_favourites_are_marked_listed_and_taken_away(house: Locked) -> None:
    files = await uploaded(house, "alice")
    chosen = [files[4], files[1]]
    for each in chosen:
        await house.ask("alice", "PUT", f"/api/favourites/{each['bucket']}/{each['key']}", 204)
        await house.ask("alice", "PUT", f"/api/favourites/{each['bucket']}/{each['key']}", 204)
    rows = await listed(house, "alice")
    assert {row["key"] for row in rows if row.get("favourite")} == {each["key"] for each in chosen}
    assert names(await listed(house, "alice", "favourite=true")) == ["e.json", "b.mp4"]
    assert names(await listed(house, "alice", "favourite=true", limit=1)) == ["e.json", "b.mp4"]
    assert names(await listed(house, "alice", "favourite=true&kind=video")) == ["b.mp4"]
    assert not {"e.json", "b.mp4"} & set(names(await listed(house, "alice", "favourite=false", limit=2)))
    await house.ask("alice", "DELETE", f"/api/favourites/{chosen[0]['bucket']}/{chosen[0]['key']}", 204)
    await house.ask("alice", "DELETE", f"/api/artifacts/{chosen[1]['bucket']}/{chosen[1]['key']}", 204)
    assert await listed(house, "alice", "favourite=true") == []
    assert await house.client.hlen("dihedral:favourites:alice") == 0, "one whose file has gone is forgotten"


async def test_favourites_of_others_are_not_seen_and_their_files_not_marked(house: Locked) -> None:
    hers = await house.upload("alice", b"x", "hers.png", "image/png")
    path = f"/api/favourites/{hers['bucket']}/{hers['key']}"
    await house.ask("alice", "PUT", path, 204)
    for method in ("PUT", "DELETE"):
        assert (await house.ask("bob", method, path, 404))["code"] == "unknown_artifact"
    assert await listed(house, "bob", "favourite=true") == []
    assert names(await listed(house, "alice", "favourite=true")) == ["hers.png"]
    for path in ("/api/favourites/inputs/none", "/api/favourites/nothing/x", "/api/favourites/inputs/a%2f..%2fb"):
        await house.ask("bob", "PUT", path, 404)


async def test_favourites_that_are_written_over_end_the_list_too(house: Locked) -> None:
    """Checkpoints and previews have new times again and again; a favourite keeps the one at which it was marked."""
    store = open_store(house.served.settings.artifacts)
    checkpoints = []
    for _ in range(3):
        key = f"{new_id()}/node/checkpoint"
        checkpoints.append(key)
        await store.put("loras", key, b"first", "application/octet-stream", owner="erna")
        await house.ask("erna", "PUT", f"/api/favourites/loras/{key}", 204)
        await store.put("loras", key, b"second", "application/octet-stream", owner="erna")
    for limit in (1, 2, 3, 1000):
        rows = await listed(house, "erna", "favourite=true", limit=limit)
        assert sorted(row["key"] for row in rows) == sorted(checkpoints)
    await store.close()


async def test_the_number_of_favourites_is_bounded(house: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST_FAVOURITES", 1)
    files = await uploaded(house, "dora")
    for _ in range(2):
        await house.ask("dora", "PUT", f"/api/favourites/inputs/{files[0]['key']}", 204)
    problem = await house.ask("dora", "PUT", f"/api/favourites/inputs/{files[1]['key']}", 409)
    assert problem["code"] == "too_many_favourites"


async def test_artifacts_are_listed_by_kind_and_origin(house: Locked) -> None:
    await uploaded(house, "bob")
    await made(house, "bob", "g.txt")
    for file, _, kind in FILES:
        wanted = ["g.txt", file] if kind == "text" else [file]
        assert names(await listed(house, "bob", f"kind={kind}&origin=uploaded")) == [file]
        assert names(await listed(house, "bob", f"kind={kind}")) == wanted
    assert names(await listed(house, "bob", "origin=made")) == ["g.txt"]
    assert await listed(house, "bob", "origin=example") == []
    for query in ("kind=films", "origin=nowhere", "favourite=perhaps"):
        assert (await house.ask("bob", "GET", f"/api/artifacts?{query}", 422))["code"] == "invalid_parameter"


async def test_examples_are_listed_for_everyone_though_nobody_owns_them(house: Locked) -> None:
    store = open_store(house.served.settings.artifacts)
    await store.put("inputs", "examples/picture.png", b"x", "image/png")
    await store.put("inputs", "examples/config.json", b"x", "application/json")
    await store.put("inputs", f"{new_id()}/nobodys.png", b"x", "image/png")
    await store.put("inputs", f"{new_id()}/hers.png", b"x", "image/png", owner="alice")
    await store.close()
    for limit in (1, 1000):
        assert sorted(names(await listed(house, "erna", "origin=example", limit))) == ["config.json", "picture.png"]
    assert names(await listed(house, "erna", "origin=example&kind=picture&bucket=inputs")) == ["picture.png"]
    assert await listed(house, "erna", "origin=example&bucket=loras") == []
    await house.ask("erna", "PUT", "/api/favourites/inputs/examples/picture.png", 204)
    for wanted, name in (("true", "picture.png"), ("false", "config.json")):
        assert names(await listed(house, "erna", f"origin=example&favourite={wanted}")) == [name]
    await house.ask("erna", "DELETE", "/api/favourites/inputs/examples/picture.png", 204)


async def test_a_page_looks_at_a_bounded_number_whatever_is_asked(house: Locked) -> None:
    many = Many(5000)
    of_many = gallery.Gallery(Jobs(house.client, house.served.settings), OwnedStore(many, "many", "many"), "many")
    await house.client.hset(
        keys.favourites("many"), mapping={f"{meta.bucket}/{meta.key}": meta.created_at for meta in many.metas[:2500]}
    )
    for wanted, favourite in ((gallery.Filter(), False), (gallery.Filter(kind="video"), None)):
        found, last = await of_many.page(wanted, favourite=favourite, bucket=None, job_id=None, limit=1, before=None)
        assert (found, last) == ([], newest(many.metas[gallery.MOST_SEEN - 1]))
        assert many.lists == gallery.MOST_SEEN / gallery.PAGE
        many.lists = 0
    pages = of_many.page(gallery.Filter(), favourite=True, bucket=None, job_id="none", limit=1, before=None)
    assert await pages == ([], newest(many.metas[gallery.MOST_SEEN - 1]))
    found, last = await of_many.page(
        gallery.Filter(), favourite=None, bucket=None, job_id=None, limit=5000, before=None
    )
    assert (len(found), many.lists) == (5000, 1)
    await house.client.delete(keys.favourites("many"))


async def test_a_page_of_four_times_as_many_costs_about_four_times_as_much(house: Locked) -> None:
    async def seconds(count: int) -> float:
        of_many = gallery.Gallery(
            Jobs(house.client, house.served.settings), OwnedStore(Many(count), "many", "many"), "many"
        )
        times = []
        for _ in range(3):
            begun = time.process_time()
            await of_many.page(gallery.Filter(), favourite=None, bucket=None, job_id=None, limit=count, before=None)
            times.append(time.process_time() - begun)
        return min(times)

    assert await seconds(10_000) < 8 * await seconds(2500)  # 16 times, where each is looked for among all


class Many(LocalStore):
    """Artifacts that nobody had to write."""

    def __init__(self, count: int) -> None:
        super().__init__(Path("/nowhere"))
        stamps = (
            f"2026-01-01T00:{number // 60_000:02}:{number // 1000 % 60:02}.{number % 1000:03}Z"
            for number in range(count)
        )
        self.metas = [
            ArtifactMeta(
                bucket="inputs",
                key=at,
                size_bytes=1,
                content_type="text/plain",
                sha256=None,
                created_at=at,
                job_id=None,
                node_id=None,
                owner="many",
            )
            for at in reversed([*stamps])
        ]
        self.lists = 0
        self._by_key = {meta.key: meta for meta in self.metas}

    async def meta(self, bucket: str, key: str) -> ArtifactMeta:
        return self._by_key[key]

    async def list(
        self, bucket: str | None = None, job_id: str | None = None, limit: int = 1000, owner: str | None = None,
        before: tuple[str, str] | None = None, folder: str | None = None,
    ) -> builtins.list[ArtifactMeta]:  # fmt: skip
        self.lists += 1
        first = 0 if before is None else next(at for at, meta in enumerate(self.metas) if newest(meta) < before)
        return self.metas[first : first + limit]


async def test_artifacts_are_listed_by_pipeline_and_tag_of_their_jobs(house: Locked) -> None:
    await made(house, "alice", "one.txt", tags=["best", "x"])
    two = await made(house, "alice", "two.txt")
    assert names(await listed(house, "alice", "tag=best,x")) == ["one.txt"]
    assert await listed(house, "alice", "tag=best,y") == []
    assert names(await listed(house, "alice", "pipeline=upload_artifact")) == ["two.txt", "one.txt"]
    assert await listed(house, "alice", "pipeline=simulate") == []
    await house.ask("alice", "PATCH", f"/api/jobs/{two}", json={"tags": ["best"]})
    assert names(await listed(house, "alice", "tag=best")) == ["two.txt", "one.txt"]
    assert await listed(house, "bob", "tag=best") == []


async def test_a_rare_kind_is_looked_for_over_several_requests(house: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "PAGE", 2)
    monkeypatch.setattr(gallery, "MOST_SEEN", 2)
    await house.upload("carol", b"x", "rare.png", "image/png")
    for _ in range(5):
        await house.upload("carol", b"x", f"{new_id()}.txt", "text/plain")
    first = await house.ask("carol", "GET", "/api/artifacts?kind=picture")
    assert first["artifacts"] == []
    assert first["next"]
    assert names(await listed(house, "carol", "kind=picture")) == ["rare.png"]
    assert len(await listed(house, "carol", "", limit=2)) == 6
