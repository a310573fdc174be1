"""`run_comfyui` against a scripted ComfyUI, old and new: what was tried on a real one is what these tests ask for.

With DIHEDRAL_COMFYUI_URL set, `-m oracle` runs the same workflow on that server.
"""

import asyncio
import json
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from dihedral.bridge import artifacts
from dihedral.bridge.artifacts.store import ArtifactStore
from dihedral.bridge.tasks.calling import run_light
from dihedral.bridge.tasks.registry import collect
from dihedral.bridge.tasks.runs import NodeRun, RunControl
from dihedral.data_plane.engines import comfyui
from dihedral.data_plane.tasks import run_comfyui
from dihedral.schemas.structs.settings import ArtifactsSettings
from tests.engines.scripted_comfyui import JPEG, PNG, ScriptedComfyui, happens
from tests.support.in_process import RecordedEvents
from tests.support.outcomes import Seen, ended

PICTURE: dict[str, Any] = {
    "1": {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 255}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "blue"}},
}
SLOW: dict[str, Any] = {
    "1": {"class_type": "Slow", "inputs": {"steps": 4}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "slow"}},
}


class Runs:
    """Runs the task in this event loop, as a worker does."""

    def __init__(self, store: ArtifactStore, servers: dict[str, Any]) -> None:
        self.store = store
        self.registry = collect(["dihedral.data_plane.tasks.run_comfyui"], plugins=False)
        self.registry["run_comfyui"].configure({"servers": servers})

    def begin(
        self, params: dict[str, Any], token: RunControl | None = None, *, attempt: int = 1, job: str = "job"
    ) -> tuple[asyncio.Task[Seen], RecordedEvents]:
        heard = RecordedEvents()
        run = NodeRun(
            job_id=job, node_id="draw", task="run_comfyui", attempt=attempt, nonce=uuid.uuid4().hex, params=params, timeout_seconds=60.0,
        )  # fmt: skip
        return asyncio.create_task(
            ended(run_light(self.registry, run, self.store, heard, token or RunControl()))
        ), heard

    async def output(self, params: dict[str, Any], **more: Any) -> dict[str, Any]:
        running, _ = self.begin(params, **more)
        outcome = await running
        assert outcome.status == "completed", outcome.error
        assert outcome.output is not None
        found: dict[str, Any] = json.loads(outcome.output)
        return found

    async def error(self, params: dict[str, Any], **more: Any) -> tuple[str, str, bool]:
        """(code, message, whether another attempt is worth it)."""
        running, _ = self.begin(params, **more)
        outcome = await running
        assert outcome.status == "failed"
        assert outcome.error is not None
        return outcome.error.code, outcome.error.message, outcome.retryable

    async def content(self, ref: dict[str, str], tmp_path: Path) -> bytes:
        await self.store.fetch(ref["bucket"], ref["key"], tmp_path / "fetched")
        return (tmp_path / "fetched").read_bytes()


@pytest_asyncio.fixture(params=["old", "new"])
async def comfy(request: pytest.FixtureRequest) -> AsyncIterator[ScriptedComfyui]:
    server = ScriptedComfyui(new=request.param == "new")
    await server.start()
    yield server
    await server.kill()


