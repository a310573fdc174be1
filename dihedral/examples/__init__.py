"""The demo's inputs: two pictures, speech-like recordings of two speakers, a tiny language model. Made by code; nothing is downloaded."""

from collections.abc import Callable
from pathlib import Path


def make(directory: Path, *only: str) -> dict[str, Path]:
    """Writes the inputs into `directory` (made where missing) and returns their paths by name. `only`: these names, instead of all.

    `picture` and `second_picture` are PNG, 640×480; `recording` and `second_recording` are mono 16-bit WAV at
    22,050 Hz, 6 s, of two speakers who differ in pitch and formants. The same on every run.
    """
    from dihedral.examples import scenes, speech  # numpy, Pillow and libsndfile only when asked for

    directory.mkdir(parents=True, exist_ok=True)
    makers: dict[str, tuple[str, Callable[[Path], None]]] = {
        "picture": ("dusk.png", lambda path: scenes.write(scenes.dusk(), path)),
        "second_picture": ("meadow.png", lambda path: scenes.write(scenes.meadow(), path)),
        "recording": ("speaker-low.wav", lambda path: speech.write(speech.speak(speech.LOW, 6.0, seed=1), path)),
        "second_recording": (
            "speaker-high.wav",
            lambda path: speech.write(speech.speak(speech.HIGH, 6.0, seed=2), path),
        ),
    }
    paths = {}
    for name in only or makers:
        file, write = makers[name]
        paths[name] = directory / file
        write(paths[name])
    return paths


def character(directory: Path, size: tuple[int, int] = (720, 1280)) -> dict[str, Path]:
    """Writes the storyteller's nine faces, `A.png` … `X.png`, and returns their paths by shape: what `lip_sync` takes as a character.

    They are templates as well: users who draw a mouth over each face have a new character. size: (height, width).
    """
    from dihedral.data_plane.media.storyteller import Storyteller
    from dihedral.data_plane.media.visemes import POSES, SHAPES
    from dihedral.examples import scenes

    directory.mkdir(parents=True, exist_ok=True)
    drawing = Storyteller(size)
    paths: dict[str, Path] = {}
    for shape in SHAPES:
        face, box = drawing.open_eyed.copy(), drawing.mouth_box
        face[box.top : box.bottom, box.left : box.right] = drawing.mouth(POSES[shape])
        paths[shape] = directory / f"{shape}.png"
        scenes.write(face.clip(0, 1), paths[shape])
    return paths


def base() -> dict[str, Path]:
    """Returns the files that `train_lora` takes, by its params' names: `config`, `weights`, `tokenizer`, `dataset`.

    The model is of bytes and was made by `python -m dihedral.example_model`.
    """
    folder = Path(__file__).parent / "base"
    names = {
        "config": "config.json",
        "weights": "model.safetensors",
        "tokenizer": "tokenizer.json",
        "dataset": "lines.jsonl",
    }
    return {name: folder / file for name, file in names.items()}
