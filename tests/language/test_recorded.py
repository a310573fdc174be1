"""Forward, backward and optimiser against what PyTorch, transformers and PEFT answered (`recorded/`, written by peer.py)."""

import importlib
import json
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file

from dihedral.data_plane.device import to_host
from dihedral.data_plane.kernels import attention, cross_entropy
from dihedral.data_plane.language import files, training
from dihedral.data_plane.language.dataset import Rows
from dihedral.data_plane.language.model import logits, loss, new_adapter
from tests.kernels import emulation
from tests.language.making import base, of_kind, off, recorded, with_adapter, zeros
from tests.language.peer import ALPHA, CLIP, DECAY, KINDS, MODULES, RANK, RATE, RECORDED, STEPS
from tests.support.servers import skip

LOGITS, GRADIENT = 1e-4, 1e-3  # absolute; relative to the largest value of a tensor


@pytest.fixture(params=["numpy", "fused", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """`fused`: the CUDA sources, compiled for the CPU."""
    if request.param != "fused":
        return importlib.import_module(request.param)
    if emulation.COMPILER is None:
        skip("c++", "there is no C++ compiler")
    return emulation.Emulation()


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_transformers_and_with_an_adapter_those_of_peft(kind: str, xp: Any) -> None:
    numbers, model = recorded(kind), base(RECORDED / kind, xp)
    ids = xp.asarray(numbers["ids"])
    assert np.abs(to_host(logits(model, ids, xp)) - numbers["base_logits"]).max() < LOGITS
    model = with_adapter(model, RECORDED / kind / "adapter_model.safetensors", xp)
    assert np.abs(to_host(logits(model, ids, xp)) - numbers["logits"]).max() < LOGITS
    assert np.abs(numbers["logits"] - numbers["base_logits"]).max() > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_every_gradient_of_an_adapter_is_that_of_autograd(kind: str, xp: Any) -> None:
    numbers = recorded(kind)
    model = with_adapter(base(RECORDED / kind, xp), RECORDED / kind / "adapter_model.safetensors", xp)
    gradients = zeros(model.adapter, xp)
    summed = loss(model, xp.asarray(numbers["ids"]), xp.asarray(numbers["labels"]), gradients, xp)
    assert float(summed) == pytest.approx(float(numbers["loss"]), rel=1e-5)
    theirs = of_kind(numbers, "gradient")
    assert len(theirs) == len(gradients) == 2 * 7 * model.config.layers
    assert {name: off(to_host(gradients[name]), one) for name, one in theirs.items()} == pytest.approx(
        dict.fromkeys(theirs, 0), abs=GRADIENT
    )


def test_every_gradient_of_a_base_is_that_of_autograd(xp: Any) -> None:
    numbers, model = recorded("plain"), base(RECORDED / "plain", xp)
    gradients = zeros(model.weights, xp)
    loss(model, xp.asarray(numbers["ids"]), xp.asarray(numbers["labels"]), gradients, xp)
    theirs = of_kind(numbers, "base_gradient")
    assert set(theirs) == set(gradients)
    assert {name: off(to_host(gradients[name]), one) for name, one in theirs.items()} == pytest.approx(
        dict.fromkeys(theirs, 0), abs=GRADIENT
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_takes_the_same_steps_as_pytorch(kind: str, xp: Any) -> None:
    """Clipping, decay, schedule and AdamW; and two halves accumulated are one batch, however many labels each has."""
    numbers = recorded(kind)
    model = with_adapter(base(RECORDED / kind, xp), RECORDED / kind / "adapter_model.safetensors", xp)
    plan = training.Plan(STEPS, 1, 2, RATE, "linear", 0, CLIP, DECAY, seed=0)
    data = Rows(numbers["ids"], numbers["labels"])
    losses = [state.last_loss for state in training.train(model, data, plan, training.new_state(model.adapter, xp), xp)]
    assert losses == pytest.approx(numbers["losses"].tolist(), rel=1e-4)
    for name, theirs in of_kind(numbers, "trained").items():
        assert off(to_host(model.adapter[name]), theirs) < GRADIENT, name


@pytest.mark.parametrize(("storage", "apart"), [("float16", 0.02), ("bfloat16", 0.1)])
def test_sixteen_bits_of_storage_give_nearly_the_same(storage: files.Storage, apart: float, xp: Any) -> None:
    numbers, wide = recorded("plain"), base(RECORDED / "plain", xp)
    narrow = base(RECORDED / "plain", xp, storage)
    ids, labels = xp.asarray(numbers["ids"]), xp.asarray(numbers["labels"])
    assert off(to_host(logits(narrow, ids, xp)), numbers["base_logits"]) < apart
    file = RECORDED / "plain" / "adapter_model.safetensors"
    gradients = []
    for model in (with_adapter(wide, file, xp), with_adapter(narrow, file, xp)):
        gradients.append(zeros(model.adapter, xp))
        assert float(loss(model, ids, labels, gradients[-1], xp)) == pytest.approx(float(numbers["loss"]), rel=0.01)
    for name, one in gradients[0].items():
        assert gradients[1][name].dtype == xp.float32
        assert off(to_host(gradients[1][name]), to_host(one)) < apart, name


def test_an_adapter_is_written_as_peft_writes_one() -> None:
    config = files.read_config(RECORDED / "plain" / "config.json")
    ours = load(files.adapter_bytes(new_adapter(config, MODULES, RANK, 0, np)))
    theirs = load_file(RECORDED / "plain" / "adapter_model.safetensors")
    assert {name: one.shape for name, one in ours.items()} == {name: one.shape for name, one in theirs.items()}
    said = json.loads(files.adapter_config_bytes(MODULES, RANK, ALPHA, ""))
    written = json.loads((RECORDED / "plain" / "adapter_config.json").read_text())
    written["target_modules"] = sorted(written["target_modules"])
    assert said == {name: written[name] for name in said}


def test_in_whatever_blocks_it_is_computed_the_numbers_stay(xp: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "BLOCK", 7)  # 19 tokens: two whole blocks and a part
    monkeypatch.setattr(cross_entropy, "CHUNK_VALUES", 61 * 9)  # 38 rows: four chunks and a part
    numbers = recorded("plain")
    model = with_adapter(base(RECORDED / "plain", xp), RECORDED / "plain" / "adapter_model.safetensors", xp)
    gradients = zeros(model.adapter, xp)
    summed = loss(model, xp.asarray(numbers["ids"]), xp.asarray(numbers["labels"]), gradients, xp)
    assert float(summed) == pytest.approx(float(numbers["loss"]), rel=1e-5)
    for name, theirs in of_kind(numbers, "gradient").items():
        assert off(to_host(gradients[name]), theirs) < GRADIENT, name
