"""What docs/operation.md says of backup and restore, done word by word: files of a live system, copied and started elsewhere."""

import shutil
from pathlib import Path

import httpx
import redis

from tests.front_door.running import up
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate


def test_a_copy_of_a_live_system_shows_the_jobs_as_they_were_and_what_ran_runs_again(tmp_path: Path) -> None:
    (tmp_path / "house").mkdir()
    house = Stack(tmp_path / "house")
    try:
        house.worker()
        (tmp_path / "a.txt").write_bytes(b"a" * 70_000)
        stored = house.upload(tmp_path / "a.txt")
        done = house.post("/api/jobs", simulate({"id": "a", "steps": 2}, {"id": "b"}, edges=[("a", "b")]))["jobId"]
        failed = house.post("/api/jobs", simulate({"id": "a", "failAt": 0}))["jobId"]
        ended = [house.ended(job) for job in (done, failed)]
        events = house.get(f"/api/jobs/{done}/events")
        runs = house.post("/api/jobs", simulate({"id": "a", "steps": 40, "stepSeconds": 0.05}))["jobId"]
        becomes(lambda: house.nodes(runs) == {"a": "running"})

        # Back up: Redis first, so that every artifact that it names is in what is copied of the store.
        with redis.Redis.from_url(house.redis_url) as server:
            server.config_set("auto-aof-rewrite-percentage", 0)
        shutil.copytree(house.directory / "appendonlydir", tmp_path / "copy" / "redis" / "appendonlydir")
        shutil.copytree(house.directory / "artifacts", tmp_path / "copy" / "artifacts", symlinks=True)
        house.post("/api/jobs", simulate({"id": "a", "steps": 0}, job="after-the-backup"))
    finally:
        house.close()

    with (
        up(tmp_path, "--data-dir", "copy", DIHEDRAL_JOBS__LEASE_MS="600") as restored,
        httpx.Client(base_url=restored.url, timeout=120) as http,
    ):
        assert [http.get(f"/api/jobs/{job['jobId']}").json() for job in ended] == ended
        found = http.get(f"/api/jobs/{done}/events").json()
        assert found["events"] == events["events"]
        assert found["epoch"] != events["epoch"], "clients are to resync"
        assert http.get("/api/jobs/after-the-backup").status_code == 404
        answer = http.get(f"/api/artifacts/{stored['bucket']}/{stored['key']}")
        assert answer.content == b"a" * 70_000
        becomes(lambda: http.get(f"/api/jobs/{runs}").json()["status"] == "completed", 60)
