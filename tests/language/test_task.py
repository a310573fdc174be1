"""`train_lora` as a worker runs it: through the registry, with a real store; what it refuses, and how it goes on after a loss."""

import asyncio
import json
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Coroutine, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save_file

from bridge import artifacts
from bridge.context import Kept
from bridge.running import NodeOutcome, NodeRun, run_plain
from bridge.tasks import collect
from dihedral import example_model
from schemas.structs.settings import ArtifactsSettings

SMALL = {"steps": 6, "batch": 2, "sequenceLength": 24, "rank": 2, "learningRate": 0.02, "checkpointEvery": 2}


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example model after a single step: random enough to be taught anything."""
    directory = tmp_path_factory.mktemp("model")
    example_model.write(directory, steps=1)
    return directory


class Heard:
    """Emit: keeps what a task says."""

    def __init__(self) -> None:
        self.fractions: list[float] = []
        self.losses: list[dict[str, Any]] = []
        self.lines: list[str] = []

    def progress(self, fraction: float) -> None:
        self.fractions.append(fraction)

    def data(self, name: str, payload: dict[str, Any]) -> None:
        assert name == "loss"
        self.losses.append(payload)

    def log(self, level: str, message: str) -> None:
        self.lines.append(message)


class Place:
    """Runs the task in this thread, the store on the loop of another, as a slot does."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.registry = collect(["data_plane.tasks.train_lora"], plugins=False)
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.store = self.wait(self._open())
        self.good: dict[str, Any] = {}
        self.refusals = 0

    async def _open(self) -> artifacts.ArtifactStore:
        return artifacts.open_store(ArtifactsSettings(directory=str(self.directory)))

    def wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def close(self) -> None:
        self.wait(self.store.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()

    def upload(self, source: Path | bytes, name: str) -> dict[str, str]:
        self.wait(self.store.put("inputs", name, source, content_type="x/y", job_id=None, node_id=None))
        return {"bucket": "inputs", "key": name}

    def download(self, reference: dict[str, str]) -> bytes:
        async def read() -> bytes:
            return b"".join([chunk async for chunk in self.store.open(reference["bucket"], reference["key"])])

        found: bytes = self.wait(read())
        return found

    def params(self, model: Path, **changed: Any) -> dict[str, Any]:
        """The example's files, uploaded, with what a test changes."""
        given = {
            "config": self.upload(model / "config.json", "config.json"),
            "weights": [self.upload(model / "model.safetensors", "model.safetensors")],
            "tokenizer": self.upload(model / "tokenizer.json", "tokenizer.json"),
            "dataset": self.upload(model / "lines.jsonl", "lines.jsonl"),
        }
        self.good = given | SMALL
        return self.good | changed

    def run(
        self,
        params: dict[str, Any],
        cancelled: Callable[[], bool] = lambda: False,
        nonce: str = "n1",
        job: str = "job",
        **more: Any,
    ) -> tuple[NodeOutcome, Heard]:
        heard = Heard()
        run = NodeRun(
            job_id=job,
            node_id="lora",
            task="train_lora",
            attempt=1,
            nonce=nonce,
            params=params,
            timeout_seconds=60.0,
        )
        outcome = run_plain(self.registry, run, lambda: self.store, heard, cancelled, loop=lambda: self.loop, **more)
        return outcome, heard

    def output(self, params: dict[str, Any], **more: Any) -> tuple[dict[str, Any], Heard]:
        outcome, heard = self.run(params, **more)
        assert outcome.status == "completed", outcome.error
        assert outcome.output is not None
        return json.loads(outcome.output), heard

    def refused(self, params: dict[str, Any]) -> tuple[str, str]:
        """(code, message); what is refused leaves nothing behind, and the process that refused it trains on (see `place`)."""
        outcome, _ = self.run(params)
        self.refusals += 1
        assert (outcome.status, outcome.retryable, outcome.artifacts) == ("failed", False, [])
        assert outcome.error is not None
        return outcome.error.code, outcome.error.message


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    opened = Place(tmp_path / "store")
    yield opened
    try:
        if opened.refusals:
            opened.output(opened.good | {"steps": 1}, job="after-refusals")
    finally:
        opened.close()


def test_an_adapter_is_trained_stored_and_its_losses_told(place: Place, model: Path) -> None:
    params = place.params(model, steps=30, gradientAccumulation=2, warmupSteps=3, targetModules=["q_proj", "down_proj"])
    output, heard = place.output(params)
    assert [said["step"] for said in heard.losses] == list(range(1, 31))
    assert (output["firstLoss"], output["lastLoss"]) == (heard.losses[0]["loss"], heard.losses[-1]["loss"])
    assert output["lastLoss"] < output["firstLoss"] - 0.3
    assert (output["steps"], output["resumedAt"], heard.fractions[-1]) == (30, 0, 1.0)
    tensors = load(place.download(output["adapter"]))
    assert output["parameters"] == sum(tensor.size for tensor in tensors.values())
    assert len(tensors) == 3 * 2 * 2
    assert tensors["base_model.model.model.layers.2.mlp.down_proj.lora_A.weight"].shape == (2, 192)
    config = json.loads(place.download(output["adapterConfig"]))
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (2, 16.0, ["down_proj", "q_proj"])
    kept = place.wait(place.store.list("loras"))
    assert {meta.key for meta in kept} == {output["adapter"]["key"], output["adapterConfig"]["key"]}


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint_and_ends_bit_equal(place: Place, model: Path) -> None:
    params = place.params(model, steps=7, gradientAccumulation=2, targetModules=["v_proj", "gate_proj"])
    whole, heard = place.output(params, job="whole")
    looks = count()
    outcome, before = place.run(params, cancelled=lambda: bool(before_step(5, looks)))
    assert outcome.status == "cancelled"
    after, rest = place.output(params, nonce="n2")
    assert after["resumedAt"] == 4
    assert [said["step"] for said in rest.losses] == [5, 6, 7]
    assert before.losses[:4] + rest.losses == heard.losses
    assert place.download(after["adapter"]) == place.download(whole["adapter"])
    assert {name: after[name] for name in ("firstLoss", "lastLoss", "tokens")} == {
        name: whole[name] for name in ("firstLoss", "lastLoss", "tokens")
    }


def before_step(step: int, looks: Iterator[int]) -> bool:
    """The task looks once before the training and once behind each step."""
    return next(looks) >= step


def test_a_run_that_is_asked_for_its_best_ends_with_what_it_has(place: Place, model: Path) -> None:
    looks = count()
    output, heard = place.output(place.params(model, steps=50), finishing=lambda: next(looks) >= 3)
    assert output["steps"] == 4
    assert output["lastLoss"] == heard.losses[-1]["loss"]
    assert len(load(place.download(output["adapter"]))) > 0


def test_a_base_stays_loaded_until_its_file_is_another(place: Place, model: Path, tmp_path: Path) -> None:
    kept = Kept()
    params = place.params(model)
    cold, _ = place.output(params, kept=kept, job="cold")
    base = kept._value
    warm, _ = place.output(params, kept=kept, job="warm")
    assert kept._value is base
    assert place.download(warm["adapter"]) == place.download(cold["adapter"])
    ref = params["weights"][0]
    other = changed(model, tmp_path / "other", lambda tensors: tensors["model.norm.weight"].__imul__(2))
    place.wait(place.store.put(ref["bucket"], ref["key"], other, content_type="x/y"))
    after, _ = place.output(params, kept=kept, job="after")
    assert kept._value is not base
    assert place.download(after["adapter"]) != place.download(cold["adapter"])


def test_the_smaller_variant_learns_from_the_same_sequences(place: Place, model: Path) -> None:
    params = place.params(model, batch=4, steps=5)
    whole, _ = place.output(params, job="whole")
    smaller = place.registry["train_lora"].smaller(params)
    assert smaller is not None
    assert (smaller["batch"], smaller["gradientAccumulation"]) == (2, 2 * whole_accumulation(params))
    halved, _ = place.output(smaller, job="halved")
    assert halved["tokens"] == whole["tokens"]
    assert halved["lastLoss"] == pytest.approx(whole["lastLoss"], rel=1e-4)
    assert place.registry["train_lora"].smaller(params | {"batch": 1}) is None


def test_a_run_halved_after_it_ran_out_of_memory_goes_on_from_its_checkpoint(place: Place, model: Path) -> None:
    params = place.params(model, batch=4)
    whole, _ = place.output(params, job="whole")
    looks = count()
    place.run(params, cancelled=lambda: before_step(5, looks))
    smaller = place.registry["train_lora"].smaller(params)
    assert smaller is not None
    halved, rest = place.output(smaller, nonce="n2")
    assert (halved["resumedAt"], [said["step"] for said in rest.losses]) == (4, [5, 6])
    assert halved["tokens"] == whole["tokens"]
    assert halved["lastLoss"] == pytest.approx(whole["lastLoss"], rel=1e-4)


def whole_accumulation(params: dict[str, Any]) -> int:
    return int(params.get("gradientAccumulation", 1))


CRASHES = """
    import os, signal, sys
    from pathlib import Path
    from tests.language.test_task import Heard, Place
    import json

    class Dies(Heard):
        def data(self, name, payload):
            if payload["step"] == 5:
                os.kill(os.getpid(), signal.SIGKILL)

    import tests.language.test_task as here
    here.Heard = Dies
    Place(Path(sys.argv[1])).run(json.loads(sys.argv[2]))
"""


def test_after_a_killed_process_the_next_goes_on_from_the_last_checkpoint(place: Place, model: Path) -> None:
    params = place.params(model)
    whole, _ = place.output(params, job="whole")
    command = [sys.executable, "-c", textwrap.dedent(CRASHES), str(place.directory), json.dumps(params)]
    died = subprocess.run(command, check=False)
    assert died.returncode == -signal.SIGKILL
    after, _ = place.output(params, nonce="n2")
    assert after["resumedAt"] == 4
    assert place.download(after["adapter"]) == place.download(whole["adapter"])


@pytest.mark.parametrize("damage", ["another run's", "cut"])
def test_a_checkpoint_that_is_of_no_use_is_not_used(place: Place, model: Path, damage: str) -> None:
    params = place.params(model)
    looks = count()
    place.run(params, cancelled=lambda: before_step(3, looks))
    if damage == "cut":
        place.wait(place.store.put("loras", "job/lora/checkpoint", b"\0" * 100, content_type="x/y"))
    output, _ = place.output(params | ({} if damage == "cut" else {"learningRate": 0.01}), nonce="n2")
    assert (output["resumedAt"], output["steps"]) == (0, 6)


def test_text_and_half_accumulated_batches_are_learnt_from(place: Place, model: Path) -> None:
    text = place.upload(("Ein Satz mit Umlauten: äöü. " * 20).encode(), "poem.txt")
    output, _ = place.output(place.params(model, dataset=text, steps=20, schedule="cosine", weightDecay=0.01, clip=0))
    assert output["lastLoss"] < output["firstLoss"]


def test_a_sharded_base_is_put_together(place: Place, model: Path, tmp_path: Path) -> None:
    whole, _ = place.output(place.params(model), job="whole")
    tensors = load_file(model / "model.safetensors")
    names, parts = sorted(tensors), []
    for index, some in enumerate((names[:7], names[7:])):
        save_file({name: tensors[name] for name in some}, tmp_path / "part")
        parts.append(place.upload(tmp_path / "part", f"part-{index}.safetensors"))
    output, _ = place.output(place.params(model, weights=parts))
    assert place.download(output["adapter"]) == place.download(whole["adapter"])
    code, message = place.refused(place.params(model, weights=parts[:1]))
    assert (code, "is missing" in message) == ("invalid_model", True)


# Bad input ------------------------------------------------------------------------------------------------------------


def changed(model: Path, to: Path, change: Callable[[dict[str, Any]], Any]) -> Path:
    tensors = load_file(model / "model.safetensors")
    change(tensors)
    save_file(tensors, to)
    return to


def test_weights_that_are_damaged_or_of_another_shape_are_refused(place: Place, model: Path, tmp_path: Path) -> None:
    good = (model / "model.safetensors").read_bytes()
    norm, product = "model.norm.weight", "model.layers.1.mlp.up_proj.weight"

    def with_weights(source: Path | bytes) -> tuple[str, str]:
        return place.refused(place.params(model) | {"weights": [place.upload(source, "w.safetensors")]})

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
    code, message = place.refused(place.params(model, storage="float16") | {"weights": [large]})
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
def test_a_config_of_something_else_is_refused(place: Place, model: Path, change: Any, reason: str) -> None:
    config = b"{" if change is None else json.dumps(example_model.CONFIG | change).encode()
    code, message = place.refused(place.params(model) | {"config": place.upload(config, "other.json")})
    assert code == "invalid_model"
    assert (reason if change else "truncated") in message


def test_a_tokenizer_of_another_model_is_refused(place: Place, model: Path) -> None:
    tokenizer: Any = example_model.byte_tokenizer()
    tokenizer["added_tokens"].append(tokenizer["added_tokens"][0] | {"id": 258, "content": "<more>"})
    code, message = place.refused(
        place.params(model) | {"tokenizer": place.upload(json.dumps(tokenizer).encode(), "more.json")}
    )
    assert (code, "up to 258" in message) == ("tokenizer_mismatch", True)
    around = {
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
        code, message = place.refused(place.params(model) | {"tokenizer": place.upload(other, "other.json")})
        assert (code, reason in message) == ("tokenizer_mismatch", True), message
    config = json.dumps(example_model.CONFIG | {"eos_token_id": [257, 258]}).encode()
    code, message = place.refused(place.params(model) | {"config": place.upload(config, "end.json")})
    assert (code, "eos_token_id 258" in message) == ("tokenizer_mismatch", True)
    for broken in (b"", b"{}", b"\xff\xfe"):
        code, _ = place.refused(place.params(model) | {"tokenizer": place.upload(broken, "broken.json")})
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
    place: Place, model: Path, name: str, content: bytes, reason: str
) -> None:
    params = place.params(model) | {"dataset": place.upload(content, name), "steps": 1}
    if not reason:  # one token, and the end behind it
        assert place.output(params)[0]["tokens"] == 2
        return
    code, message = place.refused(params)
    assert code == "invalid_dataset"
    assert reason in message


def test_a_loss_that_is_no_number_ends_the_training(place: Place, model: Path, tmp_path: Path) -> None:
    huge = changed(model, tmp_path / "w", lambda tensors: tensors["model.norm.weight"].fill(3e38))
    with np.errstate(all="ignore"):
        code, message = place.refused(place.params(model) | {"weights": [place.upload(huge, "w.safetensors")]})
    assert code == "diverged"
    assert "step 1" in message


def test_params_that_no_training_could_have_are_refused(place: Place, model: Path) -> None:
    code, message = place.refused(place.params(model, targetModules=["q_proj", "lm_head"]))
    assert (code, "lm_head" in message) == ("invalid_params", True)
    code, message = place.refused(place.params(model, sequenceLength=513))
    assert (code, "512" in message) == ("invalid_input", True)


def test_a_missing_file_is_named(place: Place, model: Path) -> None:
    code, message = place.refused(place.params(model) | {"config": {"bucket": "inputs", "key": "nowhere.json"}})
    assert (code, "nowhere.json" in message) == ("artifact_not_found", True)
