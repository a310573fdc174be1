"""Favourites, and lists of artifacts by kind, origin, pipeline and tag."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import pytest_asyncio

from dihedral.control_plane import gallery
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
        for name in ("alice", "bob", "carol", "dora"):
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
    while True:
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


async def test_the_number_of_favourites_is_bounded(house: Locked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery, "MOST_FAVOURITES", 1)
    files = await uploaded(house, "dora")
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
