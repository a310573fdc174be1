"""The tiny model that anybody can make with one command."""

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from dihedral import example_model, examples
from dihedral.data_plane.language.files import read_config, read_tokenizer


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    directory = tmp_path_factory.mktemp("made")
    return directory, example_model.write(directory, steps=3)


def test_the_same_command_makes_the_same_files_in_at_most_four_mebibytes(
    made: tuple[Path, float], tmp_path: Path
) -> None:
    directory, loss = made
    assert example_model.write(tmp_path, steps=3) == loss
    names = sorted(path.name for path in directory.iterdir())
    assert names == ["config.json", "lines.jsonl", "model.safetensors", "tokenizer.json"]
    for name in names:
        assert (directory / name).read_bytes() == (tmp_path / name).read_bytes()
    assert sum((directory / name).stat().st_size for name in names) < 4 * 2**20


@pytest.mark.long
def test_the_base_of_the_demo_is_what_the_command_makes(tmp_path: Path) -> None:
    """Text by text the same, and as good; 120 steps make of another machine's rounding other weights."""
    loss = example_model.write(tmp_path)
    base = examples.base()
    for name in ("config", "tokenizer", "dataset"):
        assert base[name].read_bytes() == (tmp_path / base[name].name).read_bytes()
    kept, made = load_file(base["weights"]), load_file(tmp_path / base["weights"].name)
    assert {name: part.shape for name, part in kept.items()} == {name: part.shape for name, part in made.items()}
    assert abs(loss - 0.616) < 0.02


def test_training_teaches_it(made: tuple[Path, float]) -> None:
    assert made[1] < 5.4  # nats a byte; a model that knows nothing says log 258 = 5.55


def test_its_tokens_are_bytes(made: tuple[Path, float]) -> None:
    tokenizer = read_tokenizer(made[0] / "tokenizer.json", read_config(made[0] / "config.json"))
    text = "".join(map(chr, range(256))) + " ä €\n\t🙂"
    assert tokenizer.encode(text).ids == list(text.encode())
    assert tokenizer.decode(tokenizer.encode(text).ids) == text
    assert tokenizer.encode("</s>").ids == [257]
