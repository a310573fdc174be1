"""`python -m dihedral.example_inputs`: puts example inputs into the store: one for each format that params name, as `examples/FORMAT.*`."""

import argparse
import asyncio
import os
import sys
import tempfile
from pathlib import Path

from dihedral import examples
from dihedral.bridge import settings
from dihedral.bridge.artifacts import open_store
from dihedral.bridge.artifacts.store import ArtifactNotFound, ArtifactStore
from dihedral.bridge.errors import DihedralError

PLACES = {
    "picture": ("examples/picture.png", "image/png"),
    "recording": ("examples/recording.wav", "audio/wav"),
    "config": ("examples/config.json", "application/json"),
    "weights": ("examples/weights.safetensors", "application/octet-stream"),
    "tokenizer": ("examples/tokenizer.json", "application/json"),
    "dataset": ("examples/dataset.jsonl", "application/jsonl"),
}


async def store_examples(store: ArtifactStore) -> None:
    """Makes only what is missing."""
    missing = [name for name, (key, _) in PLACES.items() if not await _is_there(store, key)]
    if not missing:
        return
    with tempfile.TemporaryDirectory() as folder:
        made = examples.base()
        drawn = [name for name in missing if name not in made]
        made |= examples.make(Path(folder), *drawn) if drawn else {}
        for name in missing:
            key, kind = PLACES[name]
            await store.put("inputs", key, made[name], kind)


async def _is_there(store: ArtifactStore, key: str) -> bool:
    try:
        await store.meta("inputs", key)
    except ArtifactNotFound:
        return False
    return True


async def _main(config: Path | None) -> None:
    store = open_store(settings.load(config, os.environ, {}).artifacts)
    try:
        await store_examples(store)
    finally:
        await store.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", type=Path)
    try:
        asyncio.run(_main(parser.parse_args().config))
    except DihedralError as error:
        sys.exit(f"dihedral: the example inputs cannot be stored: {error}")
