"""What a prune and a delete take, and what they leave."""

from pathlib import Path
from typing import Any

import pytest

from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.artifacts.prune import note_use, prune
from dihedral.bridge.artifacts.store import ArtifactStoreUnavailable
from dihedral.bridge.fabric import keys
from tests.control_plane.served import new_id, node
from tests.support.planes import gate

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_a_prune_leaves_what_live_and_scheduled_jobs_and_the_examples_name(served: Any, tmp_path: Path) -> None:
    store, client = LocalStore(tmp_path), served.planes.client
    names = ("running", "scheduled", "unnamed", "examples/picture.png")
    refs = {name: {"bucket": "inputs", "key": name if "/" in name else f"{name}/a.txt"} for name in names}
    for ref in refs.values():
        await store.put(ref["bucket"], ref["key"], b"x", "text/plain")
    waits = await served.submit(node("a", wait=(name := new_id()), output={"in": [refs["running"]]}))
    later = await served.submit(node("a", output=refs["scheduled"]), startAt="2090-01-01T00:00:00Z")
    await client.delete(keys.ARTIFACTS_NAMED)  # as some seconds later
    found = await prune(store, -1, dry_run=True, jobs=served.planes.jobs)
    assert [meta.key for meta in found] == ["unnamed/a.txt"]
    found = await prune(store, -1, dry_run=False, jobs=served.planes.jobs)
    assert [meta.key for meta in found] == ["unnamed/a.txt"]
    assert len(await store.list()) == 3
    gate(name).set()
    await served.ended(waits)
    await served.post(f"/api/jobs/{later}/cancel", expect=202)
    await served.in_status(later, "cancelled")
    await prune(store, -1, dry_run=False, jobs=served.planes.jobs)
    assert [meta.key for meta in await store.list()] == ["examples/picture.png"]
    assert not await client.exists(keys.ARTIFACTS_GOING)


async def test_of_a_prune_and_a_submission_at_once_one_sees_the_other(served: Any, tmp_path: Path) -> None:
    store, client = LocalStore(tmp_path), served.planes.client
    await store.put("inputs", "a/a.txt", b"x", "text/plain")
    assert await note_use(client, ["inputs/a/a.txt"]) == []
    assert await prune(store, -1, dry_run=False, jobs=served.planes.jobs) == [], "just being submitted"
    await client.delete(keys.ARTIFACTS_NAMED)
    await client.hset(keys.ARTIFACTS_GOING, "inputs/a/a.txt", "1")
    body = {
        "graph": {
            "schema": "langgraph.v1",
            "edges": [],
            "nodes": [node("a", output={"bucket": "inputs", "key": "a/a.txt"})],
        }
    }
    problem = await served.post("/api/jobs", body, expect=422)
    assert problem["errors"][0]["code"] == "unknown_artifact"
    found = await served.post("/api/jobs/batch", {"jobs": [body, body]}, expect=200)
    assert [each["status"] for each in found["jobs"]] == [422, 422]
    await client.delete(keys.ARTIFACTS_GOING, keys.ARTIFACTS_NAMED)


class Failing(LocalStore):
    """A store whose disk fails."""

    async def delete(self, bucket: str, key: str) -> None:
        raise ArtifactStoreUnavailable("the disk does not answer")


async def test_what_a_failed_prune_has_kept_can_be_named_at_once(served: Any, tmp_path: Path) -> None:
    store, client = Failing(tmp_path), served.planes.client
    await store.put("inputs", "a/a.txt", b"x", "text/plain")
    with pytest.raises(ArtifactStoreUnavailable):
        await prune(store, -1, dry_run=False, jobs=served.planes.jobs)
    assert await note_use(client, ["inputs/a/a.txt"]) == []
    await client.delete(keys.ARTIFACTS_NAMED)


async def test_a_delete_takes_checkpoints_and_previews_and_artifacts_where_told(served: Any) -> None:
    store = LocalStore(Path(served.settings.artifacts.directory))
    for artifacts, left in (("false", 1), ("true", 0)):
        job = await served.submit(node("a"))
        await served.ended(job)
        for bucket, key in (("loras", "a/checkpoint"), ("videos", "a/preview.jpg"), ("videos", "a/1-2/video.mp4")):
            await store.put(bucket, f"{job}/{key}", b"x", "text/plain", job_id=job, node_id="a")
        other = await store.put("loras", f"{job}/a/other", b"x", "text/plain", job_id=job, owner="another")
        await served.delete(f"/api/jobs/{job}", artifacts=artifacts)
        there = [meta.key for meta in await store.list(job_id=job)]
        assert len(there) == left + 1
        assert other.key in there
        await store.delete("loras", other.key)
