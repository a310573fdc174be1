"""The same models in PyTorch, transformers and PEFT, and the numbers that they answer. Nothing here is installed with the tests.

`python -m tests.language.peer` writes what `recorded/` holds; CI compares with that. `pytest -m oracle` compares live.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

RECORDED = Path(__file__).parent / "recorded"
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK, ALPHA = 3, 6.0
PLAIN: dict[str, Any] = {"vocab_size": 61, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2} | {
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,  # not hidden_size / heads: nobody may take it for granted
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SCALED: dict[str, Any] = (
    PLAIN
    | {"num_key_value_heads": 1, "tie_word_embeddings": True}
    | {
        "rope_scaling": {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
        | {"original_max_position_embeddings": 16, "rope_theta": 500.0},
    }
)
KINDS = {"plain": (PLAIN, "float32"), "scaled": (SCALED, "bfloat16")}  # and the type of the weights' file
STEPS, RATE, DECAY, CLIP = 4, 0.02, 0.1, 0.5


def ids(seed: int = 0, batch: int = 2, length: int = 19) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, PLAIN["vocab_size"], (batch, length))


def labels(of: np.ndarray) -> np.ndarray:
    """What follows each token; some places, and the last of a row, ask nothing."""
    following = np.full_like(of, -1)
    following[:, :-1] = of[:, 1:]
    following[0, 3:7] = -1
    return following


def make(kind: str, directory: Path, seed: int = 0) -> Any:
    """A random model, its files written; what it returns computes with the numbers of the file, in float32."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config, storage = KINDS[kind]
    torch.manual_seed(seed)
    made = LlamaForCausalLM(LlamaConfig(**config, initializer_range=0.25))
    with torch.no_grad():  # norms of one would hide a forgotten weight
        for name, weight in made.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
    made.to(getattr(torch, storage)).save_pretrained(directory)
    return LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)


def adapted(base: Any, seed: int = 1) -> Any:
    """With a PEFT adapter on every product, whose B is not zero."""
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(seed)
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(MODULES), lora_dropout=0.0, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(0, 0.2)
    return model


def lora(model: Any, of: str = "data") -> dict[str, np.ndarray]:
    """The adapter's tensors (or their `grad`) by our names."""
    return {
        name.removeprefix("base_model.model.").removesuffix(".default.weight"): getattr(weight, of).numpy().copy()
        for name, weight in model.named_parameters()
        if "lora_" in name
    }


def logits(model: Any, of: np.ndarray) -> np.ndarray:
    import torch

    with torch.no_grad():
        answer: np.ndarray = model(input_ids=torch.tensor(of)).logits.numpy()
    return answer


def summed_loss(model: Any, of: np.ndarray, wanted: np.ndarray) -> Any:
    import torch

    answer = model(input_ids=torch.tensor(of)).logits
    return torch.nn.functional.cross_entropy(
        answer.flatten(0, 1), torch.tensor(wanted).flatten(), ignore_index=-1, reduction="sum"
    )


def gradients(model: Any, of: np.ndarray, wanted: np.ndarray) -> tuple[float, dict[str, np.ndarray]]:
    model.zero_grad()
    loss = summed_loss(model, of, wanted)
    loss.backward()
    return loss.item(), lora(model, "grad")


def trained(model: Any, of: np.ndarray, wanted: np.ndarray) -> list[float]:
    """Mean losses of STEPS steps of AdamW with clipping and linear decay, all on one batch; changes the adapter."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=RATE, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / STEPS)
    losses = []
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss = summed_loss(model, of, wanted) / int((wanted != -1).sum())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, CLIP)
        optimiser.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def base_gradients(base: Any, of: np.ndarray, wanted: np.ndarray) -> dict[str, np.ndarray]:
    """Of every weight of the base, as pre-training needs them."""
    base.zero_grad()
    summed_loss(base, of, wanted).backward()
    return {name: weight.grad.numpy().copy() for name, weight in base.named_parameters()}


def record(kind: str) -> None:
    directory = RECORDED / kind
    directory.mkdir(parents=True, exist_ok=True)
    of = ids()
    wanted = labels(of)
    with tempfile.TemporaryDirectory() as folder:
        base = make(kind, Path(folder))
        for name in ("config.json", "model.safetensors"):
            shutil.copy(Path(folder, name), directory / name)
        numbers: dict[str, Any] = {"ids": of, "labels": wanted, "base_logits": logits(base, of)}
        if kind == "plain":
            numbers |= {f"base_gradient/{name}": one for name, one in base_gradients(base, of, wanted).items()}
        model = adapted(base)
        model.save_pretrained(Path(folder, "adapter"))
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(Path(folder, "adapter", name), directory / name)
    numbers["logits"] = logits(model, of)
    loss, grads = gradients(model, of, wanted)
    numbers["loss"] = np.array(loss)
    numbers |= {f"gradient/{name}": one for name, one in grads.items()}
    numbers["losses"] = np.array(trained(model, of, wanted))
    numbers |= {f"trained/{name}": one for name, one in lora(model).items()}
    np.savez_compressed(directory / "numbers.npz", **numbers)
    config = directory / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": ""}, indent=2) + "\n")


if __name__ == "__main__":
    for each in KINDS:
        record(each)
