"""The media tasks as a worker runs them: through the registry, with a real store, saying what they do."""

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors import safe_open

from bridge import artifacts
from bridge.running import NodeOutcome, NodeRun, run_plain
from bridge.tasks import Registry, collect
from schemas.structs.settings import ArtifactsSettings

LINES = ["The sun goes down over the lake.", "Nothing moves but the water."]


class Heard:
    """Emit: keeps what a task says."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.published: list[tuple[str, dict[str, Any]]] = []

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def data(self, name: str, payload: dict[str, Any]) -> None:
        self.published.append((name, payload))

    def log(self, level: str, message: str) -> None:
        raise AssertionError(f"unexpected {level}: {message}")


class Place:
    """Runs tasks in this thread, the store on the loop of another, as a slot does."""

    def __init__(self, store: artifacts.ArtifactStore, loop: asyncio.AbstractEventLoop) -> None:
        self.store, self.loop = store, loop
        self.registry: Registry = collect(
            f"data_plane.tasks.{name}" for name in ("train_image_lora", "train_voice", "render_video")
        )

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def upload(self, path: Path) -> dict[str, str]:
        self.wait(self.store.put("inputs", path.name, path, content_type="x/y", job_id=None, node_id=None))
        return {"bucket": "inputs", "key": path.name}

    def download(self, reference: dict[str, str], to: Path) -> Path:
        self.wait(self.store.fetch(reference["bucket"], reference["key"], to))
        return to

    def run(
        self, task: str, params: dict[str, Any], cancelled: Callable[[], bool] = lambda: False
    ) -> tuple[NodeOutcome, Heard]:
        heard = Heard()
        run = NodeRun(job_id="job", node_id=task, task=task, attempt=1, nonce="n1", params=params, timeout_seconds=60.0)
        outcome = run_plain(self.registry, run, lambda: self.store, heard, cancelled, loop=lambda: self.loop)
        return outcome, heard

    def output(self, task: str, params: dict[str, Any]) -> tuple[dict[str, Any], Heard]:
        outcome, heard = self.run(task, params)
        assert outcome.status == "completed", outcome.error
        assert outcome.output is not None
        assert all(later >= earlier for earlier, later in pairwise(heard.fractions))
        assert heard.fractions[-1] == 1.0
        assert [meta.job_id for meta in outcome.artifacts] == ["job"]
        return json.loads(outcome.output), heard

    def refused(self, task: str, params: dict[str, Any]) -> str:
        outcome, _ = self.run(task, params)
        assert (outcome.status, outcome.retryable, outcome.artifacts) == ("failed", False, [])
        assert outcome.error is not None
        assert outcome.error.code == "invalid_input"
        return outcome.error.message


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def opened() -> artifacts.ArtifactStore:
        return artifacts.open_store(ArtifactsSettings(directory=str(tmp_path / "store")))

    store = asyncio.run_coroutine_threadsafe(opened(), loop).result(10)
    yield Place(store, loop)
    asyncio.run_coroutine_threadsafe(store.close(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_picture_and_a_recording_become_a_video(place: Place, inputs: dict[str, Path], tmp_path: Path) -> None:
    picture, audio = place.upload(inputs["picture"]), place.upload(inputs["recording"])

    trained, heard = place.output("train_image_lora", {"pictures": [picture]})
    losses = [payload["loss"] for name, payload in heard.published if name == "loss"]
    assert trained["heldOutError"] <= 0.8 * trained["baseError"]
    assert 50 <= len(losses) <= 101
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    with safe_open(place.download(trained["adapter"], tmp_path / "adapter"), framework="numpy") as opened:
        assert set(opened.keys()) == {"A", "B", "mean"}
        assert opened.get_tensor("A").shape == (8, 192)
        assert opened.metadata()["rank"] == "8"
        assert float(opened.metadata()["held_out_error"]) == trained["heldOutError"]

    voice, heard = place.output("train_voice", {"recording": audio})
    rises = [payload["logLikelihood"] for name, payload in heard.published if name == "logLikelihood"]
    assert len(rises) == 25
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(rises))
    assert voice["logLikelihood"] == rises[-1]
    assert voice["f0Hz"] == pytest.approx(112, rel=0.05)
    assert voice["voice"]["bucket"] == "voices"

    made, _ = place.output(
        "render_video",
        {"picture": picture, "audio": audio, "adapter": trained["adapter"], "voice": voice["voice"], "script": LINES}
        | {"seconds": 1.5, "width": 160, "height": 120},
    )
    assert (made["frames"], made["seconds"], made["width"], made["height"], made["fps"]) == (36, 1.5, 160, 120, 24)
    with av.open(str(place.download(made["video"], tmp_path / "video.mp4"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 36


def test_a_video_lasts_as_long_as_its_sound_where_nobody_said_otherwise(
    place: Place, inputs: dict[str, Path], tmp_path: Path
) -> None:
    samples, rate = soundfile.read(inputs["recording"], frames=33_075)
    soundfile.write(tmp_path / "short.flac", samples, rate)
    picture, audio = place.upload(inputs["picture"]), place.upload(tmp_path / "short.flac")
    adapter = place.output("train_image_lora", {"pictures": [picture], "steps": 5})[0]["adapter"]
    voice = place.output("train_voice", {"recording": audio, "iterations": 2})[0]["voice"]
    params = {"picture": picture, "audio": audio, "adapter": adapter, "voice": voice, "script": [], "fps": 10}
    made, _ = place.output("render_video", params | {"width": 64, "height": 64})
    assert (made["frames"], made["seconds"]) == (15, 1.5)


def test_several_pictures_make_one_adapter(place: Place, inputs: dict[str, Path]) -> None:
    pictures = [place.upload(inputs[name]) for name in ("picture", "second_picture")]
    both, _ = place.output("train_image_lora", {"pictures": pictures, "steps": 50})
    assert both["heldOutError"] <= 0.8 * both["baseError"]


def test_a_cancel_is_heard_between_steps(place: Place, inputs: dict[str, Path]) -> None:
    looks = iter(range(1000))
    params = {"pictures": [place.upload(inputs["picture"])], "steps": 100_000}
    outcome, heard = place.run("train_image_lora", params, cancelled=lambda: next(looks) > 10)
    assert (outcome.status, outcome.artifacts) == ("cancelled", [])
    assert len(heard.published) < 20


def test_media_that_say_too_little_are_refused(place: Place, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    clicks = np.zeros(8_000)
    clicks[4_000] = 0.9
    soundfile.write(tmp_path / "click.wav", clicks, 16_000)
    assert "4 patches" in place.refused("train_image_lora", {"pictures": [place.upload(tmp_path / "small.png")]})
    assert "of speech" in place.refused("train_voice", {"recording": place.upload(tmp_path / "click.wav")})


def test_media_of_the_wrong_kind_are_refused(place: Place, inputs: dict[str, Path]) -> None:
    picture, audio = place.upload(inputs["picture"]), place.upload(inputs["recording"])
    assert "not a picture" in place.refused("train_image_lora", {"pictures": [picture, audio]})
    assert "not a recording" in place.refused("train_voice", {"recording": picture})
    params = {"picture": picture, "audio": audio, "adapter": picture, "voice": audio, "script": LINES}
    assert "image-adapter" in place.refused("render_video", params)
