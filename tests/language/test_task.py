"""`train_lora` as a worker runs it: through the registry, with a real store; what it refuses, and how it goes on after a loss."""

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save_file

from dihedral import example_model
from dihedral.bridge.artifacts.local import LocalStore
from dihedral.bridge.tasks.context import ModelCache
from tests.support.in_process import RecordedEvents, TaskRunner

SMALL = {"steps": 6, "batch": 2, "sequenceLength": 24, "rank": 2, "learningRate": 0.02, "checkpointEvery": 2}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model after a single step: random enough to be taught anything."""
    directory = tmp_path_factory.mktemp("model")
    example_model.write(directory, steps=1)
    return directory


@pytest.fixture
def place(tmp_path: Path, model: Path) -> Iterator[TaskRunner]:
    """The process that refused something trains on."""
    with TaskRunner.opened(tmp_path / "store") as opened:
        yield opened
        if opened.refusals:
            opened.output("train_lora", example(opened, model, steps=1), job="after-refusals")


def example(place: TaskRunner, model: Path, **changed: Any) -> dict[str, Any]:
    """The example's files, uploaded, with what a test changes."""
    given = {
        "config": place.upload(model / "config.json"),
        "weights": [place.upload(model / "model.safetensors")],
        "tokenizer": place.upload(model / "tokenizer.json"),
        "dataset": place.upload(model / "lines.jsonl"),
    }
    return given | SMALL | changed


def test_an_adapter_is_trained_stored_and_its_losses_told(place: TaskRunner, model: Path) -> None:
    params = example(
        place, model, steps=30, gradientAccumulation=2, warmupSteps=3, targetModules=["q_proj", "down_proj"]
    )
    output, heard = place.output("train_lora", params)
    assert [said["step"] for said in heard.told("loss")] == list(range(1, 31))
    assert (output["firstLoss"], output["lastLoss"]) == (heard.told("loss")[0]["loss"], heard.told("loss")[-1]["loss"])
    assert output["lastLoss"] < output["firstLoss"] - 0.3
    assert (output["steps"], output["resumedAt"], heard.fractions[-1]) == (30, 0, 1.0)
    tensors = load(place.content(output["adapter"]))
    assert output["parameters"] == sum(tensor.size for tensor in tensors.values())
    assert len(tensors) == 3 * 2 * 2
    assert tensors["base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"].shape == (2, 192)
    config = json.loads(place.content(output["adapterConfig"]))
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 16.0, ["down_proj", "q_proj"])
    kept = place.wait(place.store.list("loras"))
    assert {meta.key for meta in kept} == {output["adapter"]["key"], output["adapterConfig"]["key"]}


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint_and_ends_bit_equal(place: TaskRunner, model: Path) -> None:
    params = example(place, model, steps=7, gradientAccumulation=2, targetModules=["v_proj", "gate_proj"])
    whole, heard = place.output("train_lora", params, job="whole")
    before = RecordedEvents()
    outcome, _ = place.run("train_lora", params, behind(5, before), heard=before)
    assert outcome.status == "cancelled"
    after, rest = place.output("train_lora", params, nonce="n2")
    assert after["resumedAt"] == 5, "it kept what it had when it was stopped, too"
    assert [said["step"] for said in rest.told("loss")] == [6, 7]
    assert before.told("loss") + rest.told("loss") == heard.told("loss")
    assert place.content(after["adapter"]) == place.content(whole["adapter"])
    assert {name: after[name] for name in ("firstLoss", "lastLoss", "tokens")} == {
        name: whole[name] for name in ("firstLoss", "lastLoss", "tokens")
    }


class SlowStore(LocalStore):
    """Takes half a second for each file: longer than a task that is cancelled waits for any other transfer."""

    async def put(self, *arguments: Any, **options: Any) -> Any:
        await asyncio.sleep(0.5)
        return await super().put(*arguments, **options)


