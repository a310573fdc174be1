"""The live comparison with PyTorch, transformers and PEFT: `pytest -m oracle` in an environment that has them."""

from pathlib import Path

import numpy as np
import pytest

from dihedral.data_plane.language import files, training
from dihedral.data_plane.language.dataset import Rows
from dihedral.data_plane.language.model import logits, loss, new_adapter
from tests.language import peer
from tests.language.making import base, off, with_adapter, zeros

# The peers warn about themselves, also when they are imported.
pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default"), pytest.mark.timeout(600)]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("kind", peer.KINDS)
def test_logits_and_gradients_are_those_of_the_peers(kind: str, seed: int, tmp_path: Path) -> None:
    theirs = peer.make(kind, tmp_path, seed)
    ours = base(tmp_path)
    ids = peer.ids(seed, batch=3, length=31)
    labels = peer.labels(ids)
    apart = np.abs(logits(ours, ids, np) - peer.logits(theirs, ids)).max()
    adapted = peer.adapted(theirs, seed + 10)
    adapted.save_pretrained(tmp_path / "adapter")
    ours = with_adapter(ours, tmp_path / "adapter" / "adapter_model.safetensors")
    apart_adapted = np.abs(logits(ours, ids, np) - peer.logits(adapted, ids)).max()
    expected_loss, expected = peer.gradients(adapted, ids, labels)
    gradients = zeros(ours.adapter)
    summed = float(loss(ours, ids, labels, gradients, np))
    worst = max(off(gradients[name], one) for name, one in expected.items())
    print(
        f"\n{kind}, seed {seed}: logits {apart:.1e}, with adapter {apart_adapted:.1e}, gradients {worst:.1e} relative"
    )
    assert set(gradients) == set(expected)
    assert max(apart, apart_adapted) < 1e-4
    assert summed == pytest.approx(expected_loss, rel=1e-5)
    assert worst < 1e-3


@pytest.mark.parametrize("kind", peer.KINDS)
def test_peft_loads_our_adapter_and_answers_our_logits(kind: str, tmp_path: Path) -> None:
    from peft import PeftModel

    theirs = peer.make(kind, tmp_path)
    ours = base(tmp_path)
    modules = ("q_proj", "o_proj", "gate_proj", "down_proj")
    ours = ours._replace(adapter=new_adapter(ours.config, modules, 5, 0, np), scale=8.0 / 5)
    ids = peer.ids()
    before = peer.logits(theirs, ids)
    plan = training.Plan(10, 2, 1, 0.02, "cosine", 2, 1.0, 0.01, seed=0)
    for _ in training.train(ours, Rows(ids, peer.labels(ids)), plan, training.new_state(ours.adapter, np), np):
        pass
    stored = tmp_path / "adapter"
    stored.mkdir()
    (stored / "adapter_model.safetensors").write_bytes(files.adapter_bytes(ours.adapter))
    (stored / "adapter_config.json").write_bytes(files.adapter_config_bytes(modules, 5, 8.0, "base"))
    loaded = peer.logits(PeftModel.from_pretrained(theirs, stored), ids)
    apart, learnt = np.abs(loaded - logits(ours, ids, np)).max(), np.abs(loaded - before).max()
    print(f"\n{kind}: our trained adapter in PEFT, logits {apart:.1e} apart; the training moved them by {learnt:.1f}")
    assert apart < 1e-4
    assert learnt > 0.1
