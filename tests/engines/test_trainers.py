"""`run_tool` with tools that are not ours: ffmpeg, Hugging Face's Trainer, and the latter below `accelerate launch`.

The trainers need torch, transformers, peft and accelerate, which the tests do not install: `pytest -m oracle tests/engines/test_trainers.py`.
"""

import io
import shutil
import sys
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from safetensors.numpy import load

from tests.support.in_process import RecordedEvents, TaskRunner, place

__all__ = ["place"]

HERE = Path(__file__).parent
LAUNCHED = {  # `accelerate` may lie outside of PATH
    "argv": ["{python}", "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1", "--dynamo_backend", "no",
             "--mixed_precision", "no", "hf_trainer.py", "{arguments}", "--output_dir", "{output}"],
}  # fmt: skip
PLAIN = {"argv": ["{python}", "hf_trainer.py", "{arguments}", "--output_dir", "{output}"]}


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg")
def test_ffmpeg_by_its_preset_makes_a_film_of_a_film(place: TaskRunner, tmp_path: Path) -> None:
    source = tmp_path / "in.mp4"
    with av.open(str(source), "w") as made:
        stream = made.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for number in range(50):
            picture = np.full((120, 160, 3), 5 * number, np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        made.mux(stream.encode())
    preset = {"preset": "ffmpeg"}
    place.registry["run_tool"].configure({"tools": {"ffmpeg": preset}})
    output, _ = place.output("run_tool", {"tool": "ffmpeg", "files": {"input": place.upload(source)}, "steps": 50})
    [film] = output["files"]
    assert film["bucket"] == "videos"
    with av.open(io.BytesIO(place.content(film)), "r") as opened:
        assert len(list(opened.decode(video=0))) == 50
    assert output["lastStep"] == 50
    nothing, _ = place.run(
        "run_tool", {"tool": "ffmpeg", "files": {"input": place.upload(b"no film", "no.mp4")}}, nonce="n2"
    )
    assert nothing.error is not None
    assert nothing.error.code == "tool_failed"
    assert "Invalid data" in nothing.error.message + str(nothing.error.details)


@pytest.mark.oracle
@pytest.mark.timeout(900)
@pytest.mark.parametrize("argv", [PLAIN, LAUNCHED], ids=["plain", "accelerate launch"])
def test_hugging_faces_trainer_goes_on_from_its_own_checkpoint(
    place: TaskRunner, argv: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    table = {
        "preset": "hf-trainer",
        "cwd": str(HERE),
        "python": sys.executable,
        "graceSeconds": 2,
        "env": {"OMP_NUM_THREADS": "1"},
    } | argv
    place.registry["run_tool"].configure({"tools": {"mine": table}})
    params = {"tool": "mine", "config": {"max_steps": 400}, "steps": 400}
    heard = RecordedEvents()
    stopped, _ = place.run("run_tool", params, cancelled=lambda: bool(heard.told("checkpoint")), heard=heard)
    assert stopped.status == "cancelled"
    assert heard.told("loss")
    reached = heard.told("checkpoint")[-1]
    output, after = place.output("run_tool", params, nonce="n2")
    assert output["resumed"]
    assert (output["lastStep"], output["exitCode"]) == (400, 0)
    losses = [said["loss"] for said in heard.told("loss") + after.told("loss")]
    assert losses[-1] < losses[0] - 0.05
    assert min(said["step"] for said in after.told("loss")) > int(reached["path"].rpartition("-")[2]) - 1
    names = {Path(file["key"]).name.partition("-")[2]: file for file in output["files"]}
    weights = load(place.content(names["adapter_model.safetensors"]))
    assert len(weights) == 2 * 2 * 2
    with capsys.disabled():
        print(
            f"\n{' '.join(argv['argv'][:4])}: loss {losses[0]:.3f} -> {losses[-1]:.3f}; stopped behind {reached['path']}, resumed, "
            f"ended at step {output['lastStep']}; files {sorted(names)}; metrics {sorted(output['metrics'])}"
        )