def test_a_run_that_is_stopped_keeps_its_checkpoint_also_where_the_store_takes_its_time(
    place: TaskRunner, model: Path
) -> None:
    params = example(place, model, steps=7, checkpointEvery=0)
    place.store.__class__ = SlowStore
    before = RecordedEvents()
    outcome, _ = place.run("train_lora", params, behind(3, before), heard=before)
    assert outcome.status == "cancelled"
    after, _ = place.output("train_lora", params, nonce="n2")
    assert after["resumedAt"] == 3


def behind(step: int, heard: RecordedEvents) -> Callable[[], bool]:
    """Whether so many steps are done. Looks would count something else: a task that waits long for a file looks more often."""
    return lambda: any(said["step"] >= step for said in heard.told("loss"))


def test_a_run_that_is_asked_for_its_best_ends_with_what_it_has(place: TaskRunner, model: Path) -> None:
    looks = count()
    output, heard = place.output("train_lora", example(place, model, steps=50), finishing=lambda: next(looks) >= 3)
    assert output["steps"] == 4
    assert output["lastLoss"] == heard.told("loss")[-1]["loss"]
    assert len(load(place.content(output["adapter"]))) > 0


def test_a_base_stays_loaded_until_its_file_is_another(place: TaskRunner, model: Path, tmp_path: Path) -> None:
    kept = ModelCache()
    params = example(place, model)
    cold, _ = place.output("train_lora", params, kept=kept, job="cold")
    base = kept._value
    warm, _ = place.output("train_lora", params, kept=kept, job="warm")
    assert kept._value is base
    assert place.content(warm["adapter"]) == place.content(cold["adapter"])
    ref = params["weights"][0]
    other = changed(model, tmp_path / "other", lambda tensors: tensors["model.norm.weight"].__imul__(2))
    place.wait(place.store.put(ref["bucket"], ref["key"], other, content_type="x/y"))
    after, _ = place.output("train_lora", params, kept=kept, job="after")
    assert kept._value is not base
    assert place.content(after["adapter"]) != place.content(cold["adapter"])


def test_the_smaller_variant_learns_from_the_same_sequences(place: TaskRunner, model: Path) -> None:
    params = example(place, model, batch=4, steps=5)
    whole, _ = place.output("train_lora", params, job="whole")
    smaller = place.registry["train_lora"].smaller(params)
    assert smaller is not None
    assert (smaller["batch"], smaller["gradientAccumulation"]) == (2, 2 * whole_accumulation(params))
    halved, _ = place.output("train_lora", smaller, job="halved")
    assert halved["tokens"] == whole["tokens"]
    assert halved["lastLoss"] == pytest.approx(whole["lastLoss"], rel=1e-4)
    assert place.registry["train_lora"].smaller(params | {"batch": 1}) is None


def test_a_run_halved_after_it_ran_out_of_memory_goes_on_from_its_checkpoint(place: TaskRunner, model: Path) -> None:
    params = example(place, model, batch=4)
    whole, _ = place.output("train_lora", params, job="whole")
    before = RecordedEvents()
    place.run("train_lora", params, behind(5, before), heard=before)
    smaller = place.registry["train_lora"].smaller(params)
    assert smaller is not None
    halved, rest = place.output("train_lora", smaller, nonce="n2")
    assert (halved["resumedAt"], [said["step"] for said in rest.told("loss")]) == (5, [6])
    assert halved["tokens"] == whole["tokens"]
    assert halved["lastLoss"] == pytest.approx(whole["lastLoss"], rel=1e-4)


def whole_accumulation(params: dict[str, Any]) -> int:
    return int(params.get("gradientAccumulation", 1))


CRASHES = """
    import os, signal, sys
    from pathlib import Path
    from tests.support.in_process import RecordedEvents, TaskRunner
    import json

    class Dies(RecordedEvents):
        def data(self, name, payload):
            if payload.get("step") == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    TaskRunner(Path(sys.argv[1])).run("train_lora", json.loads(sys.argv[2]), heard=Dies())
"""


