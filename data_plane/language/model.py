"""The Llama architecture over the kernels: which product follows which, forward and backward.

    x ← E[ids];   per layer  x ← x + O·attention(rope(Q·n₁), rope(K·n₁), V·n₁),  x ← x + D·swiglu(G·n₂, U·n₂)
    with n₁, n₂ the RMS norms of x before each half;   logits = head · rms_norm(x)            (Touvron et al., 2023, §2.2)

Weights bear their Hugging Face names. The caller chooses what is trained by what stands in `gradients`: a name that is not in it
is frozen and costs no product. Adapters of a product stand beside its name as `lora_A` and `lora_B`.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from dihedral.data_plane.device import Array, ArrayModule
from dihedral.data_plane.kernels import attention, cross_entropy, embedding, linear, rms_norm, rope, swiglu

EMBEDDING, HEAD, LAST_NORM = "model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"
MODULES = {  # what an adapter may stand on, and the block of a layer that it is in
    "q_proj": "self_attn",
    "k_proj": "self_attn",
    "v_proj": "self_attn",
    "o_proj": "self_attn",
    "gate_proj": "mlp",
    "up_proj": "mlp",
    "down_proj": "mlp",
}

Gradients = dict[str, Array]


class Config(NamedTuple):
    """The part of a config.json that decides the arithmetic; `rope_scaling` as kernels.rope.frequencies takes it."""

    vocabulary: int
    width: int
    inner: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    longest: int
    epsilon: float
    rope_base: float
    rope_scaling: dict[str, Any] | None
    tied: bool
    end_ids: tuple[int, ...] = ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Returns the shape of every weight by its name; a tied head is the embedding and has no separate weight."""
        queries, keys = self.heads * self.head_dim, self.key_heads * self.head_dim
        of_modules = {
            "q_proj": (queries, self.width),
            "k_proj": (keys, self.width),
            "v_proj": (keys, self.width),
            "o_proj": (self.width, queries),
            "gate_proj": (self.inner, self.width),
            "up_proj": (self.inner, self.width),
            "down_proj": (self.width, self.inner),
        }
        found: dict[str, tuple[int, ...]] = {EMBEDDING: (self.vocabulary, self.width), LAST_NORM: (self.width,)}
        if not self.tied:
            found[HEAD] = (self.vocabulary, self.width)
        for layer in range(self.layers):
            for norm in ("input_layernorm", "post_attention_layernorm"):
                found[f"model.layers.{layer}.{norm}.weight"] = (self.width,)
            for module, shape in of_modules.items():
                found[f"{path(layer, module)}.weight"] = shape
        return found


class Model(NamedTuple):
    """weights: by name, in the storage type; adapter: `<product>.lora_A` (r, in), `.lora_B` (out, r), float32; scale: α/r."""

    config: Config
    weights: dict[str, Array]
    adapter: dict[str, Array]
    scale: float

    @property
    def head(self) -> str:
        return EMBEDDING if self.config.tied else HEAD

    def low(self, product: str) -> tuple[Array, Array] | None:
        a = self.adapter.get(f"{product}.lora_A")
        return None if a is None else (a, self.adapter[f"{product}.lora_B"])


def path(layer: int, module: str) -> str:
    return f"model.layers.{layer}.{MODULES[module]}.{module}"


def new_adapter(config: Config, modules: Iterable[str], rank: int, seed: int, xp: ArrayModule) -> dict[str, Array]:
    """B zero, A uniform in ±1/√inputs, which is PEFT's default; drawn on the host, so equal on any device."""
    rng, shapes, adapter = np.random.default_rng(seed), config.shapes(), {}
    for layer in range(config.layers):
        for module in MODULES:
            if module in modules:
                outputs, inputs = shapes[f"{path(layer, module)}.weight"]
                a = rng.uniform(-1, 1, (rank, inputs)) / np.sqrt(inputs)
                adapter[f"{path(layer, module)}.lora_A"] = xp.asarray(a.astype(np.float32))
                adapter[f"{path(layer, module)}.lora_B"] = xp.zeros((outputs, rank), dtype=xp.float32)
    return adapter


