"""How documents become rows of tokens, and in which order rows are learnt from."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from dihedral.data_plane.language.dataset import Document, Rows, batches, read, rows
from dihedral.example_model import byte_tokenizer
from tests.language.making import jsonl

END = 257


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Tokenizer.from_str(json.dumps(byte_tokenizer()))


def test_documents_are_joined_cut_and_asked_for_what_follows(tokenizer: Tokenizer) -> None:
    made = rows(Path("d"), [Document(text="abc"), Document(prompt="de", completion="fg")], tokenizer, (END,), 4)
    a, b, c, d, e, f, g = b"abcdefg"
    assert made.ids.tolist() == [[a, b, c, END], [d, e, f, g]]
    # Neither what a document begins with is asked for, nor its prompt.
    assert made.labels.tolist() == [[b, c, END, -1], [-1, f, g, END]]
    assert made.asked == 6


def test_a_row_that_asks_nothing_is_left_out_and_the_last_is_filled_up(tokenizer: Tokenizer) -> None:
    made = rows(Path("d"), [Document(prompt="abcdefgh", completion="i")], tokenizer, (), 4)
    assert made.ids.tolist() == [list(b"efgh")]
    assert made.labels.tolist() == [[-1, -1, -1, ord("i")]]
    assert rows(Path("d"), [Document(text="abcdef")], tokenizer, (), 4).labels.tolist()[1] == [ord("f"), -1, -1, -1]


def test_lines_of_jsonl_are_documents_and_a_text_is_one(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text(jsonl({"text": "a\nb"}, {"prompt": "", "completion": "c"}) + "\n")
    assert read(file, jsonl=True) == [Document(text="a\nb"), Document(prompt="", completion="c")]
    assert read(file, jsonl=False) == [Document(text=file.read_text())]


def test_every_epoch_has_each_row_once_in_an_order_of_its_own_wherever_one_begins() -> None:
    data = Rows(np.arange(7)[:, None], np.arange(7)[:, None])
    seen = order(data, 3, 0, 7)
    assert sorted(seen[:7]) == sorted(seen[7:]) == list(range(7))
    assert seen[:7] != seen[7:]
    later = order(data, 3, 3, 4)
    assert later == seen[6:]
    assert order(data, 4, 0, 7) != seen


def order(data: Rows, seed: int, first: int, count: int) -> list[int]:
    return [one for some in islice(batches(data, 2, seed, first), count) for one in some.ids.ravel().tolist()]
