from pathlib import Path

import pytest
from wordcount.tasks import count_files

from dihedral import testing


def test_words_of_each_file_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one two")
    (tmp_path / "b.txt").write_text("three")
    run = testing.run(count_files, {}, files={"texts": [tmp_path / "a.txt", tmp_path / "b.txt"]})
    assert run.output["words"] == [2, 1]
    assert run.artifact("words.csv").read().count(b"\n") == 2


def test_what_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(testing.TaskFailed) as failed:
        testing.run(count_files, {}, files={"texts": [tmp_path / "a.bin"]})
    assert failed.value.code == "no_text"