def new_weights(config: Config, seed: int) -> dict[str, Array]:
    """Random float32 NumPy weights to train a base from: norms one, the rest Gaussian, 0.02 wide."""
    rng = np.random.default_rng(seed)
    return {
        name: np.ones(shape, np.float32) if len(shape) == 1 else rng.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in config.shapes().items()
    }


class _Layer(NamedTuple):
    """The values that a layer's backward needs of its forward; (rows, …) with rows = batch·length, or as the attention has it."""

    x: Array
    inverse: Array
    normed: Array
    q: Array
    k: Array
    v: Array
    mixed: Array
    log_sums: Array
    middle: Array
    middle_inverse: Array
    middle_normed: Array
    gate: Array
    up: Array
    passed: Array


def logits(model: Model, ids: Array, xp: ArrayModule) -> Array:
    """ids: (batch, length) -> (batch, length, vocabulary) in the storage type."""
    _, _, normed, _ = _forward(model, ids, xp)
    return linear.product(normed, model.weights[model.head].T, xp).reshape(*ids.shape, -1)


def loss(model: Model, ids: Array, labels: Array, gradients: Gradients, xp: ArrayModule) -> Array:
    """The summed loss, () float32 on the device; adds the gradient of each name that stands in `gradients` to its array.

    ids, labels: (batch, length) int64; labels[i] is what should follow ids[: i + 1], cross_entropy.IGNORED has no loss.
    """
    tape, x, normed, inverse = _forward(model, ids, xp)
    weights, d_head = model.weights, gradients.get(model.head)
    summed, d_normed = cross_entropy.loss_and_gradient(normed, weights[model.head], labels.reshape(-1), d_head, xp)
    if gradients:
        dx = _norm_back(model, LAST_NORM, d_normed, x, inverse, gradients, xp)
        cos, sin = _turns(model.config, ids.shape[1], xp)
        for index in reversed(range(model.config.layers)):
            dx = _layer_back(model, index, dx, tape[index], (cos, -sin), gradients, xp)
        if EMBEDDING in gradients:
            embedding.add_gradient(dx, ids.reshape(-1), gradients[EMBEDDING], xp)
    return summed


# Forward --------------------------------------------------------------------------------------------------------------


def _forward(model: Model, ids: Array, xp: ArrayModule) -> tuple[list[_Layer], Array, Array, Array]:
    """(layers, x before the last norm, x behind it, its inverse root)."""
    x = embedding.forward(ids.reshape(-1), model.weights[EMBEDDING])
    turns = _turns(model.config, ids.shape[1], xp)
    tape = []
    for index in range(model.config.layers):
        x, layer = _layer(model, index, x, ids.shape, turns, xp)
        tape.append(layer)
    normed, inverse = rms_norm.forward(x, model.weights[LAST_NORM], model.config.epsilon, xp)
    return tape, x, normed, inverse


def _turns(config: Config, length: int, xp: ArrayModule) -> tuple[Array, Array]:
    return rope.tables(length, rope.frequencies(config.head_dim, config.rope_base, config.rope_scaling), xp)


