"""A language model's files: Hugging Face's config.json, safetensors and tokenizer.json are read, a PEFT adapter is written.

TaskError codes: `invalid_model` (a file cannot be read, is of another architecture, a tensor is missing, too many, of the wrong shape or
no number), `tokenizer_mismatch` (the tokenizer names tokens that the model does not have).
"""

import codecs
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta
from safetensors import SafetensorError
from safetensors.numpy import save
from tokenizers import Tokenizer

from dihedral.bridge.tasks.registry import TaskCancelled, TaskError
from dihedral.data_plane.device import Array, ArrayModule, to_host
from dihedral.data_plane.language.model import EMBEDDING, Config
from dihedral.data_plane.tensor_file import open_tensors

CONFIG_BYTES = 4 << 20
TOKENIZER_BYTES = 40 << 20  # the largest known has 32 MiB; in memory it takes up to 30 times its size
Storage = Literal["auto", "float32", "float16", "bfloat16"]

_READ = {"F64": "float64", "F32": "float32", "F16": "float16"}
_NAMES = {"F32": "float32", "F64": "float32", "F16": "float16", "BF16": "bfloat16"}
_CONSTANTS = ".rotary_emb.inv_freq"  # old checkpoints carry what rope.frequencies computes

Count = Annotated[int, Meta(ge=1, le=1 << 24)]


class _Rope(msgspec.Struct, kw_only=True):
    """`rope_scaling` until transformers 4, `rope_parameters` since 5."""

    rope_type: str = "default"
    type: str | None = None
    rope_theta: float | None = None
    factor: Annotated[float, Meta(gt=0)] = 1.0
    low_freq_factor: Annotated[float, Meta(gt=0)] = 1.0
    high_freq_factor: Annotated[float, Meta(gt=0)] = 4.0
    original_max_position_embeddings: Count = 8192


class _ConfigFile(msgspec.Struct, kw_only=True):
    """The fields that are read; defaults are those of transformers' LlamaConfig."""

    model_type: str
    vocab_size: Count
    hidden_size: Count
    intermediate_size: Count
    num_hidden_layers: Annotated[int, Meta(ge=1, le=4096)]  # each has nine names, before any file is looked at
    num_attention_heads: Count
    num_key_value_heads: Count | None = None
    head_dim: Count | None = None
    max_position_embeddings: Count = 2048
    rms_norm_eps: Annotated[float, Meta(gt=0)] = 1e-6
    rope_theta: float | None = None
    rope_scaling: _Rope | None = None
    rope_parameters: _Rope | None = None
    hidden_act: str = "silu"
    attention_bias: bool = False
    mlp_bias: bool = False
    tie_word_embeddings: bool = False
    eos_token_id: int | list[int] | None = None


# Reading --------------------------------------------------------------------------------------------------------------


def read_config(file: Path) -> Config:
    """Raises: TaskError `invalid_model` where it is no Llama, or one with biases or an unknown position scaling."""
    try:
        check_size(file, CONFIG_BYTES)
        read = msgspec.json.decode(file.read_bytes().removeprefix(codecs.BOM_UTF8), type=_ConfigFile)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(file, str(error)) from error
    heads = read.num_attention_heads
    key_heads = read.num_key_value_heads or heads
    head_dim = read.head_dim or read.hidden_size // heads
    turning = read.rope_parameters or read.rope_scaling or _Rope()
    kind = turning.type or turning.rope_type
    base = turning.rope_theta or read.rope_theta or 10_000.0
    for ok, reason in (
        (read.model_type == "llama", f"model_type is {read.model_type!r}, only llama can be trained"),
        (read.hidden_act == "silu", f"hidden_act is {read.hidden_act!r}, not silu"),
        (not read.attention_bias and not read.mlp_bias, "products with a bias are not supported"),
        (heads % key_heads == 0, f"{heads} heads cannot share {key_heads} key heads"),
        (head_dim > 0 and head_dim % 2 == 0, f"a head of {head_dim} dimensions has no pairs to rotate"),
        (kind in ("default", "linear", "llama3"), f"rope_type {kind!r} is not supported"),
        (base > 0, f"rope_theta is {base}"),
        (kind != "llama3" or turning.high_freq_factor > turning.low_freq_factor, "high_freq_factor ≤ low_freq_factor"),
    ):
        if not ok:
            raise invalid(file, reason)
    ends = read.eos_token_id
    return Config(
        vocabulary=read.vocab_size,
        width=read.hidden_size,
        inner=read.intermediate_size,
        layers=read.num_hidden_layers,
        heads=heads,
        key_heads=key_heads,
        head_dim=head_dim,
        longest=read.max_position_embeddings,
        epsilon=read.rms_norm_eps,
        rope_base=base,
        rope_scaling=None if kind == "default" else {**msgspec.to_builtins(turning), "rope_type": kind},
        tied=read.tie_word_embeddings,
        end_ids=() if ends is None else (ends,) if isinstance(ends, int) else tuple(ends),
    )


