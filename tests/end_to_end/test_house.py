"""Jobs over both planes, as real processes, with real files; and what happens when processes are killed."""

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import pytest
import websockets

from dihedral import examples
from tests.support import lethal
from tests.support.polling import becomes
from tests.support.stack import Stack, simulate


@pytest.fixture(scope="module")
def house() -> Iterator[Any]:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        made = Stack(Path(folder))
        made.worker("--slots", "2")
        yield made
        made.close()


def picture_job(house: Any, **params: Any) -> Any:
    made = examples.make(house.directory / "inputs")
    files = {"picture": house.upload(made["picture"]), "voice": house.upload(made["recording"])}
    return house.post("/api/jobs", {"pipeline": "talking_picture", "params": {**files, **params}})["jobId"]


def test_a_talking_picture_travels_over_both_planes(house: Any, tmp_path: Path) -> None:
    job = house.ended(picture_job(house, seconds=2.0))
    assert job["status"] == "completed", job
    assert job["progress"] == 1
    found = {meta["bucket"]: meta for meta in job["artifacts"]}
    assert set(found) == {"voices", "videos"}
    assert sorted(meta["key"].rsplit("/", 1)[-1] for meta in job["artifacts"]) == [
        "face.mp4",
        "speech.vtt",
        "speech.wav",
        "video.mp4",
    ]
    for bucket, meta in found.items():
        answer = house.http.get(f"/api/artifacts/{bucket}/{meta['key']}")
        assert len(answer.content) == meta["size_bytes"]
        (tmp_path / bucket).write_bytes(answer.content)
    with av.open(str(tmp_path / "videos")) as video:
        assert sum(1 for _ in video.decode(video=0)) == video.streams.video[0].frames > 0
    planes = {event["worker"] for event in house.events(job["jobId"]) if event["type"] == "node" and event["worker"]}
    assert len(planes) == 2, "one worker of each plane"


def test_a_killed_worker_loses_nothing_and_finished_nodes_do_not_run_again(house: Any) -> None:
    """kill -9 of the worker in the middle of the demo's pipeline; another one finishes it."""
    job = picture_job(house, seconds=20.0)
    becomes(lambda: house.nodes(job)["render_video"] == "running")
    house.kill(house.workers.pop())
    house.worker("--slots", "2")
    ended = house.ended(job)
    assert ended["status"] == "completed", ended
    begun = [event["nodeId"] for event in house.events(job) if event["type"] == "node" and event["status"] == "running"]
    assert begun.count("lip_sync") == begun.count("speak") == begun.count("generate_script") == 1
    assert begun.count("render_video") == 2


def test_a_killed_control_plane_comes_back_and_the_job_goes_on(house: Any) -> None:
    job = house.post(
        "/api/jobs", simulate({"id": "a", "steps": 10, "stepSeconds": 0.05}, {"id": "b"}, edges=[("a", "b")])
    )["jobId"]
    house.kill(house.control)
    house.control = house.start("control_plane", "--port", str(house.port))
    becomes(house._ready)
    assert house.ended(job)["status"] == "completed"


def test_cancel_ends_a_running_job(house: Any) -> None:
    job = house.post("/api/jobs", simulate({"id": "a", "steps": 1000, "stepSeconds": 0.1}))["jobId"]
    becomes(lambda: house.nodes(job)["a"] == "running")
    house.post(f"/api/jobs/{job}/cancel", status=202)
    assert house.ended(job)["status"] == "cancelled"
    house.post(f"/api/jobs/{job}/cancel", status=200)


def test_a_job_that_always_takes_its_worker_along_ends_as_worker_lost() -> None:
    with tempfile.TemporaryDirectory(prefix="dih-") as folder:
        house = Stack(Path(folder), DIHEDRAL_JOBS__MAX_DELIVERIES="2")
        try:
            tasks = "--tasks", lethal.module_in(house.directory)
            first = house.worker(*tasks)
            poison = house.post("/api/jobs", lethal.submission())["jobId"]
            first.wait()
            house.start("data_plane", *tasks).wait()
            house.worker(*tasks)
            ended = house.ended(poison)
            assert ended["status"] == "failed"
            assert ended["error"]["code"] == "worker_lost"
            good = house.post("/api/jobs", simulate({"id": "good"}))["jobId"]
            assert house.ended(good)["status"] == "completed"
            (letter,) = house.get("/api/dead-letters")["deadLetters"]
            assert (letter["jobId"], letter["nodeId"]) == (poison, "deadly")
        finally:
            house.close()


async def test_a_client_cut_off_at_random_points_sees_every_event_once_and_in_order(house: Any) -> None:
    nodes = [{"id": f"n{n}", "steps": 20, "stepSeconds": 0.01} for n in range(6)]
    job = house.post("/api/jobs", simulate(*nodes, edges=[(f"n{n}", f"n{n + 1}") for n in range(5)]))["jobId"]
    dice = random.Random(7)
    seen: list[int] = []
    status = ""
    while status != "completed":
        async with websockets.connect(house.url.replace("http", "ws") + "/ws") as socket:
            await socket.send(json.dumps({"action": "subscribe", "jobId": job, "after": seen[-1] if seen else 0}))
            assert json.loads(await socket.recv())["message"] == "subscribed"
            for _ in range(dice.randint(1, 12)):
                update = json.loads(await socket.recv())
                seen += [event["seq"] for event in update["events"]]
                status = update["status"]
                if status == "completed":
                    break
    assert seen == list(range(1, len(seen) + 1))
    assert seen == [event["seq"] for event in house.events(job)]


def test_two_jobs_are_listed_newest_first_and_paged(house: Any) -> None:
    ids = [house.post("/api/jobs", simulate({"id": "a"}))["jobId"] for _ in range(3)]
    for job in ids:
        house.ended(job)
    first = house.get("/api/jobs", limit=2)
    assert [job["jobId"] for job in first["jobs"]] == ids[:0:-1]
    second = house.get("/api/jobs", limit=1, cursor=first["next"])
    assert second["jobs"][0]["jobId"] == ids[0]