def test_after_a_killed_process_the_next_goes_on_from_the_last_checkpoint(place: TaskRunner, model: Path) -> None:
    params = example(place, model)
    whole, _ = place.output("train_lora", params, job="whole")
    command = [sys.executable, "-c", textwrap.dedent(CRASHES), str(place.directory), json.dumps(params)]
    died = subprocess.run(command, check=False)
    assert died.returncode == -signal.SIGKILL
    after, _ = place.output("train_lora", params, nonce="n2")
    assert after["resumedAt"] == 4
    assert place.content(after["adapter"]) == place.content(whole["adapter"])


@pytest.mark.parametrize("damage", ["another run's", "cut"])
def test_a_checkpoint_that_is_of_no_use_is_not_used(place: TaskRunner, model: Path, damage: str) -> None:
    params = example(place, model)
    before = RecordedEvents()
    place.run("train_lora", params, behind(3, before), heard=before)
    if damage == "cut":
        place.wait(place.store.put("loras", "job/train_lora/checkpoint", b"\0" * 100, content_type="x/y"))
    output, _ = place.output("train_lora", params | ({} if damage == "cut" else {"learningRate": 0.01}), nonce="n2")
    assert (output["resumedAt"], output["steps"]) == (0, 6)


def test_text_and_half_accumulated_batches_are_learnt_from(place: TaskRunner, model: Path) -> None:
    text = place.upload(("Ein Satz mit Umlauten: äöü. " * 20).encode(), "poem.txt")
    output, _ = place.output(
        "train_lora", example(place, model, dataset=text, steps=20, schedule="cosine", weightDecay=0.01, clip=0)
    )
    assert output["lastLoss"] < output["firstLoss"]


def test_a_sharded_base_is_put_together(place: TaskRunner, model: Path, tmp_path: Path) -> None:
    whole, _ = place.output("train_lora", example(place, model), job="whole")
    tensors = load_file(model / "model.safetensors")
    names, parts = sorted(tensors), []
    for index, some in enumerate((names[:7], names[7:])):
        save_file({name: tensors[name] for name in some}, tmp_path / "part")
        parts.append(place.upload(tmp_path / "part", f"part-{index}.safetensors"))
    output, _ = place.output("train_lora", example(place, model, weights=parts))
    assert place.content(output["adapter"]) == place.content(whole["adapter"])
    code, message = place.refusal("train_lora", example(place, model, weights=parts[:1]))
    assert (code, "is missing" in message) == ("invalid_model", True)


# Bad input ------------------------------------------------------------------------------------------------------------


def changed(model: Path, to: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, to)
    return to