def read_weights(files: Sequence[Path], config: Config, storage: Storage, xp: ArrayModule) -> dict[str, Array]:
    """Returns every weight that the config requires, on the device in the storage type.

    `auto` is float32 on NumPy and the type of the embedding in the files on CuPy, for all weights: a kernel takes one type.

    Raises:
        TaskError: `invalid_model`; `missing_package` where bfloat16 is required without ml_dtypes.
    """
    expected, found = config.shapes(), {}
    chosen = storage if storage != "auto" else _automatic(files, xp)
    for file in files:
        for name, tensor in _tensors(file):
            if name.endswith(_CONSTANTS) or (config.tied and name == "lm_head.weight"):
                continue
            if name not in expected:
                raise invalid(file, f"a Llama of this config has no tensor {name!r}")
            if tensor.shape != expected[name]:
                raise invalid(file, f"{name} has the shape {tensor.shape}, config.json says {expected[name]}")
            with np.errstate(over="ignore"):
                stored = tensor.astype(_type(chosen))
            if not np.isfinite(stored).all():
                raise invalid(file, f"{name} holds values that are no numbers in {chosen}")
            found[name] = xp.asarray(stored)
    missing = [name for name in expected if name not in found]
    if missing:
        raise invalid(files[0], f"{missing[0]} is missing" + (f" and {len(missing) - 1} more" if missing[1:] else ""))
    return found


def _automatic(files: Sequence[Path], xp: ArrayModule) -> str:
    if xp.__name__ == "numpy":
        return "float32"
    for file in files:
        with _opened(file) as opened:
            if EMBEDDING in opened.keys():  # noqa: SIM118 (no mapping)
                return _NAMES.get(opened.get_slice(EMBEDDING).get_dtype(), "float32")
    raise invalid(files[0], f"{EMBEDDING} is missing")


def _opened(file: Path) -> Any:
    """The file, whose header fits it: sizes, offsets, types."""
    try:
        return open_tensors(file)
    except (SafetensorError, OSError) as error:
        raise invalid(file, str(error)) from error


def _tensors(file: Path) -> Iterator[tuple[str, Array]]:
    """(name, values), mapped from the file; bfloat16, which NumPy lacks, as float32."""
    with _opened(file):
        pass
    mapped = np.memmap(file, np.uint8, "r")
    start = 8 + int.from_bytes(mapped[:8].tobytes(), "little")
    for name, about in json.loads(mapped[8:start].tobytes()).items():
        if name == "__metadata__":
            continue
        kind, (first, last) = about["dtype"], about["data_offsets"]
        raw = mapped[start + first : start + last]
        if kind == "BF16":
            values = (raw.view("<u2").astype(np.uint32) << 16).view(np.float32)
        elif kind in _READ:
            values = raw.view(np.dtype(_READ[kind]).newbyteorder("<"))
        else:
            raise invalid(file, f"{name} is of type {kind}; only floating-point weights can be trained on")
        try:
            yield name, np.asarray(values.reshape(about["shape"]))
        except (ValueError, OverflowError) as error:  # nothing times 2**62, which fits any file
            raise invalid(file, f"{name} has a shape that no array can have: {error}") from error


def _type(storage: str) -> Any:
    if storage != "bfloat16":
        return np.dtype(storage)
    try:
        import ml_dtypes
    except ImportError as error:
        raise TaskError("bfloat16 needs the package ml_dtypes", code="missing_package") from error
    return np.dtype(ml_dtypes.bfloat16)


def read_tokenizer(file: Path, config: Config) -> Tokenizer:
    """Raises: TaskError `invalid_model` or `tokenizer_mismatch`."""
    try:
        check_size(file, TOKENIZER_BYTES)
        tokenizer = Tokenizer.from_str(file.read_text(encoding="utf-8-sig"))
        tokenizer.no_truncation()
        tokenizer.no_padding()  # before the first text: the file may require more padding than there is memory
        always = tokenizer.encode("").ids  # the numbers of what a template puts around a text
    except BaseException as error:  # the library raises bare Exception, and what its Rust panics with is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | TaskCancelled | TaskError):
            raise
        raise invalid(file, str(error)) from error
    largest = max([*tokenizer.get_vocab(with_added_tokens=True).values(), *always], default=-1)
    if largest < 0 or largest >= config.vocabulary:
        raise TaskError(
            f"{file.name} names tokens up to {largest}, the model knows {config.vocabulary}: they belong to different models",
            code="tokenizer_mismatch",
            details={"largestToken": largest, "vocabulary": config.vocabulary},
        )
    if bad := [end for end in config.end_ids if not 0 <= end < config.vocabulary]:
        raise TaskError(f"eos_token_id {bad[0]} is no token of the model", code="tokenizer_mismatch")
    return tokenizer


def check_size(file: Path, most: int) -> None:
    """Raises: TaskError `invalid_model` where a file is larger than what any model has there: read, it takes many times its size."""
    if (size := file.stat().st_size) > most:
        raise invalid(file, f"it has {size >> 20} MiB; {most >> 20} are possible")


def invalid(file: Path, reason: str) -> TaskError:
    return TaskError(f"{file.name} cannot be used: {reason}", code="invalid_model")


# Writing --------------------------------------------------------------------------------------------------------------


def adapter_bytes(adapter: dict[str, Array]) -> bytes:
    """adapter_model.safetensors as PEFT reads it, float32."""
    tensors = {f"base_model.model.{name}.weight": tensor for name, tensor in adapter.items()}
    return tensor_bytes(tensors, {"format": "pt"})


def adapter_config_bytes(modules: Iterable[str], rank: int, alpha: float, base: str) -> bytes:
    """adapter_config.json as PEFT reads it; `base`: a name for people, PEFT loads onto any model it is given."""
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "target_modules": sorted(modules),
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
    }
    return json.dumps(config, indent=2).encode() + b"\n"


def tensor_bytes(tensors: dict[str, Array], metadata: dict[str, str]) -> bytes:
    return bytes(save({name: np.ascontiguousarray(to_host(tensor)) for name, tensor in tensors.items()}, metadata))
