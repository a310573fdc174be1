"""`train_diffusion_lora` as a worker runs it, on Stable Diffusion in small, and what diffusers makes of its files.

Needs the extra `diffusion`, which the tests do not install: `pytest -m oracle tests/diffusion`. What was seen is in docs/engines/pictures.md.
"""

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from safetensors.numpy import load, load_file, save_file

from tests.diffusion import tiny
from tests.support.in_process import RecordedEvents, TaskRunner

# The packages warn about themselves, also when they are imported.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]

TASK = "train_diffusion_lora"
SMALL = {
    "steps": 10,
    "resolution": 64,
    "batch": 2,
    "learningRate": 0.02,
    "rank": 4,
    "alpha": 8,
    "sampleEvery": 5,
    "checkpointEvery": 4,
}
PROMPT = "a square in colour 1"


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    pytest.importorskip("diffusers")
    pytest.importorskip("peft")
    root = tmp_path_factory.mktemp("models")
    return {"sd": tiny.write(root / "sd"), "sdxl": tiny.write(root / "sdxl", xl=True)}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[TaskRunner]:
    with TaskRunner.opened(tmp_path / "store") as opened:
        yield opened


def zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as made:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                made.write(each, Path("model", each.relative_to(folder)))
    return buffer.getvalue()


def example(place: TaskRunner, base: Path, **changed: Any) -> dict[str, Any]:
    """Four pictures of three shapes, two of them with a text beside them."""
    references = []
    for number, (width, height) in enumerate([(96, 64), (64, 96), (64, 64), (100, 100)]):
        drawn = np.zeros((height, width, 3), np.uint8)
        drawn[:, :, number % 3] = 200
        drawn[height // 4 : height // 2, width // 4 : width // 2] = 255
        buffer = io.BytesIO()
        Image.fromarray(drawn).save(buffer, "PNG")
        references.append(place.upload(buffer.getvalue(), f"set/{number}.png"))
        if number < 2:
            references.append(place.upload(f"a square in colour {number}".encode(), f"set/{number}.txt"))
    given = {"base": place.upload(zipped(base), "tiny.zip"), "pictures": references, "caption": "a square"}
    return given | SMALL | changed


def drawn(folder: Path, adapter: Path | None = None) -> Any:
    """A picture of diffusers' own pipeline."""
    import torch
    from diffusers import DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    xl = (folder / "text_encoder_2").exists()
    parts = {
        name: getattr(__import__(module), kind).from_pretrained(folder / name)
        for name, module, kind in [
            ("unet", "diffusers", "UNet2DConditionModel"), ("vae", "diffusers", "AutoencoderKL"),
            ("text_encoder", "transformers", "CLIPTextModel"), ("tokenizer", "transformers", "CLIPTokenizer"),
            *([("text_encoder_2", "transformers", "CLIPTextModelWithProjection"), ("tokenizer_2", "transformers", "CLIPTokenizer")] if xl else []),
        ]
    }  # fmt: skip
    more = {} if xl else {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    kind = StableDiffusionXLPipeline if xl else StableDiffusionPipeline
    pipeline = kind(**parts, scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"), **more)
    pipeline.set_progress_bar_config(disable=True)
    if adapter is not None:
        pipeline.load_lora_weights(adapter.parent, weight_name=adapter.name)
        assert pipeline.get_active_adapters()
    dice = torch.Generator().manual_seed(5)
    answer = pipeline(PROMPT, height=64, width=64, num_inference_steps=10, generator=dice, output_type="np")
    return answer.images[0]


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_the_loss_falls_and_both_files_draw_the_same_picture_in_diffusers(
    kind: str, place: TaskRunner, bases: dict[str, Path], tmp_path: Path
) -> None:
    output, heard = place.output(TASK, example(place, bases[kind], steps=20))
    assert [said["step"] for said in heard.told("loss")] == list(range(1, 21))
    assert [said["frame"] for said in heard.told("preview")] == [0, 5, 10, 15, output["bestStep"]]
    judged = {said["step"]: said["loss"] for said in heard.told("judgedLoss")}
    assert judged[0] == output["firstLoss"]
    assert min(judged.values()) == output["bestLoss"] == judged[output["bestStep"]]
    assert output["bestLoss"] < output["firstLoss"] - 0.05
    assert (output["pictures"], sum(bucket["pictures"] for bucket in output["buckets"])) == (4, 4)
    assert len(output["buckets"]) == 3

    tensors = load(place.content(output["adapter"]))
    ours, theirs = tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors"
    place.download(output["adapter"], ours)
    place.download(output["diffusersAdapter"], theirs)
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0"
    assert tensors[f"{name}.lora_down.weight"].shape[0] == tensors[f"{name}.lora_up.weight"].shape[1] == 4
    assert {float(one) for key, one in tensors.items() if key.endswith(".alpha")} == {8.0}
    assert output["parameters"] == sum(one.size for key, one in tensors.items() if not key.endswith(".alpha"))
    with safe_open(ours, framework="numpy") as opened:
        about = opened.metadata()
    assert (about["ss_network_dim"], about["ss_network_alpha"], about["ss_steps"]) == (
        "4",
        "8.0",
        str(output["bestStep"]),
    )
    assert (about["dihedral_job"], about["ss_sd_model_name"], len(about["dihedral_base_sha256"])) == (
        "job",
        "tiny.zip",
        64,
    )
    assert "square" not in json.dumps(about), "captions do not leak with the file"

    plain, kohya, diffusers = drawn(bases[kind]), drawn(bases[kind], ours), drawn(bases[kind], theirs)
    apart, changed = np.abs(kohya - diffusers).max(), np.abs(kohya - plain).max()
    print(
        f"\n{kind}: loss {output['firstLoss']:.4f} -> {output['bestLoss']:.4f} at step {output['bestStep']}; the picture changes by {changed:.3f}, "
        f"the two files differ by {apart:.1e}"
    )
    assert changed > 0.02
    assert apart < 1e-4


def same_tensors(one: bytes, other: bytes) -> bool:
    first, second = load(one), load(other)
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint_and_ends_bit_equal(
    place: TaskRunner, bases: dict[str, Path]
) -> None:
    params = example(place, bases["sd"], gradientAccumulation=2)
    whole, heard = place.output(TASK, params, job="whole")
    before = RecordedEvents()
    stopped, _ = place.run(TASK, params, cancelled=lambda: len(before.told("loss")) >= 7, heard=before)
    assert stopped.status == "cancelled"
    rest, after = place.output(TASK, params, nonce="n2")
    assert rest["resumedAt"] == 7
    assert before.told("loss") + after.told("loss") == heard.told("loss")
    for name in ("adapter", "diffusersAdapter"):
        assert same_tensors(place.content(rest[name]), place.content(whole[name]))
    same = ("firstLoss", "bestLoss", "bestStep", "steps")
    assert {name: rest[name] for name in same} == {name: whole[name] for name in same}
    kept = place.wait(place.store.list("loras"))
    assert not [meta.key for meta in kept if meta.key.endswith("checkpoint")]


def test_a_run_that_is_asked_for_its_best_ends_with_it(place: TaskRunner, bases: dict[str, Path]) -> None:
    heard = RecordedEvents()
    params = example(place, bases["sd"], steps=500, sampleEvery=0)
    output, _ = place.output(TASK, params, finishing=lambda: len(heard.told("loss")) >= 3, heard=heard)
    judged = {said["step"]: said["loss"] for said in heard.told("judgedLoss")}
    assert (output["steps"], output["sample"]) == (3, None)
    assert judged[output["bestStep"]] == min(judged.values()) == output["bestLoss"]


def test_the_smaller_variant_learns_the_same_from_the_checkpoint_of_what_it_halves(
    place: TaskRunner, bases: dict[str, Path]
) -> None:
    params = example(place, bases["sd"], steps=6, sampleEvery=0)
    whole, _ = place.output(TASK, params, job="whole")
    before = RecordedEvents()
    place.run(TASK, params, cancelled=lambda: len(before.told("loss")) >= 3, heard=before)
    smaller = place.registry[TASK].smaller(params)
    assert smaller is not None
    assert (smaller["batch"], smaller["gradientAccumulation"]) == (1, 2)
    halved, _ = place.output(TASK, smaller, nonce="n2")
    assert halved["resumedAt"] == 3
    assert halved["bestLoss"] == pytest.approx(whole["bestLoss"], rel=1e-4)
    assert place.registry[TASK].smaller(smaller) is None


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda base: shutil.rmtree(base / "vae"), "no folder vae"),
        (lambda base: shutil.copytree(base / "unet", base / "transformer"), "run_tool"),
        (lambda base: (base / "unet" / "diffusion_pytorch_model.safetensors").rename(base / "unet" / "diffusion_pytorch_model.bin"), "can run code"),
        (lambda base: (base / "unet" / "config.json").write_text("{"), "unet/config.json is no JSON"),
        (lambda base: (base / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"half"), "no model that can be trained"),
        (lambda base: without_numbers(base / "unet" / "diffusion_pytorch_model.safetensors"), "numbers that are none"),
        (lambda base: edited(base / "unet" / "config.json", in_channels=9), "no model that can be trained"),
        (lambda base: shutil.copytree(base / "text_encoder", base / "text_encoder_2"), "no model that can be trained"),
        (lambda base: edited(base / "text_encoder" / "config.json", vocab_size=3), "no model that can be trained"),
    ],
)  # fmt: skip
def test_a_base_that_cannot_be_trained_is_refused_with_the_reason(
    place: TaskRunner, bases: dict[str, Path], tmp_path: Path, spoil: Any, told: str
) -> None:
    spoilt = shutil.copytree(bases["sd"], tmp_path / "spoilt")
    spoil(spoilt)
    code, message = place.refusal(TASK, example(place, spoilt))
    assert code == "invalid_model"
    assert told in message


