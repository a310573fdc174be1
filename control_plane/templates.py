"""The pipelines that can be asked for: ours, those of plugins, and those of `pipelines.dir`, which win."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any

import msgspec

from bridge.errors import SettingsError
from schemas.structs.pipeline import Pipeline

_decode = msgspec.json.Decoder(Pipeline).decode


def load(directory: str) -> dict[str, Pipeline]:
    """Raises SettingsError naming the file that is no pipeline document."""
    found: dict[str, Pipeline] = {}
    for where, text in _documents(directory):
        try:
            pipeline = _decode(text)
        except msgspec.DecodeError as error:
            raise SettingsError(f"{where}: is no pipeline: {error}") from error
        found[pipeline.id] = pipeline
    return found


def _documents(directory: str) -> Iterator[tuple[str, bytes]]:
    ours: Any = files("control_plane") / "pipelines"
    for file in sorted(ours.iterdir(), key=lambda file: str(file.name)):
        if file.name.endswith(".json"):
            yield file.name, file.read_bytes()
    for point in entry_points(group="dihedral.pipelines"):
        yield f"plugin {point.name}", msgspec.json.encode(point.load())
    if directory:
        folder = Path(directory)
        if not folder.is_dir():
            raise SettingsError(f"pipelines.dir: {folder} is no directory")
        for path in sorted(folder.glob("*.json")):
            yield str(path), path.read_bytes()