def test_weights_that_are_damaged_or_of_another_shape_are_refused(
    place: TaskRunner, model: Path, tmp_path: Path
) -> None:
    good = (model / "model.safetensors").read_bytes()
    norm, product = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"

    def with_weights(source: Path | bytes) -> tuple[str, str]:
        return place.refusal("train_lora", example(place, model) | {"weights": [place.upload(source, "w.safetensors")]})

    def with_change(change: Callable[[dict[str, Any]], Any]) -> tuple[str, str]:
        return with_weights(changed(model, tmp_path / "w", change))

    for source in (b"", b"no tensors", good[:-5], good[:500], b"\xff" * 8 + good[8:]):
        assert with_weights(source)[0] == "invalid_model"
    code, message = with_change(lambda tensors: tensors.update({product: tensors[product].T.copy()}))
    assert code == "invalid_model"
    assert all(part in message for part in (product, "(96, 192)", "(192, 96)"))
    for change, reason in (
        (lambda tensors: tensors.pop(norm), f"{norm} is missing"),
        (lambda tensors: tensors.update(more=np.zeros(1, np.float32)), "no tensor 'more'"),
        (lambda tensors: tensors[norm].fill(np.nan), "no numbers"),
        (lambda tensors: tensors.update({norm: np.ones(96, np.int32)}), "I32"),
    ):
        code, message = with_change(change)
        assert code == "invalid_model"
        assert reason in message
    large = place.upload(changed(model, tmp_path / "w", lambda tensors: tensors[norm].fill(1e5)), "w.safetensors")
    code, message = place.refusal("train_lora", example(place, model, storage="float16") | {"weights": [large]})
    assert (code, "no numbers in float16" in message) == ("invalid_model", True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"attention_bias": True}, "bias"),
        ({"rope_scaling": {"rope_type": "yarn", "factor": 2.0}}, "yarn"),
        ({"num_key_value_heads": 3}, "cannot share 3"),
        ({"hidden_size": "large"}, "hidden_size"),
        ({"num_hidden_layers": 0}, "num_hidden_layers"),
        ({"num_hidden_layers": 4}, "model.layers.3"),
        ({"num_hidden_layers": 1 << 24}, "num_hidden_layers"),  # their names alone would fill the memory
        ({"hidden_size": 1 << 24}, "16777216"),  # so would an adapter of it
        ({"num_attention_heads": 128, "num_key_value_heads": 128}, "0 dimensions"),
        (None, "malformed"),
    ],
)
def test_a_config_of_something_else_is_refused(place: TaskRunner, model: Path, change: Any, reason: str) -> None:
    config = b"{" if change is None else json.dumps(example_model.CONFIG | change).encode()
    code, message = place.refusal("train_lora", example(place, model) | {"config": place.upload(config, "other.json")})
    assert code == "invalid_model"
    assert (reason if change else "truncated") in message


def test_a_tokenizer_of_another_model_is_refused(place: TaskRunner, model: Path) -> None:
    tokenizer: Any = example_model.byte_tokenizer()
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 258, "content": "<more>"})
    code, message = place.refusal(
        "train_lora", example(place, model) | {"tokenizer": place.upload(json.dumps(tokenizer).encode(), "more.json")}
    )
    assert (code, "up to 258" in message) == ("tokenizer_mismatch", True)
    around: dict[str, Any] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<b>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
    }
    around |= {"pair": around["single"], "special_tokens": {"<b>": {"id": "<b>", "ids": [999], "tokens": ["<b>"]}}}
    words = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "<unk>"}
    for change, reason in (
        ({"post_processor": around}, "up to 999"),
        ({"model": words, "pre_tokenizer": None, "decoder": None, "added_tokens": []}, "lines.jsonl"),
    ):
        other = json.dumps(example_model.byte_tokenizer() | change).encode()
        code, message = place.refusal(
            "train_lora", example(place, model) | {"tokenizer": place.upload(other, "other.json")}
        )
        assert (code, reason in message) == ("tokenizer_mismatch", True), message
    config = json.dumps(example_model.CONFIG | {"eos_token_id": [257, 258]}).encode()
    code, message = place.refusal("train_lora", example(place, model) | {"config": place.upload(config, "end.json")})
    assert (code, "eos_token_id 258" in message) == ("tokenizer_mismatch", True)
    for broken in (b"", b"{}", b"\xff\xfe"):
        code, _ = place.refusal(
            "train_lora", example(place, model) | {"tokenizer": place.upload(broken, "broken.json")}
        )
        assert code == "invalid_model"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\t", "empty"),
        ("a.txt", b"\xff\xfe\x00", "UTF-8"),
        ("a.txt", b"a", ""),
        ("a.jsonl", b"\n\n", "empty"),
        ("a.jsonl", b'{"text": "good"}\n{"text": 3}\n', "line 2"),
        ("a.jsonl", b'{"texts": "good"}', "line 1"),
        ("a.jsonl", b'{"prompt": "without a completion"}', "prompt and completion"),
        ("a.jsonl", b'{"text": ""}', "no token"),
        ("a.jsonl", b"not json", "line 1"),
    ],
)
def test_a_data_set_that_teaches_nothing_is_refused(
    place: TaskRunner, model: Path, name: str, content: bytes, reason: str
) -> None:
    params = example(place, model) | {"dataset": place.upload(content, name), "steps": 1}
    if not reason:  # one token, and the end behind it
        assert place.output("train_lora", params)[0]["tokens"] == 2
        return
    code, message = place.refusal("train_lora", params)
    assert code == "invalid_dataset"
    assert reason in message