@pytest_asyncio.fixture
async def store(tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    opened = artifacts.open_store(ArtifactsSettings(directory=str(tmp_path / "store")))
    yield opened
    await opened.close()


@pytest.fixture
def runs(comfy: ScriptedComfyui, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Runs:
    monkeypatch.setattr(run_comfyui, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(run_comfyui, "POLL_SECONDS", 0.5)
    monkeypatch.setattr(run_comfyui, "STOPPED_SECONDS", 0.5)
    return Runs(store, {"main": {"url": comfy.url, "headers": {"Authorization": "Bearer secret"}, "waitSeconds": 10}})


async def test_a_workflow_becomes_artifacts(comfy: ScriptedComfyui, runs: Runs, tmp_path: Path) -> None:
    made = await runs.output({"workflow": PICTURE, "values": {"1.width": 128}})
    assert [(file["node"], file["kind"]) for file in made["files"]] == [("2", "image")]
    assert made["version"] == comfy.version
    assert str(uuid.UUID(made["promptId"])) == made["promptId"]  # newer ones take no other id
    assert await runs.content(made["files"][0]["artifact"], tmp_path) == PNG + b" dihedral/job/draw/blue_00001_.png"
    assert comfy.posted[0]["prompt"]["1"]["inputs"]["width"] == 128
    assert "number" not in comfy.posted[0]
    assert {each["authorization"] for each in comfy.headers} == {"Bearer secret"}
    assert not any("origin" in each for each in comfy.headers)


async def test_progress_and_previews_are_live_and_thinned(comfy: ScriptedComfyui, runs: Runs, tmp_path: Path) -> None:
    comfy.previews = 50
    running, heard = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.running and comfy.sockets)
    comfy.go.release()
    comfy.go.release()
    await happens(lambda: heard.fractions and max(heard.fractions) > 0.2)
    assert not running.done()
    for _ in range(2):
        comfy.go.release()
    assert (await running).status == "completed"
    assert heard.fractions[-1] == 1.0
    previews = heard.told("preview")
    assert len(previews) <= 3  # of 200
    if previews:  # the first second shows none
        assert await runs.content(previews[0], tmp_path) == JPEG


async def test_a_preview_is_shown_while_it_runs(
    comfy: ScriptedComfyui, runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_comfyui, "PREVIEW_SECONDS", 0.0)
    running, heard = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.running and comfy.sockets)
    comfy.go.release()
    await happens(lambda: heard.told("preview"))
    assert await runs.content(heard.told("preview")[0], tmp_path) == JPEG
    assert not running.done()
    for _ in range(3):
        comfy.go.release()
    await running


async def test_a_run_that_is_delivered_again_picks_up_what_runs(comfy: ScriptedComfyui, runs: Runs) -> None:
    first, _ = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.running)
    first.cancel()  # as a worker that goes away: nobody cancelled the job
    with pytest.raises(asyncio.CancelledError):
        await first
    assert comfy.running
    again, heard = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.sockets)
    for _ in range(4):
        comfy.go.release()
    assert (await again).status == "completed"
    assert len(comfy.posted) == 1
    assert max(heard.fractions) == 1.0
    made = await runs.output({"workflow": SLOW})  # and a third takes what has ended
    assert len(comfy.posted) == 1
    assert made["files"]


async def test_another_attempt_is_another_prompt(comfy: ScriptedComfyui, runs: Runs) -> None:
    ids = {(await runs.output({"workflow": PICTURE}, attempt=attempt))["promptId"] for attempt in (1, 2)}
    assert len(ids) == len(comfy.posted) == 2


async def test_what_comfyui_has_cached_is_told_and_copied(comfy: ScriptedComfyui, runs: Runs) -> None:
    await runs.output({"workflow": PICTURE})
    again = await runs.output({"workflow": PICTURE}, attempt=2)
    assert sorted(again["cached"]) == ["1", "2"]
    assert len(again["files"]) == 1


async def test_a_running_prompt_is_interrupted(comfy: ScriptedComfyui, runs: Runs) -> None:
    token = RunControl()
    running, heard = runs.begin({"workflow": SLOW}, token)
    await happens(lambda: comfy.running)
    token.cancel()
    assert (await running).status == "cancelled"
    assert not comfy.running
    assert ("info", "ComfyUI has stopped the prompt") in heard.lines


async def test_a_queued_prompt_is_deleted_and_nobody_else_is_disturbed(comfy: ScriptedComfyui, runs: Runs) -> None:
    other, _ = runs.begin({"workflow": SLOW}, job="other")
    await happens(lambda: comfy.running)
    token = RunControl()
    mine, heard = runs.begin({"workflow": SLOW}, token)
    await happens(lambda: comfy.pending)
    token.cancel()
    assert (await mine).status == "cancelled"
    assert not comfy.pending
    assert len(comfy.running) == 1
    assert any("removed from ComfyUI's queue" in line for _, line in heard.lines)
    for _ in range(4):
        comfy.go.release()
    assert (await other).status == "completed"


