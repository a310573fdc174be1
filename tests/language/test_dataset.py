"""How documents become rows of tokens, and in which order rows are learnt from."""

import json
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from dihedral.bridge.tasks.registry import TaskError
from dihedral.data_plane.language import dataset
from dihedral.data_plane.language.dataset import Document, Message, Rows, batches, read, rows
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
    assert list(read(file, "a.jsonl")) == [Document(text="a\nb"), Document(prompt="", completion="c")]
    assert list(read(file, "a.txt")) == list(read(file, "a.jsonl"))


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


@pytest.mark.parametrize(
    ("record", "parts"),
    [
        ({"text": "a", "source": "web", "id": 5}, [("a", True)]),
        ({"prompt": "a", "completion": "b", "text": "c"}, [("a", False), ("b", True)]),
        (
            {"instruction": "Add.", "input": "1 2", "output": "3", "text": "x"},
            [("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n", False), ("3", True)],
        ),
        (
            {"instruction": "Say hi.", "input": "", "output": "hi"},
            [("### Instruction:\nSay hi.\n\n### Response:\n", False), ("hi", True)],
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "r"}]},
            [("User: ", False), ("q\n", False), ("Assistant: ", False), ("r\n", True)],
        ),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}], "id": "x"},
            [("User: ", False), ("q\n", False), ("Assistant: ", False), ("r\n", True)],
        ),
    ],
)
def test_chats_and_instructions_and_columns_beside_them_are_read(
    tmp_path: Path, record: object, parts: list[tuple[str, bool]]
) -> None:
    for name, text in (("a.jsonl", json.dumps(record)), ("b.json", json.dumps([record, record], indent=2))):
        (tmp_path / name).write_text(text)
        documents = list(read(tmp_path / name, name))
        assert [document.parts for document in documents] == [parts] * (1 + (name == "b.json"))


def test_of_a_chat_only_the_answers_are_learnt(tokenizer: Tokenizer) -> None:
    chat = Document(messages=[Message(role="user", content="q"), Message(role="assistant", content="rs")])
    made = rows(Path("d"), [chat], tokenizer, (END,), 100)
    learnt = [chr(label) for label in made.labels[made.labels != -1] if label < 256]
    assert "".join(learnt) == "rs\n"


def test_a_text_that_begins_with_a_bracket_is_a_text(tmp_path: Path) -> None:
    for text in ("[1] A footnote.\nThe text.", "{curly} words"):
        (tmp_path / "a.txt").write_text(text)
        assert [document.parts for document in read(tmp_path / "a.txt", "a.txt")] == [[(text, True)]]


def test_held_out_rows_are_not_learnt_from() -> None:
    data = Rows(np.arange(50)[:, None], np.arange(50)[:, None])
    learnt, judged = data.split(0.1, 0)
    assert sorted([*learnt.ids.ravel(), *judged.ids.ravel()]) == list(range(50))
    assert len(judged.ids) == 5
    assert data.split(0, 0)[1].asked == 0
    assert Rows(data.ids[:19], data.labels[:19]).split(0.5, 0)[1].asked == 0


def test_a_json_list_that_is_too_large_is_refused_and_not_learnt_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "LIST_BYTES", 100)
    items = [{"prompt": "a", "completion": "b"}] * 10
    for name, indent in (("data.json", None), ("data", None), ("data", 1)):
        file = tmp_path / name
        file.write_text(json.dumps(items, indent=indent))
        with pytest.raises(TaskError, match="JSON list"):
            list(read(file, name))
    file.write_text("[Chorus]\n" + "la " * 100)
    assert [document.text for document in read(file, "song.txt")] == ["[Chorus]\n" + "la " * 100]