def test_a_loss_that_is_no_number_ends_the_training(place: TaskRunner, model: Path, tmp_path: Path) -> None:
    huge = changed(model, tmp_path / "w", lambda tensors: tensors["model.norm.weight"].fill(3e38))
    with np.errstate(all="ignore"):
        code, message = place.refusal(
            "train_lora", example(place, model) | {"weights": [place.upload(huge, "w.safetensors")]}
        )
    assert code == "diverged"
    assert "step 1" in message


def test_params_that_no_training_could_have_are_refused(place: TaskRunner, model: Path) -> None:
    code, message = place.refusal("train_lora", example(place, model, targetModules=["q_proj", "lm_head"]))
    assert (code, "lm_head" in message) == ("invalid_params", True)
    code, message = place.refusal("train_lora", example(place, model, sequenceLength=513))
    assert (code, "512" in message) == ("invalid_input", True)


def test_a_missing_file_is_named(place: TaskRunner, model: Path) -> None:
    code, message = place.refusal(
        "train_lora", example(place, model) | {"config": {"bucket": "inputs", "key": "nowhere.json"}}
    )
    assert (code, "nowhere.json" in message) == ("artifact_not_found", True)


def test_lines_from_one_prompt_are_told_before_and_behind_the_training(place: TaskRunner, model: Path) -> None:
    made, heard = place.output("train_lora", example(place, model, steps=3))
    said = heard.told("lines")
    assert [each["when"] for each in said] == ["before", "after"]
    assert made["lines"] == {"prompt": said[0]["prompt"], "before": said[0]["lines"], "after": said[1]["lines"]}
    assert len(made["lines"]["before"]) == len(made["lines"]["after"]) == 3
    again, _ = place.output("train_lora", example(place, model, steps=3), job="again")
    assert again["lines"] == made["lines"]


BYTES = {"version": "1.0", **example_model.byte_tokenizer()}
BAD_TOKENIZERS = {
    "panic": {**BYTES, "normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    "padding": {
        **BYTES,
        "padding": {
            "strategy": {"Fixed": 10**18}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "a",
        },
    },
}  # fmt: skip


@pytest.mark.parametrize(("what", "status"), [("panic", "invalid_model"), ("padding", "completed")])
def test_a_tokenizer_that_panics_or_asks_for_more_memory_than_there_is_ends_no_process(
    place: TaskRunner, model: Path, tmp_path: Path, what: str, status: str
) -> None:
    (tmp_path / "bad.json").write_text(json.dumps(BAD_TOKENIZERS[what]))
    outcome, _ = place.run("train_lora", example(place, model, tokenizer=place.upload(tmp_path / "bad.json")))
    assert (outcome.error.code if outcome.error else outcome.status) == status


def test_config_and_tokenizer_may_begin_with_a_byte_order_mark(place: TaskRunner, model: Path, tmp_path: Path) -> None:
    marked = {}
    for name in ("config", "tokenizer"):
        (tmp_path / f"marked-{name}.json").write_bytes(b"\xef\xbb\xbf" + (model / f"{name}.json").read_bytes())
        marked[name] = place.upload(tmp_path / f"marked-{name}.json")
    place.output("train_lora", example(place, model, **marked))