async def test_a_cancel_says_when_the_other_machine_goes_on(comfy: ScriptedComfyui, runs: Runs) -> None:
    comfy.deaf_nodes = True
    token = RunControl()
    running, heard = runs.begin({"workflow": SLOW}, token)
    await happens(lambda: comfy.running)
    token.cancel()
    assert (await running).status == "cancelled"
    assert any(level == "warning" and "before its next node" in line for level, line in heard.lines)


async def test_a_cancel_of_a_server_that_is_away_says_so(comfy: ScriptedComfyui, runs: Runs) -> None:
    token = RunControl()
    running, heard = runs.begin({"workflow": SLOW}, token)
    await happens(lambda: comfy.running and comfy.sockets)
    await comfy.kill()
    token.cancel()
    assert (await running).status == "cancelled"
    assert any(level == "warning" and "may go on there" in line for level, line in heard.lines)
    await comfy.start()


async def test_a_socket_that_is_cut_loses_nothing(comfy: ScriptedComfyui, runs: Runs) -> None:
    running, heard = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.running and comfy.sockets)
    await comfy.cut()
    for _ in range(4):
        comfy.go.release()
    assert (await running).status == "completed"
    assert len(comfy.posted) == 1
    assert heard.fractions[-1] == 1.0


async def test_an_end_that_nobody_heard_is_found_in_the_history(comfy: ScriptedComfyui, runs: Runs) -> None:
    running, _ = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.running and comfy.sockets)
    comfy.sockets.clear()  # open, and silent
    for _ in range(4):
        comfy.go.release()
    assert (await running).status == "completed"


async def test_a_restart_of_comfyui_runs_the_prompt_again(comfy: ScriptedComfyui, runs: Runs) -> None:
    running, heard = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.running and comfy.sockets)
    await comfy.kill()
    await comfy.start()
    await happens(lambda: comfy.running)
    for _ in range(4):
        comfy.go.release()
    assert (await running).status == "completed"
    assert len(comfy.posted) == 2
    assert any("posted again" in line for _, line in heard.lines)


async def test_an_empty_history_never_means_done(comfy: ScriptedComfyui, runs: Runs) -> None:
    blocker, _ = runs.begin({"workflow": SLOW}, job="other")
    await happens(lambda: comfy.running)
    running, _ = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.pending and len(comfy.sockets) == 2)
    comfy.pending.clear()  # by a person, in ComfyUI
    outcome = await running
    assert (outcome.status, outcome.error and outcome.error.code) == ("failed", "comfyui_deleted")
    for _ in range(4):
        comfy.go.release()
    await blocker


async def test_a_branch_that_would_be_dropped_is_an_error(comfy: ScriptedComfyui, runs: Runs) -> None:
    two = PICTURE | {
        "3": {"class_type": "EmptyImage", "inputs": {"width": -5}},
        "4": {"class_type": "SaveImage", "inputs": {"images": ["3", 0], "filename_prefix": "bad"}},
        "5": {"class_type": "Slow", "inputs": {"steps": 1}},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "slow"}},
    }
    code, message, _ = await runs.error({"workflow": two})
    assert (code, "node 3" in message) == ("workflow_branch_dropped", True)
    await happens(lambda: not comfy.pending and not comfy.running)  # and nothing of it goes on
    comfy.go.release()
    made = await runs.output({"workflow": two, "partial": True}, attempt=2)
    assert {file["node"] for file in made["files"]} == {"2", "6"}


async def test_only_the_outputs_that_are_asked_for_run(comfy: ScriptedComfyui, runs: Runs) -> None:
    both = PICTURE | {"3": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}}
    made = await runs.output({"workflow": both, "outputs": ["3"]})
    assert {file["node"] for file in made["files"]} == {"3"}
    assert comfy.posted[0]["partial_execution_targets"] == ["3"]


async def test_files_are_uploaded_under_the_name_that_is_answered(comfy: ScriptedComfyui, runs: Runs) -> None:
    await runs.store.put("inputs", "my-cat.png", b"cat", content_type="image/png", job_id=None, node_id=None)
    flow = {
        "10": {"class_type": "LoadImage", "inputs": {"image": "old.png"}},
        "2": {"class_type": "SaveImage", "inputs": {"images": ["10", 0], "filename_prefix": "cat"}},
    }
    await runs.output({"workflow": flow, "files": {"10.image": {"bucket": "inputs", "key": "my-cat.png"}}})
    [name] = comfy.uploads
    assert comfy.uploads[name] == b"cat"
    assert name.startswith("dihedral/job/draw/the ")
    assert comfy.posted[0]["prompt"]["10"]["inputs"]["image"] == name


