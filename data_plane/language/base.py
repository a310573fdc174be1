"""The files of a base model: artifacts, files of the worker, or a folder of it as Hugging Face writes one, in one part or in several."""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from dihedral.bridge.tasks.context import TaskContext, TaskError
from dihedral.bridge.tasks.models import file_name
from dihedral.data_plane.language.files import check_size, invalid
from dihedral.schemas.structs.artifact import ModelRef

WHOLE, INDEX = "model.safetensors", "model.safetensors.index.json"
INDEX_BYTES = 16 << 20  # one line for each tensor; that of a model of 400 layers has 1 MB

PartName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._ -]{0,200}$(?!\n)")]


class _Index(msgspec.Struct):
    weight_map: Annotated[dict[str, PartName], Meta(min_length=1, max_length=1_000_000)]


class BaseModel(NamedTuple):
    """weights: every part. name: what people call it."""

    config: Path
    tokenizer: Path
    weights: list[Path]
    name: str


def fetch(
    ctx: TaskContext, config: ModelRef | None, tokenizer: ModelRef | None, weights: ModelRef | list[ModelRef]
) -> BaseModel:
    """Fetches a base model. `config`, `tokenizer` None: those of the folder that `weights` names.

    Raises:
        TaskError: `invalid_input` where a file is named nowhere, `invalid_model` where parts are missing or too many, `model_not_found`, `bad_model`.
        StoreError
    """
    references = weights if isinstance(weights, list) else [weights]
    given = [(reference, ctx.fetch(reference)) for reference in references]
    folders = [path for _, path in given if path.is_dir()]
    if folders and len(given) > 1:
        raise TaskError("a folder is a whole model; name no other weights beside it", code="invalid_input")
    folder = folders[0] if folders else None
    if folder is not None:
        index = folder / INDEX
        parts = [folder / name for name in _named(index)] if index.exists() else [folder / WHOLE]
    else:
        parts = _parts(ctx, given)
    for part in parts:
        if not part.is_file():
            raise TaskError(f"{part.name} is missing", code="invalid_model")
    return BaseModel(
        _beside(ctx, config, folder, "config", "config.json"),
        _beside(ctx, tokenizer, folder, "tokenizer", "tokenizer.json"),
        parts,
        next(whole for whole in (references[0].local, references[0].key) if isinstance(whole, str)),
    )


def _beside(ctx: TaskContext, reference: ModelRef | None, folder: Path | None, param: str, name: str) -> Path:
    if reference is None and folder is None:
        raise TaskError(f"{param} is missing: the model's {name}", code="invalid_input")
    path = ctx.fetch(reference) if reference is not None else (folder or Path()) / name
    if path.is_dir():
        path = path / name
    if not path.is_file():
        raise TaskError(f"{name} is missing", code="invalid_model")
    return path


def _parts(ctx: TaskContext, given: list[tuple[ModelRef, Path]]) -> list[Path]:
    """Returns the given parts. An index names which there must be; those of a local index need not be given."""
    indices = [each for each in given if file_name(each[0]).endswith(".index.json")]
    if not indices:
        return [path for _, path in given]
    if len(indices) > 1:
        raise TaskError("a model has one index", code="invalid_model")
    index, file = indices[0]
    named, others = _named(file), [each for each in given if each is not indices[0]]
    if not others and isinstance(index.local, str):
        folder = index.local.rpartition("/")[0]
        return [ctx.fetch(ModelRef(local=f"{folder}/{name}" if folder else name)) for name in named]
    there = {file_name(reference): path for reference, path in others}
    missing, extra = sorted(set(named) - there.keys()), sorted(there.keys() - set(named))
    if missing:
        raise invalid(
            Path(INDEX), f"{missing[0]} is missing" + (f" and {len(missing) - 1} more" if missing[1:] else "")
        )
    if extra:
        raise invalid(Path(INDEX), f"it does not name {extra[0]}")
    return [there[name] for name in named]


def _named(index: Path) -> Sequence[str]:
    """Returns the names of the parts that an index names, in the order of their names."""
    check_size(index, INDEX_BYTES)
    try:
        read = msgspec.json.decode(index.read_bytes().removeprefix(codecs.BOM_UTF8), type=_Index)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid(Path(INDEX), str(error)) from error
    return sorted(set(read.weight_map.values()))