def test_the_adapter_of_the_least_held_out_loss_is_kept_also_when_it_is_asked_to_finish(
    place: TaskRunner, model: Path
) -> None:
    """With a rate this high it learns, and then forgets again."""
    params = example(place, model, steps=40, learningRate=0.4, schedule="constant", clip=0, validation=0.3)
    looks = count()
    output, heard = place.output("train_lora", params, finishing=lambda: next(looks) >= 24)
    losses = {told["step"]: told["loss"] for told in heard.told("heldOutLoss")}
    assert output["steps"] == 25
    assert output["steps"] in losses, "where it ended is judged too"
    assert output["heldOutLoss"] == min(losses.values()) == losses[output["bestStep"]]
    assert output["bestStep"] < output["steps"]
    kept = load(place.content(output["adapter"]))
    shorter = {**params, "steps": 40, "validation": 0.3}
    looks = count()
    again, _ = place.output(
        "train_lora", shorter, finishing=lambda: next(looks) >= output["bestStep"] - 1, job="again", nonce="n2"
    )
    assert again["steps"] == again["bestStep"] == output["bestStep"]
    same = load(place.content(again["adapter"]))
    assert all((kept[name] == same[name]).all() for name in kept)


def test_a_run_that_goes_on_remembers_its_best(place: TaskRunner, model: Path) -> None:
    params = example(place, model, steps=40, learningRate=0.4, schedule="constant", clip=0, validation=0.3)
    whole, _ = place.output("train_lora", params, job="whole")
    before = RecordedEvents()
    place.run("train_lora", params, behind(30, before), heard=before)
    after, _ = place.output("train_lora", params, nonce="n2")
    assert after["resumedAt"] == 30
    assert (after["bestStep"], after["heldOutLoss"]) == (whole["bestStep"], whole["heldOutLoss"])
    assert place.content(after["adapter"]) == place.content(whole["adapter"])


@pytest.mark.parametrize(
    "name", ["LINES.JSONL", "lines.ndjson", "jsonl", "train.jsonl-1", "a.jsonl.txt", "data", "a.json", "a.txt"]
)
def test_what_a_data_set_is_does_not_hang_on_its_name(
    place: TaskRunner, model: Path, tmp_path: Path, name: str
) -> None:
    first, _ = place.output("train_lora", example(place, model), job="first")
    (tmp_path / "renamed").write_bytes((model / "lines.jsonl").read_bytes())
    output, _ = place.output("train_lora", example(place, model, dataset=place.upload(tmp_path / "renamed", name)))
    assert output["firstLoss"] == first["firstLoss"]


# Models in parts, and models that already lie on the worker's disk ---------------------------------------------------------


def in_parts(model: Path, folder: Path) -> list[Path]:
    """The model as Hugging Face cuts a large one: two parts and their index, with config.json and tokenizer.json."""
    folder.mkdir(parents=True)
    tensors = load_file(model / "model.safetensors")
    names = sorted(tensors)
    made = []
    for number, some in enumerate((names[::2], names[1::2]), 1):
        made.append(folder / f"model-0000{number}-of-00002.safetensors")
        save_file({name: tensors[name] for name in some}, made[-1], {"format": "pt"})
    where = {name: made[number % 2].name for number, name in enumerate(names)}
    made.append(folder / "model.safetensors.index.json")
    made[-1].write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((model / name).read_bytes())
    return made


@pytest.fixture
def house(place: TaskRunner, model: Path, tmp_path: Path) -> TaskRunner:
    """Its worker has the model three times below a root: whole, in parts, and in parts behind links, as a hub's cache has it."""
    root = tmp_path / "models"
    (root / "whole").mkdir(parents=True)
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (root / "whole" / name).write_bytes((model / name).read_bytes())
    in_parts(model, root / "parts")
    in_parts(model, root / "hub" / "blobs")
    (root / "hub" / "main").mkdir()
    for file in (root / "hub" / "blobs").iterdir():
        (root / "hub" / "main" / file.name).symlink_to(f"../blobs/{file.name}")
    for task in place.registry.values():
        task.model_roots = [str(root)]
    return place


def same_adapter(place: TaskRunner, params: dict[str, Any], others: dict[str, Any], job: str) -> None:
    first, _ = place.output("train_lora", params, job=f"{job}-1")
    second, _ = place.output("train_lora", others, job=f"{job}-2")
    assert place.content(first["adapter"]) == place.content(second["adapter"])