async def test_a_lora_is_put_where_comfyui_looks_for_it(
    comfy: ScriptedComfyui, runs: Runs, store: ArtifactStore, tmp_path: Path
) -> None:
    await store.put("loras", "j/lora.safetensors", b"weights", content_type="x/y", job_id=None, node_id=None)
    flow = {"5": {"class_type": "LoraLoader", "inputs": {"lora_name": "", "model": ["1", 0]}}, "1": PICTURE["1"],
            "2": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "fox"}}}  # fmt: skip
    params = {"workflow": flow, "files": {"5.lora_name": {"bucket": "loras", "key": "j/lora.safetensors"}}}
    code, message, _ = await runs.error(params)
    assert code == "invalid_settings"
    assert "[comfyui.NAME] loras" in message
    folder = tmp_path / "models" / "loras"
    configured = Runs(store, {"main": {"url": comfy.url, "loras": str(folder)}})
    code, message, _ = await configured.error(params)
    assert "cannot be put into" in message, "there is no such folder"
    folder.mkdir(parents=True)
    await configured.output(params, attempt=2)
    [placed] = folder.iterdir()
    assert placed.read_bytes() == b"weights"
    assert comfy.posted[-1]["prompt"]["5"]["inputs"]["lora_name"] == placed.name
    assert placed.suffix == ".safetensors"
    assert "/" not in placed.name
    assert not comfy.uploads


async def test_texts_are_told(runs: Runs) -> None:
    made = await runs.output({"workflow": {"7": {"class_type": "Text", "inputs": {"text": "a cat"}}}})
    assert made["texts"] == {"7": ["a cat"]}


async def test_a_message_of_a_blocked_branch_is_not_the_end(comfy: ScriptedComfyui, runs: Runs) -> None:
    flow = {"0": {"class_type": "Blocked", "inputs": {}}} | SLOW
    running, _ = runs.begin({"workflow": flow})
    await happens(lambda: comfy.running and comfy.sockets)
    for _ in range(4):
        comfy.go.release()
    assert (await running).status == "completed"


@pytest.mark.parametrize(
    ("node", "code"),
    [
        ({"class_type": "Fail", "inputs": {}}, "comfyui_node_failed"),
        ({"class_type": "Fail", "inputs": {"kind": "torch.OutOfMemoryError"}}, "out_of_memory"),
        ({"class_type": "Nope", "inputs": {}}, "invalid_workflow"),
        ({"class_type": "SaveImage", "inputs": {"filename_prefix": "gone"}}, "comfyui_file_missing"),
    ],
)
async def test_what_goes_wrong_in_comfyui_is_a_typed_error(runs: Runs, node: dict[str, Any], code: str) -> None:
    found, message, _ = await runs.error({"workflow": {"9": node}})
    assert found == code
    assert message


async def test_a_missing_model_says_where_it_must_be(runs: Runs) -> None:
    flow = {"1": {"class_type": "Checkpoint", "inputs": {}}, "2": PICTURE["2"]}
    code, message, _ = await runs.error({"workflow": flow})
    assert code == "invalid_workflow"
    assert "'x' not in []" in message
    assert "where ComfyUI looks" in message


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ({"workflow": {"nodes": [], "links": []}}, "ui_workflow"),
        ({"workflow": {}}, "invalid_workflow"),
        ({"workflow": {"1": {"class_type": "X"}}}, "invalid_workflow"),
        ({"workflow": PICTURE, "values": {"1.widht": 3}}, "invalid_input"),
        ({"workflow": PICTURE, "values": {"9.width": 3}}, "invalid_input"),
        ({"workflow": PICTURE, "outputs": ["9"]}, "invalid_input"),
        ({"workflow": PICTURE, "server": "other"}, "unknown_server"),
    ],
)
async def test_bad_input_is_refused_before_anything_is_posted(
    comfy: ScriptedComfyui, runs: Runs, params: dict[str, Any], code: str
) -> None:
    assert (await runs.error(params))[0] == code
    assert comfy.posted == []