def _layer(
    model: Model, index: int, x: Array, shape: tuple[int, int], turns: tuple[Array, Array], xp: ArrayModule
) -> tuple[Array, _Layer]:
    config, at = model.config, f"model.layers.{index}."
    normed, inverse = rms_norm.forward(x, model.weights[at + "input_layernorm.weight"], config.epsilon, xp)

    def heads(module: str) -> Array:
        return _product(model, index, module, normed, xp).reshape(*shape, -1, config.head_dim)

    q, k, v = rope.rotate(heads("q_proj"), *turns, xp), rope.rotate(heads("k_proj"), *turns, xp), heads("v_proj")
    mixed, log_sums = attention.forward(q, k, v, xp)
    middle = x + _product(model, index, "o_proj", mixed.reshape(len(x), -1), xp)
    second = model.weights[at + "post_attention_layernorm.weight"]
    middle_normed, middle_inverse = rms_norm.forward(middle, second, config.epsilon, xp)
    gate = _product(model, index, "gate_proj", middle_normed, xp)
    up = _product(model, index, "up_proj", middle_normed, xp)
    passed = swiglu.forward(gate, up, xp)
    out = middle + _product(model, index, "down_proj", passed, xp)
    kept = _Layer(x, inverse, normed, q, k, v, mixed, log_sums, middle, middle_inverse, middle_normed, gate, up, passed)
    return out, kept


def _product(model: Model, index: int, module: str, x: Array, xp: ArrayModule) -> Array:
    name = path(index, module)
    return linear.forward(x, model.weights[f"{name}.weight"], model.low(name), model.scale, xp)


# Backward -------------------------------------------------------------------------------------------------------------


def _layer_back(
    model: Model,
    index: int,
    d_out: Array,
    kept: _Layer,
    turns_back: tuple[Array, Array],
    gradients: Gradients,
    xp: ArrayModule,
) -> Array:
    at, rows = f"model.layers.{index}.", len(d_out)
    d_passed = _product_back(model, index, "down_proj", d_out, kept.passed, gradients, xp)
    d_gate, d_up = swiglu.backward(d_passed, kept.gate, kept.up, xp)
    d_normed = _product_back(model, index, "gate_proj", d_gate, kept.middle_normed, gradients, xp)
    d_normed += _product_back(model, index, "up_proj", d_up, kept.middle_normed, gradients, xp)
    second = at + "post_attention_layernorm.weight"
    d_middle = d_out + _norm_back(model, second, d_normed, kept.middle, kept.middle_inverse, gradients, xp)

    d_mixed = _product_back(model, index, "o_proj", d_middle, kept.mixed.reshape(rows, -1), gradients, xp)
    dq, dk, dv = attention.backward(
        d_mixed.reshape(kept.mixed.shape), kept.q, kept.k, kept.v, kept.mixed, kept.log_sums, xp
    )
    dq, dk = rope.rotate(dq, *turns_back, xp), rope.rotate(dk, *turns_back, xp)
    d_normed = _product_back(model, index, "q_proj", dq.reshape(rows, -1), kept.normed, gradients, xp)
    d_normed += _product_back(model, index, "k_proj", dk.reshape(rows, -1), kept.normed, gradients, xp)
    d_normed += _product_back(model, index, "v_proj", dv.reshape(rows, -1), kept.normed, gradients, xp)
    first = at + "input_layernorm.weight"
    return d_middle + _norm_back(model, first, d_normed, kept.x, kept.inverse, gradients, xp)


def _product_back(
    model: Model, index: int, module: str, dy: Array, x: Array, gradients: Gradients, xp: ArrayModule
) -> Array:
    name = path(index, module)
    weight, low = f"{name}.weight", model.low(name)
    if low is not None and f"{name}.lora_A" in gradients:
        d_a, d_b = linear.low_rank_gradients(dy, x, *low, model.scale, xp)
        gradients[f"{name}.lora_A"] += d_a
        gradients[f"{name}.lora_B"] += d_b
    if weight in gradients:
        gradients[weight] += linear.weight_gradient(dy, x, xp)
    return linear.backward(dy, model.weights[weight], low, model.scale, xp)


def _norm_back(
    model: Model, name: str, dy: Array, x: Array, inverse: Array, gradients: Gradients, xp: ArrayModule
) -> Array:
    if name in gradients:
        gradients[name] += rms_norm.weight_gradient(dy, x, inverse, xp)
    return rms_norm.backward(dy, x, model.weights[name], inverse, xp)
