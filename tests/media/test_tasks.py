"""The media tasks as a worker runs them: through the registry, with a real store, saying what they do."""

from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from PIL import Image
from safetensors import safe_open

from tests.support.in_process import TaskRunner

LINES = ["The sun goes down over the lake.", "Nothing moves but the water."]


def test_a_picture_and_a_recording_become_a_video(place: TaskRunner, inputs: dict[str, Path], tmp_path: Path) -> None:
    picture, audio = place.upload(inputs["picture"]), place.upload(inputs["recording"])

    trained, heard = place.output("train_image_lora", {"pictures": [picture]})
    losses = [told["loss"] for told in heard.told("loss")]
    assert trained["heldOutError"] <= 0.8 * trained["baseError"]
    assert 50 <= len(losses) <= 101
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:3])
    with safe_open(place.download(trained["adapter"], tmp_path / "adapter"), framework="numpy") as opened:
        assert set(opened.keys()) == {"A", "B", "mean"}
        assert opened.get_tensor("A").shape == (8, 192)
        assert opened.metadata()["rank"] == "8"
        assert float(opened.metadata()["held_out_error"]) == trained["heldOutError"]

    voice, heard = place.output("train_voice", {"recording": audio})
    rises = [told["logLikelihood"] for told in heard.told("logLikelihood")]
    assert len(rises) == 25
    assert all(later >= earlier - 1e-9 for earlier, later in pairwise(rises))
    assert voice["logLikelihood"] == rises[-1]
    assert voice["f0Hz"] == pytest.approx(112, rel=0.05)
    assert voice["voice"]["bucket"] == "voices"

    made, _ = place.output(
        "render_video",
        {"scenes": [{"picture": picture, "lines": LINES}], "narration": [audio]}
        | {"adapter": trained["adapter"], "voice": voice["voice"], "seconds": 1.5, "width": 160, "height": 120},
    )
    assert (made["frames"], made["seconds"], made["width"], made["height"], made["fps"]) == (36, 1.5, 160, 120, 24)
    with av.open(str(place.download(made["video"], tmp_path / "video.mp4"))) as container:
        assert sum(1 for _ in container.decode(video=0)) == 36


def test_several_pictures_make_one_adapter(place: TaskRunner, inputs: dict[str, Path]) -> None:
    pictures = [place.upload(inputs[name]) for name in ("picture", "second_picture")]
    both, _ = place.output("train_image_lora", {"pictures": pictures, "steps": 50})
    assert both["heldOutError"] <= 0.8 * both["baseError"]


def test_a_cancel_is_heard_between_steps(place: TaskRunner, inputs: dict[str, Path]) -> None:
    looks = iter(range(1000))
    params = {"pictures": [place.upload(inputs["picture"])], "steps": 100_000}
    outcome, heard = place.run("train_image_lora", params, cancelled=lambda: next(looks) > 10)
    assert (outcome.status, outcome.artifacts) == ("cancelled", [])
    assert len(heard.events) < 20


def test_media_that_say_too_little_are_refused(place: TaskRunner, tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    clicks = np.zeros(8_000)
    clicks[4_000] = 0.9
    soundfile.write(tmp_path / "click.wav", clicks, 16_000)
    assert "4 patches" in place.refused("train_image_lora", {"pictures": [place.upload(tmp_path / "small.png")]})
    assert "of speech" in place.refused("train_voice", {"recording": place.upload(tmp_path / "click.wav")})


def test_media_of_the_wrong_kind_are_refused(place: TaskRunner, inputs: dict[str, Path]) -> None:
    picture, audio = place.upload(inputs["picture"]), place.upload(inputs["recording"])
    assert "not a picture" in place.refused("train_image_lora", {"pictures": [picture, audio]})
    assert "not a recording" in place.refused("train_voice", {"recording": picture})
    params = {"scenes": [{"picture": picture}], "narration": [audio], "adapter": picture, "voice": audio}
    assert "image-adapter" in place.refused("render_video", params)
