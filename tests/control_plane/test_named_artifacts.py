"""A job that names artifacts which are not there is refused when it is submitted, and not when it runs; whose they are counts."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio

from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStoreUnavailable
from dihedral.bridge.fabric import keys
from dihedral.control_plane.planning import artifacts
from dihedral.control_plane.planning.artifacts import Named
from tests.control_plane.locked import locked_house
from tests.control_plane.served import submission

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    async with locked_house(tmp_path_factory.mktemp("named")) as made:
        for name in ("alice", "bob"):
            await made.key(name)
        await made.key("admin", "admin")
        yield made


def assets(*names: Any, id: str = "a") -> dict[str, Any]:
    refs = [{"bucket": each["bucket"], "key": each["key"]} if "key" in each else each for each in names]
    return {"id": id, "task": "prepare_assets", "plane": "node", "params": {"assets": refs}}


def absent(key: str = "nowhere/a.png") -> dict[str, str]:
    return {"bucket": "inputs", "key": key}


async def refusal(house: Any, name: str, *nodes: Any, path: str = "/api/jobs", **more: Any) -> list[dict[str, str]]:
    problem = await house.ask(name, "POST", path, 422, json=submission(*nodes, **more))
    assert {each["code"] for each in problem["errors"]} == {"unknown_artifact"}
    found: list[dict[str, str]] = problem["errors"]
    return found


async def test_what_is_not_there_is_refused_at_its_place_and_what_is_there_runs(house: Any) -> None:
    meta = await house.upload("alice")
    job = await house.submit("alice", assets(meta))
    assert (await house.ended("alice", job))["status"] == "completed"
    for path in ("/api/jobs", "/api/plans"):
        found = await refusal(house, "alice", assets(meta, absent()), assets(absent("x/y"), id="b"), path=path)
        assert [each["pointer"] for each in found] == [
            "/graph/nodes/0/params/assets/1",
            "/graph/nodes/1/params/assets/0",
        ]
        assert found[0]["detail"] == "there is no artifact inputs/nowhere/a.png"


async def test_what_another_owner_has_reads_as_what_is_not_there(house: Any) -> None:
    meta = await house.upload("alice")
    theirs = await refusal(house, "bob", assets(meta))
    nobodys = await refusal(house, "bob", assets(absent(meta["key"].replace("a.txt", "b.txt"))))
    assert theirs[0]["detail"].replace("a.txt", "b.txt") == nobodys[0]["detail"]
    assert await house.submit("admin", assets(meta))


@pytest.mark.parametrize("key", ["../../etc/passwd", ".hidden", "a//b", "x" * 900])
async def test_a_key_that_no_store_takes_is_not_there(house: Any, key: str) -> None:
    await refusal(house, "alice", assets(absent(key)))


async def test_what_an_earlier_node_makes_is_not_looked_for(house: Any) -> None:
    made = {"id": "make", "task": "upload_artifact", "plane": "node", "params": {"name": "a.txt", "text": "made"}}
    used = assets({"$from": "make", "path": "/artifact"}, id="use")
    job = await house.submit("alice", made, used, edges=[{"from": "make", "to": "use"}])
    assert (await house.ended("alice", job))["status"] == "completed"


async def test_an_object_that_only_looks_like_an_artifact_is_none(house: Any) -> None:
    """The params of somebody's own task may have a bucket and a key of their own."""
    odd = {"id": "a", "task": "upload_artifact", "plane": "node", "params": {"name": "a.json", "document": absent()}}
    job = await house.submit("alice", odd)
    assert (await house.ended("alice", job))["status"] == "completed"


async def test_in_a_batch_only_the_job_that_names_it_is_refused(house: Any) -> None:
    meta = await house.upload("alice")
    jobs = [submission(assets(each)) for each in (meta, absent(), meta)]
    found = await house.ask("alice", "POST", "/api/jobs/batch", 200, json={"jobs": jobs})
    assert [each["status"] for each in found["jobs"]] == ["queued", 422, "queued"]


async def test_a_refused_submission_reserves_no_idempotency_key(house: Any) -> None:
    headers = {"Idempotency-Key": "again"}
    body = submission(assets(absent("later/a.txt")))
    await house.ask("alice", "POST", "/api/jobs", 422, json=body, headers=headers)
    assert await house.client.get(keys.idempotency("alice", "again")) is None


class SlowStore:
    """Has nothing, and answers late, or not at all."""

    def __init__(self, seconds: float, error: Exception) -> None:
        self.seconds, self.error = seconds, error
        self.asked = self.at_once = self.most_at_once = 0

    async def meta(self, bucket: str, key: str) -> Any:
        self.asked += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.seconds)
        finally:
            self.at_once -= 1
        raise self.error


async def test_the_look_is_bounded_in_number_in_time_and_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [Named(f"/{number}", "inputs", f"a/{number}") for number in range(1000)]
    store: Any = SlowStore(0, ArtifactNotFound("none"))
    assert len(await artifacts.missing(store, names)) == artifacts.MOST
    assert store.asked == artifacts.MOST
    assert store.most_at_once <= artifacts.AT_ONCE
    monkeypatch.setattr(artifacts, "SECONDS", 0.1)
    store = SlowStore(60, ArtifactNotFound("none"))
    assert await artifacts.missing(store, names) == []


async def test_a_store_that_does_not_answer_refuses_no_job() -> None:
    store: Any = SlowStore(0, ArtifactStoreUnavailable("down"))
    assert await artifacts.missing(store, [Named("/a", "inputs", "a/b")]) == []


async def test_an_artifact_of_a_pipeline_is_named_where_the_user_wrote_it() -> None:
    params = {"picture": absent("a/b"), "more": [absent("c/d"), {"deep": absent("a/b")}]}
    assert list(artifacts.places(params, "inputs", "a/b")) == ["/params/picture", "/params/more/1/deep"]
    assert list(artifacts.places(params, "inputs", "c/d")) == ["/params/more/0"]


async def test_an_artifact_of_many_nodes_is_looked_for_once(house: Any) -> None:
    meta = await house.upload("alice")
    asked = 0
    before = LocalStore.meta

    async def counting(self: Any, bucket: str, key: str) -> Any:
        nonlocal asked
        asked += 1
        return await before(self, bucket, key)

    nodes = [assets(meta, meta, id=f"n{number}") for number in range(50)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LocalStore, "meta", counting)
        await house.ask("alice", "POST", "/api/plans", 200, json=submission(*nodes))
    assert asked == 1


async def test_a_file_that_is_named_thousands_of_times_is_refused_at_once(house: Any) -> None:
    """Before, each of its places was looked for at each of them: 16 million problems of one request of 200 kB."""
    body = {"pipeline": "lora_picture", "params": {"pictures": [absent()] * 2000}}
    begun = time.process_time()
    problem = await house.ask("alice", "POST", "/api/plans", 422, json=body)
    assert time.process_time() - begun < 2
    assert 0 < len(problem["errors"]) <= 100