def test_a_picture_that_is_none_and_a_base_that_is_no_zip_are_refused(
    place: TaskRunner, bases: dict[str, Path]
) -> None:
    params = example(place, bases["sd"])
    assert "no.png: the file is not a picture" in place.refused(
        TASK, params | {"pictures": [place.upload(b"x", "s/no.png")]}
    )
    code, message = place.refusal(TASK, params | {"base": place.upload(b"x", "sd15.safetensors")})
    assert code == "invalid_model"
    assert "from_single_file" in message


def without_numbers(file: Path) -> None:
    save_file({name: np.full_like(one, np.nan) for name, one in load_file(file).items()}, file)


def edited(file: Path, **changed: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


def test_captions_belong_to_pictures_by_the_names_that_their_owner_gave_them(place: TaskRunner) -> None:
    """Keys are ASCII: both pictures are called file.png there, and both texts file.txt."""
    references = []
    for number, name in enumerate(["猫.png", "猫.txt", "犬.png", "犬.txt"]):
        key = f"{number}/file{name[-4:]}"
        place.wait(place.store.put("inputs", key, b"a text", "x/y", name=name))
        references.append({"bucket": "inputs", "key": key})
    params = SMALL | {"base": place.upload(b"no zip", "base.zip"), "pictures": references}
    code, message = place.refusal(TASK, params)
    assert (code, "neither a folder nor a zip" in message) == ("invalid_model", True), message
