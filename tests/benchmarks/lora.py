"""LoRA training: our kernels against PyTorch eager with PEFT, the same model, adapter and batches, in one process by turns.

Needs torch, transformers and peft beside the test packages; nothing of them is installed here.
"""

import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dihedral.data_plane.language import training
from dihedral.data_plane.language.dataset import Rows
from dihedral.data_plane.language.model import Model
from tests.benchmarks.bench import Row, Table, summary, turns

THREADS = int(os.environ.get("OPENBLAS_NUM_THREADS") or os.cpu_count() or 1)  # as NumPy's OpenBLAS counts them
JOBS = 3  # steps of a turn
BATCH, LENGTH = 4, 128
MODULES = ("q_proj", "v_proj")
RATE = 2e-4
SHAPE = {"vocab_size": 2048, "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4} | {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}


def run(steps: int, rounds: int) -> tuple[list[Table], Any]:
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = contenders(Path(folder))
        apart = abs(ours() - theirs())  # also warms both up; the first step's loss is the same number
        assert apart < 1e-3, apart
        taken = turns(rounds, {"dihedral": partial(timed, ours, steps), "torch + peft": partial(timed, theirs, steps)})
    title = f"A training step of {BATCH}×{LENGTH} tokens, float32, {THREADS} thread(s), 4 layers of width 256"
    return [Table(title, summary(taken, of="tokens/s", reference="dihedral"))], taken


def timed(step: Callable[[], float], steps: int) -> Row:
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    tokens = steps * BATCH * LENGTH
    return {
        "tokens/s": tokens / (time.perf_counter() - wall),
        "CPU µs/token": (time.process_time() - cpu) / tokens * 1e6,
    }


def contenders(folder: Path) -> tuple[Callable[[], float], Callable[[], float]]:
    """A step of each, which answers its loss."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from tests.language.making import base
    from tests.language.peer import lora

    torch.set_num_threads(THREADS)
    made = LlamaForCausalLM(LlamaConfig(**SHAPE))
    made.save_pretrained(folder)
    peer = get_peft_model(made, LoraConfig(r=8, lora_alpha=16, target_modules=list(MODULES), task_type="CAUSAL_LM"))
    of = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], (BATCH, LENGTH + 1))
    ids, labels = of[:, :-1].copy(), of[:, 1:].copy()

    loaded = base(folder)
    model = Model(loaded.config, loaded.weights, lora(peer), 2.0)
    plan = training.Plan(1 << 30, BATCH, 1, RATE, "constant", 0, 1.0, 0.0, seed=0)
    states = training.train(model, Rows(ids, labels), plan, training.new_state(model.adapter, np), np)

    weights = [weight for weight in peer.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.0)
    shown, wanted = torch.tensor(ids), torch.tensor(labels).flatten()

    def theirs() -> float:
        optimiser.zero_grad()
        loss = torch.nn.functional.cross_entropy(peer(input_ids=shown).logits.flatten(0, 1), wanted)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        return float(loss.detach())

    return lambda: next(states).last_loss, theirs