async def test_somebody_elses_interrupt_is_an_error(comfy: ScriptedComfyui, runs: Runs) -> None:
    running, _ = runs.begin({"workflow": SLOW})
    await happens(lambda: comfy.running and comfy.sockets)
    comfy._stop()
    outcome = await running
    assert outcome.error is not None
    assert outcome.error.code == "comfyui_interrupted"


async def test_a_node_waits_for_a_server_that_is_away(comfy: ScriptedComfyui, runs: Runs) -> None:
    await comfy.kill()
    running, heard = runs.begin({"workflow": PICTURE})
    await happens(lambda: heard.told("waiting"))
    assert comfy.url in heard.told("waiting")[0]["reason"]
    assert heard.reasons == [f"waits for ComfyUI: {heard.told('waiting')[0]['reason']}"]
    await comfy.start()
    assert (await running).status == "completed"


async def test_after_a_while_another_attempt_has_to_wait(comfy: ScriptedComfyui, store: ArtifactStore) -> None:
    await comfy.kill()
    code, _, retryable = await Runs(store, {"main": {"url": comfy.url, "waitSeconds": 0}}).error({"workflow": PICTURE})
    assert (code, retryable) == ("comfyui_away", True)
    await comfy.start()


async def test_servers_of_one_name_take_turns(comfy: ScriptedComfyui, store: ArtifactStore) -> None:
    second = ScriptedComfyui(new=comfy.new)
    await second.start()
    runs = Runs(store, {"main": {"url": [comfy.url, second.url], "memoryMib": 100}})
    try:
        for number in range(4):
            await runs.output({"workflow": PICTURE}, job=f"job{number}")
        assert (len(comfy.posted), len(second.posted)) == (2, 2)
        await second.kill()
        await runs.output({"workflow": PICTURE}, job="one-is-away")
        assert len(comfy.posted) == 3
        assert comfy.freed == 3
        await second.start()
    finally:
        await second.kill()


async def test_what_is_no_comfyui_is_told(comfy: ScriptedComfyui, runs: Runs) -> None:
    comfy.answer_html = True
    code, message, _ = await runs.error({"workflow": PICTURE})
    assert code == "comfyui_protocol"
    assert "text/html" in message


async def test_only_what_the_operator_allows_is_asked(store: ArtifactStore) -> None:
    named = Runs(store, {"main": {"url": "http://comfy.example"}})
    assert (await named.error({"workflow": PICTURE}))[0] == "invalid_settings"


async def test_five_thousand_nodes_are_no_trouble(comfy: ScriptedComfyui, runs: Runs) -> None:
    many = {str(n): {"class_type": "EmptyImage", "inputs": {"width": n}} for n in range(10, 5010)}
    assert (await runs.output({"workflow": PICTURE | many}))["files"]


def test_settings_have_a_type() -> None:
    settings = msgspec.convert({"servers": {"a": {"url": "http://localhost:8188"}}}, comfyui.ComfySettings)
    assert settings.servers["a"].urls == ["http://localhost:8188"]


@pytest.mark.oracle
async def test_a_real_comfyui_does_the_same(store: ArtifactStore, tmp_path: Path) -> None:
    url = os.environ.get("DIHEDRAL_COMFYUI_URL")
    if not url:
        pytest.skip("DIHEDRAL_COMFYUI_URL names no ComfyUI")
    runs = Runs(store, {"main": {"url": url}})
    job = f"oracle-{uuid.uuid4().hex[:8]}"
    made = await runs.output({"workflow": PICTURE, "values": {"1.width": 96}}, job=job)
    assert (await runs.content(made["files"][0]["artifact"], tmp_path))[:4] == b"\x89PNG"
    assert (await runs.output({"workflow": PICTURE, "values": {"1.width": 96}}, job=job))["promptId"] == made[
        "promptId"
    ]
    assert (await runs.error({"workflow": PICTURE, "values": {"1.width": -5}}, job=job, attempt=3))[
        0
    ] == "invalid_workflow"
    assert (await runs.error({"workflow": {"1": {"class_type": "Nope", "inputs": {}}}}, job=job, attempt=4))[
        0
    ] == "invalid_workflow"
