"""The training loop of a language model, for an adapter as for a whole base, and its checkpoints.

Everything random follows from seed and step, and what changes from step to step is weights, moments and counters; so a run
that continues from a checkpoint is bit-equal to one that was never interrupted (on one machine and device, in batches of one size;
in halved ones, up to rounding).
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from safetensors import SafetensorError, safe_open

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels import adamw
from dihedral.data_plane.language.dataset import Rows, batches
from dihedral.data_plane.language.files import tensor_bytes
from dihedral.data_plane.language.model import Model, loss

Schedule = Literal["constant", "linear", "cosine"]
_FORMAT = "dihedral.training.v2"


class Plan(NamedTuple):
    """clip: largest norm of the gradient, 0 = any. decay: AdamW's λ."""

    steps: int
    batch: int
    accumulation: int
    rate: float
    schedule: Schedule
    warmup: int
    clip: float
    decay: float
    seed: int


class State(NamedTuple):
    """Behind `step` steps. weights: what is trained, the very arrays that the model computes with, float32."""

    step: int
    weights: dict[str, Array]
    moments: dict[str, tuple[Array, Array]]
    first_loss: float = math.nan
    last_loss: float = math.nan
    tokens: int = 0


class Best(NamedTuple):
    """The weights behind that step, as a copy, and their loss on the held-out rows."""

    step: int
    loss: float
    weights: dict[str, Array]


def held_out_loss(model: Model, data: Rows, batch: int, weights: dict[str, Array], xp: ArrayModule) -> float:
    """Nats a token."""
    unused = {name: xp.zeros_like(weight) for name, weight in weights.items()}
    summed = 0.0
    for first in range(0, len(data.ids), batch):
        ids, labels = data.ids[first : first + batch], data.labels[first : first + batch]
        summed += float(loss(model, xp.asarray(ids), xp.asarray(labels), unused, xp))
    return summed / data.asked


def new_state(weights: dict[str, Array], xp: ArrayModule) -> State:
    moments = {name: (xp.zeros_like(weight), xp.zeros_like(weight)) for name, weight in weights.items()}
    return State(0, weights, moments)


def rate_at(plan: Plan, step: int) -> float:
    """Returns the rate of a step, counted from 1: rises over the warm-up, then falls to 0 behind the last step, or stays."""
    if step <= plan.warmup:
        return plan.rate * step / plan.warmup
    done = (step - 1 - plan.warmup) / max(1, plan.steps - plan.warmup)
    if plan.schedule == "linear":
        return plan.rate * (1 - done)
    if plan.schedule == "cosine":
        return plan.rate * (1 + math.cos(math.pi * done)) / 2
    return plan.rate


def train(model: Model, data: Rows, plan: Plan, state: State, xp: ArrayModule) -> Iterator[State]:
    """Yields the state after each step that is left; its arrays change in place with the next step.

    A step's loss is the mean over its labels, in nats a token.

    Raises:
        TaskError: `diverged` where loss or gradient is no finite number; the weights are then those of the step before.
    """
    feed = batches(data, plan.batch, plan.seed, state.step * plan.accumulation)
    gradients = {name: xp.zeros_like(weight) for name, weight in state.weights.items()}
    while state.step < plan.steps:
        number = state.step + 1
        for gradient in gradients.values():
            gradient.fill(0)
        summed, asked = xp.zeros((), dtype=xp.float32), 0
        for _ in range(plan.accumulation):
            some = next(feed)
            summed += loss(model, xp.asarray(some.ids), xp.asarray(some.labels), gradients, xp)
            asked += some.asked
        mean, norm = float(summed) / asked, adamw.norm(gradients, xp) / asked
        if not (math.isfinite(mean) and math.isfinite(norm)):
            raise TaskError(
                f"the training diverged at step {number}: loss {mean}, gradient {norm}; a smaller learningRate may help",
                code="diverged",
                details={"step": number},
            )
        shorter = min(1.0, plan.clip / (norm + 1e-6)) if plan.clip else 1.0
        adamw.step(
            state.weights,
            gradients,
            state.moments,
            number=number,
            rate=rate_at(plan, number),
            decay=plan.decay,
            factor=shorter / asked,
            xp=xp,
        )
        first = mean if number == 1 else state.first_loss
        state = state._replace(step=number, first_loss=first, last_loss=mean, tokens=state.tokens + asked)
        yield state


# Checkpoints ----------------------------------------------------------------------------------------------------------


def checkpoint_bytes(state: State, digest: str, best: Best | None = None) -> bytes:
    """`digest`: of everything that the run depends on; a checkpoint of another run is not continued."""
    tensors = {f"weight/{name}": weight for name, weight in state.weights.items()}
    for name, (first, second) in state.moments.items():
        tensors |= {f"first/{name}": first, f"second/{name}": second}
    if best is not None:
        tensors |= {f"best/{name}": weight for name, weight in best.weights.items()}
    numbers = {
        "best_step": str(best.step if best else 0),
        "best_loss": repr(best.loss if best else math.nan),
        "step": str(state.step),
        "first_loss": repr(state.first_loss),
        "last_loss": repr(state.last_loss),
        "tokens": str(state.tokens),
    }
    return tensor_bytes(tensors, {"format": _FORMAT, "digest": digest} | numbers)


def restored(file: Path, state: State, digest: str, xp: ArrayModule) -> tuple[State, Best | None] | None:
    """The state of a checkpoint, written into the arrays of `state`, and its best; None where it is another run's or cannot be read."""
    names = [f"{kind}/{name}" for name in state.weights for kind in ("weight", "first", "second")]
    try:
        with safe_open(file, framework="numpy") as opened:
            about = opened.metadata() or {}
            if about.get("format") != _FORMAT or about.get("digest") != digest:
                return None
            read = {name: xp.asarray(opened.get_tensor(name)) for name in names}
            best = None
            if int(about["best_step"]):
                kept = {name: xp.asarray(opened.get_tensor(f"best/{name}")) for name in state.weights}
                best = Best(int(about["best_step"]), float(about["best_loss"]), kept)
    except (SafetensorError, OSError, KeyError, ValueError):
        return None
    for name, weight in state.weights.items():
        first, second = state.moments[name]
        weight[...], first[...], second[...] = (read[f"{kind}/{name}"] for kind in ("weight", "first", "second"))
    reached = state._replace(
        step=int(about["step"]),
        first_loss=float(about["first_loss"]),
        last_loss=float(about["last_loss"]),
        tokens=int(about["tokens"]),
    )
    return reached, best
