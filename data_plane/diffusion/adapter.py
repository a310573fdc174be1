"""The LoRA adapter of a UNet: made with PEFT, written with kohya's keys and with diffusers', kept in checkpoints.

kohya's keys are what ComfyUI, A1111 and others read: of a UNet in diffusers' or PEFT's keys ComfyUI loads not one weight, and says so in its log only.
They have an `alpha` beside each pair, by which the change is scaled (alpha / rank). diffusers' file has no place for it that every reader knows,
so there the scale is multiplied into `up`, and both files make the same change.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from dihedral.data_plane.diffusion.model import TARGETS, Model, Tensor

NAME = "default"  # PEFT's, of the only adapter
_CHECKPOINT = "dihedral.diffusion-training.v1"


class Pair(NamedTuple):
    """down: (rank, in). up: (out, rank)."""

    down: Tensor
    up: Tensor


class State(NamedTuple):
    """Behind `step` steps. best: the weights of the least judged loss, by name."""

    step: int
    first_loss: float
    best_step: int
    best_loss: float
    best: dict[str, Tensor]


def attached(model: Model, rank: int, alpha: float, seed: int) -> dict[str, Tensor]:
    """Adds an adapter whose change is 0, and returns its weights in float32, by their names in the UNet."""
    import torch
    from peft import LoraConfig

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.unet.add_adapter(
            LoraConfig(r=rank, lora_alpha=alpha, init_lora_weights="gaussian", target_modules=TARGETS)
        )
    found = {name: one for name, one in model.unet.named_parameters() if one.requires_grad}
    for one in found.values():
        one.data = one.data.float()
    return found


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.detach().cpu().clone() for name, one in weights.items()}


def put(weights: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
    for name, one in weights.items():
        one.data.copy_(values[name])


def pairs(values: Mapping[str, Tensor]) -> dict[str, Pair]:
    """By the module that they change, such as `mid_block.attentions.0.transformer_blocks.0.attn1.to_q`."""
    ends = (f".lora_A.{NAME}.weight", f".lora_B.{NAME}.weight")
    modules = [name.removesuffix(ends[0]) for name in values if name.endswith(ends[0])]
    return {module: Pair(*(values[module + end].float().contiguous() for end in ends)) for module in modules}


def kohya_bytes(values: Mapping[str, Tensor], alpha: float, metadata: dict[str, str]) -> bytes:
    import torch
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for module, pair in pairs(values).items():
        name = f"lora_unet_{module.replace('.', '_')}"
        tensors |= {
            f"{name}.lora_down.weight": pair.down,
            f"{name}.lora_up.weight": pair.up,
            f"{name}.alpha": torch.tensor(float(alpha)),
        }
    return bytes(save(tensors, metadata))


def diffusers_bytes(values: Mapping[str, Tensor], alpha: float, metadata: dict[str, str]) -> bytes:
    from safetensors.torch import save

    tensors: dict[str, Tensor] = {}
    for module, pair in pairs(values).items():
        tensors |= {
            f"unet.{module}.lora_A.weight": pair.down,
            f"unet.{module}.lora_B.weight": pair.up * (alpha / pair.down.shape[0]),
        }
    return bytes(save(tensors, {"format": "pt"} | metadata))


# Checkpoints --------------------------------------------------------------------------------------------------------


def checkpoint_bytes(state: State, weights: Mapping[str, Tensor], optimizer: Any, digest: str) -> bytes:
    """`digest`: of everything that the run depends on."""
    from safetensors.torch import save

    tensors = {f"weight/{name}": one for name, one in copied(weights).items()}
    for name, one in weights.items():
        moments = optimizer.state.get(one, {})
        tensors |= {f"{kind}/{name}": moments[kind].cpu() for kind in ("exp_avg", "exp_avg_sq") if kind in moments}
    tensors |= {f"best/{name}": one for name, one in state.best.items()}
    about = {
        "format": _CHECKPOINT, "digest": digest, "step": str(state.step), "first_loss": repr(state.first_loss),
        "best_step": str(state.best_step), "best_loss": repr(state.best_loss),
    }  # fmt: skip
    return bytes(save(tensors, about))


def restored(file: Path, weights: Mapping[str, Tensor], optimizer: Any, digest: str) -> State | None:
    """The state of a checkpoint, written into weights and optimizer; None where it is another run's or cannot be read."""
    import torch

    try:
        with safe_open(file, framework="pt") as opened:
            about = opened.metadata() or {}
            if about.get("format") != _CHECKPOINT or about.get("digest") != digest:
                return None
            read = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            values = {name: read[f"weight/{name}"] for name in weights}
            moments = {name: (read[f"exp_avg/{name}"], read[f"exp_avg_sq/{name}"]) for name in weights}
            step = int(about["step"])
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    put(weights, values)
    for name, one in weights.items():
        first, second = moments[name]
        optimizer.state[one] = {
            "step": torch.tensor(float(step)),
            "exp_avg": first.to(one.device),
            "exp_avg_sq": second.to(one.device),
        }
    best = {name: read[f"best/{name}"] for name in weights if f"best/{name}" in read}
    return State(step, float(about["first_loss"]), int(about["best_step"]), float(about["best_loss"]), best)


def new_state() -> State:
    return State(0, math.nan, 0, math.inf, {})