@pytest.mark.parametrize(
    "weights",
    [{"local": "whole"}, [{"local": "whole"}], {"local": "parts"}, {"local": "hub/main"}],
    ids=["folder", "list", "parts", "hub"],
)
def test_a_folder_of_the_worker_is_a_base_model(house: TaskRunner, model: Path, weights: Any) -> None:
    params = example(house, model, steps=2)
    local = {name: params[name] for name in params.keys() - {"config", "tokenizer"}} | {"weights": weights}
    same_adapter(house, params, local, "folder")


@pytest.mark.parametrize("name", ["parts/model.safetensors.index.json", "hub/main/model.safetensors.index.json"])
def test_an_index_of_the_worker_names_its_parts(house: TaskRunner, model: Path, name: str) -> None:
    params = example(house, model, steps=2)
    files = {"config": {"local": "parts/config.json"}, "tokenizer": {"local": "parts/tokenizer.json"}}
    same_adapter(house, params, params | files | {"weights": {"local": name}}, "index")


def test_parts_and_their_index_are_uploaded_like_any_file(place: TaskRunner, model: Path, tmp_path: Path) -> None:
    parts = [place.upload(file) for file in in_parts(model, tmp_path / "parts")]
    params = example(place, model, steps=2)
    same_adapter(place, params, params | {"weights": parts}, "parts")
    same_adapter(place, params, params | {"weights": parts[:2]}, "without-index")


def _index(text: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(text)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda folder: (folder / "model-00002-of-00002.safetensors").unlink(), "model-00002-of-00002.safetensors is missing"),
        (lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        (_index("{"), "truncated"),
        (_index("[]"), "Expected `object`"),
        (_index('{"weight_map": {}}'), "length"),
        (_index('{"weight_map": {"a": "../whole/model.safetensors"}}'), "matching regex"),
        (_index('{"weight_map": {"a": "/etc/passwd"}}'), "matching regex"),
        (_index('{"weight_map": {"a": ".."}}'), "matching regex"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_whole_model_is_refused(
    house: TaskRunner, model: Path, tmp_path: Path, change: Callable[[Path], object], reason: str
) -> None:
    change(tmp_path / "models" / "parts")
    params = example(house, model)
    for name in ("config", "tokenizer"):
        del params[name]
    code, message = house.refusal("train_lora", params | {"weights": {"local": "parts"}})
    assert code == "invalid_model"
    assert reason in message


def test_a_part_that_the_index_misses_or_does_not_name_is_refused_before_any_is_read(
    place: TaskRunner, model: Path, tmp_path: Path
) -> None:
    first, second, index = in_parts(model, tmp_path / "parts")
    params = example(place, model)
    parts = [place.upload(first), place.upload(index)]
    code, message = place.refusal("train_lora", params | {"weights": parts})
    assert (code, f"{second.name} is missing" in message) == ("invalid_model", True)
    whole = [*parts, place.upload(second), place.upload(model / "model.safetensors")]
    code, message = place.refusal("train_lora", params | {"weights": whole})
    assert (code, "does not name model.safetensors" in message) == ("invalid_model", True)


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        ({"weights": {"local": "nowhere"}}, "model_not_found"),
        ({"weights": {"local": "whole", "bucket": "inputs", "key": "a"}}, "bad_model"),
        ({"weights": {}}, "bad_model"),
        ({"weights": {"local": "../store"}}, "invalid_params"),
        ({"weights": [{"local": "whole"}, {"local": "parts"}]}, "invalid_input"),
        ({"weights": {"local": "whole/model.safetensors"}, "config": None}, "invalid_input"),
    ],
)
def test_what_names_no_model_of_the_worker_is_refused(
    house: TaskRunner, model: Path, changed: dict[str, Any], code: str
) -> None:
    assert house.refusal("train_lora", example(house, model) | changed)[0] == code
